"""Result files that are spoiled in one of the usual ways are told from those that are only bad."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.error_types import tide_errors
from effdense.evaluation.usual_mistakes import usual_mistakes


def columns() -> tuple[Truth, Found]:
    """50 objects of five classes on ten pictures, and detections that are right."""
    generator = np.random.default_rng(0)
    boxes = np.concatenate([generator.uniform(50, 300, (50, 2)), generator.uniform(20, 60, (50, 2))], 1)
    ids, image = np.array([1, 3, 4, 7, 9]), np.repeat(np.arange(1, 11), 5)
    category = ids[generator.integers(0, 5, 50)]
    truth = Truth(
        "by hand", np.arange(1, 11), ids, tuple("abcde"), image, category, boxes, boxes[:, 2] * boxes[:, 3],
        np.zeros(50, np.bool_),
    )  # fmt: skip
    return truth, Found(image, category, boxes, generator.random(50))


def said(truth: Truth, found: Found) -> list[str]:
    return usual_mistakes(truth, found, tide_errors(truth, found))


def test_right_ones_and_bad_ones() -> None:
    truth, found = columns()
    assert said(truth, found) == []
    assert said(truth, replace(found, xywh=found.xywh + [200, 0, 0, 0])) == []
    assert said(truth, found.take(np.zeros(50, np.bool_))) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda b: np.stack([b[:, 0], b[:, 1], b[:, 0] + b[:, 2], b[:, 1] + b[:, 3]], 1), "x1, y1, x2, y2"),
        (lambda b: b + np.stack([b[:, 2], b[:, 3], 0 * b[:, 0], 0 * b[:, 0]], 1) / 2, "centre x, centre y"),
        (lambda b: b[:, [1, 0, 3, 2]], "y, x, height, width"),
    ],
)
def test_boxes_in_another_order(spoil: object, words: str) -> None:
    truth, found = columns()
    (sentence,) = said(truth, replace(found, xywh=spoil(found.xywh)))  # type: ignore[operator]
    assert words in sentence and "would be 100.0 points instead of" in sentence


@pytest.mark.parametrize(("step", "words"), [(-1, "one too low"), (1, "one too high")])
def test_shifted_categories(step: int, words: str) -> None:
    truth, found = columns()
    at = np.searchsorted(truth.category_ids, found.category) + step
    kept = (at >= 0) & (at < 5)
    shifted = replace(found.take(kept), category=truth.category_ids[at[kept]])
    (sentence,) = said(truth, shifted)
    assert f"category ids look {words}" in sentence
