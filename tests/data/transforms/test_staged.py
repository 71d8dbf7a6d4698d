"""Transforms by epoch: a table that is read, not a state that is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from effdense.data import DetectionDataset, ResizePad, TrainSampler, collate_detection, read_coco, write_shapes
from effdense.data.dataset import init_worker
from effdense.data.transforms.geometry import HorizontalFlip, ScaleJitterCrop
from effdense.data.transforms.staged import StagedTransforms, with_settings
from effdense.errors import ConfigError


def test_which_stage_an_epoch_has() -> None:
    staged = StagedTransforms([["a"], ["b"], ["c"]], [0, 2, 5])
    assert [staged.at(epoch)[0] for epoch in range(8)] == ["a", "a", "b", "b", "b", "c", "c", "c"]
    assert list(staged) == ["c"] and len(staged) == 1 and "from epoch 2: ['b']" in repr(staged)


@pytest.mark.parametrize("starts", [[0], [1, 2], [0, 0], [2, 0]])
def test_starts_that_mean_nothing(starts: list[int]) -> None:
    with pytest.raises(ConfigError, match="one ascending start per stage"):
        StagedTransforms([["a"], ["b"]], starts)


def test_settings_change_copies() -> None:
    @dataclass(frozen=True)
    class Strength:
        magnitude: float

    crop, flip, strength = ScaleJitterCrop(64, scale=(0.5, 2.0)), HorizontalFlip(), Strength(9.0)
    changed: list[Any] = with_settings([crop, flip, strength], {"size": (32, 48), "magnitude": 2.5})
    assert changed[0].size == (32, 48) and changed[0].scale == crop.scale and crop.size == (64, 64)
    assert changed[1] is flip and changed[2] == Strength(2.5) and strength.magnitude == 9.0


def test_a_setting_that_nothing_takes_is_named() -> None:
    with pytest.raises(ConfigError, match="no training transform has magnitude; the transforms are: ResizePad"):
        with_settings([ResizePad(64)], {"size": (32, 32), "magnitude": 1.0})


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_started_in_the_first_epoch_follow(tmp_path: Any, workers: int) -> None:
    """The epoch travels with the index: persistent workers, which never hear of a new one, make its pictures."""
    write_shapes(tmp_path / "s", splits={"train": 6}, image_size=(40, 60))
    records, _ = read_coco(tmp_path / "s" / "annotations" / "instances_train.json", tmp_path / "s" / "train")
    staged = StagedTransforms([[ResizePad(32)], [ResizePad((48, 64))]], [0, 1])
    dataset = DetectionDataset(records, staged, training=True)
    sampler = TrainSampler(dataset, seed=3)
    loader = DataLoader(
        dataset, batch_size=3, sampler=sampler, num_workers=workers, collate_fn=collate_detection,
        persistent_workers=workers > 0, worker_init_fn=init_worker,
    )  # fmt: skip
    shapes = []
    for epoch in (0, 1, 2, 0):
        sampler.set_epoch(epoch)
        shapes.append({tuple(batch["inputs"].shape[-2:]) for batch in loader})
    assert shapes == [{(32, 32)}, {(48, 64)}, {(48, 64)}, {(32, 32)}]
    assert np.array_equal(dataset[0]["image"].shape, (32, 32, 3))  # a plain index is of epoch 0
