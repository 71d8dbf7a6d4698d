"""The four residual blocks of the EfficientNet families and their parts.

Every block maps (B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride)) and adds its input when stride is 1
and the channels agree. Submodule names are timm's (`_efficientnet_blocks.py`), so its weights load unrenamed; the
activation is a module of its own beside a plain BatchNorm2d, which keeps SyncBN conversion and fusion passes working.

Sources: MBConv: MobileNetV2 (arXiv 1801.04381) with SE, EfficientNet (1905.11946) section 4; Fused-MBConv:
EfficientNetV2 (2104.00298) Figure 2; stochastic depth: 1603.09382.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effdense.models.activation_checkpointing import call
from effdense.models.encoders.families import StageSpec
from effdense.models.encoders.padding import Padding, make_conv
from effdense.models.encoders.scaling import round_channels
from effdense.models.layers import activation


@dataclass(frozen=True)
class LayerOptions:
    """What all layers of one encoder share; `bn_momentum` is torch's (the share of the new batch)."""

    padding: Padding
    activation: str
    bn_eps: float
    bn_momentum: float

    def conv(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        return make_conv(in_channels, out_channels, kernel, stride=stride, groups=groups, padding=self.padding)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.bn_eps, momentum=self.bn_momentum)

    def act(self) -> nn.Module:
        return activation(self.activation)


def drop_path(x: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Zero each sample of `x` (B, ...) with probability `rate` and scale the others by 1 / (1 - rate).

    Args:
        generator: source of the draw, on x's device; torch's default generator when None.
    """
    if rate == 0.0:
        return x
    # Drawn in float32: a bfloat16 uniform has too few steps to hit small rates.
    draw = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device, dtype=torch.float32, generator=generator)
    kept: Tensor = (draw >= rate).to(x.dtype) / (1.0 - rate)
    return x * kept


class StochasticDepth(nn.Module):
    """`drop_path` in training, identity in evaluation.

    Draws from torch's default generator, as nn.Dropout does: that is the one which torch.compile, activation
    checkpointing and a resumed run know how to replay.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return drop_path(x, self.rate) if self.training else x

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class SqueezeExcite(nn.Module):
    """Channel gate (arXiv 1709.01507): mean over H, W -> `squeeze` channels -> one sigmoid factor per channel."""

    def __init__(self, channels: int, squeeze: int, act: str) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeeze, 1)
        self.act1 = activation(act)
        self.conv_expand = nn.Conv2d(squeeze, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        # mean and 1x1 convolutions instead of pool, flatten and linear: memory format stays channels_last.
        # A sum divided afterwards is the mean bit for bit, but its gradient is a view: no map of HW equal values.
        wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype  # 256 x 256 ones overflow half
        pooled = (x.sum((2, 3), keepdim=True, dtype=wide) / (x.shape[-2] * x.shape[-1])).to(x.dtype)
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(pooled))))


def _squeeze_excite(block_in: int, channels: int, stage: StageSpec, options: LayerOptions) -> nn.Module:
    """SE on `channels`, squeezed relative to the block's input; identity where the row has none."""
    if stage.se_ratio == 0.0:
        return nn.Identity()
    return SqueezeExcite(channels, max(1, round(block_in * stage.se_ratio)), options.activation)


class ConvBnAct(nn.Module):
    """conv kxk - BN - act, the first stage of EfficientNetV2."""

    checkpointed = False

    def __init__(
        self, in_channels: int, stage: StageSpec, stride: int, options: LayerOptions, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.has_skip = stride == 1 and in_channels == stage.channels
        self.conv = options.conv(in_channels, stage.channels, stage.kernel, stride)
        self.bn1 = options.norm(stage.channels)
        self.act1 = options.act()
        self.drop_path = StochasticDepth(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv(x)))
        return self.drop_path(x) + shortcut if self.has_skip else x


class DepthwiseSeparable(nn.Module):
    """depthwise kxk - BN - act - SE - 1x1 projection - BN: an MBConv with expansion 1, first stage of V1 and Lite."""

    checkpointed = False

    def __init__(
        self, in_channels: int, stage: StageSpec, stride: int, options: LayerOptions, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.has_skip = stride == 1 and in_channels == stage.channels
        self.conv_dw = options.conv(in_channels, in_channels, stage.kernel, stride, groups=in_channels)
        self.bn1 = options.norm(in_channels)
        self.act1 = options.act()
        self.se = _squeeze_excite(in_channels, in_channels, stage, options)
        self.conv_pw = options.conv(in_channels, stage.channels, 1)
        self.bn2 = options.norm(stage.channels)
        self.drop_path = StochasticDepth(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.se(self.act1(self.bn1(self.conv_dw(x))))
        x = self.bn2(self.conv_pw(x))
        return self.drop_path(x) + shortcut if self.has_skip else x


class MBConv(nn.Module):
    """1x1 expansion - BN - act - depthwise kxk - BN - act - SE - 1x1 projection - BN (timm's InvertedResidual)."""

    checkpointed = False

    def __init__(
        self, in_channels: int, stage: StageSpec, stride: int, options: LayerOptions, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.has_skip = stride == 1 and in_channels == stage.channels
        middle = round_channels(in_channels, stage.expansion)
        self.conv_pw = options.conv(in_channels, middle, 1)
        self.bn1 = options.norm(middle)
        self.act1 = options.act()
        self.conv_dw = options.conv(middle, middle, stage.kernel, stride, groups=middle)
        self.bn2 = options.norm(middle)
        self.act2 = options.act()
        self.se = _squeeze_excite(in_channels, middle, stage, options)
        self.conv_pwl = options.conv(middle, stage.channels, 1)
        self.bn3 = options.norm(stage.channels)
        self.drop_path = StochasticDepth(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv_pw(x)))
        x = self.se(self.act2(self.bn2(self.conv_dw(x))))
        x = self.bn3(self.conv_pwl(x))
        return self.drop_path(x) + shortcut if self.has_skip else x


class FusedMBConv(nn.Module):
    """kxk expansion - BN - act - SE - 1x1 projection - BN (timm's EdgeResidual).

    One dense convolution for MBConv's first two: more multiply-adds, but faster where channels are few.
    """

    checkpointed = False

    def __init__(
        self, in_channels: int, stage: StageSpec, stride: int, options: LayerOptions, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.has_skip = stride == 1 and in_channels == stage.channels
        middle = round_channels(in_channels, stage.expansion)
        self.conv_exp = options.conv(in_channels, middle, stage.kernel, stride)
        self.bn1 = options.norm(middle)
        self.act1 = options.act()
        self.se = _squeeze_excite(in_channels, middle, stage, options)
        self.conv_pwl = options.conv(middle, stage.channels, 1)
        self.bn2 = options.norm(stage.channels)
        self.drop_path = StochasticDepth(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.se(self.act1(self.bn1(self.conv_exp(x))))
        x = self.bn2(self.conv_pwl(x))
        return self.drop_path(x) + shortcut if self.has_skip else x


_BLOCKS: dict[str, Callable[[int, StageSpec, int, LayerOptions, float], nn.Module]] = {
    "conv": ConvBnAct,
    "depthwise_separable": DepthwiseSeparable,
    "mbconv": MBConv,
    "fused_mbconv": FusedMBConv,
}


class Stage(nn.Sequential):
    """The blocks of one stride, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = call(block, x)
        return x


def make_stage(in_channels: int, stage: StageSpec, options: LayerOptions, drop_path_rates: tuple[float, ...]) -> Stage:
    """Build the blocks of one scaled row; the first carries the stride and the change of channels.

    Args:
        in_channels: channels that enter the stage.
        stage: a scaled row (see `scaling.scale_stages`).
        drop_path_rates: one stochastic-depth rate per block, ``stage.repeats`` in all.
    """
    blocks: list[nn.Module] = []
    for index, rate in zip(range(stage.repeats), drop_path_rates, strict=True):
        first = index == 0
        blocks.append(
            _BLOCKS[stage.block](
                in_channels if first else stage.channels, stage, stage.stride if first else 1, options, rate
            )
        )
    return Stage(*blocks)
