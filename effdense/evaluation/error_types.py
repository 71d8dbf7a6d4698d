"""What the errors of a detector cost: six types after TIDE, each with the AP that mending it alone would win.

    Cls   right place, wrong class            -> class mended (of several, the best score), the others dropped
    Loc   right class, IoU below ``positive`` -> place mended (of several, the best score), the others dropped
    Both  wrong class and wrong place         -> dropped
    Dupe  a second box on one object          -> dropped
    Bkg   a box on nothing                    -> dropped
    Miss  an object nobody points at          -> no longer asked for

``FalsePos`` puts every false positive below every true one; ``FalseNeg`` no longer asks for any object not found. AP is
in points, 0 to 100, at one IoU: per class the mean of the precision at 101 recalls, then the mean over the classes that
have ground truth or detections (a class with detections only has AP 0). Costs overlap and do not sum to 100 - AP.

Source: Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors" (arXiv 2008.08115), section
3. Numbers are those of tidecv 1.0.1, with two exceptions: where mending leaves no class to score, AP is 100 (tidecv
divides by zero), and detections that a crowd region excuses are counted apart (they still mend, as in tidecv).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effdense.evaluation.coco_ap import as_truth
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.error_costs import SPECIAL, class_aps, mean_ap, mended_aps, special_costs
from effdense.evaluation.error_matching import CLS, CORRECT, CROWD, ERRORS, MISS, ErrorMatching, match_errors

if TYPE_CHECKING:
    from effdense.data.records import DetectionRecords

# What each type says about the model, and what most often helps.
ADVICE: dict[str, str] = {
    "Cls": "Objects are found, but named wrong. Look at the pairs of classes taken for each other: merge classes that "
    "nobody can tell apart, check their labels, add pictures of the rarer one or sample it more often.",
    "Loc": "Objects are found and named, but the boxes do not fit. Check that boxes are drawn tightly and by one rule, "
    "train at a larger image_size, fit the anchors to the shapes, or give the box loss more weight.",
    "Both": "Boxes are off and named wrong: often parts of objects, or groups. More training, or more pictures of the "
    "classes concerned.",
    "Dupe": "Several boxes on one object. Lower the IoU of non-maximum suppression; look for objects annotated twice.",
    "Bkg": "Boxes on things that are not annotated. Look at the worst pictures first: often they show objects that the "
    "annotator forgot. Otherwise add pictures without objects, or raise the score threshold.",
    "Miss": "Objects that no box points at. Compare the recall by size: small ones need a larger image_size or a finer "
    "level; rare classes need more pictures or repeat-factor sampling; a low threshold shows whether they are seen.",
}


@dataclass(frozen=True, eq=False)
class ErrorTypes:
    """Counts and costs of the six error types; AP and costs in points, 0 to 100.

    Attributes:
        ap: AP at IoU ``positive``; nan where there is neither ground truth nor a detection.
        cost: type -> AP that mending it alone would win, at least 0. Keys as in ``ERRORS``.
        special: ``FalsePos`` and ``FalseNeg`` -> AP won.
        counts: type -> how many: false positives, and for Miss ground truths.
        excused: type -> detections of that type inside crowd regions of their class, which are no errors.
        class_names: (K,).
        class_ap: (K,) AP of each class, nan without ground truth and detections.
        class_counts: (K, 6) errors by class of the detection (of Miss: of the ground truth), columns as ``ERRORS``.
        class_cost: (K, 6) AP of the class that mending the type would win, at least 0; nan as ``class_ap``.
        confused: (true class, class said, how many), from Cls errors, most first.
        num_instances, num_found: ground truths without crowds, and how many a detection takes.
        num_detections: those that count.
        iou_type, positive, background, max_detections: as given.
        matching: what became of every single detection and ground truth.
    """

    ap: float
    cost: dict[str, float]
    special: dict[str, float]
    counts: dict[str, int]
    excused: dict[str, int]
    class_names: tuple[str, ...]
    class_ap: NDArray[np.float64] = field(repr=False)
    class_counts: NDArray[np.int64] = field(repr=False)
    class_cost: NDArray[np.float64] = field(repr=False)
    confused: tuple[tuple[str, str, int], ...] = field(repr=False)
    num_instances: int
    num_found: int
    num_detections: int
    iou_type: str
    positive: float
    background: float
    max_detections: int
    matching: ErrorMatching = field(repr=False)

    def worst(self) -> str | None:
        """The type that costs most, None where nothing costs."""
        name = max(ERRORS, key=lambda one: self.cost[one])
        return name if self.cost[name] > 0 else None

    def advice(self) -> str:
        """One sentence or two: what costs most and what to do about it."""
        name = self.worst()
        if not self.num_instances:
            return "There is no ground truth, so there is nothing to score."
        if self.ap < 1:
            return (
                f"AP is {self.ap:.2f} points: next to nothing is right yet, and the costs say little. Train "
                "longer first; if that was done, look for shifted ids or boxes with effdense check."
            )
        if name is None:
            return "No error type costs any AP."
        return f"{name} errors cost most: mending them alone would win {self.cost[name]:.1f} AP points. {ADVICE[name]}"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single detections, as plain JSON (nan is None)."""
        classes = {
            name: {
                "ap": _plain(self.class_ap[k]),
                "counts": dict(zip(ERRORS, self.class_counts[k].tolist(), strict=True)),
                "cost": {error: _plain(self.class_cost[k, i]) for i, error in enumerate(ERRORS)},
            }
            for k, name in enumerate(self.class_names)
        }
        return {
            "ap": _plain(self.ap),
            "unit": "AP points, 0 to 100",
            "cost": self.cost,
            "special": self.special,
            "counts": self.counts,
            "excused_by_crowds": self.excused,
            "confused": [{"truth": t, "said": s, "count": n} for t, s, n in self.confused],
            "classes": classes,
            "num_instances": self.num_instances,
            "num_found": self.num_found,
            "num_detections": self.num_detections,
            "iou_type": self.iou_type,
            "positive_iou": self.positive,
            "background_iou": self.background,
            "max_detections": self.max_detections,
        }

    def table(self) -> str:
        """The types with counts and costs as plain text, without a newline at the end."""
        shown = "-" if math.isnan(self.ap) else f"{self.ap:.2f}"
        lines = [
            f"error types at IoU {self.positive:g} ({self.iou_type}): AP {shown} points, {self.num_instances} instances"
        ]
        lines.append(f"{'type':<9}{'count':>9}{'costs AP':>10}")
        lines += [f"{name:<9}{self.counts[name]:>9}{self.cost[name]:>10.2f}" for name in ERRORS]
        lines += [f"{name:<9}{'':>9}{self.special[name]:>10.2f}" for name in SPECIAL]
        return "\n".join(lines)


def tide_errors(
    ground_truth: str | Path | Mapping[str, Any] | Truth | DetectionRecords,
    detections: Sequence[Mapping[str, Any]] | NDArray[Any] | Found | str | Path,
    *,
    iou_type: str = "bbox",
    positive: float = 0.5,
    background: float = 0.1,
    max_detections: int = 100,
    image_order: Sequence[int] | None = None,
) -> ErrorTypes:
    """Name every error and say what each type costs.

    Args:
        ground_truth, detections: what ``evaluate_coco`` takes. The others, and the errors raised, are those of
            ``match_errors``.
    """
    truth = as_truth(ground_truth, masks=iou_type == "segm")
    found = Found.of(detections, truth, masks=iou_type == "segm")
    matching = match_errors(
        truth,
        found,
        iou_type=iou_type,
        positive=positive,
        background=background,
        max_detections=max_detections,
        image_order=image_order,
    )
    kind, said = matching.kind, matching.detection_class
    classes = len(truth.class_names)
    asked = np.bincount(matching.truth_class[matching.state != CROWD], minlength=classes)
    base = class_aps(matching, found.score, matching.order, np.zeros(len(found), np.bool_), asked)
    ap = mean_ap(base)
    mended = {name: mended_aps(matching, found.score, asked, code) for code, name in enumerate(ERRORS, start=1)}
    counted = matching.is_false
    counts = np.stack(
        [np.bincount(said[counted & (kind == code)], minlength=classes) for code in range(CLS, MISS)]
        + [np.bincount(matching.truth_class[matching.state == MISS], minlength=classes)],
        axis=1,
    )
    excused = [int((matching.excused & (kind == code)).sum()) for code in range(CLS, MISS)]
    return ErrorTypes(
        ap=ap,
        cost={name: max(mean_ap(aps, 100.0) - ap, 0.0) if not math.isnan(ap) else 0.0 for name, aps in mended.items()},
        special=special_costs(matching, found.score, asked, ap),
        counts=dict(zip(ERRORS, counts.sum(0).tolist(), strict=True)),
        excused=dict(zip(ERRORS, [*excused, 0], strict=True)),
        class_names=truth.class_names,
        class_ap=base,
        class_counts=counts,
        # A class that mending leaves without ground truth and detections has nothing wrong any more.
        class_cost=np.stack(
            [np.maximum(np.where(np.isnan(mended[n]), 100.0, mended[n]) - base, 0.0) for n in ERRORS], axis=1
        ),
        confused=_confused(matching, truth.class_names),
        num_instances=int(asked.sum()),
        num_found=int((matching.state == CORRECT).sum()),
        num_detections=len(matching.order),
        iou_type=iou_type,
        positive=positive,
        background=background,
        max_detections=max_detections,
        matching=matching,
    )


def _confused(matching: ErrorMatching, names: tuple[str, ...]) -> tuple[tuple[str, str, int], ...]:
    rows = np.flatnonzero((matching.kind == CLS) & ~matching.excused)
    cells = matching.truth_class[matching.partner[rows]] * len(names) + matching.detection_class[rows]
    pairs, counts = np.unique(cells, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple(
        (names[cell // len(names)], names[cell % len(names)], count)
        for cell, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    )


def _plain(value: float) -> float | None:
    """JSON has no nan."""
    return None if math.isnan(value) else float(value)
