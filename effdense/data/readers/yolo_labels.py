"""YOLO label files to boxes: lines ``class cx cy w h`` or ``class x1 y1 x2 y2 ...`` in, pixels of the picture out.

Coordinates in the file are shares of the oriented picture's width and height, boxes by centre, width and height (as
Darknet and ultralytics have them). An outline's box is its bounds, its area that of the polygon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport, Severity
from effdense.data.segments import Segment

# Ultralytics and others let rounding carry a coordinate a little over the edge; what goes further is in pixels.
OVERHANG = 0.01
_MESSAGES: dict[str, tuple[Severity, str]] = {
    "label-not-a-number": ("error", "entries of label lines are not numbers; a line is: class cx cy width height."),
    "label-columns": (
        "error",
        "label lines have a wrong number of columns; expected 5 (class cx cy width height) or, for an outline, a class "
        "and three or more x y pairs.",
    ),
    "prediction-line": (
        "error",
        "label lines have 6 columns: these are predictions with a confidence. Give ground truth, or take the sixth "
        "column away.",
    ),
    "non-finite-bbox": ("error", "label lines hold NaN or infinity; correct or remove them."),
    "class-not-whole": (
        "error",
        "classes of label lines are not whole numbers; write the number of the class, from 0.",
    ),
    "negative-class": ("error", "classes of label lines are negative; classes count from 0."),
    "class-out-of-range": (
        "error",
        "classes of label lines are not among the names of the data set; correct the lines, or add the missing names.",
    ),
    "not-normalised": (
        "error",
        "coordinates of label lines are not shares of the picture, 0..1; divide x and width by the picture's width, y "
        "and height by its height.",
    ),
    "float-class": ("warning", 'classes of label lines are written like "0.0"; read as whole numbers. Write 0.'),
}


@dataclass
class LabelRows:
    """What was read so far, one entry per object: column lists, and the outlines by position."""

    where: list[str] = field(default_factory=list)  # file:line
    rows: list[int] = field(default_factory=list)  # position of the image
    labels: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)  # xyxy px
    areas: list[float] = field(default_factory=list)  # NaN where the box's
    outlines: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # (P, 2) px
    refused: list[tuple[int, int]] = field(default_factory=list)  # (row, label or -1) of lines that cannot be used
    faults: dict[str, list[str]] = field(default_factory=lambda: {code: [] for code in _MESSAGES})

    def report(self, report: DataReport) -> None:
        """Add all faults, each under its code."""
        for code, (severity, message) in _MESSAGES.items():
            report.add(severity, code, message, self.faults[code])

    def place(self, annotation_id: int, name: str, position: int) -> str:
        """Of a box, for reports."""
        return self.where[position]

    def __call__(self, position: int, row: int) -> Segment | None:
        ring = self.outlines.get(position)
        return None if ring is None else Segment((ring,))

    def add_to(self, report: DataReport) -> None:
        """Nothing: lines that cannot be read are reported with the others."""


def read_label_text(
    text: str,
    file: str,
    row: int,
    size: tuple[int, int],
    label_of: Mapping[int, int],
    known: frozenset[int],
    into: LabelRows,
    *,
    extra: int = 0,
) -> None:
    """Read the lines of one label file.

    Args:
        text: the content. file: its name, for messages.
        row, size: position of its picture, and (height, width) px of that.
        label_of: class number to label of the classes that are used; those in ``known`` but not here are left aside.
        extra: columns of keypoints behind each box; not used.
    """
    height, width = size
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        place = f"{file}:{number}"
        values = _numbers(parts, place, into.faults, extra)
        category = None if values is None else _category(parts[0], values[0], place, known, into.faults)
        if values is None or category is None:
            whole = len(parts[0]) < 10 and parts[0].isdecimal()
            into.refused.append((row, label_of.get(int(parts[0]), -1) if whole else -1))
            continue
        shares = values[1:5] if extra else values[1:]
        if not all(-OVERHANG <= value <= 1 + OVERHANG for value in shares) and not _flat(shares):
            into.faults["not-normalised"].append(f"{place} ({line.strip():.60})")
            into.refused.append((row, label_of.get(category, -1)))
            continue
        if category not in label_of:
            continue
        position = len(into.rows)
        into.where.append(place)
        into.rows.append(row)
        into.labels.append(label_of[category])
        if len(shares) == 4:
            x, y, w, h = shares
            into.boxes.append(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height))
            into.areas.append(math.nan)
        else:
            points = np.array(shares, np.float64).reshape(-1, 2) * (width, height)
            low, high = points.min(0).tolist(), points.max(0).tolist()
            into.boxes.append((low[0], low[1], high[0], high[1]))
            into.areas.append(polygon_area(points))
            into.outlines[position] = points.astype(np.float32)


def _flat(shares: Sequence[float]) -> bool:
    """A box of negative width or height whose other numbers are right: reported as such, not as unnormalised."""
    return (
        len(shares) == 4
        and min(shares[2:]) < 0
        and all(abs(value) <= 1 + OVERHANG for value in shares)
        and min(shares[:2]) >= -OVERHANG
    )


def _numbers(parts: list[str], place: str, faults: dict[str, list[str]], extra: int) -> list[float] | None:
    try:
        values = [float(part) for part in parts]
    except ValueError:
        wrong = next(part for part in parts if not _is_number(part))
        faults["label-not-a-number"].append(f"{place} ({wrong[:40]!r})")
        return None
    count = len(values)
    if count == 6 and not extra:
        faults["prediction-line"].append(place)
    elif count != 5 + extra if extra else not (count == 5 or (count >= 7 and count % 2)):
        faults["label-columns"].append(f"{place} ({count} columns)")
    elif not all(map(math.isfinite, values)):
        faults["non-finite-bbox"].append(place)
    else:
        return values
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _category(
    written: str, value: float, place: str, known: frozenset[int], faults: dict[str, list[str]]
) -> int | None:
    if value < 0:
        faults["negative-class"].append(f"{place} (class {written})")
    elif value != int(value):
        faults["class-not-whole"].append(f"{place} (class {written})")
    elif int(value) not in known:
        faults["class-out-of-range"].append(f"{place} (class {int(value)})")
    else:
        if not written.isdecimal():
            faults["float-class"].append(f"{place} ({written})")
        return int(value)
    return None


def polygon_area(points: NDArray[np.float64]) -> float:
    """Area of a (P, 2) polygon, by the shoelace formula."""
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
