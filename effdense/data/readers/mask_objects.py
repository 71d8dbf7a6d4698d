"""Class masks to objects: each connected component, or each number of an instance mask, becomes one box and outline.

A box is the tight bounds of the pixels (xyxy, edges of pixels), the area their number, the outline their run lengths.
Symbols: H, W size of a picture, G its objects, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from effdense.data.checks.check import DataReport
from effdense.data.paths import resolve
from effdense.data.readers.class_lists import BACKGROUND_NAMES, read_class_list
from effdense.data.readers.coco import choose_categories
from effdense.data.readers.coco_boxes import BoxStyle, CocoAnnotations, CocoImages
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.readers.mask_layout import MaskLayout, find_masks, instance_files, missing_masks, read_segmentation
from effdense.data.readers.mask_regions import CITYSCAPES_THINGS, ObjectReader, Objects
from effdense.data.readers.settled import settled_records
from effdense.data.readers.splits import pick_split
from effdense.data.records import ClassMap, DetectionRecords
from effdense.data.segments import Segment
from effdense.errors import ConfigError, DataError, did_you_mean


def read_mask_objects(
    path: str | Path | MaskLayout,
    split: str,
    *,
    background: str | Sequence[str] | None = "auto",
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
    **pairing: Any,
) -> tuple[DetectionRecords, DataReport]:
    """Read one split of a segmentation set as boxes.

    Args:
        path: the folder; a relative path goes under ``EFFDENSE_DATA``.
        split: "train", "val" or "test" by any spelling; "all" for a set that is not divided.
        background: names of the classes that are no objects. "auto": what the class file says, else classes called
            background, unlabeled or void, else the class of value 0. None or (): every class has objects.
        classes, class_map, keep_empty, training: see ``read_coco``. Category ids are the values of the masks, or those
            that ``classes.json`` says.
        segments: keep the outlines, too, as run lengths.
        pairing: ``image_suffix``, ``mask_suffix``, ``skip_missing`` of ``read_mask_folder``.

    Where a folder ``instances`` (VOC: SegmentationObject, Cityscapes: instanceIds) is there, each of its numbers is one
    object, of the class that most of its pixels have; 0 is none. Else each connected component (of 8 neighbours) is.

    Raises:
        DataError: no such set, no such split, or classes other than ``class_map``'s.
        ConfigError: ``classes`` or ``background`` names a class that there is not.
    """
    layout = path if isinstance(path, MaskLayout) else find_masks(resolve(path))
    if layout is None:
        raise missing_masks(resolve(path))  # type: ignore[arg-type]
    name, part = pick_split({**layout.splits, **layout.others}, split, layout.root)
    masks, report = read_segmentation(layout, split, **pairing)
    report.source = f"{layout.root} ({name})"
    known, label_of = _object_classes(masks.class_map, layout, background, report)
    used = choose_categories(known, classes, class_map, layout.root, advice="Give both the same class file.")
    label_of = {
        value: used.names.index(known.names[label])
        for value, label in label_of.items()
        if known.names[label] in used.names
    }
    instances = None
    if part.instances is not None:
        instances = instance_files(part, masks, layout.kind)
        lost = [masks.mask_names[i] for i in range(len(masks)) if not instances[i]]
        message = "masks have no instance mask; their objects are connected components. Add the instance masks."
        report.add("warning", "missing-instances", message, lost)
    reader = ObjectReader(
        masks, label_of, part.instances, instances, layout.kind, segments, frozenset(_back(masks, known))
    )
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(reader, range(len(masks))))
    reader.add_faults(report)
    kept = [i for i, objects in enumerate(found) if objects is not None]
    usable = [objects for objects in found if objects is not None]
    images = CocoImages(
        np.arange(1, len(kept) + 1, dtype=np.int64),
        [masks.image_names[i] for i in kept],
        np.array([objects.size for objects in usable], np.int32).reshape(-1, 2),
    )
    columns = _columns(usable)
    corners = columns.xywh[:, :2].astype(int).tolist()
    rows = columns.rows.tolist()
    style = BoxStyle(lambda i, name, position: f"{masks.mask_names[kept[rows[position]]]} at {corners[position]}")
    records = settled_records(
        columns,
        images,
        used,
        report,
        image_dir=masks.image_dir,
        annotation_file=layout.root,
        style=style._replace(has_areas=False, form="corners"),
        outlines=_Runs([run for objects in usable for run in objects.runs]) if segments else None,
        keep_empty=keep_empty,
        training=training,
    )
    return records, report


class _Runs:
    def __init__(self, runs: list[dict[str, Any]]) -> None:
        self.runs = runs

    def __call__(self, position: int, row: int) -> Segment:
        return Segment(rle=self.runs[position])

    def add_to(self, report: DataReport) -> None:
        """Nothing: they are made here."""


def _columns(found: Sequence[Objects]) -> CocoAnnotations:
    counts = [len(objects.labels) for objects in found]
    boxes = np.concatenate([np.zeros((0, 4)), *(objects.boxes for objects in found)])
    total = len(boxes)

    def joined(arrays: list[Any], kind: Any) -> Any:
        return np.concatenate([np.zeros(0, kind), *arrays]).astype(kind)

    return CocoAnnotations(
        np.arange(1, total + 1, dtype=np.int64),
        np.repeat(np.arange(len(found)), counts).astype(np.int64),
        joined([objects.labels for objects in found], np.int64),
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1),
        joined([objects.is_crowd for objects in found], np.bool_),
        joined([objects.areas for objects in found], np.float64),
        np.arange(total, dtype=np.int64),
    )


def _back(masks: SegmentationRecords, known: ClassMap) -> list[int]:
    """Labels of the masks that are background."""
    return [label for label, name in enumerate(masks.class_map.names) if name not in known.names]


def _object_classes(
    found: ClassMap, layout: MaskLayout, background: str | Sequence[str] | None, report: DataReport
) -> tuple[ClassMap, dict[int, int]]:
    """Classes that have objects, and label in the masks -> label among them."""
    if layout.kind == "cityscapes":
        pairs = [
            (i, n, label) for label, (i, n) in enumerate(zip(found.category_ids, found.names)) if i in CITYSCAPES_THINGS
        ]
        known = ClassMap(tuple(n for _, n, _ in pairs), tuple(i for i, _, _ in pairs))
        return known, {label: position for position, (_, _, label) in enumerate(pairs)}
    content = _class_file_content(layout)
    names = _background_names(found, content, background, layout, report)
    kept = [label for label, name in enumerate(found.names) if name not in names]
    if not kept:
        raise DataError(
            f"{layout.root}: every class ({', '.join(found.names)}) is background, so there is no object. Name the "
            "classes of the other mask values, or the background with background=..."
        )
    ids = tuple(found.category_ids[label] for label in kept)
    if content.get("category_ids") is not None and layout.class_file is not None:
        stated = read_class_list(layout.class_file)
        id_of = dict(zip(stated.names, stated.ids or (), strict=True))
        ids = tuple(id_of.get(found.names[label], number) for label, number in zip(kept, ids, strict=True))
    try:
        known = ClassMap(tuple(found.names[label] for label in kept), ids)
    except DataError as error:
        raise DataError(f"{layout.class_file or layout.root}: {error}") from None
    return known, {label: position for position, label in enumerate(kept)}


def _class_file_content(layout: MaskLayout) -> dict[str, Any]:
    if layout.class_file is None:
        return {}
    content = json.loads(layout.class_file.read_bytes())  # read once before, so it is valid
    return content if isinstance(content, dict) else {}


def _background_names(
    found: ClassMap,
    content: dict[str, Any],
    background: str | Sequence[str] | None,
    layout: MaskLayout,
    report: DataReport,
) -> set[str]:
    asked = content.get("background") if background == "auto" else background
    if background != "auto" or asked is not None:
        wanted = [asked] if isinstance(asked, str) else list(asked or ())
        for name in wanted:
            if name not in found.names:
                raise ConfigError(
                    f"background names {name!r}, but the classes of {layout.root} are {', '.join(found.names)}."
                    f"{did_you_mean(str(name), found.names)}"
                )
        return set(wanted)
    named = {name for name in found.names if name.casefold() in BACKGROUND_NAMES}
    if named:
        return named
    zero = {name for name, value in zip(found.names, found.category_ids, strict=True) if value == 0}
    message = "class is taken as background, since its value is 0; background=() makes objects of it."
    report.add("warning", "background-class", message, sorted(zero))
    return zero
