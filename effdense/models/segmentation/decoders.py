"""The decoder of a config: what it asks of encoder and input (``decoder_needs``), and its modules (``build_decoder``).

A decoder of ours takes (features, size); one of smp takes [images, *features] (``smp_decoder.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from effdense.models.encoders.efficientnet import ALL_STRIDES
from effdense.models.layers import batch_norm
from effdense.models.segmentation import bifpn_decoder
from effdense.models.segmentation.decoder_names import SMP_PREFIX
from effdense.models.segmentation.families import SegmentorConfig
from effdense.models.segmentation.head import make_head
from effdense.models.segmentation.unet import UNetDecoder

# smp decoders whose global pooling is followed by a batch norm.
_POOLS = ("DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet")


@dataclass(frozen=True)
class DecoderNeeds:
    """What a decoder asks for.

    Attributes:
        strides: of the encoder's features.
        output_stride: beyond it the encoder is dilated (32: not at all).
        multiple, least: sides of the input in px, which is padded to them at the bottom and right; 1 for any size.
        images_first: whether the features are led by the images.
        pools: whether batch norm sees a single value per channel and image, so that training takes 2 images.
        coarsest: stride of the coarsest map that goes through batch norm.
    """

    strides: tuple[int, ...] = ALL_STRIDES
    output_stride: int = 32
    multiple: int = 1
    least: int = 1
    images_first: bool = False
    pools: bool = False
    coarsest: int = 16


def decoder_needs(config: SegmentorConfig) -> DecoderNeeds:
    """Raises: ConfigError for ``decoder_options`` that smp does not have."""
    if config.decoder == "bifpn":
        return DecoderNeeds(bifpn_decoder.STRIDES, coarsest=2 ** config.decoder_options.get("max_level", 7))
    if config.decoder == "unet":
        return DecoderNeeds()
    from effdense.models.segmentation.smp_decoder import smp_arguments, smp_class

    arguments, smp_model = smp_arguments(config), smp_class(config)
    name = config.decoder.removeprefix(SMP_PREFIX)
    output_stride = arguments.get("encoder_output_stride", 32)
    depth = arguments.get("encoder_depth", len(ALL_STRIDES))
    coarsest = min(output_stride, 2**depth)
    return DecoderNeeds(
        strides=ALL_STRIDES[:depth],
        output_stride=output_stride,
        multiple=coarsest if smp_model.requires_divisible_input_shape else 1,
        least=8 * coarsest if name == "PAN" else 1,  # its pyramid attention halves the coarsest map three times
        images_first=True,
        pools=name in _POOLS,
    )


def build_decoder(
    config: SegmentorConfig, encoder_channels: Sequence[int], num_classes: int
) -> tuple[nn.Module, nn.Sequential]:
    """Decoder and segmentation head.

    Args:
        encoder_channels: of the features that ``decoder_needs`` asks for, fine to coarse.
        num_classes: outputs of the head.
    """

    def bn(channels: int) -> nn.Module:
        return batch_norm(channels, eps=config.bn_eps, momentum=config.bn_momentum)

    if config.decoder == "unet":
        unet = UNetDecoder(
            encoder_channels,
            config.decoder_channels,
            act=config.activation,
            upsample=config.upsample,
            bn=bn,
            attention=config.attention,
        )
        return unet, make_head(unet.out_channels, num_classes)
    if config.decoder == "bifpn":
        bifpn = bifpn_decoder.BiFPNDecoder(
            encoder_channels,
            dict(config.decoder_options),
            act=config.activation,
            upsample=config.upsample,
            padding="symmetric" if config.padding == "symmetric" else "same",
            bn=bn,
        )
        return bifpn, make_head(bifpn.out_channels, num_classes, kernel=1)
    from effdense.models.segmentation.smp_decoder import build_smp_decoder

    return build_smp_decoder(config, encoder_channels, num_classes)
