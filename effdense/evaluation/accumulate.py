"""From matches to COCO's precision, recall and score arrays, the same floats as pycocotools.

Only hits can raise recall, and precision between two hits only falls, so the curves are worked out at the hits alone.
Source: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py (accumulate).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from effdense.evaluation.matching import HIT, MISSED, Matches

RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True, eq=False)
class CocoArrays:
    """What the twelve numbers are means of; -1 where there is no ground truth.

    T IoU thresholds, R = 101 recalls, K classes by category id, A sizes (all, small, medium, large), L detection limits
    (1, 10, 100).
    """

    precision: NDArray[np.float64] = field(repr=False)  # (T, R, K, A, L) interpolated: the best at this recall or more
    recall: NDArray[np.float64] = field(repr=False)  # (T, K, A, L)
    score: NDArray[np.float64] = field(repr=False)  # (T, R, K, A, L) of the detection that reaches the recall


def accumulate(matches: Matches, max_detections: tuple[int, ...] = MAX_DETECTIONS) -> CocoArrays:
    """The arrays of these matches."""
    classes, sizes = matches.positives.shape
    shape = (len(matches.thresholds), len(RECALLS), classes, sizes, len(max_detections))
    precision, score = np.full(shape, -1.0), np.full(shape, -1.0)
    recall = np.full((shape[0], *shape[2:]), -1.0)
    detections = np.searchsorted(matches.overlapping, matches.class_start)
    for limit, most in enumerate(max_detections):
        kept = matches.rank < most
        valid = np.cumsum(matches.in_size & kept, axis=1, dtype=np.int32)  # (A, D)
        for k in range(classes):
            positives = matches.positives[k]
            sized = np.flatnonzero(positives)
            if not len(sized):
                continue
            start, stop = matches.class_start[k : k + 2].tolist()
            before = valid[:, start - 1] if start else np.zeros(sizes, np.int32)
            rows = slice(*detections[k : k + 2].tolist())
            at = matches.overlapping[rows]
            outcome = matches.outcome[rows]
            if most < max_detections[-1]:
                chosen = kept[at]
                at, outcome = at[chosen], outcome[chosen]
            own = slice(k, k + 1)
            values, scores, hits = _curves(
                outcome,
                matches.in_size[:, at].T,
                (valid[:, at] - before[:, None]).T,
                matches.score[at],
                _hits_needed(positives),
            )
            some = np.flatnonzero(kept[start:stop])
            scores[:, 0] = matches.score[start + some[0]] if len(some) else 0.0  # recall 0 is reached at once
            precision[:, :, k, sized, limit] = values[:, :, sized]
            score[:, :, k, sized, limit] = scores[:, :, sized]
            recall[:, own, sized, limit] = (hits[sized] / positives[sized, None]).T[:, None] if len(some) else 0.0
    return CocoArrays(precision, recall, score)


def _curves(
    outcome: NDArray[np.int8],
    in_size: NDArray[np.bool_],
    valid: NDArray[np.int32],
    score: NDArray[np.float64],
    needed: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Precision and score at each recall, of one class.

    Args:
        outcome: (C, A, T) of its overlapping detections by falling score. in_size: (C, A). score: (C,).
        valid: (C, A) detections in the size range down to and with this one.
        needed: (R, A) hits that reach each recall.

    Returns: (T, R, A) precision, (T, R, A) score, (A, T) hits.
    """
    sizes, limits = outcome.shape[1:]
    hit = outcome == HIT
    nth = np.cumsum(hit, axis=0, dtype=np.int32)
    hits = nth[-1].astype(np.int64) if len(nth) else np.zeros((sizes, limits), np.int64)
    most = int(hits.max(initial=0))
    values = np.zeros((limits, len(needed), sizes))
    scores = np.zeros_like(values)
    if not most:
        return values, scores, hits
    # A hit counts whatever its own area, one excused never; the others as ``valid`` has counted them.
    change = np.where(outcome == MISSED, 0, hit.view(np.int8) - in_size[:, :, None].view(np.int8))
    counted = np.cumsum(change, axis=0, dtype=np.int32)
    counted += valid[:, :, None]
    row, size, limit = np.nonzero(hit)
    number = nth[row, size, limit]
    best = np.zeros((most, sizes, limits))  # precision at the n-th hit
    best[number - 1, size, limit] = number / (counted[row, size, limit] + np.spacing(1))
    best = np.maximum.accumulate(best[::-1], axis=0)[::-1]
    reached_at = np.zeros((most, sizes, limits))
    reached_at[number - 1, size, limit] = score[row]
    n, every_size, every_limit = needed.T[:, :, None], np.arange(sizes)[:, None, None], np.arange(limits)
    reached = n <= hits[:, None, :]  # (A, R, T)
    index = np.minimum(n, most) - 1
    values = np.where(reached, best[index, every_size, every_limit], 0.0).transpose(2, 1, 0)
    scores = np.where(reached, reached_at[index, every_size, every_limit], 0.0).transpose(2, 1, 0)
    return values, scores, hits


def _hits_needed(positives: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R, A): the fewest hits whose share of (A,) ``positives`` reaches each recall; recall 0 takes one too."""
    needed = np.ones((len(RECALLS), len(positives)), np.int64)
    for size, number in enumerate(positives.tolist()):
        if number:
            needed[:, size] = np.searchsorted(np.arange(1, number + 1) / number, RECALLS, side="left") + 1
    return needed
