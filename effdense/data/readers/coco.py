"""COCO instance JSON to records, with every fault found, counted and named on the way.

The meaning of each field is pycocotools' (bbox is x, y, width, height in pixels; a missing ``iscrowd`` is 0), but the
raw JSON is read here: pycocotools lets the last of two equal ids win without a word.

What stops reading is raised at once as DataError (no file, no JSON, no section, other classes than asked for).
Everything else goes into the report; what an error concerns is left out of the records, so call
``report.raise_for_errors()``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport
from effdense.data.paths import COCO_LAYOUT, require_dir, require_file, resolve
from effdense.data.readers.coco_boxes import CocoAnnotations, CocoImages, repeated_values
from effdense.data.readers.settled import settled_records
from effdense.data.records import ClassMap, DetectionRecords
from effdense.data.segments import Segment
from effdense.errors import ConfigError, DataError, did_you_mean


def read_coco(
    annotation_file: str | Path,
    image_dir: str | Path,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """Read one split.

    Args:
        annotation_file, image_dir: relative paths go under ``EFFDENSE_DATA``.
        classes: only these classes, by name; annotations of others are left aside. Labels still follow the ids.
        class_map: of another split (the training split's); ids and names must be the same.
        keep_empty: keep images without any object (crowds do not count). They teach what background is.
        segments: read the outlines, too; one that cannot be read is reported and left out.
        training: a split without any object is then an error.

    Returns:
        The records in the order of the file, and the report.

    Raises:
        DataError: file or folder missing, not JSON, sections missing, or classes other than ``class_map``'s.
        ConfigError: ``classes`` names one that the file does not have.
    """
    file = require_file(resolve(annotation_file), "the COCO annotation file", advice=COCO_LAYOUT)
    folder = require_dir(resolve(image_dir), "the image folder", advice=COCO_LAYOUT)
    content = _load(file)
    report = DataReport(str(file))
    known = _read_categories(content["categories"], file, report)
    used = choose_categories(known, classes, class_map, file)
    images = _read_images(content["images"], report)
    annotations, refused = _read_annotations(content, images, used, report)
    records = settled_records(
        annotations,
        images,
        used,
        report,
        image_dir=folder,
        annotation_file=file,
        refused=refused,
        outlines=_Outlines(content["annotations"], images.sizes) if segments else None,
        keep_empty=keep_empty,
        training=training,
    )
    return records, report


class _Outlines:
    """Outline of an annotation by its place in the file; those that cannot be read are kept for the report."""

    def __init__(self, entries: list[Any], sizes: NDArray[np.int32]) -> None:
        self.entries, self.sizes = entries, sizes
        self.bad: list[str] = []

    def __call__(self, position: int, row: int) -> Segment | None:
        entry = self.entries[position]
        height, width = self.sizes[row].tolist()
        try:
            return Segment.from_coco(entry.get("segmentation"), (height, width))
        except DataError as error:
            self.bad.append(f"annotation {entry['id']} ({str(error).rstrip('.')})")
            return None

    def add_to(self, report: DataReport) -> None:
        message = (
            "segmentations cannot be read; the objects keep their box and have no outline. Correct or remove them."
        )
        report.add("warning", "bad-segmentation", message, self.bad)


def _load(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not valid JSON ({error}). The file may be cut short; fetch it again.") from error
    if not isinstance(content, dict):
        hint = " A list is the form of a results file, not of annotations." if isinstance(content, list) else ""
        raise DataError(f"{file}: expected a JSON object with COCO sections, got {type(content).__name__}.{hint}")
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise DataError(
            f"{file}: the COCO section(s) {missing} are missing or not lists; the file has {sorted(content)}. "
            "Give the instances_*.json file of the split."
        )
    return content


def _whole(value: Any) -> int | None:
    """The value as int when it is a whole number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value == value and abs(value) != float("inf") and int(value) == value else None


def _faulty_entries(entries: list[Any], keys: Sequence[str], section: str, report: DataReport) -> set[int]:
    """Report entries that are not objects or lack a key, and return their positions."""
    required = set(keys)
    lacking = {
        i: sorted(required - entry.keys()) if isinstance(entry, dict) else ["(not an object)"]
        for i, entry in enumerate(entries)
        if not isinstance(entry, dict) or not required <= entry.keys()
    }
    places = [f"{section}[{i}] lacks {', '.join(keys)}" for i, keys in lacking.items()]
    report.add("error", "missing-key", f"entries of '{section}' lack a required key; add it.", places)
    return set(lacking)


def _read_categories(entries: list[Any], file: Path, report: DataReport) -> ClassMap:
    bad = _faulty_entries(entries, ("id", "name"), "categories", report)
    pairs = [(_whole(e["id"]), e["name"]) for i, e in enumerate(entries) if i not in bad]
    wrong = [p for p in pairs if p[0] is None or not isinstance(p[1], str)]
    report.add("error", "bad-category", "categories need a whole number as id and a string as name.", wrong)
    good = [(i, n) for i, n in pairs if i is not None and isinstance(n, str)]
    for what, values in (("id", [i for i, _ in good]), ("name", [n for _, n in good])):
        message = f"category {what}s occur more than once; make them unique."
        report.add("error", "duplicate-category", message, [f"{what} {value!r}" for value in repeated_values(values)])
    unique: dict[int, str] = {}
    for category_id, name in good:
        if category_id not in unique and name not in unique.values():
            unique[category_id] = name
    if not unique:
        raise DataError(f"{file}: 'categories' has no usable entry; each needs an id and a name.")
    return ClassMap(tuple(unique[i] for i in sorted(unique)), tuple(sorted(unique)))


def choose_categories(
    known: ClassMap,
    classes: Sequence[str] | None,
    expected: ClassMap | None,
    file: Path,
    *,
    advice: str = "Give both splits the same 'categories'.",
) -> ClassMap:
    """The classes to read: all that the source has, or those asked for; the training split's must be the same.

    Raises: ConfigError for a name that the source does not have, DataError where ``expected`` is another map.
    """
    used = known
    if isinstance(classes, str):
        raise ConfigError(f"classes must be a list of class names, got the text {classes!r}.")
    if classes is not None:
        unknown = [name for name in classes if name not in known.names]
        if unknown or not classes:
            hints = " ".join(f"{name!r} is not among them.{did_you_mean(name, known.names)}" for name in unknown)
            raise ConfigError(f"classes must name classes of {file}, which has {list(known.names)}. {hints}".rstrip())
        pairs = [(i, n) for i, n in zip(known.category_ids, known.names, strict=True) if n in set(classes)]
        used = ClassMap(tuple(n for _, n in pairs), tuple(i for i, _ in pairs))
    if expected is not None and expected != used:
        ours = dict(zip(used.category_ids, used.names, strict=True))
        theirs = dict(zip(expected.category_ids, expected.names, strict=True))
        differences = [
            f"id {i}: here {ours.get(i, 'absent')!r}, expected {theirs.get(i, 'absent')!r}"
            for i in sorted(ours.keys() | theirs.keys())
            if ours.get(i) != theirs.get(i)
        ]
        raise DataError(
            f"{file}: its categories differ from the class map of the training split in {len(differences)} place(s): "
            f"{'; '.join(differences[:10])}. {advice}"
        )
    return used


def escapes(name: str) -> bool:
    """Whether a file name could lead out of its folder."""
    return name.startswith(("/", "\\")) or bool(re.match(r"[A-Za-z]:", name)) or ".." in re.split(r"[/\\]", name)


def _read_images(entries: list[Any], report: DataReport) -> CocoImages:
    bad = _faulty_entries(entries, ("id", "file_name", "width", "height"), "images", report)
    usable: dict[int, tuple[str, int, int]] = {}
    wrong, unsafe, repeated = [], [], []
    for position, entry in enumerate(entries):
        if position in bad:
            continue
        name = entry["file_name"]
        image_id, width, height = _whole(entry["id"]), _whole(entry["width"]) or 0, _whole(entry["height"]) or 0
        if image_id is None or min(width, height) < 1 or not isinstance(name, str) or not name:
            wrong.append(f"images[{position}] (id {entry['id']!r}, {name!r})")
        elif escapes(name):
            unsafe.append(repr(name))
        elif image_id in usable:
            repeated.append(f"{image_id} ({name})")
        else:
            usable[image_id] = (name, height, width)
    report.add("error", "bad-image-entry", "images need a whole number id, a name, and width and height >= 1.", wrong)
    report.add("error", "unsafe-path", "file_name must stay inside the image folder (no '..', not absolute).", unsafe)
    report.add("error", "duplicate-image-id", "image ids occur more than once; give each image its own.", repeated)
    names = [name for name, _, _ in usable.values()]
    message = "a picture is listed under several ids: each lacks the boxes of the other. Join them under one id."
    ids_of: dict[str, list[int]] = {}
    for image_id, name in zip(usable, names):
        ids_of.setdefault(name, []).append(image_id)
    listed = [f"{name} (image ids {', '.join(map(str, ids))})" for name, ids in ids_of.items() if len(ids) > 1]
    report.add("warning", "duplicate-file-name", message, listed)
    sizes = np.array([(h, w) for _, h, w in usable.values()], np.int32).reshape(-1, 2)
    return CocoImages(np.array(list(usable), np.int64), names, sizes)


def _listed_ids(entries: list[Any]) -> set[int | None]:
    """Ids that a section names, also those of entries that could not be used."""
    return {_whole(entry.get("id")) for entry in entries if isinstance(entry, dict)}


def _read_annotations(
    content: dict[str, list[dict[str, Any]]], images: CocoImages, used: ClassMap, report: DataReport
) -> tuple[CocoAnnotations, list[tuple[int, int]]]:
    """Annotations of the used images and classes with four finite numbers as box; the others are reported.

    With (row of the image, label) of those whose box could not be used.
    """
    entries = content["annotations"]
    bad = _faulty_entries(entries, ("id", "image_id", "category_id", "bbox"), "annotations", report)
    row_of = {int(image_id): row for row, image_id in enumerate(images.ids)}
    label_of = {category_id: label for label, category_id in enumerate(used.category_ids)}
    # Who refers to an entry that was itself refused is not at fault: it is left out without a finding of its own.
    listed_images, listed_categories = _listed_ids(content["images"]), _listed_ids(content["categories"])
    wrong_id, wrong_box, infinite, no_image, no_category = [], [], [], [], []
    columns: list[tuple[int, int, int, bool, float, int]] = []
    xywh: list[Any] = []
    refused: list[tuple[int, int]] = []
    for position, entry in enumerate(entries):
        if position in bad:
            refused += _named_pairs(entry, row_of, label_of)
            continue
        annotation_id, image_id, category_id = (_whole(entry[key]) for key in ("id", "image_id", "category_id"))
        box, area = entry["bbox"], entry.get("area")
        if annotation_id is None:
            wrong_id.append(f"annotations[{position}] (id {entry['id']!r})")
        elif image_id is None or image_id not in listed_images:
            no_image.append(f"annotation {annotation_id} (image_id {entry['image_id']!r})")
        elif category_id is None or category_id not in listed_categories:
            where = f" in {images.names[row_of[image_id]]}" if image_id in row_of else ""
            no_category.append(f"annotation {annotation_id} (category_id {entry['category_id']!r}){where}")
        elif not isinstance(box, list) or len(box) != 4 or any(type(v) not in (int, float) for v in box):
            where = f" in {images.names[row_of[image_id]]}" if image_id in row_of else ""
            wrong_box.append(f"annotation {annotation_id} (bbox {box!r}){where}")
        elif not all(-1e9 < v < 1e9 for v in box):  # False for NaN as well
            where = f" in {images.names[row_of[image_id]]}" if image_id in row_of else ""
            infinite.append(f"annotation {annotation_id} (bbox {box!r}){where}")
        elif category_id in label_of and image_id in row_of:
            area = float(area) if isinstance(area, (int, float)) else float("nan")
            crowded = bool(entry.get("iscrowd", 0))
            columns.append((annotation_id, row_of[image_id], label_of[category_id], crowded, area, position))
            xywh.append(box)
            continue
        else:  # of a class that was not asked for, or of a refused image
            continue
        refused += _named_pairs(entry, row_of, label_of)
    report.add("error", "bad-annotation-id", "annotation ids must be whole numbers; give each its own.", wrong_id)
    message = "annotations refer to images that the file does not list. Add the images, or remove the annotations."
    report.add("error", "unknown-image-id", message, no_image)
    message = "annotations refer to categories that the file does not list. Add the categories, or correct the ids."
    report.add("error", "unknown-category-id", message, no_category)
    message = "a bbox must be four numbers: x, y, width, height. Correct or remove the annotations."
    report.add("error", "bad-bbox", message, wrong_box)
    message = "a bbox holds NaN, infinity or an absurd number. Correct or remove the annotations."
    report.add("error", "non-finite-bbox", message, infinite)
    ids, rows, labels, crowd, areas, positions = zip(*columns, strict=True) if columns else ((),) * 6
    columns_of = CocoAnnotations(
        np.array(ids, np.int64),
        np.array(rows, np.int64),
        np.array(labels, np.int64),
        np.array(xywh, np.float64).reshape(-1, 4),
        np.array(crowd, np.bool_),
        np.array(areas, np.float64),
        np.array(positions, np.int64),
    )
    return columns_of, refused


def _named_pairs(entry: Any, row_of: dict[int, int], label_of: dict[int, int]) -> list[tuple[int, int]]:
    """(row of the image, label) that an annotation names, -1 for a label that is none; empty without an image."""
    if not isinstance(entry, dict):
        return []
    image_id, category_id = _whole(entry.get("image_id")), _whole(entry.get("category_id"))
    if image_id is None or image_id not in row_of:
        return []
    return [(row_of[image_id], -1 if category_id is None else label_of.get(category_id, -1))]
