"""Image folders: labels by hand, torchvision's order, faults named, samples and batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from effdense.data.checks.image_file_check import check_image_files
from effdense.data.classification import ClassificationDataset, collate_classification
from effdense.data.dataset import init_worker
from effdense.data.image_io import write_jpeg, write_png
from effdense.data.readers.image_folder import ClassificationRecords, read_image_folder
from effdense.data.records import ClassMap, PackedStrings
from effdense.data.sampler import SampleIndex, TrainSampler
from effdense.data.transforms.augment import CenterCrop, RandAugment, RandomErasing, RandomResizedCrop
from effdense.data.transforms.geometry import HorizontalFlip
from effdense.data.transforms.staged import StagedTransforms
from effdense.errors import ConfigError, DataError, ShapeError


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    (write_png if path.suffix == ".png" else write_jpeg)(path, image)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, one picture in a sub-folder, upper-case suffixes, and things that are no pictures."""
    names = ["cat/b.jpg", "cat/a.png", "cat/deep/c.jpg", "Dog/1.JPEG", "Dog/2.jpg", "zebra/x.jpg"]
    for seed, name in enumerate(names):
        picture(tmp_path / name, seed, (40 + seed, 50 + 2 * seed))
    (tmp_path / "cat/notes.txt").write_text("no picture")
    (tmp_path / "README.md").write_text("nor this")
    return tmp_path


def codes(report) -> list[str]:
    return [f.code for f in report.findings]


def test_labels_by_hand(root):
    records, report = read_image_folder(root)
    assert records.class_map.names == ("Dog", "cat", "zebra")
    paths = [records.paths[i] for i in range(len(records))]
    assert paths == ["Dog/1.JPEG", "Dog/2.jpg", "cat/a.png", "cat/b.jpg", "cat/deep/c.jpg", "zebra/x.jpg"]
    assert records.labels.tolist() == [0, 0, 1, 1, 1, 2] and records.labels.dtype == np.int64
    assert records.class_counts().tolist() == [2, 3, 1]
    assert records.path(2) == root / "cat/a.png" and records.source == root
    assert codes(report) == ["not-a-picture"] and report.findings[0].examples == ("cat/notes.txt",)


def test_the_folder_above_the_splits(tmp_path):
    """Two classes called train and val are a slip; one, or classes that are listed, may be meant."""
    for name in ("train/cat/a.jpg", "val/cat/a.jpg"):
        picture(tmp_path / name)
    _, report = read_image_folder(tmp_path)
    assert [f.code for f in report.errors] == ["split-as-class"]
    _, report = read_image_folder(tmp_path, classes=["train", "val"])
    assert not report.errors
    (tmp_path / "val").rename(tmp_path / ".val")
    _, report = read_image_folder(tmp_path)
    assert not report.errors and "split-as-class" in codes(report) and "single-class" in codes(report)


def test_folders_of_two_depths(root):
    """A class folder in place of a split: the message names both sides."""
    with pytest.raises(DataError, match=r"none of its class folders \(Dog, cat, zebra\) is a class .* \(deep\)"):
        read_image_folder(root, class_map=ClassMap(("deep",), (0,)))


def test_order_is_torchvisions(root):
    records, _ = read_image_folder(root)
    theirs = ImageFolder(root)
    assert theirs.classes == list(records.class_map.names)
    ours = [(str(records.path(i)), label) for i, label in enumerate(records.labels.tolist())]
    assert theirs.samples == ours


def test_relative_roots_go_under_the_data_root(root, monkeypatch):
    monkeypatch.setenv("EFFDENSE_DATA", str(root.parent))
    assert len(read_image_folder(root.name)[0]) == 6


def test_chosen_classes_keep_the_order_of_the_folders(root):
    records, _ = read_image_folder(root, classes=["zebra", "Dog"])
    assert records.class_map.names == ("Dog", "zebra") and records.labels.tolist() == [0, 0, 1]
    with pytest.raises(ConfigError, match="Did you mean 'zebra'"):
        read_image_folder(root, classes=["zebras"])
    with pytest.raises(ConfigError, match="must be a list"):
        read_image_folder(root, classes="zebra")


def test_a_class_map_gives_the_labels(root, tmp_path_factory):
    """A validation split without one of the classes still has the labels of the training split."""
    train = read_image_folder(root)[0].class_map
    val = tmp_path_factory.mktemp("val")
    picture(val / "zebra/1.jpg")
    (val / "cat").mkdir()
    records, report = read_image_folder(val, class_map=train)
    assert records.class_map == train and records.labels.tolist() == [2]
    assert codes(report) == ["class-without-images"]
    assert report.findings[0].examples == ("Dog", "cat") and not report.errors


def test_a_class_that_training_lacks_is_an_error(root, tmp_path_factory):
    val = tmp_path_factory.mktemp("val")
    picture(val / "zebra/1.jpg")
    picture(val / "okapi/1.jpg")
    train = read_image_folder(root)[0].class_map
    _, report = read_image_folder(val, class_map=train)
    with pytest.raises(DataError, match=r"unknown-class.*okapi"):
        report.raise_for_errors()
    _, report = read_image_folder(val, class_map=ClassMap(("zebra",), (0,)), classes=["zebra"])
    assert not report.errors  # left out on purpose


def test_roots_that_hold_no_split(tmp_path):
    with pytest.raises(DataError, match=r"Expected the image folder at .*nowhere"):
        read_image_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no folder, so there is no class.*ROOT/CLASS"):
        read_image_folder(tmp_path)
    picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"1 pictures \(first a.jpg\) but no folder"):
        read_image_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="no picture in any of the 1 class folders"):
        read_image_folder(tmp_path)


def test_what_looks_wrong_is_said(tmp_path):
    for name in ("train/1.jpg", "val/1.jpg"):
        picture(tmp_path / name)
    assert codes(read_image_folder(tmp_path)[1]) == ["split-as-class"]
    picture(tmp_path / "cat/1.jpg")
    picture(tmp_path / "loose.jpg")
    (tmp_path / ".cache").mkdir()
    records, report = read_image_folder(tmp_path)
    assert codes(report) == ["hidden-folder", "picture-outside-class"]
    assert records.class_map.names == ("cat", "train", "val")


def test_names_file(tmp_path):
    """ImageNet's mapping: the first synonym is shown, and two cranes stay two classes."""
    mapping = tmp_path / "mapping.txt"
    mapping.write_text("n01 tench, Tinca tinca\nn02 crane\n\nn03 crane, machine\n")
    for synset in ("n01", "n02", "n03", "n04"):
        picture(tmp_path / "train" / synset / "1.jpg")
    picture(tmp_path / "val/n03/1.jpg")
    train, _ = read_image_folder(tmp_path / "train", names_file=mapping)
    assert train.class_map.names == ("tench", "crane (n02)", "crane (n03)", "n04")
    val, _ = read_image_folder(tmp_path / "val", names_file=mapping, class_map=train.class_map)
    assert val.labels.tolist() == [2] and val.paths[0] == "n03/1.jpg"
    for text, message in (
        ("n01\n", "line 1"),
        ("n01 a\nn01 b\n", "line 2.*comes twice"),
        ("n01 n04\n", "name of another"),
    ):
        mapping.write_text(text)
        with pytest.raises(DataError, match=message):
            read_image_folder(tmp_path / "train", names_file=mapping)


def test_subset_and_records_that_disagree(root):
    records, _ = read_image_folder(root)
    part = records.subset([5, 0])
    assert [part.paths[i] for i in range(2)] == ["zebra/x.jpg", "Dog/1.JPEG"] and part.labels.tolist() == [2, 0]
    with pytest.raises(DataError, match="1 paths and 2 labels"):
        ClassificationRecords(records.class_map, root, PackedStrings(["a"]), np.array([0, 1]))
    with pytest.raises(DataError, match=r"must lie in 0\.\.2, got 3\.\.3"):
        ClassificationRecords(records.class_map, root, PackedStrings(["a"]), np.array([3]))


def test_broken_files_are_found_without_reading_all(root):
    records, _ = read_image_folder(root)
    assert check_image_files(records, count="all", decode="all").findings == []
    (root / "Dog/1.JPEG").write_bytes(b"")
    (root / "zebra/x.jpg").write_bytes(b"not a picture")
    (root / "cat/a.png").write_bytes((root / "cat/a.png").read_bytes()[:400])
    (root / "cat/b.jpg").unlink()
    report = check_image_files(records)
    found = {f.code: f.examples[0] for f in report.errors}
    assert found.keys() == {"empty-file", "not-an-image", "truncated-image", "missing-image"}
    assert found["truncated-image"].startswith("cat/a.png")
    # Two of six, spread evenly: the first and the last.
    assert codes(check_image_files(records, count=2)) == ["empty-file", "not-an-image"]
    with pytest.raises(ConfigError, match="count"):
        check_image_files(records, count=-1)


def test_sample_by_hand(root):
    dataset = ClassificationDataset(read_image_folder(root)[0], [], training=False)
    sample = dataset[5]
    assert (sample["label"], sample["index"], sample["original_size"]) == (2, 5, (45, 60))
    assert sample["path"] == str(root / "zebra/x.jpg")
    assert sample["image"].shape == (45, 60, 3) and sample["image"].dtype == np.uint8
    assert len(dataset) == 6 and dataset.class_map.names[2] == "zebra"
    assert dataset[-1]["index"] == 5
    with pytest.raises(IndexError):
        dataset[6]


def augmented(records, seed=0):
    steps = [RandomResizedCrop(32), HorizontalFlip(), RandAugment(), RandomErasing(1.0)]
    return ClassificationDataset(records, steps, seed=seed, training=True)


def test_randomness_is_a_function_of_seed_epoch_and_index(root):
    records, _ = read_image_folder(root)

    def pixels(seed, epoch, index, own_seed=0):
        return augmented(records, own_seed)[SampleIndex(index, seed, epoch)]["image"]

    state = torch.random.get_rng_state()
    np.testing.assert_array_equal(pixels(1, 2, 3), pixels(1, 2, 3, own_seed=9))
    for other in ((2, 2, 3), (1, 3, 3)):
        assert (pixels(1, 2, 3) != pixels(*other)).any()
    assert torch.equal(state, torch.random.get_rng_state())  # torch's own draws are left alone


def test_workers_do_not_change_a_batch(root):
    records, _ = read_image_folder(root)

    def batches(workers):
        dataset = augmented(records)
        sampler = TrainSampler(dataset, seed=3)
        return list(
            DataLoader(
                dataset,
                batch_size=3,
                sampler=sampler,
                num_workers=workers,
                collate_fn=collate_classification,
                worker_init_fn=init_worker,
            )
        )

    for alone, helped in zip(batches(0), batches(2), strict=True):
        assert alone["paths"] == helped["paths"]
        for key in ("inputs", "labels", "indices"):
            torch.testing.assert_close(alone[key], helped[key], rtol=0, atol=0)


def test_staged_transforms_follow_the_epoch(root):
    staged = StagedTransforms([[CenterCrop(16)], [CenterCrop(24)]], [0, 2])
    dataset = ClassificationDataset(read_image_folder(root)[0], staged, training=True)
    sides = [dataset[SampleIndex(0, 0, epoch)]["image"].shape[0] for epoch in range(4)]
    assert sides == [16, 16, 24, 24]


def test_batch_layout(root):
    dataset = ClassificationDataset(read_image_folder(root)[0], [CenterCrop((24, 16))], training=False)
    batch = collate_classification([dataset[i] for i in (0, 5)])
    assert batch["inputs"].shape == (2, 3, 24, 16) and batch["inputs"].dtype == torch.uint8
    assert batch["inputs"].is_contiguous(memory_format=torch.channels_last)
    assert batch["labels"].tolist() == [0, 2] and batch["labels"].dtype == torch.int64
    assert batch["indices"].tolist() == [0, 5] and batch["paths"][1].endswith("x.jpg")
    np.testing.assert_array_equal(batch["inputs"][1].permute(1, 2, 0).numpy(), dataset[5]["image"])


def test_wrong_batches_and_arguments(root):
    records, _ = read_image_folder(root)
    plain = ClassificationDataset(records, [], training=False)
    with pytest.raises(ShapeError, match=r"one size.*1\.JPEG.*x\.jpg.*RandomResizedCrop or CenterCrop"):
        collate_classification([plain[0], plain[5]])
    with pytest.raises(ShapeError, match="at least one sample"):
        collate_classification([])
    with pytest.raises(ConfigError, match="must be callables"):
        ClassificationDataset(records, ["flip"], training=True)
    with pytest.raises(ConfigError, match="negative"):
        ClassificationDataset(records, [], seed=-1, training=True)
    (root / "Dog/1.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.JPEG.*empty"):
        plain[0]
