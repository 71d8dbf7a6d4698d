"""Numbers of the labels of a split, for reports and pictures: records in, flat arrays out.

Symbols: N pictures, M boxes without crowds, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.mask_findings import Look
from effdense.data.combining.joined_masks import JoinedMasks
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.records import DetectionRecords

# COCO's borders between small, medium and large, as areas in px (cocodataset.org, "Detection evaluation").
SIZE_BORDERS = (32**2, 96**2)
SIZE_NAMES = ("small", "medium", "large")


@dataclass(frozen=True, eq=False)
class LabelStatistics:
    """What a split's labels are like.

    Attributes:
        unit: what ``counts`` counts: "boxes", "pixels" (of decoded masks) or "pictures".
        names, category_ids: K classes.
        counts: (K,) boxes without crowds, pixels or pictures. pictures: (K,) pictures that hold the class.
        crowds: crowd regions. ignored: pixels that are no class.
        sizes: boxes small, medium, large by area. geometry: (M, 4) centre x, y, width, height as shares of the picture.
        aspects: (M,) width / height in px. objects_per_image: (N,).
    """

    unit: Literal["boxes", "pixels", "pictures"]
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    counts: NDArray[np.int64]
    pictures: NDArray[np.int64]
    crowds: int = 0
    ignored: int = 0
    sizes: tuple[int, int, int] = (0, 0, 0)
    geometry: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32), repr=False)
    aspects: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)
    objects_per_image: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-friendly numbers: per class, and of the split."""
        total = max(1, int(self.counts.sum()))
        rows = zip(self.category_ids, self.names, self.counts.tolist(), self.pictures.tolist(), strict=True)
        classes = [
            {
                "label": label,
                "id": number,
                "name": name,
                self.unit: count,
                "images": pictures,
                "share": round(count / total, 6),
            }
            for label, (number, name, count, pictures) in enumerate(rows)
        ]
        content: dict[str, Any] = {"unit": self.unit, self.unit: int(self.counts.sum()), "classes": classes}
        if self.unit == "boxes":
            content["crowds"] = self.crowds
            content["sizes"] = dict(zip(SIZE_NAMES, self.sizes))
        if self.unit == "pixels":
            content["ignored_pixels"] = self.ignored
        return content


def box_statistics(records: DetectionRecords) -> LabelStatistics:
    """Of boxes."""
    owners = np.repeat(np.arange(len(records)), np.diff(records.offsets))
    kept = ~records.is_crowd
    boxes, labels, owners = records.boxes[kept], records.labels[kept], owners[kept]
    classes = len(records.class_map)
    # One number per pair of class and picture: unique rows of two would take ten times as long.
    pairs = np.unique(labels.astype(np.int64) * max(1, len(records)) + owners)
    sides = boxes[:, 2:] - boxes[:, :2]
    pictures = records.sizes[owners][:, ::-1].astype(np.float32)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    bins = np.digitize(records.areas[kept], SIZE_BORDERS)
    small, medium, large = np.bincount(bins, minlength=3).tolist()
    return LabelStatistics(
        "boxes",
        records.class_map.names,
        records.class_map.category_ids,
        counts=np.bincount(labels, minlength=classes),
        pictures=np.bincount(pairs // max(1, len(records)), minlength=classes),
        crowds=int(records.is_crowd.sum()),
        sizes=(small, medium, large),
        geometry=np.concatenate([middle / pictures, sides / pictures], 1).astype(np.float32),
        aspects=(sides[:, 0] / np.maximum(sides[:, 1], 1e-6)).astype(np.float32),
        objects_per_image=np.bincount(owners, minlength=len(records)),
    )


def mask_statistics(records: SegmentationRecords, looks: Sequence[Look]) -> LabelStatistics:
    """Of the masks that were decoded."""
    pixels, holding = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for look in looks:
        if look.counts is not None:
            pixels[look.counts[:, 0]] += look.counts[:, 1]
            holding[look.counts[:, 0]] += 1
    values = list(records.coding.values)
    counts = pixels[values]
    return LabelStatistics(
        "pixels",
        records.class_map.names,
        records.class_map.category_ids,
        counts=counts,
        pictures=holding[values],
        ignored=int(pixels.sum() - counts.sum()),
    )


def joined_statistics(records: JoinedMasks, parts: Sequence[LabelStatistics]) -> LabelStatistics:
    """Of joined masks, from the statistics of their parts as those were read."""
    counts, pictures = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for part, table in zip(parts, records.tables, strict=True):
        labels = table[: len(part.counts)]
        np.add.at(counts, labels, part.counts)
        np.add.at(pictures, labels, part.pictures)
    classes = len(records.class_map)
    return LabelStatistics(
        "pixels",
        records.class_map.names,
        records.class_map.category_ids,
        counts=counts[:classes],
        pictures=np.minimum(pictures[:classes], len(records)),
        ignored=int(counts[classes:].sum()) + sum(part.ignored for part in parts),
    )


def folder_statistics(records: ClassificationRecords) -> LabelStatistics:
    """Of class folders."""
    counts = records.class_counts()
    return LabelStatistics(
        "pictures", records.class_map.names, records.class_map.category_ids, counts=counts, pictures=counts
    )
