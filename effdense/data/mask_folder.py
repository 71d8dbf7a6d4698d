"""Segmentation folders to records: pictures and masks of equal names in two folders in, pairs of files out.

``images/a.jpg`` belongs to ``masks/a.png``; a split file names those of a split, one a line. A mask is one 8-bit number
per pixel (grey or palette PNG): the class, or the ignore value. Symbols: N pictures, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdense.data.check import DataReport
from effdense.data.image_folder import IMAGE_SUFFIXES
from effdense.data.image_io import ImageFault, inspect_file
from effdense.data.paths import require_dir, require_file, resolve
from effdense.data.records import ClassMap, PackedStrings
from effdense.errors import DataError

MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff"})  # lossless: a JPEG of a mask has values of its own
MASK_LAYOUT = "A segmentation set is laid out as ROOT/images/NAME.jpg and ROOT/masks/NAME.png, of equal names."
IGNORE = 255


class SegmentationRecord(NamedTuple):
    """One picture and its mask, as files."""

    path: Path
    mask_path: Path


@dataclass(frozen=True, eq=False)
class SegmentationRecords:
    """All pictures of a split. ``len(records)`` is N, ``records[i]`` a :class:`SegmentationRecord`.

    Attributes:
        class_map: names in label order; the category ids are the values of the mask files.
        image_dir, mask_dir: the folders.
        image_names, mask_names: N file names in them, packed, so that forked workers share them.
        ignore_index: value of the mask files that is no class (255 in every mask that a dataset hands out).
        source: split file, or the image folder where there is none.
    """

    class_map: ClassMap
    image_dir: Path
    mask_dir: Path
    image_names: PackedStrings = field(repr=False)
    mask_names: PackedStrings = field(repr=False)
    ignore_index: int = IGNORE
    source: Path | None = None

    def __post_init__(self) -> None:
        if len(self.image_names) != len(self.mask_names):
            raise DataError(f"Record lists disagree: {len(self.image_names)} images, {len(self.mask_names)} masks.")

    def __len__(self) -> int:
        return len(self.image_names)

    def __getitem__(self, index: int) -> SegmentationRecord:
        index = range(len(self))[index]
        return SegmentationRecord(self.path(index), self.mask_path(index))

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
        return replace(
            self,
            image_names=PackedStrings(self.image_names[int(i)] for i in indices),
            mask_names=PackedStrings(self.mask_names[int(i)] for i in indices),
        )


def read_mask_folder(
    images: str | Path,
    masks: str | Path,
    *,
    classes: Sequence[str] | str | Path,
    split_file: str | Path | None = None,
    ignore_index: int = IGNORE,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[SegmentationRecords, DataReport]:
    """Read one split. No picture is opened; ``check_masks`` looks into them.

    Args:
        images, masks, split_file: relative paths go under ``EFFDENSE_DATA``.
        classes: names in the order of the mask values 0..K-1, or a JSON file with ``{"classes": [...]}`` and, where the
            values are others, ``"values": [...]`` (ADE20K: 1..150).
        split_file: one name a line, with or without suffix; its order is kept. None: all pictures, sorted by name.
        ignore_index: value of the mask files that is no class.
        class_map: of another split (the training split's); names and values must be the same.
        training: no difference here; every reader takes it.

    Returns:
        The records and the report. Pictures without a mask, and names of the split file without picture or mask, are
        errors of the report and left out: call ``report.raise_for_errors()``.

    Raises:
        DataError: a folder or file is missing, the split is empty, or its classes are not ``class_map``'s.
    """
    image_dir = require_dir(resolve(images), "the image folder", advice=MASK_LAYOUT)
    mask_dir = require_dir(resolve(masks), "the mask folder", advice=MASK_LAYOUT)
    listing = None if split_file is None else require_file(resolve(split_file), "the split file", advice=MASK_LAYOUT)
    used = _check_classes(_read_classes(classes, ignore_index), class_map, image_dir)
    report = DataReport(str(listing or image_dir))
    image_files = _files_by_stem(image_dir, IMAGE_SUFFIXES, report)
    mask_files = _files_by_stem(mask_dir, MASK_SUFFIXES, report)
    if listing is None:
        wanted = sorted(image_files)
        report.add(
            "warning", "unused-mask", f"masks in {mask_dir} have no picture and are left aside.",
            sorted(mask_files.keys() - image_files.keys()),
        )  # fmt: skip
    else:
        wanted = _read_split(listing, report)
        report.add(
            "error", "missing-image", f"names of the split file have no picture in {image_dir}; correct either.",
            [name for name in wanted if name not in image_files],
        )  # fmt: skip
    report.add(
        "error", "missing-mask", f"pictures have no mask in {mask_dir}.{_near_names(wanted, mask_files)}",
        [image_files[name] for name in wanted if name in image_files and name not in mask_files],
    )  # fmt: skip
    if not wanted:
        raise DataError(
            f"{report.source}: the split is empty; "
            + (f"no file in {image_dir} ends in {', '.join(sorted(IMAGE_SUFFIXES))}." if listing is None else "")
            + ("the file has no names in it; it needs one picture name a line." if listing is not None else "")
        )
    pairs = [name for name in wanted if name in image_files and name in mask_files]
    records = SegmentationRecords(
        class_map=used,
        image_dir=image_dir,
        mask_dir=mask_dir,
        image_names=PackedStrings(image_files[name] for name in pairs),
        mask_names=PackedStrings(mask_files[name] for name in pairs),
        ignore_index=ignore_index,
        source=listing or image_dir,
    )
    return records, report


def _read_classes(classes: Sequence[str] | str | Path, ignore_index: int) -> ClassMap:
    content: Any = {"classes": classes}
    where = "classes"
    if isinstance(classes, (str, Path)):
        file = require_file(resolve(classes), "the class file", advice='It holds {"classes": ["sky", "road", ...]}.')
        where = str(file)
        try:
            content = json.loads(file.read_bytes())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: not valid JSON ({error}).") from error
        content = content if isinstance(content, dict) else {"classes": content}
    names = content.get("classes")
    if not isinstance(names, (list, tuple)) or not names or any(not isinstance(name, str) for name in names):
        raise DataError(f'{where}: expected {{"classes": ["sky", "road", ...]}}, a list of names, got {names!r}.')
    values = content.get("values", list(range(len(names))))
    if not isinstance(values, list) or any(type(value) is not int or not 0 <= value <= 255 for value in values):
        raise DataError(f"{where}: values must be whole numbers 0..255, one per class, got {values!r}.")
    stated = content.get("ignore_index", ignore_index)
    if stated != ignore_index:
        raise DataError(f"{where} says ignore_index {stated!r}, but {ignore_index} was asked for; make them agree.")
    if ignore_index in values or len(names) > IGNORE:
        raise DataError(
            f"{where}: {len(names)} classes with values {values[0]}..{values[-1]} leave no room for ignore_index "
            f"{ignore_index}; the ignore value must not be a class, and at most {IGNORE} classes fit."
        )
    return ClassMap(tuple(names), tuple(values))


def _check_classes(found: ClassMap, expected: ClassMap | None, folder: Path) -> ClassMap:
    if expected is not None and expected != found:
        raise DataError(
            f"{folder}: its classes {list(found.names)} with values {list(found.category_ids)} are not those that the "
            f"model has, {list(expected.names)} with {list(expected.category_ids)}. Give every split the same class "
            "file."
        )
    return found


def _files_by_stem(folder: Path, suffixes: frozenset[str], report: DataReport) -> dict[str, str]:
    """Name without suffix -> file name; of two files with one name the first by spelling is kept and both reported."""
    found: dict[str, str] = {}
    doubled = []
    for file in sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in suffixes):
        stem = Path(file).stem
        if stem in found:
            doubled.append(f"{found[stem]} and {file}")
        else:
            found[stem] = file
    report.add("error", "double-name", f"files in {folder} differ in their suffix only; take one away.", doubled)
    return found


def _read_split(file: Path, report: DataReport) -> list[str]:
    names = []
    for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        name = Path(line.strip()).name
        if name:
            names.append(Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else name)
    unique = list(dict.fromkeys(names))
    seen: set[str] = set()
    repeated = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    report.add("warning", "repeated-name", "names occur again in the split file and are used once.", repeated)
    return unique


def _near_names(wanted: Sequence[str], masks: dict[str, str]) -> str:
    """What the masks are called, when it is the picture's name with something added."""
    if not masks:
        return f" It has no files ending in {', '.join(sorted(MASK_SUFFIXES))}."
    missing = next((name for name in wanted if name not in masks), None)
    near = [file for stem, file in masks.items() if missing and missing in stem]
    if near:
        return f" Picture and mask need the same name; for {missing!r} there is {near[0]!r}: rename the masks."
    return " Add the masks, or give a split file that names only pictures with one."
