"""What evaluation gets beside the picture: the truth at original size, and batches of pictures of different sizes."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from effdense.data.image_io import write_png
from effdense.data.readers.mask_folder import read_mask_folder
from effdense.data.segmentation import SegmentationDataset, collate_segmentation
from effdense.data.transforms.geometry import MEAN_FILL, HorizontalFlip, ResizePad
from effdense.errors import ShapeError


@pytest.fixture
def records(tmp_path):
    """Three pictures: 30 x 40, 32 x 43 and 34 x 46 px."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for i in range(3):
        mask = generator.integers(0, 3, (30 + 2 * i, 40 + 3 * i), np.uint8)
        write_png(tmp_path / "images" / f"{i}.png", np.repeat(mask[..., None] * 60, 3, -1))
        write_png(tmp_path / "masks" / f"{i}.png", mask)
    return read_mask_folder(tmp_path / "images", tmp_path / "masks", classes=["a", "b", "c"])[0]


@pytest.mark.parametrize("transforms", [[], [ResizePad((16, 24))], [HorizontalFlip(1.0)]])
def test_the_truth_is_the_mask_as_annotated(records, transforms):
    dataset = SegmentationDataset(records, transforms, training=False)
    for i in range(3):
        np.testing.assert_array_equal(dataset[i]["truth"], dataset.load_mask(i))
    batch = collate_segmentation([dataset[2], dataset[2]])
    assert [truth.shape for truth in batch["truths"]] == [(34, 46)] * 2 and batch["truths"][0].dtype == torch.uint8


def test_training_batches_carry_none(records):
    dataset = SegmentationDataset(records, [ResizePad((16, 24))], training=True)
    batch = collate_segmentation([dataset[0], dataset[1]])
    assert "truth" not in dataset[0] and batch["truths"] == []
    assert batch["input_sizes"].tolist() == [[16, 24], [16, 24]]
    dataset.training = False  # as the evaluation of a training split sets it
    assert "truth" in dataset[0]


def test_different_sizes_are_padded_in_evaluation(records):
    dataset = SegmentationDataset(records, [], training=False)
    samples = [dataset[i] for i in (2, 0)]
    batch = collate_segmentation(samples)
    assert batch["inputs"].shape == (2, 3, 34, 46) and batch["input_sizes"].tolist() == [[34, 46], [30, 40]]
    assert batch["inputs"].is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(batch["inputs"][1, :, :30, :40].permute(1, 2, 0), samples[1]["image"])
    for part in (batch["inputs"][1, :, 30:], batch["inputs"][1, :, :, 40:]):
        assert (part == torch.tensor(MEAN_FILL, dtype=torch.uint8).view(3, 1, 1)).all()
    assert (batch["masks"][1, 30:] == 255).all() and (batch["masks"][1, :, 40:] == 255).all()
    np.testing.assert_array_equal(batch["masks"][1, :30, :40], samples[1]["truth"])
    assert torch.equal(batch["matrices"][1], torch.eye(3, dtype=torch.float64))
    assert [tuple(truth.shape) for truth in batch["truths"]] == [(34, 46), (30, 40)]


def test_taller_beside_wider(records):
    dataset = SegmentationDataset(records, [], training=False)
    tall = dataset[0]
    tall = {**tall, "image": tall["image"].swapaxes(0, 1), "mask": tall["mask"].T, "truth": tall["truth"].T.copy()}
    batch = collate_segmentation([tall, dataset[1]])
    assert batch["inputs"].shape == (2, 3, 40, 43) and batch["input_sizes"].tolist() == [[40, 30], [32, 43]]


def test_different_sizes_in_training_are_named(records):
    dataset = SegmentationDataset(records, [], training=True)
    with pytest.raises(ShapeError, match=r"\(30, 40, 3\) for .*0\.png and \(32, 43, 3\) for .*1\.png.*ResizePad"):
        collate_segmentation([dataset[0], dataset[1]])


def test_workers_bring_the_truths(records):
    dataset = SegmentationDataset(records, [], training=False)
    loader = DataLoader(dataset, 2, num_workers=1, collate_fn=collate_segmentation)
    found = [truth for batch in loader for truth in batch["truths"]]
    assert all(np.array_equal(truth, dataset.load_mask(i)) for i, truth in enumerate(found)) and len(found) == 3
