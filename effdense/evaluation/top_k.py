"""How often the true class is among the k best: logits and labels in, one number per k and per class out.

A score is a fraction in [0, 1], or NaN where there was nothing to score. Pictures labelled -1 are not scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdense.errors import ShapeError

KS = (1, 5)


def correct_at(logits: Tensor, labels: Tensor, ks: Sequence[int] = KS) -> Tensor:
    """Whether the true class is among the k highest logits.

    Args:
        logits: (B, K) float; probabilities give the same.
        labels: (B,) integer in 0..K-1, or -1.
        ks: each at least 1; more than K counts as K.

    Returns:
        (B, len(ks)) bool on the device of the logits; False for a label of -1 and for a true class whose logit is NaN.

    Raises:
        ShapeError: shapes do not fit, or a k is below 1.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ShapeError(
            f"correct_at expected logits (B, K) and integer labels (B,), got {tuple(logits.shape)} and {labels.dtype} "
            f"{tuple(labels.shape)}."
        )
    if not ks or min(ks) < 1:
        raise ShapeError(f"correct_at needs every k to be at least 1, got {tuple(ks)}.")
    classes = logits.shape[1]
    labels = labels.to(logits.device)
    # NaN sorts above everything; at the bottom it cannot count as an answer.
    best = torch.where(logits.isnan(), -math.inf, logits).topk(min(max(ks), classes), dim=1).indices
    hits = (best == labels[:, None]) & ~logits.isnan().gather(1, labels.clamp(0, classes - 1).long()[:, None])
    return torch.stack([hits[:, : min(k, classes)].any(1) for k in ks], dim=1)


@dataclass(frozen=True)
class TopKScores:
    """Accuracy over all pictures and per class.

    Attributes:
        top1, top5: share of the pictures whose true class is the best, or among the five best.
        mean_class_accuracy: mean of the per-class top-1 over the classes that have pictures.
        per_class: class name -> top-1, in label order; NaN for a class without pictures.
        per_class_images: class name -> scored pictures.
        num_images: scored pictures. num_ignored: pictures labelled -1.
    """

    top1: float
    top5: float
    mean_class_accuracy: float
    per_class: dict[str, float] = field(default_factory=dict)
    per_class_images: dict[str, int] = field(default_factory=dict)
    num_images: int = 0
    num_ignored: int = 0

    @classmethod
    def from_arrays(
        cls, correct: NDArray[np.bool_] | Tensor, labels: NDArray[np.int64] | Tensor, class_names: Sequence[str]
    ) -> TopKScores:
        """Sum up what `correct_at` found.

        Args:
            correct: (N, 2) bool, for k = 1 and k = 5.
            labels: (N,) integer in 0..K-1, -1 = ignore.
            class_names: K names.

        Raises:
            ShapeError: shapes do not fit or a label has no name.
        """
        hits, truth = np.asarray(correct, bool), np.asarray(labels).astype(np.int64)
        if truth.ndim != 1 or hits.shape != (len(truth), len(KS)):
            raise ShapeError(
                f"TopKScores expected correct (N, {len(KS)}) and labels (N,), got {hits.shape} and {truth.shape}."
            )
        if len(truth) and (truth.min() < -1 or truth.max() >= len(class_names)):
            wrong = truth.min() if truth.min() < -1 else truth.max()
            raise ShapeError(f"TopKScores: label {wrong} has no name; there are {len(class_names)} class names.")
        scored = truth >= 0
        hits, truth, ignored = hits[scored], truth[scored], int((~scored).sum())
        counts = np.bincount(truth, minlength=len(class_names))
        right = np.bincount(truth[hits[:, 0]], minlength=len(class_names))
        per_class = [r / c if c else math.nan for r, c in zip(right.tolist(), counts.tolist(), strict=True)]
        seen = [accuracy for accuracy in per_class if not math.isnan(accuracy)]
        top1, top5 = (float(column.mean()) if len(truth) else math.nan for column in hits.T)
        return cls(
            top1=top1,
            top5=top5,
            mean_class_accuracy=sum(seen) / len(seen) if seen else math.nan,
            per_class=dict(zip(class_names, per_class, strict=True)),
            per_class_images=dict(zip(class_names, counts.tolist(), strict=True)),
            num_images=len(truth),
            num_ignored=ignored,
        )

    def to_dict(self) -> dict[str, float]:
        """``{"top1": 0.77, "top5": 0.93, "mean_class_accuracy": 0.77}``."""
        return {"top1": self.top1, "top5": self.top5, "mean_class_accuracy": self.mean_class_accuracy}

    def table(self, rows: int | None = 40) -> str:
        """Per-class table and the three numbers as plain text, without a newline at the end.

        Args:
            rows: how many classes at most, worst first beyond that; None for all in label order.
        """
        return "\n".join([*self._class_lines(rows), "", *self._summary_lines()])

    def _class_lines(self, rows: int | None) -> list[str]:
        names = list(self.per_class)
        left_out = 0 if rows is None else max(0, len(names) - rows)
        if left_out:
            worst_first = sorted(names, key=lambda name: (math.isnan(self.per_class[name]), self.per_class[name]))
            names = worst_first[:rows]
        width = max([len("class"), *(len(name) for name in names)])
        lines = [f"{'class':<{width}}  {'images':>7}  {'top-1':>6}"]
        lines += [
            f"{name:<{width}}  {self.per_class_images.get(name, 0):>7}  {_shown(self.per_class[name])}"
            for name in names
        ]
        return [*lines, f"... and {left_out} classes more, none of them worse"] if left_out else lines

    def _summary_lines(self) -> list[str]:
        ignored = f", {self.num_ignored} without label" if self.num_ignored else ""
        lines = [f"{self.num_images} images{ignored}"]
        if not self.num_images:
            lines.append("no labelled image: there is nothing to score, every number is NaN")
        words: list[tuple[str, Any]] = [
            ("top-1 accuracy", self.top1),
            ("top-5 accuracy", self.top5),
            ("mean of the classes' top-1", self.mean_class_accuracy),
        ]
        return [*lines, *(f"{word:<28}{_shown(score)}" for word, score in words)]


def _shown(score: float) -> str:
    """A score in six columns; a dash where there was nothing to score."""
    return f"{'-':>6}" if math.isnan(score) else f"{score:6.3f}"
