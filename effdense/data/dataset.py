"""From a record to a sample: decode, then geometry, with randomness fixed by (seed, epoch, index).

The picture stays uint8 RGB; normalisation and photometric changes run later, on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from effdense.data.image_io import read_image
from effdense.data.records import ClassMap, DetectionRecords
from effdense.data.sampler import SampleIndex
from effdense.data.staged import StagedTransforms
from effdense.errors import ConfigError, DataError


class Sample(TypedDict):
    """One picture with its boxes on the way through the transforms."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    boxes: NDArray[np.float32]  # (G, 4) xyxy px in the frame of `image`
    labels: NDArray[np.int64]  # (G,) 0..K-1
    image_id: int
    index: int  # position in the data set
    original_size: tuple[int, int]  # height, width of the picture as annotated
    matrix: NDArray[np.float64]  # (3, 3) original px -> px of `image`, pixel-edge coordinates
    path: str


Transform = Callable[[Sample, np.random.Generator], Sample]


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one sample: the same in every process, with any number of workers or ranks."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, index])))


def checked_transforms(transforms: Iterable[Any], seed: int) -> tuple[Any, ...] | StagedTransforms:
    """The transforms of a dataset of any task, if they can be called.

    Raises: ConfigError for one that cannot, or for a negative seed.
    """
    wrong = [t for t in transforms if not callable(t)]
    if wrong:
        raise ConfigError(f"transforms must be callables (sample, generator) -> sample, got {wrong[0]!r}.")
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}.")
    return transforms if isinstance(transforms, StagedTransforms) else tuple(transforms)


def transformed(dataset: Any, index: int) -> Any:
    """Sample ``index`` of a dataset of any task: loaded, then through the transforms of its epoch with its generator.

    Args:
        dataset: has ``load(position)``, ``transforms``, ``seed`` and a length.
        index: plain, or a :class:`SampleIndex` that brings seed and epoch.
    """
    seed, epoch = (index.seed, index.epoch) if isinstance(index, SampleIndex) else (dataset.seed, 0)
    position = range(len(dataset))[index]
    sample = dataset.load(position)
    generator = sample_generator(seed, epoch, position)
    steps = dataset.transforms.at(epoch) if isinstance(dataset.transforms, StagedTransforms) else dataset.transforms
    for transform in steps:
        sample = transform(sample, generator)
    return sample


def init_worker(worker_id: int) -> None:
    """``worker_init_fn`` for loaders: one OpenCV thread per worker, since the workers themselves fill the cores.

    0 and not 1: both mean one thread, but 1 sets up the pool, and waits for ever in a forked worker for the threads of
    a pool that its parent has used.
    """
    cv2.setNumThreads(0)


class DetectionDataset(Dataset[Sample]):
    """Samples of one split.

    Args:
        records: from a reader such as ``read_coco``.
        transforms: called in turn with (sample, generator); each returns a new sample. :class:`StagedTransforms` are
            those of the sample's epoch.
        seed: of samples asked for by plain index (as epoch 0); a :class:`SampleIndex` brings its own seed and epoch.
        training: leave crowd regions out of ``boxes`` (a loss must not treat a crowd as one object). Evaluation samples
            keep all boxes; which of them are crowds is in ``records``.

    Raises (on access):
        DataError: the picture is missing, unreadable or not of the annotated size; the message names the file.
    """

    def __init__(
        self,
        records: DetectionRecords,
        transforms: Sequence[Transform] | StagedTransforms,
        *,
        seed: int = 0,
        training: bool,
    ) -> None:
        self.records = records
        self.transforms = checked_transforms(transforms, seed)
        self.seed = seed
        self.training = training

    @property
    def class_map(self) -> ClassMap:
        """Names and category ids behind the labels."""
        return self.records.class_map

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return cast(Sample, transformed(self, index))

    def load(self, index: int) -> Sample:
        """The sample before any transform: decoded picture, boxes in original pixels, identity matrix."""
        record = self.records[index]
        size = (record.height, record.width)
        image = read_image(record.path, expected_size=size)
        if image.shape[:2] != size:
            raise DataError(
                f"{record.path}: the picture is {image.shape[1]}x{image.shape[0]} but its annotation says "
                f"{record.width}x{record.height} (width x height), so the boxes would not fit. "
                "Correct the annotation file or put the right picture in place."
            )
        keep = ~record.is_crowd if self.training else np.ones(len(record.boxes), bool)
        return Sample(
            image=image,
            boxes=record.boxes[keep],
            labels=record.labels[keep],
            image_id=record.image_id,
            index=index,
            original_size=size,
            matrix=np.eye(3),
            path=str(record.path),
        )

    def __repr__(self) -> str:
        steps = "".join(f"\n  {t!r}" for t in self.transforms)
        use = "training" if self.training else "evaluation"
        return f"DetectionDataset({len(self)} images, {len(self.class_map)} classes, {use}){steps}"
