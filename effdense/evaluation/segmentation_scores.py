"""Scores of class maps: pixels counted into a (K, K) matrix of integers, IoU, Dice and accuracy read off it.

Matrices of images, batches and ranks add up exactly, so any split of the work gives the same numbers.
Source: IoU as in PASCAL VOC (Everingham et al. 2010, section 4.3), over the pixels of the whole data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdense.errors import ShapeError


def confusion_matrix(
    prediction: Tensor | NDArray[np.uint8],
    target: Tensor | NDArray[np.uint8],
    num_classes: int,
    ignore_index: int = 255,
) -> Tensor:
    """Count pixels by true and predicted class.

    Args:
        prediction: class maps of any shape and integer type, values 0..K-1.
        target: the same shape, on the same device; values 0..K-1, or ``ignore_index`` for pixels that do not count.
        num_classes: K.

    Returns: (K, K) int64 on that device; row = truth, column = prediction.
    Raises: ShapeError for shapes that differ, types that are no integers, and values out of range.
    """
    predicted, true = _as_tensor(prediction), _as_tensor(target)
    if predicted.shape != true.shape or predicted.is_floating_point() or true.is_floating_point():
        raise ShapeError(
            "confusion_matrix: expected integer maps of one shape, got prediction "
            f"{predicted.dtype} {tuple(predicted.shape)} and target {true.dtype} {tuple(true.shape)}."
        )
    # int32 holds K * K up to 46340 classes and moves half the bytes of int64.
    predicted, true = predicted.flatten().int(), true.flatten().int()
    ignored = true == ignore_index
    _check_range(predicted, num_classes, "prediction", "")
    _check_range(true.masked_fill(ignored, 0), num_classes, "target", f" or {ignore_index} (ignore)")
    # Ignored pixels go to a cell of their own: cutting them out would cost two copies.
    cells = (true * num_classes + predicted).masked_fill_(ignored, num_classes**2)
    counts = torch.bincount(cells, minlength=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes)


def _as_tensor(values: Tensor | NDArray[np.uint8]) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))


def _check_range(values: Tensor, num_classes: int, what: str, besides: str) -> None:
    if values.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(values))
    if low < 0 or high >= num_classes:
        raise ShapeError(
            f"confusion_matrix: the {what} holds {low if low < 0 else high}; expected are classes "
            f"0..{num_classes - 1}{besides}."
        )


@dataclass(frozen=True)
class SegmentationScores:
    """Scores over a whole data set, fractions in [0, 1]; nan where there was nothing to score.

    A class that neither truth nor prediction has is nan and left out of the means; one that is predicted but nowhere
    true has IoU and Dice 0 and counts.

    Attributes:
        mIoU: mean over classes of intersection / union.
        mDice: mean over classes of 2 * intersection / (true + predicted).
        pixel_accuracy: share of the counted pixels that are right.
        mean_accuracy: mean of the accuracy over the classes with true pixels.
        per_class_iou, per_class_dice, per_class_accuracy: class name -> score.
        per_class_pixels: class name -> true pixels.
        absent: classes left out of ``mIoU`` and ``mDice``.
        num_images: images evaluated, 0 when not told.
    """

    mIoU: float
    mDice: float
    pixel_accuracy: float
    mean_accuracy: float
    per_class_iou: dict[str, float] = field(default_factory=dict)
    per_class_dice: dict[str, float] = field(default_factory=dict)
    per_class_accuracy: dict[str, float] = field(default_factory=dict)
    per_class_pixels: dict[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    num_images: int = 0

    @classmethod
    def from_confusion(
        cls, matrix: Tensor | NDArray[np.int64], class_names: Sequence[str], *, num_images: int = 0
    ) -> SegmentationScores:
        """Read the scores off a (K, K) matrix of counts, row = truth.

        Raises: ShapeError unless the matrix has a row and a column for each class name.
        """
        counts = np.asarray(matrix.cpu() if isinstance(matrix, Tensor) else matrix, np.float64)
        if counts.shape != (len(class_names), len(class_names)):
            raise ShapeError(
                f"SegmentationScores: {len(class_names)} class names need a matrix "
                f"({len(class_names)}, {len(class_names)}), got {counts.shape}."
            )
        right, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        iou = _ratio(right, true + predicted - right)
        dice = _ratio(2 * right, true + predicted)
        accuracy = _ratio(right, true)
        return cls(
            mIoU=_mean(iou),
            mDice=_mean(dice),
            pixel_accuracy=float(_ratio(right.sum(), counts.sum())),
            mean_accuracy=_mean(accuracy),
            per_class_iou=dict(zip(class_names, iou.tolist(), strict=True)),
            per_class_dice=dict(zip(class_names, dice.tolist(), strict=True)),
            per_class_accuracy=dict(zip(class_names, accuracy.tolist(), strict=True)),
            per_class_pixels=dict(zip(class_names, true.astype(int).tolist(), strict=True)),
            absent=tuple(name for name, score in zip(class_names, iou.tolist(), strict=True) if math.isnan(score)),
            num_images=num_images,
        )

    @property
    def has_ground_truth(self) -> bool:
        """Whether any pixel counted."""
        return any(self.per_class_pixels.values())

    def to_dict(self) -> dict[str, float]:
        """The four means: ``{"mIoU": 0.71, "mDice": 0.82, "pixel_accuracy": 0.93, "mean_accuracy": 0.79}``."""
        return {name: getattr(self, name) for name in ("mIoU", "mDice", "pixel_accuracy", "mean_accuracy")}

    def table(self) -> str:
        """A per-class table and the means as plain text, without a newline at the end."""
        return "\n".join([*self._class_lines(), "", *self._summary_lines()])

    def _class_lines(self) -> list[str]:
        width = max([len("class"), *(len(name) for name in self.per_class_iou)])
        lines = [f"{'class':<{width}}  {'pixels':>12}  {'IoU':>6}  {'Dice':>6}  {'Acc':>6}"]
        for name, iou in self.per_class_iou.items():
            lines.append(
                f"{name:<{width}}  {self.per_class_pixels[name]:>12}  {_shown(iou)}  "
                f"{_shown(self.per_class_dice[name])}  {_shown(self.per_class_accuracy[name])}"
            )
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
        means = (
            ("mIoU", "mean intersection over union", self.mIoU),
            ("mDice", "mean Dice coefficient", self.mDice),
            ("aAcc", "pixel accuracy", self.pixel_accuracy),
            ("mAcc", "mean accuracy of the classes", self.mean_accuracy),
        )
        return [*lines, *(f"{name:<6}{words:<32}{_shown(score)}" for name, words, score in means)]


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """above / below, nan where below is 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)


def _mean(scores: NDArray[np.float64]) -> float:
    """Mean of what is not nan, nan when nothing is left."""
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if len(present) else math.nan


def _shown(score: float) -> str:
    """A score in six columns; a dash where there was nothing to score."""
    return f"{'-':>6}" if math.isnan(score) else f"{score:6.3f}"
