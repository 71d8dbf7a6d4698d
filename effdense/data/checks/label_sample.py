"""Statistics of the labels a run trains on, in bounded time: all boxes and class folders, a sample of the masks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.label_statistics import (
    LabelStatistics,
    box_statistics,
    folder_statistics,
    joined_statistics,
    mask_statistics,
)
from effdense.data.checks.mask_check import look_at_masks
from effdense.data.combining.joined_masks import JoinedMasks
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.records import DetectionRecords

_STEP = 32  # masks between two looks at the clock


def sampled_statistics(records: Any, *, masks: int = 256, seconds: float = 1.0) -> tuple[LabelStatistics, int]:
    """Statistics of any split, and how many pictures they are of.

    Args:
        records: of detection, segmentation or classification.
        masks: decode at most so many, spread over the split. seconds: start no more of them after this time.
    """
    if isinstance(records, DetectionRecords):
        return box_statistics(records), len(records)
    if not isinstance(records, (SegmentationRecords, JoinedMasks)):
        return folder_statistics(records), len(records)
    # Every n-th first, then those between: wherever time runs out, the sample is spread.
    chosen = np.unique(np.linspace(0, len(records) - 1, min(masks, len(records))).round().astype(np.int64))
    strides = max(1, -(-len(chosen) // _STEP))
    start = time.monotonic()
    seen: list[NDArray[np.int64]] = []
    parts: list[LabelStatistics] = []
    for first in range(strides):
        if seen and time.monotonic() - start > seconds:
            break
        seen.append(chosen[first::strides])
        parts.append(_of_masks(records.subset(seen[-1])))
    return _summed(parts), sum(len(some) for some in seen)


def _of_masks(records: SegmentationRecords | JoinedMasks) -> LabelStatistics:
    """Of every mask of a split."""
    if isinstance(records, SegmentationRecords):
        return mask_statistics(records, look_at_masks(records))
    own = [part.subset(records.row_of[records.part_of == i]) for i, part in enumerate(records.parts)]
    return joined_statistics(records, [mask_statistics(part, look_at_masks(part)) for part in own])


def _summed(parts: list[LabelStatistics]) -> LabelStatistics:
    first = parts[0]
    return LabelStatistics(
        "pixels",
        first.names,
        first.category_ids,
        counts=np.sum([part.counts for part in parts], axis=0),
        pictures=np.sum([part.pictures for part in parts], axis=0),
        ignored=sum(part.ignored for part in parts),
    )
