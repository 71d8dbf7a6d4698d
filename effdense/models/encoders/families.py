"""The published EfficientNet tables as data: stage rows, scaling coefficients, input sizes, dropout.

Channels and repeats here are the *unscaled* numbers of each paper or release; `scaling.scale_encoder` turns a
config into the widths and depths that are built. Nothing in this file depends on torch.

Sources:
    V1:   Tan & Le, EfficientNet, arXiv 1905.11946, Table 1; coefficients in google/automl
          efficientnetv2/effnetv2_configs.py `efficientnetv1_params` (B8 from AdvProp, L2 from Noisy Student).
    Lite: tensorflow/tpu models/official/efficientnet/lite/efficientnet_lite_builder.py.
    V2:   Tan & Le, EfficientNetV2, arXiv 2104.00298, Table 4; every size in google/automl
          efficientnetv2/effnetv2_configs.py `efficientnetv2_params`.
    V2-RW: timm models/efficientnet.py `_gen_efficientnetv2_s` (R. Wightman's networks of before the official release).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from effdense.errors import ConfigError, did_you_mean

BlockKind = Literal["conv", "depthwise_separable", "mbconv", "fused_mbconv"]


@dataclass(frozen=True)
class StageSpec:
    """One row of a published table: `repeats` equal blocks, of which only the first has the stride.

    `expansion` multiplies the input channels of each block; `se_ratio` is the squeeze width as a share of the block's
    *input* channels, 0 for no squeeze-and-excitation. "conv" and "depthwise_separable" blocks have expansion 1.
    """

    block: BlockKind
    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int
    se_ratio: float = 0.0


@dataclass(frozen=True)
class EncoderConfig:
    """A named member of a family, before scaling.

    Attributes:
        stages: the unscaled rows.
        width, depth: compound-scaling coefficients (1905.11946 section 3.3).
        train_resolution, resolution: square input side in px for ImageNet training and for evaluation.
        dropout: rate in front of the ImageNet classifier.
        stem_channels, head_channels: unscaled; the head is the 1x1 convolution that only a classifier has.
        activation: a name that `models.layers.activation` takes.
        round_limit: rounding never takes away more than this share of the width; 0 rounds to nearest.
        fixed_ends: stem, head and the repeats of the first and last stage keep their unscaled values.
    """

    name: str
    stages: tuple[StageSpec, ...]
    width: float
    depth: float
    train_resolution: int
    resolution: int
    dropout: float
    stem_channels: int = 32
    head_channels: int = 1280
    activation: str = "silu"
    round_limit: float = 0.9
    fixed_ends: bool = False


def _v1_stages(se_ratio: float) -> tuple[StageSpec, ...]:
    """B0 of arXiv 1905.11946 Table 1; stage 2 of that table is an MBConv1, i.e. depthwise-separable."""
    return (
        StageSpec("depthwise_separable", 3, 1, 1, 16, 1, se_ratio),
        StageSpec("mbconv", 3, 2, 6, 24, 2, se_ratio),
        StageSpec("mbconv", 5, 2, 6, 40, 2, se_ratio),
        StageSpec("mbconv", 3, 2, 6, 80, 3, se_ratio),
        StageSpec("mbconv", 5, 1, 6, 112, 3, se_ratio),
        StageSpec("mbconv", 5, 2, 6, 192, 4, se_ratio),
        StageSpec("mbconv", 3, 1, 6, 320, 1, se_ratio),
    )


def _v2_stages(channels: tuple[int, ...], repeats: tuple[int, ...]) -> tuple[StageSpec, ...]:
    """EfficientNetV2: 3x3 kernels only, fused blocks in front, SE 0.25 in the unfused ones; M, L, XL have a 7th row."""
    rows: tuple[tuple[BlockKind, int, int, float], ...] = (
        ("conv", 1, 1, 0.0),
        ("fused_mbconv", 2, 4, 0.0),
        ("fused_mbconv", 2, 4, 0.0),
        ("mbconv", 2, 4, 0.25),
        ("mbconv", 1, 6, 0.25),
        ("mbconv", 2, 6, 0.25),
        ("mbconv", 1, 6, 0.25),
    )
    # Not strict: the base and S networks end after six rows.
    return tuple(
        StageSpec(block, 3, stride, expansion, width, depth, se_ratio)
        for (block, stride, expansion, se_ratio), width, depth in zip(rows, channels, repeats, strict=False)
    )


def _v2_rw_stages(channels: tuple[int, ...], repeats: tuple[int, ...]) -> tuple[StageSpec, ...]:
    """V2-S as drawn in the paper: the first row is a Fused-MBConv1 where the release has a plain convolution."""
    first, *rest = _v2_stages(channels, repeats)
    return (replace(first, block="fused_mbconv"), *rest)


# name: (width, depth, resolution, dropout)
_V1_COEFFICIENTS = {
    "efficientnet_b0": (1.0, 1.0, 224, 0.2),
    "efficientnet_b1": (1.0, 1.1, 240, 0.2),
    "efficientnet_b2": (1.1, 1.2, 260, 0.3),
    "efficientnet_b3": (1.2, 1.4, 300, 0.3),
    "efficientnet_b4": (1.4, 1.8, 380, 0.4),
    "efficientnet_b5": (1.6, 2.2, 456, 0.4),
    "efficientnet_b6": (1.8, 2.6, 528, 0.5),
    "efficientnet_b7": (2.0, 3.1, 600, 0.5),
    "efficientnet_b8": (2.2, 3.6, 672, 0.5),
    "efficientnet_l2": (4.3, 5.3, 800, 0.5),
}
_LITE_COEFFICIENTS = {
    "efficientnet_lite0": (1.0, 1.0, 224, 0.2),
    "efficientnet_lite1": (1.0, 1.1, 240, 0.2),
    "efficientnet_lite2": (1.1, 1.2, 260, 0.3),
    "efficientnet_lite3": (1.2, 1.4, 280, 0.3),
    "efficientnet_lite4": (1.4, 1.8, 300, 0.3),
}
# name: (width, depth, train resolution, evaluation resolution, dropout)
_V2_BASE_COEFFICIENTS = {
    "efficientnetv2_b0": (1.0, 1.0, 192, 224, 0.2),
    "efficientnetv2_b1": (1.0, 1.1, 192, 240, 0.2),
    "efficientnetv2_b2": (1.1, 1.2, 208, 260, 0.3),
    "efficientnetv2_b3": (1.2, 1.4, 240, 300, 0.3),
}
_V2_BASE_STAGES = _v2_stages((16, 32, 48, 96, 112, 192), (1, 2, 2, 3, 5, 8))
# name: (channels per stage, repeats per stage, stem channels, train resolution, evaluation resolution, dropout)
_V2_TABLES = {
    "efficientnetv2_s": ((24, 48, 64, 128, 160, 256), (2, 4, 4, 6, 9, 15), 24, 300, 384, 0.2),
    "efficientnetv2_m": ((24, 48, 80, 160, 176, 304, 512), (3, 5, 5, 7, 14, 18, 5), 24, 384, 480, 0.3),
    "efficientnetv2_l": ((32, 64, 96, 192, 224, 384, 640), (4, 7, 7, 10, 19, 25, 7), 32, 384, 480, 0.4),
    "efficientnetv2_xl": ((32, 64, 96, 192, 256, 512, 640), (4, 8, 8, 16, 24, 32, 8), 32, 384, 512, 0.4),
}
# timm's rw_m scales depth by 1.2 in the first four rows and by 1.6 in the last two: its repeats are written out.
_V2_RW_CHANNELS, _V2_RW_REPEATS = (24, 48, 64, 128, 160, 272), (2, 4, 4, 6, 9, 15)
_V2_RW_M_REPEATS = (3, 5, 5, 8, 15, 24)
# name: (stages, width, depth, head channels, train resolution, evaluation resolution); timm gives no dropout, S has 0.2
_V2_RW_TABLES = {
    "efficientnetv2_rw_t": (_v2_stages((24, 48, 64, 128, 160, 256), _V2_RW_REPEATS), 0.8, 0.9, 1280, 224, 288),
    "efficientnetv2_rw_s": (_v2_rw_stages(_V2_RW_CHANNELS, _V2_RW_REPEATS), 1.0, 1.0, 1792, 288, 384),
    "efficientnetv2_rw_m": (_v2_rw_stages(_V2_RW_CHANNELS, _V2_RW_M_REPEATS), 1.2, 1.0, 1792, 320, 416),
}


def _all_configs() -> dict[str, EncoderConfig]:
    configs: list[EncoderConfig] = []
    for name, (width, depth, side, dropout) in _V1_COEFFICIENTS.items():
        configs.append(EncoderConfig(name, _v1_stages(0.25), width, depth, side, side, dropout))
    for name, (width, depth, side, dropout) in _LITE_COEFFICIENTS.items():
        # No SE and ReLU6: what phone accelerators and int8 quantisation take well.
        configs.append(
            EncoderConfig(name, _v1_stages(0.0), width, depth, side, side, dropout, activation="relu6", fixed_ends=True)
        )
    for name, (width, depth, train_side, side, dropout) in _V2_BASE_COEFFICIENTS.items():
        configs.append(EncoderConfig(name, _V2_BASE_STAGES, width, depth, train_side, side, dropout, round_limit=0.0))
    for name, (channels, repeats, stem, train_side, side, dropout) in _V2_TABLES.items():
        configs.append(
            EncoderConfig(name, _v2_stages(channels, repeats), 1.0, 1.0, train_side, side, dropout, stem_channels=stem)
        )
    for name, (stages, width, depth, head, train_side, side) in _V2_RW_TABLES.items():
        configs.append(
            EncoderConfig(name, stages, width, depth, train_side, side, 0.2, stem_channels=24, head_channels=head)
        )
    return {config.name: config for config in configs}


_CONFIGS = _all_configs()


def encoder_names() -> list[str]:
    """The published names that `create_encoder` takes, family by family and small to large.

    It also takes names of any other scale, such as ``efficientnet_phi2.5`` (see `scaling`).
    """
    return list(_CONFIGS)


def encoder_config(name: str) -> EncoderConfig:
    """Return the published table row of `name`, e.g. ``encoder_config("efficientnet_b3").resolution == 300``.

    Names of other scales (``efficientnet_phi2.5``, ``efficientnetv2_w1.3_d1.7_r320``) are rows too, see `scaling`.

    Raises:
        ConfigError: no encoder has this name; the message suggests near ones.
    """
    config = _CONFIGS.get(name)
    if config is None and isinstance(name, str):
        # Here, not on top: scaling needs the classes of this file.
        from effdense.models.encoders.scaling import parse_scaled_name

        config = parse_scaled_name(name)
    if config is None:
        raise ConfigError(
            f"No encoder is called {name!r}.{did_you_mean(str(name), _CONFIGS)} "
            f"encoder_names() lists all {len(_CONFIGS)}; of any other scale: efficientnet_phi2.5."
        )
    return config
