"""The objects in one mask: labels and, where there are some, instance numbers in; boxes, areas and run lengths out.

Symbols: H, W size of a picture, G its objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from effdense.data.checks.check import DataReport
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.readers.mask_values import IGNORE, open_mask
from effdense.data.records import PackedStrings
from effdense.errors import DataError

# cityscapesScripts helpers/labels.py, hasInstances: ids of instance masks are class * 1000 + n, and the class alone
# for a group whose members cannot be told apart.
CITYSCAPES_THINGS = (24, 25, 26, 27, 28, 31, 32, 33)
INSTANCE_MODES = ("L", "P", "1", "I;16", "I;16B", "I;16L", "I")


class Objects(NamedTuple):
    """Objects of one picture: boxes (G, 4) xyxy px, labels (G,), areas (G,) px, whether a group, run lengths."""

    size: tuple[int, int]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    runs: list[dict[str, Any]]


class ObjectReader:
    """Objects of the picture at a position; what goes wrong is kept for the report."""

    def __init__(
        self,
        masks: SegmentationRecords,
        label_of: dict[int, int],
        folder: Path | None,
        instances: PackedStrings | None,
        kind: str,
        outlines: bool,
        background: frozenset[int],
    ) -> None:
        self.masks, self.folder, self.instances, self.kind = masks, folder, instances, kind
        self.outlines, self.background = outlines, background
        self.table = np.full(256, -1, np.int64)
        for label, mine in label_of.items():
            self.table[label] = mine
        self.allowed = {value for value in (0,) if value not in masks.coding.values}
        self.unreadable: list[str] = []
        self.values: list[str] = []
        self.sizes: list[str] = []
        self.mixed: list[str] = []
        self.classless: list[str] = []

    def __call__(self, index: int) -> Objects | None:
        name = self.masks.mask_names[index]
        try:
            pixels = self.masks.read_mask(index)
            unknown = {value: count for value, count in pixels.unknown.items() if value not in self.allowed}
            if unknown:
                shown = ", ".join(f"{value}: {count} px" for value, count in list(unknown.items())[:4])
                self.values.append(f"{name} ({shown})")
            file = "" if self.instances is None else self.instances[index]
            if not file:
                return self._components(pixels.labels)
            assert self.folder is not None
            numbers = read_instances(self.folder / file)
        except DataError as error:
            self.unreadable.append(str(error).rstrip("."))
            return None
        if numbers.shape != pixels.labels.shape:
            self.sizes.append(f"{file} is {numbers.shape[1]}x{numbers.shape[0]}, {name} is "
                              f"{pixels.labels.shape[1]}x{pixels.labels.shape[0]}")  # fmt: skip
            return None
        if self.kind == "cityscapes":
            return self._cityscapes(numbers)
        if self.kind == "voc" or (Path(file).parent.name == "SegmentationObject"):
            numbers = np.where(numbers == IGNORE, 0, numbers)
        return self._numbered(numbers, pixels.labels, file)

    def add_faults(self, report: DataReport) -> None:
        """Add what went wrong, each kind under its code, in the order of the files."""
        message = "mask files cannot be read; fetch or export them again. Their pictures are left out."
        report.add("error", "unreadable-mask", message, sorted(self.unreadable))
        message = "masks hold values that are no class; add them to the class file, as classes or ignore_values."
        report.add("error", "mask-values", message, sorted(self.values))
        message = "instance masks differ in size from the class mask; make them of one size. They are left out."
        report.add("error", "size-mismatch", message, sorted(self.sizes))
        message = "instances lie on background or ignored pixels only, so they have no class; correct either mask."
        report.add("error", "instance-without-class", message, sorted(self.classless))
        message = "instances lie on several classes; the one of most pixels is taken. Correct either mask."
        report.add("warning", "mixed-instance", message, sorted(self.mixed))

    def _components(self, labels: NDArray[np.uint8]) -> Objects:
        boxes, own, areas, runs = [], [], [], []
        for label in np.unique(labels).tolist():
            if self.table[label] < 0:
                continue
            count, parts, stats, _ = cv2.connectedComponentsWithStats(
                np.asarray(labels == label, np.uint8), connectivity=8
            )
            for number in range(1, count):
                x, y, w, h, area = stats[number].tolist()
                boxes.append((x, y, x + w, y + h))
                own.append(int(self.table[label]))
                areas.append(area)
                if self.outlines:
                    crop = parts[y : y + h, x : x + w] == number
                    runs.append(_run_lengths(crop, x, y, labels.shape))
        return _objects(labels.shape, boxes, own, areas, [False] * len(own), runs)

    def _numbered(self, numbers: NDArray[np.int64], labels: NDArray[np.uint8], file: str) -> Objects:
        boxes, own, areas, runs = [], [], [], []
        for value, box, area, crop in _regions(numbers):
            x1, y1, x2, y2 = box
            counts = np.bincount(labels[y1:y2, x1:x2][crop], minlength=256)
            counts[[IGNORE, *self.background]] = 0
            if not counts.any():
                self.classless.append(f"{file} instance {value}")
                continue
            label = int(self.table[int(counts.argmax())])
            if np.count_nonzero(counts) > 1:
                self.mixed.append(f"{file} instance {value}")
            if label < 0:
                continue
            boxes.append(box)
            own.append(label)
            areas.append(area)
            if self.outlines:
                runs.append(_run_lengths(crop, x1, y1, labels.shape))
        return _objects(labels.shape, boxes, own, areas, [False] * len(own), runs)

    def _cityscapes(self, numbers: NDArray[np.int64]) -> Objects:
        label_of = dict(zip(self.masks.class_map.category_ids, range(len(self.masks.class_map))))
        boxes, own, areas, crowd, runs = [], [], [], [], []
        for value, box, area, crop in _regions(numbers):
            category = value // 1000 if value >= 1000 else value
            label = int(self.table[label_of[category]]) if category in label_of else -1
            if category not in CITYSCAPES_THINGS or label < 0:
                continue
            boxes.append(box)
            own.append(label)
            areas.append(area)
            crowd.append(value < 1000)
            if self.outlines:
                runs.append(_run_lengths(crop, box[0], box[1], numbers.shape))
        return _objects(numbers.shape, boxes, own, areas, crowd, runs)


def _objects(shape: tuple[int, ...], boxes: Any, labels: Any, areas: Any, crowd: Any, runs: Any) -> Objects:
    return Objects(
        (shape[0], shape[1]),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(areas, np.float64),
        np.array(crowd, np.bool_),
        runs,
    )


def _regions(numbers: NDArray[np.int64]) -> list[tuple[int, tuple[int, int, int, int], int, NDArray[np.bool_]]]:
    """(value, box, area, pixels inside the box) of each number but 0, ascending; parts of one number are one region."""
    rows, columns = np.nonzero(numbers)
    values = numbers[rows, columns]
    order = np.argsort(values, kind="stable")
    rows, columns, values = rows[order], columns[order], values[order]
    unique, starts, counts = np.unique(values, return_index=True, return_counts=True)
    if not len(unique):
        return []
    edges = [function.reduceat(side, starts) for side in (columns, rows) for function in (np.minimum, np.maximum)]
    found = []
    for value, x1, x2, y1, y2, area in zip(*(array.tolist() for array in (unique, *edges, counts)), strict=True):
        box = (x1, y1, x2 + 1, y2 + 1)
        found.append((value, box, area, np.asarray(numbers[y1 : y2 + 1, x1 : x2 + 1] == value)))
    return found


def _run_lengths(crop: NDArray[np.bool_], x: int, y: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """Run lengths of the whole picture of a region that fills ``crop`` at (x, y)."""
    whole = np.zeros((shape[0], shape[1]), np.uint8, order="F")
    whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return dict(coco_mask.encode(whole))


def read_instances(path: Path) -> NDArray[np.int64]:
    """An instance mask as (H, W) int64: 8 or 16 bits, of a palette image the indices.

    Raises: DataError for a missing or broken file, or one of colours.
    """
    with open_mask(path) as image:
        if image.mode not in INSTANCE_MODES:
            raise DataError(
                f"expected 8- or 16-bit numbers, one per pixel, and it is {image.mode}; save it as 16-bit PNG"
            )
        width, height = image.size
        if width * height > (Image.MAX_IMAGE_PIXELS or 1 << 31):
            raise DataError(f"{width}x{height} pixels are too many")
        return np.asarray(image).astype(np.int64)
