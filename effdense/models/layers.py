"""Convolution blocks shared by the BiFPN and the heads (parameter names as in effdet, so its weights load unrenamed).

Every convolution here has stride 1, where TensorFlow SAME and torch's symmetric padding are the same thing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdense.errors import ConfigError


class SiLU(nn.SiLU):
    """x * sigmoid(x), in place where no gradient is wanted; else autograd would copy x first, which costs more."""

    def forward(self, x: Tensor) -> Tensor:
        # torch.jit.trace compares two runs, of which only one has autograd on.
        return F.silu(x, inplace=not torch.is_grad_enabled() and not torch.jit.is_tracing())


_ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": SiLU, "relu6": nn.ReLU6, "relu": nn.ReLU}


def activation(name: str) -> nn.Module:
    """Activation by name: ``silu`` (swish, D and V2 families), ``relu6`` (Lite) or ``relu``.

    Safe in place after a batch norm, whose backward needs its input and not its output.
    """
    if name not in _ACTIVATIONS:
        raise ConfigError(f"activation must be one of {sorted(_ACTIVATIONS)}, got {name!r}.")
    return _ACTIVATIONS[name](inplace=True)


def batch_norm(channels: int, *, eps: float, momentum: float) -> nn.BatchNorm2d:
    """BatchNorm with torch's momentum convention (TensorFlow's .99 is .01 here)."""
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)


class SeparableConv(nn.Module):
    """Depthwise 3x3 (no bias) -> pointwise 1x1 -> optional BN; (B, C, H, W) -> (B, C', H, W).

    Source: EfficientDet section 4; automl efficientdet/tf2/efficientdet_keras.py.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool, bn: nn.Module | None = None) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        if bn is not None:
            self.bn = bn
        self.has_bn = bn is not None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pw(self.conv_dw(x))
        return self.bn(x) if self.has_bn else x


class ConvBn(nn.Module):
    """Pointwise lateral convolution and BN, no activation; (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool, bn: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.bn = bn

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))
