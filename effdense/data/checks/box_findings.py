"""What settled boxes, outlines and classes of a split say about it, whatever its format: records in, findings out.

Symbols: N images, M boxes, K classes. Readers have reported what single entries are wrong in before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport
from effdense.data.records import ClassMap, DetectionRecords
from effdense.errors import did_you_mean

SAME_IOU = 0.95
SIMILAR_IOU = 0.80
TINY_PX = 2.0
WHOLE = 0.99  # share of the picture's width and height
MANY = 0.20
FEW_INSTANCES = 10
IMBALANCE = 100  # times
OUTLINE_IOU = 0.5
_BLOCK = 1000
_MANY_ROWS = 100


def box_place(records: DetectionRecords, row: int, owners: NDArray[np.int64]) -> str:
    """How reports name a box."""
    return f"annotation {records.annotation_ids[row]} in {records.names[int(owners[row])]}"


def box_owners(records: DetectionRecords) -> NDArray[np.int64]:
    """(M,) image of each box."""
    return np.repeat(np.arange(len(records)), np.diff(records.offsets))


def find_twins(records: DetectionRecords, report: DataReport) -> None:
    """Boxes of one class and image that overlap nearly wholly; equal ones have had their finding from the reader."""
    owners = box_owners(records)
    same: list[str] = []
    similar: list[str] = []
    order = np.lexsort((records.labels, owners))
    keys = np.stack([owners[order], records.labels[order]], 1)
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(1)]) if len(order) else np.zeros(0, int)
    for first, last in zip(starts.tolist(), [*starts[1:].tolist(), len(order)]):
        if last - first < 2:
            continue
        rows = np.sort(order[first:last])
        rows = rows[~records.is_crowd[rows]]
        if len(rows) > _MANY_ROWS:  # pairs grow with the square, and equal boxes say nothing new
            rows = rows[np.sort(np.unique(records.boxes[rows], axis=0, return_index=True)[1])]
        for a, b, iou in _overlapping(records.boxes, rows):
            text = f"{box_place(records, b, owners)} and annotation {records.annotation_ids[a]} (IoU {iou:.2f})"
            (same if iou > SAME_IOU else similar).append(text)
    message = (
        f"boxes overlap one of the same class and image by IoU > {SAME_IOU:g}: one object marked twice. Remove one."
    )
    report.add("warning", "near-duplicate-bbox", message, same)
    message = (
        f"boxes overlap one of the same class and image by IoU {SIMILAR_IOU:.2f} to {SAME_IOU:.2f}: perhaps one object "
        "marked twice. Look at some."
    )
    report.add("note", "overlapping-bbox", message, similar)


def _overlapping(boxes: NDArray[np.float32], rows: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    """(row, later row, IoU) of pairs above SIMILAR_IOU that are not equal."""
    found = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        a, b = boxes[block].astype(np.float64), boxes[rows].astype(np.float64)
        span = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
        inter = span.clip(0).prod(2)
        union = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)[None] - inter
        iou = inter / np.maximum(union, 1e-9)
        equal = (boxes[block][:, None] == boxes[rows][None]).all(2)
        hits = np.argwhere(
            (iou > SIMILAR_IOU) & ~equal & (np.arange(len(rows))[None] > start + np.arange(len(block))[:, None])
        )
        found += [(int(block[i]), int(rows[j]), float(iou[i, j])) for i, j in hits]
    return found


def find_odd_sizes(records: DetectionRecords, report: DataReport, image_size: tuple[int, int] | None) -> None:
    """Boxes that vanish at the model's input, and boxes of whole pictures.

    Args:
        image_size: (height, width) that pictures are letterboxed to; None: as they are.
    """
    owners = box_owners(records)
    sides = records.boxes[:, 2:] - records.boxes[:, :2]
    pictures = records.sizes[owners][:, ::-1].astype(np.float64)
    scale = np.ones(len(sides)) if image_size is None else np.min(np.array(image_size[::-1]) / pictures, axis=1)
    small = np.flatnonzero((sides.min(1, initial=np.inf) * scale < TINY_PX) & ~records.is_crowd)
    at = "" if image_size is None else f" once the picture is resized to {image_size[0]}x{image_size[1]} (h x w)"
    report.add(
        "note",
        "tiny-bbox",
        f"boxes are less than {TINY_PX:g} px wide or high{at}: hardly to be found. Use a larger image_size or tiles, "
        "or remove them.",
        [
            f"{box_place(records, int(r), owners)} ({sides[r, 0] * scale[r]:.1f} x {sides[r, 1] * scale[r]:.1f} px)"
            for r in small
        ],
    )
    whole = np.flatnonzero((sides >= WHOLE * pictures).all(1) & ~records.is_crowd)
    many = len(whole) >= 10 and len(whole) > MANY * len(sides)
    report.add(
        "warning" if many else "note",
        "whole-image-bbox",
        "boxes are as large as their picture: right for close-ups, else a placeholder. Look at some"
        + (", and draw the objects' boxes where they are none." if many else "."),
        [box_place(records, int(r), owners) for r in whole],
    )


def find_odd_outlines(records: DetectionRecords, report: DataReport) -> None:
    """Outlines that leave their picture or lie elsewhere than their box; nothing where none were read."""
    if records.segments is None:
        return
    owners = box_owners(records)
    packed = records.segments
    outside, apart = [], []
    firsts, lasts = packed.point_of[packed.ring_of[:-1]], packed.point_of[packed.ring_of[1:]]
    for row in np.flatnonzero(lasts > firsts).tolist():
        points = packed.points[firsts[row] : lasts[row]]
        low, high = points.min(0), points.max(0)
        limit = records.sizes[owners[row]][::-1]
        where = box_place(records, row, owners)
        box = records.boxes[row]
        if (low < -1).any() or (high > limit + 1).any():
            outside.append(f"{where} (points {low[0]:.0f}, {low[1]:.0f} to {high[0]:.0f}, {high[1]:.0f})")
            continue
        overlap = np.prod(np.clip(np.minimum(high, box[2:]) - np.maximum(low, box[:2]), 0, None))
        union = np.prod(high - low) + np.prod(box[2:] - box[:2]) - overlap
        if not records.is_crowd[row] and min(high - low) > TINY_PX and overlap < OUTLINE_IOU * union:
            apart.append(f"{where} (IoU of their bounds {overlap / union:.2f})")
    message = "outlines leave their picture by more than 1 px; cut where they are filled. Clip them in the file."
    report.add("warning", "outline-outside", message, outside)
    message = "outlines lie elsewhere than their box: of another object, or a picture of another size. Correct either."
    report.add("warning", "outline-apart", message, apart)


def find_class_balance(names: Sequence[str], counts: NDArray[np.int64], report: DataReport, *, things: str) -> None:
    """Classes with few objects, and how far the rarest is from the most frequent."""
    few = [f"{name}: {count}" for name, count in zip(names, counts.tolist()) if 0 < count < FEW_INSTANCES]
    message = (
        f"classes have fewer than {FEW_INSTANCES} {things} in this split: too few to learn from or to score. Add "
        "some, or repeat them (samplers)."
    )
    report.add("note", "few-instances", message, few)
    present = np.flatnonzero(counts)
    if len(present) > 1 and counts[present].max() > IMBALANCE * counts[present].min():
        most, least = int(present[counts[present].argmax()]), int(present[counts[present].argmin()])
        where = f"{names[most]}: {counts[most]}, {names[least]}: {counts[least]}"
        message = (
            f"the most frequent class has more than {IMBALANCE} times the {things} of the rarest. Consider balanced "
            "sampling."
        )
        report.add("note", "class-imbalance", message, [where])


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name).casefold()


def find_class_names(class_map: ClassMap, report: DataReport, *, where: str = "") -> None:
    """Names that differ in case or spaces only; ``where`` is put before every place."""
    groups: dict[str, list[str]] = {}
    for name in class_map.names:
        groups.setdefault(_plain(name), []).append(name)
    alike = [where + " and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    message = "class names differ in case, spaces or dashes only, so one class became two. Join them under one name."
    report.add("warning", "similar-class-names", message, alike)
    padded = [f"{where}{name!r}" for name in class_map.names if name != name.strip() and len(groups[_plain(name)]) == 1]
    report.add("warning", "padded-class-name", "class names start or end with a space. Remove it.", padded)


def find_id_gaps(maps: Sequence[tuple[str, ClassMap]], report: DataReport) -> None:
    """Gaps between category ids, of (words before the place, class map) of splits that differ."""
    places = [
        f"{where}{len(one)} classes, ids {one.category_ids[0]}..{one.category_ids[-1]}"
        for where, one in maps
        if one.category_ids[-1] - one.category_ids[0] + 1 != len(one)
    ]
    message = (
        "category ids have gaps; labels follow the order of the ids, and results are written with the ids. Nothing "
        "to do."
    )
    report.add("note", "category-id-gaps", message, places)


def class_differences(name: str, ours: ClassMap, first: str, theirs: ClassMap) -> list[str]:
    """How the class map of a split differs from the first split's, one text each."""
    if ours == theirs:
        return []
    own, other = (dict(zip(m.category_ids, m.names, strict=True)) for m in (ours, theirs))
    if tuple(own.values()) == tuple(other.values()):
        start, base = ours.category_ids[0], theirs.category_ids[0]
        return [f"{name}: the same names, but ids from {start} (to {ours.category_ids[-1]}), in {first} from {base}"]
    texts = []
    for i in sorted(own.keys() | other.keys()):
        if own.get(i) == other.get(i):
            continue
        here, there = own.get(i), other.get(i)
        same = here is not None and there is not None and _plain(here) == _plain(there)
        hint = " (case or spaces only)" if same else ""
        if here is None:
            texts.append(f"{name}: id {i} is absent, in {first} {there!r}")
        elif there is None:
            texts.append(f"{name}: id {i} is {here!r}, in {first} absent.{did_you_mean(here, set(other.values()))}")
        else:
            texts.append(f"{name}: id {i} is {here!r}, in {first} {there!r}{hint}")
    return texts
