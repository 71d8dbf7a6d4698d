"""Convolutions under the two padding conventions of the EfficientNet world.

"same" is TensorFlow's: the output side is ceil(side / stride) and an odd leftover goes to the bottom and right, so
the amount depends on the input's size. "symmetric" is torch's fixed (kernel - 1) // 2 on every side. For odd kernels
both give the same output size; at stride 2 they sample different pixels, so weights of one are not for the other.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from effdense.errors import ConfigError, did_you_mean

Padding = Literal["same", "symmetric"]


def check_padding(padding: str) -> Padding:
    """Return `padding` if it is a known convention.

    Raises:
        ConfigError: it is neither "same" nor "symmetric".
    """
    known = get_args(Padding)
    if padding not in known:
        raise ConfigError(
            f"padding is {padding!r}, expected 'same' (TensorFlow) or 'symmetric' (torch)."
            f"{did_you_mean(str(padding), known)}"
        )
    return cast(Padding, padding)


def same_padding(side: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return TensorFlow SAME padding ``(before, after)`` in px for one axis of `side` px.

    The last window starts at the last multiple of `stride` inside the image, so it overhangs by the kernel's extent
    less that remainder. Source: tensorflow/core/framework/common_shape_fns.cc, padding SAME.
    """
    # A remainder, not a ceil, so that export can decide it for a dynamic side known to be a multiple of 32.
    remainder = side % stride
    last_step = stride if remainder == 0 else remainder
    total = max(dilation * (kernel - 1) + 1 - last_step, 0)
    return total // 2, total - total // 2


class Conv2dSame(nn.Conv2d):
    """Conv2d with TensorFlow SAME padding taken from the size of each input.

    (B, C, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)). `padding` must not be given; weights are
    those of nn.Conv2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, dilation = self.kernel_size, self.stride, self.dilation
        top, bottom = same_padding(x.shape[-2], kernel[0], stride[0], dilation[0])
        left, right = same_padding(x.shape[-1], kernel[1], stride[1], dilation[1])
        if top == bottom and left == right:
            # The convolution pads for free; F.pad costs a copy of the activation.
            return F.conv2d(x, self.weight, self.bias, stride, (top, left), dilation, self.groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, stride, 0, dilation, self.groups)


def make_conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: Padding = "same",
) -> nn.Conv2d:
    """Build a square convolution in the given convention, as a plain nn.Conv2d wherever the amount is static.

    At stride 1 an odd kernel needs the same amount on every side whatever the input, so "same" equals "symmetric".
    """
    extent = dilation * (kernel - 1)
    if padding == "same" and (stride > 1 or extent % 2 == 1):
        return Conv2dSame(in_channels, out_channels, kernel, stride=stride, dilation=dilation, groups=groups, bias=bias)
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=extent // 2,
        dilation=dilation,
        groups=groups,
        bias=bias,
    )
