"""Entries of a COCO JSON to columns: categories, images and annotations, each checked; faults go into the report.

Everything here takes what ``json.loads`` gives, of which nothing is trusted: numbers of any size, names of any kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport
from effdense.data.readers.coco_boxes import CocoAnnotations, CocoImages, repeated_values
from effdense.data.records import ClassMap
from effdense.errors import DataError

MAX_SIDE = 1_000_000  # px; more than any picture has, and what 32 bits hold
_MAX_ID = 2**63 - 1
_IMAGE_FORM = (
    f"images need a whole number as id, a file name, and width and height from 1 to {MAX_SIDE:,}; correct them."
)
_MAX_PART = 255  # bytes that file systems allow for one part of a path


def whole(value: Any) -> int | None:
    """The value as int when it is a whole number of 64 bits, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not -_MAX_ID <= value <= _MAX_ID or int(value) != value:  # False for NaN as well
        return None
    return int(value)


def escapes(name: str) -> bool:
    """Whether a file name could lead out of its folder."""
    return name.startswith(("/", "\\")) or bool(re.match(r"[A-Za-z]:", name)) or ".." in re.split(r"[/\\]", name)


def is_name(value: Any) -> bool:
    """Whether a value is text that can be written: not blank, no NUL, no half of a surrogate pair."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def is_file_name(value: Any) -> bool:
    """Whether a value can name a file at all; it may still lead out of its folder (:func:`escapes`)."""
    return is_name(value) and all(len(part.encode("utf-8", "replace")) <= _MAX_PART for part in value.split("/"))


def _faulty_entries(entries: list[Any], keys: Sequence[str], section: str, report: DataReport) -> set[int]:
    """Report entries that are not objects or lack a key, and return their positions."""
    required = set(keys)
    lacking = {
        i: sorted(required - entry.keys()) if isinstance(entry, dict) else ["(not an object)"]
        for i, entry in enumerate(entries)
        if not isinstance(entry, dict) or not required <= entry.keys()
    }
    places = []
    for i, missing in lacking.items():
        number = entries[i].get("id") if isinstance(entries[i], dict) else None
        places.append(f"{section}[{i}]{'' if number is None else f' (id {_shown(number)})'} lacks {', '.join(missing)}")
    report.add("error", "missing-key", f"entries of '{section}' lack a required key; add it.", places)
    return set(lacking)


def _shown(value: Any) -> str:
    """A value of the file for a message: cut where long, and said where it is text that should be a number."""
    return f"{value!r:.60}" + (" is text" if isinstance(value, str) else "")


def read_categories(entries: list[Any], file: Path, report: DataReport) -> ClassMap:
    """The classes, by ascending id. Raises: DataError where not one entry can be used."""
    bad = _faulty_entries(entries, ("id", "name"), "categories", report)
    pairs = [(e["id"], e["name"]) for i, e in enumerate(entries) if i not in bad]
    wrong = [f"id {_shown(i)}, name {n!r:.80}" for i, n in pairs if whole(i) is None or not is_name(n)]
    report.add("error", "bad-category", "categories need a whole number as id and text as name; correct them.", wrong)
    good = [(number, n) for i, n in pairs if (number := whole(i)) is not None and is_name(n)]
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


def read_images(entries: list[Any], report: DataReport) -> CocoImages:
    """The images whose id, name and size can be used, in their order."""
    bad = _faulty_entries(entries, ("id", "file_name", "width", "height"), "images", report)
    usable: dict[int, tuple[str, int, int]] = {}
    wrong, unsafe, repeated = [], [], []
    for position, entry in enumerate(entries):
        if position in bad:
            continue
        name = entry["file_name"]
        image_id, width, height = whole(entry["id"]), whole(entry["width"]) or 0, whole(entry["height"]) or 0
        if image_id is None or not 1 <= min(width, height) <= max(width, height) <= MAX_SIDE or not is_file_name(name):
            wrong.append(
                f"images[{position}] (id {_shown(entry['id'])}, {name!r:.80}, width {_shown(entry['width'])}, height "
                f"{_shown(entry['height'])})"
            )
        elif escapes(name):
            unsafe.append(repr(name))
        elif image_id in usable:
            repeated.append(f"{image_id} ({name})")
        else:
            usable[image_id] = (name, height, width)
    report.add("error", "bad-image-entry", _IMAGE_FORM, wrong)
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


def _listed_ids(entries: list[Any]) -> set[Any]:
    """Ids that a section names, also those of entries that could not be used."""
    return {_key(entry.get("id")) for entry in entries if isinstance(entry, dict)}


def _key(value: Any) -> Any:
    """What equal ids share: the whole number, else how it is written."""
    number = whole(value)
    return repr(value) if number is None else number


# Code -> what is wrong and what to do; the place of each starts with the annotation.
_ANNOTATION_FAULTS = {
    "bad-annotation-id": "annotation ids must be whole numbers; give each its own.",
    "unknown-image-id": "annotations refer to images that the file does not list. Add the images, or remove the "
    "annotations.",
    "unknown-category-id": "annotations refer to categories that the file does not list. Add the categories, or "
    "correct the ids.",
    "bad-bbox": "a bbox must be four numbers: x, y, width, height. Correct or remove the annotations.",
    "non-finite-bbox": "a bbox holds NaN, infinity or an absurd number. Correct or remove the annotations.",
    "bad-area": "an area must be a number of px >= 0; by it COCO sorts small, medium and large. Write width x height, "
    "or leave it out.",
    "bad-iscrowd": "iscrowd must be 0 or 1; correct it.",
}


def read_annotations(
    content: Mapping[str, list[Any]], images: CocoImages, used: ClassMap, report: DataReport
) -> tuple[CocoAnnotations, list[tuple[int, int]]]:
    """Annotations of the used images and classes with four finite numbers as box; the others are reported.

    Those without an id are numbered behind the largest one, in their order. With (row of the image, label) of those
    that could not be used.
    """
    entries = content["annotations"]
    bad = _faulty_entries(entries, ("image_id", "category_id", "bbox"), "annotations", report)
    row_of = {int(image_id): row for row, image_id in enumerate(images.ids)}
    label_of = {category_id: label for label, category_id in enumerate(used.category_ids)}
    # Who refers to an entry that was itself refused is not at fault: it is left out without a finding of its own.
    listed_images, listed_categories = _listed_ids(content["images"]), _listed_ids(content["categories"])
    faults: dict[str, list[str]] = {code: [] for code in _ANNOTATION_FAULTS}
    numberless: list[str] = []
    columns: list[tuple[int | None, int, int, bool, float, int]] = []
    xywh: list[Any] = []
    refused: list[tuple[int, int]] = []
    for position, entry in enumerate(entries):
        if position in bad:
            refused += _named_pairs(entry, row_of, label_of)
            continue
        written = entry.get("id")
        annotation_id, image_id, category_id = whole(written), whole(entry["image_id"]), whole(entry["category_id"])
        row = row_of.get(image_id) if image_id is not None else None
        box, area, crowd = entry["bbox"], area_of(entry.get("area")), crowd_of(entry.get("iscrowd"))
        fault = None
        if written is not None and annotation_id is None:
            fault = ("bad-annotation-id", f"id {_shown(written)}")
        elif row is None and _key(entry["image_id"]) not in listed_images:
            fault = ("unknown-image-id", f"image_id {_shown(entry['image_id'])}")
        elif category_id not in label_of and _key(entry["category_id"]) not in listed_categories:
            fault = ("unknown-category-id", f"category_id {_shown(entry['category_id'])}")
        elif not isinstance(box, list) or len(box) != 4 or any(type(v) not in (int, float) for v in box):
            fault = ("bad-bbox", f"bbox {box!r:.100}")
        elif not all(-1e9 < v < 1e9 for v in box):  # False for NaN as well
            fault = ("non-finite-bbox", f"bbox {box!r:.100}")
        elif area is None:
            fault = ("bad-area", f"area {_shown(entry['area'])}")
        elif crowd is None:
            fault = ("bad-iscrowd", f"iscrowd {_shown(entry['iscrowd'])}")
        elif row is not None and category_id in label_of:
            columns.append((annotation_id, row, label_of[category_id], crowd, area, position))
            xywh.append(box)
            if annotation_id is None:
                numberless.append(f"annotations[{position}] in {images.names[row]}")
            continue
        else:  # of a class that was not asked for, or of a refused image
            continue
        name = f"annotations[{position}]" if annotation_id is None else f"annotation {annotation_id}"
        where = "" if row is None else f" in {images.names[row]}"
        faults[fault[0]].append(f"{name} ({fault[1]}){where}")
        refused += _named_pairs(entry, row_of, label_of)
    for code, message in _ANNOTATION_FAULTS.items():
        report.add("error", code, message, faults[code])
    message = "annotations have no id; they are numbered here. Give each its own, which other tools need."
    report.add("warning", "missing-annotation-id", message, numberless)
    ids, rows, labels, crowds, areas, positions = zip(*columns, strict=True) if columns else ((),) * 6
    columns_of = CocoAnnotations(
        _numbered(ids),
        np.array(rows, np.int64),
        np.array(labels, np.int64),
        np.array(xywh, np.float64).reshape(-1, 4),
        np.array(crowds, np.bool_),
        np.array(areas, np.float64),
        np.array(positions, np.int64),
    )
    return columns_of, refused


def _numbered(ids: Sequence[int | None]) -> NDArray[np.int64]:
    """The ids, those that are None counted on from the largest."""
    largest = max((number for number in ids if number is not None), default=0)
    following = count(min(largest, _MAX_ID - len(ids)) + 1)
    return np.array([next(following) if number is None else number for number in ids], np.int64)


def area_of(value: Any) -> float | None:
    """An area field: NaN where there is none, None for what cannot be an area."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        return None
    return float(value)


def crowd_of(value: Any) -> bool | None:
    """An iscrowd field as bool; None for what is neither 0 nor 1, as a number or as text."""
    if value is None:
        return False
    known: dict[Any, bool] = {0: False, 1: True, "0": False, "1": True}
    return known.get(value) if isinstance(value, (int, float, str)) else None


def _named_pairs(entry: Any, row_of: dict[int, int], label_of: dict[int, int]) -> list[tuple[int, int]]:
    """(row of the image, label) that an annotation names, -1 for a label that is none; empty without an image."""
    if not isinstance(entry, dict):
        return []
    image_id, category_id = whole(entry.get("image_id")), whole(entry.get("category_id"))
    if image_id is None or image_id not in row_of:
        return []
    return [(row_of[image_id], -1 if category_id is None else label_of.get(category_id, -1))]
