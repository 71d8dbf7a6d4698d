"""COCO's stuff to semantic records: panoptic PNGs with their JSON, or pixel maps.

    coco/{train,val}2017/*.jpg
    coco/annotations/panoptic_train2017.json  coco/annotations/panoptic_train2017/*.png    133 classes
    coco/stuffthingmaps/train2017/*.png                                                    171 classes

A panoptic PNG holds segment ids, R + 256 G + 65536 B, 0 where nothing is labelled; the JSON says the category of each
(panopticapi utils.py, ``rgb2id``). A pixel map holds category id - 1, and 255 (COCO-Stuff's README).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effdense.data.checks.check import DataReport
from effdense.data.paths import require_dir, require_file, resolve
from effdense.data.readers.mask_folder import SegmentationRecords, records_of, same_classes
from effdense.data.readers.mask_values import IGNORE, MaskCoding, SegmentTable
from effdense.data.readers.semantic_classes import COCO_PANOPTIC, COCO_STUFF
from effdense.data.records import ClassMap, PackedStrings
from effdense.errors import DataError

PANOPTIC_LAYOUT = (
    "COCO panoptic is laid out as ROOT/annotations/panoptic_train2017.json, ROOT/annotations/panoptic_train2017/*.png "
    "(the zip inside panoptic_annotations_trainval2017.zip unpacked) and ROOT/train2017/*.jpg."
)
STUFF_LAYOUT = (
    "COCO-Stuff is laid out as ROOT/train2017/*.jpg and ROOT/stuffthingmaps/train2017/*.png "
    "(stuffthingmaps_trainval2017.zip), the same for val2017."
)


def read_coco_panoptic(
    root: str | Path,
    split: str,
    *,
    ann_file: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[SegmentationRecords, DataReport]:
    """Read one split; pictures that the JSON lists.

    Args:
        root: relative paths go under ``EFFDENSE_DATA``.
        split: "train" or "val" (of 2017), or a folder's name.
        ann_file, images, masks: JSON and folders below ``root``, where they are others than the layout's.
        classes: only these; pixels of the others are ignored.

    Raises: DataError where a file or folder is missing (says the layout) or the JSON is no panoptic one.
    """
    folder = require_dir(resolve(root), "the COCO folder", advice=PANOPTIC_LAYOUT)
    name = f"{split}2017" if split in ("train", "val") else split
    file = folder / (ann_file or f"annotations/panoptic_{name}.json")
    require_file(file, "the panoptic JSON", advice=PANOPTIC_LAYOUT)
    image_dir = require_dir(folder / (images or name), f"the {split} pictures", advice=PANOPTIC_LAYOUT)
    mask_dir = require_dir(
        folder / masks if masks else file.with_suffix(""), "the panoptic PNGs", advice=PANOPTIC_LAYOUT
    )
    content = _load(file)
    used = same_classes(_panoptic_classes(content["categories"], classes, file), class_map, file)
    return _panoptic_records(content, used, image_dir, mask_dir, file)


def _load(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}). The file may be cut short; fetch it again.") from error
    found = sorted(content) if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or any(
        not isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise DataError(f"{file}: expected lists 'images', 'annotations' and 'categories', got {found}.")
    first = content["annotations"][:1]
    if first and (not isinstance(first[0], Mapping) or "segments_info" not in first[0]):
        raise DataError(
            f"{file}: its annotations have no 'segments_info', so it is no panoptic file; give panoptic_*.json, not "
            "instances_*.json."
        )
    return content


def _panoptic_classes(entries: list[Any], classes: Sequence[str] | None, file: Path) -> ClassMap:
    """The file's categories; COCO's own 133 with their colours where they are those."""
    try:
        pairs = sorted((int(entry["id"]), str(entry["name"])) for entry in entries)
        colors = {int(entry["id"]): entry.get("color") for entry in entries}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: 'categories' need an id and a name each ({type(error).__name__}: {error}).") from None
    ids, names = tuple(i for i, _ in pairs), tuple(name for _, name in pairs)
    if (names, ids) == (COCO_PANOPTIC.names, COCO_PANOPTIC.ids):
        return COCO_PANOPTIC.choose(classes)
    palette = tuple(colors[i] for i in ids) if all(colors.values()) else None
    known = ClassMap(names, ids, palette)
    if classes is None:
        return known
    if unknown := [name for name in classes if name not in names]:
        raise DataError(f"{file} has no classes {unknown}; it has {list(names)}.")
    rows = [i for i, name in enumerate(names) if name in set(classes)]
    colored = None if known.palette is None else tuple(known.palette[i] for i in rows)
    return ClassMap(tuple(names[i] for i in rows), tuple(ids[i] for i in rows), colored)


def _panoptic_records(
    content: Mapping[str, list[dict[str, Any]]], used: ClassMap, image_dir: Path, mask_dir: Path, file: Path
) -> tuple[SegmentationRecords, DataReport]:
    report = DataReport(str(file))
    label_of = {category: label for label, category in enumerate(used.category_ids)}
    listed = {entry.get("id") for entry in content["categories"]}
    names = {entry.get("id"): entry.get("file_name") for entry in content["images"]}
    pictures: list[str] = []
    masks: list[str] = []
    ids: list[int] = []
    labels: list[int] = []
    offsets = [0]
    unknown, faulty, no_image, missing, no_mask, unsafe = [], [], [], [], [], []
    for position, entry in enumerate(content["annotations"]):
        try:
            mask, picture = str(entry["file_name"]), names.get(entry["image_id"])
            segments = [(int(part["id"]), int(part["category_id"])) for part in entry["segments_info"]]
        except (KeyError, TypeError, ValueError) as error:
            faulty.append(f"annotations[{position}] ({type(error).__name__}: {error})")
            continue
        strange = [f"{mask}: segment {i} of category {c}" for i, c in segments if c not in listed]
        outside = [name for name in (mask, picture or "") if ".." in Path(name).parts or Path(name).is_absolute()]
        if strange or outside or not isinstance(picture, str):
            unknown += strange
            unsafe += outside
            no_image += [] if isinstance(picture, str) else [f"{mask} (image_id {entry['image_id']!r})"]
        elif not (image_dir / picture).is_file():
            missing.append(picture)
        elif not (mask_dir / mask).is_file():
            no_mask.append(mask)
        else:
            pictures.append(picture)
            masks.append(mask)
            ids += [i for i, _ in segments]
            labels += [label_of.get(category, IGNORE) for _, category in segments]
            offsets.append(len(ids))
    report.add("error", "bad-annotation", "annotations need file_name, image_id and segments_info.", faulty)
    report.add("error", "unknown-category-id", "segments refer to categories that the file does not list.", unknown)
    report.add("error", "unknown-image-id", "annotations refer to images that the file does not list.", no_image)
    report.add("error", "unsafe-path", "file names must stay inside their folder (no '..', not absolute).", unsafe)
    report.add("error", "missing-image", f"pictures are not in {image_dir}; give their folder as images=.", missing)
    report.add("error", "missing-mask", f"panoptic PNGs are not in {mask_dir}.", no_mask)
    if not content["annotations"]:
        raise DataError(f"{file}: the split is empty; 'annotations' has no entry.")
    table = SegmentTable(np.array(offsets, np.int64), np.array(ids, np.int32), np.array(labels, np.uint8))
    records = SegmentationRecords(
        class_map=used,
        image_dir=image_dir,
        mask_dir=mask_dir,
        image_names=PackedStrings(pictures),
        mask_names=PackedStrings(masks),
        coding=MaskCoding(tuple(range(len(used))), (IGNORE,)),
        segments=table,
        source=file,
    )
    return records, report


def read_coco_stuff(
    root: str | Path,
    split: str,
    *,
    images: str | None = None,
    masks: str | None = None,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[SegmentationRecords, DataReport]:
    """Read one split of the pixel maps: 80 things and 91 kinds of stuff.

    Args: as :func:`read_coco_panoptic`.

    Raises: DataError where a folder is missing (says the layout), ConfigError for unknown classes.
    """
    folder = require_dir(resolve(root), "the COCO folder", advice=STUFF_LAYOUT)
    name = f"{split}2017" if split in ("train", "val") else split
    used = same_classes(COCO_STUFF.choose(classes), class_map, folder)
    others = tuple(category - 1 for category in COCO_STUFF.ids if category not in used.category_ids)
    return records_of(
        used,
        MaskCoding(tuple(category - 1 for category in used.category_ids), (IGNORE, *others)),
        require_dir(folder / (images or name), f"the {split} pictures", advice=STUFF_LAYOUT),
        require_dir(folder / (masks or f"stuffthingmaps/{name}"), f"the {split} pixel maps", advice=STUFF_LAYOUT),
        None,
    )
