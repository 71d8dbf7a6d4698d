"""Segmentation heads: a map (B, C, H, W) in, class logits (B, K, H, W) out."""

from __future__ import annotations

from torch import nn

_AUX_CHANNELS = 256  # what a quarter of ResNet-101's 1024 is in PSPNet
_AUX_DROPOUT = 0.1


def make_head(in_channels: int, num_classes: int, *, kernel: int = 3) -> nn.Sequential:
    """A convolution with bias, as entry ``0`` of a sequence, where smp keeps it.

    Source: segmentation-models-pytorch base/heads.py ``SegmentationHead``; initialisation base/initialization.py.
    """
    return nn.Sequential(_predict(in_channels, num_classes, kernel))


def make_auxiliary_head(in_channels: int, num_classes: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU, dropout, 1x1 convolution: logits from one encoder feature, for training only.

    Source: PSPNet, arXiv 1612.01105 section 3.2, and semseg model/pspnet.py ``aux``.
    """
    conv = nn.Conv2d(in_channels, _AUX_CHANNELS, 3, padding=1, bias=False)
    nn.init.kaiming_uniform_(conv.weight, mode="fan_in", nonlinearity="relu")
    return nn.Sequential(
        conv,
        nn.BatchNorm2d(_AUX_CHANNELS),
        nn.ReLU(inplace=True),
        nn.Dropout2d(_AUX_DROPOUT),
        _predict(_AUX_CHANNELS, num_classes, 1),
    )


def _predict(in_channels: int, num_classes: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, num_classes, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
