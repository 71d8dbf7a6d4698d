"""COCO boxes put in order: what lies outside, is empty or doubled is dropped, clipped or kept, and always reported.

Symbols: N images, M annotations. Boxes come as x, y, width, height and leave as xyxy, in pixels of the original image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdense.data.check import DataReport

# A box that ends this share of the side beyond the picture is not a rounding matter; when over 20 % of the boxes
# do, the file means something else by "bbox". Boxes of 1 px overhang are common (tools that count pixels inclusively).
CLEARLY_BEYOND = 0.05
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

    def keep(self, chosen: NDArray[Any]) -> CocoAnnotations:
        """The annotations at these positions, or where a mask is True."""
        return CocoAnnotations(*(column[chosen] for column in self))


def repeated_values(values: Sequence[Any]) -> list[Any]:
    """Values that occur more than once, each once."""
    return [value for value, count in Counter(values).items() if count > 1]


def settle_boxes(
    found: CocoAnnotations, images: CocoImages, report: DataReport
) -> tuple[CocoAnnotations, NDArray[np.float64]]:
    """Drop boxes without area or outside, clip the rest, report all of it.

    Returns:
        The annotations left and their boxes, (M, 4) xyxy px inside the picture.
    """

    def places(chosen: NDArray[np.bool_] | NDArray[np.int64], source: CocoAnnotations) -> list[str]:
        pairs = zip(source.ids[chosen], source.rows[chosen], strict=True)
        return [f"annotation {i} in {images.names[r]}" for i, r in pairs]

    doubled = [f"annotation {i}" for i in repeated_values(found.ids.tolist())]
    report.add("warning", "duplicate-annotation-id", "annotation ids occur more than once; all are kept.", doubled)
    message = "annotations have no area; their box area is taken in its place."
    report.add("warning", "missing-area", message, places(np.isnan(found.areas), found))
    flat = np.asarray((found.xywh[:, 2:] <= 0).any(1))
    report.add("warning", "degenerate-bbox", "boxes have no or negative width or height; dropped.", places(flat, found))
    left = found.keep(~flat)

    limit = images.sizes[left.rows][:, ::-1].astype(np.float64)  # (M, 2) width, height
    start, end = left.xywh[:, :2], left.xywh[:, :2] + left.xywh[:, 2:]
    outside = np.asarray(((start >= limit) | (end <= 0)).any(1))
    beyond = np.asarray(((end - limit) > CLEARLY_BEYOND * limit).any(1)) & ~outside
    wrong_form = beyond.sum() > MAX_SHARE_BEYOND * max(1, len(left.ids))
    if wrong_form:
        report.add(
            "error",
            "boxes-beyond-image",
            f"boxes of {len(left.ids)} reach clearly beyond their image ({beyond.mean():.0%}): this looks like "
            "x1, y1, x2, y2 written where COCO means x, y, width, height, or boxes of pictures of another size. "
            "Write width = x2 - x1 and height = y2 - y1.",
            places(beyond, left),
        )
    report.add("warning", "bbox-outside", "boxes lie fully outside their image; dropped.", places(outside, left))
    left, start, end, limit = left.keep(~outside), start[~outside], end[~outside], limit[~outside]
    over = np.asarray(((start < -OVERHANG_PX) | (end > limit + OVERHANG_PX)).any(1))
    if not wrong_form:
        message = "boxes reach more than 1 px beyond their image; clipped to it."
        report.add("warning", "bbox-clipped", message, places(over, left))
    twins = _exact_twins(left)
    message = "boxes repeat one of the same class and image exactly; all are kept."
    report.add("warning", "duplicate-bbox", message, places(twins, left))
    return left, np.concatenate([np.clip(start, 0, limit), np.clip(end, 0, limit)], axis=1)


def _exact_twins(found: CocoAnnotations) -> NDArray[np.int64]:
    """Positions of annotations equal in image, class and box to an earlier one."""
    keys = np.column_stack([found.rows, found.labels, found.xywh])
    order = np.lexsort(keys.T)
    same = (keys[order][1:] == keys[order][:-1]).all(1)
    return np.sort(order[1:][same])
