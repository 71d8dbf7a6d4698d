"""Segmentation batches of a run: the same bits with any number of workers, and after a resume in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from effdense.data import (
    HorizontalFlip,
    ScaleJitterCrop,
    SegmentationDataset,
    SegmentationRecords,
    TrainSampler,
    VerticalFlip,
    collate_segmentation,
    init_worker,
    read_mask_folder,
    write_png,
)

SEED, EPOCHS, BATCH = 5, 2, 3


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> SegmentationRecords:
    """Nine pictures that are mostly one class, so that the cap redraws."""
    root = tmp_path_factory.mktemp("scenes")
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for i in range(9):
        mask = np.zeros((50 + i, 70), np.uint8)
        mask[:12, :20], mask[-9:, -30:] = 1, 2
        write_png(root / "images" / f"{i}.png", generator.integers(0, 256, (*mask.shape, 3), np.uint8))
        write_png(root / "masks" / f"{i}.png", mask)
    return read_mask_folder(root / "images", root / "masks", classes=["a", "b", "c"])[0]


def batches(records: SegmentationRecords, workers: int, start: int = 0, first_epoch: int = 0) -> Iterator[Any]:
    """As the engine draws them, from ``start`` batches into an epoch on."""
    steps = [ScaleJitterCrop(32, scale=(0.5, 2.0), class_ratio_cap=0.6), HorizontalFlip(), VerticalFlip()]
    dataset = SegmentationDataset(records, steps, training=True)
    sampler = TrainSampler(dataset, seed=SEED, start=start * BATCH)
    loader = DataLoader(
        dataset,
        BATCH,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate_segmentation,
        worker_init_fn=init_worker,
    )
    for epoch in range(first_epoch, EPOCHS):
        sampler.set_epoch(epoch)
        yield from loader


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one["paths"] == other["paths"]
        assert all(torch.equal(one[key], other[key]) for key in ("inputs", "masks", "matrices", "indices"))


@pytest.fixture(scope="module")
def straight(records: SegmentationRecords) -> list[Any]:
    """Two epochs of three batches, in this process."""
    return list(batches(records, 0))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(records: SegmentationRecords, straight: list[Any], workers: int) -> None:
    assert_same(list(batches(records, workers)), straight)


@pytest.mark.parametrize(("workers", "first_epoch", "start"), [(0, 0, 1), (2, 0, 2), (0, 1, 0), (1, 1, 2)])
def test_a_resumed_run_goes_on_with_the_same_batches(
    records: SegmentationRecords, straight: list[Any], workers: int, first_epoch: int, start: int
) -> None:
    resumed = list(batches(records, workers, start, first_epoch))
    assert_same(resumed, straight[first_epoch * 3 + start :])


def test_epochs_differ_and_all_transforms_were_at_work(straight: list[Any]) -> None:
    matrices = torch.cat([batch["matrices"] for batch in straight])
    assert {-1.0, 1.0} == set(matrices[:, 0, 0].sign().tolist()) == set(matrices[:, 1, 1].sign().tolist())
    by_picture: dict[str, list[torch.Tensor]] = {}
    for batch in straight:
        for path, mask in zip(batch["paths"], batch["masks"], strict=True):
            by_picture.setdefault(Path(path).name, []).append(mask)
    assert len(by_picture) == 9 and all(not torch.equal(*masks) for masks in by_picture.values())
