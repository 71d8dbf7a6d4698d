"""Which sample comes next: a training order that no number of workers changes, an evaluation order without copies.

Both samplers run in the main process and hand out plain indices, so prefetching cannot change the order either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from effdense.errors import ConfigError


class SampleIndex(int):
    """A dataset index that carries what its random generator is made from; an ``int`` everywhere else.

    Attributes: ``seed``, ``epoch``, and ``repeat``: how often this epoch has had the same index before.
    """

    seed: int
    epoch: int
    repeat: int

    def __new__(cls, index: int, seed: int, epoch: int, repeat: int = 0) -> SampleIndex:
        self = super().__new__(cls, index)
        self.seed = seed
        self.epoch = epoch
        self.repeat = repeat
        return self

    def __reduce__(self) -> tuple[type[SampleIndex], tuple[int, int, int, int]]:
        return SampleIndex, (int(self), self.seed, self.epoch, self.repeat)

    def __repr__(self) -> str:
        again = f", repeat={self.repeat}" if self.repeat else ""
        return f"SampleIndex({int(self)}, seed={self.seed}, epoch={self.epoch}{again})"


def _check_ranks(rank: int, world_size: int) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError(f"Expected 0 <= rank < world_size, got rank {rank} of world_size {world_size}.")


class TrainSampler(Sampler[SampleIndex]):
    """Shuffled passes over the data set, dealt out to the ranks like cards.

    The order of an epoch is one permutation made from (seed, epoch); rank r takes every world_size-th index from r on,
    so the set of samples in a global step does not depend on how many ranks share it. The order is lengthened by its
    own start until every rank has the same count, which keeps ranks in step.

    With ``counts`` some samples come more often than others: in each epoch sample i is drawn ``counts[i]`` times on
    average, and never more or less than that rounded up or down. The length of an epoch is the sum of the counts,
    rounded down, and the same in every epoch. Two draws of one sample differ in :class:`SampleIndex` ``repeat``.

    Args:
        dataset: anything with a length.
        seed: non-negative; also travels in each :class:`SampleIndex` to the sample's own random generator.
        shuffle: False gives 0, 1, 2, ... in every epoch.
        rank, world_size: this process among how many.
        start: samples of this rank to leave out of the first pass, to resume in mid-epoch; later epochs are whole.
        counts: (len(dataset),) how often an epoch shall have each sample, as from ``balance``; None for once each.
            Needs ``shuffle``.
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        counts: NDArray[np.float64] | None = None,
    ) -> None:
        _check_ranks(rank, world_size)
        if len(dataset) == 0:
            raise ConfigError("A TrainSampler needs at least one sample, the data set is empty.")
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}.")
        self.counts = None if counts is None else _checked_counts(counts, len(dataset), shuffle)
        self.size = len(dataset) if self.counts is None else int(self.counts.sum() + 1e-6)
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.per_rank = -(-self.size // world_size)
        if not 0 <= start < self.per_rank:
            raise ConfigError(f"start must be in 0..{self.per_rank - 1} (samples per rank and epoch), got {start}.")
        self.start = start
        self._begun = False

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; after the first pass this also clears ``start``."""
        if epoch < 0:
            raise ConfigError(f"epoch must not be negative, got {epoch}.")
        if self._begun and epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def __len__(self) -> int:
        return self.per_rank - self.start

    def __iter__(self) -> Iterator[SampleIndex]:
        self._begun = True
        generator = np.random.default_rng([self.seed, self.epoch])
        repeats = None
        if self.counts is not None:
            order = np.resize(_drawn(self.counts, self.size, generator), self.per_rank * self.world_size)
            repeats = _repeats(order)
        else:
            order = np.arange(self.size)
            if self.shuffle:
                generator.shuffle(order)
            order = np.resize(order, self.per_rank * self.world_size)
        mine = slice(self.rank, None, self.world_size)
        again = np.zeros(len(order), np.int64)[mine] if repeats is None else repeats[mine]
        seed, epoch = self.seed, self.epoch
        for index, repeat in zip(order[mine][self.start :].tolist(), again[self.start :].tolist(), strict=True):
            yield SampleIndex(index, seed, epoch, repeat)


def _checked_counts(counts: NDArray[np.float64], size: int, shuffle: bool) -> NDArray[np.float64]:
    array = np.asarray(counts, np.float64)
    if array.shape != (size,) or not np.isfinite(array).all() or (array < 0).any() or array.sum() < 1:
        raise ConfigError(
            f"counts must be a number >= 0 for each of the {size} samples, at least 1 in all; got shape {array.shape}"
            + (f", {array.min():g} to {array.max():g}." if array.size else ".")
        )
    if not shuffle:
        raise ConfigError("a sampler that draws some samples more often shuffles; remove shuffle=False or the sampler.")
    return array


def _drawn(counts: NDArray[np.float64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """A shuffled order of ``size`` draws with ``counts`` of each sample on average.

    Systematic sampling: samples are laid in random order on a line, each as long as its count, and every point at a
    common random distance behind a whole number is a draw.
    """
    line = generator.permutation(len(counts))
    ends = np.floor(np.cumsum(counts[line]) + generator.random()).astype(np.int64)
    times = np.diff(ends, prepend=0)
    over = int(times.sum()) - size
    if over > 0:  # a sum that is not whole: what was rounded up is left out, so that nothing comes less than it should
        rounded_up = np.flatnonzero(times > np.floor(counts[line] + 1e-9))
        times[generator.choice(rounded_up, min(over, len(rounded_up)), replace=False)] -= 1
    drawn = np.repeat(line, times)
    generator.shuffle(drawn)
    return np.resize(drawn, size)


def _repeats(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each place's index came before it."""
    by_index = np.argsort(order, kind="stable")
    values = order[by_index]
    first = np.concatenate([[True], values[1:] != values[:-1]])
    places = np.arange(len(order))
    repeats = np.empty(len(order), np.int64)
    repeats[by_index] = places - np.maximum.accumulate(np.where(first, places, 0))
    return repeats


class EvalSampler(Sampler[int]):
    """Every sample exactly once over all ranks, dealt out by whole batches.

    Rank r takes the r-th, (r + world_size)-th, ... batch of the one-process order, so each batch holds what it would
    hold in a one-process run and a score cannot depend on the number of ranks. Nothing is padded or repeated; a rank
    can have one batch less than another, or none. Use it with ``DataLoader(batch_size=batch_size, drop_last=False)``.
    """

    def __init__(self, dataset_size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        _check_ranks(rank, world_size)
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
        if dataset_size < 0:
            raise ConfigError(f"dataset_size must not be negative, got {dataset_size}.")
        self.dataset_size = dataset_size
        self.batch_size = batch_size
        self.starts = range(rank * batch_size, dataset_size, world_size * batch_size)

    def __len__(self) -> int:
        if not self.starts:
            return 0
        last = min(self.batch_size, self.dataset_size - self.starts[-1])
        return (len(self.starts) - 1) * self.batch_size + last

    def __iter__(self) -> Iterator[int]:
        for start in self.starts:
            yield from range(start, min(start + self.batch_size, self.dataset_size))
