"""Rectangular batches: pictures resized to fit without padding to a square, batched with others of like aspect.

A 640x427 picture letterboxed to 512x512 is one third padding; in a batch of landscape pictures at 384x512 it is a
tenth. What a network sees of a picture is the same but for the padding around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from effdense.data.transforms.geometry import MASK_FILL, MEAN_FILL, AnySample, Interpolation, apply_window, check_size
from effdense.data.transforms.options import checked_fill, checked_interpolation
from effdense.data.transforms.pending import Pending
from effdense.errors import ConfigError


@dataclass(frozen=True)
class ResizeFit:
    """Resize to fit, aspect kept, top left on the smallest canvas of multiples that holds it: ``ResizePad`` without the
    square. Batches of such samples are padded to their largest (:func:`pad_to_common`).

    Args:
        size: px that the picture fits in, one number for a square or (height, width).
        multiple: sides of the result are multiples of it, px: 128 for a detector with levels up to 7, 32 for others.
        fill: RGB beyond the picture (a mask: 255).
        interpolation: see ``geometry.resize_window``.

    Raises: ConfigError for values out of range.
    """

    lazy: ClassVar[bool] = True

    size: int | tuple[int, int]
    multiple: int = 128
    fill: tuple[int, int, int] = MEAN_FILL
    interpolation: Interpolation = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_size(self.size))
        if type(self.multiple) is not int or self.multiple < 1:
            raise ConfigError(f"ResizeFit.multiple must be a whole number of px of at least 1, got {self.multiple!r}.")
        object.__setattr__(self, "fill", checked_fill("ResizeFit", self.fill))
        checked_interpolation("ResizeFit", self.interpolation)

    def __call__(self, sample: AnySample, generator: np.random.Generator | None = None) -> AnySample:
        size = check_size(self.size)
        height, width = sample["image"].shape[:2]
        scale = min(size[0] / height, size[1] / width)
        resized = (max(1, round(height * scale)), max(1, round(width * scale)))
        canvas = (_up(resized[0], self.multiple), _up(resized[1], self.multiple))
        fitted: Any = apply_window(
            sample, (0, 0, width, height), resized, canvas, fill=self.fill, interpolation=self.interpolation
        )
        return {**fitted, "rectangular": True}  # type: ignore[return-value]


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def pad_to_common(samples: Sequence[Any], fill: tuple[int, int, int] = MEAN_FILL) -> Sequence[Any]:
    """Samples of ``ResizeFit`` with their pictures and masks padded, right and below, to the largest of them.

    Others come back as they are, so that a collate function still finds pictures that nobody has made one size.
    """
    shapes = {tuple(s["image"].shape[:2]) for s in samples}
    if len(shapes) < 2 or not all(s.get("rectangular") for s in samples):
        return samples
    size = (max(shape[0] for shape in shapes), max(shape[1] for shape in shapes))
    padded = []
    for sample in samples:
        changes = {"image": _padded(sample["image"], size, fill)}
        if "mask" in sample:
            changes["mask"] = _padded(sample["mask"], size, (MASK_FILL,))
        padded.append({**sample, **changes})
    return padded


def _padded(picture: Any, size: tuple[int, int], fill: tuple[int, ...]) -> Any:
    """A picture top left on a canvas of ``size``; one that is still pending is made there later, with its own fill."""
    if isinstance(picture, Pending):
        if picture.window is not None and not any(picture.flips) and not picture.clips:
            return replace(picture, size=size)
        picture = picture.pixels()
    below, right = size[0] - picture.shape[0], size[1] - picture.shape[1]
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=fill)


def aspect_ratios(records: Any) -> NDArray[np.float64]:
    """(N,) width / height of the pictures of a split.

    Raises: ConfigError for records that do not know the sizes of their pictures.
    """
    sizes = getattr(records, "sizes", None)
    if sizes is None and hasattr(records, "size"):
        sizes = np.array([records.size(index) for index in range(len(records))], np.int64).reshape(-1, 2)
    if sizes is None:
        raise ConfigError(
            f"group_by_aspect needs the sizes of the pictures, which {type(records).__name__} do not hold; remove it."
        )
    return np.asarray(sizes[:, 1] / sizes[:, 0], np.float64)


class AspectGroupedSampler(Sampler[Any]):
    """The indices of a training sampler in another order: batches of like aspect, in random order.

    From each ``pool`` batches of the sampler's own order, sorted by aspect, batches are cut and shuffled. So each epoch
    has the samples that it had, and how they meet stays random. Ranks keep their shares; their batches need not have
    one shape. What is left at the end of an epoch is its last, maybe smaller, batch.

    Args:
        sampler: of this rank; has a length and, for new epochs, ``set_epoch``.
        aspects: (N,) width / height of every sample of the data set.
        batch_size: of the loader. seed: non-negative. pool: batches that are sorted together.
    """

    def __init__(
        self, sampler: Any, aspects: NDArray[np.float64], batch_size: int, *, seed: int = 0, pool: int = 32
    ) -> None:
        if batch_size < 1 or pool < 1:
            raise ConfigError(f"batch_size and pool must be at least 1, got {batch_size} and {pool}.")
        self.sampler = sampler
        self.aspects = np.asarray(aspects, np.float64)
        self.batch_size = batch_size
        self.seed = seed
        self.pool = pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        order = list(self.sampler)
        generator = np.random.default_rng([self.seed, self.epoch, 1])
        span = self.pool * self.batch_size
        # The short batch has to be the last, so its samples are drawn before the others are sorted.
        whole = len(order) // self.batch_size * self.batch_size
        for start in range(0, whole, span):
            part = order[start : min(start + span, whole)]
            by_aspect = np.argsort(self.aspects[[int(i) for i in part]], kind="stable")
            batches = by_aspect.reshape(-1, self.batch_size)
            for batch in generator.permutation(batches):
                yield from (part[i] for i in batch)
        yield from order[whole:]


class AspectEvalSampler(Sampler[int]):
    """Every sample exactly once over all ranks, sorted by aspect and dealt out by whole batches.

    As :class:`EvalSampler`, but for the order: each batch holds what it would hold in a one-process run, and nothing
    is padded or repeated. Scores do not depend on it, as results are sorted by index.

    Args:
        aspects: (N,) width / height of every sample. batch_size: of the loader.
        rank, world_size: this process among how many.
    """

    def __init__(self, aspects: NDArray[np.float64], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or world_size < 1 or not 0 <= rank < world_size:
            raise ConfigError(
                f"Expected batch_size >= 1 and 0 <= rank < world_size, got {batch_size}, {rank} and {world_size}."
            )
        order = np.argsort(np.asarray(aspects, np.float64), kind="stable").tolist()
        starts = range(rank * batch_size, len(order), world_size * batch_size)
        self.order: list[int] = [index for start in starts for index in order[start : start + batch_size]]

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)
