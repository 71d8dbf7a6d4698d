"""The segmentors as data: one frozen row per model, read by ``segmentor.py``.

``efficientunet_*`` is an encoder of ours under the U-Net decoder of segmentation-models-pytorch (smp), whose widths,
batch-norm epsilon and activation are the defaults (smp decoders/unet/model.py, base/modules.py). The skips of V1 are
those of smp's own ``efficientnet-b*``, those of Lite are its ``timm-tf_efficientnet_lite*``'s and those of V2 its
``tu-*efficientnetv2_*``'s, so that their checkpoints fit.

``bifpnseg_*`` is an encoder of ours under a BiFPN (``bifpn_decoder.py``); ``bifpnseg_b4`` is the network of
EfficientDet section 5.2 (arXiv 1911.09070).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any

from effdense.errors import ConfigError, did_you_mean
from effdense.models.classification.classifier import pixel_statistics
from effdense.models.detection.families import IMAGENET_MEAN, IMAGENET_STD
from effdense.models.encoders.families import encoder_names
from effdense.models.encoders.padding import check_padding
from effdense.models.segmentation.decoder_names import WITH_ATTENTION, check_decoder, unread_fields

UPSAMPLING = ("nearest", "bilinear")
ATTENTION = ("scse",)
_LOSS_WEIGHTS = ("ce_weight", "dice_weight", "focal_weight", "lovasz_weight", "ohem_weight")
_LOSS_OPTIONS = (*_LOSS_WEIGHTS, "label_smoothing", "focal_gamma", "ohem_threshold", "ohem_min_kept")
_MOMENTA = ("bn_momentum", "encoder_bn_momentum")
_NUMBERS = (*_LOSS_OPTIONS, *_MOMENTA, "bn_eps", "aux_weight", "dropout", "drop_path_rate")


@dataclass(frozen=True)
class SegmentorConfig:
    """Everything that decides a segmentor's architecture and loss."""

    name: str
    encoder: str
    image_size: int | tuple[int, int] = 512  # training and evaluation size; the network itself takes any size
    # Network
    in_channels: int = 3
    decoder: str = "unet"  # or "bifpn", or "smp:NAME" for any decoder of segmentation-models-pytorch
    # Of "bifpn" and "smp:NAME"; those of the U-Net follow. A dict has no hash, the rest of the row has.
    decoder_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)  # coarse to fine, one per stride 32, 16, 8, 4, 2
    attention: str | None = None  # "scse" in every block of the decoder
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
    # A second head in training: PSPNet, arXiv 1612.01105 section 3.2, whose weight is .4
    aux_weight: float = 0.0  # of its loss; 0 for none
    aux_stride: int = 16  # of the encoder feature that it reads
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
        check_decoder(self.name, self.decoder, self.decoder_options)
        object.__setattr__(self, "decoder_options", dict(self.decoder_options))
        # smp's name for the same choice: one place to read it from.
        if self.decoder_options.get("decoder_attention_type") is not None:
            object.__setattr__(self, "attention", self.decoder_options["decoder_attention_type"])
        _validate(self)

    @property
    def size_hw(self) -> tuple[int, int]:
        """``image_size`` as (height, width)."""
        return self.image_size if isinstance(self.image_size, (tuple, list)) else (self.image_size, self.image_size)

    @property
    def loss_options(self) -> dict[str, Any]:
        """Arguments of ``segmentation_loss``, but for ``class_weights``, which is a tensor there."""
        return {name: getattr(self, name) for name in (*_LOSS_OPTIONS, "ignore_index")}

    def override(self, **changes: Any) -> SegmentorConfig:
        """A copy with fields replaced; ``decoder_options`` add to the present ones unless the decoder changes.

        Raises: ConfigError for a name that is no field (with the nearest ones), a field that the decoder does not read,
            and values that cannot be used.
        """
        known = {field.name for field in fields(self)}
        for key in changes:
            if key not in known:
                raise ConfigError(f"{self.name} has no option {key!r}.{did_you_mean(key, known)}")
        same_decoder = changes.get("decoder", self.decoder) == self.decoder
        given = changes.get("decoder_options")
        if not same_decoder:
            changes.setdefault("decoder_options", {})
        elif isinstance(given, Mapping):
            changes["decoder_options"] = {**self.decoder_options, **given}
        changed = replace(self, **changes)
        unread = unread_fields(changed.decoder)
        for key in changes:
            if key in unread and getattr(changed, key) != getattr(self, key):
                raise ConfigError(f"{self.name}: {key} is not an option of decoder {changed.decoder!r}. {unread[key]}")
        return changed


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _validate(config: SegmentorConfig) -> None:
    for name in _NUMBERS:
        if not _is_number(getattr(config, name)):
            raise ConfigError(f"{config.name}: {name} must be a finite number, got {getattr(config, name)!r}.")
    if type(config.ignore_index) is not int:
        raise ConfigError(
            f"{config.name}: ignore_index must be a whole number such as 255, got {config.ignore_index!r}."
        )
    size = config.size_hw
    if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ConfigError(
            f"{config.name}: image_size must be a positive whole number of px or (height, width), "
            f"got {config.image_size!r}."
        )
    widths = config.decoder_channels
    if (
        not isinstance(widths, Sequence)
        or len(widths) != 5
        or any(type(width) is not int or width < 1 for width in widths)
    ):
        raise ConfigError(
            f"{config.name}: decoder_channels must be five positive whole numbers, from stride 32 to stride 2, "
            f"got {widths!r}."
        )
    if config.upsample not in UPSAMPLING:
        raise ConfigError(f"{config.name}: upsample must be one of {UPSAMPLING}, got {config.upsample!r}.")
    for padding in (config.padding, config.encoder_padding):
        if padding is not None:
            check_padding(padding)
    for name, what in (("dropout", "dropout rate"), ("drop_path_rate", "rate"), ("label_smoothing", "share")):
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ConfigError(f"{config.name}: {name} is a {what} in [0, 1), got {getattr(config, name)!r}.")
    if config.attention is not None and config.attention not in ATTENTION:
        raise ConfigError(f"{config.name}: attention must be None or one of {ATTENTION}, got {config.attention!r}.")
    if config.attention is not None and config.decoder not in WITH_ATTENTION:
        raise ConfigError(
            f"{config.name}: decoder {config.decoder!r} has no attention; one of {', '.join(WITH_ATTENTION)} has."
        )
    if not config.aux_weight >= 0:
        raise ConfigError(f"{config.name}: aux_weight must be at least 0 (0.4 is usual), got {config.aux_weight!r}.")
    for name in ("bn_eps", "encoder_bn_eps"):
        value = getattr(config, name)
        if value is not None and not (_is_number(value) and value > 0):
            raise ConfigError(f"{config.name}: {name} must be above 0 (1e-3 or 1e-5 are usual), got {value!r}.")
    for name in _MOMENTA:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{config.name}: {name} must lie in [0, 1], got {getattr(config, name)!r}.")
    if config.aux_stride not in (2, 4, 8, 16, 32):
        raise ConfigError(f"{config.name}: aux_stride must be 2, 4, 8, 16 or 32, got {config.aux_stride!r}.")
    weights = {name: getattr(config, name) for name in _LOSS_WEIGHTS}
    if not min(weights.values()) >= 0 or not sum(weights.values()) > 0:
        given = ", ".join(f"{name} {value!r}" for name, value in weights.items())
        raise ConfigError(f"{config.name}: the weights of the loss must not be negative nor all 0, got {given}.")
    if not config.focal_gamma >= 0:
        raise ConfigError(f"{config.name}: focal_gamma must be at least 0, got {config.focal_gamma!r}.")
    for name in ("ohem_threshold", "ohem_min_kept"):
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{config.name}: {name} must lie in [0, 1], got {getattr(config, name)!r}.")
    weights_of = config.class_weights
    if weights_of is None:
        return
    if not isinstance(weights_of, Sequence) or not all(map(_is_number, weights_of)):
        raise ConfigError(f"{config.name}: class_weights must be a finite number per class, got {weights_of!r}.")
    if not weights_of or min(weights_of) < 0 or sum(weights_of) <= 0:
        raise ConfigError(f"{config.name}: class_weights must not be negative nor all 0, got {weights_of!r}.")


def _encoder_options(encoder: str) -> dict[str, Any]:
    """What the encoder decides: normalisation, the skips of its family, its convention where only one exists."""
    padding = "symmetric" if "_rw_" in encoder else "same"
    mean, std = pixel_statistics(encoder, padding)
    options: dict[str, Any] = {"mean": mean, "std": std}
    if encoder.startswith("efficientnetv2_"):
        options["stem_feature"] = False
    if padding != "same":
        options["encoder_padding"] = padding  # timm has no TensorFlow form of the RW encoders
    return options


def _unet(short: str, encoder: str) -> SegmentorConfig:
    early = encoder == "efficientnet_b0"
    return SegmentorConfig(f"efficientunet_{short}", encoder, early_stride_16=early, **_encoder_options(encoder))


def _bifpn(short: str, encoder: str) -> SegmentorConfig:
    """Activation, epsilon and fusion are EfficientDet's of the same family."""
    lite = "_lite" in encoder
    return SegmentorConfig(
        f"bifpnseg_{short}",
        encoder,
        decoder="bifpn",
        decoder_options={"fusion": "sum"} if lite else {},
        activation="relu6" if lite else "silu",
        bn_eps=1e-3,
        **_encoder_options(encoder),
    )


def _rows() -> list[SegmentorConfig]:
    """efficientnet_b0 -> b0, efficientnet_lite0 -> lite0, efficientnetv2_s -> v2s, efficientnetv2_rw_t -> v2rw_t."""
    encoders = [(name.replace("efficientnetv2_", "v2").removeprefix("efficientnet_"), name) for name in encoder_names()]
    return [_unet(*pair) for pair in encoders] + [_bifpn(*pair) for pair in encoders]


CONFIGS: dict[str, SegmentorConfig] = {row.name: row for row in _rows()}


def segmentor_names() -> list[str]:
    """Names that ``create_segmentor`` takes."""
    return list(CONFIGS)


def segmentor_config(name: str) -> SegmentorConfig:
    """The row of ``name``; an unknown name raises ConfigError with the nearest ones."""
    if name not in CONFIGS:
        shorts = ", ".join(known.removeprefix("bifpnseg_") for known in CONFIGS if known.startswith("bifpnseg_"))
        raise ConfigError(
            f"unknown segmentor {name!r}.{did_you_mean(str(name), CONFIGS)} Known: efficientunet_ or bifpnseg_ and one "
            f"of {shorts}."
        )
    return CONFIGS[name]
