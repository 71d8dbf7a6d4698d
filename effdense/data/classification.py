"""From a labelled picture to a sample and from samples to a batch: decode, transforms, stack.

The picture stays uint8 RGB; normalisation and mixing run later, on the device. Randomness is fixed by
(seed, epoch, index), as in detection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from effdense.data.dataset import checked_transforms, transformed
from effdense.data.image_io import PictureData, PictureStore, read_bytes
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.records import ClassMap
from effdense.data.transforms.pending import Pending, settled, stacked
from effdense.data.transforms.staged import StagedTransforms
from effdense.errors import ShapeError


class ClassificationSample(TypedDict):
    """One picture with its class on the way through the transforms."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    label: int  # 0..K-1
    index: int  # position in the data set
    original_size: tuple[int, int]  # height, width of the picture as read
    path: str


class ClassificationBatch(TypedDict):
    """A batch of B pictures of one size."""

    inputs: Tensor  # (B, 3, H, W) uint8 RGB, channels_last memory
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64
    paths: list[str]


# Any: the geometry transforms take detection samples too.
ImageTransform = Callable[[Any, np.random.Generator], Any]


class ClassificationDataset(Dataset[ClassificationSample]):
    """Samples of one split.

    Args:
        records: from `read_image_folder`.
        transforms: called in turn with (sample, generator); each returns a new sample. :class:`StagedTransforms` are
            those of the sample's epoch.
        seed: of samples asked for by plain index (as epoch 0); a :class:`SampleIndex` brings its own seed and epoch.
        training: said in ``repr``; a picture and its class are the same in both uses.

    Raises (on access):
        DataError: the picture is missing or unreadable; the message names the file.
    """

    def __init__(
        self,
        records: ClassificationRecords,
        transforms: Sequence[ImageTransform] | StagedTransforms,
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
        """Names behind the labels."""
        return self.records.class_map

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> ClassificationSample:
        return cast(ClassificationSample, settled(transformed(self, index)))

    def __getitems__(self, indices: Sequence[int]) -> list[ClassificationSample]:
        """Samples of a batch, which torch's loader asks for; their pictures are made by the collate function."""
        return [cast(ClassificationSample, transformed(self, index)) for index in indices]

    def load(self, index: int) -> ClassificationSample:
        """The sample before any transform."""
        return settled(self.pending(index))

    def pending(self, index: int) -> ClassificationSample:
        """The same with a picture that is not decoded yet."""
        path = self.records.path(index)
        data = read_bytes(path) if self.store is None else self.store.read(index, path)
        image = Pending.of(data.copy() if isinstance(data, np.ndarray) else PictureData.of(path, data))
        return ClassificationSample(
            image=cast(Any, image),
            label=int(self.records.labels[index]),
            index=index,
            original_size=image.size,
            path=str(path),
        )

    def __repr__(self) -> str:
        steps = "".join(f"\n  {t!r}" for t in self.transforms)
        use = "training" if self.training else "evaluation"
        return f"ClassificationDataset({len(self)} images, {len(self.class_map)} classes, {use}){steps}"


def collate_classification(samples: Sequence[ClassificationSample]) -> ClassificationBatch:
    """Stack samples; the ``collate_fn`` of classification loaders.

    Raises:
        ShapeError: no samples, or pictures of different sizes (names the files: a crop or resize is missing).
    """
    if not samples:
        raise ShapeError("collate_classification needs at least one sample, got none.")
    shapes = [s["image"].shape for s in samples]
    if len(set(shapes)) > 1:
        other = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
        raise ShapeError(
            f"All pictures of a batch must have one size, got {shapes[0]} for {samples[0]['path']} and {shapes[other]} "
            f"for {samples[other]['path']}. Add a transform that fixes the size: RandomResizedCrop or CenterCrop."
        )
    return ClassificationBatch(
        inputs=torch.from_numpy(stacked([s["image"] for s in samples])).permute(0, 3, 1, 2),
        labels=torch.tensor([s["label"] for s in samples], dtype=torch.int64),
        indices=torch.tensor([s["index"] for s in samples], dtype=torch.int64),
        paths=[s["path"] for s in samples],
    )
