"""The U-Net decoder: one block by hand, then shapes that no power of two divides."""

import pytest
import torch
from torch import nn

from effdense.models.segmentation.unet import UNetBlock, UNetDecoder


def identity_block(upsample="nearest"):
    """A block whose convolutions pass the sum of their input channels on and whose normalisation does nothing."""
    block = UNetBlock(1, 1, 1, act="relu", upsample=upsample, bn=lambda channels: nn.Identity())
    for conv in (block.conv1[0], block.conv2[0]):
        nn.init.zeros_(conv.weight)
        conv.weight.data[:, :, 1, 1] = 1.0
    return block


def test_block_by_hand():
    # 2x2 to 3x3 by nearest: rows and columns 0, 0, 1; plus the skip.
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    skip = torch.tensor([[[[10.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -9.0]]]])
    out = identity_block()(x, (3, 3), skip)
    assert out[0, 0].tolist() == [[11.0, 1.0, 2.0], [1.0, 1.0, 2.0], [3.0, 3.0, 0.0]]


def test_odd_sizes_are_the_cropped_double():
    # Features of an encoder have sides ceil(s / 2): nearest to an odd side must not drift from pixel pairs.
    for side in range(3, 130, 2):
        x = torch.arange((side + 1) // 2).float().expand(1, 1, (side + 1) // 2, -1)
        up = torch.nn.functional.interpolate(x, size=(side, side))
        assert up[0, 0, 0].tolist() == [i // 2 for i in range(side)], side


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (33, 1), (1, 1)])
def test_sizes(upsample, size):
    channels = (4, 6, 8, 10, 12)
    decoder = UNetDecoder(channels, (9, 8, 7, 6, 5), act="silu", upsample=upsample, bn=nn.BatchNorm2d).eval()
    features = [torch.randn(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(channels, (2, 4, 8, 16, 32))]
    assert decoder(features, size).shape == (2, 5, *size)
    assert decoder.out_channels == 5


def test_memory_format_is_kept():
    channels = (4, 6, 8, 10, 12)
    decoder = UNetDecoder(channels, (9, 8, 7, 6, 5), act="relu", upsample="nearest", bn=nn.BatchNorm2d)
    decoder = decoder.to(memory_format=torch.channels_last)
    features = [
        torch.randn(2, c, 64 // s, 64 // s).to(memory_format=torch.channels_last)
        for c, s in zip(channels, (2, 4, 8, 16, 32))
    ]
    assert decoder(features, (64, 64)).is_contiguous(memory_format=torch.channels_last)
