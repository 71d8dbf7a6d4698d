"""Precision, recall and F1 against the score threshold, exact at every score that occurs, and the best threshold.

Detections are matched as COCO does (greedy by score in each image and class, crowds ignored, the best 100 of an image
and class), so raising the threshold only takes detections away and one matching serves all thresholds. "At threshold s"
keeps scores >= s. Overall curves count the objects of all classes together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.errors import ConfigError, did_you_mean
from effdense.evaluation.accumulate import RECALLS
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.matching import HIT, MISSED, Matches, match


@dataclass(frozen=True)
class OperatingPoint:
    """What a score threshold gives. Without ground truth, and for ``score`` without detections, numbers are -1."""

    score: float
    f1: float
    precision: float
    recall: float
    hits: int
    false_alarms: int
    missed: int
    iou: float

    def to_dict(self) -> dict[str, float]:
        """The fields by name."""
        return dict(vars(self))

    def sentence(self) -> str:
        """``best F1 0.710 at score 0.34: precision ..., recall ... (IoU 0.50)``."""
        if self.score < 0:
            return f"best F1: no detections (IoU {self.iou:.2f})"
        return (
            f"best F1 {self.f1:.3f} at score {self.score:.3f}: precision {self.precision:.3f}, recall "
            f"{self.recall:.3f} (IoU {self.iou:.2f})"
        )


@dataclass(frozen=True, eq=False)
class Curve:
    """Counts at every score that occurs, falling. n scores."""

    iou: float
    positives: int  # ground truths that count
    score: NDArray[np.float64] = field(repr=False)  # (n,) distinct, falling
    hits: NDArray[np.int64] = field(repr=False)  # (n,) with at least this score
    false_alarms: NDArray[np.int64] = field(repr=False)  # (n,)

    @property
    def precision(self) -> NDArray[np.float64]:
        """(n,); 0 where all detections so far were excused by crowds."""
        return self.hits / np.maximum(self.hits + self.false_alarms, 1)

    @property
    def recall(self) -> NDArray[np.float64]:
        """(n,); 0 without ground truth."""
        return self.hits / max(self.positives, 1)

    @property
    def f1(self) -> NDArray[np.float64]:
        """(n,) 2 TP / (2 TP + FP + FN)."""
        return 2 * self.hits / np.maximum(self.hits + self.false_alarms + self.positives, 1)

    def best(self) -> OperatingPoint:
        """The threshold of the best F1; of equal ones the highest."""
        if not self.positives:
            return OperatingPoint(-1.0, -1.0, -1.0, -1.0, 0, int(self.false_alarms[-1:].sum()), 0, self.iou)
        if not len(self.score):
            return OperatingPoint(-1.0, 0.0, 0.0, 0.0, 0, 0, self.positives, self.iou)
        return self._point(int(np.argmax(self.f1)))

    def at(self, threshold: float) -> OperatingPoint:
        """What keeping scores >= ``threshold`` gives; precision is 0 where nothing is kept."""
        n = int(np.searchsorted(-self.score, -threshold, side="right"))
        if n and self.positives:
            point = self._point(n - 1)
            return OperatingPoint(**{**vars(point), "score": float(threshold)})
        missing = 0.0 if self.positives else -1.0
        false = int(self.false_alarms[n - 1]) if n else 0
        return OperatingPoint(float(threshold), missing, missing, missing, 0, false, self.positives, self.iou)

    def precision_at(self, recalls: NDArray[np.float64] = RECALLS) -> NDArray[np.float64]:
        """COCO's interpolated precision: the best at this recall or more; 0 where it is not reached."""
        if not len(self.score) or not self.positives:
            return np.zeros(len(recalls))
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        index = np.searchsorted(self.recall, recalls, side="left")
        return np.where(index < len(best), best[np.minimum(index, len(best) - 1)], 0.0)

    def _point(self, i: int) -> OperatingPoint:
        hits = int(self.hits[i])
        return OperatingPoint(
            score=float(self.score[i]),
            f1=float(self.f1[i]),
            precision=float(self.precision[i]),
            recall=float(self.recall[i]),
            hits=hits,
            false_alarms=int(self.false_alarms[i]),
            missed=self.positives - hits,
            iou=self.iou,
        )


@dataclass(frozen=True, eq=False)
class Curves:
    """One curve of all classes together and one of each class."""

    iou: float
    overall: Curve
    classes: dict[str, Curve]

    @classmethod
    def of(cls, matches: Matches, iou: float = 0.5) -> Curves:
        """Curves from matches that were made at ``iou`` among others; ConfigError where they were not."""
        at = np.flatnonzero(np.isclose(matches.thresholds, iou, rtol=0, atol=1e-9))
        if not len(at):
            known = ", ".join(f"{value:.2f}" for value in matches.thresholds)
            raise ConfigError(
                f"curves at IoU {iou}: the matches were made at {known}; use curves_of(truth, found, iou={iou})."
            )
        outcome = matches.outcomes_at(int(at[0]))
        positives = matches.positives[:, 0]
        classes = {}
        for k, name in enumerate(matches.class_names):
            rows = slice(*matches.class_start[k : k + 2].tolist())
            classes[name] = _curve(iou, int(positives[k]), matches.score[rows], outcome[rows])
        order = np.argsort(-matches.score, kind="stable")
        overall = _curve(iou, int(positives.sum()), matches.score[order], outcome[order])
        return cls(iou, overall, classes)

    def curve(self, name: str | None = None) -> Curve:
        """Of a class, or of all together; ConfigError for an unknown name."""
        if name is None:
            return self.overall
        if name not in self.classes:
            raise ConfigError(f"curves: there is no class {name!r}.{did_you_mean(name, self.classes)}")
        return self.classes[name]

    def best(self, name: str | None = None) -> OperatingPoint:
        """The threshold of the best F1 of a class, or of all together."""
        return self.curve(name).best()

    def to_dict(self, points: int = 101) -> dict[str, Any]:
        """Plain JSON on two grids, rounded to six digits.

        ``recalls`` (101) with ``precision_at_recall``, and ``thresholds`` (``points``, from 0 to 1 or the range of the
        scores where that is wider) with ``precision``, ``recall``, ``f1``; all of them of ``overall`` and ``classes``.
        """
        scores = self.overall.score
        low, high = (min(0.0, float(scores[-1])), max(1.0, float(scores[0]))) if len(scores) else (0.0, 1.0)
        grid = np.round(np.linspace(low, high, points), 6)
        return {
            "iou": self.iou,
            "recalls": _rounded(RECALLS),
            "thresholds": _rounded(grid),
            "overall": _on_grid(self.overall, grid),
            "classes": {name: _on_grid(curve, grid) for name, curve in self.classes.items()},
        }


def curves_of(truth: Truth, found: Found, *, iou: float = 0.5, masks: bool = False) -> Curves:
    """Curves of checked columns at any IoU threshold in (0, 1]."""
    if not 0 < iou <= 1:
        raise ConfigError(f"curves: iou is {iou}; expected a number above 0 and up to 1.")
    return Curves.of(match(truth, found, thresholds=(iou,), areas=((0.0, 1e10),), masks=masks), iou)


def _curve(iou: float, positives: int, score: NDArray[np.float64], outcome: NDArray[np.int8]) -> Curve:
    last = np.flatnonzero(score[1:] != score[:-1])  # equal scores pass a threshold together
    ends = np.append(last, len(score) - 1) if len(score) else last
    hits, false = np.cumsum(outcome == HIT), np.cumsum(outcome == MISSED)
    return Curve(iou, positives, score[ends], hits[ends].astype(np.int64), false[ends].astype(np.int64))


def _on_grid(curve: Curve, grid: NDArray[np.float64]) -> dict[str, list[float]]:
    kept = np.searchsorted(-curve.score, -grid, side="right")

    def at(values: NDArray[np.float64]) -> list[float]:
        return _rounded(np.concatenate([[0.0], values])[kept])

    return {
        "precision_at_recall": _rounded(curve.precision_at()),
        "precision": at(curve.precision),
        "recall": at(curve.recall),
        "f1": at(curve.f1),
    }


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
