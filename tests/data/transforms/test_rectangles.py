"""Rectangular batches: what is saved, nothing lost, nothing twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from effdense.data.collate import collate_detection
from effdense.data.sampler import TrainSampler
from effdense.data.segmentation import collate_segmentation
from effdense.data.transforms.geometry import ResizePad
from effdense.data.transforms.pending import Pending
from effdense.data.transforms.rectangles import (
    AspectEvalSampler,
    AspectGroupedSampler,
    ResizeFit,
    aspect_ratios,
    pad_to_common,
)
from effdense.errors import ConfigError, ShapeError


def sample(size: tuple[int, int], pending: bool = False, **more: Any) -> Any:
    image = np.arange(size[0] * size[1] * 3, dtype=np.uint32).astype(np.uint8).reshape(*size, 3)
    return {
        "image": Pending.of(image) if pending else image,
        "boxes": np.array([[0, 0, size[1], size[0]]], np.float32), "labels": np.array([1]), "matrix": np.eye(3),
        "index": 0, "image_id": 0, "original_size": size, "path": "p", **more,
    }  # fmt: skip


def test_fit_is_the_letterbox_without_the_square() -> None:
    fitted, letterbox = ResizeFit(128, multiple=32)(sample((60, 100))), ResizePad(128)(sample((60, 100)))
    assert fitted["image"].shape == (96, 128, 3) and letterbox["image"].shape == (128, 128, 3)
    np.testing.assert_array_equal(fitted["image"], letterbox["image"][:96])
    np.testing.assert_array_equal(fitted["boxes"], letterbox["boxes"])
    np.testing.assert_array_equal(fitted["matrix"], letterbox["matrix"])


@pytest.mark.parametrize("pending", [False, True])
def test_a_batch_is_as_large_as_its_largest(pending: bool) -> None:
    fit = ResizeFit(64, multiple=16)
    one, two = fit(sample((30, 60), pending)), fit(sample((60, 30), pending))
    batch = collate_detection([one, two])
    assert batch["inputs"].shape == (2, 3, 64, 64) and one["image"].shape[:2] == (32, 64)
    np.testing.assert_array_equal(batch["inputs"][0, :, :32].permute(1, 2, 0), fit(sample((30, 60)))["image"])
    assert batch["inputs"][0, :, 40, 5].tolist() == [124, 116, 104]
    assert batch["boxes"][0, 0].tolist() == [0, 0, 64, 32]
    alike = collate_detection([one, fit(sample((32, 60)))])
    assert alike["inputs"].shape == (2, 3, 48, 64)


def test_masks_are_padded_with_ignore() -> None:
    fit = ResizeFit(64, multiple=16)
    parts = [fit(sample(size, mask=np.zeros(size, np.uint8))) for size in ((32, 64), (64, 32))]
    masks = collate_segmentation(parts)["masks"]
    assert masks.shape == (2, 64, 64) and (masks == 0).sum() == 2 * 32 * 64 and (masks == 255).sum() == 2 * 32 * 64


def test_pictures_that_nobody_sized_are_still_refused() -> None:
    samples = [sample((32, 64)), sample((64, 32))]
    assert pad_to_common(samples) is samples
    with pytest.raises(ShapeError, match="ResizePad"):
        collate_detection(samples)


def test_every_sample_once_in_batches_of_like_aspect() -> None:
    aspects = np.random.default_rng(0).choice([0.66, 0.75, 1.0, 1.33, 1.5], 103)
    grouped = AspectGroupedSampler(TrainSampler(range(103), seed=5), aspects, 8, seed=5, pool=6)
    first = list(grouped)
    assert sorted(first) == list(range(103)) == sorted(TrainSampler(range(103), seed=5)) and len(grouped) == 103
    assert all(index.seed == 5 and index.epoch == 0 for index in first)
    spread = [np.ptp(aspects[first[i : i + 8]]) for i in range(0, 96, 8)]
    plain = list(TrainSampler(range(103), seed=5))
    assert np.mean(spread) < 0.4 * np.mean([np.ptp(aspects[plain[i : i + 8]]) for i in range(0, 96, 8)])
    assert first == list(AspectGroupedSampler(TrainSampler(range(103), seed=5), aspects, 8, seed=5, pool=6))
    grouped.set_epoch(1)
    second = list(grouped)
    assert second != first and sorted(second) == list(range(103)) and second[0].epoch == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_an_evaluation_without_copies(world: int) -> None:
    aspects = np.random.default_rng(1).uniform(0.5, 2.0, 45)
    shares = [list(AspectEvalSampler(aspects, 4, rank, world)) for rank in range(world)]
    assert Counter(i for share in shares for i in share) == Counter(range(45))
    batches = {tuple(share[i : i + 4]) for share in shares for i in range(0, len(share), 4)}
    alone = list(AspectEvalSampler(aspects, 4))
    assert batches == {tuple(alone[i : i + 4]) for i in range(0, 45, 4)} and list(aspects[alone]) == sorted(aspects)


def test_records_that_know_no_sizes() -> None:
    with pytest.raises(ConfigError, match="group_by_aspect needs the sizes"):
        aspect_ratios(object())
    with pytest.raises(ConfigError, match="batch_size"):
        AspectEvalSampler(np.ones(4), 0)
    with pytest.raises(ConfigError, match="multiple"):
        ResizeFit(64, multiple=0)
