"""The report of a detector: COCO's numbers, the error types and what they cost, curves, confusion, recall by size, and
galleries of its worst and best pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effdense.evaluation.coco_scores import SUMMARY
from effdense.evaluation.size_recall import (
    RecallBin,
    calibration_error,
    recall_by_coco_size,
    recall_by_shape,
    recall_by_size,
    score_bins,
)
from effdense.evaluation.worst_images import ImageRanking, rank_images
from effdense.report.detection_gallery import PanelSource, detection_gallery
from effdense.report.detection_sections import (
    DetectionResult,
    calibration_blocks,
    class_errors,
    class_table,
    confusion_blocks,
    curve_blocks,
    error_blocks,
    recall_blocks,
)
from effdense.report.document import Block, Document, Paragraph, Section, Table, number

__all__ = ["DetectionResult", "detection_report"]


def detection_report(
    title: str, facts: Sequence[tuple[str, str]], result: DetectionResult, *, gallery: int = 24
) -> tuple[Document, dict[str, Any]]:
    """The document, and its numbers as plain JSON.

    Args: gallery: how many of the worst pictures to draw.
    """
    ranking = rank_images(result.truth, result.found, result.errors.matching, result.threshold)
    bins = {
        "coco_size": recall_by_coco_size(result.truth, result.errors.matching, ranking.taken),
        "size": recall_by_size(result.truth, result.errors.matching, ranking.taken),
        "shape": recall_by_shape(result.truth, result.errors.matching, ranking.taken),
    }
    problems: list[str] = []
    source = PanelSource(
        result.truth, result.found, result.errors.matching, ranking, result.threshold, result.load, result.names
    )
    worst = [row for row in ranking.worst.tolist() if ranking.lost[row] > 0][:gallery]
    best = [row for row in ranking.best.tolist() if row not in set(worst)][: min(4, gallery)]
    sections = [
        Section("Scores", _score_blocks(result)),
        Section("Error types", error_blocks(result.errors)),
        Section("Classes", [class_table(result), class_errors(result.errors)]),
        Section("Precision, recall and F1", curve_blocks(result)),
        Section("Taken for each other", confusion_blocks(result)),
        Section("Recall by size and shape", recall_blocks(bins)),
        Section("Scores of detections", calibration_blocks(result)),
        detection_gallery("Worst pictures", "worst", worst, source, problems),
        detection_gallery("Best pictures", "best", best, source, problems),
    ]
    if problems:
        lines = [Paragraph(line, "warning") for line in dict.fromkeys(problems)]
        sections.append(Section("Pictures that could not be read", lines[:20]))
    return Document(title, facts, sections), _numbers(result, bins, ranking, worst)


def _score_blocks(result: DetectionResult) -> list[Block]:
    scores, best = result.scores, result.curves.best()
    rows = [[name, number(getattr(scores, name)), " ".join(words.split())] for name, words in SUMMARY]
    blocks: list[Block] = [Table(["score", "value", "what it is"], rows, text_columns=frozenset({0, 2}))]
    if not scores.has_ground_truth:
        blocks.append(Paragraph("There is no ground truth on these images, so there is nothing to score.", "warning"))
        return blocks
    if not len(result.found):
        blocks.append(
            Paragraph(
                "There is not one detection. Train longer, or look whether boxes reach the model (effdense browse).",
                "warning",
            )
        )
        return blocks
    if best.score >= 0:
        blocks.append(
            Paragraph(
                f"F1 of all classes is best, {number(best.f1)}, for scores from {number(best.score)} on: precision "
                f"{number(best.precision)}, recall {number(best.recall)} at IoU {result.errors.positive:g}."
            )
        )
    blocks += [Paragraph(sentence, "warning") for sentence in result.mistakes]
    blocks.append(Paragraph(result.errors.advice(), "key"))
    return blocks


def _numbers(
    result: DetectionResult, bins: dict[str, list[RecallBin]], ranking: ImageRanking, worst: Sequence[int]
) -> dict[str, Any]:
    scored = score_bins(result.errors.matching, result.found.score)
    return {
        "task": "detection",
        "scores": result.scores.to_dict(),
        "images": result.scores.num_images,
        "instances": result.scores.num_instances,
        "detections": result.scores.num_detections,
        "iou_type": result.scores.iou_type,
        "threshold": result.threshold,
        "best": result.curves.best().to_dict(),
        "classes": {
            name: {
                "instances": result.scores.per_class_instances.get(name, 0),
                **result.scores.per_class.get(name, {"AP": result.scores.per_class_ap[name]}),
                "best": result.curves.best(name).to_dict(),
            }
            for name in result.scores.per_class_ap
        },
        "usual_mistakes": list(result.mistakes),
        "error_types": result.errors.to_dict(),
        "confusion": result.confusion.to_dict(),
        "recall": {
            kind: [
                {"bin": b.name, "instances": b.instances, "recall": b.recall, "recall_at_threshold": b.recall_shown}
                for b in chosen
            ]
            for kind, chosen in bins.items()
        },
        "calibration_error": calibration_error(scored),
        "score_histogram": [{"low": b.low, "high": b.high, "right": b.right, "false": b.false} for b in scored],
        "worst": [
            {
                "image_id": int(result.truth.image_ids[row]),
                "file": result.names[row],
                "lost": float(ranking.lost[row]),
                "false": int(ranking.false[row]),
                "missed": int(ranking.missed[row]),
                "right": int(ranking.right[row]),
            }
            for row in worst
        ],
    }
