"""What is wrong with masks, counted and named before training: kind of file, size against the picture, values.

The head of every picture and mask is read, and the pixels of as many masks as asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdense.data.check import DataReport, Severity
from effdense.data.image_io import ImageFault, inspect_file
from effdense.data.mask_folder import SegmentationRecords
from effdense.errors import ConfigError, DataError

# Pillow's modes of one 8-bit number per pixel; "1" is black and white.
INDEX_MODES = ("L", "P", "1")
_MODE_HINTS = {
    "RGB": "colour-coded: write the class number of each colour into an 8-bit grey PNG",
    "RGBA": "colour-coded: write the class number of each colour into an 8-bit grey PNG",
    "LA": "grey with transparency: save without the alpha channel",
    "I;16": "16-bit: save as 8-bit grey, one class number per pixel",
    "I": "16- or 32-bit: save as 8-bit grey, one class number per pixel",
}
_MESSAGES: dict[str, tuple[Severity, str]] = {
    "unreadable-image": ("error", "picture files cannot be read; replace them or take them out."),
    "unreadable-mask": ("error", "mask files cannot be read; replace them or take them out."),
    "mask-kind": ("error", "masks do not hold one 8-bit number per pixel."),
    "size-mismatch": ("error", "masks are not of the size of their picture; resize them with nearest neighbours."),
}


class _Look(NamedTuple):
    """What was seen of one pair: (code, place) of the first fault, pixels per value of the mask when it was decoded."""

    fault: tuple[str, str] | None = None
    counts: NDArray[np.int64] | None = None


def read_index_image(path: str) -> NDArray[np.uint8]:
    """A mask file as (H, W) uint8: the numbers in it, of a palette image the indices.

    Raises: DataError for a missing or broken file, and one that is not 8-bit with one number per pixel.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in INDEX_MODES:
                raise DataError(f"{path}: the mask is not 8-bit with one number per pixel, but {_kind(image.mode)}.")
            return np.array(image, np.uint8)
    except FileNotFoundError:
        raise DataError(f"{path}: the mask file does not exist.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: the mask cannot be read ({error}); the file is cut short or damaged.") from error


def check_masks(records: SegmentationRecords, *, decode: int | Literal["all"] = "all", workers: int = 4) -> DataReport:
    """Look at the files of a split.

    Args:
        records: the split.
        decode: count the values of so many masks, spread over the split; "all" for every one (about 2 ms each).
        workers: threads.

    Raises:
        ConfigError: ``decode`` or ``workers`` is not usable.
    """
    if decode != "all" and (not isinstance(decode, int) or decode < 0):
        raise ConfigError(f"decode must be a number of masks >= 0 or 'all', got {decode!r}.")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}.")
    number = len(records) if decode == "all" else min(decode, len(records))
    decoded = frozenset(np.linspace(0, len(records) - 1, number).round().astype(int).tolist())
    with ThreadPoolExecutor(workers) as pool:
        looks = list(pool.map(partial(_look, records, decoded), range(len(records))))
    report = DataReport(str(records.source or records.image_dir))
    for code, (severity, message) in _MESSAGES.items():
        report.add(severity, code, message, [look.fault[1] for look in looks if look.fault and look.fault[0] == code])
    _report_values(records, looks, report)
    return report


def _kind(mode: str) -> str:
    return f"{mode} ({_MODE_HINTS.get(mode, 'save it as 8-bit grey, one class number per pixel')})"


def _look(records: SegmentationRecords, decoded: frozenset[int], index: int) -> _Look:
    path, mask_path = records[index]
    name = mask_path.name
    picture = inspect_file(path)
    if isinstance(picture, ImageFault):
        return _Look(("unreadable-image", f"{path.name} ({picture.reason.rstrip('.')})"))
    header = inspect_file(mask_path)
    if isinstance(header, ImageFault):
        return _Look(("unreadable-mask", f"{name} ({header.reason.rstrip('.')})"))
    with Image.open(mask_path) as image:
        mode = image.mode
    if mode not in INDEX_MODES:
        return _Look(("mask-kind", f"{name} is {_kind(mode)}"))
    if header.size not in (picture.size, picture.oriented_size):
        seen = picture.oriented_size
        sizes = f"{header.size[1]}x{header.size[0]}, the picture {seen[1]}x{seen[0]}"
        return _Look(("size-mismatch", f"{name} is {sizes} (width x height)"))
    if index not in decoded:
        return _Look()
    try:
        return _Look(None, np.bincount(read_index_image(str(mask_path)).ravel(), minlength=256))
    except DataError as error:
        return _Look(("unreadable-mask", f"{name} ({str(error).removeprefix(f'{mask_path}: ').rstrip('.')})"))


def _report_values(records: SegmentationRecords, looks: Sequence[_Look], report: DataReport) -> None:
    """Faults of the values: outside the classes, 0/255 masks, nothing but ignore, classes that never occur."""
    names = records.class_map.names
    known = np.zeros(256, bool)
    known[list(records.class_map.category_ids)] = True
    counted = known.copy()
    known[records.ignore_index] = True
    seen = np.zeros(256, np.int64)
    strange, empty = [], []
    for index, look in enumerate(looks):
        if look.counts is None:
            continue
        seen += look.counts
        mask = records.mask_path(index).name
        wrong = np.flatnonzero((look.counts > 0) & ~known).tolist()
        if wrong:
            shown = ", ".join(f"{value}: {look.counts[value]} px" for value in wrong[:6])
            strange.append(f"{mask} ({shown}{', ...' if len(wrong) > 6 else ''})")
        elif not look.counts[counted].any():
            empty.append(mask)
    values = np.flatnonzero(seen).tolist()
    expected = f"{len(names)} classes with values {_span(records.class_map.category_ids)}, and {records.ignore_index}"
    binary = values == [0, 255] and len(names) > 1
    report.add(
        "error",
        "mask-values",
        f"masks hold values that are no class; expected are {expected} for ignore. {_value_hint(records, seen, known)}",
        strange,
    )
    if binary and not strange:
        report.add(
            "error",
            "binary-mask",
            "masks hold only 0 and 255, and 255 is ignored: only class 0 would be learnt. Write 1 in place of 255.",
            ["all of them"],
            count=sum(look.counts is not None for look in looks),
        )
    report.add("warning", "all-ignored", "masks hold nothing but ignored pixels.", empty)
    if len(looks) and all(look.counts is not None for look in looks) and not (strange or binary):
        absent = [name for name, value in zip(names, records.class_map.category_ids) if not seen[value]]
        report.add("warning", "absent-class", "classes occur in no mask of this split.", absent)


def _span(values: Sequence[int]) -> str:
    return f"{values[0]}..{values[-1]}"


def _value_hint(records: SegmentationRecords, seen: NDArray[np.int64], known: NDArray[np.bool_]) -> str:
    """The likely reason for values outside the classes."""
    values = np.flatnonzero(seen)
    wrong = values[~known[values]].tolist()
    classes = len(records.class_map)
    if set(values.tolist()) <= {0, 255}:
        return "These are 0/255 masks: write 1 in place of 255."
    if wrong == [classes] and not seen[0] and records.class_map.category_ids[0] == 0:
        return f'The values are counted from 1: subtract 1, or add "values": [1, ..., {classes}] to the class file.'
    if len(values) > classes + 8:
        return (
            "So many values: the class file lacks most of the classes, or the masks were resized with interpolation or "
            "turned grey from colours and must be made again."
        )
    return "Name the missing classes, give the right ignore_index, or write the ignore value in their place."
