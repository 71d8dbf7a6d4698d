"""Which sample comes next: a training order that no number of workers changes, an evaluation order without copies.

Both samplers run in the main process and hand out plain indices, so prefetching cannot change the order either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
from torch.utils.data import Sampler

from effdense.errors import ConfigError


class SampleIndex(int):
    """A dataset index that carries the (seed, epoch) its random generator is made from; an ``int`` everywhere else."""

    seed: int
    epoch: int

    def __new__(cls, index: int, seed: int, epoch: int) -> SampleIndex:
        self = super().__new__(cls, index)
        self.seed = seed
        self.epoch = epoch
        return self

    def __reduce__(self) -> tuple[type[SampleIndex], tuple[int, int, int]]:
        return SampleIndex, (int(self), self.seed, self.epoch)

    def __repr__(self) -> str:
        return f"SampleIndex({int(self)}, seed={self.seed}, epoch={self.epoch})"


def _check_ranks(rank: int, world_size: int) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError(f"Expected 0 <= rank < world_size, got rank {rank} of world_size {world_size}.")


class TrainSampler(Sampler[SampleIndex]):
    """Shuffled passes over the data set, dealt out to the ranks like cards.

    The order of an epoch is one permutation made from (seed, epoch); rank r takes every world_size-th index from r on,
    so the set of samples in a global step does not depend on how many ranks share it. The order is lengthened by its
    own start until every rank has the same count, which keeps ranks in step.

    Args:
        dataset: anything with a length.
        seed: non-negative; also travels in each :class:`SampleIndex` to the sample's own random generator.
        shuffle: False gives 0, 1, 2, ... in every epoch.
        rank, world_size: this process among how many.
        start: samples of this rank to leave out of the first pass, to resume in mid-epoch; later epochs are whole.
    """

    def __init__(
        self, dataset: Sized, *, seed: int, shuffle: bool = True, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> None:
        _check_ranks(rank, world_size)
        if len(dataset) == 0:
            raise ConfigError("A TrainSampler needs at least one sample, the data set is empty.")
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}.")
        self.size = len(dataset)
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
        order = np.arange(self.size)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        order = np.resize(order, self.per_rank * self.world_size)
        seed, epoch = self.seed, self.epoch
        for index in order[self.rank :: self.world_size][self.start :].tolist():
            yield SampleIndex(index, seed, epoch)


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
