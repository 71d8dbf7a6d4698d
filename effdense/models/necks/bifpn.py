"""BiFPN: encoder features in, an equal-width feature pyramid out (EfficientDet section 3).

In: tuple of (B, C_l, H_l, W_l), fine to coarse, one per level from ``min_level``; out: tuple of L maps
(B, C, H_l, W_l). Neighbouring levels differ by a factor of two rounded up, so any image size works; nothing is tied to
a configured size.

Module names (``resample``, ``cell.C.fnode.N.combine...``) are effdet's, so converted Google weights load unrenamed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdense.errors import ConfigError, ShapeError
from effdense.models.activation_checkpointing import call
from effdense.models.layers import ConvBn, SeparableConv, activation
from effdense.models.necks.resample import DOWNSAMPLES, PADDINGS, UPSAMPLES, Resample, check_choice

FUSIONS = ("fastattn", "softmax", "sum")
_FUSION_EPS = 1e-4  # EfficientDet section 3.3, fast normalised fusion


@dataclass(frozen=True)
class FusionNode:
    """One fusion node: the pyramid index it lives on and the running-list indices it reads."""

    level: int
    inputs: tuple[int, ...]


def bifpn_topology(num_levels: int) -> tuple[FusionNode, ...]:
    """Nodes of one BiFPN cell in execution order; node ``i`` appends entry ``num_levels + i`` to the running list.

    For P3-P7 (five levels): top-down P6 [3,4], P5 [2,5], P4 [1,6], P3 [0,7]; then bottom-up P4 [1,7,8], P5 [2,6,9],
    P6 [3,5,10], P7 [4,11]. Source: automl efficientdet/tf2/fpn_configs.py ``bifpn_config``.
    """
    if num_levels < 2:
        raise ConfigError(f"a BiFPN needs at least 2 levels, got {num_levels}.")
    entries: list[list[int]] = [[level] for level in range(num_levels)]
    nodes: list[FusionNode] = []
    for level in reversed(range(num_levels - 1)):
        nodes.append(FusionNode(level, (entries[level][-1], entries[level + 1][-1])))
        entries[level].append(num_levels + len(nodes) - 1)
    for level in range(1, num_levels):
        nodes.append(FusionNode(level, (*entries[level], entries[level - 1][-1])))
        entries[level].append(num_levels + len(nodes) - 1)
    return tuple(nodes)


class Fusion(nn.Module):
    """Weighted sum of resampled inputs: ``fastattn`` relu(w)/(sum + 1e-4), ``softmax`` softmax(w), ``sum`` plain."""

    def __init__(self, inputs: Sequence[int], resample: Sequence[Resample], fusion: str) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        self.fusion = fusion
        self.resample = nn.ModuleDict({str(i): module for i, module in zip(inputs, resample, strict=True)})
        if fusion != "sum":
            self.edge_weights = nn.Parameter(torch.ones(len(self.inputs)))

    def weights(self) -> Tensor | None:
        """Normalised fusion weights (len(inputs),), or None for plain sums."""
        if self.fusion == "fastattn":
            weights = F.relu(self.edge_weights)
            return weights / (weights.sum() + _FUSION_EPS)
        if self.fusion == "softmax":
            return torch.softmax(self.edge_weights, dim=0)
        return None

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        weights = self.weights()
        fused: Tensor | None = None
        for k, (index, resample) in enumerate(zip(self.inputs, self.resample.values(), strict=True)):
            x = maps[index]
            term = resample(x, size, None if weights is None else weights[k].to(x.dtype))
            fused = term if fused is None else fused + term
        assert fused is not None
        return fused


class FusionBlock(nn.Module):
    """Fusion, then activation -> depthwise 3x3 -> pointwise 1x1 -> BN (the activation precedes the convolution)."""

    def __init__(self, combine: Fusion, act: nn.Module, conv: SeparableConv) -> None:
        super().__init__()
        self.combine = combine
        self.after_combine = nn.Sequential(OrderedDict([("act", act), ("conv", conv)]))

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        return self.after_combine(self.combine(maps, size))


class BiFPNCell(nn.Module):
    """One pass top-down and bottom-up over all levels."""

    checkpointed = False

    def __init__(self, nodes: Sequence[FusionNode], blocks: Sequence[FusionBlock], num_levels: int) -> None:
        super().__init__()
        self.levels = tuple(node.level for node in nodes)
        self.num_levels = num_levels
        self.fnode = nn.ModuleList(blocks)

    def of_maps(self, *features: Tensor) -> tuple[Tensor, ...]:
        return self(features)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = list(features)
        sizes = [x.shape[-2:] for x in features]
        for level, block in zip(self.levels, self.fnode, strict=True):
            maps.append(block(maps, sizes[level]))
        return tuple(maps[-self.num_levels :])


class BiFPN(nn.Module):
    """Stack of BiFPN cells over levels ``min_level .. max_level``.

    Args:
        in_channels: channels of the encoder features given to ``forward``, fine to coarse, from level ``min_level`` on;
            coarser levels are made from the last one by max pooling (the first of them after a 1x1 conv + BN).
        channels: pyramid width C.
        num_levels: L, for example 5 for P3-P7.
        cells: how many cells.
        fusion: ``fastattn``, ``softmax`` or ``sum``.
        padding: ``same``, ``symmetric`` or ``same_zero`` alignment of the max pools (``resample.py``).
        redundant_bias: biases on convolutions that a BN follows (Google's weights have them).
        upsample: ``nearest`` (Google) or ``bilinear``.
        downsample: ``max`` (Google) or ``bilinear``.

    Returns (forward): tuple of L maps (B, C, H_l, W_l), fine to coarse.

    In cell 0 the raw encoder maps still have their own widths, and a level that is read twice (P4, P5 in D0) gets a
    separate 1x1 conv for each use. Source: automl efficientdet/tf2/efficientdet_keras.py ``FNode``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_levels: int,
        cells: int,
        *,
        fusion: str = "fastattn",
        act: str = "silu",
        padding: str = "same",
        redundant_bias: bool = True,
        upsample: str = "nearest",
        downsample: str = "max",
        bn: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        check_choice("fusion", fusion, FUSIONS)
        check_choice("padding", padding, PADDINGS)
        check_choice("upsample", upsample, UPSAMPLES)
        check_choice("downsample", downsample, DOWNSAMPLES)
        if cells < 1:
            raise ConfigError(f"a BiFPN needs at least 1 cell, got {cells}.")
        if not 1 <= len(in_channels) <= num_levels:
            raise ConfigError(f"expected between 1 and {num_levels} encoder features, got {len(in_channels)}.")
        self.padding = padding
        self.num_inputs = len(in_channels)
        self.num_levels = num_levels
        self.channels = channels

        def lateral(width: int) -> Resample:
            conv = ConvBn(width, channels, bias=redundant_bias, bn=bn(channels)) if width != channels else None
            return Resample(conv, padding=padding, upsample=upsample, downsample=downsample)

        widths = list(in_channels)
        self.resample = nn.ModuleDict()
        for level in range(len(in_channels), num_levels):
            self.resample[str(level)] = lateral(widths[-1])
            widths.append(channels)

        nodes = bifpn_topology(num_levels)
        self.cell = nn.Sequential()
        for _ in range(cells):
            running = widths + [channels] * len(nodes)
            blocks = [
                FusionBlock(
                    Fusion(node.inputs, [lateral(running[i]) for i in node.inputs], fusion),
                    activation(act),
                    SeparableConv(channels, channels, bias=redundant_bias, bn=bn(channels)),
                )
                for node in nodes
            ]
            self.cell.append(BiFPNCell(nodes, blocks, num_levels))
            widths = [channels] * num_levels

    def set_padding(self, padding: str) -> None:
        """Switch the alignment of every max pool in place; no tensor changes.

        Raises: ConfigError for an unknown convention.
        """
        check_choice("padding", padding, PADDINGS)
        self.padding = padding
        for module in self.modules():
            if isinstance(module, Resample):
                module.padding = padding

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(features) != self.num_inputs:
            raise ShapeError(f"BiFPN expected {self.num_inputs} feature maps, fine to coarse, got {len(features)}.")
        maps = list(features)
        for resample in self.resample.values():
            height, width = maps[-1].shape[-2:]
            maps.append(resample(maps[-1], ((height + 1) // 2, (width + 1) // 2)))
        pyramid = tuple(maps)
        for cell in self.cell:
            # One by one: checkpointing keeps the tensors among the arguments, not those inside of one.
            pyramid = call(cell, *pyramid, function=cast(BiFPNCell, cell).of_maps)
        return pyramid
