"""The EfficientDet family as data: one frozen row per model, read by ``efficientdet.py``.

Sources: EfficientDet table 1 and section 4.2; automl efficientdet/hparams_config.py ``efficientdet_model_param_dict``
and ``efficientdet_lite_param_dict``. Lite3x and Lite4 are not on the D formula; D7 has the shapes of D6's weights but
anchor scale 5.
V2 rows (an EfficientNetV2 under the BiFPN of the D-level of like cost) are effdense's own; ``efficientdetv2_dt`` and
``_ds`` are effdet's (effdet/config/model_config.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from effdense.errors import ConfigError, did_you_mean
from effdense.models.detection.postprocess import NMS_METHODS
from effdense.models.encoders.padding import BN_EPS, check_padding
from effdense.models.necks.resample import DOWNSAMPLES, PADDINGS, UPSAMPLES

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Google's Lite models normalise with mean 127, std 128 (effdet uses 127.5 / 127.5).
LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3
# 1, 2 and 1/2 as width over height at equal area. Google's weights use the rounded 1.4 / 0.7 pairs instead.
EQUAL_AREA_RATIOS = ((1.0, 1.0), (math.sqrt(2.0), math.sqrt(0.5)), (math.sqrt(0.5), math.sqrt(2.0)))


@dataclass(frozen=True)
class EfficientDetConfig:
    """Everything that decides an EfficientDet's architecture, anchors, loss and post-processing."""

    name: str
    encoder: str
    image_size: int | tuple[int, int]  # training and evaluation size; the network itself takes any size
    fpn_channels: int
    fpn_cells: int
    head_repeats: int
    # Network
    in_channels: int = 3
    min_level: int = 3
    max_level: int = 7
    fusion: str = "fastattn"
    activation: str = "silu"
    padding: str = "same"  # of the pyramid's max pools, and of the encoder unless it has one of its own
    encoder_padding: str | None = None  # None: as ``padding``
    encoder_bn_eps: float | None = None  # None: the encoder convention's own, 1e-3 for "same", 1e-5 for "symmetric"
    redundant_bias: bool = True
    upsample: str = "nearest"
    downsample: str = "max"
    bn_eps: float = 1e-3  # pyramid and heads
    bn_momentum: float = 0.01  # TensorFlow's .99
    encoder_bn_momentum: float = 0.01
    drop_path_rate: float = 0.2  # automl: survival_prob .8 in every backbone but B0
    # Anchors (EfficientDet inherits RetinaNet section 4: 3 octave scales x 3 ratios)
    anchor_scale: float = 4.0
    num_scales: int = 3
    aspect_ratios: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    # Assignment and loss (EfficientDet section 5.1; automl hparams_config.py)
    positive_iou: float = 0.5
    negative_iou: float = 0.5
    focal_alpha: float = 0.25
    focal_gamma: float = 1.5
    label_smoothing: float = 0.0
    huber_delta: float = 0.1
    box_loss_weight: float = 50.0
    # Post-processing (automl tf2/postprocess.py; effdet's hard NMS at IoU .5)
    max_candidates: int = 5000
    max_detections: int = 100
    score_threshold: float = 0.0
    nms: str = "hard"
    nms_iou: float = 0.5
    nms_sigma: float = 0.5
    # Preprocessing that the weights expect (RGB, applied outside the network)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def num_anchors(self) -> int:
        """Anchors per cell, A."""
        return self.num_scales * len(self.aspect_ratios)

    @property
    def num_levels(self) -> int:
        """Pyramid levels, L."""
        return self.max_level - self.min_level + 1

    @property
    def encoder_convention(self) -> str:
        """Padding that the encoder is built with."""
        if self.encoder_padding is not None:
            return self.encoder_padding
        return "same" if self.padding == "same_zero" else self.padding  # zeros are a matter of pools

    @property
    def size_hw(self) -> tuple[int, int]:
        """``image_size`` as (height, width)."""
        return self.image_size if isinstance(self.image_size, (tuple, list)) else (self.image_size, self.image_size)

    def override(self, **changes: Any) -> EfficientDetConfig:
        """A copy with fields replaced; a name that is no field raises ConfigError with the nearest ones."""
        known = {field.name for field in fields(self)}
        for key in changes:
            if key not in known:
                raise ConfigError(f"{self.name} has no option {key!r}.{did_you_mean(key, known)}")
        return replace(self, **changes)


def _validate(config: EfficientDetConfig) -> None:
    if not 1 <= config.min_level < config.max_level <= 12:
        raise ConfigError(
            f"{config.name}: levels must satisfy 1 <= min_level < max_level <= 12, "
            f"got {config.min_level}..{config.max_level}."
        )
    if config.min_level > 5:
        raise ConfigError(
            f"{config.name}: min_level {config.min_level} is coarser than the encoder's last stride, 32 (5)."
        )
    size = config.size_hw
    if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ConfigError(
            f"{config.name}: image_size must be a positive whole number of px or (height, width), "
            f"got {config.image_size!r}."
        )
    for field in ("fpn_channels", "fpn_cells", "num_scales", "max_candidates", "max_detections"):
        if getattr(config, field) < 1:
            raise ConfigError(f"{config.name}: {field} must be at least 1, got {getattr(config, field)}.")
    if not config.aspect_ratios or any(len(ratio) != 2 for ratio in config.aspect_ratios):
        raise ConfigError(
            f"{config.name}: aspect_ratios must be (width factor, height factor) pairs, got {config.aspect_ratios!r}."
        )
    if config.nms not in NMS_METHODS:
        raise ConfigError(f"{config.name}: nms must be one of {NMS_METHODS}, got {config.nms!r}.")
    for field, known in (("padding", PADDINGS), ("upsample", UPSAMPLES), ("downsample", DOWNSAMPLES)):
        if getattr(config, field) not in known:
            raise ConfigError(f"{config.name}: {field} must be one of {known}, got {getattr(config, field)!r}.")
    check_padding(config.encoder_convention)
    if config.negative_iou > config.positive_iou:
        raise ConfigError(
            f"{config.name}: negative_iou {config.negative_iou} must not exceed positive_iou {config.positive_iou}."
        )


def _d(level: str, encoder: str, size: int, channels: int, cells: int, repeats: int, **more: Any) -> EfficientDetConfig:
    return EfficientDetConfig(f"efficientdet_{level}", encoder, size, channels, cells, repeats, **more)


def _lite(
    level: str, encoder: str, size: int, channels: int, cells: int, repeats: int, anchor_scale: float
) -> EfficientDetConfig:
    return _d(
        level, encoder, size, channels, cells, repeats,
        anchor_scale=anchor_scale, fusion="sum", activation="relu6", drop_path_rate=0.0, mean=LITE_MEAN, std=LITE_STD,
    )  # fmt: skip


def _effdet_v2(name: str, encoder: str, size: int, channels: int, cells: int, repeats: int) -> EfficientDetConfig:
    return EfficientDetConfig(
        name, encoder, size, channels, cells, repeats,
        padding="symmetric", redundant_bias=False, upsample="bilinear", downsample="bilinear",
        aspect_ratios=EQUAL_AREA_RATIOS, encoder_bn_momentum=0.1,
    )  # fmt: skip


_ROWS: tuple[EfficientDetConfig, ...] = (
    _d("d0", "efficientnet_b0", 512, 64, 3, 3, drop_path_rate=0.0),
    _d("d1", "efficientnet_b1", 640, 88, 4, 3),
    _d("d2", "efficientnet_b2", 768, 112, 5, 3),
    _d("d3", "efficientnet_b3", 896, 160, 6, 4),
    _d("d4", "efficientnet_b4", 1024, 224, 7, 4),
    _d("d5", "efficientnet_b5", 1280, 288, 7, 4),
    _d("d6", "efficientnet_b6", 1280, 384, 8, 5, fusion="sum"),
    _d("d7", "efficientnet_b6", 1536, 384, 8, 5, fusion="sum", anchor_scale=5.0),
    _d("d7x", "efficientnet_b7", 1536, 384, 8, 5, fusion="sum", max_level=8),
    _lite("lite0", "efficientnet_lite0", 320, 64, 3, 3, 3.0),
    _lite("lite1", "efficientnet_lite1", 384, 88, 4, 3, 3.0),
    _lite("lite2", "efficientnet_lite2", 448, 112, 5, 3, 3.0),
    _lite("lite3", "efficientnet_lite3", 512, 160, 6, 4, 4.0),
    _lite("lite3x", "efficientnet_lite3", 640, 200, 6, 4, 3.0),
    _lite("lite4", "efficientnet_lite4", 640, 224, 7, 4, 4.0),
    _d("v2b0", "efficientnetv2_b0", 512, 64, 3, 3),
    _d("v2b1", "efficientnetv2_b1", 640, 88, 4, 3),
    _d("v2b2", "efficientnetv2_b2", 768, 112, 5, 3),
    _d("v2b3", "efficientnetv2_b3", 896, 160, 6, 4),
    _d("v2s", "efficientnetv2_s", 896, 160, 6, 4),
    _d("v2m", "efficientnetv2_m", 1024, 224, 7, 4),
    _d("v2l", "efficientnetv2_l", 1280, 288, 7, 4),
    _d("v2xl", "efficientnetv2_xl", 1280, 384, 8, 5, fusion="sum"),
    _effdet_v2("efficientdetv2_dt", "efficientnetv2_rw_t", 768, 128, 5, 3),
    _effdet_v2("efficientdetv2_ds", "efficientnetv2_rw_s", 1024, 256, 7, 4),
)
CONFIGS: dict[str, EfficientDetConfig] = {row.name: row for row in _ROWS}


def detector_names() -> list[str]:
    """Names that ``create_detector`` takes."""
    return list(CONFIGS)


def detector_config(name: str) -> EfficientDetConfig:
    """The row of ``name``, or the compound-scaled one of a name that carries its coefficients (``scaling.py``).

    Raises: ConfigError for an unknown name, with the nearest ones.
    """
    if name in CONFIGS:
        return CONFIGS[name]
    from effdense.models.detection.scaling import scaled_detector_config  # it builds on the rows above

    scaled = scaled_detector_config(name)
    if scaled is None:
        raise ConfigError(f"unknown detector {name!r}.{did_you_mean(str(name), CONFIGS)} Known: {', '.join(CONFIGS)}.")
    return scaled


def adapted_options(
    config: EfficientDetConfig, *, padding: str, encoder_padding: str, encoder_bn_eps: float
) -> dict[str, Any]:
    """The fewest overrides of ``config`` that build a network with these conventions; empty where it has them already.

    Args:
        padding: of the pyramid's pools.
        encoder_padding: of the encoder's convolutions.
        encoder_bn_eps: of the encoder's BatchNorms.
    """
    options: dict[str, Any] = {}
    if padding != config.padding:
        options["padding"] = padding
    if encoder_padding != config.override(**options).encoder_convention:
        options["encoder_padding"] = encoder_padding
    built_eps = config.encoder_bn_eps
    if built_eps is None:
        built_eps = BN_EPS[check_padding(encoder_padding)]
    if encoder_bn_eps != built_eps:
        options["encoder_bn_eps"] = encoder_bn_eps
    return options
