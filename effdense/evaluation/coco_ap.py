"""COCO AP: ground truth and detections in, twelve numbers out, those of pycocotools to the last digit.

    annotation JSON | records | Truth --\
                                         columns -> matches -> precision and recall arrays -> CocoScores
    result dicts | (n, 7) array | Found -/

Three ways lead from the columns to the arrays: ``arrays`` (this package, numpy over the whole data set at once, no
object per box), ``faster`` (the C++ of faster-coco-eval) and ``pycocotools`` (the reference). They give equal numbers;
``arrays`` takes the least time and also keeps the matches, from which curves come without a second pass.

What would give a wrong score without a word is an error: a detection whose image or category id is not in the ground
truth (COCOeval would ignore it: mAP 0), and numbers that are not finite (a NaN score sorts anywhere).

Source: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py (_prepare, evaluateImg, accumulate, summarize).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from effdense.errors import ConfigError, MissingExtra, did_you_mean
from effdense.evaluation.accumulate import CocoArrays, accumulate
from effdense.evaluation.coco_scores import CocoScores, class_numbers, summarize
from effdense.evaluation.coco_truth import chosen_images
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.matching import Matches, match

if TYPE_CHECKING:
    from effdense.data.records import DetectionRecords

BACKENDS = ("auto", "arrays", "faster", "pycocotools")
_FASTER = "faster_coco_eval"


def evaluate_coco(
    ground_truth: str | Path | Mapping[str, Any] | Truth | DetectionRecords,
    detections: Sequence[Mapping[str, Any]] | NDArray[Any] | Found | str | Path,
    *,
    iou_type: Literal["bbox", "segm"] = "bbox",
    image_ids: Sequence[int] | NDArray[Any] | None = None,
    backend: str = "auto",
) -> CocoScores:
    """Score detections against ground truth.

    Args:
        ground_truth: path of a COCO annotation JSON, or its content, which is left unchanged; ``Truth`` columns; or
            records of any format (their float32 boxes). Where they are missing, ``iscrowd`` is 0 and ``area`` the box
            area. Crowd regions are ignored as COCO does.
        detections: dicts of ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, w, h in px; ``segmentation``
            for "segm"), or an (n, 7) array of image_id, x, y, w, h, score, category_id, or ``Found`` columns, or the
            path of a result JSON. Ids are those of the annotation file, not labels 0..K-1. May be empty: every number
            with ground truth is then 0.
        iou_type: overlap of boxes or of masks.
        image_ids: score only these images; detections on other known images are left out. None: all images.
        backend: "arrays" is this package's own, "faster" is faster-coco-eval, "pycocotools" the reference. "auto" is
            "arrays", which was measured to be the fastest and equal to the reference.

    Raises:
        DataError: ground truth or detections cannot be scored as given (unknown ids, not finite, missing keys).
        ConfigError: an unknown ``iou_type`` or ``backend``.
        MissingExtra: "faster" without faster-coco-eval.
    """
    if iou_type not in ("bbox", "segm"):
        raise ConfigError(f"evaluate_coco: iou_type is {iou_type!r}; expected 'bbox' or 'segm'.")
    backend = choose_backend(backend)
    masks = iou_type == "segm"
    truth = as_truth(ground_truth, masks=masks)
    found = Found.of(detections, truth, masks=masks)
    chosen = chosen_images(truth, image_ids)
    if len(chosen) < len(truth.image_ids):
        truth, found = truth.on(chosen), found.take(np.isin(found.image, chosen))
    arrays, matches = _run(truth, found, masks, backend)
    return _scores(truth, found, arrays, matches, iou_type, backend)


def choose_backend(backend: str) -> str:
    """The backend that will run; ConfigError for an unknown one, MissingExtra for one that is not installed."""
    if backend not in BACKENDS:
        raise ConfigError(
            f"evaluate_coco: backend is {backend!r}; expected 'auto', 'arrays', 'faster' or 'pycocotools'."
            f"{did_you_mean(str(backend), BACKENDS)}"
        )
    if backend == "faster" and importlib.util.find_spec(_FASTER) is None:
        raise MissingExtra("evaluate_coco(backend='faster') needs faster-coco-eval; run: pip install faster-coco-eval")
    return "arrays" if backend == "auto" else backend


def as_truth(source: str | Path | Mapping[str, Any] | Truth | DetectionRecords, *, masks: bool = False) -> Truth:
    """Ground truth of any kind as columns; DataError for what is none."""
    from effdense.data.records import DetectionRecords
    from effdense.errors import DataError

    if isinstance(source, DetectionRecords):
        return Truth.from_records(source, masks=masks)
    if isinstance(source, (str, Path, Mapping)):
        return Truth.from_coco(source, masks=masks)
    if not isinstance(source, Truth):
        raise DataError(
            f"ground truth is a {type(source).__name__}; expected the path or content of a COCO annotation JSON, Truth "
            "columns or DetectionRecords."
        )
    if masks and source.rle is None:
        raise DataError(f"{source.name}: 'segm' needs masks; read the ground truth with masks=True.")
    return source


def _run(truth: Truth, found: Found, masks: bool, backend: str) -> tuple[CocoArrays, Matches | None]:
    if backend == "arrays":
        matches = match(truth, found, masks=masks)
        return accumulate(matches), matches
    from effdense.evaluation import coco_reference

    run = coco_reference.by_faster_coco_eval if backend == "faster" else coco_reference.by_pycocotools
    return run(truth, found, masks=masks), None


def _scores(
    truth: Truth, found: Found, arrays: CocoArrays, matches: Matches | None, iou_type: str, backend: str
) -> CocoScores:
    labels = np.searchsorted(truth.category_ids, truth.category[~truth.is_crowd])
    instances = np.bincount(labels, minlength=len(truth.category_ids)).tolist()
    per_class = {name: class_numbers(arrays, k) for k, name in enumerate(truth.class_names)}
    twelve: dict[str, Any] = summarize(arrays)
    return CocoScores(
        **twelve,
        per_class_ap={name: numbers["AP"] for name, numbers in per_class.items()},
        per_class_ap50={name: numbers["AP50"] for name, numbers in per_class.items()},
        per_class_instances=dict(zip(truth.class_names, instances, strict=True)),
        per_class=per_class,
        num_images=len(truth.image_ids),
        num_instances=len(labels),
        num_crowd=int(truth.is_crowd.sum()),
        num_detections=len(found),
        iou_type=iou_type,
        backend="faster-coco-eval" if backend == "faster" else backend,
        arrays=arrays,
        matches=matches,
    )
