"""Decoders of segmentation-models-pytorch (smp) over our encoders: ``decoder="smp:DeepLabV3Plus"``.

    >>> create_segmentor("efficientunet_b3", 21, decoder="smp:FPN", decoder_options={"decoder_dropout": 0.1})

smp builds the whole model around an encoder that only states its channels (its registry of encoders is open for
that: smp docs, "Insights", "Adding new encoders"); decoder and head are taken from it, with smp's own initialisation
and names. Both are given the images in front of the features, as smp's ``forward`` does.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from effdense.errors import ConfigError, MissingExtra, did_you_mean
from effdense.models.segmentation.decoder_names import SMP_PREFIX
from effdense.models.segmentation.families import SegmentorConfig

# Arguments of smp's classes that are ours to fill, each with where it is said here.
_ELSEWHERE = {
    "encoder_name": "the encoder is that of the segmentor's name",
    "encoder_weights": "load them with weights= or load_weights()",
    "in_channels": "give in_channels beside decoder_options",
    "classes": "give num_classes",
    "activation": "a segmentor returns logits",
    "aux_params": "smp's is a classification head; a second segmentation head is aux_weight=0.4",
    "kwargs": "they are arguments of timm's encoders",
}
_DEFAULT_DEPTH = 5


class StandInEncoder(nn.Module):
    """What smp asks of an encoder while it builds a decoder, and nothing more."""

    def __init__(self, channels: Sequence[int], depth: int, output_stride: int) -> None:
        super().__init__()
        self.out_channels = list(channels[: depth + 1])
        self.output_stride = min(output_stride, 2**depth)

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """The channels said it already."""

    def make_dilated(self, output_stride: int) -> None:
        """Dilation is done on our encoder."""


def smp_class(config: SegmentorConfig) -> Any:
    """The model class of smp that ``config.decoder`` names.

    Raises: MissingExtra without smp; ConfigError where the installed smp is too old for it.
    """
    try:
        smp = importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise MissingExtra(
            f"decoder {config.decoder!r} needs segmentation-models-pytorch: pip install segmentation-models-pytorch."
        ) from error
    name = config.decoder.removeprefix(SMP_PREFIX)
    if not hasattr(smp, name):
        version = getattr(smp, "__version__", "installed here")
        raise ConfigError(
            f"{config.name}: segmentation-models-pytorch {version} has no {name}; install 0.6 or later, or choose "
            "another decoder."
        )
    return getattr(smp, name)


def smp_arguments(config: SegmentorConfig) -> dict[str, Any]:
    """``decoder_options`` with smp's defaults for the depth and output stride of the encoder filled in.

    Raises: ConfigError for an option that the class does not have, or that is said elsewhere here.
    """
    parameters = inspect.signature(smp_class(config)).parameters
    known = [name for name in parameters if name not in _ELSEWHERE]
    for key in config.decoder_options:
        if key in _ELSEWHERE:
            raise ConfigError(f"{config.name}: {key} does not go into decoder_options: {_ELSEWHERE[key]}.")
        if key not in known:
            raise ConfigError(
                f"{config.name}: decoder {config.decoder!r} has no option {key!r}.{did_you_mean(str(key), known)} "
                f"Known: {', '.join(known)}."
            )
    arguments = dict(config.decoder_options)
    if config.attention is not None:
        arguments["decoder_attention_type"] = config.attention
    for key in ("encoder_depth", "encoder_output_stride"):
        if key in parameters:
            arguments.setdefault(key, parameters[key].default)
    depth = arguments.get("encoder_depth", _DEFAULT_DEPTH)
    if type(depth) is not int or not 2 <= depth <= 5:
        raise ConfigError(
            f"{config.name}: encoder_depth must be a whole number from 2 to 5 (the encoder ends at stride 2 to that "
            f"power), got {depth!r}."
        )
    return arguments


def build_smp_decoder(
    config: SegmentorConfig, encoder_channels: Sequence[int], num_classes: int
) -> tuple[nn.Module, nn.Sequential]:
    """smp's decoder and segmentation head, initialised as smp does.

    Args:
        encoder_channels: of the features, fine to coarse.

    Raises: ConfigError for options that smp refuses, with its reason.
    """
    from segmentation_models_pytorch.encoders import encoders as registry

    arguments = smp_arguments(config)
    channels = [config.in_channels, *encoder_channels]
    entry = {"encoder": StandInEncoder, "params": {"channels": channels}, "pretrained_settings": {}}
    name = f"effdense-{id(entry)}"  # of this call alone, so that builds side by side do not meet
    registry[name] = entry
    try:
        model: Any = smp_class(config)(
            encoder_name=name, encoder_weights=None, in_channels=config.in_channels, classes=num_classes, **arguments
        )
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"{config.name}: segmentation-models-pytorch refuses decoder {config.decoder!r} with "
            f"{config.decoder_options!r}: {error}"
        ) from error
    finally:
        del registry[name]
    return model.decoder, model.segmentation_head
