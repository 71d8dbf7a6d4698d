"""Batches at random sizes: which, when, and what moves along."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from effdense.data.transforms.multi_scale import MultiScale, resized_batch
from effdense.errors import ConfigError


def test_sizes_are_multiples_between_the_factors() -> None:
    assert MultiScale(0.75, 1.25, 128).sizes((512, 512)) == [(384, 384), (512, 512), (640, 640)]
    assert MultiScale(0.5, 1.0, 32).sizes((64, 128)) == [(32, 64), (64, 128)]
    assert MultiScale(0.9, 1.1, 128).sizes((320, 320)) == []


def test_the_size_is_a_function_of_seed_and_iteration() -> None:
    chooser, other = MultiScale(0.5, 1.5, 32, 10, seed=3), MultiScale(0.5, 1.5, 32, 10, seed=3)
    drawn = []
    for iteration in range(2000):
        chooser.iteration = iteration
        drawn.append(chooser.size((128, 128)))
    other.iteration = 1234
    assert other.size((128, 128)) == drawn[1234]  # a resumed run, another rank
    assert all(len(set(drawn[i : i + 10])) == 1 for i in range(0, 2000, 10))
    assert set(drawn[:10]) == {(192, 192)}  # the largest first: memory shows at once
    counts = Counter(drawn[10::10])
    assert len(counts) == 5 and min(counts.values()) > 20
    assert drawn != [MultiScale(0.5, 1.5, 32, 10, seed=4).size((128, 128))] * 2000


def test_everything_in_pixels_moves_along() -> None:
    batch = {
        "inputs": torch.rand(2, 3, 8, 4).to(memory_format=torch.channels_last),
        "boxes": torch.tensor([[[0.0, 2.0, 4.0, 8.0]]]).repeat(2, 1, 1),
        "masks": torch.arange(32, dtype=torch.uint8).view(1, 8, 4).repeat(2, 1, 1),
        "matrices": torch.eye(3, dtype=torch.float64).repeat(2, 1, 1),
        "input_sizes": torch.tensor([[8, 4], [6, 4]]),
        "paths": ["a", "b"],
    }
    big = resized_batch(batch, (16, 12))
    assert big["inputs"].shape == (2, 3, 16, 12) and big["masks"].shape == (2, 16, 12)
    assert big["boxes"][0, 0].tolist() == [0, 4, 12, 16] and big["input_sizes"].tolist() == [[16, 12], [12, 12]]
    np.testing.assert_array_equal(big["masks"][0].numpy(), batch["masks"][0].numpy().repeat(2, 0).repeat(3, 1))
    assert big["masks"].dtype == torch.uint8 and big["matrices"].dtype == torch.float64
    assert (big["matrices"][1] @ torch.tensor([4.0, 8.0, 1.0]).double()).tolist() == [12, 16, 1]
    assert big["paths"] == ["a", "b"] and batch["boxes"][0, 0].tolist() == [0, 2, 4, 8]
    flat = resized_batch({"inputs": torch.full((1, 3, 8, 4), 7.0)}, (4, 2))
    assert (flat["inputs"] == 7.0).all()
    same = resized_batch(batch, (8, 4))
    assert same["inputs"] is batch["inputs"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"low": 1.5, "high": 1.0}, "low <= high"),
        ({"low": 0}, "multi_scale.low must be a factor"),
        ({"step": 0}, "multi_scale.step"),
        ({"interval": 1.5}, "multi_scale.interval"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MultiScale(**options)  # type: ignore[arg-type]


def test_one_size_is_no_choice() -> None:
    with pytest.raises(ConfigError, match=r"one size to choose from.*512"):
        MultiScale(0.8, 1.2, 128).check((512, 512))
    with pytest.raises(ConfigError, match="no size to choose from"):
        MultiScale(0.9, 1.1, 128).check((320, 320))
