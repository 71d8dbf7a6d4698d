"""The stem's convolution for images with another number of channels than the source's."""

from __future__ import annotations

import torch
from torch import Tensor


def adapt_channels(weight: Tensor, channels: int) -> tuple[Tensor, str] | None:
    """The stem weight (O, I, k, k) for `channels` input channels, and how it was made; None where there is no rule.

    RGB to one channel is the sum; RGB to any other number repeats R, G, B, R, ... and scales by 3 / channels; one
    channel is repeated and divided by their number. So a picture of equal channels gives equal features with one
    channel and with multiples of three; with 2, 4, 5, ... some colours count more often than others.
    Source: timm models/_manipulate.py `adapt_input_conv`; segmentation-models-pytorch encoders/_utils.py.
    """
    given = weight.shape[1]
    if channels == given:
        return weight, ""
    if given == 1:
        return weight.repeat(1, channels, 1, 1) / channels, f"input channels 1 -> {channels} (repeated / {channels})"
    if given != 3:
        return None
    if channels == 1:
        wide = torch.promote_types(weight.dtype, torch.float32)  # half would round between the summands
        return weight.sum(1, keepdim=True, dtype=wide).to(weight.dtype), "input channels 3 -> 1 (sum over RGB)"
    repeated = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels), f"input channels 3 -> {channels} (RGB repeated, x 3/{channels})"
