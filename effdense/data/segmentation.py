"""From a pair of files to a sample, and from samples to a batch: picture uint8 RGB, mask uint8 with 255 = ignore.

Randomness is fixed by (seed, epoch, index), as in ``dataset.py``; normalisation runs later, on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from effdense.data.dataset import checked_transforms, transformed
from effdense.data.image_io import read_image
from effdense.data.mask_check import read_index_image
from effdense.data.mask_folder import IGNORE, SegmentationRecords
from effdense.data.records import ClassMap
from effdense.data.staged import StagedTransforms
from effdense.errors import DataError, ShapeError


class SegmentationSample(TypedDict):
    """One picture with its mask on the way through the transforms."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    mask: NDArray[np.uint8]  # (H, W) 0..K-1, 255 = ignore
    index: int  # position in the data set
    original_size: tuple[int, int]  # height, width of the picture as annotated
    matrix: NDArray[np.float64]  # (3, 3) original px -> px of `image`, pixel-edge coordinates
    path: str


class SegmentationBatch(TypedDict):
    """A batch of B pictures of one size."""

    inputs: Tensor  # (B, 3, H, W) uint8 RGB, channels_last memory
    masks: Tensor  # (B, H, W) uint8, 255 = ignore
    indices: Tensor  # (B,) int64
    original_sizes: Tensor  # (B, 2) int64 height, width
    matrices: Tensor  # (B, 3, 3) float64 original px -> px of `inputs`
    paths: list[str]


SegmentationTransform = Callable[[SegmentationSample, np.random.Generator], SegmentationSample]


class SegmentationDataset(Dataset[SegmentationSample]):
    """Samples of one split.

    Args:
        records: from a reader such as ``read_mask_folder``.
        transforms: called in turn with (sample, generator); each returns a new sample. :class:`StagedTransforms` are
            those of the sample's epoch.
        seed: of samples asked for by plain index (as epoch 0); a :class:`SampleIndex` brings its own seed and epoch.
        training: for the record; samples are the same.

    Raises (on access):
        DataError: picture or mask is missing, unreadable, of another size than the other, or the mask holds a value
            that is no class; the message names the file.
    """

    def __init__(
        self,
        records: SegmentationRecords,
        transforms: Sequence[SegmentationTransform] | StagedTransforms,
        *,
        seed: int = 0,
        training: bool,
    ) -> None:
        self.records = records
        self.transforms = checked_transforms(transforms, seed)
        self.seed = seed
        self.training = training
        self._labels, self._known = _value_tables(records)

    @property
    def class_map(self) -> ClassMap:
        """Names behind the labels, and the values that the mask files have for them."""
        return self.records.class_map

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> SegmentationSample:
        return cast(SegmentationSample, transformed(self, index))

    def load_mask(self, index: int) -> NDArray[np.uint8]:
        """Truth of a picture at its original size: (H, W) uint8, 0..K-1 and 255 = ignore, whatever the file's values.

        Raises: DataError for a mask that cannot be read or holds other values.
        """
        path = self.records.mask_path(index)
        mask = read_index_image(str(path))
        if not cv2.LUT(mask, self._known).all():
            values, counts = np.unique(mask[self._known[mask] == 0], return_counts=True)
            shown = ", ".join(f"{value}: {count} px" for value, count in zip(values[:6].tolist(), counts.tolist()))
            raise DataError(
                f"{path}: the mask holds values that are no class ({shown}); expected are "
                f"{list(self.class_map.category_ids)} and {self.records.ignore_index} for ignore. "
                "check_masks finds every such file and says the likely reason."
            )
        return cast(NDArray[np.uint8], cv2.LUT(mask, self._labels))

    def load(self, index: int) -> SegmentationSample:
        """The sample before any transform: decoded picture and mask, identity matrix."""
        record = self.records[index]
        mask = self.load_mask(index)
        size = (mask.shape[0], mask.shape[1])
        image = read_image(record.path, expected_size=size)
        if image.shape[:2] != size:
            raise DataError(
                f"{record.path}: the picture is {image.shape[1]}x{image.shape[0]} but its mask {record.mask_path.name} "
                f"is {size[1]}x{size[0]} (width x height). Resize the mask with nearest neighbours."
            )
        return SegmentationSample(
            image=image, mask=mask, index=index, original_size=size, matrix=np.eye(3), path=str(record.path)
        )

    def __repr__(self) -> str:
        steps = "".join(f"\n  {t!r}" for t in self.transforms)
        use = "training" if self.training else "evaluation"
        return f"SegmentationDataset({len(self)} images, {len(self.class_map)} classes, {use}){steps}"


def _value_tables(records: SegmentationRecords) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tables over the 256 values of a mask file: its label, and whether it is one."""
    labels, known = np.full(256, IGNORE, np.uint8), np.zeros(256, np.uint8)
    values = list(records.class_map.category_ids)
    labels[values] = np.arange(len(values))
    known[[*values, records.ignore_index]] = 1
    return labels, known


def collate_segmentation(samples: Sequence[SegmentationSample]) -> SegmentationBatch:
    """Stack samples; the ``collate_fn`` of segmentation loaders.

    Raises:
        ShapeError: no samples, or pictures of different sizes (names the files: a ``ResizePad`` is missing).
    """
    if not samples:
        raise ShapeError("collate_segmentation needs at least one sample, got none.")
    shapes = [s["image"].shape for s in samples]
    if len(set(shapes)) > 1:
        other = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
        raise ShapeError(
            f"All pictures of a batch must have one size, got {shapes[0]} for {samples[0]['path']} and {shapes[other]} "
            f"for {samples[other]['path']}. End the transforms with one that fixes the size, such as ResizePad."
        )
    return SegmentationBatch(
        inputs=torch.from_numpy(np.stack([s["image"] for s in samples])).permute(0, 3, 1, 2),
        masks=torch.from_numpy(np.stack([s["mask"] for s in samples])),
        indices=torch.tensor([s["index"] for s in samples], dtype=torch.int64),
        original_sizes=torch.tensor([s["original_size"] for s in samples], dtype=torch.int64),
        matrices=torch.from_numpy(np.stack([s["matrix"] for s in samples]).astype(np.float64)),
        paths=[s["path"] for s in samples],
    )
