"""A training order that touches few shards at a time: for sets whose shards are fetched, or lie on slow disks."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np

from effdense.data.sampler import SampleIndex, TrainSampler
from effdense.data.storage.sharded import shard_numbers
from effdense.errors import ConfigError


class ShardShuffle(TrainSampler):
    """Shards in random order, the samples of ``buffer_shards`` at a time mixed.

    The order of an epoch is made from (seed, epoch) alone: shards are shuffled, laid end to end, and the samples of
    every group of ``buffer_shards`` are shuffled among each other. Rank r takes every world_size-th sample from r on,
    as in :class:`TrainSampler`: how many ranks share it changes nothing, and all ranks of a machine work on the same
    few shards.

    Args:
        dataset: its ``records`` are those of shards.
        buffer_shards: shards open at a time. More mix better: with shards of 250 MB and 8 of them, 2 GB of pictures.
        seed, rank, world_size, start: as in :class:`TrainSampler`.

    Raises: ConfigError where the pictures are not in shards, or for options that cannot be used.
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        seed: int,
        buffer_shards: int = 8,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        super().__init__(dataset, seed=seed, shuffle=True, rank=rank, world_size=world_size, start=start)
        if type(buffer_shards) is not int or buffer_shards < 1:
            raise ConfigError(f"buffer_shards must be a whole number of at least 1, got {buffer_shards!r}.")
        numbers = shard_numbers(getattr(dataset, "records", dataset))
        if numbers is None:
            raise ConfigError(
                "ShardShuffle is for data sets in shards (ShardedDetection and the like); pictures in folders are "
                "shuffled without it."
            )
        by_shard = np.argsort(numbers, kind="stable")
        self.buffer_shards = buffer_shards
        self.members = np.split(by_shard, np.cumsum(np.bincount(numbers))[:-1])  # samples of each shard

    def order(self, epoch: int) -> np.ndarray:
        """(N,) all samples in the order of an epoch, before ranks share it."""
        generator = np.random.default_rng([self.seed, epoch])
        shards = generator.permutation(len(self.members))
        groups = []
        for first in range(0, len(shards), self.buffer_shards):
            group = np.concatenate([self.members[shard] for shard in shards[first : first + self.buffer_shards]])
            generator.shuffle(group)
            groups.append(group)
        return np.concatenate(groups)

    def __iter__(self) -> Iterator[SampleIndex]:
        self._begun = True
        order = np.resize(self.order(self.epoch), self.per_rank * self.world_size)
        seed, epoch = self.seed, self.epoch
        for index in order[self.rank :: self.world_size][self.start :].tolist():
            yield SampleIndex(index, seed, epoch)
