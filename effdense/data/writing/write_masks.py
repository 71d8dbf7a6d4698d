"""Records to masks: a class mask (8 bit) and an instance mask (16 bit) per picture, and a ``classes.json``.

Class mask: 0 background, 1..K the classes, 255 crowd regions. Instance mask: 0 none, else the number of the object in
its picture. Larger objects are painted first, so that small ones stay visible.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from effdense.data.image_io import write_bytes_atomically, write_png
from effdense.data.readers.class_lists import BACKGROUND_NAMES
from effdense.data.readers.mask_values import IGNORE
from effdense.data.records import ClassMap, DetectionRecords
from effdense.errors import DataError

MAX_CLASSES = IGNORE - 1


def write_masks(records: DetectionRecords, names: Sequence[str], out: Path, split: str) -> list[str]:
    """Write the masks of a split; what is lost, in words.

    Raises: DataError for more classes than 8 bits hold, or more objects in a picture than 16.
    """
    if len(records.class_map) > MAX_CLASSES:
        raise DataError(
            f"{len(records.class_map)} classes do not fit into 8-bit masks, which hold {MAX_CLASSES} beside background "
            "and 255; choose some with classes=[...] (--classes)."
        )
    hidden = changed = rectangles = 0
    for index, name in enumerate(names):
        classes, numbers, filled = paint(records, index)
        rectangles += filled
        lost, moved = _compare(records, index, numbers)
        hidden, changed = hidden + lost, changed + moved
        stem = os.path.splitext(name)[0]
        for folder in ("masks", "instances"):
            (out / folder / split / stem).parent.mkdir(parents=True, exist_ok=True)
        write_png(out / "masks" / split / f"{stem}.png", classes)
        done, encoded = cv2.imencode(".png", numbers)
        if not done:
            raise DataError(f"{name}: the instance mask cannot be written as PNG.")
        write_bytes_atomically(out / "instances" / split / f"{stem}.png", encoded.tobytes())
    (out / "images" / split).mkdir(parents=True, exist_ok=True)
    write_mask_classes(out, records.class_map)
    losses = []
    if rectangles:
        losses.append(f"{rectangles} objects without outline written as filled rectangles")
    if changed:
        losses.append(f"{changed} boxes change: rounded to pixels, partly covered, or not the bounds of their outline")
    if hidden:
        losses.append(f"{hidden} objects lost: fully covered by others")
    crowds = int(records.is_crowd.sum())
    return losses + ([f"{crowds} crowd regions written as 255, which counts for nothing"] if crowds else [])


def paint(records: DetectionRecords, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16], int]:
    """(class mask, instance mask, objects painted as rectangles) of one picture."""
    height, width = records.sizes[index].tolist()
    rows = np.arange(int(records.offsets[index]), int(records.offsets[index + 1]))
    objects = rows[~records.is_crowd[rows]]
    if len(objects) >= 1 << 16:
        raise DataError(f"{records.names[index]}: {len(objects)} objects do not fit into a 16-bit instance mask.")
    number_of = {row: number for number, row in enumerate(objects.tolist(), start=1)}
    classes, numbers = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint16)
    # Crowds lie below everything; then by area, the largest first, ties in the order of the file.
    order = rows[np.lexsort((rows, -records.areas[rows], ~records.is_crowd[rows]))]
    rectangles = 0
    for row in order.tolist():
        segment = None if records.segments is None else records.segments[row]
        value = IGNORE if records.is_crowd[row] else int(records.labels[row]) + 1
        if segment is not None:
            region = segment.bitmap((height, width)) > 0
            classes[region], numbers[region] = value, number_of.get(row, 0)
            continue
        rectangles += row in number_of
        x1, y1, x2, y2 = pixel_box(records.boxes[row], height, width)
        classes[y1:y2, x1:x2], numbers[y1:y2, x1:x2] = value, number_of.get(row, 0)
    return classes, numbers, rectangles


def pixel_box(box: NDArray[np.float32], height: int, width: int) -> tuple[int, int, int, int]:
    """A box in whole pixels, at least one wide and high, inside the picture."""
    x1, y1, x2, y2 = np.floor(box.astype(np.float64) + 0.5).astype(int).tolist()
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return x1, y1, min(max(x2, x1 + 1), width), min(max(y2, y1 + 1), height)


def _compare(records: DetectionRecords, index: int, numbers: NDArray[np.uint16]) -> tuple[int, int]:
    """(objects without a pixel, objects whose visible pixels have other bounds than their box)."""
    rows = range(int(records.offsets[index]), int(records.offsets[index + 1]))
    objects = [row for row in rows if not records.is_crowd[row]]
    ys, xs = np.nonzero(numbers)
    values = numbers[ys, xs]
    low = np.full((len(objects) + 1, 2), np.iinfo(np.int64).max)
    high = np.full((len(objects) + 1, 2), -1)
    for axis, side in enumerate((xs, ys)):
        np.minimum.at(low[:, axis], values, side)
        np.maximum.at(high[:, axis], values, side)
    seen = high[1:, 0] >= 0
    visible = np.concatenate([low[1:], high[1:] + 1], 1)
    differs = (visible != records.boxes[objects].reshape(-1, 4)).any(1) & seen
    return int((~seen).sum()), int(differs.sum())


def write_mask_classes(out: Path, class_map: ClassMap) -> None:
    """``classes.json``: background first; category ids of the objects, so that they come back."""
    taken = {name.casefold() for name in class_map.names}
    background = next((name for name in sorted(BACKGROUND_NAMES) if name not in taken), None)
    if background is None:
        raise DataError(
            f"every name for the background ({sorted(BACKGROUND_NAMES)}) is the name of a class; rename one."
        )
    background = "background" if "background" not in taken else background
    content = {
        "classes": [background, *class_map.names],
        "values": list(range(len(class_map) + 1)),
        "ignore_index": IGNORE,
        "background": background,
        "category_ids": [min(0, class_map.category_ids[0]) - 1, *class_map.category_ids],
    }
    write_bytes_atomically(out / "classes.json", (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
