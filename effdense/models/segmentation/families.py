"""The EfficientUNet family as data: one frozen row per model, read by ``segmentor.py``.

A row is an encoder of ours under the U-Net decoder of segmentation-models-pytorch (smp), whose widths, batch-norm
epsilon and activation are the defaults (smp decoders/unet/model.py, base/modules.py). The skips of V1 are those of
smp's own ``efficientnet-b*``, those of Lite are its ``timm-tf_efficientnet_lite*``'s and those of V2 its
``tu-tf_efficientnetv2_*``'s, so that their checkpoints fit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from effdense.errors import ConfigError, did_you_mean
from effdense.models.detection.families import IMAGENET_MEAN, IMAGENET_STD, LITE_MEAN, LITE_STD
from effdense.models.encoders.padding import check_padding

UPSAMPLING = ("nearest", "bilinear")


@dataclass(frozen=True)
class SegmentorConfig:
    """Everything that decides a segmentor's architecture and loss."""

    name: str
    encoder: str
    image_size: int | tuple[int, int] = 512  # training and evaluation size; the network itself takes any size
    # Network
    in_channels: int = 3
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)  # coarse to fine, one per stride 32, 16, 8, 4, 2
    stem_feature: bool = True  # stride-2 skip: the stem's output, else that of the first stage
    early_stride_16: bool = False  # stride-16 skip: after the first block of its last stage, see ``segmentor.py``
    padding: str = "same"
    encoder_padding: str | None = None  # None: ``padding``; the decoder's stride-1 convolutions are alike in both
    encoder_bn_eps: float | None = None  # None: that of the padding's convention, see ``create_encoder``
    # torch's own. smp's .01 (TensorFlow's .99) needs some 500 steps before running statistics follow fresh weights.
    encoder_bn_momentum: float = 0.1
    activation: str = "relu"  # of the decoder
    bn_eps: float = 1e-5  # of the decoder
    bn_momentum: float = 0.1
    upsample: str = "nearest"
    drop_path_rate: float = 0.2  # published for the encoders, and smp's
    dropout: float = 0.0  # whole channels, in front of the head
    # Loss: a weighted sum of terms
    ce_weight: float = 1.0
    dice_weight: float = 0.0
    focal_weight: float = 0.0
    lovasz_weight: float = 0.0
    ohem_weight: float = 0.0  # cross-entropy over the hard pixels only
    label_smoothing: float = 0.0  # of the cross-entropies
    class_weights: tuple[float, ...] | None = None  # of the cross-entropies and the focal loss, one per class
    focal_gamma: float = 2.0
    ohem_threshold: float = 0.7  # pixels whose class has less probability than this are hard
    ohem_min_kept: float = 0.0625  # at least this share of the counted pixels is hard
    ignore_index: int = 255
    # Preprocessing that the weights expect (RGB, applied outside the network)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def size_hw(self) -> tuple[int, int]:
        """``image_size`` as (height, width)."""
        return self.image_size if isinstance(self.image_size, (tuple, list)) else (self.image_size, self.image_size)

    @property
    def loss_options(self) -> dict[str, Any]:
        """Arguments of ``segmentation_loss``, but for ``class_weights``, which is a tensor there."""
        names = ("ce_weight", "dice_weight", "focal_weight", "lovasz_weight", "ohem_weight", "label_smoothing")
        names += ("focal_gamma", "ohem_threshold", "ohem_min_kept", "ignore_index")
        return {name: getattr(self, name) for name in names}

    def override(self, **changes: Any) -> SegmentorConfig:
        """A copy with fields replaced; a name that is no field raises ConfigError with the nearest ones."""
        known = {field.name for field in fields(self)}
        for key in changes:
            if key not in known:
                raise ConfigError(f"{self.name} has no option {key!r}.{did_you_mean(key, known)}")
        return replace(self, **changes)


def _validate(config: SegmentorConfig) -> None:
    size = config.size_hw
    if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ConfigError(
            f"{config.name}: image_size must be a positive whole number of px or (height, width), "
            f"got {config.image_size!r}."
        )
    widths = config.decoder_channels
    if len(widths) != 5 or any(type(width) is not int or width < 1 for width in widths):
        raise ConfigError(
            f"{config.name}: decoder_channels must be five positive whole numbers, from stride 32 to stride 2, "
            f"got {widths!r}."
        )
    if config.upsample not in UPSAMPLING:
        raise ConfigError(f"{config.name}: upsample must be one of {UPSAMPLING}, got {config.upsample!r}.")
    for padding in (config.padding, config.encoder_padding):
        if padding is not None:
            check_padding(padding)
    for field, top in (("dropout", "dropout rate"), ("drop_path_rate", "rate"), ("label_smoothing", "share")):
        if not 0.0 <= getattr(config, field) < 1.0:
            raise ConfigError(f"{config.name}: {field} is a {top} in [0, 1), got {getattr(config, field)!r}.")
    if min(config.ce_weight, config.dice_weight) < 0 or config.ce_weight + config.dice_weight <= 0:
        raise ConfigError(
            f"{config.name}: ce_weight and dice_weight must not be negative nor both 0, "
            f"got {config.ce_weight!r} and {config.dice_weight!r}."
        )
    if config.class_weights is not None and (min(config.class_weights) < 0 or sum(config.class_weights) <= 0):
        raise ConfigError(f"{config.name}: class_weights must not be negative nor all 0, got {config.class_weights!r}.")


def _rows() -> list[SegmentorConfig]:
    rows = [SegmentorConfig(f"efficientunet_b{i}", f"efficientnet_b{i}", early_stride_16=i == 0) for i in range(8)]
    rows += [
        SegmentorConfig(f"efficientunet_lite{i}", f"efficientnet_lite{i}", mean=LITE_MEAN, std=LITE_STD)
        for i in range(5)
    ]
    sizes = ("s", "m", "l", "xl", "b0", "b1", "b2", "b3")
    return rows + [
        SegmentorConfig(f"efficientunet_v2{size}", f"efficientnetv2_{size}", stem_feature=False) for size in sizes
    ]


CONFIGS: dict[str, SegmentorConfig] = {row.name: row for row in _rows()}


def segmentor_names() -> list[str]:
    """Names that ``create_segmentor`` takes."""
    return list(CONFIGS)


def segmentor_config(name: str) -> SegmentorConfig:
    """The row of ``name``; an unknown name raises ConfigError with the nearest ones."""
    if name not in CONFIGS:
        raise ConfigError(f"unknown segmentor {name!r}.{did_you_mean(str(name), CONFIGS)} Known: {', '.join(CONFIGS)}.")
    return CONFIGS[name]
