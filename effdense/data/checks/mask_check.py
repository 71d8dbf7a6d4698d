"""What is wrong with masks, counted and named before training: kind of file, size against the picture, values.

The head of every picture and mask is read, and the pixels of as many masks as asked for; ``mask_findings.py`` says what
they mean.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdense.data.checks.check import DataReport
from effdense.data.checks.mask_findings import Look, describe_colors, report_looks
from effdense.data.image_io import ImageFault, ImageHeader, inspect_file
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.readers.mask_values import (
    COLOR_MODES,
    MaskKindError,
    code_color,
    index_pixels,
    labels_of,
    open_mask,
    read_index_image,
    value_counts,
)
from effdense.data.records import Color
from effdense.errors import ConfigError, DataError

__all__ = ["check_masks", "check_overlap", "read_index_image"]

_LOSSY_FORMATS = ("JPEG", "MPO", "WEBP")


def check_masks(
    records: SegmentationRecords, *, decode: int | Literal["all"] = "all", workers: int | None = None
) -> DataReport:
    """Look at the files of a split.

    Args:
        records: the split.
        decode: count the values of so many masks, spread over the split; "all" for every one (.5 ms for CamVid's
            480x360, 20 ms for Cityscapes' 2048x1024, on one core).
        workers: threads; None: one per core, 16 at most.

    Raises:
        ConfigError: ``decode`` or ``workers`` is not usable.
    """
    return report_looks(records, look_at_masks(records, decode=decode, workers=workers))


def look_at_masks(
    records: SegmentationRecords,
    *,
    pictures: Sequence[ImageHeader | ImageFault | None] | None = None,
    decode: int | str = "all",
    workers: int | None = None,
) -> list[Look]:
    """One look per record; arguments as of :func:`check_masks`.

    Args:
        pictures: what is known of the picture files; their faults are then no concern of the looks. None: they are
            opened, too.
    """
    if decode != "all" and (isinstance(decode, bool) or not isinstance(decode, int) or decode < 0):
        raise ConfigError(f"decode must be a number of masks >= 0 or 'all', got {decode!r}.")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}.")
    number = len(records) if decode == "all" else min(int(decode), len(records))
    decoded = frozenset(np.linspace(0, len(records) - 1, number).round().astype(int).tolist())
    with ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(partial(_look, records, decoded, pictures), range(len(records))))


def _look(
    records: SegmentationRecords,
    decoded: frozenset[int],
    pictures: Sequence[ImageHeader | ImageFault | None] | None,
    index: int,
) -> Look:
    path, mask_path = records[index]
    name = records.mask_names[index]
    picture = (pictures[index] if pictures is not None else None) or inspect_file(path)
    if isinstance(picture, ImageFault):
        if pictures is not None:
            return Look(("reported", name))
        return Look(("unreadable-image", f"{records.image_names[index]} ({picture.reason.rstrip('.')})"))
    header = inspect_file(mask_path)
    if isinstance(header, ImageFault):
        return Look(("unreadable-mask", f"{name} ({header.reason.rstrip('.')})"))
    if header.format in _LOSSY_FORMATS:
        return Look(("lossy-mask", f"{name} is a {header.format} file"))
    notes, fault = _size(name, header, picture)
    look = index in decoded
    try:
        with open_mask(mask_path) as image:
            _check_kind(records, image, look)
            if fault is not None:
                return Look(fault)
            return (_count(records, index, image) if look else Look())._replace(notes=notes)
    except MaskKindError as error:
        return Look(("mask-kind", f"{name} is {error.kind}"))
    except DataError as error:
        return Look(("unreadable-mask", f"{name} ({str(error).removeprefix(f'{mask_path}: ').rstrip('.')})"))


def _size(name: str, header: ImageHeader, picture: ImageHeader) -> tuple[tuple[str, ...], tuple[str, str] | None]:
    """Notes and fault of a mask's size."""
    (height, width), (rows, columns) = header.size, picture.oriented_size
    if header.size not in (picture.size, picture.oriented_size):
        turned = "; it is turned by a quarter" if (height, width) == (columns, rows) else ""
        sizes = f"{width}x{height}, the picture {columns}x{rows}"
        return (), ("size-mismatch", f"{name} is {sizes} (width x height){turned}")
    if picture.orientation == 1:
        return (), None
    if picture.size == picture.oriented_size:
        return ("exif-unclear",), None
    return (("exif-rotated",) if header.size == picture.size else ()), None


def _check_kind(records: SegmentationRecords, image: Image.Image, look_closer: bool) -> None:
    """Raise MaskKindError for a file that cannot be read; with what is in it where that is asked for."""
    try:
        if records.segments is None:
            records.coding.reads_colors(image.mode)
        elif image.mode not in COLOR_MODES:
            raise MaskKindError(f"{image.mode}, and a panoptic mask is RGB")
    except MaskKindError as error:
        if not look_closer:
            raise
        seen = _closer(image)
        raise MaskKindError(f"{error.kind}; {seen}" if seen else error.kind) from None


def _closer(image: Image.Image) -> str:
    """What is in a file of the wrong kind, where that helps."""
    if image.mode in COLOR_MODES:
        return describe_colors(np.asarray(image.convert("RGB")))
    if image.mode.startswith("I"):
        values = np.unique(np.asarray(image))
        return f"its values are {values[0]}..{values[-1]}" + (", which fit" if values[-1] <= 255 else "")
    return ""


def _count(records: SegmentationRecords, index: int, image: Image.Image) -> Look:
    """Pixels per value of a mask, or per label where it is read by colours."""
    coding = records.coding
    if records.segments is None and not coding.reads_colors(image.mode):
        counts = value_counts(index_pixels(image, coding.values))
        return Look(counts=_present(counts), palette=_used_palette(image, counts))
    segments = None if records.segments is None else records.segments.of(index)
    mask = labels_of(image, coding, segments)
    counts = np.zeros(256, np.int64)
    counts[list(coding.values)] = value_counts(mask.labels)[: len(coding.values)]
    swapped = 0
    if mask.unknown and segments is None and coding.colors is not None:
        reversed_colors = {color[::-1] for color in coding.colors}
        swapped = sum(code_color(code) in reversed_colors for code in mask.unknown)
    return Look(counts=_present(counts), colors=mask.unknown, swapped=swapped)


def _present(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(V, 2) values that occur and their pixels: a split has many masks, and each few values."""
    values = np.flatnonzero(counts)
    return np.stack([values, counts[values]], 1)


def _used_palette(image: Image.Image, counts: NDArray[np.int64]) -> dict[int, Color] | None:
    """Colours that a palette file gives to the numbers used in it."""
    if image.mode != "P":
        return None
    flat = image.getpalette("RGB") or []
    used = [value for value in np.flatnonzero(counts).tolist() if 3 * value + 2 < len(flat)]
    return {value: (flat[3 * value], flat[3 * value + 1], flat[3 * value + 2]) for value in used}


def check_overlap(train: SegmentationRecords, val: SegmentationRecords) -> DataReport:
    """Pictures that both splits hold: the same file, or one of the same name and size in bytes in another folder."""
    report = DataReport(str(val.source or val.image_dir))
    by_name: dict[str, list[Path]] = {}
    for path in train.image_paths:
        by_name.setdefault(path.name, []).append(path)
    both = [path for path in val.image_paths if any(_same_file(path, other) for other in by_name.get(path.name, ()))]
    report.add(
        "warning",
        "also-in-training",
        "pictures of this split are in the training split, too: its score says nothing about new pictures.",
        [path.name for path in both],
    )
    return report


def _same_file(path: Path, other: Path) -> bool:
    if path == other:
        return True
    try:
        return path.stat().st_size == other.stat().st_size and path.read_bytes() == other.read_bytes()
    except OSError:
        return False
