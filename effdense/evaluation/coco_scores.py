"""The result of a COCO evaluation: twelve numbers, the same per class, what was counted, and a table of it all.

A score is a fraction in [0, 1]; -1 means that there was nothing to score (no ground truth of that class or size), as in
pycocotools. Sizes are areas of the ground truth in px^2: small < 32^2 <= medium <= 96^2 < large.
Source: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py (Params.setDetParams, summarize).
"""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class CocoScores:
    """Twelve COCO numbers, per-class AP and AP50, and the counts behind them.

    Attributes:
        AP, AP50, ... ARl: fractions in [0, 1], or -1 where no ground truth falls under the number.
        per_class_ap: class name -> AP, in the order of the category ids; -1 for a class without ground truth.
        per_class_ap50: class name -> AP at IoU 0.50.
        per_class_instances: class name -> scored ground truths, crowd regions not counted.
        num_images: images evaluated.
        num_instances: scored ground truths on them, crowd regions not counted.
        num_crowd: crowd regions, which excuse detections and are never missed.
        num_detections: detections given on these images, before COCO's limit of 100 per image and class.
        iou_type: "bbox" or "segm".
        backend: the package that did the matching.
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
    backend: str = "pycocotools"

    @property
    def has_ground_truth(self) -> bool:
        """Whether there was anything to score; without it all twelve numbers are -1, which is not a bad score."""
        return self.num_instances > 0

    def to_dict(self) -> dict[str, float]:
        """The twelve numbers under their short names, in COCO's order: ``{"AP": 0.41, "AP50": 0.62, ...}``."""
        return {name: float(getattr(self, name)) for name, _ in SUMMARY}

    def table(self) -> str:
        """A per-class table and COCO's twelve lines as plain text, without a newline at the end."""
        return "\n".join([*self._class_lines(), "", *self._summary_lines()])

    def _class_lines(self) -> list[str]:
        width = max([len("class"), *(len(name) for name in self.per_class_ap)])
        lines = [f"{'class':<{width}}  {'instances':>9}  {'AP':>6}  {'AP50':>6}"]
        for name, ap in self.per_class_ap.items():
            instances = self.per_class_instances.get(name, 0)
            lines.append(
                f"{name:<{width}}  {instances:>9}  {_shown(ap)}  {_shown(self.per_class_ap50.get(name, -1.0))}"
            )
        return lines

    def _summary_lines(self) -> list[str]:
        lines = [
            f"{self.num_images} images, {self.num_instances} instances, {self.num_crowd} crowd regions, "
            f"{self.num_detections} detections ({self.iou_type}, {self.backend})"
        ]
        if not self.has_ground_truth:
            lines.append("no ground truth on these images: there is nothing to score, every number is -1")
        return [*lines, *(f"{name:<6}{words:<62}{_shown(getattr(self, name))}" for name, words in SUMMARY)]


def _shown(score: float) -> str:
    """A score in six columns; a dash where there was nothing to score."""
    return f"{score:6.3f}" if score >= 0 else f"{'-':>6}"
