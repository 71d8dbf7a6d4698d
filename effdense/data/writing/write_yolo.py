"""Records to YOLO labels: ``labels/SPLIT/NAME.txt`` beside ``images/SPLIT``, and a ``data.yaml`` for ultralytics.

Numbers are written so that reading gives the same float32 corners; what the format cannot hold is counted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from effdense.data.image_io import write_bytes_atomically
from effdense.data.readers.splits import ALL, ORDER, folders_of
from effdense.data.readers.yolo_labels import polygon_area
from effdense.data.records import ClassMap, DetectionRecords
from effdense.data.segments import Segment
from effdense.data.writing.class_list_files import write_class_files


def write_yolo(
    records: DetectionRecords, names: Sequence[str], out: Path, split: str, *, polygons: bool | None = None
) -> list[str]:
    """Write the label files of a split and bring ``data.yaml`` up to date; what is lost, in words.

    Args:
        polygons: write outlines where there are some; an object's box is then the bounds of its outline. None: where
            all objects have one and none of their boxes would change.
    """
    rings = _outlines(records)
    moved = sum(not _same(ring, records, row) for row, ring in rings.items())
    objects = np.flatnonzero(~records.is_crowd)
    use = bool(rings) and (len(rings) == len(objects) and moved == 0 if polygons is None else polygons)
    sizes = records.sizes.astype(np.float64)
    changed = 0
    for index, name in enumerate(names):
        height, width = sizes[index].tolist()
        lines = []
        for row in range(int(records.offsets[index]), int(records.offsets[index + 1])):
            if records.is_crowd[row]:
                continue
            label = int(records.labels[row])
            if use and row in rings:
                shares = (rings[row].astype(np.float64) / (width, height)).ravel().tolist()
            else:
                shares, exact = _shares(records.boxes[row], width, height)
                changed += not exact
            lines.append(" ".join([str(label), *map(repr, shares)]))
        file = out / "labels" / split / f"{os.path.splitext(name)[0]}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(file, "".join(f"{line}\n" for line in lines).encode())
    (out / "images" / split).mkdir(parents=True, exist_ok=True)
    write_class_files(out, records.class_map)
    write_yaml(out, records.class_map)
    return _losses(records, rings, use, moved, changed)


def _losses(
    records: DetectionRecords, rings: dict[int, NDArray[np.float32]], use: bool, moved: int, changed: int
) -> list[str]:
    crowds = int(records.is_crowd.sum())
    found = [f"{crowds} crowd regions left out: YOLO has none"] if crowds else []
    if rings and not use:
        reason = f"boxes of {moved} would become those of their outlines" if moved else "not every object has one"
        found.append(f"{len(rings)} outlines left out, boxes written: {reason} (--polygons writes outlines)")
    if use and moved:
        found.append(f"{moved} boxes become those of their outlines")
    if use:
        joined = (
            sum(_is_simplified(records.segments[row], ring) for row, ring in rings.items()) if records.segments else 0
        )
        what = "outlines written as one polygon each: parts joined, holes filled, corners of pixels cut"
        found += [f"{joined} {what}"] if joined else []
    box_areas = (records.boxes[:, 2:] - records.boxes[:, :2]).prod(1)
    other = int((~np.isclose(records.areas, box_areas, rtol=1e-4) & ~records.is_crowd).sum())
    if other and not use:
        found.append(f"{other} areas that are not the box's left out: small, medium and large go by the box")
    return found + ([f"{changed} boxes change in the last digit"] if changed else [])


def _shares(box: NDArray[np.float32], width: float, height: float) -> tuple[list[float], bool]:
    """cx, cy, w, h as shares of the picture, and whether the reader's formula gives the same float32 corners."""
    x1, y1, x2, y2 = box.astype(np.float64).tolist()
    shares = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    x, y, w, h = shares
    back = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
    limits = (width, height, width, height)
    again = [np.float32(min(max(value, 0), limit)) for value, limit in zip(back, limits, strict=True)]
    return shares, bool((np.array(again) == box).all())


def _outlines(records: DetectionRecords) -> dict[int, NDArray[np.float32]]:
    """One (P, 2) ring in px for each object that has an outline, by row; crowds have none here."""
    if records.segments is None:
        return {}
    found = {}
    sizes = np.repeat(records.sizes, np.diff(records.offsets), axis=0).tolist()
    for row in np.flatnonzero(~records.is_crowd).tolist():
        segment = records.segments[row]
        if segment is not None and len(ring := single_ring(segment, tuple(sizes[row]))) >= 3:
            found[row] = ring
    return found


def single_ring(segment: Segment, size: tuple[int, int]) -> NDArray[np.float32]:
    """An outline as one ring: parts are joined by lines walked twice, run lengths followed along pixel edges."""
    rings = list(segment.polygons) if segment.rle is None else _traced(segment.bitmap(size))
    if not rings:
        return np.zeros((0, 2), np.float32)
    if len(rings) == 1:
        return rings[0]
    # To each part from the first point of the first one, around it, and back.
    home = rings[0][:1]
    return np.concatenate([np.concatenate([ring, ring[:1], home]) for ring in rings]).astype(np.float32)


def _traced(bitmap: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Outer rings of a bitmap in pixel edges: contours of the picture doubled, whose pixels lie half a pixel inside."""
    doubled = cv2.resize(bitmap, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour[:, 0] + 1) // 2).astype(np.float32) for contour in contours if len(contour) >= 3]


def _is_simplified(segment: Segment | None, ring: NDArray[np.float32]) -> bool:
    """Whether the one ring is not the outline itself."""
    if segment is None or segment.rle is None:
        return segment is not None and len(segment.polygons) > 1
    return polygon_area(ring.astype(np.float64)) != int(coco_mask.area(segment.rle))


def _same(ring: NDArray[np.float32], records: DetectionRecords, row: int) -> bool:
    bounds = np.concatenate([ring.min(0), ring.max(0)])
    return bool((bounds == records.boxes[row]).all())


def write_yaml(out: Path, class_map: ClassMap) -> None:
    """``data.yaml`` of all splits there; without ``path``, which ultralytics starts from the working directory."""
    splits = sorted(folders_of(out / "images"), key=lambda name: (*ORDER, ALL, name).index(name))
    content = {
        **{name: f"images/{name}" for name in splits},
        "nc": len(class_map),
        "names": dict(enumerate(class_map.names)),
    }
    write_bytes_atomically(out / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
