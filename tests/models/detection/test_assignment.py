"""Anchor assignment: IoUs that can be read off, invariants, and a loop that follows Google's matcher literally."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from effdense.models.detection.anchors import make_anchors, pyramid_sizes
from effdense.models.detection.assignment import BACKGROUND, IGNORE, assign_anchors

# IoU with the box [0, 0, 10, 10]: 1, .5, .4, 0.
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [20, 20, 30, 30]])
BOX = [0.0, 0, 10, 10]


def assign(boxes: list[list[float]], labels: list[int] | None = None, **options: float) -> list[int]:
    labels = [0] * len(boxes) if labels is None else labels
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    padded = torch.tensor(boxes).reshape(1, -1, 4)
    return assign_anchors(ANCHORS, padded, torch.tensor([labels]), valid, **options)[0].tolist()


def test_an_iou_of_one_half_matches() -> None:
    assert assign([BOX]) == [0, 0, BACKGROUND, BACKGROUND]


def test_between_the_thresholds_is_ignored() -> None:
    zone = {"positive_iou": 0.6, "negative_iou": 0.4}
    assert assign([BOX], **zone) == [0, IGNORE, IGNORE, BACKGROUND]  # .4 is not below .4


def test_a_box_with_little_overlap_still_gets_its_best_anchor() -> None:
    assert assign([BOX, [22.0, 22, 24, 24]]) == [0, 0, BACKGROUND, 1]  # IoU .04


def test_forcing_takes_an_anchor_from_a_better_match_and_the_first_box_wins() -> None:
    low = [0.0, 0, 10, 12]  # its best anchor is the first one (10/12), which fits BOX perfectly
    assert assign([BOX, low])[0] == 0
    assert assign([low, BOX])[0] == 0


def test_boxes_without_area_or_overlap_match_nothing() -> None:
    assert assign([[5.0, 5, 5, 5], [100, 100, 120, 120]]) == [BACKGROUND] * 4


def test_a_box_labelled_minus_one_makes_its_anchors_ignored() -> None:
    assert assign([BOX], [-1]) == [IGNORE, IGNORE, BACKGROUND, BACKGROUND]


def test_no_boxes_at_all() -> None:
    empty = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool)
    assert assign_anchors(ANCHORS, *empty).tolist() == [[BACKGROUND] * 4] * 2


def scene(count: int, seed: int, size: int = 128) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = torch.rand(count, 2, generator=generator) ** 2 * 90 + 3
    corner = torch.rand(count, 2, generator=generator) * (size - sides)
    return torch.cat((corner, corner + sides), 1), torch.randint(0, 5, (count,), generator=generator)


def literal(anchors: Tensor, boxes: Tensor, labels: Tensor, positive: float, negative: float) -> list[int]:
    """automl argmax_matcher.py, one image, one anchor after the other."""
    iou = box_iou(boxes, anchors)
    matches = []
    for column in iou.T:
        best = int(column.argmax())
        matches.append(best if column[best] >= positive else BACKGROUND if column[best] < negative else IGNORE)
    for row in reversed(range(len(boxes))):  # so that the first box has the last word
        if iou[row].max() > 0:
            matches[int(iou[row].argmax())] = row
    return [IGNORE if match >= 0 and labels[match] < 0 else match for match in matches]


@pytest.mark.parametrize(("positive", "negative"), [(0.5, 0.5), (0.6, 0.4)])
@pytest.mark.parametrize(("count", "seed"), [(1, 0), (5, 1), (16, 2), (17, 3), (50, 4)])
def test_equals_the_literal_matcher(count: int, seed: int, positive: float, negative: float) -> None:
    # Counts above 16 are computed in blocks.
    anchors = make_anchors((128, 128), pyramid_sizes((128, 128), 3, 5))
    boxes, labels = scene(count, seed)
    labels[::4] = -1
    valid = torch.ones(1, count, dtype=torch.bool)
    found = assign_anchors(anchors, boxes[None], labels[None], valid, positive_iou=positive, negative_iou=negative)
    assert found[0].tolist() == literal(anchors, boxes, labels, positive, negative)


def test_a_batch_is_its_images_and_padding_does_not_matter() -> None:
    anchors = make_anchors((128, 128), pyramid_sizes((128, 128), 3, 5))
    scenes = [scene(count, seed) for seed, count in enumerate((3, 20, 1))]
    boxes, labels = torch.zeros(3, 24, 4), torch.zeros(3, 24, dtype=torch.int64)
    boxes[:] = torch.tensor([10.0, 10, 60, 60])  # padding that would match if it were looked at
    valid = torch.zeros(3, 24, dtype=torch.bool)
    for i, (own_boxes, own_labels) in enumerate(scenes):
        boxes[i, : len(own_boxes)], labels[i, : len(own_labels)] = own_boxes, own_labels
        valid[i, : len(own_boxes)] = True
    together = assign_anchors(anchors, boxes, labels, valid)
    for i, (own_boxes, own_labels) in enumerate(scenes):
        alone = assign_anchors(anchors, own_boxes[None], own_labels[None], torch.ones(1, len(own_boxes)).bool())
        assert torch.equal(together[i], alone[0])


def test_the_order_of_boxes_does_not_matter() -> None:
    anchors = make_anchors((128, 128), pyramid_sizes((128, 128), 3, 5))
    # One box to a quarter of the picture, so that no two boxes force the same anchor.
    boxes = torch.tensor([[4.0, 5, 50, 60], [70, 3, 120, 40], [9, 70, 40, 100], [80.0, 80, 90, 89]])
    order = torch.tensor([2, 0, 3, 1])
    labels, valid = torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool)
    plain = assign_anchors(anchors, boxes[None], labels, valid)[0]
    shuffled = assign_anchors(anchors, boxes[order][None], labels, valid)[0]
    assert torch.equal(plain < 0, shuffled < 0)
    assert set(plain.tolist()) == {BACKGROUND, 0, 1, 2, 3}
    assert torch.equal(plain[plain >= 0], order[shuffled[shuffled >= 0]])
