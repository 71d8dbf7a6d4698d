"""The encoder as segmentation-models-pytorch runs it: dilated to a finer output stride, one skip taken early.

Weights trained there need both exactly so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from effdense.models.activation_checkpointing import call
from effdense.models.encoders.efficientnet import EfficientNetEncoder, last_stage_of_stride
from effdense.models.encoders.padding import Conv2dStrided


def features_with_early_stride_16(encoder: EfficientNetEncoder, images: Tensor) -> tuple[Tensor, ...]:
    """The encoder's features, fine to coarse, but stride 16 taken after the first block of its last stage.

    So does smp's own ``efficientnet-b0``: entry 8 of its ``out_indexes`` (smp encoders/efficientnet.py) would be 10 by
    the rule that its B1-B7 follow. Weights trained there need it so.
    """
    encoder._check_images(images)
    early = last_stage_of_stride(encoder.config.stages)[16]
    ends = encoder._output_stages - {early}
    x = encoder.stem(images)
    features = [x] if encoder.stem_feature else []
    for index, stage in enumerate(encoder.blocks):
        for position, block in enumerate(cast(nn.Sequential, stage)):
            x = call(block, x)
            if index == early and position == 0:
                features.append(x)
                if len(features) == len(encoder.channels):
                    return tuple(features)
        if index in ends:
            features.append(x)
    return tuple(features)


def blocks_after_early_stride_16(encoder: EfficientNetEncoder) -> list[nn.Module]:
    """The blocks that ``features_with_early_stride_16`` never runs: those after an early skip that is also the last."""
    if encoder.strides[-1] != 16:
        return []
    return list(cast(nn.Sequential, encoder.blocks[-1]))[1:]


def dilate_encoder(encoder: EfficientNetEncoder, output_stride: int, *, early_stride_16: bool = False) -> None:
    """Let the encoder end at ``output_stride`` px: later strides become 1 and the kernels behind them spread instead.

    Stages of stride s > output_stride are dilated s / output_stride times. smp dilates all blocks of such a stage
    (encoders/_base.py ``make_dilated``); timm, and smp's ``tu-`` encoders through it, leave its first block as the
    stage before (timm models/_efficientnet_builder.py). ``encoder.stem_feature`` says which of the two the encoder
    follows, as it does for the skip of stride 2. With ``early_stride_16`` what follows the early skip counts as stride
    32, as in smp. No weight changes; ``encoder.strides`` do.

    Args:
        output_stride: 8, 16 or 32 px.
    """
    early = last_stage_of_stride(encoder.config.stages).get(16) if early_stride_16 else None
    stride = 2
    for index, (stage, row) in enumerate(zip(encoder.blocks, encoder.config.stages, strict=False)):
        before, stride = stride, stride * row.stride
        for position, block in enumerate(cast(nn.Sequential, stage)):
            at = stride if encoder.stem_feature or position > 0 else before
            if index == early and position > 0:
                at = 32
            for conv in _spatial(block):
                if stride > output_stride:
                    conv.stride = (1, 1)
                _dilate(conv, max(1, at // output_stride))
    encoder.strides = tuple(min(stride, output_stride) for stride in encoder.strides)


def _spatial(block: nn.Module) -> Iterator[nn.Conv2d]:
    return (module for module in block.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1))


def _dilate(conv: nn.Conv2d, rate: int) -> None:
    if rate == 1:
        return
    conv.dilation = (rate, rate)
    # At stride 1 every convention pads an odd kernel alike on both sides; a strided layer works its amounts out itself.
    if isinstance(conv, Conv2dStrided):
        conv.set_convention(conv.convention)
    else:
        conv.padding = tuple(rate * (kernel - 1) // 2 for kernel in conv.kernel_size)
