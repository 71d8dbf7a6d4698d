"""Where the pictures and masks of a segmentation set are: a folder in, the folders or lists of each split out.

ROOT/images/train/*.jpg  ROOT/masks/train/*.png  [ROOT/instances/train/*.png]  ROOT/classes.json
ROOT/images/*.jpg  ROOT/masks/*.png  ROOT/splits/train.txt                     or ROOT/train/images, ROOT/train/masks
and the layouts of VOC, Cityscapes, ADE20K and CamVid, which bring their classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from effdense.data.checks.check import DataReport
from effdense.data.readers.ade20k import read_ade20k
from effdense.data.readers.camvid import read_camvid
from effdense.data.readers.cityscapes import read_cityscapes
from effdense.data.readers.class_lists import ClassList, find_class_list
from effdense.data.readers.mask_folder import MASK_LAYOUT, SegmentationRecords, read_mask_folder
from effdense.data.readers.mask_pairs import MASK_SUFFIXES
from effdense.data.readers.mask_values import IGNORE, read_index_image, value_counts
from effdense.data.readers.splits import ALL, folders_of, is_usual, list_pictures, named_splits, pick_split
from effdense.data.readers.voc_segmentation import read_voc
from effdense.data.records import ClassMap, PackedStrings
from effdense.errors import DataError

PICTURES = ("images", "Images", "imgs", "img", "JPEGImages")
MASKS = ("masks", "mask", "labels", "annotations", "SegmentationClass", "gt")
INSTANCES = ("instances", "instance", "SegmentationObject")
_LISTS = ("classes.txt", "labels.txt")


@dataclass(frozen=True)
class MaskPart:
    """One split: its folders, a list of names where there is one, and how the set itself calls it."""

    images: Path
    masks: Path
    raw: str
    listing: Path | None = None
    instances: Path | None = None


@dataclass(frozen=True)
class MaskLayout:
    """A segmentation set found. ``kind`` is "folder" or the name of a public set whose classes are known.

    ``class_file`` is a ``classes.json``; ``classes`` another list of names, of the values 0, 1, 2, ...
    """

    root: Path
    kind: str
    splits: dict[str, MaskPart]
    others: dict[str, MaskPart] = field(default_factory=dict)
    class_file: Path | None = None
    classes: ClassList | None = None


def find_masks(path: Path) -> MaskLayout | None:
    """The layout of a folder; None where it is no segmentation set."""
    if not path.is_dir():
        return None
    for find in (_cityscapes, _voc, _ade20k, _camvid, _folder):
        if (found := find(path)) is not None and found.splits:
            return found
    return None


def read_segmentation(
    layout: MaskLayout,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
    **pairing: Any,
) -> tuple[SegmentationRecords, DataReport]:
    """Pictures and masks of one split, sorted by name; ``pairing`` are options of ``read_mask_folder``."""
    _, part = pick_split({**layout.splits, **layout.others}, split, layout.root)
    options: dict[str, Any] = {"classes": classes, "class_map": class_map, "training": training}
    if layout.kind in _READERS:
        records, report = _READERS[layout.kind](layout.root, part.raw, **options)
    else:
        source: dict[str, Any] = {"classes": str(layout.class_file)}
        unnamed: list[str] = []
        if layout.class_file is None:
            source, unnamed = _listed_classes(layout)
        records, report = read_mask_folder(
            part.images,
            part.masks,
            **source,
            split_file=part.listing,
            only=classes,
            class_map=class_map,
            training=training,
            **pairing,
        )
        message = "mask values have no names; classes are called by their numbers. Write a classes.json."
        report.add("warning", "no-names", message, unnamed)
    order = sorted(range(len(records)), key=lambda index: records.image_names[index])
    return records.subset(order), report


def _listed_classes(layout: MaskLayout) -> tuple[dict[str, Any], list[str]]:
    """Arguments of ``read_mask_folder`` without a class file, and the values that are called by their numbers."""
    if layout.classes is not None:
        return {"classes": layout.classes.names, "values": layout.classes.ids}, []
    values: set[int] = set()
    for part in layout.splits.values():
        for file in sorted(part.masks.rglob("*")):
            if file.suffix.lower() in MASK_SUFFIXES:
                values |= set(np.flatnonzero(value_counts(read_index_image(file))).tolist())
    found = sorted(values - {IGNORE}) or [0]
    return {"classes": [str(value) for value in found], "values": found}, [str(value) for value in found]


def _voc_reader(root: Path, split: str, **options: Any) -> tuple[SegmentationRecords, DataReport]:
    return read_voc(root, split, **options)


_READERS: dict[str, Any] = {
    "cityscapes": read_cityscapes,
    "voc": _voc_reader,
    "ade20k": read_ade20k,
    "camvid": read_camvid,
}


def _cityscapes(root: Path) -> MaskLayout | None:
    images, masks = root / "leftImg8bit", root / "gtFine"
    if not (images.is_dir() and masks.is_dir()):
        return None
    names = [name for name in folders_of(images) if (masks / name).is_dir()]
    parts = {name: MaskPart(images / name, masks / name, name, instances=masks / name) for name in names}
    return MaskLayout(root, "cityscapes", named_splits(parts))


def _voc(root: Path) -> MaskLayout | None:
    inner = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    place = next((p for p in inner if (p / "SegmentationClass").is_dir() and (p / "JPEGImages").is_dir()), None)
    lists = None if place is None else place / "ImageSets" / "Segmentation"
    if place is None or lists is None or not lists.is_dir():
        return None
    objects = place / "SegmentationObject"
    part = MaskPart(place / "JPEGImages", place / "SegmentationClass", "", None, objects if objects.is_dir() else None)
    parts = {file.stem: replace(part, raw=file.stem, listing=file) for file in sorted(lists.glob("*.txt"))}
    usual = {name: part for name, part in parts.items() if is_usual(name)} or parts
    others = {name: part for name, part in parts.items() if name not in usual}
    if _class_file([place])[0] is not None:  # classes of its own, in VOC's folders
        return MaskLayout(place, "folder", named_splits(usual), others, *_class_file([place]))
    return MaskLayout(place, "voc", named_splits(usual), others)


def _ade20k(root: Path) -> MaskLayout | None:
    names = {"training": "train", "validation": "val"}
    found = {
        raw: MaskPart(root / "images" / raw, root / "annotations" / raw, short)
        for raw, short in names.items()
        if (root / "images" / raw).is_dir() and _has_masks(root / "annotations" / raw)
    }
    if not found or _class_file([root]) != (None, None):
        return None
    return MaskLayout(root, "ade20k", named_splits(found))


def _camvid(root: Path) -> MaskLayout | None:
    found = {
        name: MaskPart(root / name, root / f"{name}annot", name)
        for name in ("train", "val", "test")
        if (root / name).is_dir() and _has_masks(root / f"{name}annot")
    }
    if not found or _class_file([root]) != (None, None):
        return None
    return MaskLayout(root, "camvid", named_splits(found))


def _folder(root: Path) -> MaskLayout | None:
    splits: dict[str, MaskPart] = {}
    whole = _pair(root)
    places = [root]
    if whole is not None:
        lists = [f for place in (root / "splits", root) for f in sorted(place.glob("*.txt")) if is_usual(f.stem)]
        names = [name for name in folders_of(whole.images) if is_usual(name) and (whole.masks / name).is_dir()]
        if names:
            splits = {name: _inner(whole, name) for name in names}
        elif lists:
            splits = {file.stem: replace(whole, raw=file.stem, listing=file) for file in lists}
        else:
            splits = {ALL: whole}
        places.append(whole.masks)
    else:
        pairs = [(name, _pair(root / name)) for name in folders_of(root) if is_usual(name)]
        splits = {name: replace(part, raw=name) for name, part in pairs if part is not None}
        places += [root / name for name in splits]
    file, listed = _class_file(places)
    return MaskLayout(root, "folder", named_splits(splits), {}, file, listed) if splits else None


def _inner(whole: MaskPart, name: str) -> MaskPart:
    instances = whole.instances / name if whole.instances is not None and (whole.instances / name).is_dir() else None
    return MaskPart(whole.images / name, whole.masks / name, name, None, instances)


def _pair(root: Path) -> MaskPart | None:
    """Folders of pictures, masks and instances right below ``root``."""
    images = next((root / name for name in PICTURES if (root / name).is_dir()), None)
    masks = next((root / name for name in MASKS if (root / name).is_dir() and _has_masks(root / name)), None)
    if images is None or masks is None:
        return None
    instances = next((root / name for name in INSTANCES if (root / name).is_dir()), None)
    return MaskPart(images, masks, ALL, None, instances)


def _has_masks(folder: Path) -> bool:
    """Whether there is a mask below the folder, and no label text beside it."""
    if not folder.is_dir():
        return False
    for _, folders, files in os.walk(folder):
        folders.sort()
        if any(os.path.splitext(name)[1].lower() in MASK_SUFFIXES for name in files):
            return True
    return False


def _class_file(places: Sequence[Path]) -> tuple[Path | None, ClassList | None]:
    file = next((place / "classes.json" for place in places if (place / "classes.json").is_file()), None)
    return file, None if file is not None else find_class_list(places, _LISTS)


def instance_files(part: MaskPart, records: SegmentationRecords, kind: str) -> PackedStrings:
    """Instance file of each picture, below ``part.instances``; "" where there is none."""
    assert part.instances is not None
    if kind == "cityscapes":
        masks = (records.mask_names[i] for i in range(len(records)))
        return PackedStrings(f"{name.rsplit('_', 1)[0]}_instanceIds.png" for name in masks)
    at_stem = {os.path.splitext(name)[0]: name for name in list_pictures(part.instances)}
    found = []
    for index in range(len(records)):
        stems = (os.path.splitext(names[index])[0] for names in (records.image_names, records.mask_names))
        found.append(next((at_stem[stem] for stem in stems if stem in at_stem), ""))
    return PackedStrings(found)


def missing_masks(path: Path) -> DataError:
    """That there is no segmentation set at a path."""
    state = "it holds no such set" if path.exists() else "there is nothing there"
    return DataError(f"Expected a set of pictures and masks at {path.absolute()}, but {state}. {MASK_LAYOUT}")
