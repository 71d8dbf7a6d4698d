"""What was seen of the masks of a split, put into words: looks in; findings with counts, places and likely fix out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport, Severity
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.readers.mask_values import IGNORE, code_color
from effdense.data.records import Color

_FAULTS: dict[str, tuple[Severity, str]] = {
    "unreadable-image": ("error", "picture files cannot be read; replace them or take them out."),
    "unreadable-mask": ("error", "mask files cannot be read; replace them or take them out."),
    "lossy-mask": (
        "error",
        "masks are in a format that changes their values; export them as PNG again, from their source.",
    ),
    "mask-kind": ("error", "masks do not hold one 8-bit number per pixel."),
    "size-mismatch": ("error", "masks are not of the size of their picture; resize them with nearest neighbours."),
}
_NOTES: dict[str, str] = {
    "exif-rotated": "pictures carry an EXIF rotation and their mask is of the unrotated size; they are read unrotated.",
    "exif-unclear": (
        "pictures carry an EXIF rotation that keeps their size, so the mask does not say whether it was made before or "
        "after it; they are read rotated, as viewers show them. Look at one, and save them without EXIF."
    ),
}
_BINARY_FIX = 'or give "values": [0, 255] and "ignore_index": null in the class file'
_MANY = 32  # more unknown colours than a class list would lack


class Look(NamedTuple):
    """What was seen of one pair.

    ``fault``: (code, place) of what stopped the look. ``notes``: codes of what was handled. Where the mask was decoded:
    ``counts`` (V, 2) each value in it and its pixels (a label's value where it was read by colours), ``palette`` the
    file's colour of each value, ``colors`` pixels of each colour (or segment) that is none of the classes', ``swapped``
    how many of those are with red and blue exchanged.
    """

    fault: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()
    counts: NDArray[np.int64] | None = None
    palette: dict[int, Color] | None = None
    colors: dict[int, int] | None = None
    swapped: int = 0


def report_looks(records: SegmentationRecords, looks: Sequence[Look]) -> DataReport:
    """The report of a split, one look per record."""
    report = DataReport(str(records.source or records.image_dir))
    for code, (severity, message) in _FAULTS.items():
        report.add(severity, code, message, [look.fault[1] for look in looks if look.fault and look.fault[0] == code])
    for code, message in _NOTES.items():
        places = [records.image_names[i] for i, look in enumerate(looks) if code in look.notes]
        report.add("warning", code, message, places)
    _report_colors(records, looks, report)
    _report_palettes(records, looks, report)
    _report_values(records, looks, report)
    return report


def describe_colors(pixels: NDArray[np.uint8]) -> str:
    """What colours a mask (H, W, 3) holds, in a few words."""
    codes = pixels.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
    found, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = ", ".join(str(list(code_color(int(found[i])))) for i in order[:4])
    text = f"it has {len(found)} colours, most often {shown}"
    if len(found) <= 256 and all(len(set(code_color(int(code)))) == 1 for code in found):
        return f"{text}: all grey, so a number per pixel saved three times; save one channel"
    return f"{text}: so many that it is a photograph or was smoothed" if len(found) > 1000 else text


def _report_colors(records: SegmentationRecords, looks: Sequence[Look], report: DataReport) -> None:
    """Colours that are no class, or segments that the JSON does not list."""
    pairs = [(records.mask_names[i], look) for i, look in enumerate(looks) if look.colors]
    if records.segments is not None:
        places = [f"{name} ({_some(look, str)})" for name, look in pairs]
        report.add(
            "error",
            "unknown-segment",
            "panoptic masks hold segment ids that the JSON does not list for them: PNGs and JSON are of two releases.",
            places,
        )
        return
    distinct = set().union(*(look.colors for _, look in pairs if look.colors)) if pairs else set()
    places = [f"{name} ({_some(look, lambda code: str(list(code_color(code))))})" for name, look in pairs]
    report.add(
        "error",
        "mask-colors",
        f"masks hold colours that are none of the {len(records.class_map)} classes'. "
        + _color_hint(records, distinct, sum(look.swapped for _, look in pairs)),
        places,
    )


def _some(look: Look, write: object) -> str:
    assert look.colors is not None and callable(write)
    most = sorted(look.colors.items(), key=lambda item: -item[1])
    more = f", and {len(most) - 3} more" if len(most) > 3 else ""
    return ", ".join(f"{write(code)}: {count} px" for code, count in most[:3]) + more


def _color_hint(records: SegmentationRecords, distinct: set[int], swapped: int) -> str:
    colors = records.coding.colors
    if not distinct or colors is None:
        return ""
    if swapped and len({code_color(code)[::-1] for code in distinct} - set(colors)) == 0:
        return (
            "They are the classes' with red and blue exchanged: written by OpenCV without conversion, or a BGR palette."
        )
    if len(distinct) > _MANY:
        return (
            "So many colours: the masks were saved as JPEG, resized with interpolation or drawn with soft edges; make "
            "them again with nearest neighbours and as PNG."
        )
    return (
        'Add them with their classes to "palette" in the class file, or to "ignore_colors" where they are no class '
        f"(all of them: {', '.join(str(list(code_color(code))) for code in sorted(distinct)[:8])})."
    )


def _report_palettes(records: SegmentationRecords, looks: Sequence[Look], report: DataReport) -> None:
    """Palette files whose numbers mean something else than the class list says."""
    palettes = {records.mask_names[i]: look.palette for i, look in enumerate(looks) if look.palette}
    numbers: dict[Color, set[int]] = {}
    for palette in palettes.values():
        for value, color in palette.items():
            numbers.setdefault(color, set()).add(value)
    colors = records.class_map.palette
    fix = 'Give the colours as "colors" in the class file: then the masks are read by them, not by their numbers.'
    if colors is not None:
        value_of = dict(zip(colors, records.coding.values)) if len(set(colors)) == len(colors) else {}
        wrong = [
            f"{name} ({value} is {list(color)}, the colour of {value_of[color]})"
            for name, palette in palettes.items()
            for value, color in list(palette.items())
            if value_of.get(color, value) != value and value not in records.coding.ignore_values
        ]
        report.add(
            "error", "palette-order", f"palette masks number the colours of the classes differently. {fix}", wrong
        )
        if wrong:
            return
    moved = {color for color, values in numbers.items() if len(values) > 1}
    first: dict[int, Color] = {}
    differing = []
    for name, palette in palettes.items():
        for value, color in palette.items():
            expected = first.setdefault(value, color)
            if expected != color and expected in moved and color in moved:
                differing.append(f"{name} ({value} is {list(color)}, elsewhere {list(expected)})")
                break
    report.add(
        "error",
        "palette-differs",
        "palette masks number their colours differently from file to file: a program renumbered them when saving. "
        + fix,
        differing,
    )


def _report_values(records: SegmentationRecords, looks: Sequence[Look], report: DataReport) -> None:
    """Faults of the values: outside the classes, 0/255 masks, nothing but ignore, classes that never occur."""
    names, coding = records.class_map.names, records.coding
    counted = np.zeros(256, bool)
    counted[list(coding.values)] = True
    known = counted.copy()
    known[list(coding.ignore_values)] = True
    seen = np.zeros(256, np.int64)
    strange, empty, white, decoded, other_colors = [], [], [], 0, False
    for index, look in enumerate(looks):
        if look.counts is None:
            continue
        decoded += 1
        values, pixels = look.counts[:, 0], look.counts[:, 1]
        seen[values] += pixels
        mask = records.mask_names[index]
        wrong = look.counts[~known[values]].tolist()
        other_colors |= bool(look.colors)
        if wrong:
            shown = ", ".join(f"{value}: {count} px" for value, count in wrong[:6])
            strange.append(f"{mask} ({shown}{', ...' if len(wrong) > 6 else ''})")
        elif not counted[values].any() and not look.colors:
            empty.append(mask)
        elif values.tolist() == [0, IGNORE] and not counted[IGNORE]:
            white.append(f"{mask} (0: {pixels[0]} px, 255: {pixels[1]} px)")
    binary = np.flatnonzero(seen).tolist() == [0, 255] and len(names) > 1 and not counted[255]
    report.add(
        "error",
        "mask-values",
        f"masks hold values that are no class; expected are {len(names)} classes with values {_span(coding.values)}"
        f"{_ignoring(records)}. {_value_hint(records, seen, known)}",
        strange,
    )
    if binary and not strange:
        report.add(
            "error",
            "binary-mask",
            "masks hold only 0 and 255, and 255 is ignored: only class 0 would be learnt. Write 1 in place of 255, "
            f"{_BINARY_FIX}.",
            white,
            count=decoded,
        )
    elif len(names) > 1:
        others, number = ("1", "1") if coding.values == (0, 1) else ("other classes", "its class number")
        report.add(
            "warning",
            "binary-mask",
            f"masks hold only 0 and 255 where others hold {others}: if 255 is the object there, it is ignored; write "
            f"{number} for it.",
            white,
        )
    if decoded and len(empty) == decoded:
        report.add(
            "error",
            "all-ignored",
            f"every mask holds nothing but ignored values ({', '.join(map(str, coding.ignore_values[:4]))}): there is "
            "nothing to learn or to score. Such masks stand in for those of a test split; choose another.",
            empty,
        )
    else:
        report.add("warning", "all-ignored", "masks hold nothing but ignored pixels.", empty)
    if len(looks) == decoded and decoded > len(empty) and not (strange or binary or other_colors):
        absent = [name for name, value in zip(names, coding.values) if not seen[value]]
        report.add("warning", "absent-class", "classes occur in no mask of this split.", absent)


def _span(values: Sequence[int]) -> str:
    if len(values) < 4 and values[-1] - values[0] >= len(values):
        return ", ".join(map(str, values))
    return f"{values[0]}..{values[-1]}"


def _ignoring(records: SegmentationRecords) -> str:
    ignored = records.coding.ignore_values
    more = ", ..." if len(ignored) > 4 else ""
    return f", and {', '.join(map(str, ignored[:4]))}{more} for ignore" if ignored else ", and none to ignore"


def _value_hint(records: SegmentationRecords, seen: NDArray[np.int64], known: NDArray[np.bool_]) -> str:
    """The likely reason for values outside the classes."""
    values = np.flatnonzero(seen)
    wrong = values[~known[values]].tolist()
    classes, coding = len(records.class_map), records.coding
    if set(values.tolist()) <= {0, 255}:
        return f"These are 0/255 masks: write 1 in place of 255, {_BINARY_FIX}."
    if wrong == [255] and not coding.ignore_values:
        return 'There is no ignore value here; where 255 is one, say "ignore_index": 255.'
    if wrong == [classes] and not seen[0] and coding.values[0] == 0:
        return f'The values are counted from 1: subtract 1, or add "values": [1, ..., {classes}] to the class file.'
    if wrong == [IGNORE] and 0 in coding.ignore_values:
        return (
            "0 is no class here and 255 does not belong: where the masks were converted (0 to 255, the classes one "
            "lower), every label would be one off. Use the masks as released, or numbers from 0 with 255 for ignore."
        )
    for found, nothing in ((sorted({*values.tolist()} - {*coding.ignore_values}), False), (values.tolist(), True)):
        if len(found) == classes and found != [*coding.values]:
            more = ' and "ignore_index": null' if nothing and coding.ignore_values else ""
            return (
                f'They hold {classes} values: if those are the classes, give "values": {found}{more} in the class file.'
            )
    if len(values) > 8 and classes == 2 and seen[[0, 255]].sum() > 0.8 * seen.sum():
        return "These are 0/255 masks with soft edges (resized, drawn smoothly or once a JPEG): threshold them."
    if len(wrong) > 8:
        return (
            "So many values: the class file lacks most of the classes, or the masks were resized with interpolation or "
            "turned grey from colours and must be made again."
        )
    return "Name the missing classes, give the right ignore_index, or write the ignore value in their place."
