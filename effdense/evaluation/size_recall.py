"""Which objects are found: recall by size and by shape, and how far a score can be trusted.

Sizes are square roots of the annotated area in px, in COCO's three steps and in finer ones; shapes are width / height.
Crowd regions are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from effdense.evaluation.columns import Truth
from effdense.evaluation.error_matching import CORRECT, CROWD, ErrorMatching

# COCO's limits (cocoeval.py, Params.setDetParams): 32 px and 96 px.
COCO_SIZES: tuple[tuple[str, float], ...] = (("small", 32.0), ("medium", 96.0), ("large", math.inf))
SIZE_EDGES = (8.0, 16.0, 32.0, 64.0, 96.0, 128.0, 256.0, 512.0)
SHAPE_EDGES = (0.2, 1 / 3, 0.5, 0.75, 4 / 3, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class RecallBin:
    """Objects of one size or shape.

    Attributes:
        name: what to call the bin. instances: objects in it.
        found: those that a detection of any score takes. shown: those that one at the threshold takes.
    """

    name: str
    instances: int
    found: int
    shown: int

    @property
    def recall(self) -> float:
        """Share found at any score, nan for an empty bin."""
        return self.found / self.instances if self.instances else math.nan

    @property
    def recall_shown(self) -> float:
        """Share found at the threshold, nan for an empty bin."""
        return self.shown / self.instances if self.instances else math.nan


@dataclass(frozen=True)
class ScoreBin:
    """Detections whose score lies in low <= score < high (the last bin includes 1)."""

    low: float
    high: float
    right: int
    false: int
    mean_score: float


def recall_by_coco_size(truth: Truth, matching: ErrorMatching, taken: NDArray[np.bool_]) -> list[RecallBin]:
    """Recall of small, medium and large objects.

    Args:
        taken: (M,) ground truths that a detection at the threshold takes, see ``rank_images``.
    """
    # COCO counts an area of exactly 32^2 or 96^2 among the smaller ones here (its own ranges overlap there).
    bins = np.searchsorted([limit**2 for _, limit in COCO_SIZES], truth.area, side="left")
    return _bins([name for name, _ in COCO_SIZES], bins, matching, taken)


def recall_by_size(truth: Truth, matching: ErrorMatching, taken: NDArray[np.bool_]) -> list[RecallBin]:
    """Recall by the square root of the area, in steps of ``SIZE_EDGES`` px."""
    names = _names(SIZE_EDGES, "{:g}", " px")
    return _bins(names, np.searchsorted(SIZE_EDGES, np.sqrt(truth.area), side="right"), matching, taken)


def recall_by_shape(truth: Truth, matching: ErrorMatching, taken: NDArray[np.bool_]) -> list[RecallBin]:
    """Recall by width / height, in steps of ``SHAPE_EDGES``: narrow, about square, wide."""
    shapes = truth.xywh[:, 2] / np.maximum(truth.xywh[:, 3], 1e-9)
    names = _names(SHAPE_EDGES, "{:.2g}", "")
    return _bins(names, np.searchsorted(SHAPE_EDGES, shapes, side="right"), matching, taken)


def _names(edges: Sequence[float], number: str, unit: str) -> list[str]:
    shown = [number.format(edge) for edge in edges]
    between = [f"{low}-{high}{unit}" for low, high in pairwise(shown)]
    return [f"< {shown[0]}{unit}", *between, f">= {shown[-1]}{unit}"]


def _bins(
    names: Sequence[str], bins: NDArray[np.int64], matching: ErrorMatching, taken: NDArray[np.bool_]
) -> list[RecallBin]:
    counted = matching.state != CROWD
    columns = [
        np.bincount(bins[chosen], minlength=len(names)).tolist()
        for chosen in (counted, counted & (matching.state == CORRECT), counted & taken)
    ]
    return [RecallBin(name, *counts) for name, *counts in zip(names, *columns, strict=True)]


def score_bins(matching: ErrorMatching, score: NDArray[np.float64], bins: int = 20) -> list[ScoreBin]:
    """Right and false detections by score; what a crowd excuses is left out. Scores outside 0..1 go to the end bins."""
    right, false = matching.kind == CORRECT, matching.is_false
    place = np.clip((score * bins).astype(np.int64), 0, bins - 1)
    counts = [np.bincount(place[chosen], minlength=bins) for chosen in (right, false)]
    sums = np.bincount(place[right | false], weights=score[right | false], minlength=bins)
    totals = counts[0] + counts[1]
    return [
        ScoreBin(i / bins, (i + 1) / bins, int(r), int(f), float(s / n) if n else math.nan)
        for i, (r, f, s, n) in enumerate(zip(*counts, sums, totals, strict=True))
    ]


def calibration_error(bins: Sequence[ScoreBin]) -> float:
    """Mean distance of score and precision over the detections, nan without any.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 5 (expected calibration error).
    """
    filled = [one for one in bins if one.right + one.false]
    total = sum(one.right + one.false for one in filled)
    apart = sum(abs(one.right - one.mean_score * (one.right + one.false)) for one in filled)
    return apart / total if total else math.nan
