"""Attention in front of and behind the convolutions of a decoder block: (B, C, H, W) in, the same shape out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effdense.errors import ConfigError

_REDUCTION = 16  # smp base/modules.py ``SCSEModule``


class SpatialChannelGate(nn.Module):
    """Concurrent spatial and channel squeeze and excitation: x * (channel gate + pixel gate).

    The channel gate is one sigmoid per channel from the mean over H and W; the pixel gate one per pixel from all
    channels. Parameter names are smp's. Source: arXiv 1808.08127 section 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // _REDUCTION)
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = torch.add(self.cSE(x), self.sSE(x))
        return x * gate


class Attention(nn.Module):
    """Attention by name on C channels: None (identity, without parameters) or ``scse``."""

    def __init__(self, kind: str | None, channels: int) -> None:
        super().__init__()
        if kind not in (None, "scse"):
            raise ConfigError(f"attention must be None or 'scse', got {kind!r}.")
        self.attention: nn.Module = nn.Identity() if kind is None else SpatialChannelGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)
