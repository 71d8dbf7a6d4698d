"""Segmentation samples and batches: by hand, randomness fixed by (seed, epoch, index), faults with the file's name."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from effdense.data.dataset import init_worker
from effdense.data.image_io import write_png
from effdense.data.readers.mask_folder import read_mask_folder
from effdense.data.sampler import SampleIndex
from effdense.data.segmentation import SegmentationDataset, collate_segmentation
from effdense.data.transforms.geometry import HorizontalFlip, ResizePad, ScaleJitterCrop
from effdense.data.transforms.staged import StagedTransforms
from effdense.errors import ConfigError, DataError, ShapeError


@pytest.fixture
def records(tmp_path):
    """Four pictures of different sizes, whose red channel is 60 times the class of the mask."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for i in range(4):
        mask = generator.integers(0, 3, (30 + 2 * i, 40 + 3 * i), np.uint8)
        image = np.stack([mask * 60, mask, mask], -1)
        mask[0, 0] = 255
        write_png(tmp_path / "images" / f"{i}.png", image)
        write_png(tmp_path / "masks" / f"{i}.png", mask)
    return read_mask_folder(tmp_path / "images", tmp_path / "masks", classes=["a", "b", "c"])[0]


def test_sample_by_hand(records):
    sample = SegmentationDataset(records, [], training=False)[2]
    assert sample["original_size"] == (34, 46) and sample["index"] == 2 and sample["path"] == str(records.path(2))
    assert sample["image"].dtype == sample["mask"].dtype == np.uint8
    assert sample["mask"][0, 0] == 255
    np.testing.assert_array_equal(sample["image"][1:, :, 0], sample["mask"][1:] * 60)
    np.testing.assert_array_equal(sample["matrix"], np.eye(3))


def test_other_values_become_labels(records, tmp_path):
    # Files with 0 = ignore and classes 1, 5, 9.
    mask = np.array([[0, 1, 5], [9, 9, 1]], np.uint8)
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    write_png(tmp_path / "i" / "a.png", np.zeros((2, 3, 3), np.uint8))
    write_png(tmp_path / "m" / "a.png", mask)
    (tmp_path / "c.json").write_text('{"classes": ["x", "y", "z"], "values": [1, 5, 9]}')
    found, _ = read_mask_folder(tmp_path / "i", tmp_path / "m", classes=tmp_path / "c.json", ignore_index=0)
    loaded = SegmentationDataset(found, [], training=False).load_mask(0)
    assert loaded.tolist() == [[255, 0, 1], [2, 2, 0]]


def test_batch_by_hand(records):
    dataset = SegmentationDataset(records, [ResizePad((64, 48))], training=False)
    batch = collate_segmentation([dataset[3], dataset[1]])
    assert batch["inputs"].shape == (2, 3, 64, 48) and batch["inputs"].dtype == torch.uint8
    assert batch["inputs"].is_contiguous(memory_format=torch.channels_last)
    assert batch["masks"].shape == (2, 64, 48) and batch["masks"].dtype == torch.uint8
    assert batch["indices"].tolist() == [3, 1] and batch["original_sizes"].tolist() == [[36, 49], [32, 43]]
    assert batch["matrices"].dtype == torch.float64 and batch["paths"] == [str(records.path(3)), str(records.path(1))]
    assert (batch["masks"][:, 60:] == 255).all()


def jittered(records, seed=0):
    steps = [ScaleJitterCrop(32, scale=(0.5, 2.0)), HorizontalFlip()]
    return SegmentationDataset(records, steps, seed=seed, training=True)


def test_randomness_is_a_function_of_seed_epoch_and_index(records):
    def masks(seed, epoch, own_seed=0):
        return np.stack([jittered(records, own_seed)[SampleIndex(i, seed, epoch)]["mask"] for i in range(4)])

    np.testing.assert_array_equal(masks(1, 2), masks(1, 2, own_seed=5))
    assert (masks(1, 2) != masks(1, 3)).any() and (masks(1, 2) != masks(2, 2)).any()


def test_workers_change_nothing(records):
    def load(workers):
        loader = DataLoader(
            jittered(records), 2, num_workers=workers, collate_fn=collate_segmentation, worker_init_fn=init_worker
        )
        return torch.cat([batch["masks"] for batch in loader])

    assert torch.equal(load(0), load(2))


def test_stages_follow_the_epoch(records):
    staged = StagedTransforms([[ResizePad(16)], [ResizePad(32)]], [0, 2])
    dataset = SegmentationDataset(records, staged, training=True)
    assert dataset[SampleIndex(0, 0, 1)]["mask"].shape == (16, 16)
    assert dataset[SampleIndex(0, 0, 2)]["mask"].shape == (32, 32)


def test_faults_name_the_file(records):
    write_png(records.mask_path(0), np.full((30, 40), 7, np.uint8))
    write_png(records.mask_path(1), np.zeros((5, 5), np.uint8))
    write_png(records.mask_path(2), np.zeros((34, 46, 3), np.uint8))
    records.mask_path(3).unlink()
    dataset = SegmentationDataset(records, [], training=True)
    for index, message in enumerate(
        (r"0\.png: .*7: 1200 px", r"1\.png: .*5x5", "2.png: .*colour-coded", "3.png: .*exist")
    ):
        with pytest.raises(DataError, match=message):
            dataset[index]


def test_wrong_use(records):
    dataset = SegmentationDataset(records, [], training=True)
    with pytest.raises(ShapeError, match=r"ResizePad"):
        collate_segmentation([dataset[0], dataset[1]])
    with pytest.raises(ShapeError, match="at least one"):
        collate_segmentation([])
    with pytest.raises(ConfigError, match="callables"):
        SegmentationDataset(records, [3], training=True)
    with pytest.raises(IndexError):
        dataset[4]


def test_the_truth_is_no_view_of_the_mask(records):
    sample = SegmentationDataset(records, [], training=False)[0]
    before = sample["truth"].copy()
    sample["mask"][:] = 7
    assert np.array_equal(sample["truth"], before)
