"""TensorFlow SAME padding: amounts by hand, then convolutions whose outputs tell where each window lies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effdense.errors import ConfigError
from effdense.models.encoders.padding import Conv2dSame, check_padding, make_conv, same_padding


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
    assert type(conv) is nn.Conv2d
    assert conv.padding == (2, 2)
    assert isinstance(make_conv(4, 4, 5, stride=2, padding="same"), Conv2dSame)
    assert type(make_conv(4, 4, 5, stride=2, padding="symmetric")) is nn.Conv2d


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 7)])
def test_channels_last_stays_channels_last(size: tuple[int, int]) -> None:
    conv = make_conv(8, 8, 3, stride=2, groups=8, padding="same").to(memory_format=torch.channels_last)
    image = torch.rand(2, 8, *size).contiguous(memory_format=torch.channels_last)
    assert conv(image).is_contiguous(memory_format=torch.channels_last)


def test_a_third_convention_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'symetric', expected .* Did you mean 'symmetric'"):
        check_padding("symetric")
