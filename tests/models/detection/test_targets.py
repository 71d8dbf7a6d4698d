"""Padding of targets, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from effdense.errors import ShapeError
from effdense.models.detection.targets import pad_targets


def target(boxes: list[list[float]], labels: list[int]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def test_the_fullest_image_decides() -> None:
    boxes, labels, valid = pad_targets([target([[1, 2, 3, 4], [5, 6, 7, 8]], [2, -1]), target([], [])], 3)
    assert boxes.dtype == torch.float32
    assert boxes.tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]], [[0] * 4] * 2]
    assert labels.tolist() == [[2, -1], [-1, -1]]
    assert valid.tolist() == [[True, True], [False, False]]


def test_without_any_box_there_is_one_row_of_padding() -> None:
    boxes, labels, valid = pad_targets([target([], [])], 3)
    assert boxes.shape == (1, 1, 4) and labels.shape == (1, 1) and not valid.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"boxes": torch.zeros(1, 4)}, r"target 1 needs 'boxes' and 'labels', got \['boxes'\]"),
        ({"boxes": torch.zeros(2, 4), "labels": torch.zeros(1).long()}, r"got \(2, 4\) and \(1,\)"),
        ({"boxes": torch.zeros(4), "labels": torch.zeros(1).long()}, r"expected boxes \(G, 4\)"),
        (target([[0, 0, 1, 1]], [3]), r"labels must lie in 0\.\.2 .* got 3\.\.3"),
        (target([[0, 0, 1, 1]], [-2]), r"got -2\.\.-2"),
        (target([[0, 0, 1, 1], [30, 30, 10, 10]], [0, 0]), r"target 1: box 1 is \[30.*xywh"),
        (target([[0, 0, float("nan"), 1]], [0]), r"box 0 .* finite"),
    ],
)
def test_what_cannot_be_used_is_named(wrong: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        pad_targets([target([[0, 0, 1, 1]], [0]), wrong], 3)
