"""Ground truth as columns: from a COCO annotation file (checked, float64, nothing clipped) or from records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effdense.data import run_lengths
from effdense.errors import DataError
from effdense.evaluation.coco_inputs import box_column, first, id_column, index, require_known
from effdense.evaluation.columns import Truth
from effdense.evaluation.truth_masks import masks_of_annotations, place_of, runs_of_segment

if TYPE_CHECKING:
    from effdense.data import ClassMap
    from effdense.data.records import DetectionRecords


def read_truth(
    source: str | Path | Mapping[str, Any],
    *,
    masks: bool = False,
    category_ids: Sequence[int] | NDArray[np.int64] | None = None,
) -> Truth:
    """Columns of a COCO annotation file; see :meth:`Truth.from_coco`."""
    name, content = _load(source)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f"{name}: key {key!r} is missing or not a list; expected a COCO annotation file.")
        strangers = [i for i, item in enumerate(content[key]) if not isinstance(item, Mapping)]
        if strangers:
            raise DataError(f"{name}: {key}[{strangers[0]}] is {content[key][strangers[0]]!r}; expected an object.")
    images, annotations = content["images"], content["annotations"]
    image_ids, at = np.unique(id_column(images, "id", f"{name}: images"), return_index=True)
    known_ids, names = _categories(name, content["categories"])
    if not len(image_ids) or not names:
        raise DataError(f"{name}: no {'images' if not len(image_ids) else 'categories'}; there is nothing to evaluate.")
    image = id_column(annotations, "image_id", f"{name}: annotations")
    category = id_column(annotations, "category_id", f"{name}: annotations")
    require_known(f"{name}: annotations", "image_id", image, image_ids, "")
    require_known(f"{name}: annotations", "category_id", category, known_ids, "")
    if category_ids is not None:
        wanted = np.unique(np.asarray(category_ids, np.int64))
        require_known("category_ids", "category_id", wanted, known_ids, f" The annotation file is {name}.")
        kept = np.isin(category, wanted)
        annotations = [annotation for annotation, keep in zip(annotations, kept.tolist(), strict=True) if keep]
        image, category = image[kept], category[kept]
        names = [names[i] for i in np.searchsorted(known_ids, wanted).tolist()]
        known_ids = wanted
    rle = masks_of_annotations(name, annotations, images, image, image_ids, at) if masks else None
    boxes = _boxes(name, annotations, rle)
    files = tuple(str(images[i].get("file_name", "")) for i in at.tolist())
    return Truth(
        name=name,
        image_ids=image_ids,
        category_ids=known_ids,
        class_names=tuple(names),
        image=image,
        category=category,
        xywh=boxes,
        area=_areas(name, annotations, boxes),
        is_crowd=_crowds(name, annotations),
        rle=rle,
        file_names=files if all(files) else None,
    )


def truth_of_records(records: DetectionRecords, *, masks: bool = False) -> Truth:
    """Columns of records; see :meth:`Truth.from_records`."""
    name = "ground truth" if records.annotation_file is None else str(records.annotation_file)
    order = np.argsort(records.image_ids, kind="stable")
    image_ids = records.image_ids[order]
    repeated = image_ids[1:][image_ids[1:] == image_ids[:-1]]
    if len(repeated):
        raise DataError(f"{name}: images share the id {first(np.unique(repeated).tolist())}; each must have its own.")
    counts = np.diff(records.offsets)
    xywh = records.boxes.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    rle = None
    if masks:
        if records.segments is None:
            raise DataError(f"{name}: the records hold no outlines; read the split with segments=True.")
        sizes = np.repeat(records.sizes, counts, axis=0).tolist()
        rle = [runs_of_segment(records.segments[row], size, f"{name}: object {row}") for row, size in enumerate(sizes)]
    return Truth(
        name=name,
        image_ids=image_ids.astype(np.int64),
        category_ids=np.array(records.class_map.category_ids, np.int64),
        class_names=tuple(records.class_map.names),
        image=np.repeat(records.image_ids, counts).astype(np.int64),
        category=np.array(records.class_map.category_ids, np.int64)[records.labels],
        xywh=xywh,
        area=records.areas.astype(np.float64),
        is_crowd=records.is_crowd,
        rle=rle,
        file_names=tuple(str(records.names[int(i)]) for i in order),
    )


def truth_of_split(records: DetectionRecords) -> tuple[Truth, str]:
    """Ground truth of a split: the file of a single COCO file as pycocotools reads it, else the records.

    A file that does not list these images and classes (classes were renamed or mapped), and one that is refused, give
    way to the records, which were read from it with a report. Scored are the images of ``records``, see ``Truth.on``.

    Returns: the truth, and why a COCO file was refused, "" where it was not.
    """
    path = records.annotation_file
    if path is None or Path(path).suffix.lower() != ".json":
        return Truth.from_records(records), ""
    try:
        truth = Truth.from_coco(path)
    except DataError as error:
        return Truth.from_records(records), str(error)
    names = dict(zip(truth.category_ids.tolist(), truth.class_names, strict=True))
    own = dict(zip(records.class_map.category_ids, records.class_map.names, strict=True))
    if any(names.get(number, name) != name for number, name in own.items()):
        return Truth.from_records(records), ""
    if not np.isin(records.image_ids, truth.image_ids).all():
        return Truth.from_records(records), ""
    return for_classes(truth, records.class_map), ""


def for_classes(truth: Truth, class_map: ClassMap) -> Truth:
    """Ground truth for the classes of a model, whichever of them its file lists."""
    ids = np.array(class_map.category_ids, np.int64)
    known = truth.where(np.isin(truth.category, ids))
    return replace(known, category_ids=ids, class_names=tuple(class_map.names))


def chosen_images(truth: Truth, image_ids: Sequence[int] | NDArray[Any] | None) -> NDArray[np.int64]:
    """The images to score, ascending; DataError for none or unknown ones."""
    if image_ids is None:
        return truth.image_ids
    wanted = np.array([index(value, f"image_ids[{i}]") for i, value in enumerate(image_ids)], np.int64)
    if not len(wanted):
        raise DataError("evaluate_coco: image_ids is empty; pass None to evaluate all images.")
    require_known("image_ids", "image_id", wanted, truth.image_ids, f" The annotation file is {truth.name}.")
    return np.unique(wanted)


def _load(source: str | Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if isinstance(source, Mapping):
        return "ground truth", source
    path = Path(source)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"No annotation file at {path.absolute()}; expected a COCO annotation JSON.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path.absolute()} cannot be read as COCO annotation JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path.absolute()} holds a JSON {type(content).__name__}; expected an object with images, ...")
    return str(path), content


def _categories(name: str, categories: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.int64], list[str]]:
    ids = id_column(categories, "id", f"{name}: categories").tolist()
    names = [str(category.get("name", number)) for category, number in zip(categories, ids, strict=True)]
    for key, values in (("id", ids), ("name", names)):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise DataError(f"{name}: categories share the {key} {first(repeated)}; each must have its own.")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return np.array([ids[i] for i in order], np.int64), [names[i] for i in order]


def _boxes(name: str, annotations: Sequence[Mapping[str, Any]], rle: Sequence[Any] | None) -> NDArray[np.float64]:
    values = [annotation.get("bbox") for annotation in annotations]
    if rle is not None and any(value is None for value in values):
        tight = run_lengths.boxes(rle).tolist()
        values = [tight[i] if value is None else value for i, value in enumerate(values)]
    boxes = box_column(values, lambda i: place_of(name, annotations, i))
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if wrong.size:
        i = int(wrong[0])
        raise DataError(f"{place_of(name, annotations, i)}: bbox is {values[i]}; every number must be finite.")
    return boxes


def _areas(name: str, annotations: Sequence[Mapping[str, Any]], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas = boxes[:, 2] * boxes[:, 3]
    for i, annotation in enumerate(annotations):
        value = annotation.get("area")
        if value is None:
            continue
        try:
            areas[i] = value
        except (TypeError, ValueError):
            areas[i] = np.nan
        if not np.isfinite(areas[i]):
            raise DataError(
                f"{place_of(name, annotations, i)}: area is {value!r}; expected a finite number of px, or no such key "
                "(then the box area counts)."
            )
    return areas


def _crowds(name: str, annotations: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    crowds = np.zeros(len(annotations), bool)
    for i, annotation in enumerate(annotations):
        value = annotation.get("iscrowd")
        try:
            crowds[i] = bool(int(value or 0))
        except (TypeError, ValueError):
            raise DataError(f"{place_of(name, annotations, i)}: iscrowd is {value!r}; expected 0 or 1.") from None
    return crowds
