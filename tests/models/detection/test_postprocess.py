"""Candidate selection and NMS: by hand, then against a plain top-k, torchvision's batched NMS and a naive soft-NMS."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from effdense.errors import ConfigError
from effdense.models.detection.boxes import clip_boxes, decode_boxes
from effdense.models.detection.losses import flatten_level
from effdense.models.detection.postprocess import (
    Candidates,
    PaddedDetections,
    non_maximum_suppression,
    select_candidates,
)


def outputs(
    batch: int, classes: int, sizes: list[tuple[int, int]], seed: int = 0
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Random outputs of 3 anchors a cell without equal logits, and 40 px anchors."""
    generator = torch.Generator().manual_seed(seed)
    logits, deltas = [], []
    for height, width in sizes:
        count = batch * 3 * classes * height * width
        distinct = torch.randperm(count, generator=generator) / count * 8 - 6 + 0.001 * len(logits)
        logits.append(distinct.reshape(batch, 3 * classes, height, width))
        deltas.append(torch.randn(batch, 12, height, width, generator=generator))
    corner = torch.rand(3 * sum(h * w for h, w in sizes), 2, generator=generator) * 80
    return logits, deltas, torch.cat((corner, corner + 40), 1)


def test_selection_by_hand() -> None:
    # Two cells, one anchor each, two classes; channels are the classes.
    logits = torch.tensor([[1.0, -1.0], [0.0, 3.0]]).reshape(1, 2, 1, 2)  # class 0: 1, -1; class 1: 0, 3
    anchors = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4]])
    found = select_candidates(
        [logits], [torch.zeros(1, 4, 1, 2)], anchors, num_anchors=1, image_sizes=(4, 6), max_candidates=3
    )
    assert found.labels.tolist() == [[1, 0, 1]]
    assert found.boxes.tolist() == [[[4, 0, 6, 4], [0, 0, 4, 4], [0, 0, 4, 4]]]  # clipped to 6 px wide
    torch.testing.assert_close(found.scores, torch.sigmoid(torch.tensor([[3.0, 1.0, 0.0]])))


@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize("limit", [1, 25, 5000])
def test_selection_in_two_stages_equals_a_plain_top_k(classes: int, limit: int) -> None:
    logits, deltas, anchors = outputs(2, classes, [(4, 6), (2, 3)])
    found = select_candidates(logits, deltas, anchors, num_anchors=3, image_sizes=(90, 100), max_candidates=limit)
    flat = torch.cat([flatten_level(level, 3) for level in logits], 1)
    flat_deltas = torch.cat([flatten_level(level, 3) for level in deltas], 1)
    count = min(limit, flat.shape[1] * classes)  # 90 anchors: fewer candidates than asked for are all of them
    assert found.scores.shape == (2, count)
    for i in range(2):
        top, index = flat[i].reshape(-1).topk(count)
        anchor = index // classes
        torch.testing.assert_close(found.scores[i], top.sigmoid())
        assert torch.equal(found.labels[i], index % classes)
        expected = clip_boxes(decode_boxes(flat_deltas[i, anchor], anchors[anchor]), 90.0, 100.0)
        torch.testing.assert_close(found.boxes[i], expected)


def test_each_image_is_clipped_to_its_own_size() -> None:
    logits, deltas, anchors = outputs(2, 2, [(4, 6)])
    sizes = torch.tensor([[30, 100], [90, 50]])  # h, w
    together = select_candidates(logits, deltas, anchors, num_anchors=3, image_sizes=sizes)
    for i, size in enumerate(sizes.tolist()):
        alone = select_candidates(
            [level[i : i + 1] for level in logits],
            [level[i : i + 1] for level in deltas],
            anchors,
            num_anchors=3,
            image_sizes=(size[0], size[1]),
        )
        assert torch.equal(together.boxes[i], alone.boxes[0])
        assert together.boxes[i, :, 3].max() == size[0] and together.boxes[i, :, 2].max() == size[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_give_float32_boxes_and_scores(dtype: torch.dtype) -> None:
    logits, deltas, anchors = outputs(1, 3, [(4, 6)])
    found = select_candidates(
        [level.to(dtype) for level in logits],
        [level.to(dtype) for level in deltas],
        anchors,
        num_anchors=3,
        image_sizes=(90, 100),
        max_candidates=20,
    )
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert (found.scores.diff() <= 0).all()


def candidates(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Candidates:
    return Candidates(torch.tensor([boxes], dtype=torch.float32), torch.tensor([scores]), torch.tensor([labels]))


# The second lies in the first (IoU .9) with the same class, the third has another class, the fourth is far away.
FOUR = candidates([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 0])


def test_hard_nms_by_hand() -> None:
    found = non_maximum_suppression(FOUR, max_detections=5)
    assert found.valid.tolist() == [[True, True, True, False, False]]
    assert found.labels.tolist() == [[0, 1, 0, -1, -1]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.7, 0.6, 0, 0]]))
    assert found.boxes[0, 2].tolist() == [50, 50, 60, 60] and (found.boxes[0, 3:] == 0).all()


def test_soft_nms_by_hand() -> None:
    found = non_maximum_suppression(FOUR, method="soft", sigma=0.5, max_detections=4)
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.7, 0.6, 0.8 * math.exp(-(0.9**2) / 0.5)]]))
    assert found.labels.tolist() == [[0, 1, 0, 0]]


def test_an_overlap_of_exactly_the_threshold_stays() -> None:
    pair = candidates([[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], [0, 0])
    assert non_maximum_suppression(pair, iou_threshold=0.5).valid.sum() == 2
    assert non_maximum_suppression(pair, iou_threshold=0.49).valid.sum() == 1


def test_scores_must_exceed_the_threshold_and_zero() -> None:
    rows = candidates([[0, 0, 9, 9], [20, 20, 30, 30], [40, 40, 50, 50]], [0.5, 0.25, 0.0], [0, 0, 0])
    assert non_maximum_suppression(rows).valid.sum() == 2
    assert non_maximum_suppression(rows, score_threshold=0.25).valid.sum() == 1


def test_scores_that_are_no_number_are_left_out() -> None:
    rows = candidates([[0, 0, 9, 9], [20, 20, 30, 30]], [math.nan, 0.25], [0, 1])
    found = non_maximum_suppression(rows, max_detections=3)
    assert found.valid.tolist() == [[True, False, False]]
    assert found.labels[0, 0] == 1 and found.scores[0, 0] == 0.25


def test_boxes_without_area_suppress_nothing() -> None:
    points = candidates([[5, 5, 5, 5], [5, 5, 5, 5]], [0.9, 0.8], [0, 0])
    assert non_maximum_suppression(points).valid.sum() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": "softt"}, r"NMS method must be one of \('hard', 'soft'\), got 'softt'"), ({"max_detections": 0}, "0")],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        non_maximum_suppression(FOUR, **options)


def crowd(seed: int, count: int = 300, classes: int = 3) -> Candidates:
    """Overlapping boxes with distinct scores, best first."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + torch.rand(count, 2, generator=generator) * 60 + 5), 1)
    scores = torch.randperm(count, generator=generator).sort(descending=True).values / count * 0.9 + 0.05
    return Candidates(boxes[None], scores[None], torch.randint(0, classes, (1, count), generator=generator))


def kept(found: PaddedDetections) -> tuple[Tensor, Tensor, Tensor]:
    valid = found.valid[0]
    return found.boxes[0][valid], found.scores[0][valid], found.labels[0][valid]


@pytest.mark.parametrize("limit", [10, 300])
@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_hard_nms_equals_torchvision(seed: int, threshold: float, limit: int) -> None:
    crowded = crowd(seed)
    boxes, scores, labels = kept(non_maximum_suppression(crowded, iou_threshold=threshold, max_detections=limit))
    expected = batched_nms(crowded.boxes[0], crowded.scores[0], crowded.labels[0], threshold)[:limit]
    assert torch.equal(boxes, crowded.boxes[0][expected])
    assert torch.equal(scores, crowded.scores[0][expected])
    assert torch.equal(labels, crowded.labels[0][expected])


def naive_soft_nms(crowded: Candidates, sigma: float, threshold: float, limit: int) -> list[tuple[int, float]]:
    """Bodla et al. 2017, figure 2, with the Gaussian of equation 3, one class after the other: (index, score)."""
    iou = box_iou(crowded.boxes[0].double(), crowded.boxes[0].double()).numpy()
    found = []
    for label in crowded.labels[0].unique().tolist():
        left = np.flatnonzero(crowded.labels[0].numpy() == label).tolist()
        scores = {i: float(crowded.scores[0, i]) for i in left}
        while left:
            best = max(left, key=lambda i: scores[i])
            found.append((best, scores[best]))
            left.remove(best)
            for i in left:
                scores[i] *= np.exp(-(iou[best, i] ** 2) / sigma)
    ranked = sorted(found, key=lambda pick: -pick[1])
    return [pick for pick in ranked if pick[1] > threshold][:limit]


@pytest.mark.parametrize(("sigma", "limit"), [(0.5, 20), (0.5, 100), (0.2, 100)])
@pytest.mark.parametrize("seed", range(3))
def test_soft_nms_equals_the_naive_loop(seed: int, sigma: float, limit: int) -> None:
    crowded = crowd(seed, count=120)
    boxes, scores, _ = kept(
        non_maximum_suppression(crowded, method="soft", sigma=sigma, score_threshold=0.001, max_detections=limit)
    )
    expected = naive_soft_nms(crowded, sigma, 0.001, limit)
    assert len(scores) == len(expected)
    torch.testing.assert_close(
        scores, torch.tensor([float(score) for _, score in expected], dtype=torch.float32), rtol=1e-4, atol=1e-7
    )
    assert torch.equal(boxes, crowded.boxes[0][[index for index, _ in expected]])


@pytest.mark.parametrize("method", ["hard", "soft"])
def test_a_batch_is_its_images(method: str) -> None:
    parts = [crowd(seed, count=60) for seed in range(3)]
    together = non_maximum_suppression(
        Candidates(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))), method=method
    )
    for i, part in enumerate(parts):
        for joint, alone in zip(together, non_maximum_suppression(part, method=method), strict=True):
            assert torch.equal(joint[i], alone[0])
