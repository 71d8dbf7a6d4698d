"""From predictions to what the reports are drawn from: columns and matches, class maps, answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from effdense.data import DetectionRecords, read_image
from effdense.errors import ConfigError, DataError
from effdense.evaluation import evaluate_coco
from effdense.evaluation.coco_truth import truth_of_split
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.curves import curves_of
from effdense.evaluation.detection_confusion import detection_confusion
from effdense.evaluation.error_types import tide_errors
from effdense.evaluation.usual_mistakes import usual_mistakes
from effdense.report.classification import Answer
from effdense.report.detection import DetectionResult
from effdense.report.images import Loader
from effdense.report.segmentation import MaskedImage

_NO_THRESHOLD = 0.5  # where no F1 is to be had


def truth_of(records: DetectionRecords) -> Truth:
    """Ground truth of a split, the one that its scores are computed from, on its images."""
    truth, _ = truth_of_split(records)
    return truth.on(np.unique(records.image_ids))


def check_iou(iou: float) -> None:
    """Raise ConfigError for an IoU that no detection can be called right from."""
    if not 0.1 < iou <= 1:
        raise ConfigError(f"--iou must be above 0.1 (below it, a box is on nothing) and at most 1, got {iou:g}.")


def detection_result(
    truth: Truth,
    found: Found,
    load: Loader,
    names: Sequence[str],
    *,
    iou_type: str = "bbox",
    iou: float = 0.5,
    threshold: float | None = None,
) -> DetectionResult:
    """Score, name the errors, draw the curves' numbers.

    Args:
        truth, found: columns on the same images. load, names: see ``DetectionResult``.
        iou: from which a detection is right, for errors, curves and confusion. threshold: default that of the best F1.

    Raises: ConfigError for an IoU outside (0.1, 1] or a threshold outside 0..1; DataError for columns that do not fit.
    """
    check_iou(iou)
    most = max(1.0, float(found.score.max(initial=0)))
    if threshold is not None and not 0 <= threshold <= most:
        raise ConfigError(f"--score-threshold must be in 0..{most:g}, as the scores are; got {threshold:g}.")
    scores = evaluate_coco(truth, found, iou_type=iou_type)  # type: ignore[arg-type]
    errors = tide_errors(truth, found, iou_type=iou_type, positive=iou)
    masks = iou_type == "segm"
    curves = curves_of(truth, found, iou=iou, masks=masks)
    if threshold is None:
        best = curves.best()
        threshold = best.score if best.hits else _NO_THRESHOLD
    return DetectionResult(
        truth=truth,
        found=found,
        scores=replace(scores, curves=curves),
        errors=errors,
        curves=curves,
        confusion=detection_confusion(truth, found, score_threshold=threshold, iou_threshold=iou, masks=masks),
        threshold=threshold,
        load=load,
        names=names,
        mistakes=usual_mistakes(truth, found, errors),
    )


def record_loader(records: DetectionRecords, truth: Truth) -> tuple[Loader, list[str]]:
    """Pictures of records by row of ``truth.image_ids``, and their names."""
    row_of = {image_id: row for row, image_id in enumerate(records.image_ids.tolist())}
    rows = [row_of[image_id] for image_id in truth.image_ids.tolist()]

    def load(row: int) -> NDArray[np.uint8]:
        height, width = records.sizes[rows[row]].tolist()
        return read_image(records.path(rows[row]), expected_size=(height, width))

    return load, [_short(records.path(row), records.image_dir) for row in rows]


def _short(path: Path, folder: Path) -> str:
    """A path below the image folder; of combined sets, whose names are absolute, the last two parts."""
    if folder != Path() and path.is_relative_to(folder):
        return str(path.relative_to(folder))
    return "/".join(path.parts[-2:])


def masked_images(dataset: Any, folder: Path) -> list[MaskedImage]:
    """Pictures, truths and the predicted class maps that ``SegmentationMetric`` wrote into a folder.

    Raises: DataError where it did not write one for each.
    """
    records = dataset.records
    written = {int(path.name.split("_", 1)[0]): path for path in folder.glob("*_*.png")}
    if sorted(written) != list(range(len(records))):
        raise DataError(f"{folder}: {len(written)} predictions for {len(records)} pictures.")
    return [_masked(dataset, records, i, written[i]) for i in range(len(records))]


def _masked(dataset: Any, records: Any, index: int, file: Path) -> MaskedImage:
    def prediction() -> NDArray[np.uint8]:
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if mask is None or mask.ndim != 2:
            raise DataError(f"{file}: the predicted class map cannot be read.")
        return np.asarray(mask, np.uint8)

    path = Path(records[index].path)
    return MaskedImage(
        name="/".join(path.parts[-2:]),
        image=lambda: dataset.load(index)["image"],
        truth=lambda: np.asarray(dataset.load_mask(index)),
        prediction=prediction,
    )


def answers_of(entries: Sequence[dict[str, Any]]) -> list[Answer]:
    """What ``TopKMetric`` wrote."""
    return [Answer(str(entry["path"]), str(entry["label"]), dict(entry["probabilities"])) for entry in entries]


def path_loader() -> Callable[[str], NDArray[np.uint8]]:
    """Pictures by their path."""
    return lambda path: read_image(path)
