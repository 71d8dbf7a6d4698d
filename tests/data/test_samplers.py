"""Samplers: the same training order for any number of ranks, and evaluation batches that ranks only share out."""

import pickle

import pytest
from torch.utils.data import DataLoader

from effdense.data.sampler import EvalSampler, SampleIndex, TrainSampler
from effdense.errors import ConfigError


def test_sample_index_is_an_int_that_remembers_its_epoch():
    index = SampleIndex(5, seed=3, epoch=2)
    assert index == 5 and [10, 11, 12, 13, 14, 15][index] == 15
    again = pickle.loads(pickle.dumps(index))
    assert (again, again.seed, again.epoch, type(again)) == (5, 3, 2, SampleIndex)


def test_without_shuffle_by_hand():
    ranks = [TrainSampler(range(5), seed=0, shuffle=False, rank=r, world_size=2) for r in range(2)]
    assert [list(r) for r in ranks] == [[0, 2, 4], [1, 3, 0]]  # six places, so the order starts again
    assert [len(r) for r in ranks] == [3, 3]


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 4), (3, 8), (16, 4)])
def test_ranks_share_one_permutation(size, world):
    single = list(TrainSampler(range(size), seed=1))
    assert sorted(single) == list(range(size))
    shares = [list(TrainSampler(range(size), seed=1, rank=r, world_size=world)) for r in range(world)]
    assert len({len(s) for s in shares}) == 1
    dealt = [share[k] for k in range(len(shares[0])) for share in shares]
    assert dealt[:size] == single


def test_epoch_and_seed_change_the_order():
    sampler = TrainSampler(range(50), seed=0)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first == again != second
    assert {i.epoch for i in second} == {1} and {i.seed for i in second} == {0}
    assert list(TrainSampler(range(50), seed=1)) != first


def test_start_skips_the_rest_of_one_epoch_only():
    whole = TrainSampler(range(20), seed=0, rank=1, world_size=2)
    whole.set_epoch(4)
    resumed = TrainSampler(range(20), seed=0, rank=1, world_size=2, start=7)
    resumed.set_epoch(4)
    assert len(resumed) == 3
    assert list(resumed) == list(whole)[7:]
    resumed.set_epoch(5)
    whole.set_epoch(5)
    assert len(resumed) == 10 and list(resumed) == list(whole)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 33])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_eval_batches_are_those_of_one_process(size, batch, world):
    def batches(rank, count):
        sampler = EvalSampler(size, batch, rank, count)
        got = [b.tolist() for b in DataLoader(range(size), batch_size=batch, sampler=sampler)]
        assert len(sampler) == sum(map(len, got))
        return got

    one = batches(0, 1)
    shared = [batches(r, world) for r in range(world)]
    assert [index for got in one for index in got] == list(range(size))
    for rank in range(world):
        assert shared[rank] == one[rank::world]


@pytest.mark.parametrize(
    "build",
    [
        lambda: TrainSampler([], seed=0),
        lambda: TrainSampler(range(4), seed=-1),
        lambda: TrainSampler(range(4), seed=0, rank=2, world_size=2),
        lambda: TrainSampler(range(4), seed=0, start=4),
        lambda: EvalSampler(4, 0, 0, 1),
        lambda: EvalSampler(4, 1, 0, 0),
    ],
)
def test_wrong_arguments(build):
    with pytest.raises(ConfigError):
        build()
