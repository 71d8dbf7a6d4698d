"""Segmentation head: decoder map (B, C, H, W) in, class logits (B, K, H, W) out."""

from __future__ import annotations

from torch import nn


def make_head(in_channels: int, num_classes: int) -> nn.Sequential:
    """A 3x3 convolution with bias, as entry ``0`` of a sequence, where smp keeps it.

    Source: segmentation-models-pytorch base/heads.py ``SegmentationHead``; initialisation base/initialization.py.
    """
    conv = nn.Conv2d(in_channels, num_classes, 3, padding=1)
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv)
