"""Ground truth and detections as flat columns, what every score of boxes and masks is computed from.

Ids are those of the annotation file (image ids, category ids), boxes are x, y, width, height in float64 px of the
original image, as COCO has them. Symbols: N images, K categories, M ground truths, D detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from effdense.data.records import DetectionRecords


@dataclass(frozen=True, eq=False)
class Truth:
    """Checked ground truth, rows in the order of the file. Masks only where mask overlap is asked for."""

    name: str  # what to call it in messages
    image_ids: NDArray[np.int64]  # (N,) all images, ascending
    category_ids: NDArray[np.int64]  # (K,) ascending
    class_names: tuple[str, ...]  # (K,)
    image: NDArray[np.int64] = field(repr=False)  # (M,) image id
    category: NDArray[np.int64] = field(repr=False)  # (M,) category id
    xywh: NDArray[np.float64] = field(repr=False)  # (M, 4)
    area: NDArray[np.float64] = field(repr=False)  # (M,) px, by which sizes are told apart
    is_crowd: NDArray[np.bool_] = field(repr=False)  # (M,)
    rle: Sequence[Any] | None = field(default=None, repr=False)  # (M,) compressed run lengths of the masks
    file_names: tuple[str, ...] | None = field(default=None, repr=False)  # (N,) in the order of image_ids

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def from_coco(
        cls,
        source: str | Path | Mapping[str, Any],
        *,
        masks: bool = False,
        category_ids: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> Truth:
        """Read a COCO annotation file as pycocotools would: float64, nothing clipped, nothing dropped.

        Args:
            source: its path, or its content, which is left unchanged. Where they are missing, ``iscrowd`` is 0 and
                ``area`` the box area. Annotation ids are not read, so 0 or shared ones do no harm.
            masks: also read ``segmentation`` (polygons or run lengths); needs the width and height of the images.
            category_ids: keep only these classes and their annotations.

        Raises:
            DataError: not JSON, missing keys, repeated ids, unknown ids, numbers that are none or not finite.
        """
        from effdense.evaluation.coco_truth import read_truth

        return read_truth(source, masks=masks, category_ids=category_ids)

    @classmethod
    def from_records(cls, records: DetectionRecords, *, masks: bool = False) -> Truth:
        """Ground truth of records of any format: their boxes (float32, inside the image) and annotated areas.

        Raises:
            DataError: ``masks`` of records that were read without outlines, or two images that share an id.
        """
        from effdense.evaluation.coco_truth import truth_of_records

        return truth_of_records(records, masks=masks)

    def on(self, image_ids: NDArray[np.int64]) -> Truth:
        """The same on these images only (ascending, known)."""
        if len(image_ids) == len(self.image_ids):
            return self
        files = self.file_names
        if files is not None:
            files = tuple(files[i] for i in np.searchsorted(self.image_ids, image_ids).tolist())
        return replace(self.where(np.isin(self.image, image_ids)), image_ids=image_ids, file_names=files)

    def where(self, kept: NDArray[np.bool_]) -> Truth:
        """The same with only those ground truths; all images and classes stay."""
        rows = np.flatnonzero(kept)
        return replace(
            self,
            image=self.image[rows],
            category=self.category[rows],
            xywh=self.xywh[rows],
            area=self.area[rows],
            is_crowd=self.is_crowd[rows],
            rle=None if self.rle is None else [self.rle[i] for i in rows.tolist()],
        )


@dataclass(frozen=True, eq=False)
class Found:
    """Checked detections, in the order they came."""

    image: NDArray[np.int64] = field(repr=False)  # (D,) image id
    category: NDArray[np.int64] = field(repr=False)  # (D,) category id
    xywh: NDArray[np.float64] = field(repr=False)  # (D, 4)
    score: NDArray[np.float64] = field(repr=False)  # (D,)
    rle: Sequence[Any] | None = field(default=None, repr=False)  # (D,)

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def of(
        cls,
        detections: Found | Sequence[Mapping[str, Any]] | NDArray[Any] | str | Path,
        truth: Truth | None = None,
        *,
        masks: bool = False,
    ) -> Found:
        """Detections from COCO result dicts, an (n, 7) array of image_id, x, y, w, h, score, category_id, or the path
        of a COCO result JSON.

        Args:
            detections: see above; a ``Found`` is only checked.
            truth: check that every image and category id is known there, and keep all of them.
            masks: read ``segmentation`` (compressed run lengths) too.

        Raises:
            DataError: a missing key, an array that is not (n, 7), numbers that are not finite, or unknown ids.
        """
        from effdense.evaluation.coco_inputs import check_known, read_found

        found = read_found(detections, masks=masks)
        if truth is not None:
            check_known(found, truth)
        return found

    def take(self, rows: NDArray[Any]) -> Found:
        """Those at these positions, or where a mask is True."""
        positions = np.arange(len(self))[rows]
        return Found(
            image=self.image[positions],
            category=self.category[positions],
            xywh=self.xywh[positions],
            score=self.score[positions],
            rle=None if self.rle is None else [self.rle[i] for i in positions.tolist()],
        )
