"""Convolutions under the padding conventions of the EfficientNet world.

"same" is TensorFlow's: the output side is ceil(side / stride) and an odd leftover goes to the bottom and right, so
the amount depends on the input's size. "same_static" is SAME with the amounts that the network's published resolution
would need, whatever the input's size (lukemelas' efficientnet-pytorch, and segmentation-models-pytorch after it).
"symmetric" is torch's fixed (kernel - 1) // 2 on every side. For odd kernels all give the same output size; at stride 2
they sample different pixels, so weights of one are not for the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effdense.errors import ConfigError, did_you_mean
from effdense.models.encoders.cpu_kernels import (
    depthwise5x5,
    eager_on_cpu,
    goes_by_rows,
    pointwise_by_rows,
    trains_slowly,
    zero_pad,
)

Padding = Literal["same", "same_static", "symmetric"]
# Google trained with 1e-3 (tensorflow/tpu efficientnet_builder.py); weights born in torch use torch's own 1e-5.
BN_EPS: dict[Padding, float] = {"same": 1e-3, "same_static": 1e-3, "symmetric": 1e-5}


def check_padding(padding: str) -> Padding:
    """Return `padding` if it is a known convention.

    Raises:
        ConfigError: it is none of "same", "same_static", "symmetric".
    """
    known = get_args(Padding)
    if padding not in known:
        raise ConfigError(
            f"padding is {padding!r}, expected 'same' (TensorFlow), 'same_static' (efficientnet-pytorch) or "
            f"'symmetric' (torch).{did_you_mean(str(padding), known)}"
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


class PointwiseConv2d(nn.Conv2d):
    """1x1 convolution; a plain nn.Conv2d but for the kernel that a CPU takes."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and eager_on_cpu(x) and goes_by_rows(x):
            return pointwise_by_rows(x, self.weight, self.bias)
        return super().forward(x)


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution of stride 1; a plain nn.Conv2d but for the kernels that a CPU takes in training."""

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(self, x, cast(tuple[int, int], self.padding))


def _convolve(conv: nn.Conv2d, x: Tensor, padding: tuple[int, int]) -> Tensor:
    if conv.bias is None and eager_on_cpu(x) and trains_slowly(x, conv.weight, conv.dilation):
        return depthwise5x5(x, conv.weight, conv.stride, padding)
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


class Conv2dStrided(nn.Conv2d):
    """Conv2d whose padding convention can be changed at any time; weights are those of nn.Conv2d.

    (B, C, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)) under every convention.

    Attributes:
        convention: "same", "same_static" or "symmetric"; change it with `set_convention`.
        native_side: side in px of this layer's input at the network's published resolution, which decides the amounts
            of "same_static"; None makes that convention equal to "same".
    """

    def __init__(self, *args: Any, convention: Padding, native_side: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.native_side = native_side
        self.set_convention(convention)

    def set_convention(self, convention: Padding) -> None:
        self.convention = convention
        symmetric = convention == "symmetric"
        # What nn.Conv2d calls padding: read by its own forward and by tools that look at convolutions.
        self.padding = tuple(d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel_size)) if symmetric else (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.convention == "symmetric":
            return _convolve(self, x, cast(tuple[int, int], self.padding))
        (top, bottom), (left, right) = self._amounts(x.shape[-2], 0), self._amounts(x.shape[-1], 1)
        if top == bottom and left == right:
            # The convolution pads for free; F.pad costs a copy of the activation.
            return _convolve(self, x, (top, left))
        if not eager_on_cpu(x):
            return _convolve(self, F.pad(x, (left, right, top, bottom)), (0, 0))
        if torch.is_grad_enabled():
            return _convolve(self, zero_pad(x, top, bottom, left, right), (0, 0))
        return self._shifted(x, (top, bottom), (left, right))

    def _shifted(self, x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        """Windows from one stride further up and left, and the first outputs cut off: no padded copy of the input.

        On a CPU this is about a third faster; training there loses more in the gradient of the cut.
        """
        padding, shift = [], []
        for (before, after), stride in zip((rows, columns), self.stride):
            shift.append(int(before != after))
            padding.append(before + stride * shift[-1])
        y = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        height, width = (self._outputs(x.shape[axis - 2], axis, pair) for axis, pair in enumerate((rows, columns)))
        y = y[:, :, shift[0] : shift[0] + height, shift[1] : shift[1] + width]
        return y.contiguous(memory_format=torch.channels_last if y.stride(1) == 1 else torch.contiguous_format)

    def _outputs(self, side: int, axis: int, padding: tuple[int, int]) -> int:
        return (side + sum(padding) - self.dilation[axis] * (self.kernel_size[axis] - 1) - 1) // self.stride[axis] + 1

    def _amounts(self, side: int, axis: int) -> tuple[int, int]:
        kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
        if self.convention == "same_static" and self.native_side is not None:
            fixed = same_padding(self.native_side, kernel, stride, dilation)
            # Amounts differ by less than a stride: one that suffices gives the ceiling, a smaller one loses the last
            # window (an odd side under the amount for even ones, where the originals return floor(side / stride)).
            if sum(fixed) == dilation * (kernel - 1) or sum(fixed) >= sum(same_padding(side, kernel, stride, dilation)):
                return fixed
        return same_padding(side, kernel, stride, dilation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, convention={self.convention}"


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
    """Build a square convolution in the given convention, as a plain nn.Conv2d wherever all conventions agree.

    At stride 1 an odd kernel needs the same amount on every side whatever the input.
    """
    extent = dilation * (kernel - 1)
    if stride > 1 or extent % 2 == 1:
        return Conv2dStrided(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=groups,
            bias=bias,
            convention=padding,
        )
    kind: type[nn.Conv2d] = nn.Conv2d
    if kernel == 1 and groups == 1:
        kind = PointwiseConv2d
    elif groups == in_channels == out_channels:
        kind = DepthwiseConv2d
    return kind(in_channels, out_channels, kernel, padding=extent // 2, dilation=dilation, groups=groups, bias=bias)


def set_convention(network: nn.Module, *, padding: str | None = None, bn_eps: float | None = None) -> None:
    """Switch every strided convolution and every BatchNorm inside `network` in place; None leaves that part alone.

    Raises:
        ConfigError: an unknown padding, or an epsilon that is not positive; nothing has changed then.
    """
    kind = None if padding is None else check_padding(padding)
    if bn_eps is not None and not bn_eps > 0:
        raise ConfigError(f"bn_eps must be above 0, got {bn_eps!r}; published networks use 1e-3 or 1e-5.")
    for module in network.modules():
        if kind is not None and isinstance(module, Conv2dStrided):
            module.set_convention(kind)
        elif bn_eps is not None and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eps = bn_eps


def note_native_sides(network: nn.Module, resolution: int) -> None:
    """Tell each strided convolution, in order of execution, the side it would see at a square input of `resolution`."""
    side = resolution
    for conv in _strided(network):
        conv.native_side = side
        side = -(-side // conv.stride[0])


def _strided(network: nn.Module) -> Iterator[Conv2dStrided]:
    return (module for module in network.modules() if isinstance(module, Conv2dStrided))
