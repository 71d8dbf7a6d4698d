"""What a COCO evaluation takes, checked: ground truth in a renumbered copy, detections as plain result dicts.

Every refusal names the place, what came, what was expected and what to do, with the first few offenders.
"""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effdense.errors import DataError

_SHOWN = 5


@dataclass(frozen=True)
class GroundTruth:
    """A checked copy of an annotation file.

    Attributes:
        name: what to call it in messages.
        images: all images of the file.
        categories: sorted by id.
        annotations: ids 1..n in file order; ``iscrowd`` and ``area`` always present.
        image_ids: the images to score, sorted.
    """

    name: str
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    image_ids: list[int]
    evaluated: frozenset[int]


def read_ground_truth(
    source: str | Path | Mapping[str, Any], iou_type: str, image_ids: Sequence[int] | np.ndarray | None
) -> GroundTruth:
    """Check an annotation file and copy what the evaluation needs.

    Raises:
        DataError: not JSON, missing keys, duplicate categories, annotations that name unknown images or categories,
            boxes that are not four finite numbers, or unknown ``image_ids``.
    """
    name, content = _load(source)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f"{name}: key {key!r} is missing or not a list; expected a COCO annotation file.")
        strangers = [index for index, item in enumerate(content[key]) if not isinstance(item, Mapping)]
        if strangers:
            raise DataError(f"{name}: {key}[{strangers[0]}] is {content[key][strangers[0]]!r}; expected an object.")
    images = [
        {**image, "id": _index(image.get("id"), f"{name}: images[{i}]['id']")}
        for i, image in enumerate(content["images"])
    ]
    categories = _categories(name, content)
    known_images = frozenset(image["id"] for image in images)
    if not known_images or not categories:
        raise DataError(f"{name}: no {'images' if not known_images else 'categories'}; there is nothing to evaluate.")
    annotations = _annotations(name, content, iou_type)
    _require_known(f"{name}: annotations", "image_id", [a["image_id"] for a in annotations], known_images, "")
    _require_known(
        f"{name}: annotations",
        "category_id",
        [a["category_id"] for a in annotations],
        {c["id"] for c in categories},
        "",
    )
    chosen = known_images
    if image_ids is not None:
        wanted = [_index(value, f"image_ids[{i}]") for i, value in enumerate(image_ids)]
        if not wanted:
            raise DataError("evaluate_coco: image_ids is empty; pass None to evaluate all images.")
        _require_known("image_ids", "image_id", wanted, known_images, f" The annotation file is {name}.")
        chosen = frozenset(wanted)
    return GroundTruth(name, images, categories, annotations, sorted(chosen), chosen)


def read_detections(
    detections: Sequence[Mapping[str, Any]] | np.ndarray, truth: GroundTruth, iou_type: str
) -> list[dict[str, Any]]:
    """Check detections and turn them into COCO results on the images to score, ids 1..n.

    Raises:
        DataError: a missing key, an array that is not (n, 7), numbers that are not finite, or unknown ids.
    """
    if isinstance(detections, np.ndarray):
        results = _from_array(detections, iou_type)
    else:
        results = [_from_dict(index, detection, iou_type) for index, detection in enumerate(detections)]
    _require_finite("score", [result["score"] for result in results])
    _require_finite("bbox", [result["bbox"] for result in results if "bbox" in result])
    known_images = {image["id"] for image in truth.images}
    _require_known(
        "detections",
        "image_id",
        [r["image_id"] for r in results],
        known_images,
        f" The annotation file is {truth.name}.",
    )
    names = ", ".join(f"{category['id']} {category['name']}" for category in truth.categories[:_SHOWN])
    more = ", ..." if len(truth.categories) > _SHOWN else ""
    hint = (
        f" {truth.name} has {len(truth.categories)}: {names}{more}. Detections carry its category ids, "
        "not labels 0..K-1; map label to id first (ClassMap.category_ids[label])."
    )
    _require_known(
        "detections", "category_id", [r["category_id"] for r in results], {c["id"] for c in truth.categories}, hint
    )
    results = [result for result in results if result["image_id"] in truth.evaluated]
    for number, result in enumerate(results, start=1):
        result["id"] = number
    return results


def _load(source: str | Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if isinstance(source, Mapping):
        return "ground truth", source
    path = Path(source)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"No annotation file at {path.absolute()}; expected a COCO annotation JSON.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path.absolute()} cannot be read as COCO annotation JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path.absolute()} holds a JSON {type(content).__name__}; expected an object with images, ...")
    return str(path), content


def _categories(name: str, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    categories = []
    for index, category in enumerate(content["categories"]):
        identity = _index(category.get("id"), f"{name}: categories[{index}]['id']")
        categories.append({"id": identity, "name": str(category.get("name", identity))})
    for key in ("id", "name"):
        repeated = [value for value, count in Counter(c[key] for c in categories).items() if count > 1]
        if repeated:
            raise DataError(f"{name}: categories share the {key} {_first(repeated)}; each must have its own.")
    return sorted(categories, key=operator.itemgetter("id"))


def _annotations(name: str, content: Mapping[str, Any], iou_type: str) -> list[dict[str, Any]]:
    annotations = []
    for index, source in enumerate(content["annotations"]):
        place = f"{name}: annotations[{index}]"
        annotation: dict[str, Any] = {
            "id": index + 1,
            "image_id": _index(source.get("image_id"), f"{place}['image_id']"),
            "category_id": _index(source.get("category_id"), f"{place}['category_id']"),
            "iscrowd": int(source.get("iscrowd") or 0),
        }
        box, area = source.get("bbox"), source.get("area")
        if box is not None or iou_type == "bbox":
            annotation["bbox"] = _box(box, f"{place} (id {source.get('id')})")
            if not np.isfinite(annotation["bbox"]).all():
                raise DataError(f"{place} (id {source.get('id')}): bbox is {box}; every number must be finite.")
        if iou_type == "segm":
            if "segmentation" not in source or area is None:
                raise DataError(
                    f"{place}: 'segmentation' and 'area' are needed to compare masks; at least one is missing."
                )
            annotation["segmentation"] = source["segmentation"]
        if area is None:
            area = annotation["bbox"][2] * annotation["bbox"][3]
        annotations.append({**annotation, "area": area})
    return annotations


def _box(value: Any, place: str) -> list[float]:
    try:
        box = [float(number) for number in value]
    except (TypeError, ValueError):
        box = []
    if len(box) != 4:
        raise DataError(f"{place}: bbox is {value!r}; expected four numbers x, y, w, h in px.")
    return box


def _from_array(detections: np.ndarray, iou_type: str) -> list[dict[str, Any]]:
    if iou_type != "bbox":
        raise DataError("detections: an array holds boxes only; pass dicts with 'segmentation' to compare masks.")
    if detections.ndim != 2 or detections.shape[1] != 7:
        raise DataError(
            f"detections: the array has shape {detections.shape}; "
            "expected (n, 7): image_id, x, y, w, h, score, category_id."
        )
    ids = detections[:, [0, 6]].astype(np.float64)
    wrong = np.flatnonzero((~np.isfinite(ids) | (ids != np.round(ids))).any(axis=1))
    if wrong.size:
        raise DataError(
            f"detections: ids of {wrong.size} rows are not whole numbers, first rows {_first(wrong.tolist())}."
        )
    rows = detections.astype(np.float64).tolist()
    return [
        {
            "image_id": int(row[0]),
            "category_id": int(row[6]),
            "bbox": row[1:5],
            "score": row[5],
            "area": row[3] * row[4],
            "iscrowd": 0,
        }
        for row in rows
    ]


def _from_dict(index: int, detection: Mapping[str, Any], iou_type: str) -> dict[str, Any]:
    place = f"detections[{index}]"
    shape_key = "bbox" if iou_type == "bbox" else "segmentation"
    missing = [key for key in ("image_id", "category_id", "score", shape_key) if key not in detection]
    if missing:
        raise DataError(f"{place}: key {missing[0]!r} is missing; it has {sorted(detection)}.")
    result: dict[str, Any] = {
        "image_id": _index(detection["image_id"], f"{place}['image_id']"),
        "category_id": _index(detection["category_id"], f"{place}['category_id']"),
        "score": float(detection["score"]),
        "iscrowd": 0,
    }
    if iou_type == "bbox":
        result["bbox"] = _box(detection["bbox"], place)
        result["area"] = result["bbox"][2] * result["bbox"][3]
        return result
    from pycocotools import mask

    rle = detection["segmentation"]
    if not isinstance(rle, Mapping) or not isinstance(rle.get("counts"), str | bytes):
        raise DataError(
            f"{place}: segmentation is a {type(rle).__name__}; expected compressed RLE (pycocotools.mask.encode)."
        )
    result["segmentation"] = rle
    result["area"] = float(mask.area(rle))
    return result


def _index(value: Any, place: str) -> int:
    """A whole number (int, numpy or 0-d tensor); ids as text or fractions would match nothing."""
    try:
        return operator.index(value)
    except TypeError:
        raise DataError(f"{place} is {value!r}; expected a whole number.") from None


def _require_finite(what: str, numbers: Sequence[Any]) -> None:
    finite = np.isfinite(np.asarray(numbers, dtype=np.float64))
    wrong = np.flatnonzero(~(finite if finite.ndim == 1 else finite.all(axis=1)))
    if wrong.size:
        raise DataError(
            f"detections: {what} is NaN or infinite in {wrong.size} of {len(numbers)}, first at index "
            f"{_first(wrong.tolist())}; the model has diverged or its half-precision output overflowed."
        )


def _require_known(where: str, key: str, found: Sequence[int], known: Iterable[int], hint: str) -> None:
    known = set(known)
    strangers = [value for value in found if value not in known]
    if strangers:
        raise DataError(
            f"{where}: {len(strangers)} of {len(found)} have {key} values that the ground truth does not know: "
            f"{_first(sorted(set(strangers)))}.{hint}"
        )


def _first(values: Sequence[Any]) -> str:
    return ", ".join(repr(value) for value in values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")
