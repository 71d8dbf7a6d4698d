"""From a record to a sample: geometry, then one decode and one warp, with randomness fixed by (seed, epoch, index).

Inside the chain of transforms the picture is pending (``pending.py``) until one of them needs pixels; a loader's batch
is decoded straight into its place in the batch. The picture stays uint8 RGB; normalisation and photometric changes run
later, on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from effdense.data.image_io import PictureFile, PictureStore
from effdense.data.records import ClassMap, DetectionRecords
from effdense.data.sampler import SampleIndex
from effdense.data.segments import ObjectMasks
from effdense.data.transforms.pending import Pending, settled
from effdense.data.transforms.staged import StagedTransforms
from effdense.errors import ConfigError


class _Outlines(TypedDict, total=False):
    object_masks: ObjectMasks  # outlines of the G objects, of records that were read with segments


class Sample(_Outlines):
    """One picture with its boxes on the way through the transforms.

    Inside a chain of lazy transforms ``image`` is a ``Pending`` of the same ``shape``.
    """

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    boxes: NDArray[np.float32]  # (G, 4) xyxy px in the frame of `image`
    labels: NDArray[np.int64]  # (G,) 0..K-1
    image_id: int
    index: int  # position in the data set
    original_size: tuple[int, int]  # height, width of the picture as annotated
    matrix: NDArray[np.float64]  # (3, 3) original px -> px of `image`, pixel-edge coordinates
    path: str


Transform = Callable[[Sample, np.random.Generator], Sample]


def sample_generator(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """The random generator of one sample: the same in every process, with any number of workers or ranks.

    Args:
        repeat: how often the epoch has had this sample before (samplers that draw some more often).
    """
    entropy = [seed, epoch, index, repeat] if repeat else [seed, epoch, index]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


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

    The picture may still be pending. A transform that is not ``lazy`` gets pixels; one with a method ``others(count,
    generator)`` gets, as a third argument, the samples of the indices that it returns, before any transform.

    Args:
        dataset: has ``pending(position)``, ``transforms``, ``seed`` and a length.
        index: plain, or a :class:`SampleIndex` that brings seed and epoch.
    """
    seed, epoch, repeat = dataset.seed, 0, 0
    if isinstance(index, SampleIndex):
        seed, epoch, repeat = index.seed, index.epoch, index.repeat
    position = range(len(dataset))[index]
    sample = dataset.pending(position)
    generator = sample_generator(seed, epoch, position, repeat)
    steps = dataset.transforms.at(epoch) if isinstance(dataset.transforms, StagedTransforms) else dataset.transforms
    for transform in steps:
        sample = apply(transform, sample, generator, dataset)
    return sample


def apply(transform: Any, sample: Any, generator: np.random.Generator, dataset: Any) -> Any:
    """One transform of a chain, see :func:`transformed`."""
    lazy = getattr(transform, "lazy", False)
    if not lazy:
        sample = settled(sample)
    if not hasattr(transform, "others"):
        return transform(sample, generator)
    others = [dataset.pending(i) for i in transform.others(len(dataset), generator)]
    return transform(sample, generator, others if lazy else [settled(other) for other in others])


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
        store: what holds the bytes of the pictures; None reads the files.

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
        store: PictureStore | None = None,
    ) -> None:
        self.records = records
        self.transforms = checked_transforms(transforms, seed)
        self.seed = seed
        self.training = training
        self.store = store

    @property
    def class_map(self) -> ClassMap:
        """Names and category ids behind the labels."""
        return self.records.class_map

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return cast(Sample, settled(transformed(self, index)))

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Samples of a batch, which torch's loader asks for; their pictures are made by the collate function."""
        return [cast(Sample, transformed(self, index)) for index in indices]

    def load(self, index: int) -> Sample:
        """The sample before any transform: decoded picture, boxes in original pixels, identity matrix."""
        return settled(self.pending(index))

    def pending(self, index: int) -> Sample:
        """The same with a picture that is not decoded yet."""
        record = self.records[index]
        size = (record.height, record.width)
        mismatch = (
            f"its annotation says {record.width}x{record.height} (width x height), so the boxes would not fit. "
            "Correct the annotation file or put the right picture in place."
        )
        chosen = ~record.is_crowd if self.training else np.ones(len(record.boxes), bool)
        sample = Sample(
            image=cast(Any, Pending.of(PictureFile(record.path, size, mismatch, index, self.store))),
            boxes=record.boxes[chosen],
            labels=record.labels[chosen],
            image_id=record.image_id,
            index=index,
            original_size=size,
            matrix=np.eye(3),
            path=str(record.path),
        )
        if record.segments is not None:
            sample["object_masks"] = ObjectMasks.at(record.segments, np.eye(3)).take(chosen)
        return sample

    def __repr__(self) -> str:
        steps = "".join(f"\n  {t!r}" for t in self.transforms)
        use = "training" if self.training else "evaluation"
        return f"DetectionDataset({len(self)} images, {len(self.class_map)} classes, {use}){steps}"
