"""Each detection against the ground truth of its picture: right, or wrong in one of six ways; each ground truth: found,
nearly found, or missed.

A detection, best score first, takes the free ground truth of its class that it overlaps most, from IoU ``positive`` on.
What takes none is named by the first line that fits:

    Loc    some ground truth of its class with ``background`` <= IoU <= ``positive``
    Cls    some ground truth of another class with IoU >= ``positive``
    Dupe   a ground truth of its class with IoU >= ``positive`` that a better detection has taken
    Bkg    no ground truth with IoU > ``background``
    Both   anything else: the class is wrong and the place as well

Of the ground truths that nobody took, those that a Loc or Cls detection points at would be found if it were mended; the
others are Miss. Source: Bolya et al. 2020, "TIDE", section 3 (arXiv 2008.08115); the order and the closed intervals are
those of tidecv 1.0.1. Symbols: M ground truths, D detections, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from effdense.data import run_lengths
from effdense.errors import ConfigError, DataError
from effdense.evaluation.columns import Found, Truth

# What a detection is; MISS is a ground truth's. The order is that of tidecv's tables.
ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
LEFT_OUT, CORRECT, CLS, LOC, BOTH, DUPE, BKG, MISS = -1, 0, 1, 2, 3, 4, 5, 6
# What a ground truth is besides MISS and CORRECT (found).
NEARLY, CROWD = 7, -1


@dataclass(frozen=True, eq=False)
class ErrorMatching:
    """What became of every detection and every ground truth.

    Attributes:
        kind: (D,) CORRECT, CLS, LOC, BOTH, DUPE or BKG; LEFT_OUT beyond ``max_detections`` of the picture and on
            pictures that are not scored.
        excused: (D,) not correct, but inside a crowd region of its class: no false positive.
        partner: (D,) row of the ground truth taken, or that a Cls, Loc or Dupe detection points at; else -1.
        overlap: (D,) IoU with the partner; of BOTH and BKG the highest with any ground truth.
        mends: (D,) a Cls or Loc detection that would find a ground truth nobody has: the best of those pointing at it.
        state: (M,) CORRECT (found), NEARLY (Cls or Loc), MISS or CROWD.
        order: (R,) rows of the detections that count, picture by picture, best score first.
        detection_class, truth_class: (D,), (M,) position 0..K-1 of the category.
    """

    kind: NDArray[np.int8] = field(repr=False)
    excused: NDArray[np.bool_] = field(repr=False)
    partner: NDArray[np.int64] = field(repr=False)
    overlap: NDArray[np.float64] = field(repr=False)
    mends: NDArray[np.bool_] = field(repr=False)
    state: NDArray[np.int8] = field(repr=False)
    order: NDArray[np.int64] = field(repr=False)
    detection_class: NDArray[np.int64] = field(repr=False)
    truth_class: NDArray[np.int64] = field(repr=False)

    @property
    def is_false(self) -> NDArray[np.bool_]:
        """(D,) false positives: wrong and not excused."""
        return (self.kind > CORRECT) & ~self.excused


def match_errors(
    truth: Truth,
    found: Found,
    *,
    iou_type: str = "bbox",
    positive: float = 0.5,
    background: float = 0.1,
    max_detections: int = 100,
    image_order: Sequence[int] | None = None,
) -> ErrorMatching:
    """Match detections and name what is wrong.

    Args:
        truth, found: checked columns; detections on pictures that ``truth`` does not have are left out.
        iou_type: "bbox", or "segm" where both hold run lengths.
        positive, background: IoU thresholds.
        max_detections: of one picture, all classes together; the best scores stay.
        image_order: image ids, which decide the order of equal scores on different pictures; default ascending.

    Raises:
        ConfigError: an unknown ``iou_type``, or not 0 < background < positive <= 1.
        DataError: "segm" without run lengths, categories that the truth does not have.
    """
    if iou_type not in ("bbox", "segm"):
        raise ConfigError(f"error types: iou_type is {iou_type!r}; expected 'bbox' or 'segm'.")
    if not 0 < background < positive <= 1:
        raise ConfigError(
            f"error types: expected 0 < background IoU < positive IoU <= 1, got {background} and {positive}."
        )
    if max_detections < 1:
        raise ConfigError(f"error types: max_detections must be at least 1, got {max_detections}.")
    if iou_type == "segm" and ((len(truth) and truth.rle is None) or (len(found) and found.rle is None)):
        side = "ground truth" if len(truth) and truth.rle is None else "detections"
        raise DataError(f"{truth.name}: masks are to be compared, but the {side} hold none; use iou_type='bbox'.")
    result = _blank(truth, found)
    images = truth.image_ids if image_order is None else np.asarray(image_order, np.int64)
    rows_of_image = _rows_by_image(images, truth.image, None)
    picked = _rows_by_image(images, found.image, found.score)
    for objects, given in zip(rows_of_image, picked, strict=True):
        result.kind[given[max_detections:]] = LEFT_OUT
        rows = given[:max_detections]
        if len(rows):
            _one_image(result, truth, found, objects, rows, iou_type, positive, background)
        open_rows = objects[(result.state[objects] == MISS)]
        mended = result.partner[rows[result.mends[rows]]]
        result.state[open_rows[np.isin(open_rows, mended)]] = NEARLY
    order = np.concatenate([np.zeros(0, np.int64), *(rows[:max_detections] for rows in picked)])
    return ErrorMatching(**{**result.__dict__, "order": order})


def _blank(truth: Truth, found: Found) -> ErrorMatching:
    """Nothing matched yet: every ground truth missed, every detection left out."""
    return ErrorMatching(
        kind=np.full(len(found), LEFT_OUT, np.int8),
        excused=np.zeros(len(found), np.bool_),
        partner=np.full(len(found), -1, np.int64),
        overlap=np.zeros(len(found)),
        mends=np.zeros(len(found), np.bool_),
        state=np.where(truth.is_crowd, CROWD, MISS).astype(np.int8),
        order=np.zeros(0, np.int64),
        detection_class=_positions(truth, found.category, "detections"),
        truth_class=_positions(truth, truth.category, "annotations"),
    )


def _positions(truth: Truth, categories: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    at = np.searchsorted(truth.category_ids, categories)
    known = at < len(truth.category_ids)
    known[known] = truth.category_ids[at[known]] == categories[known]
    if not known.all():
        raise DataError(
            f"{truth.name}: {int((~known).sum())} {what} have categories that it does not list, first "
            f"{int(categories[~known][0])}; it lists {truth.category_ids[:10].tolist()}."
        )
    return at.astype(np.int64)


def _rows_by_image(
    images: NDArray[np.int64], image_of: NDArray[np.int64], score: NDArray[np.float64] | None
) -> list[NDArray[np.int64]]:
    """For each image its rows: in the order they came, or best score first."""
    ascending = np.argsort(images, kind="stable")
    at = np.searchsorted(images, image_of, sorter=ascending)
    known = at < len(images)
    known[known] = images[ascending[at[known]]] == image_of[known]
    rows = np.flatnonzero(known)
    place = ascending[at[rows]]
    order = np.argsort(place, kind="stable") if score is None else np.lexsort((-score[rows], place))
    bounds = np.searchsorted(place[order], np.arange(len(images) + 1))
    return np.split(rows[order], bounds[1:-1]) if len(images) else []


def _one_image(
    result: ErrorMatching,
    truth: Truth,
    found: Found,
    objects: NDArray[np.int64],
    rows: NDArray[np.int64],
    iou_type: str,
    positive: float,
    background: float,
) -> None:
    """Fill in the rows of one picture.

    Args:
        objects: its ground truths. rows: its detections that count, best score first.
    """
    crowds, singles = objects[truth.is_crowd[objects]], objects[~truth.is_crowd[objects]]
    labels = result.detection_class[rows]
    taken = np.full(len(rows), -1, np.int64)
    if len(singles):
        iou = _overlaps(truth, found, singles, rows, iou_type, crowd=False)
        same = labels[:, None] == result.truth_class[singles][None, :]
        of_class = iou * same
        taken = _take(of_class, positive)
    if len(crowds):
        inside = _overlaps(truth, found, crowds, rows, iou_type, crowd=True) > positive
        inside &= labels[:, None] == result.truth_class[crowds][None, :]
        result.excused[rows] = inside.any(1) & (taken < 0)
    if not len(singles):
        result.kind[rows] = BKG
        return
    kind, pointed, overlap = _name(iou, same, of_class, taken, positive, background)
    result.kind[rows], result.overlap[rows] = kind, overlap
    result.partner[rows] = np.where(pointed >= 0, singles[np.maximum(pointed, 0)], -1)
    result.state[singles[taken[taken >= 0]]] = CORRECT
    free = np.ones(len(singles), np.bool_)
    free[taken[taken >= 0]] = False
    candidates = np.flatnonzero(((kind == CLS) | (kind == LOC)) & free[pointed])
    # Rows come best score first, so the first that points at a ground truth is the best.
    _, first = np.unique(pointed[candidates], return_index=True)
    result.mends[rows[candidates[first]]] = True


def _take(of_class: NDArray[np.float64], positive: float) -> NDArray[np.int64]:
    """(D,) ground truth that each detection takes, or -1.

    Args: of_class: (D, G) IoU, 0 where the classes differ; rows best score first.
    """
    taken = np.full(len(of_class), -1, np.int64)
    left = of_class.copy()
    for row in np.flatnonzero((of_class >= positive).any(1)).tolist():
        best = int(left[row].argmax())
        if left[row, best] >= positive:
            taken[row] = best
            left[:, best] = 0
    return taken


def _name(
    iou: NDArray[np.float64],
    same: NDArray[np.bool_],
    of_class: NDArray[np.float64],
    taken: NDArray[np.int64],
    positive: float,
    background: float,
) -> tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.float64]]:
    """Kind, ground truth (column) and IoU of each detection of a picture with ground truth."""
    every = np.arange(len(iou))
    of_others = iou * ~same
    used = np.zeros(iou.shape[1], np.bool_)
    used[taken[taken >= 0]] = True
    of_used = of_class * used
    places = [one.argmax(1) for one in (of_class, of_others, of_used, iou)]
    near, other, double, most = (
        one[every, at] for one, at in zip((of_class, of_others, of_used, iou), places, strict=True)
    )
    tests = [
        taken >= 0,
        (near >= background) & (near <= positive),
        other >= positive,
        double >= positive,
        most <= background,
    ]
    nobody = np.full(len(iou), -1, np.int64)
    kind = np.select(tests, [CORRECT, LOC, CLS, DUPE, BKG], BOTH).astype(np.int8)
    pointed = np.select(tests, [taken, places[0], places[1], places[2], nobody], nobody)
    overlap = np.where(pointed >= 0, iou[every, np.maximum(pointed, 0)], most)
    return kind, pointed, overlap


def _overlaps(
    truth: Truth,
    found: Found,
    objects: NDArray[np.int64],
    rows: NDArray[np.int64],
    iou_type: str,
    *,
    crowd: bool,
) -> NDArray[np.float64]:
    """(len(rows), len(objects)) IoU as pycocotools computes it; in a crowd the share of the detection inside."""
    if iou_type == "bbox":
        return np.asarray(coco_mask.iou(found.xywh[rows], truth.xywh[objects], [int(crowd)] * len(objects)))
    given, wanted = cast(Sequence[Any], found.rle), cast(Sequence[Any], truth.rle)
    flags = np.full(len(objects), crowd)
    return run_lengths.overlaps([given[row] for row in rows], [wanted[row] for row in objects], flags)
