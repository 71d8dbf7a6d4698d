"""AP with one type of error mended, as tidecv 1.0.1 works it out; see ``error_types.py`` for the rules.

AP is in points, 0 to 100. Symbols: D detections, K classes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from effdense.evaluation.error_matching import CLS, CORRECT, LOC, MISS, ErrorMatching

SPECIAL = ("FalsePos", "FalseNeg")


def mended_aps(
    matching: ErrorMatching, score: NDArray[np.float64], asked: NDArray[np.int64], code: int
) -> NDArray[np.float64]:
    """(K,) AP of each class with one type of error mended."""
    order = _errors_first(matching)
    if code == MISS:
        missed = np.bincount(matching.truth_class[matching.state == MISS], minlength=len(asked))
        return class_aps(matching, score, order, np.zeros(len(score), np.bool_), asked - missed)
    mends = matching.mends & (matching.kind == code) if code in (CLS, LOC) else np.zeros(len(score), np.bool_)
    return class_aps(matching, score, order[(matching.kind[order] != code) | mends[order]], mends, asked)


def special_costs(
    matching: ErrorMatching, score: NDArray[np.float64], asked: NDArray[np.int64], ap: float
) -> dict[str, float]:
    """What perfect precision, and perfect recall, would win."""
    if math.isnan(ap):
        return dict.fromkeys(SPECIAL, 0.0)
    nothing = np.zeros(len(score), np.bool_)
    order = _errors_first(matching)
    right = (matching.kind == CORRECT).astype(np.float64)
    found = np.bincount(matching.truth_class[matching.state == CORRECT], minlength=len(asked))
    return {
        "FalsePos": mean_ap(class_aps(matching, right, order, nothing, asked), 100.0) - ap,
        "FalseNeg": mean_ap(class_aps(matching, score, order, nothing, found), 100.0) - ap,
    }


def _errors_first(matching: ErrorMatching) -> NDArray[np.int64]:
    """Detections in the order that decides between equal scores once something is mended: errors, then correct ones."""
    right = matching.kind[matching.order] == CORRECT
    return np.concatenate([matching.order[~right], matching.order[right]])


def class_aps(
    matching: ErrorMatching,
    score: NDArray[np.float64],
    order: NDArray[np.int64],
    mends: NDArray[np.bool_],
    asked: NDArray[np.int64],
) -> NDArray[np.float64]:
    """(K,) AP in points; nan for a class with neither ground truth nor detections.

    Args:
        order: rows that take part. mends: (D,) rows that count as correct, under the class of their ground truth.
        asked: (K,) ground truths.
    """
    order = order[~matching.excused[order] | mends[order]]
    correct = (matching.kind[order] == CORRECT) | mends[order]
    labels = matching.detection_class[order].copy()
    labels[mends[order]] = matching.truth_class[matching.partner[order[mends[order]]]]
    by_class = np.lexsort((-score[order], labels))
    bounds = np.searchsorted(labels[by_class], np.arange(len(asked) + 1))
    result = np.full(len(asked), np.nan)
    for k, count in enumerate(asked.tolist()):
        hits = correct[by_class[bounds[k] : bounds[k + 1]]]
        if count or len(hits):
            result[k] = _average_precision(hits, count)
    return result


def _average_precision(hits: NDArray[np.bool_], asked: int) -> float:
    """Mean of the precision at recalls 0, 0.01 ... 1, in points; hits best score first."""
    if not asked or not len(hits):
        return 0.0
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(true / asked, np.arange(101) / 100, side="left")
    return float(np.append(envelope, 0.0)[at].sum() / 101 * 100)


def mean_ap(aps: NDArray[np.float64], empty: float = math.nan) -> float:
    scored = aps[~np.isnan(aps)]
    return float(scored.mean()) if len(scored) else empty
