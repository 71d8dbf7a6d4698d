"""Which decoders there are and which options each reads; nothing is built or imported here.

unet       ``unet.py``: fields of ``SegmentorConfig`` (decoder_channels, upsample, activation, attention, bn_*)
bifpn      ``bifpn_decoder.py``: ``decoder_options`` of ``BIFPN_OPTIONS``, and upsample, activation, bn_*
smp:NAME   ``smp_decoder.py``: ``decoder_options`` of the smp class of that name
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effdense.errors import ConfigError, did_you_mean

SMP_PREFIX = "smp:"
# segmentation_models_pytorch 0.6.0 __init__.py, less DPT.
SMP_NAMES = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
    "UPerNet",
    "Segformer",
)
DECODERS = ("unet", "bifpn", *(SMP_PREFIX + name for name in SMP_NAMES))
WITH_ATTENTION = ("unet", "smp:Unet", "smp:UnetPlusPlus")
# Default values: EfficientDet section 5.2.
BIFPN_OPTIONS: dict[str, Any] = {
    "channels": 128,
    "cells": 3,
    "max_level": 7,
    "fusion": "fastattn",
    "head_channels": 256,
    "head_repeats": 3,
}


def check_decoder(model: str, decoder: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for a decoder that there is not, or options that it cannot have.

    The names of options of ``smp:NAME`` are checked where smp is imported, see ``smp_decoder.py``.
    """
    if decoder == "smp:DPT":
        raise ConfigError(
            f"{model}: decoder 'smp:DPT' reads the tokens of a vision transformer, which a convolutional encoder does "
            "not have. Use 'smp:Segformer' or 'smp:UPerNet'."
        )
    if decoder not in DECODERS:
        by_lower = {name.lower(): name for name in DECODERS}
        word = str(decoder).lower()
        exact = by_lower.get(word) or by_lower.get(SMP_PREFIX + word)
        near = f" Did you mean {exact!r}?" if exact else did_you_mean(str(decoder), DECODERS)
        raise ConfigError(f"{model}: there is no decoder {decoder!r}.{near} Known: {', '.join(DECODERS)}.")
    if not isinstance(options, Mapping):
        raise ConfigError(f"{model}: decoder_options must be a dict of options and their values, got {options!r}.")
    if decoder == "unet" and options:
        raise ConfigError(
            f"{model}: the U-Net decoder has no decoder_options, got {', '.join(map(str, options))}. Give "
            "decoder_channels, upsample, activation and attention beside it."
        )
    if decoder == "bifpn":
        _check_bifpn(model, options)


def unread_fields(decoder: str) -> dict[str, str]:
    """Fields of ``SegmentorConfig`` that a decoder does not read, each with what to do instead."""
    if decoder == "unet":
        return {}
    if decoder == "bifpn":
        return {"decoder_channels": "Give decoder_options=dict(channels=..., head_channels=...)."}
    instead = f"Its own arguments go into decoder_options=dict(...); see {decoder.removeprefix(SMP_PREFIX)} of smp."
    return dict.fromkeys(("decoder_channels", "upsample", "activation", "bn_eps", "bn_momentum"), instead)


def _check_bifpn(model: str, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if key not in BIFPN_OPTIONS:
            near = did_you_mean(str(key), BIFPN_OPTIONS)
            raise ConfigError(
                f"{model}: decoder 'bifpn' has no option {key!r}.{near} Known: {', '.join(BIFPN_OPTIONS)}."
            )
        if key != "fusion" and (type(value) is not int or value < 1):
            raise ConfigError(f"{model}: {key} of decoder 'bifpn' must be a whole number of at least 1, got {value!r}.")
    if not 5 <= options.get("max_level", 7) <= 12:
        raise ConfigError(
            f"{model}: max_level of decoder 'bifpn' must lie in 5..12 (stride 2 to that power; the encoder ends at 5), "
            f"got {options['max_level']!r}."
        )
