"""The same evaluation by pycocotools, which defines it, or by faster-coco-eval, fed from columns.

Ground truth is numbered anew from 1: pycocotools' match table uses 0 for "unmatched", so an annotation with id 0 would
never count as found, and its index silently drops all but the last of annotations that share an id.
Source: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py; MiXaiLL76/faster_coco_eval 1.8,
faster_coco_eval/core/faster_eval_api.py (the arguments of its C++ functions).
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.evaluation.accumulate import MAX_DETECTIONS, RECALLS, CocoArrays
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.matching import AREAS, THRESHOLDS
from effdense.evaluation.overlaps import pair_iou


def by_pycocotools(truth: Truth, found: Found, *, masks: bool = False) -> CocoArrays:
    """Run pycocotools on dicts made of the columns."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        for rows in (_annotations(truth, truth.area, masks), _annotations(found, _areas(found, masks), masks)):
            side = COCO()
            side.dataset = {
                # Run lengths carry their size; pycocotools wants one of the image too, and does not use it.
                "images": [{"id": i, "height": 0, "width": 0} for i in truth.image_ids.tolist()],
                "categories": [
                    {"id": i, "name": name} for i, name in zip(truth.category_ids.tolist(), truth.class_names)
                ],
                "annotations": rows,
            }
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "segm" if masks else "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return _arrays(evaluation.eval)


def by_faster_coco_eval(truth: Truth, found: Found, *, masks: bool = False) -> CocoArrays:
    """Run the C++ of faster-coco-eval, class by class, on overlaps computed here for a whole class at once."""
    import faster_coco_eval.faster_eval_api_cpp as cpp

    order = np.argsort(truth.category, kind="stable")
    truth_start = np.searchsorted(truth.category[order], [*truth.category_ids, np.iinfo(np.int64).max])
    found_order = np.argsort(found.category, kind="stable")
    found_start = np.searchsorted(found.category[found_order], [*truth.category_ids, np.iinfo(np.int64).max])
    own_area = _areas(found, masks)
    parts = []
    for k in range(len(truth.category_ids)):
        own = order[truth_start[k] : truth_start[k + 1]]
        theirs = found_order[found_start[k] : found_start[k + 1]]
        parts.append(_one_class(cpp, truth, found, own, theirs, own_area, masks))
    return CocoArrays(*(np.concatenate(arrays, axis=axis) for arrays, axis in zip(zip(*parts), (2, 1, 2))))


def _one_class(
    cpp: Any,
    truth: Truth,
    found: Found,
    own: NDArray[np.int64],
    theirs: NDArray[np.int64],
    own_area: NDArray[np.float64],
    masks: bool,
) -> tuple[NDArray[np.float64], ...]:
    """Precision, recall and scores of one class; ``own`` and ``theirs`` are its rows of truth and found."""
    images = np.unique(np.concatenate([truth.image[own], found.image[theirs]]))
    if not len(own):  # nothing to score, so nothing to match
        shape = (len(THRESHOLDS), len(RECALLS), 1, len(AREAS), len(MAX_DETECTIONS))
        return np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0), np.full(shape, -1.0)
    truths, founds = cpp.Dataset(), cpp.Dataset()
    own = own[np.argsort(truth.image[own], kind="stable")]
    columns = (truth.image[own].tolist(), truth.area[own].tolist(), truth.is_crowd[own].tolist())
    for number, (image, area, crowd) in enumerate(zip(*columns), start=1):
        truths.append_ref(image, 0, {"id": number, "area": area, "iscrowd": int(crowd), "ignore": int(crowd)})
    theirs = theirs[np.lexsort((-found.score[theirs], found.image[theirs]))]
    columns = (found.image[theirs].tolist(), own_area[theirs].tolist(), found.score[theirs].tolist())
    for number, (image, area, score) in enumerate(zip(*columns), start=1):
        founds.append_ref(image, 0, {"id": number, "area": area, "score": score})
    ious = [[table] for table in _overlaps(truth, found, own, theirs, images, masks)]
    evaluated = cpp.COCOevalEvaluateImages(
        [list(area) for area in AREAS], MAX_DETECTIONS[-1], THRESHOLDS.tolist(), ious, truths, founds,
        images.tolist(), [0], True,
    )  # fmt: skip
    found_arrays = _arrays(cpp.COCOevalAccumulate(_Params(images.tolist()), evaluated))
    return found_arrays.precision, found_arrays.recall, found_arrays.score


class _Params:
    """What ``COCOevalAccumulate`` reads of faster-coco-eval's parameters, for one class numbered 0."""

    def __init__(self, images: list[int]) -> None:
        self.imgIds, self.catIds, self.useCats = images, [0], 1
        self.iouThrs, self.recThrs = THRESHOLDS.tolist(), RECALLS.tolist()
        self.areaRng, self.maxDets = [list(area) for area in AREAS], list(MAX_DETECTIONS)


def _overlaps(
    truth: Truth,
    found: Found,
    own: NDArray[np.int64],
    theirs: NDArray[np.int64],
    images: NDArray[np.int64],
    masks: bool,
) -> list[Any]:
    """For each image the overlaps (d, g) of its best 100 detections, [] where one side has none; rows are by image."""
    borders = np.append(images, np.iinfo(np.int64).max)
    truth_at = np.searchsorted(truth.image[own], borders)
    found_at = np.searchsorted(found.image[theirs], borders)
    tables: list[Any] = []
    for i in range(len(images)):
        gt = own[truth_at[i] : truth_at[i + 1]]
        dt = theirs[found_at[i] : found_at[i + 1]][: MAX_DETECTIONS[-1]]
        if not len(gt) or not len(dt):
            tables.append([])
        elif masks:
            from effdense.data import run_lengths

            assert truth.rle is not None and found.rle is not None
            d, g = [found.rle[j] for j in dt.tolist()], [truth.rle[j] for j in gt.tolist()]
            tables.append(run_lengths.overlaps(d, g, truth.is_crowd[gt]).tolist())
        else:
            theirs_each, own_each = np.repeat(found.xywh[dt], len(gt), axis=0), np.tile(truth.xywh[gt], (len(dt), 1))
            iou = pair_iou(theirs_each, own_each, np.tile(truth.is_crowd[gt], len(dt)))
            tables.append(iou.reshape(len(dt), len(gt)).tolist())
    return tables


def _areas(found: Found, masks: bool) -> NDArray[np.float64]:
    if not masks:
        return found.xywh[:, 2] * found.xywh[:, 3]
    from effdense.data import run_lengths

    return run_lengths.areas(found.rle or ())


def _annotations(side: Truth | Found, area: NDArray[np.float64], masks: bool) -> list[dict[str, Any]]:
    crowd = side.is_crowd if isinstance(side, Truth) else np.zeros(len(side), bool)
    columns = (side.image.tolist(), side.category.tolist(), side.xywh.tolist(), area.tolist(), crowd.tolist())
    rows: list[dict[str, Any]] = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": size, "iscrowd": int(is_crowd)}
        for number, (image, category, box, size, is_crowd) in enumerate(zip(*columns), start=1)
    ]
    if isinstance(side, Found):
        for row, score in zip(rows, side.score.tolist()):
            row["score"] = score
    if masks:
        for row, runs in zip(rows, side.rle or ()):
            row["segmentation"] = runs
    return rows


def _arrays(content: dict[str, Any]) -> CocoArrays:
    precision = np.asarray(content["precision"], np.float64)
    recall, score = np.asarray(content["recall"], np.float64), np.asarray(content["scores"], np.float64)
    return CocoArrays(
        precision, recall.reshape(precision.shape[:1] + precision.shape[2:]), score.reshape(precision.shape)
    )
