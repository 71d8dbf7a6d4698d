"""TensorFlow SAME padding: amounts by hand, then convolutions whose outputs tell where each window lies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effdense.errors import ConfigError
from effdense.models.encoders.padding import (
    Conv2dStrided,
    PointwiseConv2d,
    check_padding,
    make_conv,
    same_padding,
    set_convention,
)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "expected"),
    [
        (8, 3, 2, (0, 1)),  # windows start at 0, 2, 4, 6; the last one ends at 9: one px over
        (7, 3, 2, (1, 1)),
        (8, 5, 2, (1, 2)),
        (7, 5, 2, (2, 2)),
        (8, 3, 1, (1, 1)),
        (1, 5, 2, (2, 2)),
        (8, 1, 2, (0, 0)),  # a window smaller than the stride never overhangs
        (10, 3, 4, (0, 1)),
    ],
)
def test_amounts_by_hand(side: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(side, kernel, stride) == expected


def test_output_side_is_always_the_ceiling() -> None:
    for side in range(1, 40):
        for kernel, stride, dilation in ((3, 1, 1), (3, 2, 1), (5, 2, 1), (7, 4, 1), (2, 2, 1), (3, 2, 2), (1, 2, 1)):
            padded = side + sum(same_padding(side, kernel, stride, dilation))
            assert (padded - dilation * (kernel - 1) - 1) // stride + 1 == -(-side // stride)


def _summing(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.ones_(conv.weight)
    return conv


def test_even_side_starts_its_windows_at_the_first_pixel() -> None:
    row = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 1, 1, 4)
    same = _summing(make_conv(1, 1, 3, stride=2, padding="same"))
    symmetric = _summing(make_conv(1, 1, 3, stride=2, padding="symmetric"))
    assert same(row).flatten().tolist() == [7.0, 12.0]  # 1+2+4, 4+8+pad
    assert symmetric(row).flatten().tolist() == [3.0, 14.0]  # pad+1+2, 2+4+8


def test_odd_side_is_the_symmetric_case() -> None:
    image = torch.rand(2, 1, 7, 9, generator=torch.Generator().manual_seed(0))
    same = _summing(make_conv(1, 1, 3, stride=2, padding="same"))
    symmetric = _summing(make_conv(1, 1, 3, stride=2, padding="symmetric"))
    assert torch.equal(same(image), symmetric(image))


def test_the_axes_are_padded_apart() -> None:
    # Height 1 (one px on both sides), width 2 (one px on the right only).
    image = torch.tensor([[1.0, 2.0]]).reshape(1, 1, 1, 2)
    conv = make_conv(1, 1, 3, stride=2, padding="same")
    with torch.no_grad():
        conv.weight.copy_(torch.arange(9.0).reshape(1, 1, 3, 3))
    assert conv(image).item() == 3.0 * 1 + 4.0 * 2  # middle row of the kernel, its left and middle tap


def test_stride_one_needs_no_padding_at_run_time() -> None:
    conv = make_conv(4, 4, 5, groups=4, padding="same")
    assert isinstance(conv, nn.Conv2d) and not isinstance(conv, Conv2dStrided)
    assert conv.padding == (2, 2)
    assert make_conv(4, 4, 5, stride=2, padding="symmetric").padding == (2, 2)


def test_fixed_amounts_follow_the_native_side() -> None:
    row = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 1, 1, 4)
    conv = make_conv(1, 1, 3, stride=2, padding="same_static")
    assert isinstance(conv, Conv2dStrided)
    _summing(conv)
    conv.native_side = 7  # odd: one px on both sides, also where the input is even
    assert conv(row).flatten().tolist() == [3.0, 14.0]
    conv.native_side = 8  # even: one px at the end
    assert conv(row).flatten().tolist() == [7.0, 12.0]
    # That amount would lose the last window of an odd side; there the amount follows the input.
    assert conv(row[..., :3]).flatten().tolist() == [3.0, 6.0]


def test_output_side_is_the_ceiling_under_fixed_amounts() -> None:
    for kernel, stride, dilation in ((3, 2, 1), (5, 2, 1), (7, 4, 1), (2, 2, 1), (1, 2, 1), (3, 4, 1), (3, 2, 2)):
        conv = make_conv(1, 1, kernel, stride=stride, dilation=dilation, padding="same_static")
        assert isinstance(conv, Conv2dStrided)
        for native in range(1, 10):
            conv.native_side = native
            for side in range(1, 20):
                assert conv(torch.zeros(1, 1, side, 5)).shape[-2] == -(-side // stride)


def test_a_convention_is_switched_in_place() -> None:
    image = torch.rand(1, 2, 8, 6, generator=torch.Generator().manual_seed(0))
    block = nn.Sequential(make_conv(2, 3, 3, stride=2, padding="same"), nn.BatchNorm2d(3, eps=1e-3)).eval()
    other = nn.Sequential(make_conv(2, 3, 3, stride=2, padding="symmetric"), nn.BatchNorm2d(3, eps=1e-5)).eval()
    other.load_state_dict(block.state_dict())
    before = block(image)
    set_convention(block, padding="symmetric", bn_eps=1e-5)
    assert torch.equal(block(image), other(image)) and not torch.allclose(block(image), before)
    set_convention(block, padding="same", bn_eps=1e-3)
    assert torch.equal(block(image), before)
    with pytest.raises(ConfigError, match="bn_eps must be above 0"):
        set_convention(block, padding="symmetric", bn_eps=0.0)
    assert torch.equal(block(image), before)  # not half switched


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 7)])
def test_channels_last_stays_channels_last(size: tuple[int, int]) -> None:
    conv = make_conv(8, 8, 3, stride=2, groups=8, padding="same").to(memory_format=torch.channels_last)
    image = torch.rand(2, 8, *size).contiguous(memory_format=torch.channels_last)
    assert conv(image).is_contiguous(memory_format=torch.channels_last)


def test_a_third_convention_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'symetric', expected .* Did you mean 'symmetric'"):
        check_padding("symetric")


@pytest.mark.parametrize("convention", ["same", "same_static"])
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 2, 1), (5, 2, 1), (3, 3, 1), (2, 1, 1), (4, 2, 2), (5, 4, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_padding_equals_a_padded_copy_with_and_without_gradients(convention, kernel, stride, dilation, channels_last):
    torch.manual_seed(0)
    for side in [(7, 8), (16, 13), (9, 5), (1, 2)]:
        conv = Conv2dStrided(
            4, 4, kernel, stride=stride, dilation=dilation, groups=2, convention=convention, native_side=side[0]
        ).double()
        x = torch.randn(2, 4, *side, dtype=torch.float64)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        (top, bottom), (left, right) = conv._amounts(side[0], 0), conv._amounts(side[1], 1)

        def by_hand(x, conv=conv, amounts=(left, right, top, bottom), dilation=dilation):
            x = torch.nn.functional.pad(x, amounts)
            return torch.nn.functional.conv2d(x, conv.weight, None, stride, 0, dilation, 2) + conv.bias.view(-1, 1, 1)

        with torch.no_grad():
            torch.testing.assert_close(conv(x), by_hand(x), rtol=1e-12, atol=1e-12)
        x.requires_grad_()
        wanted = [x, conv.weight]
        gradients = [torch.autograd.grad(y.sin().sum(), wanted) for y in (conv(x), by_hand(x))]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("batch, side", [(1, (17, 3)), (3, (6, 5)), (1, (4, 4)), (16, (2, 2))])
def test_pointwise_convolution_by_rows_equals_the_plain_one(batch, side, one_thread):
    torch.manual_seed(0)
    conv = PointwiseConv2d(6, 8, 1)
    x = torch.randn(batch, 6, *side).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    ours, theirs = conv(x), torch.nn.functional.conv2d(x, conv.weight, conv.bias)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    wanted = [x, conv.weight, conv.bias]
    gradients = (torch.autograd.grad(y.sin().sum(), wanted, retain_graph=True) for y in (ours, theirs))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.fixture
def one_thread():
    """Torch with one thread, where 1x1 convolutions go by rows."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("convention", ["same", "symmetric"])
@pytest.mark.parametrize("batch, side", [(1, (17, 8)), (3, (6, 5)), (2, (1, 3))])
def test_depthwise_5x5_gradients_put_together_from_corners(stride, convention, batch, side):
    torch.manual_seed(0)
    conv = make_conv(6, 6, 5, stride=stride, groups=6, padding=convention)
    x = torch.randn(batch, 6, *side).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = conv(x)
    assert "Depthwise5x5" in type(y.grad_fn).__name__
    double = make_conv(6, 6, 5, stride=stride, groups=6, padding=convention).double()  # float64 goes the plain way
    double.load_state_dict(conv.state_dict())
    x64 = x.detach().double().requires_grad_()
    y64 = double(x64)
    assert "Depthwise5x5" not in type(y64.grad_fn).__name__
    torch.testing.assert_close(y.double(), y64, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(y.sin().sum(), [x, conv.weight])
    exact = torch.autograd.grad(y64.sin().sum(), [x64, double.weight])
    torch.testing.assert_close([g.double() for g in ours], list(exact), rtol=1e-4, atol=1e-4)


def test_frozen_weights_and_inputs_get_no_gradient():
    conv = make_conv(6, 6, 5, groups=6)
    x = torch.randn(1, 6, 8, 8).contiguous(memory_format=torch.channels_last)
    conv(x).sum().backward()
    assert conv.weight.grad is not None and x.grad is None
    conv.weight.requires_grad_(False)
    x.requires_grad_()
    conv(x).sum().backward()
    assert x.grad is not None
