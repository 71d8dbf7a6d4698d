"""COCO AP: annotation JSON and detections in, twelve numbers out, those of pycocotools to the last digit.

    ground truth JSON -> checked copy --\
                                         COCOeval (pycocotools, or faster-coco-eval) -> CocoScores
    detections -> checked ids, numbers -/

Around pycocotools stand three repairs, because each of these would give a wrong score without a word:

* ground truth is numbered anew from 1: its match table uses 0 for "unmatched", so an annotation with id 0 never counts
  as found, and its index silently drops all but the last of annotations that share an id;
* a detection whose image or category id is not in the annotation file is an error (COCOeval would ignore it: mAP 0);
* numbers that are not finite are an error (a NaN score sorts anywhere).

Source: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py (_prepare, evaluateImg, accumulate, summarize).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from effdense.errors import ConfigError, MissingExtra
from effdense.evaluation.coco_inputs import GroundTruth, read_detections, read_ground_truth
from effdense.evaluation.coco_scores import SUMMARY, CocoScores

_FASTER = "faster_coco_eval"


def evaluate_coco(
    ground_truth: str | Path | Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]] | np.ndarray,
    *,
    iou_type: Literal["bbox", "segm"] = "bbox",
    image_ids: Sequence[int] | np.ndarray | None = None,
    backend: str = "pycocotools",
) -> CocoScores:
    """Score detections against a COCO annotation file.

    Args:
        ground_truth: path of the annotation JSON, or its content, which is left unchanged. Where they are missing,
            ``iscrowd`` is 0 and ``area`` the box area. Crowd regions are ignored as COCO does.
        detections: dicts of ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, w, h in px; ``segmentation``
            for "segm"), or an (n, 7) array of image_id, x, y, w, h, score, category_id. Ids are those of the annotation
            file, not labels 0..K-1. May be empty: every number with ground truth is then 0.
        iou_type: overlap of boxes or of masks.
        image_ids: score only these images; detections on other known images are left out. None: all images.
        backend: "pycocotools" is the reference; "faster" is faster-coco-eval (extra ``effdense[fast]``); "auto" takes
            the faster one where it is installed.

    Raises:
        DataError: ground truth or detections cannot be scored as given (unknown ids, not finite, missing keys).
        ConfigError: an unknown ``iou_type`` or ``backend``.
        MissingExtra: "faster" without faster-coco-eval.
    """
    if iou_type not in ("bbox", "segm"):
        raise ConfigError(f"evaluate_coco: iou_type is {iou_type!r}; expected 'bbox' or 'segm'.")
    backend = _choose_backend(backend)
    truth = read_ground_truth(ground_truth, iou_type, image_ids)
    results = read_detections(detections, truth, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and its table
        stats, precision = _run(truth, results, iou_type, backend)
    return _scores(truth, len(results), stats, precision, iou_type, backend)


def _choose_backend(backend: str) -> Literal["pycocotools", "faster"]:
    if backend == "pycocotools":
        return "pycocotools"
    if backend not in ("faster", "auto"):
        raise ConfigError(f"evaluate_coco: backend is {backend!r}; expected 'pycocotools', 'faster' or 'auto'.")
    if importlib.util.find_spec(_FASTER) is not None:
        return "faster"
    if backend == "auto":
        return "pycocotools"
    raise MissingExtra("evaluate_coco(backend='faster') needs faster-coco-eval; run: pip install \"effdense[fast]\"")


def _run(
    truth: GroundTruth, results: list[dict[str, Any]], iou_type: str, backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """Run one COCOeval.

    Returns:
        the 12 numbers, and precision (10 IoUs, 101 recalls, K categories by id, 4 areas, 3 detection limits).
    """
    if backend == "faster":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

    indices = []
    for boxes in (truth.annotations, results):
        index = COCO()
        index.dataset = {"images": truth.images, "categories": truth.categories, "annotations": boxes}
        index.createIndex()
        indices.append(index)
    evaluation = COCOeval(*indices, iou_type)
    evaluation.params.imgIds = truth.image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.asarray(evaluation.stats, dtype=np.float64)[: len(SUMMARY)], np.asarray(evaluation.eval["precision"])


def _scores(
    truth: GroundTruth, num_detections: int, stats: np.ndarray, precision: np.ndarray, iou_type: str, backend: str
) -> CocoScores:
    per_class_ap, per_class_ap50, instances = {}, {}, {}
    scored = [a["category_id"] for a in truth.annotations if a["image_id"] in truth.evaluated and not a["iscrowd"]]
    num_crowd = sum(bool(a["iscrowd"]) for a in truth.annotations if a["image_id"] in truth.evaluated)
    ids, counts = np.unique(np.asarray(scored, dtype=np.int64), return_counts=True)
    count_of = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    for index, category in enumerate(truth.categories):
        curves = precision[:, :, index, 0, -1]  # all sizes, 100 detections
        per_class_ap[category["name"]] = _mean_scored(curves)
        per_class_ap50[category["name"]] = _mean_scored(curves[0])
        instances[category["name"]] = int(count_of.get(category["id"], 0))
    return CocoScores(
        **{name: float(value) for (name, _), value in zip(SUMMARY, stats, strict=True)},
        per_class_ap=per_class_ap,
        per_class_ap50=per_class_ap50,
        per_class_instances=instances,
        num_images=len(truth.image_ids),
        num_instances=len(scored),
        num_crowd=num_crowd,
        num_detections=num_detections,
        iou_type=iou_type,
        backend="faster-coco-eval" if backend == "faster" else "pycocotools",
    )


def _mean_scored(precision: np.ndarray) -> float:
    """Mean precision where there was ground truth; -1 where there was none."""
    scored = precision[precision > -1]
    return float(scored.mean()) if scored.size else -1.0
