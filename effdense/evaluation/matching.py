"""COCO's matching of detections to ground truths, for all images, classes, thresholds and sizes together.

COCO goes through the detections of an image and class by falling score and gives each the best free ground truth: one
that counts before one that is ignored (a crowd, or outside the size range), then the largest overlap, of equal ones the
last. Here the r-th overlapping detections of all images and classes take their turn at once, at every threshold and
size: as many steps as the fullest image has overlapping detections of one class (at most 100).
Source: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py (computeIoU, evaluateImg).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.overlaps import Pairs, overlapping_pairs

THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
# px^2, both ends included: all, small, medium, large (Params.setDetParams).
AREAS: tuple[tuple[float, float], ...] = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
MISSED, HIT, EXCUSED = 0, 1, 2
_PAIRS_AT_A_TIME = 50_000


@dataclass(frozen=True, eq=False)
class Matches:
    """Who matched whom. Symbols: D kept detections, C of them overlap anything, K classes, A sizes, T thresholds.

    Detections are sorted by class, then falling score; equal scores by image id, then the order they came in.
    """

    class_names: tuple[str, ...]
    thresholds: NDArray[np.float64]  # (T,) IoU
    rows: NDArray[np.int64] = field(repr=False)  # (D,) of the Found columns; the best 100 of each image and class
    class_start: NDArray[np.int64] = field(repr=False)  # (K + 1,) of rows
    score: NDArray[np.float64] = field(repr=False)  # (D,)
    rank: NDArray[np.int64] = field(repr=False)  # (D,) 0 for the best of its image and class
    in_size: NDArray[np.bool_] = field(repr=False)  # (A, D) whether its own area is in the size range
    overlapping: NDArray[np.int64] = field(repr=False)  # (C,) ascending positions in rows
    outcome: NDArray[np.int8] = field(repr=False)  # (C, A, T) MISSED, HIT, or EXCUSED: matched what is ignored
    matched: NDArray[np.int64] = field(repr=False)  # (C, T) row of the Truth columns at all sizes, or -1
    positives: NDArray[np.int64] = field(repr=False)  # (K, A) ground truths that count

    def outcomes_at(self, threshold: int, size: int = 0) -> NDArray[np.int8]:
        """(D,) outcome of every kept detection; an unmatched one outside the size range is EXCUSED."""
        outcome = np.where(self.in_size[size], MISSED, EXCUSED).astype(np.int8)
        own = self.outcome[:, size, threshold]
        outcome[self.overlapping] = np.where(own == MISSED, outcome[self.overlapping], own)
        return outcome


def match(
    truth: Truth,
    found: Found,
    *,
    thresholds: Sequence[float] | NDArray[np.float64] = THRESHOLDS,
    areas: Sequence[tuple[float, float]] = AREAS,
    max_detections: int = 100,
    masks: bool = False,
) -> Matches:
    """Match checked detections to checked ground truth.

    Args:
        truth, found: every image and category id of ``found`` is in ``truth``.
        thresholds: IoU, each > 0, any order. areas: size ranges in px^2, both ends included.
        max_detections: kept of each image and class, by score.
        masks: compare run lengths in place of boxes.
    """
    limits = np.asarray(thresholds, np.float64)
    classes = len(truth.category_ids)
    truth_class = np.searchsorted(truth.category_ids, truth.category)
    truth_cell = np.searchsorted(truth.image_ids, truth.image) * classes + truth_class
    truth_order = np.argsort(truth_cell, kind="stable")
    found_class = np.searchsorted(truth.category_ids, found.category)
    found_cell = np.searchsorted(truth.image_ids, found.image) * classes + found_class

    by_score = np.argsort(-found.score, kind="stable")
    order = by_score[np.argsort(found_cell[by_score], kind="stable")]
    rank = _rank_within(found_cell[order])
    order, rank = order[rank < max_detections], rank[rank < max_detections]

    low, high = np.array(areas, np.float64).T
    counts = (truth.area >= low[:, None]) & (truth.area <= high[:, None]) & ~truth.is_crowd  # (A, M)
    crowd = truth.is_crowd[truth_order]
    pairs = overlapping_pairs(
        found_cell[order],
        truth_cell[truth_order],
        [_at(found.rle, i) for i in order.tolist()] if masks else found.xywh[order],
        [_at(truth.rle, i) for i in truth_order.tolist()] if masks else truth.xywh[truth_order],
        crowd,
        float(limits.min()),
    )
    overlapping, outcome, matched = _take_turns(pairs, found_cell[order], counts[:, truth_order].T, crowd, limits)

    # From the order of images to the order of classes.
    final = np.argsort(-found.score[order], kind="stable")
    final = final[np.argsort(found_class[order][final], kind="stable")]
    position = np.empty(len(order), np.int64)
    position[final] = np.arange(len(order))
    turned = np.argsort(position[overlapping])
    rows = order[final]
    own = _found_areas(found, rows, masks)
    return Matches(
        class_names=truth.class_names,
        thresholds=limits,
        rows=rows,
        class_start=np.searchsorted(found_class[rows], np.arange(classes + 1)),
        score=found.score[rows],
        rank=rank[final],
        in_size=(own >= low[:, None]) & (own <= high[:, None]),
        overlapping=position[overlapping][turned],
        outcome=outcome[turned],
        matched=np.where(matched < 0, -1, truth_order[matched] if len(truth_order) else -1)[turned],
        positives=np.stack([np.bincount(truth_class[size], minlength=classes) for size in counts], axis=1),
    )


def _at(masks: Sequence[object] | None, i: int) -> object:
    assert masks is not None
    return masks[i]


def _found_areas(found: Found, rows: NDArray[np.int64], masks: bool) -> NDArray[np.float64]:
    if not masks:
        return found.xywh[rows, 2] * found.xywh[rows, 3]
    from effdense.data import run_lengths

    return run_lengths.areas([_at(found.rle, i) for i in rows.tolist()])


def _rank_within(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... within each run of equal values."""
    numbers = np.arange(len(cells))
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    return numbers - np.repeat(starts, np.diff(starts, append=len(cells)))


def _take_turns(
    pairs: Pairs,
    cells: NDArray[np.int64],
    counts: NDArray[np.bool_],
    crowd: NDArray[np.bool_],
    thresholds: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.int64]]:
    """Greedy matching.

    Args:
        pairs: by detection, which stand by cell and falling score. cells: (D,) of the detections.
        counts: (M, A) whether a ground truth counts at a size. crowd: (M,) may be taken more than once.

    Returns: (C,) detections that overlap anything, ascending; (C, A, T) outcomes; (C, T) what they took at the first
        size, or -1.
    """
    overlapping, number = np.unique(pairs.detection, return_inverse=True)
    turn = _rank_within(cells[overlapping])
    by_turn = np.argsort(turn, kind="stable")  # of the overlapping detections
    place = np.empty(len(overlapping), np.int64)
    place[by_turn] = np.arange(len(overlapping))
    # Best pair last: what counts at a size beats what is ignored (+ P), then overlap, then the later ground truth.
    best_last = np.lexsort((pairs.truth, pairs.iou, place[number]))
    owner, other, iou = place[number][best_last], pairs.truth[best_last], pairs.iou[best_last]
    total, sizes = len(owner), counts.shape[1]
    dtype = np.int32 if 2 * total < 2**31 else np.int64
    key = np.arange(total, dtype=dtype)[:, None] + np.where(counts[other], total, 0).astype(dtype)  # (P, A)

    outcome = np.zeros((len(overlapping), sizes, len(thresholds)), np.int8)
    matched = np.full((len(overlapping), len(thresholds)), -1, np.int64)
    taken = np.zeros((len(counts), sizes, len(thresholds)), bool)
    for start, stop in _blocks(owner, turn[by_turn]):
        here = other[start:stop]
        free = ~taken[here] | crowd[here, None, None]
        free &= (iou[start:stop, None] >= thresholds)[:, None]
        offers = np.where(free, key[start:stop, :, None], -1)
        firsts = np.flatnonzero(np.diff(owner[start:stop], prepend=-1))
        best = offers if len(firsts) == stop - start else np.maximum.reduceat(offers, firsts, axis=0)
        who, size, limit = np.nonzero(best >= 0)
        won = best[who, size, limit]
        what = other[won % total]
        taken[what, size, limit] = True
        rows = by_turn[owner[start:stop][firsts][who]]
        outcome[rows, size, limit] = np.where(won >= total, HIT, EXCUSED)
        at_all = size == 0
        matched[rows[at_all], limit[at_all]] = what[at_all]
    return overlapping, outcome, matched


def _blocks(owner: NDArray[np.int64], turns: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of pairs: one turn each, in pieces that fit in memory, never splitting a detection."""
    if not len(owner):
        return []
    starts = np.flatnonzero(np.diff(owner, prepend=-1))  # first pair of each detection
    ends = np.append(starts[1:], len(owner))
    blocks = []
    borders = np.flatnonzero(np.diff(turns, prepend=-1)).tolist() + [len(turns)]
    for low, high in itertools.pairwise(borders):
        at = low
        while at < high:
            stop = int(np.searchsorted(ends[at:high], starts[at] + _PAIRS_AT_A_TIME, side="right")) + at
            stop = max(at + 1, stop)
            blocks.append((int(starts[at]), int(ends[stop - 1])))
            at = stop
    return blocks
