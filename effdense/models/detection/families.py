"""The EfficientDet family as data: one frozen row per model, read by ``efficientdet.py``.

Sources: EfficientDet table 1 and section 4.2; automl efficientdet/hparams_config.py ``efficientdet_model_param_dict``
and ``efficientdet_lite_param_dict``. Lite3x and Lite4 are not on the D formula; D7 has the shapes of D6's weights but
anchor scale 5.
V2 rows (an EfficientNetV2 under the BiFPN of the D-level of like cost) are effdense's own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from effdense.errors import ConfigError, did_you_mean
from effdense.models.detection.postprocess import NMS_METHODS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Google's Lite models normalise with mean 127, std 128 (effdet uses 127.5 / 127.5).
LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3


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
    padding: str = "same"
    redundant_bias: bool = True
    upsample: str = "nearest"
    bn_eps: float = 1e-3
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
    if config.padding not in ("same", "symmetric"):
        raise ConfigError(f"{config.name}: padding must be 'same' or 'symmetric', got {config.padding!r}.")
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
)
CONFIGS: dict[str, EfficientDetConfig] = {row.name: row for row in _ROWS}


def detector_names() -> list[str]:
    """Names that ``create_detector`` takes."""
    return list(CONFIGS)


def detector_config(name: str) -> EfficientDetConfig:
    """The row of ``name``; an unknown name raises ConfigError with the nearest ones."""
    if name not in CONFIGS:
        raise ConfigError(f"unknown detector {name!r}.{did_you_mean(str(name), CONFIGS)} Known: {', '.join(CONFIGS)}.")
    return CONFIGS[name]
