"""Samplers for rare classes: factors computed by hand, what an epoch shows on average, the same order on any ranks."""

import math
import pickle

import numpy as np
import pytest
from PIL import Image

from effdense.data.combining.balance import ClassBalanced, Presence, RepeatFactor, Weighted, presence_of
from effdense.data.dataset import DetectionDataset, sample_generator
from effdense.data.sampler import SampleIndex, TrainSampler
from effdense.data.transforms.geometry import ScaleJitterCrop
from effdense.errors import ConfigError
from tests.data.combining.test_combine import image, records

# 8 images: "common" in the first six, "rare" in images 5 and 6 alone or with it; image 7 is empty.
LABELS = [[0], [0, 0, 0], [0], [0], [0], [0, 1], [1], []]


def few():
    return records([image(i, labels, first_id=10 * i + 1) for i, labels in enumerate(LABELS)], names=("common", "rare"))


def test_presence_counts_images_and_leaves_crowds_out():
    presence = presence_of(few())
    assert presence.images_per_class().tolist() == [6, 2]
    with_crowd = few()
    with_crowd.is_crowd[-1] = True  # the rare object of image 6
    assert presence_of(with_crowd).images_per_class().tolist() == [6, 1]


def test_repeat_factors_by_hand():
    factors = RepeatFactor(threshold=0.5)(presence_of(few()))
    rare = math.sqrt(0.5 / (2 / 8))  # common occurs in 6 of 8 images, more than half: 1
    assert factors.tolist() == pytest.approx([1, 1, 1, 1, 1, rare, rare, 1])
    assert RepeatFactor(threshold=0.001)(presence_of(few())).tolist() == [1] * 8


def test_class_balanced_by_hand():
    counts = ClassBalanced()(presence_of(few()))
    # Weights 8/6 and 8/2; the seven images with objects share 7 draws.
    weights = np.array([8 / 6] * 5 + [4, 4])
    assert counts.tolist() == pytest.approx([*(weights * 7 / weights.sum()), 1])
    assert ClassBalanced(power=0)(presence_of(few())).tolist() == pytest.approx([1] * 8)
    mean = ClassBalanced(image="mean")(presence_of(few()))
    assert mean[5] / mean[0] == pytest.approx((8 / 6 + 4) / 2 / (8 / 6)) and mean.sum() == pytest.approx(8)


def test_one_class_per_image_is_balanced_exactly():
    labels = np.repeat(np.arange(4), [500, 50, 20, 5])
    presence = Presence.of_pairs(len(labels), tuple("abcd"), np.arange(len(labels)), labels)
    counts = ClassBalanced()(presence)
    assert presence.images_per_class(counts).tolist() == pytest.approx([575 / 4] * 4)
    sampler = TrainSampler(range(len(labels)), seed=0, counts=counts)
    seen = np.bincount(labels[[int(i) for i in sampler]], minlength=4)
    assert len(sampler) == 575 and np.abs(seen - 575 / 4).max() <= 5


def test_weights_of_classes():
    counts = Weighted({"rare": 3.0})(presence_of(few()))
    assert counts.tolist() == pytest.approx([7 / 11] * 5 + [21 / 11] * 2 + [1])
    with pytest.raises(ConfigError, match=r"no class of the data\. Did you mean 'rare'"):
        Weighted({"rar": 3.0})(presence_of(few()))
    with pytest.raises(ConfigError, match="weight 0"):
        Weighted({"rare": 0.0, "common": 0})(presence_of(few()))


@pytest.mark.parametrize(
    "build",
    [
        lambda: RepeatFactor(threshold=0),
        lambda: RepeatFactor(threshold="0.1"),
        lambda: ClassBalanced(power=2),
        lambda: ClassBalanced(image="max"),
        lambda: Weighted({}),
        lambda: Weighted({"a": -1}),
        lambda: TrainSampler(range(3), seed=0, counts=np.ones(2)),
        lambda: TrainSampler(range(3), seed=0, counts=np.array([1, np.nan, 1])),
        lambda: TrainSampler(range(3), seed=0, counts=np.zeros(3)),
        lambda: TrainSampler(range(3), seed=0, counts=np.ones(3), shuffle=False),
    ],
)
def test_what_cannot_be_drawn(build):
    with pytest.raises(ConfigError):
        build()


def test_every_epoch_rounds_up_or_down_and_the_mean_is_right():
    counts = np.array([1.0, 1.25, 2.5, 0.25, 1.0, 3.0])
    sampler = TrainSampler(counts, seed=1, counts=counts)
    assert len(sampler) == 9
    seen = np.zeros((2000, 6))
    for epoch in range(len(seen)):
        sampler.set_epoch(epoch)
        seen[epoch] = np.bincount([int(i) for i in sampler], minlength=6)
    assert (seen >= np.floor(counts)).all() and (seen <= np.ceil(counts)).all()
    assert np.abs(seen.mean(0) - counts).max() < 0.05
    assert (seen.sum(1) == 9).all()


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_share_one_order_with_repeats(world):
    counts = np.array([0.5, 4.0, 1.5, 2.0, 1.0])
    single = list(TrainSampler(counts, seed=5, counts=counts))
    shares = [list(TrainSampler(counts, seed=5, counts=counts, rank=r, world_size=world)) for r in range(world)]
    assert len({len(share) for share in shares}) == 1
    dealt = [share[k] for k in range(len(shares[0])) for share in shares]
    assert [(int(i), i.repeat) for i in dealt[: len(single)]] == [(int(i), i.repeat) for i in single]
    assert len({(int(i), i.repeat) for i in dealt}) == len(dealt)
    assert sorted(i.repeat for i in single if i == 1) == [0, 1, 2, 3]


def test_resuming_in_mid_epoch():
    counts = np.array([0.5, 4.0, 1.5, 2.0, 1.0])
    whole = TrainSampler(counts, seed=5, counts=counts, rank=1, world_size=2)
    part = TrainSampler(counts, seed=5, counts=counts, rank=1, world_size=2, start=3)
    for sampler in (whole, part):
        sampler.set_epoch(7)
    assert [(int(i), i.repeat) for i in part] == [(int(i), i.repeat) for i in whole][3:]
    part.set_epoch(8)
    whole.set_epoch(8)
    assert list(part) == list(whole)


def test_two_draws_of_one_picture_differ(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(tmp_path / "a.png")
    one = image(1, [0], path=str(tmp_path / "a.png"))
    object.__setattr__(one, "width", 80)
    object.__setattr__(one, "height", 60)
    samples = DetectionDataset(records([one]), [ScaleJitterCrop(64)], training=True)
    plain, first, second = (samples[SampleIndex(0, 0, 3, repeat)] for repeat in (0, 0, 1))
    assert np.array_equal(plain["matrix"], first["matrix"]) and not np.array_equal(first["matrix"], second["matrix"])
    again = pickle.loads(pickle.dumps(SampleIndex(0, 0, 3, 1)))
    assert np.array_equal(samples[again]["image"], second["image"])


def test_the_plain_case_is_what_it_was():
    """The stream of a sample that an epoch has once: PCG64 of (seed, epoch, index)."""
    before = np.random.Generator(np.random.PCG64(np.random.SeedSequence([3, 2, 5])))
    assert sample_generator(3, 2, 5).random() == before.random()


def test_a_sum_that_is_not_whole_takes_nothing_below_its_floor():
    counts = np.array([1.0] * 9 + [1.5])
    for epoch in range(60):
        sampler = TrainSampler(range(10), seed=0, counts=counts)
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(10))
