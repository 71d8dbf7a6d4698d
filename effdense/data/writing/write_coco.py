"""Records to COCO JSON: ``annotations/instances_SPLIT.json``, pictures in a folder of the split's name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effdense.data.image_io import write_bytes_atomically
from effdense.data.records import DetectionRecords


def write_coco(records: DetectionRecords, names: Sequence[str], out: Path, split: str) -> list[str]:
    """Write the annotation file of a split; what is lost, in words (nothing is).

    Boxes are written exactly: float32 corners as x, y and the float64 differences, so that reading gives the same.
    Image and annotation ids are kept where they are unique.
    """
    image_ids = _unique(records.image_ids)
    annotation_ids = _unique(records.annotation_ids)
    categories = records.class_map.category_ids
    owners = np.repeat(image_ids, np.diff(records.offsets)).tolist()
    corners = records.boxes.astype(np.float64)
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
    labels, crowd = records.labels.tolist(), records.is_crowd.tolist()
    annotations: list[dict[str, Any]] = []
    for row, (annotation_id, owner) in enumerate(zip(annotation_ids.tolist(), owners, strict=True)):
        segment = None if records.segments is None else records.segments[row]
        annotations.append({
            "id": annotation_id,
            "image_id": owner,
            "category_id": categories[labels[row]],
            "bbox": [plain(value) for value in xywh[row]],
            "area": plain(float(str(records.areas[row]))),
            "iscrowd": int(crowd[row]),
            "segmentation": [] if segment is None else segment.to_coco(),
        })  # fmt: skip
    sizes = records.sizes.tolist()
    images = [
        {"id": image_id, "file_name": name, "width": width, "height": height}
        for image_id, name, (height, width) in zip(image_ids.tolist(), names, sizes, strict=True)
    ]
    content = {
        "info": {"description": f"{split} split, written by effdense convert"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in zip(categories, records.class_map.names, strict=True)],
    }
    file = out / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(file, json.dumps(content).encode())
    return []


def plain(value: float) -> int | float:
    """A whole number as int, so that files stay short; the value is the same."""
    return int(value) if value == int(value) else value


def _unique(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return ids if len(np.unique(ids)) == len(ids) else np.arange(1, len(ids) + 1)
