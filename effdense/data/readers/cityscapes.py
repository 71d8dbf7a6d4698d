"""Cityscapes to records: city folders, label ids mapped to the 19 classes that are evaluated.

cityscapes/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
cityscapes/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png  (or ..._labelTrainIds.png)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from effdense.data.checks.check import DataReport
from effdense.data.paths import require_dir, resolve
from effdense.data.readers.mask_folder import SegmentationRecords, records_of, same_classes
from effdense.data.readers.mask_pairs import MaskPairing
from effdense.data.readers.mask_values import IGNORE, MaskCoding
from effdense.data.readers.semantic_classes import CITYSCAPES
from effdense.data.records import ClassMap
from effdense.errors import ConfigError

CITYSCAPES_LAYOUT = (
    "Cityscapes is laid out as ROOT/leftImg8bit/train/CITY/NAME_leftImg8bit.png and "
    "ROOT/gtFine/train/CITY/NAME_gtFine_labelIds.png, the same for val: unpack leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip into one folder."
)
LABEL_IDS = range(34)  # cityscapesScripts helpers/labels.py: 0..33; -1 (licence plate) is written as 255
FORMS = ("auto", "labelIds", "labelTrainIds")


def read_cityscapes(
    root: str | Path,
    split: str,
    *,
    annotations: str = "gtFine",
    masks: str = "auto",
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[SegmentationRecords, DataReport]:
    """Read one split.

    Args:
        root: relative paths go under ``EFFDENSE_DATA``.
        split: "train" (2975 pictures), "val" (500); "train_extra" with ``annotations="gtCoarse"``. The masks of "test"
            hold no classes.
        annotations: "gtFine" or "gtCoarse".
        masks: "labelIds" (as released), "labelTrainIds" (as cityscapesScripts makes them), or "auto": train ids where
            every picture of the split has them.
        classes: only these; pixels of the others are ignored.

    Category ids are label ids in either form. Raises: DataError where a folder is missing, ConfigError for arguments.
    """
    if masks not in FORMS:
        raise ConfigError(f"masks must be one of {FORMS}, got {masks!r}.")
    folder = require_dir(resolve(root), "the Cityscapes folder", advice=CITYSCAPES_LAYOUT)
    image_dir = require_dir(folder / "leftImg8bit" / split, f"the {split} pictures", advice=CITYSCAPES_LAYOUT)
    mask_dir = require_dir(folder / annotations / split, f"the {split} masks", advice=CITYSCAPES_LAYOUT)
    if masks == "auto":
        masks = "labelTrainIds" if _all_have_train_ids(image_dir, mask_dir, annotations) else "labelIds"
    used = same_classes(CITYSCAPES.choose(classes), class_map, folder)
    numbers = dict(zip(CITYSCAPES.ids, CITYSCAPES.ids if masks == "labelIds" else range(len(CITYSCAPES.ids))))
    values = tuple(numbers[label_id] for label_id in used.category_ids)
    possible = LABEL_IDS if masks == "labelIds" else numbers.values()
    coding = MaskCoding(values, (IGNORE, *(value for value in possible if value not in values)))
    pairing = MaskPairing("_leftImg8bit", f"_{annotations}_{masks}", chosen=False)
    return records_of(used, coding, image_dir, mask_dir, None, pairing)


def _all_have_train_ids(image_dir: Path, mask_dir: Path, annotations: str) -> bool:
    def names(folder: Path, ending: str) -> set[str]:
        found = (os.path.join(city, file) for city in os.listdir(folder) if (folder / city).is_dir()
                 for file in os.listdir(folder / city))  # fmt: skip
        return {name.removesuffix(ending) for name in found if name.endswith(ending)}

    made = names(mask_dir, f"_{annotations}_labelTrainIds.png")
    return bool(made) and names(image_dir, "_leftImg8bit.png") <= made
