"""Boxes put in order: what lies outside, is empty or doubled is dropped, clipped or kept, and always reported.

Every detection reader settles its boxes here, so that a fault has one name whatever the format. Symbols: N images, M
annotations. Boxes come as x, y, width, height and leave as xyxy, in pixels of the original image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.box_forms import (
    CLEARLY_BEYOND,
    centres_look_like_corners,
    likely_order,
    look_like_corners,
    look_relative,
)
from effdense.data.checks.check import DataReport

# Beyond CLEARLY_BEYOND a box that leaves its picture is not a rounding matter; when over 20 % of the boxes do, the file
# means something else by "bbox". Boxes of 1 px overhang are common (tools that count pixels inclusively).
MAX_SHARE_BEYOND = 0.20
OVERHANG_PX = 1.0


class CocoImages(NamedTuple):
    """The usable images of the file, in its order."""

    ids: NDArray[np.int64]
    names: list[str]
    sizes: NDArray[np.int32]  # (N, 2) height, width


class CocoAnnotations(NamedTuple):
    """The usable annotations of the file, one column per field."""

    ids: NDArray[np.int64]
    rows: NDArray[np.int64]  # position of the image
    labels: NDArray[np.int64]
    xywh: NDArray[np.float64]  # (M, 4)
    is_crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]  # NaN where the file gives none
    positions: NDArray[np.int64]  # of the entry in its file: place in the list, number of the line or object

    def keep(self, chosen: NDArray[Any]) -> CocoAnnotations:
        """The annotations at these positions, or where a mask is True."""
        return CocoAnnotations(*(column[chosen] for column in self))


def _coco_place(annotation_id: int, name: str, position: int) -> str:
    return f"annotation {annotation_id} in {name}"


class BoxStyle(NamedTuple):
    """What differs between formats when their boxes are settled.

    Attributes:
        place: (annotation id, image name, position) to the words that lead a reader to the entry.
        beyond: what it means, and what to do, when many boxes reach far beyond their image.
        has_areas: whether a missing area is worth a warning; else the area is the box's where none is given.
        form: what the four numbers of the file are.
        corners: what it means, and what to do, where a box fits its picture as x1, y1, x2, y2 only.
    """

    place: Callable[[int, str, int], str] = _coco_place
    beyond: str = (
        "this looks like x1, y1, x2, y2 written where COCO means x, y, width, height, or boxes of pictures of another "
        "size. Write width = x2 - x1 and height = y2 - y1."
    )
    has_areas: bool = True
    form: Literal["bbox", "corners", "centre and size"] = "bbox"
    corners: str = (
        "boxes look like x1, y1, x2, y2 (by their area, or they fit their image only so), but COCO means x, y, width, "
        "height, and so they are read. Write width = x2 - x1 and height = y2 - y1."
    )

    def written(self, xywh: NDArray[np.float64]) -> NDArray[np.float64]:
        """(M, 4) px in the form of the file, from x, y, width, height."""
        low, size = xywh[:, :2], xywh[:, 2:]
        if self.form == "bbox":
            return xywh
        return np.concatenate([low, low + size] if self.form == "corners" else [low + size / 2, size], 1)


COCO_STYLE = BoxStyle()
_SWAPPED = {
    "swapped": "all boxes fit as y, x, height, width, so rows were written before columns. Write x, y, width, height.",
    "swapped corners": "all boxes fit as y1, x1, y2, x2. Write x1, y1, x2 - x1, y2 - y1.",
}


def repeated_values(values: Sequence[Any]) -> list[Any]:
    """Values that occur more than once, each once."""
    return [value for value, count in Counter(values).items() if count > 1]


def settle_boxes(
    found: CocoAnnotations, images: CocoImages, report: DataReport, style: BoxStyle = COCO_STYLE
) -> tuple[CocoAnnotations, NDArray[np.float64]]:
    """Drop boxes without area or outside, clip the rest, report all of it.

    Returns:
        The annotations left and their boxes, (M, 4) xyxy px inside the picture.
    """

    def places(chosen: NDArray[np.bool_] | NDArray[np.int64], source: CocoAnnotations) -> list[str]:
        entries = zip(source.ids[chosen], source.rows[chosen], source.positions[chosen], strict=True)
        return [style.place(int(i), images.names[r], int(p)) for i, r, p in entries]

    def numbers(chosen: NDArray[np.bool_], source: CocoAnnotations) -> list[str]:
        """The same with the box and the size of the picture."""
        picked = source.keep(chosen)
        boxes, sizes = style.written(picked.xywh).round(2).tolist(), images.sizes[picked.rows].tolist()
        return [
            f"{place} ({style.form} {', '.join(f'{v:g}' for v in box)} in {width}x{height})"
            for place, box, (height, width) in zip(places(chosen, source), boxes, sizes, strict=True)
        ]

    doubled = _repeated_ids(found, images)
    message = "annotation ids occur more than once; all are kept. Give each annotation its own id."
    report.add("warning", "duplicate-annotation-id", message, doubled)
    if style.has_areas:
        message = "annotations have no area; their box area is taken in its place. Write width x height as area."
        report.add("warning", "missing-area", message, places(np.isnan(found.areas), found))
    flat = np.asarray((found.xywh[:, 2:] <= 0).any(1))
    message = "boxes have no or negative width or height; dropped. Correct or remove them."
    report.add("warning", "degenerate-bbox", message, numbers(flat, found))
    left = found.keep(~flat)
    relative = look_relative(left.xywh) if style.has_areas else np.zeros(len(left.ids), bool)
    report.add(
        "error" if relative.sum() > MAX_SHARE_BEYOND * len(left.ids) else "warning",
        "normalised-bbox",
        "boxes are fractions 0..1, and COCO means pixels; dropped. Multiply by the width and height of the picture.",
        numbers(relative, left),
    )
    left = left.keep(~relative)

    limit = images.sizes[left.rows][:, ::-1].astype(np.float64)  # (M, 2) width, height
    start, end = left.xywh[:, :2], left.xywh[:, :2] + left.xywh[:, 2:]
    outside = np.asarray(((start >= limit) | (end <= 0)).any(1))
    beyond = np.asarray(((end - limit) > CLEARLY_BEYOND * limit).any(1)) & ~outside
    wrong_form = beyond.sum() > MAX_SHARE_BEYOND * max(1, len(left.ids))
    if wrong_form:
        report.add(
            "error",
            "boxes-beyond-image",
            f"boxes of {len(left.ids)} reach clearly beyond their image ({beyond.mean():.0%}): "
            + (_SWAPPED.get(likely_order(left.xywh, limit), style.beyond) if style.has_areas else style.beyond),
            numbers(beyond, left),
        )
    message = "boxes lie fully outside their image; dropped. Correct or remove them."
    report.add("warning", "bbox-outside", message, numbers(outside, left))
    left, start, end, limit = left.keep(~outside), start[~outside], end[~outside], limit[~outside]
    over = np.asarray(((start < -OVERHANG_PX) | (end > limit + OVERHANG_PX)).any(1))
    if not wrong_form:
        corners = _corners(left, limit, style)
        report.add(
            "error" if corners.sum() > MAX_SHARE_BEYOND * len(left.ids) else "warning",
            "xyxy-bbox",
            style.corners,
            numbers(corners, left),
        )
        message = "boxes reach more than 1 px beyond their image; clipped to it. Clip them in the file."
        report.add("warning", "bbox-clipped", message, numbers(over & ~corners, left))
    twins = _exact_twins(left)
    message = "boxes repeat one of the same class and image exactly; all are kept. Remove one of each."
    report.add("warning", "duplicate-bbox", message, places(twins, left))
    return left, np.concatenate([np.clip(start, 0, limit), np.clip(end, 0, limit)], axis=1)


def _corners(left: CocoAnnotations, limit: NDArray[np.float64], style: BoxStyle) -> NDArray[np.bool_]:
    """(M,) which boxes are x1, y1, x2, y2 by their own numbers."""
    if style.form == "bbox" and style.has_areas:
        return look_like_corners(left.xywh, left.areas, limit)
    if style.form == "centre and size":
        return centres_look_like_corners(style.written(left.xywh), limit)
    return np.zeros(len(left.ids), bool)


def _repeated_ids(found: CocoAnnotations, images: CocoImages) -> list[str]:
    """Each annotation id that occurs more than once, with the images it is in."""
    rows: dict[int, list[int]] = {number: [] for number in repeated_values(found.ids.tolist())}
    if rows:
        for number, row in zip(found.ids.tolist(), found.rows.tolist()):
            if number in rows:
                rows[number].append(row)
    places = {number: " and ".join(dict.fromkeys(images.names[row] for row in own)) for number, own in rows.items()}
    return [f"annotation {number} in {place}" for number, place in places.items()]


def _exact_twins(found: CocoAnnotations) -> NDArray[np.int64]:
    """Positions of annotations equal in image, class and box to an earlier one."""
    keys = np.column_stack([found.rows, found.labels, found.xywh])
    order = np.lexsort(keys.T)
    same = (keys[order][1:] == keys[order][:-1]).all(1)
    return np.sort(order[1:][same])
