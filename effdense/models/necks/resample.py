"""Resampling between pyramid levels: a map (B, C, H, W) in, the same map at the next finer or coarser level out.

Coarser is ceil(side / 2), finer is whatever size the finer level has. Module names are effdet's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from effdense.errors import ConfigError
from effdense.models.layers import ConvBn

# "same" is TensorFlow's max pool, "symmetric" torch's; "same_zero" aligns like "same" but lets the padding take part in
# the maximum as zeros, as Yet-Another-EfficientDet-Pytorch's pool does (efficientnet/utils_extra.py).
PADDINGS = ("same", "symmetric", "same_zero")
UPSAMPLES = ("nearest", "bilinear")
DOWNSAMPLES = ("max", "bilinear")


def check_choice(option: str, value: str, known: Sequence[str]) -> None:
    """Raise ConfigError unless ``value`` is one of ``known``."""
    if value not in known:
        raise ConfigError(f"BiFPN {option} must be one of {tuple(known)}, got {value!r}.")


def downsample_max(x: Tensor, padding: str = "same") -> Tensor:
    """3x3 stride-2 max pool to ceil(side / 2) under one of ``PADDINGS``.

    SAME pads (0, 1) along an even side and (1, 1) along an odd one; both cases have a direct pooling call.
    """
    height, width = x.shape[-2:]
    if padding == "same_zero":
        return F.max_pool2d(F.pad(x, (width % 2, 1, height % 2, 1)), 3, stride=2)
    if padding == "symmetric" or (height % 2 and width % 2):
        return F.max_pool2d(x, 3, stride=2, padding=1)
    if height % 2 == 0 and width % 2 == 0:
        return F.max_pool2d(x, 3, stride=2, ceil_mode=True)
    top, left = height % 2, width % 2
    return F.max_pool2d(F.pad(x, (left, 1, top, 1), value=-math.inf), 3, stride=2)


class Resample(nn.Module):
    """Lateral path of one fusion input: optional 1x1 conv + BN to the pyramid width, then a resize to the node's level.

    Args:
        conv: None where the input has the pyramid width already.
        padding: one of ``PADDINGS``, for the max pool.
        upsample: ``nearest`` or ``bilinear``.
        downsample: ``max``, or ``bilinear``: interpolation at the coarser level's pixel centres without antialiasing,
            so an even side becomes the mean of each 2x2 block (effdet efficientdet.py ``ResampleFeatureMap``).
    """

    def __init__(
        self, conv: ConvBn | None, *, padding: str = "same", upsample: str = "nearest", downsample: str = "max"
    ) -> None:
        super().__init__()
        check_choice("padding", padding, PADDINGS)
        check_choice("upsample", upsample, UPSAMPLES)
        check_choice("downsample", downsample, DOWNSAMPLES)
        if conv is not None:
            self.conv = conv
        self.has_conv = conv is not None
        self.padding = padding
        self.upsample = upsample
        self.downsample = downsample

    def forward(self, x: Tensor, size: Sequence[int], weight: Tensor | None = None) -> Tensor:
        """Return ``weight * resize(conv(x))``; the product is taken on the smaller of the two maps.

        Scaling commutes with nearest and bilinear resizing, and with max pooling because fusion weights are >= 0.
        """
        if self.has_conv:
            x = self.conv(x)
        height, width = x.shape[-2:]
        if height < size[0] or width < size[1]:
            x = x if weight is None else x * weight
            return _interpolate(x, size, self.upsample)
        if height > size[0] or width > size[1]:
            x = downsample_max(x, self.padding) if self.downsample == "max" else _interpolate(x, size, self.downsample)
        return x if weight is None else x * weight


def _interpolate(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    return F.interpolate(x, size=(size[0], size[1]), mode=mode, align_corners=None if mode == "nearest" else False)
