"""The U-Net decoder: one block by hand, then shapes that no power of two divides."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effdense.models.segmentation.unet import JoiningConv2d, UNetBlock, UNetDecoder, resize


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


def plain(conv, x, size, skip):
    """What a JoiningConv2d stands for."""
    up = resize(x, size, conv.upsample)
    return F.conv2d(up if skip is None else torch.cat([up, skip], 1), conv.weight, padding=1)


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("coarse", [(32, 17), (4, 5)])  # above and below the limit for the 4x4 kernel
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("skip_channels", [0, 3])
def test_joining_convolution_equals_resize_concatenate_convolve(upsample, coarse, odd, skip_channels):
    torch.manual_seed(0)
    conv = JoiningConv2d(5, skip_channels, 7, upsample=upsample).double()
    size = (2 * coarse[0] - odd, 2 * coarse[1] - odd)
    x = torch.randn(2, 5, *coarse, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, skip_channels, *size, dtype=torch.float64, requires_grad=True) if skip_channels else None
    inputs = [conv.weight, x, *([] if skip is None else [skip])]
    results = [conv(x, size, skip), plain(conv, x, size, skip)]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(result.sin().sum(), inputs) for result in results)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_joining_convolution_under_autocast_sums_its_kernel_in_float32():
    torch.manual_seed(0)
    conv = JoiningConv2d(8, 0, 4, upsample="nearest")
    x = torch.randn(1, 8, 32, 32)
    exact = plain(conv, x, (64, 64), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = conv(x, (64, 64), None), plain(conv, x, (64, 64), None)
    assert ours.dtype == torch.bfloat16
    # No worse than the plain form, whose own rounding is the measure.
    assert (ours - exact).abs().mean() <= 1.2 * (theirs - exact).abs().mean()


def test_joining_convolution_does_less_arithmetic_and_exports_in_its_plain_form():
    conv = JoiningConv2d(8, 4, 4, upsample="nearest").eval()
    x, skip = torch.randn(1, 8, 32, 32), torch.randn(1, 4, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        conv(x, (64, 64), skip)
    assert counter.get_total_flops() < 0.65 * 2 * 9 * 12 * 4 * 64 * 64
    exported = torch.export.export(conv, (x, (64, 64), skip))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert not any("transpose" in target for target in targets), targets
    torch.testing.assert_close(exported.module()(x, (64, 64), skip), conv(x, (64, 64), skip), rtol=1e-5, atol=1e-5)
