"""Overlapping pairs of detections and ground truths, found for a whole data set at once.

Both sides carry a cell number (image, or image and class); only pairs within a cell are looked at, and only those that
overlap enough are kept, so what comes out is small whatever went in. Overlap with a crowd region is the share of the
detection inside it, as in COCO.
Source: cocodataset/cocoapi, common/maskApi.c (bbIou, rleIou): widths and heights may be zero, nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Pairs held at a time: 2 million take about 250 MB of temporary arrays.
_PAIRS_AT_A_TIME = 1_000_000


class Pairs(NamedTuple):
    """Pairs that overlap, in the order of the detections given and, within one, of the ground truths given."""

    detection: NDArray[np.int64]  # (P,) row of the detections given
    truth: NDArray[np.int64]  # (P,) row of the ground truths given
    iou: NDArray[np.float64]  # (P,)


def pair_iou(
    found: NDArray[np.float64], truth: NDArray[np.float64], is_crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Overlap of box i with box i: (P, 4) and (P, 4) x, y, w, h in px -> (P,)."""
    width = np.minimum(found[:, 0] + found[:, 2], truth[:, 0] + truth[:, 2]) - np.maximum(found[:, 0], truth[:, 0])
    height = np.minimum(found[:, 1] + found[:, 3], truth[:, 1] + truth[:, 3]) - np.maximum(found[:, 1], truth[:, 1])
    apart = (width <= 0) | (height <= 0)
    both = width * height
    own = found[:, 2] * found[:, 3]
    union = np.where(is_crowd, own, own + truth[:, 2] * truth[:, 3] - both)
    return np.where(apart, 0.0, both / np.where(apart, 1.0, union))


def overlapping_pairs(
    found_cell: NDArray[np.int64],
    truth_cell: NDArray[np.int64],
    found_shapes: NDArray[np.float64] | Sequence[Any],
    truth_shapes: NDArray[np.float64] | Sequence[Any],
    is_crowd: NDArray[np.bool_],
    minimum: float,
) -> Pairs:
    """All pairs of a cell with overlap >= ``minimum``.

    Args:
        found_cell, truth_cell: (D,) and (M,) cell numbers, both ascending.
        found_shapes, truth_shapes: boxes (D, 4) and (M, 4) x, y, w, h px, or lists of compressed run lengths.
        is_crowd: (M,).
        minimum: > 0.
    """
    first = np.searchsorted(truth_cell, found_cell, side="left")
    counts = np.searchsorted(truth_cell, found_cell, side="right") - first
    rows = np.flatnonzero(counts)
    first, counts = first[rows], counts[rows]
    if isinstance(found_shapes, np.ndarray) and isinstance(truth_shapes, np.ndarray):
        parts = _box_pairs(rows, first, counts, found_shapes, truth_shapes, is_crowd, minimum)
    else:
        parts = _mask_pairs(rows, first, counts, found_cell, found_shapes, truth_shapes, is_crowd, minimum)
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float64))
    return Pairs(*(np.concatenate(column) for column in zip(empty, *parts, strict=True)))


def _box_pairs(
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
    counts: NDArray[np.int64],
    found: NDArray[np.float64],
    truth: NDArray[np.float64],
    is_crowd: NDArray[np.bool_],
    minimum: float,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    parts = []
    ends = np.cumsum(counts)
    start = 0
    while start < len(rows):
        done = int(ends[start] - counts[start])
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_A_TIME, side="right")))
        here, number = slice(start, stop), int(ends[stop - 1]) - done
        begins = ends[here] - counts[here] - done
        detection = np.repeat(rows[here], counts[here])
        other = np.arange(number) + np.repeat(first[here] - begins, counts[here])
        iou = pair_iou(found[detection], truth[other], is_crowd[other])
        kept = np.flatnonzero(iou >= minimum)
        parts.append((detection[kept], other[kept], iou[kept]))
        start = stop
    return parts


def _mask_pairs(
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
    counts: NDArray[np.int64],
    found_cell: NDArray[np.int64],
    found: Sequence[Any] | NDArray[Any],
    truth: Sequence[Any] | NDArray[Any],
    is_crowd: NDArray[np.bool_],
    minimum: float,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    from effdense.data import run_lengths

    parts = []
    borders = np.flatnonzero(np.diff(found_cell[rows], prepend=-1, append=-1))
    for start, stop in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        others = range(int(first[start]), int(first[start] + counts[start]))
        iou = run_lengths.overlaps(
            [found[i] for i in rows[start:stop].tolist()],
            [truth[j] for j in others],
            is_crowd[others.start : others.stop],
        )
        detection, other = np.nonzero(iou >= minimum)
        parts.append((rows[start + detection], others.start + other, iou[detection, other]))
    return parts
