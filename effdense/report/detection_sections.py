"""Sections of a detector's report: error types, classes, curves, confusion, recall by size, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effdense.evaluation.accumulate import RECALLS
from effdense.evaluation.coco_scores import CocoScores
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.curves import Curves
from effdense.evaluation.detection_confusion import DetectionConfusion
from effdense.evaluation.error_types import ADVICE, ERRORS, SPECIAL, ErrorTypes
from effdense.evaluation.size_recall import RecallBin, calibration_error, score_bins
from effdense.report.document import Block, Paragraph, Picture, Table, chart, number
from effdense.report.images import Loader
from effdense.visualize.charts import confusion_chart, cost_chart, curve_chart, recall_chart, score_chart

_MOST_PAIRS = 15


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """Everything that a report of a detector is drawn from.

    Attributes:
        truth, found: columns on the images that are scored. curves, errors, confusion: at one IoU.
        threshold: score from which detections are shown, and counted in ``confusion``.
        load: row of ``truth.image_ids`` to its picture. names: what to call each row.
        mistakes: sentences of ``usual_mistakes``.
    """

    truth: Truth
    found: Found
    scores: CocoScores
    errors: ErrorTypes
    curves: Curves
    confusion: DetectionConfusion
    threshold: float
    load: Loader
    names: Sequence[str]
    mistakes: Sequence[str] = ()


def error_blocks(errors: ErrorTypes) -> list[Block]:
    picture = chart(
        "error_types", cost_chart(errors.cost, errors.counts, errors.special), "AP that mending each error type wins"
    )
    rows = [[name, f"{errors.counts[name]}", f"{errors.cost[name]:.2f}", ADVICE[name]] for name in ERRORS]
    said = {
        "FalsePos": "all false positives below all right ones",
        "FalseNeg": "only objects asked for that are found",
    }
    rows += [[name, "", f"{errors.special[name]:.2f}", f"What would be won with {said[name]}."] for name in SPECIAL]
    shown = "–" if math.isnan(errors.ap) else f"{errors.ap:.2f}"
    blocks: list[Block] = [
        Paragraph(
            f"AP at IoU {errors.positive:g} is {shown} points (0 to 100), with {errors.max_detections} detections of a "
            "picture at most. Each error type is mended alone; the costs overlap and do not sum up. Types after Bolya "
            "et al. 2020 (TIDE), where a class with detections and no objects counts as AP 0; COCO leaves it out."
        ),
        picture,
        Table(["type", "count", "costs AP", "what helps"], rows, text_columns=frozenset({0, 3})),
    ]
    if sum(errors.excused.values()):
        blocks.append(
            Paragraph(f"{sum(errors.excused.values())} detections inside crowd regions are no errors.", "note")
        )
    if errors.confused:
        pairs = [[truth, name, f"{count}"] for truth, name, count in errors.confused[:_MOST_PAIRS]]
        blocks.append(
            Table(
                ["truth", "taken for", "detections"],
                pairs,
                "Cls errors by class, any score",
                text_columns=frozenset({0, 1}),
            )
        )
    return blocks


def class_table(result: DetectionResult) -> Table:
    scores = result.scores
    columns = ["class", "instances", "AP", "AP50", "APs", "APm", "APl", "P", "R", "F1", "at score"]
    rows = []
    for name, ap in scores.per_class_ap.items():
        own, best = scores.per_class.get(name, {}), result.curves.best(name)
        row = [name, f"{scores.per_class_instances.get(name, 0)}", number(ap), number(scores.per_class_ap50.get(name))]
        row += [number(own.get(size)) for size in ("APs", "APm", "APl")]
        row += [number(value) for value in (best.precision, best.recall, best.f1, best.score)]
        rows.append(row)
    caption = f"P, R and F1 at the score where F1 of the class is best, IoU {result.errors.positive:g}"
    return Table(columns, rows, caption)


def class_errors(errors: ErrorTypes) -> Table:
    def cell(count: int, cost: float) -> str:
        return f"{count}" + ("" if math.isnan(cost) or cost < 0.05 else f" ({cost:.1f})")

    rows = [
        [name, number(errors.class_ap[k], 1)]
        + [cell(errors.class_counts[k, i], errors.class_cost[k, i]) for i in range(len(ERRORS))]
        for k, name in enumerate(errors.class_names)
    ]
    caption = "errors of each class, in brackets the AP points of the class that mending them would win"
    return Table(["class", "AP points", *ERRORS], rows, caption)


def curve_blocks(result: DetectionResult) -> list[Block]:
    scored = {name: curve for name, curve in result.curves.classes.items() if curve.positives}
    if not scored:
        return [Paragraph("There is no ground truth, so there is no curve.")]
    iou = f"IoU {result.curves.iou:g}"
    precisions = {name: curve.precision_at() for name, curve in scored.items()}
    mean = np.mean(list(precisions.values()), axis=0)
    precision = curve_chart(
        [(name, RECALLS, values) for name, values in precisions.items()],
        xlabel="recall",
        ylabel=f"precision ({iou})",
        mean=(f"mean of the classes (AP {mean.mean():.3f})", RECALLS, mean),
    )
    grids = result.curves.to_dict(points=201)
    grid = np.array(grids["thresholds"])
    f1 = curve_chart(
        [(name, grid, np.array(grids["classes"][name]["f1"])) for name in scored],
        xlabel="score threshold",
        ylabel=f"F1 ({iou})",
        mean=("all objects together", grid, np.array(grids["overall"]["f1"])),
        mark=result.threshold,
        mark_name=f"threshold {result.threshold:.2f}",
    )
    return [
        chart("precision_recall", precision, "precision over recall of every class"),
        chart("f1", f1, "F1 over the score threshold of every class"),
    ]


def confusion_blocks(result: DetectionResult) -> list[Block]:
    names = result.truth.class_names
    picture = confusion_chart(
        result.confusion.counts, [*names, "(nothing)"], [*names, "(missed)"], row_title="truth", column_title="said"
    )
    note = (
        f"Detections with a score of {result.threshold:.2f} or more against the truth at IoU {result.curves.iou:g}. "
        "The last column is what was missed, the last row what was found where nothing is."
    )
    return [
        Paragraph(note, "note"),
        chart("confusion", picture, "confusion matrix, shares of the objects of each class", wide=True),
    ]


def recall_blocks(bins: dict[str, list[RecallBin]]) -> list[Block]:
    def picture(name: str, alt: str, xlabel: str) -> Picture:
        chosen = bins[name]
        return chart(
            f"recall_{name}",
            recall_chart(
                [one.name for one in chosen], [one.instances for one in chosen], [one.recall for one in chosen],
                [one.recall_shown for one in chosen], xlabel=xlabel,
            ),
            alt,
        )  # fmt: skip

    rows = [[one.name, f"{one.instances}", number(one.recall), number(one.recall_shown)] for one in bins["coco_size"]]
    return [
        Table(["size (COCO)", "instances", "recall, any score", "recall at the threshold"], rows),
        picture("size", "recall by size", "square root of the area"),
        picture("shape", "recall by shape", "width / height"),
    ]


def calibration_blocks(result: DetectionResult) -> list[Block]:
    bins = score_bins(result.errors.matching, result.found.score)
    error = calibration_error(bins)
    if math.isnan(error):
        return [Paragraph("No detection to draw.")]
    picture = score_chart(
        [one.low for one in bins], [one.right for one in bins], [one.false for one in bins],
        [one.mean_score for one in bins], result.threshold,
    )  # fmt: skip
    return [
        Paragraph(f"Score and precision differ by {error:.3f} on average (expected calibration error).", "note"),
        chart("scores", picture, "right and false detections by score, and their precision"),
    ]
