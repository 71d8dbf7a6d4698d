"""A COCO file put right where its own numbers or the pictures say how: content in, new content and changes out.

Nothing is guessed: what cannot be used is taken out, what has evidence is corrected, and fields that nothing says a
word about stay as they were. The file that was read is never written to.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.box_forms import CLEARLY_BEYOND, likely_order, look_like_corners, look_relative
from effdense.data.image_io import ImageFault, ImageHeader
from effdense.data.readers.coco_boxes import MAX_SHARE_BEYOND, OVERHANG_PX
from effdense.data.readers.coco_entries import MAX_SIDE, area_of, crowd_of, escapes, is_file_name, whole

# What was changed, in the order of the steps.
CHANGES = {
    "bad-image": "image entries that cannot be used taken out",
    "lost-image": "images without a readable picture file taken out",
    "image-id": "second image entries of one id taken out (whose boxes are meant cannot be told)",
    "image-size": "image sizes corrected from the picture files",
    "category": "repeated category entries taken out",
    "bad-annotation": "annotations that cannot be used taken out (keys, ids, iscrowd, bbox not four finite numbers)",
    "of-lost-image": "annotations of images that were taken out removed with them",
    "pixels": "boxes written as fractions turned into pixels",
    "corners": "boxes written as x1, y1, x2, y2 turned into x, y, width, height",
    "swapped": "boxes written rows first turned into x, y, width, height",
    "degenerate": "boxes without width or height taken out",
    "outside": "boxes outside their picture taken out",
    "clipped": "boxes clipped to their picture",
    "duplicate": "exact doubles of boxes taken out",
    "area": "areas written where there was none that can be used",
    "annotation-id": "annotation ids made unique",
}


def repair_coco(
    content: Mapping[str, Any], looks: Mapping[str, ImageHeader | ImageFault]
) -> tuple[dict[str, Any], Counter[str]]:
    """The content of an annotation file, repaired.

    Args:
        content: as JSON gives it; not changed.
        looks: header or fault of each picture by its ``file_name``; a name that is absent counts as there.

    Returns:
        New content, and how often each of :data:`CHANGES` was made.
    """
    done: Counter[str] = Counter()
    images, gone = _repair_images(content["images"], looks, done)
    categories = _repair_categories(content["categories"], done)
    annotations = _usable(content["annotations"], images, gone, categories, done)
    annotations = _repair_boxes(annotations, {int(image["id"]): image for image in images}, done)
    _number(annotations, done)
    return {**content, "images": images, "annotations": annotations, "categories": categories}, done


def _is_whole(value: Any) -> bool:
    return whole(value) is not None


def _repair_images(
    entries: list[Any], looks: Mapping[str, ImageHeader | ImageFault], done: Counter[str]
) -> tuple[list[dict[str, Any]], set[int]]:
    kept: list[dict[str, Any]] = []
    seen: set[int] = set()
    gone: set[int] = set()
    for entry in entries:
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not is_file_name(name) or escapes(name) or not _is_whole(entry.get("id")):
            done["bad-image"] += 1
            if isinstance(entry, dict) and _is_whole(entry.get("id")):
                gone.add(int(entry["id"]))
            continue
        number, look = int(entry["id"]), looks.get(name)
        if number in seen:
            done["image-id"] += 1
            continue
        if isinstance(look, ImageFault):
            done["lost-image"] += 1
            gone.add(number)
            continue
        size = tuple(int(entry[key]) if _is_whole(entry.get(key)) else 0 for key in ("height", "width"))
        if look is not None and size not in (look.size, look.oriented_size):
            done["image-size"] += 1
            entry = {**entry, "height": look.oriented_size[0], "width": look.oriented_size[1]}
        elif not 1 <= min(size) <= max(size) <= MAX_SIDE:
            done["bad-image"] += 1
            gone.add(number)
            continue
        seen.add(number)
        kept.append(entry)
    return kept, gone - seen


def _repair_categories(entries: list[Any], done: Counter[str]) -> list[Any]:
    kept: list[Any] = []
    for entry in entries:
        if any(isinstance(e, dict) and isinstance(entry, dict) and _same_category(e, entry) for e in kept):
            done["category"] += 1
        else:
            kept.append(entry)
    return kept


def _same_category(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a.get("id") == b.get("id") and a.get("name") == b.get("name"))


def _usable(
    entries: list[Any], images: list[dict[str, Any]], gone: set[int], categories: list[Any], done: Counter[str]
) -> list[dict[str, Any]]:
    there = {int(image["id"]) for image in images}
    known = {e["id"] for e in categories if isinstance(e, dict) and _is_whole(e.get("id"))}
    kept = []
    for entry in entries:
        box = entry.get("bbox") if isinstance(entry, dict) else None
        values = box if isinstance(box, list) and len(box) == 4 else []
        numbers = len(values) == 4 and all(type(v) in (int, float) for v in values)
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        if _is_whole(image_id) and image_id in gone:
            done["of-lost-image"] += 1
        elif (
            not numbers
            or not all(-1e9 < value < 1e9 for value in values)  # False for NaN as well
            or not _is_whole(image_id)
            or image_id not in there
            or not _is_whole(entry.get("category_id"))
            or entry["category_id"] not in known
            or crowd_of(entry.get("iscrowd")) is None
        ):
            done["bad-annotation"] += 1
        else:
            kept.append(dict(entry))
    return kept


def _repair_boxes(
    entries: list[dict[str, Any]], images: Mapping[int, dict[str, Any]], done: Counter[str]
) -> list[dict[str, Any]]:
    if not entries:
        return []
    given = np.array([entry["bbox"] for entry in entries], np.float64)
    areas = np.array([_area(entry) for entry in entries], np.float64)
    owners = [images[int(entry["image_id"])] for entry in entries]
    limit = np.array([(image["width"], image["height"]) for image in owners], np.float64)
    boxes = given.copy()
    flat = (boxes[:, 2:] <= 0).any(1)
    relative = look_relative(boxes) & ~flat
    boxes[relative] *= np.tile(limit[relative], 2)
    done["pixels"] += int(relative.sum())
    _reorder(boxes, areas, limit, ~flat & ~relative, done)
    outside = ((boxes[:, :2] >= limit) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(1) & ~flat
    done["degenerate"] += int(flat.sum())
    done["outside"] += int(outside.sum())
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    over = ((low < -OVERHANG_PX) | (high > limit + OVERHANG_PX)).any(1) & ~flat & ~outside
    start, end = np.clip(low, 0, limit), np.clip(high, 0, limit)
    boxes[over] = np.concatenate([start, end - start], 1)[over]
    done["clipped"] += int(over.sum())
    kept = []
    seen: set[tuple[Any, ...]] = set()
    for k in np.flatnonzero(~flat & ~outside).tolist():
        entry = entries[k]
        key = (int(entry["image_id"]), entry["category_id"], *boxes[k].tolist())
        if key in seen:
            done["duplicate"] += 1
            continue
        seen.add(key)
        was_box_area = not np.isnan(areas[k]) and math.isclose(areas[k], given[k, 2] * given[k, 3], rel_tol=1e-3)
        changed = bool((boxes[k] != given[k]).any())
        if changed:
            entry["bbox"] = [round(value, 3) for value in boxes[k].tolist()]
        if np.isnan(areas[k]) or (changed and was_box_area):
            done["area"] += int(np.isnan(areas[k]))
            entry["area"] = round(float(boxes[k, 2] * boxes[k, 3]), 3)
        kept.append(entry)
    return kept


def _area(entry: Mapping[str, Any]) -> float:
    area = area_of(entry.get("area"))
    return math.nan if area is None else area


def _reorder(
    boxes: NDArray[np.float64],
    areas: NDArray[np.float64],
    limit: NDArray[np.float64],
    usable: NDArray[np.bool_],
    done: Counter[str],
) -> None:
    """Turn boxes of another form into x, y, width, height in place: single ones with evidence, or all where all fit."""
    rows = np.flatnonzero(usable)
    corners = look_like_corners(boxes[rows], areas[rows], limit[rows])
    end = boxes[rows, :2] + boxes[rows, 2:]
    beyond = ((end - limit[rows]) > CLEARLY_BEYOND * limit[rows]).any(1)
    if beyond.sum() > MAX_SHARE_BEYOND * max(1, len(rows)):
        form = likely_order(boxes[rows], limit[rows])
        if form in ("swapped", "swapped corners"):
            boxes[rows] = boxes[rows][:, [1, 0, 3, 2]]
            done["swapped"] += len(rows)
        corners = np.full(len(rows), form in ("corners", "swapped corners")) | (corners & (form == ""))
        if form == "swapped corners":
            boxes[rows, 2:] -= boxes[rows, :2]
            return
    chosen = rows[corners]
    boxes[chosen, 2:] -= boxes[chosen, :2]
    done["corners"] += len(chosen)


def _number(entries: list[dict[str, Any]], done: Counter[str]) -> None:
    """Give annotations without a whole id, and the later ones of equal ids, new ids behind the largest."""
    ids = [int(entry["id"]) for entry in entries if _is_whole(entry.get("id"))]
    following = max(ids, default=0) + 1
    seen: set[int] = set()
    for entry in entries:
        number = int(entry["id"]) if _is_whole(entry.get("id")) else None
        if number is None or number in seen:
            number, following = following, following + 1
            entry["id"] = number
            done["annotation-id"] += 1
        seen.add(number)
