"""Convolutions in the form that a CPU is fast at: the same numbers up to rounding, through other kernels of oneDNN.

Eager CPU execution only. Under torch.compile, export and on other devices callers use the plain form, see
:func:`eager_on_cpu`. Figures are of one core of an AMD Zen 5 with AVX-512 under torch 2.15.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def eager_on_cpu(x: Tensor) -> bool:
    """Whether `x` is about to be computed with at once, on a CPU, in its own precision and by plain autograd."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active():  # torch.func: what it transforms has neither format nor memory
        return False
    return not torch.is_autocast_enabled("cpu")


def goes_by_rows(x: Tensor) -> bool:
    """Whether `pointwise_by_rows` pays for an input (B, C, H, W).

    With one thread and fewer than 16 pictures torch hands 1x1 convolutions to the BLAS, which takes twice as long as
    oneDNN here.
    """
    batch, _, height, _ = x.shape
    few = batch < 16 <= batch * height and torch.get_num_threads() == 1
    return few and x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)


def pointwise_by_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1x1 convolution of a channels_last map, each of its rows as a picture: of those there are enough for oneDNN.

    (B, C, H, W) -> (B, C', H, W), channels_last, without a copy.
    """
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch * height, 1, width, channels).permute(0, 3, 1, 2)
    y = F.conv2d(rows, weight, bias).permute(0, 2, 3, 1)
    return y.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def zero_pad(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """F.pad with zeros, but only the border is filled, and the gradient is a view."""
    padded: Tensor = _Pad.apply(x, top, bottom, left, right)
    return padded


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
        height, width = x.shape[-2:]
        channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        y = torch.empty(
            (*x.shape[:-2], top + height + bottom, left + width + right),
            dtype=x.dtype,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
        ctx.window = (..., slice(top, top + height), slice(left, left + width))
        y[ctx.window] = x
        y[..., :top, :] = 0
        y[..., top + height :, :] = 0
        y[..., :left] = 0
        y[..., left + width :] = 0
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0][ctx.window], None, None, None, None


def trains_slowly(x: Tensor, weight: Tensor, dilation: tuple[int, ...]) -> bool:
    """Whether the convolution is a depthwise 5x5 that is trained on channels_last maps, see `depthwise5x5`."""
    depthwise = weight.shape[1] == 1 and weight.shape[0] == x.shape[1] and tuple(weight.shape[2:]) == (5, 5)
    if not depthwise or tuple(dilation) != (1, 1) or x.dtype != torch.float32:
        return False
    trained = torch.is_grad_enabled() and weight.requires_grad
    return trained and x.is_contiguous(memory_format=torch.channels_last)


def depthwise5x5(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """Depthwise 5x5 convolution (B, C, H, W) -> (B, C, H', W') whose weight gradient is put together from four 3x3.

    oneDNN has a depthwise kernel for the gradient of 3x3 weights; 5x5 ones go through its general one, which takes 13
    times as long as the rest of the layer. In four overlapping 3x3 corners they take 2 to 4 times less.
    """
    y: Tensor = _Depthwise5x5.apply(x, weight, tuple(stride), tuple(padding))
    return y


class _Depthwise5x5(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.options
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        to_input = to_weight = None
        if ctx.needs_input_grad[0]:
            wanted = [True, False, False]
            to_input = torch.ops.aten.convolution_backward(
                grad, x, weight, None, stride, padding, [1, 1], False, [0, 0], weight.shape[0], wanted
            )[0]
        if ctx.needs_input_grad[1]:
            # Sample by sample: the corners of one fit the cache.
            pairs = zip(grad.split(1), x.split(1), strict=True)
            to_weight = functools.reduce(Tensor.add_, (_gradient_of_corners(*p, stride, padding) for p in pairs))
        return to_input, to_weight, None, None


def _gradient_of_corners(grad: Tensor, x: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """(C, 1, 5, 5) for grad (1, C, H', W') and x (1, C, H, W)."""
    channels = x.shape[1]
    height, width = ((grad.shape[axis - 2] - 1) * stride[axis] + 3 for axis in (0, 1))
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    weight, wanted = x.new_empty(channels, 1, 3, 3), [False, True, False]
    result = x.new_empty(channels, 1, 5, 5)
    for row in (0, 2):
        for column in (0, 2):
            window = x[:, :, row : row + height, column : column + width].contiguous(memory_format=torch.channels_last)
            result[:, :, row : row + 3, column : column + 3] = torch.ops.aten.convolution_backward(
                grad, window, weight, None, stride, [0, 0], [1, 1], False, [0, 0], channels, wanted
            )[1]
    return result
