"""Box arithmetic: cases by hand, the coder's round trip, torchvision as oracle."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from effdense.models.detection.boxes import box_area, clip_boxes, decode_boxes, encode_boxes, pairwise_iou


def random_boxes(count: int, seed: int, size: float = 100.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    return torch.cat((corner, corner + torch.rand(count, 2, generator=generator) * size + 0.5), dim=1)


def test_area_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 3], [5, 5, 5, 9], [2, 2, 1, 5]])  # plain, a line, turned inside out
    assert box_area(boxes).tolist() == [6.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7),  # overlap 1, union 4 + 4 - 1
        ([0, 0, 4, 4], [0, 0, 2, 2], 0.25),
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0.0),  # touching
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0),  # two points: 0 / 0 is no overlap
    ],
)
def test_iou_by_hand(a: list[float], b: list[float], expected: float) -> None:
    iou = pairwise_iou(torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32))
    assert iou.item() == pytest.approx(expected, abs=1e-7)


def test_iou_equals_torchvision_and_takes_batches() -> None:
    a, b = random_boxes(20, 0), random_boxes(30, 1)
    torch.testing.assert_close(pairwise_iou(a, b), box_iou(a, b))
    batched = pairwise_iou(torch.stack((a, a.flip(0))), b[None])
    assert batched.shape == (2, 20, 30)
    assert torch.equal(batched[1], pairwise_iou(a.flip(0), b))


def test_clip_to_one_size_and_to_a_size_per_box() -> None:
    boxes = torch.tensor([[[-5.0, 2, 50, 8], [1, -1, 9, 70]]])
    assert clip_boxes(boxes, 10.0, 20.0).tolist() == [[[0, 2, 20, 8], [1, 0, 9, 10]]]
    heights, widths = torch.tensor([[10.0, 60.0]]), torch.tensor([[20.0, 5.0]])
    assert clip_boxes(boxes, heights, widths).tolist() == [[[0, 2, 20, 8], [1, 0, 5, 60]]]


def test_code_by_hand() -> None:
    anchor = torch.tensor([[0.0, 0, 10, 20]])  # centre (5, 10), 10 wide, 20 high
    box = torch.tensor([[5.0, 10, 15, 50]])  # centre (10, 30), 10 wide, 40 high
    code = encode_boxes(box, anchor)
    torch.testing.assert_close(code, torch.tensor([[20 / 20, 5 / 10, math.log(2), 0.0]]))  # ty, tx, th, tw
    torch.testing.assert_close(decode_boxes(code, anchor), box)


def test_an_anchor_on_its_own_box_codes_to_exact_zeros() -> None:
    # The loss leaves entries out whose target is exactly 0, so "nearly 0" would be another loss.
    anchors = random_boxes(50, 3)
    assert torch.equal(encode_boxes(anchors, anchors), torch.zeros(50, 4))


def test_round_trip() -> None:
    boxes, anchors = random_boxes(200, 4), random_boxes(200, 5)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, rtol=1e-5, atol=1e-4)


def test_empty_boxes_have_finite_codes() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    for box in ([3.0, 3, 3, 3], [5.0, 5, 4, 2]):
        assert torch.isfinite(encode_boxes(torch.tensor([box]), anchors)).all()


def test_exploded_sizes_clip_to_the_picture() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    box = decode_boxes(torch.tensor([[0.0, 0.0, 500.0, 500.0]]), anchors)  # exp overflows to infinity
    assert clip_boxes(box, 64.0, 48.0).tolist() == [[0, 0, 48, 64]]
