"""ADE20K's scene parsing benchmark to records: masks hold 1..150, and 0 is no class.

ADEChallengeData2016/images/{training,validation}/*.jpg  annotations/{training,validation}/*.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effdense.data.checks.check import DataReport
from effdense.data.paths import require_dir, resolve
from effdense.data.readers.mask_folder import SegmentationRecords, records_of, same_classes
from effdense.data.readers.mask_values import MaskCoding
from effdense.data.readers.semantic_classes import ADE20K
from effdense.data.records import ClassMap

ADE20K_LAYOUT = (
    "ADE20K is laid out as ROOT/images/training/*.jpg and ROOT/annotations/training/*.png, the same for validation: "
    "ADEChallengeData2016.zip, not the full data set, whose masks are RGB."
)
_FOLDERS = {"train": "training", "val": "validation"}


def read_ade20k(
    root: str | Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[SegmentationRecords, DataReport]:
    """Read one split.

    Args:
        root: the folder ADEChallengeData2016; relative paths go under ``EFFDENSE_DATA``.
        split: "train" (20 210 pictures), "val" (2000), or the name of a folder.
        classes: only these; pixels of the others are ignored.

    Raises: DataError where a folder is missing (says the layout), ConfigError for unknown classes.
    """
    folder = require_dir(resolve(root), "the ADE20K folder", advice=ADE20K_LAYOUT)
    name = _FOLDERS.get(split, split)
    used = same_classes(ADE20K.choose(classes), class_map, folder)
    others = tuple(value for value in ADE20K.ids if value not in used.category_ids)
    return records_of(
        used,
        MaskCoding(used.category_ids, (0, *others)),  # 255 is in converted masks only, whose classes are one lower
        require_dir(folder / "images" / name, f"the {split} pictures", advice=ADE20K_LAYOUT),
        require_dir(folder / "annotations" / name, f"the {split} masks", advice=ADE20K_LAYOUT),
        None,
    )
