"""PASCAL VOC 2012 segmentation to records: 21 classes, palette PNGs, 255 on the borders of objects.

    VOC2012/JPEGImages/*.jpg  SegmentationClass/*.png  ImageSets/Segmentation/{train,val,trainval}.txt

The 10 582 training pictures in common use ("aug") add the masks of Hariharan et al. (SBD, ICCV 2011), which come as
``SegmentationClassAug/*.png`` and ``ImageSets/Segmentation/trainaug.txt`` beside the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effdense.data.checks.check import DataReport
from effdense.data.paths import require_dir, require_file, resolve
from effdense.data.readers.mask_folder import SegmentationRecords, records_of, same_classes
from effdense.data.readers.mask_values import IGNORE, MaskCoding
from effdense.data.readers.semantic_classes import VOC
from effdense.data.records import ClassMap
from effdense.errors import DataError

VOC_LAYOUT = (
    "PASCAL VOC is laid out as ROOT/JPEGImages/*.jpg, ROOT/SegmentationClass/*.png and "
    "ROOT/ImageSets/Segmentation/train.txt; ROOT is the folder VOC2012, or VOCdevkit or a folder above it."
)
AUGMENTED_LAYOUT = (
    "augmented=True needs the masks of SBD beside VOC's own: ROOT/SegmentationClassAug/*.png and "
    "ROOT/ImageSets/Segmentation/trainaug.txt (10582 names). Without them set augmented=False: 1464 pictures."
)
BORDER = (224, 224, 192)  # colour of 255 in VOC's palette


def read_voc(
    root: str | Path,
    split: str,
    *,
    augmented: bool = False,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[SegmentationRecords, DataReport]:
    """Read one split.

    Args:
        root: the folder VOC2012, or the VOCdevkit above it; relative paths go under ``EFFDENSE_DATA``.
        split: "train" (1464 pictures), "val" (1449), "trainval" (2913), or the name of any other list.
        augmented: read "train" as "trainaug" (10 582), and all masks from SegmentationClassAug.
        classes: only these; pixels of the others are ignored.

    Raises: DataError where a folder or list is missing (says the layout), ConfigError for unknown classes.
    """
    folder = require_dir(resolve(root), "the PASCAL VOC folder", advice=VOC_LAYOUT)
    inner = [folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"]
    folder = next((place for place in inner if not (folder / "JPEGImages").is_dir() and place.is_dir()), folder)
    lists = folder / "ImageSets" / "Segmentation"
    name = "trainaug" if augmented and split == "train" else split
    advice = AUGMENTED_LAYOUT if augmented else VOC_LAYOUT
    if lists.is_dir() and not (lists / f"{name}.txt").is_file():
        known = ", ".join(sorted(file.stem for file in lists.glob("*.txt"))) or "none"
        raise DataError(f"There is no list {lists / f'{name}.txt'}; the lists there are: {known}. {advice}")
    listing = require_file(lists / f"{name}.txt", f"the list of the {name} split", advice=advice)
    masks = folder / ("SegmentationClassAug" if augmented else "SegmentationClass")
    used = same_classes(VOC.choose(classes), class_map, folder)
    others = tuple(value for value in VOC.ids if value not in used.category_ids)
    palette = dict(zip(VOC.ids, VOC.palette))
    coding = MaskCoding(
        used.category_ids, (IGNORE, *others), used.palette, (BORDER, *(palette[value] for value in others))
    )
    return records_of(
        used,
        coding,
        require_dir(folder / "JPEGImages", "VOC's pictures", advice=VOC_LAYOUT),
        require_dir(masks, "VOC's masks", advice=advice),
        listing,
    )
