"""The result of a COCO evaluation: twelve numbers, the same per class, what was counted, and a table of it all.

A score is a fraction in [0, 1]; -1 means that there was nothing to score (no ground truth of that class or size), as in
pycocotools. Sizes are areas of the ground truth in px^2: small < 32^2 <= medium <= 96^2 < large.
Source: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py (Params.setDetParams, summarize).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from effdense.evaluation.accumulate import CocoArrays
    from effdense.evaluation.curves import Curves
    from effdense.evaluation.detection_confusion import DetectionConfusion
    from effdense.evaluation.matching import Matches
    from effdense.evaluation.voc_ap import VocScores

# Order of COCOeval.stats, with the words of its printed lines.
SUMMARY: tuple[tuple[str, str], ...] = (
    ("AP", "average precision  IoU 0.50:0.95  all sizes    100 detections"),
    ("AP50", "average precision  IoU 0.50       all sizes    100 detections"),
    ("AP75", "average precision  IoU 0.75       all sizes    100 detections"),
    ("APs", "average precision  IoU 0.50:0.95  small        100 detections"),
    ("APm", "average precision  IoU 0.50:0.95  medium       100 detections"),
    ("APl", "average precision  IoU 0.50:0.95  large        100 detections"),
    ("AR1", "average recall     IoU 0.50:0.95  all sizes      1 detection"),
    ("AR10", "average recall     IoU 0.50:0.95  all sizes     10 detections"),
    ("AR100", "average recall     IoU 0.50:0.95  all sizes    100 detections"),
    ("ARs", "average recall     IoU 0.50:0.95  small        100 detections"),
    ("ARm", "average recall     IoU 0.50:0.95  medium       100 detections"),
    ("ARl", "average recall     IoU 0.50:0.95  large        100 detections"),
)


# Which part of the arrays each number is the mean of: recall or precision, IoU threshold, size, detection limit.
_PARTS: dict[str, tuple[str, int | None, int, int]] = {
    "AP": ("precision", None, 0, -1),
    "AP50": ("precision", 0, 0, -1),
    "AP75": ("precision", 5, 0, -1),
    "APs": ("precision", None, 1, -1),
    "APm": ("precision", None, 2, -1),
    "APl": ("precision", None, 3, -1),
    "AR1": ("recall", None, 0, 0),
    "AR10": ("recall", None, 0, 1),
    "AR100": ("recall", None, 0, -1),
    "ARs": ("recall", None, 1, -1),
    "ARm": ("recall", None, 2, -1),
    "ARl": ("recall", None, 3, -1),
}


def summarize(arrays: CocoArrays) -> dict[str, float]:
    """The twelve numbers of all classes."""
    return {name: _mean(arrays, name, slice(None)) for name in _PARTS}


def class_numbers(arrays: CocoArrays, k: int) -> dict[str, float]:
    """The twelve numbers of class ``k`` alone."""
    return {name: _mean(arrays, name, slice(k, k + 1)) for name in _PARTS}


def _mean(arrays: CocoArrays, name: str, classes: slice) -> float:
    """Mean where there was ground truth, -1 where there was none."""
    kind, threshold, size, limit = _PARTS[name]
    values: NDArray[np.float64] = getattr(arrays, kind)[..., classes, size, limit]
    if threshold is not None:
        values = values[threshold]
    scored = values[values > -1]
    return float(scored.mean()) if scored.size else -1.0


@dataclass(frozen=True)
class CocoScores:
    """Twelve COCO numbers, the same of each class, and the counts behind them.

    Attributes:
        AP, AP50, ... ARl: fractions in [0, 1], or -1 where no ground truth falls under the number.
        per_class_ap: class name -> AP, in the order of the category ids; -1 for a class without ground truth.
        per_class_ap50: class name -> AP at IoU 0.50.
        per_class_instances: class name -> scored ground truths, crowd regions not counted.
        per_class: class name -> its own twelve numbers under their short names.
        num_images: images evaluated.
        num_instances: scored ground truths on them, crowd regions not counted.
        num_crowd: crowd regions, which excuse detections and are never missed.
        num_detections: detections given on these images, before COCO's limit of 100 per image and class.
        iou_type: "bbox" or "segm".
        backend: what did the matching: "arrays", "faster-coco-eval" or "pycocotools".
        arrays: precision, recall and score at every threshold, class, size and limit; no part of ``==``, as below.
        matches: who matched whom, from which ``Curves.of`` draws its curves (backend "arrays").
        curves, confusion, voc: where they were asked for.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class_ap: dict[str, float] = field(default_factory=dict)
    per_class_ap50: dict[str, float] = field(default_factory=dict)
    per_class_instances: dict[str, int] = field(default_factory=dict)
    num_images: int = 0
    num_instances: int = 0
    num_crowd: int = 0
    num_detections: int = 0
    iou_type: str = "bbox"
    backend: str = field(default="pycocotools", compare=False)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    arrays: CocoArrays | None = field(default=None, compare=False, repr=False)
    matches: Matches | None = field(default=None, compare=False, repr=False)
    curves: Curves | None = field(default=None, compare=False, repr=False)
    confusion: DetectionConfusion | None = field(default=None, compare=False, repr=False)
    voc: VocScores | None = field(default=None, compare=False, repr=False)

    @property
    def has_ground_truth(self) -> bool:
        """Whether there was anything to score; without it all twelve numbers are -1, which is not a bad score."""
        return self.num_instances > 0

    def to_dict(self) -> dict[str, float]:
        """The twelve numbers under their short names, in COCO's order: ``{"AP": 0.41, "AP50": 0.62, ...}``."""
        return {name: float(getattr(self, name)) for name, _ in SUMMARY}

    def report(self) -> dict[str, Any]:
        """Everything as plain JSON under stable keys.

        ``scores`` (the twelve), ``classes`` (name -> its twelve, ``instances`` and, with curves, ``best``), ``images``,
        ``instances``, ``crowd``, ``detections``, ``iou_type``, ``backend``, and, where they were asked for, ``best``
        and ``curves``, ``confusion``, ``voc``. -1 stands for what had no ground truth.
        """
        classes: dict[str, dict[str, Any]] = {
            name: {"instances": self.per_class_instances.get(name, 0), **numbers}
            for name, numbers in self.per_class.items()
        }
        content: dict[str, Any] = {
            "scores": self.to_dict(),
            "images": self.num_images,
            "instances": self.num_instances,
            "crowd": self.num_crowd,
            "detections": self.num_detections,
            "iou_type": self.iou_type,
            "backend": self.backend,
            "classes": classes,
        }
        if self.curves is not None:
            content["best"] = self.curves.best().to_dict()
            for name in classes:
                classes[name]["best"] = self.curves.best(name).to_dict()
            content["curves"] = self.curves.to_dict()
        if self.confusion is not None:
            content["confusion"] = self.confusion.to_dict()
        if self.voc is not None:
            content["voc"] = self.voc.to_dict()
        return content

    def table(self) -> str:
        """A per-class table, COCO's twelve lines and, with curves, the best threshold, without a newline at the end.

        P, R and F1 of a class are those at the score threshold ``at`` where its F1 is best (IoU 0.50).
        """
        return "\n".join([*self._class_lines(), "", *self._summary_lines()])

    def _class_lines(self) -> list[str]:
        width = max([len("class"), *(len(name) for name in self.per_class_ap)])
        sizes = ("APs", "APm", "APl") if self.per_class else ()
        head = ["AP", "AP50", *sizes]
        best = {} if self.curves is None else {name: self.curves.best(name) for name in self.per_class_ap}
        head += ["P", "R", "F1", "at"] if best else []
        lines = [f"{'class':<{width}}  {'instances':>9}" + "".join(f"  {name:>6}" for name in head)]
        for name, ap in self.per_class_ap.items():
            numbers = [ap, self.per_class_ap50.get(name, -1.0), *(self.per_class[name][size] for size in sizes)]
            if name in best:
                numbers += [best[name].precision, best[name].recall, best[name].f1, best[name].score]
            shown = "".join(f"  {_shown(number)}" for number in numbers)
            lines.append(f"{name:<{width}}  {self.per_class_instances.get(name, 0):>9}{shown}")
        return lines

    def _summary_lines(self) -> list[str]:
        lines = [
            f"{self.num_images} images, {self.num_instances} instances, {self.num_crowd} crowd regions, "
            f"{self.num_detections} detections ({self.iou_type}, {self.backend})"
        ]
        if not self.has_ground_truth:
            lines.append("no ground truth on these images: there is nothing to score, every number is -1")
        if self.curves is not None and self.has_ground_truth:
            lines.append(self.curves.best().sentence())
        if self.voc is not None:
            lines.append(f"VOC AP50: {_shown(self.voc.mean).strip()} ({self.voc.rule})")
        return [*lines, *(f"{name:<6}{words:<62}{_shown(getattr(self, name))}" for name, words in SUMMARY)]


def _shown(score: float) -> str:
    """A score in six columns; a dash where there was nothing to score."""
    return f"{score:6.3f}" if score >= 0 else f"{'-':>6}"
