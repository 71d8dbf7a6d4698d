"""Dataset and batches: samples by hand, randomness fixed by (seed, epoch, index), the layout of a batch."""

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from effdense.data.collate import collate_detection
from effdense.data.dataset import DetectionDataset, init_worker
from effdense.data.image_io import write_png
from effdense.data.records import ClassMap, DetectionRecords, ImageRecord
from effdense.data.sampler import SampleIndex, TrainSampler
from effdense.data.transforms.geometry import HorizontalFlip, ResizePad, ScaleJitterCrop
from effdense.errors import ConfigError, DataError, ShapeError

BOXES = np.array([[2, 3, 20, 30], [5, 5, 40, 25], [0, 0, 30, 30]], np.float32)


@pytest.fixture
def records(tmp_path):
    """Six pictures of different sizes; picture i has i % 4 boxes, the third box of a picture is a crowd."""
    generator = np.random.default_rng(0)
    images = []
    for i in range(6):
        height, width = 40 + 3 * i, 50 + 5 * i
        write_png(tmp_path / f"{i}.png", generator.integers(0, 256, (height, width, 3), np.uint8))
        count = i % 4
        images.append(
            ImageRecord(
                image_id=100 + i,
                path=tmp_path / f"{i}.png",
                width=width,
                height=height,
                boxes=BOXES[:count],
                labels=np.arange(count),
                is_crowd=np.arange(count) == 2,
                annotation_ids=np.arange(count),
                areas=np.ones(count, np.float32),
            )
        )
    return DetectionRecords.from_images(images, ClassMap(("a", "b", "c"), (1, 2, 3)))


def test_sample_by_hand(records, tmp_path):
    sample = DetectionDataset(records, [], training=False)[3]
    assert (sample["image_id"], sample["index"], sample["original_size"]) == (103, 3, (49, 65))
    assert sample["path"] == str(tmp_path / "3.png")
    assert sample["image"].shape == (49, 65, 3) and sample["image"].dtype == np.uint8
    np.testing.assert_array_equal(sample["boxes"], BOXES)
    np.testing.assert_array_equal(sample["matrix"], np.eye(3))


def test_training_leaves_crowds_out(records):
    sample = DetectionDataset(records, [], training=True)[3]
    assert sample["labels"].tolist() == [0, 1]
    assert DetectionDataset(records, [], training=False)[3]["labels"].tolist() == [0, 1, 2]


def test_a_changed_sample_does_not_change_the_records(records):
    DetectionDataset(records, [], training=False)[3]["boxes"][:] = -1
    np.testing.assert_array_equal(records[3].boxes, BOXES)


def jittered(records, seed=0):
    return DetectionDataset(records, [ScaleJitterCrop(32), HorizontalFlip()], seed=seed, training=True)


def test_randomness_is_a_function_of_seed_epoch_and_index(records):
    def pixels(seed, epoch, index, own_seed=0):
        return jittered(records, own_seed)[SampleIndex(index, seed, epoch)]["image"]

    np.testing.assert_array_equal(pixels(1, 2, 3), pixels(1, 2, 3, own_seed=9))
    for other in ((2, 2, 3), (1, 3, 3)):
        assert (pixels(1, 2, 3) != pixels(*other)).any()
    np.testing.assert_array_equal(jittered(records, 5)[2]["image"], pixels(5, 0, 2))


def load(records, workers, epoch):
    dataset = jittered(records)
    sampler = TrainSampler(dataset, seed=11)
    sampler.set_epoch(epoch)
    loader = DataLoader(
        dataset,
        batch_size=4,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate_detection,
        worker_init_fn=init_worker,
    )
    return list(loader)


def test_workers_do_not_change_a_batch_and_epochs_do(records):
    alone, helped, later = load(records, 0, 3), load(records, 2, 3), load(records, 0, 4)
    assert len(alone) == len(helped) == 2
    for a, b in zip(alone, helped, strict=True):
        assert a["paths"] == b["paths"]
        for key in ("inputs", "boxes", "labels", "valid", "image_ids", "indices", "original_sizes", "matrices"):
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)
    now, then = (
        {int(i): m for b in batches for i, m in zip(b["indices"], b["matrices"], strict=True)}
        for batches in (alone, later)
    )
    assert all((now[i] != then[i]).any() for i in now)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_picture_names_itself(records, tmp_path, workers):
    path = tmp_path / "2.png"
    path.write_bytes(path.read_bytes()[:200])
    loader = DataLoader(
        DetectionDataset(records, [ResizePad(32)], training=True),
        batch_size=3,
        num_workers=workers,
        collate_fn=collate_detection,
    )
    batches = iter(loader)
    with pytest.raises(DataError, match=r"2\.png"):
        next(batches)
    assert len(list(batches)) == 1  # the loader itself is still sound


def test_a_picture_of_another_size_is_refused(records, tmp_path):
    write_png(tmp_path / "0.png", np.zeros((50, 40, 3), np.uint8))
    with pytest.raises(DataError, match=r"0\.png: the picture is 40x50 but its annotation says 50x40"):
        DetectionDataset(records, [], training=False)[0]


def test_indices_and_arguments(records):
    dataset = DetectionDataset(records, [ResizePad(32)], training=False)
    assert dataset[-1]["index"] == 5
    with pytest.raises(IndexError):
        dataset[6]
    with pytest.raises(ConfigError, match="callables"):
        DetectionDataset(records, ["ResizePad"], training=True)
    assert "ResizePad(size=(32, 32)" in repr(dataset) and "6 images, 3 classes, evaluation" in repr(dataset)


def test_batch_layout(records):
    dataset = DetectionDataset(records, [ResizePad((32, 48))], training=False)
    samples = [dataset[i] for i in (3, 0, 1)]
    batch = collate_detection(samples)
    assert batch["inputs"].shape == (3, 3, 32, 48) and batch["inputs"].dtype == torch.uint8
    assert batch["inputs"].is_contiguous(memory_format=torch.channels_last)
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(batch["inputs"][i].permute(1, 2, 0).numpy(), sample["image"])
    assert batch["boxes"].shape == (3, 3, 4) and batch["boxes"].dtype == torch.float32
    assert batch["labels"].tolist() == [[0, 1, 2], [-1, -1, -1], [0, -1, -1]]
    assert batch["valid"].tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert (batch["boxes"][~batch["valid"]] == 0).all()
    np.testing.assert_array_equal(batch["boxes"][0].numpy(), samples[0]["boxes"])
    assert batch["image_ids"].tolist() == [103, 100, 101] and batch["indices"].tolist() == [3, 0, 1]
    assert batch["original_sizes"].tolist() == [[49, 65], [40, 50], [43, 55]]
    assert batch["matrices"].dtype == torch.float64 and batch["matrices"].shape == (3, 3, 3)


def test_an_empty_batch_has_one_padded_row(records):
    batch = collate_detection([DetectionDataset(records, [], training=True)[0]])
    assert batch["boxes"].shape == (1, 1, 4) and batch["valid"].tolist() == [[False]]


def test_different_sizes_name_their_files(records):
    dataset = DetectionDataset(records, [], training=True)
    with pytest.raises(ShapeError, match=r"(?s)0\.png.*1\.png.*ResizePad"):
        collate_detection([dataset[0], dataset[1]])
    with pytest.raises(ShapeError, match="none"):
        collate_detection([])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_pinned_memory_keeps_the_layout(records):
    dataset = DetectionDataset(records, [ResizePad(32)], training=True)
    (batch, _) = DataLoader(dataset, batch_size=3, collate_fn=collate_detection, pin_memory=True)
    assert batch["inputs"].is_pinned() and batch["inputs"].is_contiguous(memory_format=torch.channels_last)


def test_workers_start_after_opencv_has_worked_with_threads() -> None:
    """A forked worker has the pool of its parent without the threads in it; it must not wait for them."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        large = np.zeros((2000, 2000, 3), np.uint8)
        for _ in range(5):
            cv2.resize(large, (500, 500), interpolation=cv2.INTER_AREA)
        loader = DataLoader(range(4), num_workers=1, worker_init_fn=init_worker, timeout=20)  # type: ignore[arg-type]
        assert len(list(loader)) == 4
    finally:
        cv2.setNumThreads(before)
