"""Scores of class maps, read off a (K, K) matrix of pixel counts: IoU, Dice, accuracy, precision, and Boundary IoU.

Sources: IoU as in PASCAL VOC (Everingham et al. 2010, section 4.3), over the pixels of the whole data set; the pixel
accuracies and the frequency-weighted IoU as in Long et al. 2015, section 5; Boundary IoU in ``boundary.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from effdense.errors import ShapeError
from effdense.evaluation.confusion import confusion_matrix

__all__ = ["ConfusedPair", "SegmentationScores", "confusion_matrix", "mean_names"]

_MEANS = ("mIoU", "mDice", "pixel_accuracy", "mean_accuracy", "mean_precision", "fwIoU", "boundary_mIoU")
_PER_CLASS = ("pixels", "iou", "dice", "accuracy", "precision", "boundary_iou")


def mean_names(boundary: bool) -> tuple[str, ...]:
    """Keys of ``SegmentationScores.to_dict``, with or without that of the boundaries."""
    return _MEANS if boundary else _MEANS[:-1]


@dataclass(frozen=True)
class ConfusedPair:
    """Pixels of one class that were taken for another.

    Attributes:
        truth, prediction: class names. pixels: how many.
        share: of the pixels of the true class.
    """

    truth: str
    prediction: str
    pixels: int
    share: float


@dataclass(frozen=True)
class SegmentationScores:
    """Scores over a whole data set, fractions in [0, 1]; nan where there was nothing to score.

    A class that neither truth nor prediction has is nan and left out of the means; one that is predicted but nowhere
    true has IoU and Dice 0 and counts.

    Attributes:
        mIoU: mean over classes of intersection / union.
        mDice: mean over classes of 2 * intersection / (true + predicted).
        pixel_accuracy: share of the counted pixels that are right.
        mean_accuracy: mean of the accuracy (recall) over the classes with true pixels.
        mean_precision: mean of the precision over the classes with predicted pixels.
        fwIoU: mean of the IoU weighted by the true pixels of the classes.
        boundary_mIoU: mean over classes of the Boundary IoU, None where it was not asked for.
        per_class_iou, per_class_dice, per_class_accuracy, per_class_precision, per_class_boundary_iou: class name ->
            score; the last is empty where it was not asked for.
        per_class_pixels: class name -> true pixels.
        absent: classes left out of ``mIoU`` and ``mDice``.
        num_images: images evaluated, 0 when not told.
        confusion: (K, K) int64 counts that the scores were read off, row = truth; no part of ``==``.
    """

    mIoU: float
    mDice: float
    pixel_accuracy: float
    mean_accuracy: float
    mean_precision: float = math.nan
    fwIoU: float = math.nan
    boundary_mIoU: float | None = None
    per_class_iou: dict[str, float] = field(default_factory=dict)
    per_class_dice: dict[str, float] = field(default_factory=dict)
    per_class_accuracy: dict[str, float] = field(default_factory=dict)
    per_class_precision: dict[str, float] = field(default_factory=dict)
    per_class_boundary_iou: dict[str, float] = field(default_factory=dict)
    per_class_pixels: dict[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    num_images: int = 0
    confusion: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_confusion(
        cls,
        matrix: Tensor | NDArray[np.int64],
        class_names: Sequence[str],
        *,
        boundary: Tensor | NDArray[np.int64] | None = None,
        num_images: int = 0,
    ) -> SegmentationScores:
        """Read the scores off a (K, K) matrix of counts, row = truth.

        Args:
            boundary: (2, K) pixels of the intersections and unions of the bands, see ``boundary_counts``.

        Raises: ShapeError unless there are a row and a column for each class name.
        """
        names, counts = tuple(class_names), _integers(matrix)
        if counts.shape != (len(names), len(names)):
            raise ShapeError(
                f"SegmentationScores: {len(names)} class names need a matrix ({len(names)}, {len(names)}), "
                f"got {counts.shape}."
            )
        bands = None if boundary is None else _integers(boundary)
        if bands is not None and bands.shape != (2, len(names)):
            raise ShapeError(
                f"SegmentationScores: {len(names)} class names need boundary counts (2, {len(names)}), "
                f"got {bands.shape}."
            )
        right, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        scores = {
            "iou": _ratio(right, true + predicted - right),
            "dice": _ratio(2 * right, true + predicted),
            "accuracy": _ratio(right, true),
            "precision": _ratio(right, predicted),
            "boundary_iou": np.empty(0) if bands is None else _ratio(bands[0], bands[1]),
        }
        return cls(
            mIoU=_mean(scores["iou"]),
            mDice=_mean(scores["dice"]),
            pixel_accuracy=float(_ratio(right.sum(), counts.sum())),
            mean_accuracy=_mean(scores["accuracy"]),
            mean_precision=_mean(scores["precision"]),
            fwIoU=float(_ratio((true * np.nan_to_num(scores["iou"])).sum(), counts.sum())),
            boundary_mIoU=None if bands is None else _mean(scores["boundary_iou"]),
            **{f"per_class_{name}": dict(zip(names, values.tolist())) for name, values in scores.items()},
            per_class_pixels=dict(zip(names, true.tolist(), strict=True)),
            absent=tuple(name for name, score in zip(names, scores["iou"].tolist(), strict=True) if math.isnan(score)),
            num_images=num_images,
            confusion=counts,
        )

    @property
    def has_ground_truth(self) -> bool:
        """Whether any pixel counted."""
        return any(self.per_class_pixels.values())

    def to_dict(self) -> dict[str, float]:
        """The means by name: ``{"mIoU": 0.71, "mDice": 0.82, "pixel_accuracy": 0.93, ...}``."""
        return {name: getattr(self, name) for name in _MEANS if getattr(self, name) is not None}

    def report(self) -> dict[str, Any]:
        """Everything as plain JSON: the means, ``num_images``, ``absent``, ``classes`` (name -> its scores) and the
        matrix ``confusion`` (row = truth). What is nan is None here.
        """
        columns = {name: getattr(self, f"per_class_{name}") for name in _PER_CLASS}
        return {
            **{name: _plain(value) for name, value in self.to_dict().items()},
            "num_images": self.num_images,
            "absent": list(self.absent),
            "classes": {
                name: {column: _plain(values[name]) for column, values in columns.items() if values}
                for name in self.per_class_iou
            },
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }

    def normalised(self) -> NDArray[np.float64]:
        """The confusion matrix as shares of the true pixels of each class: (K, K), rows sum to 1 or are nan.

        Raises: ShapeError when the scores were not read off a matrix.
        """
        counts = self._counts()
        return _ratio(counts, counts.sum(1, keepdims=True))

    def most_confused(self, limit: int = 5) -> list[ConfusedPair]:
        """Pairs of different classes, those with most pixels first.

        Raises: ShapeError when the scores were not read off a matrix.
        """
        counts, names = self._counts(), list(self.per_class_iou)
        wrong = counts - np.diag(counts.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        pairs = [divmod(int(cell), len(names)) for cell in order if wrong.flat[cell] > 0]
        return [
            ConfusedPair(names[t], names[p], int(counts[t, p]), float(counts[t, p] / counts[t].sum())) for t, p in pairs
        ]

    def _counts(self) -> NDArray[np.int64]:
        if self.confusion is None:
            raise ShapeError("these SegmentationScores keep no confusion matrix; make them with from_confusion.")
        return self.confusion

    def table(self) -> str:
        """A per-class table, the means and the pairs of classes taken for each other most, as plain text without a
        newline at the end.
        """
        parts = [self._class_lines(), self._summary_lines(), self._confused_lines()]
        return "\n\n".join("\n".join(lines) for lines in parts if lines)

    def _class_lines(self) -> list[str]:
        columns = {"IoU": self.per_class_iou, "Dice": self.per_class_dice, "Acc": self.per_class_accuracy}
        if self.per_class_boundary_iou:
            columns["BIoU"] = self.per_class_boundary_iou
        width = max([len("class"), *(len(name) for name in self.per_class_iou)])
        lines = [f"{'class':<{width}}  {'pixels':>12}" + "".join(f"  {column:>6}" for column in columns)]
        for name in self.per_class_iou:
            shown = "".join(f"  {_shown(scores[name])}" for scores in columns.values())
            lines.append(f"{name:<{width}}  {self.per_class_pixels[name]:>12}{shown}")
        return lines

    def _summary_lines(self) -> list[str]:
        pixels = sum(self.per_class_pixels.values())
        images = f"{self.num_images} images, " if self.num_images else ""
        lines = [f"{images}{pixels} counted pixels"]
        if not self.has_ground_truth:
            lines.append("no pixel counts: there is nothing to score, every number is nan")
        elif self.absent:
            lines.append(
                f"{len(self.absent)} of {len(self.per_class_iou)} classes are neither in truth nor in prediction and "
                f"left out of the means: {', '.join(self.absent)}"
            )
        means = [
            ("mIoU", "mean intersection over union", self.mIoU),
            ("mDice", "mean Dice coefficient", self.mDice),
            ("aAcc", "pixel accuracy", self.pixel_accuracy),
            ("mAcc", "mean accuracy of the classes", self.mean_accuracy),
            ("mPrec", "mean precision of the classes", self.mean_precision),
            ("fwIoU", "IoU weighted by true pixels", self.fwIoU),
        ]
        if self.boundary_mIoU is not None:
            means.append(("mBIoU", "mean IoU along the boundaries", self.boundary_mIoU))
        return [*lines, *(f"{name:<6}{words:<32}{_shown(score)}" for name, words, score in means)]

    def _confused_lines(self) -> list[str]:
        pairs = [] if self.confusion is None else self.most_confused()
        if not pairs:
            return []
        width = max(len(pair.truth) for pair in pairs)
        lines = [f"{pair.truth:<{width}}  {100 * pair.share:5.1f} % taken for {pair.prediction}" for pair in pairs]
        return ["most confused, by pixels (share of the true class):", *lines]


def _integers(values: Tensor | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values).astype(np.int64)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """above / below, nan where below is 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)


def _mean(scores: NDArray[np.float64]) -> float:
    """Mean of what is not nan, nan when nothing is left."""
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if len(present) else math.nan


def _plain(value: float) -> float | None:
    """JSON has no nan."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _shown(score: float) -> str:
    """A score in six columns; a dash where there was nothing to score."""
    return f"{'-':>6}" if math.isnan(score) else f"{score:6.3f}"
