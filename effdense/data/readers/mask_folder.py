"""Segmentation folders to records: pictures and masks of equal names in two folders in, pairs of files out.

``images/a.jpg`` belongs to ``masks/a.png``, ``images/b/a.jpg`` to ``masks/b/a.png``; a split file names those of a
split, one a line. What the pixels of a mask stand for is in ``mask_values.py``. Symbols: N pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport
from effdense.data.image_io import ImageFault, inspect_file
from effdense.data.paths import require_dir, require_file, resolve
from effdense.data.readers.class_file import IgnoreIndex, choose_classes, read_classes
from effdense.data.readers.mask_pairs import MASK_SUFFIXES, PLAIN, MaskPairing, pair_files
from effdense.data.readers.mask_values import IGNORE, MaskCoding, MaskPixels, SegmentTable, read_labels
from effdense.data.records import ClassMap, PackedStrings
from effdense.errors import DataError

__all__ = ["IGNORE", "MASK_LAYOUT", "MASK_SUFFIXES", "SegmentationRecord", "SegmentationRecords", "read_mask_folder"]

MASK_LAYOUT = "A segmentation set is laid out as ROOT/images/NAME.jpg and ROOT/masks/NAME.png, of equal names."


class SegmentationRecord(NamedTuple):
    """One picture and its mask, as files."""

    path: Path
    mask_path: Path


@dataclass(frozen=True, eq=False)
class SegmentationRecords:
    """All pictures of a split. ``len(records)`` is N, ``records[i]`` a :class:`SegmentationRecord`.

    Attributes:
        class_map: names in label order; the category ids are those of the set, most often the values of its masks.
        image_dir, mask_dir: the folders.
        image_names, mask_names: N file names below them, packed, so that forked workers share them.
        coding: what the pixels of the masks stand for (255 is "ignore" in every mask that a dataset hands out).
        segments: classes of the segments of panoptic masks.
        source: split file, or the image folder where there is none.
    """

    class_map: ClassMap
    image_dir: Path
    mask_dir: Path
    image_names: PackedStrings = field(repr=False)
    mask_names: PackedStrings = field(repr=False)
    coding: MaskCoding = field(repr=False)
    segments: SegmentTable | None = field(default=None, repr=False)
    source: Path | None = None

    def __post_init__(self) -> None:
        images, masks = len(self.image_names), len(self.mask_names)
        if images != masks or (self.segments is not None and len(self.segments) != images):
            raise DataError(f"Record lists disagree: {images} images, {masks} masks, {self.segments}.")
        if len(self.coding.values) != len(self.class_map):
            raise DataError(f"{len(self.coding.values)} mask values for {len(self.class_map)} classes.")

    def __len__(self) -> int:
        return len(self.image_names)

    def __getitem__(self, index: int) -> SegmentationRecord:
        index = range(len(self))[index]
        return SegmentationRecord(self.path(index), self.mask_path(index))

    @property
    def ignore_index(self) -> int | None:
        """Number of the mask files that is no class, the first if there are several; None where there is none."""
        return self.coding.ignore_index

    def path(self, index: int) -> Path:
        """Picture file of record ``index``."""
        return self.image_dir / self.image_names[index]

    def mask_path(self, index: int) -> Path:
        """Mask file of record ``index``."""
        return self.mask_dir / self.mask_names[index]

    @property
    def image_paths(self) -> list[Path]:
        """All picture files."""
        return [self.path(index) for index in range(len(self))]

    @property
    def mask_paths(self) -> list[Path]:
        """All mask files."""
        return [self.mask_path(index) for index in range(len(self))]

    def read_mask(self, index: int, data: bytes | None = None) -> MaskPixels:
        """Labels of a mask file, and the pixels that are no class. Raises: DataError where it cannot be read.

        Args:
            data: the file's bytes where a store has them.
        """
        segments = None if self.segments is None else self.segments.of(index)
        return read_labels(self.mask_path(index), self.coding, segments, data=data)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) px of a mask, from the head of its file.

        Raises: DataError where that cannot be read.
        """
        path = self.mask_path(index)
        header = inspect_file(path)
        if isinstance(header, ImageFault):
            raise DataError(f"{path}: {header.reason}")
        return header.size

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> SegmentationRecords:
        """The same split with only these pictures, in this order."""
        chosen = [range(len(self))[int(i)] for i in indices]
        return replace(
            self,
            image_names=PackedStrings(self.image_names[i] for i in chosen),
            mask_names=PackedStrings(self.mask_names[i] for i in chosen),
            segments=None if self.segments is None else self.segments.subset(chosen),
        )


def read_mask_folder(
    images: str | Path,
    masks: str | Path,
    *,
    classes: Sequence[str] | str | Path,
    values: Sequence[int] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    split_file: str | Path | None = None,
    ignore_index: IgnoreIndex = "auto",
    ignore_values: Sequence[int] | None = None,
    image_suffix: str = "",
    mask_suffix: str = "",
    skip_missing: bool = False,
    only: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[SegmentationRecords, DataReport]:
    """Read one split. No picture is opened; ``check_masks`` looks into them.

    Args:
        images, masks, split_file: relative paths go under ``EFFDENSE_DATA``. Sub-folders are part of the names.
        classes, values, palette, ignore_index, ignore_values: names or class file, see ``class_file.read_classes``.
        split_file: one name a line, with or without suffix and folders; its order is kept. None: all pictures, sorted.
        image_suffix, mask_suffix, skip_missing: see ``mask_pairs.MaskPairing``.
        only: names of the classes to keep; pixels of the others are ignored.
        class_map: of another split (the training split's); names and values must be the same.
        training: no difference here; every reader takes it.

    Returns:
        The records and the report. Pictures without a mask, and names of the split file without picture or mask, are
        errors of the report and left out: call ``report.raise_for_errors()``.

    Raises:
        DataError: a folder or file is missing, the split is empty, or its classes are not ``class_map``'s.
        ConfigError: ``only`` names a class that there is not.
    """
    image_dir = require_dir(resolve(images), "the image folder", advice=MASK_LAYOUT)
    mask_dir = require_dir(resolve(masks), "the mask folder", advice=MASK_LAYOUT)
    listing = None if split_file is None else require_file(resolve(split_file), "the split file", advice=MASK_LAYOUT)
    used, coding = read_classes(
        classes, values=values, palette=palette, ignore_index=ignore_index, ignore_values=ignore_values
    )
    if only is not None:
        used, coding = choose_classes(used, coding, only)
    return records_of(
        same_classes(used, class_map, image_dir),
        coding,
        image_dir,
        mask_dir,
        listing,
        MaskPairing(image_suffix, mask_suffix, skip_missing),
    )


def records_of(
    class_map: ClassMap,
    coding: MaskCoding,
    image_dir: Path,
    mask_dir: Path,
    listing: Path | None,
    pairing: MaskPairing = PLAIN,
) -> tuple[SegmentationRecords, DataReport]:
    """Records of two folders that exist, for readers that know classes and coding. See :func:`read_mask_folder`."""
    source = listing or image_dir
    report = DataReport(str(source))
    pairs = pair_files(image_dir, mask_dir, listing, report, pairing)
    records = SegmentationRecords(
        class_map=class_map,
        image_dir=image_dir,
        mask_dir=mask_dir,
        image_names=PackedStrings(image for image, _ in pairs),
        mask_names=PackedStrings(mask for _, mask in pairs),
        coding=coding,
        source=source,
    )
    return records, report


def same_classes(found: ClassMap, expected: ClassMap | None, where: Path) -> ClassMap:
    """``found``; DataError where the training split's classes are others."""
    if expected is not None and expected != found:
        raise DataError(
            f"{where}: its classes {list(found.names)} with values {list(found.category_ids)} are not those that the "
            f"model has, {list(expected.names)} with {list(expected.category_ids)}. Give every split the same class "
            "file."
        )
    return found
