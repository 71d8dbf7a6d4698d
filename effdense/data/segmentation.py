"""From a pair of files to a sample, and from samples to a batch: picture uint8 RGB, mask uint8 with 255 = ignore.

Randomness is fixed by (seed, epoch, index), as in ``dataset.py``; normalisation runs later, on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from effdense.data.dataset import checked_transforms, transformed
from effdense.data.image_io import PictureFile, PictureStore
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.readers.mask_values import code_color
from effdense.data.records import ClassMap
from effdense.data.transforms.geometry import MASK_FILL, MEAN_FILL
from effdense.data.transforms.pending import Pending, settled, stacked
from effdense.data.transforms.rectangles import pad_to_common
from effdense.data.transforms.staged import StagedTransforms
from effdense.errors import DataError, ShapeError


class _Truth(TypedDict, total=False):
    truth: NDArray[np.uint8]  # (H, W) the mask at original size, which no transform changes; of evaluation samples


class SegmentationSample(_Truth):
    """One picture with its mask on the way through the transforms."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    mask: NDArray[np.uint8]  # (H, W) 0..K-1, 255 = ignore
    index: int  # position in the data set
    original_size: tuple[int, int]  # height, width of the picture as annotated
    matrix: NDArray[np.float64]  # (3, 3) original px -> px of `image`, pixel-edge coordinates
    path: str


class SegmentationBatch(TypedDict):
    """A batch of B pictures of one size, or padded to one at the bottom and the right."""

    inputs: Tensor  # (B, 3, H, W) uint8 RGB, channels_last memory
    masks: Tensor  # (B, H, W) uint8, 255 = ignore
    indices: Tensor  # (B,) int64
    original_sizes: Tensor  # (B, 2) int64 height, width
    matrices: Tensor  # (B, 3, 3) float64 original px -> px of `inputs`
    paths: list[str]
    input_sizes: (
        Tensor  # (B, 2) int64 height, width px of `inputs` that came out of the transforms; the rest is padding
    )
    truths: list[Tensor]  # in evaluation (H, W) uint8 at original size, 255 = ignore; else empty


SegmentationTransform = Callable[[SegmentationSample, np.random.Generator], SegmentationSample]


class SegmentationDataset(Dataset[SegmentationSample]):
    """Samples of one split.

    Args:
        records: from a reader such as ``read_mask_folder``.
        transforms: called in turn with (sample, generator); each returns a new sample. :class:`StagedTransforms` are
            those of the sample's epoch.
        seed: of samples asked for by plain index (as epoch 0); a :class:`SampleIndex` brings its own seed and epoch.
        training: False adds the mask at original size, ``truth``, so that evaluation decodes it once.
        store: what holds the bytes of the pictures; None reads the files.

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
        store: PictureStore | None = None,
    ) -> None:
        self.records = records
        self.transforms = checked_transforms(transforms, seed)
        self.seed = seed
        self.training = training
        self.store = store

    @property
    def class_map(self) -> ClassMap:
        """Names behind the labels, and the values that the mask files have for them."""
        return self.records.class_map

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> SegmentationSample:
        return cast(SegmentationSample, settled(transformed(self, index)))

    def __getitems__(self, indices: Sequence[int]) -> list[SegmentationSample]:
        """Samples of a batch, which torch's loader asks for; their pictures are made by the collate function."""
        return [cast(SegmentationSample, transformed(self, index)) for index in indices]

    def load_mask(self, index: int) -> NDArray[np.uint8]:
        """Truth of a picture at its original size: (H, W) uint8, 0..K-1 and 255 = ignore, whatever the file's values.

        Raises: DataError for a mask that cannot be read or holds other values.
        """
        fetch = getattr(self.store, "read_mask", None)  # caches have it
        mask = self.records.read_mask(index, None if fetch is None else fetch(index, self.records.mask_path(index)))
        if mask.unknown:
            shown = ", ".join(
                f"{list(code_color(value)) if mask.is_color else value}: {count} px"
                for value, count in sorted(mask.unknown.items())[:6]
            )
            coding = self.records.coding
            expected = (
                "the colours of the classes"
                if mask.is_color
                else f"{list(coding.values)} and {list(coding.ignore_values)} for ignore"
            )
            raise DataError(
                f"{self.records.mask_path(index)}: the mask holds {'colours' if mask.is_color else 'values'} that are "
                f"no class ({shown}); expected are {expected}. "
                "check_masks finds every such file and says the likely reason."
            )
        return mask.labels

    def load(self, index: int) -> SegmentationSample:
        """The sample before any transform: decoded picture and mask, identity matrix."""
        return settled(self.pending(index))

    def pending(self, index: int) -> SegmentationSample:
        """The same with a picture that is not decoded yet; the mask is."""
        record = self.records[index]
        mask = self.load_mask(index)
        size = (mask.shape[0], mask.shape[1])
        mismatch = (
            f"its mask {record.mask_path.name} is {size[1]}x{size[0]} (width x height). "
            "Resize the mask with nearest neighbours."
        )
        sample = SegmentationSample(
            image=cast(Any, Pending.of(PictureFile(record.path, size, mismatch, index, self.store))),
            mask=cast(Any, Pending.of(mask)),
            index=index,
            original_size=size,
            matrix=np.eye(3),
            path=str(record.path),
        )
        # A copy: without transforms `mask` is the array itself, and what changes one would change the other.
        return sample if self.training else SegmentationSample(**sample, truth=mask.copy())

    def __repr__(self) -> str:
        steps = "".join(f"\n  {t!r}" for t in self.transforms)
        use = "training" if self.training else "evaluation"
        return f"SegmentationDataset({len(self)} images, {len(self.class_map)} classes, {use}){steps}"


def collate_segmentation(samples: Sequence[SegmentationSample]) -> SegmentationBatch:
    """Stack samples; the ``collate_fn`` of segmentation loaders.

    Evaluation samples of different sizes are padded at the bottom and the right, with the mean colour and 255, to the
    largest height and width; ``matrices`` stay as they are and ``input_sizes`` says where the padding begins. So are
    training samples of ``ResizeFit``.

    Raises:
        ShapeError: no samples, or training samples of different sizes (names the files: a ``ResizePad`` is missing).
    """
    if not samples:
        raise ShapeError("collate_segmentation needs at least one sample, got none.")
    truths = [torch.from_numpy(s["truth"]) for s in samples if "truth" in s]
    if not truths:
        samples = pad_to_common(samples)
    images, masks = [s["image"] for s in samples], [s["mask"] for s in samples]
    shapes = [image.shape for image in images]
    if len(set(shapes)) > 1:
        if len(truths) < len(samples):
            other = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise ShapeError(
                f"All pictures of a batch must have one size, got {shapes[0]} for {samples[0]['path']} and "
                f"{shapes[other]} for {samples[other]['path']}. End the transforms with one that fixes the size, such "
                "as ResizePad."
            )
        size = (max(shape[0] for shape in shapes), max(shape[1] for shape in shapes))
        settle = [settled(s) for s in samples]
        images = [_padded(s["image"], size, MEAN_FILL) for s in settle]
        masks = [_padded(s["mask"], size, MASK_FILL) for s in settle]
    return SegmentationBatch(
        inputs=torch.from_numpy(stacked(images)).permute(0, 3, 1, 2),
        masks=torch.from_numpy(stacked(masks)),
        indices=torch.tensor([s["index"] for s in samples], dtype=torch.int64),
        original_sizes=torch.tensor([s["original_size"] for s in samples], dtype=torch.int64),
        matrices=torch.from_numpy(np.stack([s["matrix"] for s in samples]).astype(np.float64)),
        paths=[s["path"] for s in samples],
        input_sizes=torch.tensor([shape[:2] for shape in shapes], dtype=torch.int64),
        truths=truths,
    )


def _padded(picture: NDArray[np.uint8], size: tuple[int, int], fill: int | tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture top left on a canvas of ``size`` (height, width)."""
    below, right = size[0] - picture.shape[0], size[1] - picture.shape[1]
    value = fill if isinstance(fill, tuple) else (fill,)
    return cast(NDArray[np.uint8], cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=value))
