"""Error types by hand, one of each, with their costs; then what must hold for any set."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from effdense.errors import ConfigError, DataError
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.error_matching import (
    BKG,
    BOTH,
    CLS,
    CORRECT,
    CROWD,
    DUPE,
    LEFT_OUT,
    LOC,
    MISS,
    NEARLY,
    match_errors,
)
from effdense.evaluation.error_types import ERRORS, tide_errors

Box = tuple[float, float, float, float]


def truth_of(
    rows: list[tuple[int, int, Box]], *, images: int = 1, classes: int = 3, crowd: tuple[int, ...] = ()
) -> Truth:
    """(image, category, xywh) rows; categories are 10, 20, 30 ..."""
    boxes = np.array([box for _, _, box in rows], np.float64).reshape(-1, 4)
    return Truth(
        name="by hand",
        image_ids=np.arange(1, images + 1),
        category_ids=10 * np.arange(1, classes + 1),
        class_names=tuple("abcdefghij"[:classes]),
        image=np.array([image for image, _, _ in rows], np.int64),
        category=np.array([category for _, category, _ in rows], np.int64),
        xywh=boxes,
        area=boxes[:, 2] * boxes[:, 3],
        is_crowd=np.isin(np.arange(len(rows)), crowd),
    )


def found_of(rows: list[tuple[int, int, Box, float]]) -> Found:
    return Found(
        image=np.array([row[0] for row in rows], np.int64),
        category=np.array([row[1] for row in rows], np.int64),
        xywh=np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
        score=np.array([row[3] for row in rows], np.float64),
    )


ONE_OF_EACH = truth_of(
    [
        (1, 10, (0, 0, 10, 10)),  # found, and found again
        (1, 10, (100, 0, 10, 10)),  # found at IoU 1/3
        (1, 20, (200, 0, 10, 10)),  # found as another class
        (1, 30, (300, 0, 10, 10)),  # missed
    ]
)
SAID = found_of(
    [
        (1, 10, (0, 0, 10, 10), 0.9),
        (1, 10, (0, 0, 10, 9), 0.8),
        (1, 10, (105, 0, 10, 10), 0.7),
        (1, 10, (200, 0, 10, 10), 0.6),
        (1, 10, (205, 0, 10, 10), 0.5),  # IoU 1/3 with an object of another class
        (1, 10, (500, 0, 10, 10), 0.4),
    ]
)


def test_one_of_each() -> None:
    errors = tide_errors(ONE_OF_EACH, SAID)
    assert errors.matching.kind.tolist() == [CORRECT, DUPE, LOC, CLS, BOTH, BKG]
    assert errors.matching.partner.tolist() == [0, 0, 1, 2, -1, -1]
    assert errors.matching.overlap.tolist() == pytest.approx([1, 0.9, 1 / 3, 1, 1 / 3, 0])
    assert errors.matching.state.tolist() == [CORRECT, NEARLY, NEARLY, MISS]
    assert errors.counts == dict.fromkeys(ERRORS, 1)
    assert errors.confused == (("b", "a", 1),)
    # a: two objects, hit at rank 1 of 6: precision 1 up to recall 1/2, so 51 of 101 recalls. b and c: 0.
    ap = 51 / 101 * 100 / 3
    assert errors.ap == pytest.approx(ap)
    # Loc mended: a hit at ranks 1 and 3, precision 2/3 for the other 50 recalls.
    assert errors.cost["Loc"] == pytest.approx(50 / 101 * (2 / 3) * 100 / 3)
    # Cls mended: b is found; a is as it was.
    assert errors.cost["Cls"] == pytest.approx(100 / 3)
    # Miss mended: c is no longer asked for and leaves the mean.
    assert errors.cost["Miss"] == pytest.approx(51 / 101 * 100 / 2 - ap)
    # What stands behind the only hit of a class costs nothing.
    assert errors.cost["Dupe"] == errors.cost["Bkg"] == errors.cost["Both"] == 0
    assert errors.special["FalsePos"] == pytest.approx(0)
    # Only a is found at all, and only one of a: AP 100, and b and c leave the mean.
    assert errors.special["FalseNeg"] == pytest.approx(100 - ap)
    assert errors.worst() == "Cls" and errors.advice().startswith(
        "Cls errors cost most: mending them alone would win 33.3"
    )
    assert errors.class_counts.tolist() == [[1, 1, 1, 1, 1, 0], [0] * 6, [0, 0, 0, 0, 0, 1]]
    assert errors.class_cost[0].tolist() == pytest.approx([0, 50 / 101 * (2 / 3) * 100, 0, 0, 0, 0])
    assert errors.class_cost[1, 0] == pytest.approx(100) and errors.class_cost[2, 5] == pytest.approx(100)


def test_false_positives_in_front_cost() -> None:
    """A box on nothing above the only right one halves the precision."""
    errors = tide_errors(
        truth_of([(1, 10, (0, 0, 10, 10))], classes=1),
        found_of([(1, 10, (50, 50, 10, 10), 0.9), (1, 10, (0, 0, 10, 10), 0.8)]),
    )
    assert errors.ap == pytest.approx(50)
    assert errors.cost["Bkg"] == pytest.approx(50) and errors.special["FalsePos"] == pytest.approx(50)
    assert errors.worst() == "Bkg"


def test_of_several_that_would_mend_the_best_is_taken() -> None:
    """Two Loc on one object: one becomes right, the other goes, so precision is 1."""
    errors = tide_errors(
        truth_of([(1, 10, (0, 0, 10, 10))], classes=1),
        found_of([(1, 10, (5, 0, 10, 10), 0.5), (1, 10, (0, 5, 10, 10), 0.9)]),
    )
    assert errors.matching.mends.tolist() == [False, True]
    assert errors.ap == 0 and errors.cost["Loc"] == pytest.approx(100)
    assert errors.counts["Miss"] == 0


def test_an_overlap_of_exactly_the_threshold_is_right() -> None:
    errors = tide_errors(truth_of([(1, 10, (0, 0, 10, 10))], classes=1), found_of([(1, 10, (0, 0, 10, 5), 0.5)]))
    assert errors.matching.kind.tolist() == [CORRECT]


def test_crowds_excuse_their_class_only() -> None:
    truth = truth_of([(1, 10, (0, 0, 100, 100))], classes=2, crowd=(0,))
    errors = tide_errors(truth, found_of([(1, 10, (10, 10, 10, 10), 0.5), (1, 20, (10, 10, 10, 10), 0.5)]))
    assert errors.matching.state.tolist() == [CROWD]
    assert errors.matching.excused.tolist() == [True, False]
    assert errors.counts["Bkg"] == 1 and errors.excused["Bkg"] == 1 and errors.num_instances == 0


def test_more_than_the_limit_of_a_picture() -> None:
    """The best scores stay, all classes together."""
    truth = truth_of([(1, 10, (0, 0, 10, 10))], classes=2)
    rows = [(1, 20, (50.0 + i, 0, 10, 10), 0.9) for i in range(3)] + [(1, 10, (0, 0, 10, 10), 0.1)]
    errors = tide_errors(truth, found_of(rows), max_detections=3)
    assert errors.matching.kind.tolist() == [BKG] * 3 + [LEFT_OUT] and errors.counts["Miss"] == 1
    assert errors.num_detections == 3


def test_nothing_at_all() -> None:
    errors = tide_errors(truth_of([]), found_of([]))
    assert math.isnan(errors.ap) and set(errors.cost.values()) == {0.0} and errors.worst() is None
    assert errors.advice() == "There is no ground truth, so there is nothing to score."
    assert json.loads(json.dumps(errors.to_dict(), allow_nan=False))["ap"] is None
    assert "AP - points" in errors.table()


def test_no_detections_and_no_ground_truth() -> None:
    missed = tide_errors(truth_of([(1, 10, (0, 0, 10, 10))]), found_of([]))
    assert missed.ap == 0 and missed.counts["Miss"] == 1 and missed.cost["Miss"] == 100
    false = tide_errors(truth_of([]), found_of([(1, 10, (0, 0, 10, 10), 0.5)]))
    assert false.ap == 0 and false.counts["Bkg"] == 1 and false.cost["Bkg"] == 100


def test_perfect() -> None:
    rows = [(1, 10, (0.0, 0.0, 10.0, 10.0)), (2, 20, (5.0, 5.0, 20.0, 10.0))]
    errors = tide_errors(truth_of(rows, images=2), found_of([(*row, 0.5) for row in rows]))
    assert errors.ap == pytest.approx(100) and sum(errors.counts.values()) == 0
    assert errors.advice() == "No error type costs any AP."


def random_columns(seed: int) -> tuple[Truth, Found]:
    generator = np.random.default_rng(seed)
    rows: list[Any] = []
    said: list[Any] = []
    for image in range(1, 21):
        for _ in range(int(generator.integers(0, 6))):
            box = [*generator.uniform(0, 80, 2).tolist(), *generator.uniform(5, 40, 2).tolist()]
            category = 10 * int(generator.integers(1, 4))
            rows.append((image, category, tuple(box)))
            for _ in range(int(generator.integers(0, 3))):
                moved = (np.array(box) + generator.normal(0, 4, 4)).clip(1).tolist()
                name = category if generator.random() < 0.8 else 10 * int(generator.integers(1, 4))
                said.append((image, name, tuple(moved), float(generator.random())))
    return truth_of(rows, images=20, crowd=(3, 7)), found_of(said)


def test_the_order_of_the_rows_does_not_matter() -> None:
    truth, found = random_columns(0)
    generator = np.random.default_rng(1)
    objects, rows = generator.permutation(len(truth)), generator.permutation(len(found))
    shuffled = Truth(
        **{
            **vars(truth),
            **{name: getattr(truth, name)[objects] for name in ("image", "category", "xywh", "area", "is_crowd")},
        }
    )
    first, second = tide_errors(truth, found), tide_errors(shuffled, found.take(rows))
    assert first.counts == second.counts and min(first.counts.values()) > 0
    assert first.cost == pytest.approx(second.cost) and first.special == pytest.approx(second.special)
    assert np.array_equal(first.matching.kind[rows], second.matching.kind)


def test_counts_add_up() -> None:
    truth, found = random_columns(2)
    errors = tide_errors(truth, found)
    false = int(errors.matching.is_false.sum())
    assert sum(errors.counts[name] for name in ERRORS[:-1]) == false
    assert false + errors.num_found + sum(errors.excused.values()) == len(found)
    assert errors.class_counts.sum(0).tolist() == [errors.counts[name] for name in ERRORS]
    assert sum(count for _, _, count in errors.confused) == errors.counts["Cls"]
    assert math.isclose(float(np.nanmean(errors.class_ap)), errors.ap)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"iou_type": "mask"}, "expected 'bbox' or 'segm'"),
        ({"positive": 0.05}, "0 < background IoU < positive IoU <= 1"),
        ({"positive": 1.5}, "0 < background IoU < positive IoU <= 1"),
        ({"max_detections": 0}, "at least 1"),
    ],
)
def test_arguments_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tide_errors(ONE_OF_EACH, SAID, **options)


def test_columns_that_cannot_be() -> None:
    strange = found_of([(1, 7, (0, 0, 1, 1), 0.5)])
    with pytest.raises(DataError, match="'segm' needs masks"):
        tide_errors(ONE_OF_EACH, SAID, iou_type="segm")
    with pytest.raises(DataError, match="1 of 1 have category_id values that the ground truth does not know: 7"):
        tide_errors(ONE_OF_EACH, strange)
    with pytest.raises(DataError, match="the ground truth hold none"):
        match_errors(ONE_OF_EACH, SAID, iou_type="segm")
    with pytest.raises(DataError, match="1 detections have categories that it does not list, first 7"):
        match_errors(ONE_OF_EACH, strange)
