"""Shards written, read by their index, read by webdataset, checked, shuffled; and what is said about broken ones."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from effdense.data import DetectionDataset, TrainSampler, check_images, check_masks, collate_detection
from effdense.data.combining.combine import concatenate
from effdense.data.image_io import read_image
from effdense.data.readers.image_folder import read_image_folder
from effdense.data.readers.mask_folder import read_mask_folder
from effdense.data.records import DetectionRecords
from effdense.data.segments import PackedSegments, Segment
from effdense.data.storage.shard_index import read_index
from effdense.data.storage.shard_sampler import ShardShuffle
from effdense.data.storage.shard_writer import write_shards
from effdense.data.storage.sharded import check_shards, read_shards, sets_of, shard_numbers
from effdense.data.storage.shards import OPEN_FILES, TarStore, open_shards
from effdense.data.transforms.geometry import ResizePad
from effdense.errors import ConfigError, DataError
from tests.data.odd_pictures import odd_records

wds = pytest.importorskip("webdataset")


@pytest.fixture
def sharded(tmp_path):
    """(records in files, folder of their shards, in the same order); a dozen shards."""
    records = odd_records(tmp_path / "images", copies=3)
    write_shards(records, tmp_path / "shards", split="train", shard_mb=0.001, shuffle=None)
    return records, tmp_path / "shards"


def with_outlines(records: DetectionRecords) -> DetectionRecords:
    rings = [Segment((np.array([[1, 2], [9, 2], [5, 9]], np.float32),)), None]
    rings.append(Segment.from_coco({"size": [40, 64], "counts": [10, 30, 2520]}, (40, 64)))
    rows = [rings[i % 3] for i in range(len(records.boxes))]
    return DetectionRecords(**{**records.__dict__, "segments": PackedSegments.pack(rows)})


def same(a: DetectionRecords, b: DetectionRecords) -> bool:
    keys = ("image_ids", "sizes", "offsets", "boxes", "labels", "is_crowd", "annotation_ids", "areas")
    return a.class_map == b.class_map and all(np.array_equal(getattr(a, key), getattr(b, key)) for key in keys)


def test_detection_round_trip(tmp_path):
    records = with_outlines(odd_records(tmp_path / "images", copies=3))
    done = write_shards(records, tmp_path / "out", split="val", shard_mb=0.002, shuffle=None)
    read, report = read_shards(str(tmp_path / "out"), "val", task="detection", segments=True)
    assert not report.findings and done.samples == len(read) == len(records) and done.shards > 2
    assert same(read, records)
    for name in ("points", "point_of", "ring_of", "runs", "run_of", "run_sizes"):
        np.testing.assert_array_equal(getattr(read.segments, name), getattr(records.segments, name))
    assert read_shards(str(tmp_path / "out"), "val")[0].segments is None
    for i in range(len(records)):
        assert read.path(i).parent.name.startswith("val-0000")
        size = tuple(records.sizes[i].tolist())
        np.testing.assert_array_equal(
            read_image(read.path(i), expected_size=size), read_image(records.path(i), expected_size=size)
        )
    assert not check_images(read, decode="all").errors
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *(f"val-{k:06d}.tar" for k in range(done.shards)), "val.index.npz",
    ]  # fmt: skip


def test_shuffled_writing_is_a_permutation_that_the_seed_decides(tmp_path):
    records = odd_records(tmp_path / "images", copies=3)
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_shards(records, tmp_path / name, split="train", shuffle=seed)
        read, _ = read_shards(str(tmp_path / name), "train")
        orders.append(read.image_ids.tolist())
        row = read.image_ids.tolist().index(105)
        np.testing.assert_array_equal(read[row].boxes, records[5].boxes)
        assert read_image(read.path(row)).shape == read_image(records.path(5)).shape
    assert sorted(orders[0]) == records.image_ids.tolist() != orders[0]
    assert orders[0] == orders[1] != orders[2]
    assert (tmp_path / "a" / "train-000000.tar").read_bytes() == (tmp_path / "b" / "train-000000.tar").read_bytes()


def test_webdataset_reads_the_tars(sharded):
    records, folder = sharded
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    samples = list(wds.WebDataset(tars, shardshuffle=False))
    assert len(samples) == len(records)
    for i, sample in enumerate(samples):
        facts = json.loads(sample["json"])
        image = sample.get("png") or sample.get("jpg")
        assert image == records.path(i).read_bytes()
        assert sample["__key__"] == f"{i:09d}" and facts["image_id"] == 100 + i
        assert facts["boxes"] == records[i].boxes.tolist() and facts["names"] == [("cat", "dog")[i % 2]]
        assert facts["file_name"] == records.path(i).name  # no path of this machine
    decoded = next(iter(wds.WebDataset(tars, shardshuffle=False).decode("rgb8")))
    assert np.asarray(decoded["jpg"]).shape == (40, 64, 3)


def test_segmentation_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(5):
        for name, content in (
            ("images", rng.integers(0, 255, (24, 32, 3))),
            ("masks", rng.choice([0, 3, 255], (24, 32))),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(content.astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    records, _ = read_mask_folder(
        tmp_path / "images", tmp_path / "masks", classes=["sky", "road"], values=[0, 3], palette=[[0, 0, 9], [9, 0, 0]]
    )
    write_shards(records, tmp_path / "out", split="train", shuffle=None)
    read, report = read_shards(str(tmp_path / "out"), "train", task="segmentation", class_map=records.class_map)
    assert not report.findings and read.coding == records.coding and read.class_map.palette == records.class_map.palette
    for i in range(5):
        np.testing.assert_array_equal(read.read_mask(i).labels, records.read_mask(i).labels)
        assert read.size(i) == (24, 32)
    assert not check_masks(read, decode="all").errors
    only, _ = read_shards(str(tmp_path / "out"), "train", classes=["road"])
    assert set(np.unique(only.read_mask(0).labels)) == {0, 255} and only.class_map.names == ("road",)
    sample = next(iter(wds.WebDataset(str(tmp_path / "out" / "train-000000.tar"), shardshuffle=False)))
    assert sample["mask.png"] == records.mask_path(0).read_bytes()


def test_classification_round_trip_and_validation_without_a_class(tmp_path):
    for split, classes in (("train", "abc"), ("val", "ac")):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (ord(name), i, 0)).save(tmp_path / split / name / f"{i}.png")
        records, _ = read_image_folder(tmp_path / split)
        write_shards(records, tmp_path / "out", split=split)
    train, _ = read_shards(str(tmp_path / "out"), "train", task="classification")
    assert train.class_counts().tolist() == [3, 3, 3] and len(set(train.labels[:6].tolist())) > 1  # mixed by default
    for i in range(len(train)):
        assert read_image(train.path(i))[0, 0, 0] == ord("abc"[train.labels[i]])
    val, _ = read_shards(str(tmp_path / "out"), "val", class_map=train.class_map)
    assert val.class_map == train.class_map and val.class_counts().tolist() == [3, 0, 3]
    some, _ = read_shards(str(tmp_path / "out"), "train", classes=["c", "b"])
    assert some.class_map.names == ("b", "c") and some.class_counts().tolist() == [3, 3]
    assert {read_image(some.path(i))[0, 0, 0] - ord("b") for i in np.flatnonzero(some.labels == 1)} == {1}
    sample = next(iter(wds.WebDataset(str(tmp_path / "out" / "train-000000.tar"), shardshuffle=False).decode()))
    assert sample["cls"] == train.labels[0]


def test_classes_of_a_detection_set(sharded):
    records, folder = sharded
    dogs, _ = read_shards(str(folder), "train", classes=["dog"])
    assert dogs.class_map.category_ids == (7,) and len(dogs) == len(records)
    assert len(dogs.boxes) == (records.labels == 1).sum() and (dogs.labels == 0).all()
    np.testing.assert_array_equal(dogs[1].boxes, records[1].boxes)
    assert len(dogs[0].boxes) == 0
    full, _ = read_shards(str(folder), "train", classes=["dog"], keep_empty=False)
    assert len(full) == (records.labels == 1).sum()
    with pytest.raises(ConfigError, match=r"'dgo' is not among them\. Did you mean 'dog'"):
        read_shards(str(folder), "train", classes=["dgo"])
    with pytest.raises(DataError, match="not those of the training split"):
        read_shards(str(folder), "train", class_map=dogs.class_map)


def test_parts_subsets_and_combined_sets_still_find_their_pictures(sharded, tmp_path):
    records, folder = sharded
    read, _ = read_shards(str(folder), "train")
    both = concatenate([read.subset([5, 2]), records.subset([1])])
    for i, original in enumerate((5, 2, 1)):
        size = tuple(records.sizes[original].tolist())
        np.testing.assert_array_equal(
            read_image(both.path(i), expected_size=size), read_image(records.path(original), expected_size=size)
        )
    assert shard_numbers(both) is None and len(sets_of(both)) == 1
    assert len(set(shard_numbers(read).tolist())) == len(list(folder.glob("*.tar")))


def test_workers_of_any_kind_read_shards(sharded):
    _, folder = sharded
    read, _ = read_shards(str(folder), "train")
    dataset = DetectionDataset(read, [ResizePad((32, 32))], training=True, store=TarStore(sets_of(read)))
    alone = [dataset[i]["image"] for i in range(len(read))]  # opens files that forked workers then share
    loader = DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=collate_detection)
    for one, batch in zip(alone, loader, strict=True):
        np.testing.assert_array_equal(batch["inputs"][0].permute(1, 2, 0).numpy(), one)
    copy = pickle.loads(pickle.dumps(dataset))  # as for a spawned worker
    np.testing.assert_array_equal(copy[3]["image"], alone[3])


def test_few_files_stay_open(sharded, monkeypatch):
    _, folder = sharded
    monkeypatch.setattr("effdense.data.storage.shards.OPEN_FILES", 3)
    shards = open_shards(folder, "train")
    assert len(shards.index.shard_bytes) > 3 and OPEN_FILES > 3
    for i in range(len(shards.index)):
        shards.read(folder / shards.index.image_name(i))
        assert len(shards._files) <= 3


def test_every_fault_of_a_tar_is_found_and_named(sharded):
    records, folder = sharded
    first, second, third, fourth = sorted(folder.glob("*.tar"))[:4]
    whole = {path: path.read_bytes() for path in (first, second, third, fourth)}
    shards = open_shards(folder, "train")
    assert not check_shards(shards, deep=True).findings
    first.unlink()
    second.write_bytes(whole[second][:-600])
    third.write_bytes(b"\1" * len(whole[third]))
    flipped = bytearray(whole[fourth])
    flipped[530] ^= 1
    fourth.write_bytes(flipped)
    shards = open_shards(folder, "train")
    quick, deep = check_shards(shards), check_shards(shards, deep=True)
    found = {finding.code: finding.examples for finding in deep.errors}
    assert set(found) == {"missing-shard", "shard-size", "shard-header", "shard-checksum"}
    assert found["missing-shard"] == (first.name,) and second.name in found["shard-size"][0]
    assert third.name in found["shard-header"][0] and found["shard-checksum"] == (fourth.name,)
    assert {finding.code for finding in quick.errors} == set(found) - {"shard-checksum"}
    by_shard = {shards.index.image_name(i).split("/")[0]: i for i in reversed(range(len(records)))}
    last = max(i for i in range(len(records)) if shards.index.image_name(i).startswith(second.name))
    for i, message in (
        (by_shard[first.name], "the shard is missing"),
        (last, "it is cut short"),
        (by_shard[third.name], "not of the same writing"),
    ):
        path = folder / shards.index.image_name(i)
        if i == last:
            second.write_bytes(whole[second][: int(shards.index.image_offset[i]) + 5])
        with pytest.raises(DataError, match=message) as caught:
            read_image(path)
        assert str(path.parent) in str(caught.value)
    with pytest.raises(DataError, match="lists no such member"):
        read_image(folder / first.name / "000009999.png")
    with pytest.raises(DataError, match="lists no such member"):
        read_image(folder / second.name / "train.index.npz")


def rewrite(file: Path, **changes) -> None:
    with np.load(file) as archive:
        arrays = dict(archive)
    head = json.loads(arrays["head"].tobytes())
    head |= changes.pop("head", {})
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    for name, change in changes.items():
        arrays[name] = change(arrays[name].copy())
    np.savez(file, **arrays)


def put(position, value):
    def change(array):
        array[position] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"version": 2}}, "version 2, this effdense reads version 1"),
        ({"head": {"format": "other"}}, "not an index of shards"),
        ({"head": {"split": "../x"}}, r"split '\.\./x'"),
        ({"head": {"suffixes": ["jpg", "/../a"]}}, "file endings"),
        ({"head": {"shard_sha256": ["x"]}}, "SHA-256"),
        ({"head": {"class_map": {"names": ["a"]}}}, "category_ids"),
        ({"shard_of": put(0, 9999)}, "shard numbers"),
        ({"image_offset": put(0, -5)}, "lies outside its shard"),
        ({"image_bytes": put(0, 10**9)}, "lies outside its shard"),
        ({"image_bytes": lambda array: array[:-1]}, "different lengths"),
        ({"image_bytes": lambda array: array.astype(float)}, "expected whole numbers"),
        ({"names_offsets": put(1, 10**6)}, "list of names"),
        ({"annotation_labels": put(0, 2)}, "labels 0..2 of 2 classes"),
        ({"annotation_boxes": put((0, 0), np.nan)}, "NaN"),
        ({"annotation_offsets": put(1, 10**6)}, "offsets"),
        ({"annotation_areas": lambda array: array[:-1]}, "an array is"),
    ],
)
def test_an_index_at_odds_with_itself_is_refused(sharded, changes, message):
    _, folder = sharded
    rewrite(folder / "train.index.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_shards(str(folder), "train")
    assert "train.index.npz" in str(caught.value)


def test_an_index_that_is_none(sharded, tmp_path):
    _, folder = sharded
    file = folder / "train.index.npz"
    content = file.read_bytes()
    for damage in (content[:200], b"", b"PK\3\4" + bytes(100), content[:-100]):
        file.write_bytes(damage)
        with pytest.raises(DataError, match="cut short or damaged"):
            read_index(file)
    file.write_bytes(content)
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez_compressed(file, **arrays)
    with pytest.raises(DataError, match="are compressed"):
        read_index(file)
    np.savez(file, head=np.array([{"a": 1}], dtype=object))  # a pickle inside
    with pytest.raises(DataError, match="cannot be read"):
        read_index(file)
    file.unlink()
    with pytest.raises(DataError, match=r"no index of shards\. There are tars without an index"):
        read_shards(str(folder), "train")
    file.write_bytes(content)
    with pytest.raises(DataError, match="no such split; the folder has train"):
        read_shards(str(folder), "val")
    with pytest.raises(DataError, match="Expected the folder of shards at"):
        read_shards(str(tmp_path / "nowhere"), "val")
    with pytest.raises(ConfigError, match="name of a split"):
        read_shards(str(folder), "../train")
    with pytest.raises(DataError, match="written for detection, not for segmentation"):
        read_shards(str(folder), "train", task="segmentation")


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path):
    records = odd_records(tmp_path / "images")
    write_shards(records, tmp_path / "out", split="train")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(DataError, match="exists already"):
        write_shards(records, tmp_path / "out", split="train")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    records.path(3).write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"{records.path(3).name}: not a picture.*effdense check"):
        write_shards(records, tmp_path / "fresh", split="train")
    assert not (tmp_path / "fresh").exists()
    write_shards(records.subset([0, 1]), tmp_path / "out", split="val")
    assert len(list((tmp_path / "out").iterdir())) == len(before) + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "a/b"}, "split must be a name"),
        ({"split": "t", "shard_mb": 0}, "shard_mb must be more than 0"),
        ({"split": "t", "shuffle": -1}, "seed >= 0"),
    ],
)
def test_wrong_options_of_writing(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        write_shards(odd_records(tmp_path / "images"), tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="cannot write list"):
        write_shards([1], tmp_path / "out", split="train")


def test_odd_file_names_do_not_reach_the_tar(tmp_path):
    (tmp_path / "set" / "a.b").mkdir(parents=True)
    for name in ("x.y.png", "ä ö.PNG", "n" * 180 + ".png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / "a.b" / name)
    records, _ = read_image_folder(tmp_path / "set")
    write_shards(records, tmp_path / "out", split="train", shuffle=None)
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        assert all(name.split(".")[0].isdigit() for name in tar.getnames())
    samples = list(wds.WebDataset(str(tmp_path / "out" / "train-000000.tar"), shardshuffle=False))
    assert [json.loads(s["json"])["file_name"] for s in samples] == [records.paths[i] for i in range(3)]
    assert all(s["png"] for s in samples)


class TestShardShuffle:
    def sampler(self, folder, **options):
        read, _ = read_shards(str(folder), "train")
        return ShardShuffle(read, seed=3, **options), shard_numbers(read)

    def test_each_sample_once_and_few_shards_at_a_time(self, sharded):
        sampler, numbers = self.sampler(sharded[1], buffer_shards=2)
        order = [int(i) for i in sampler]
        assert sorted(order) == list(range(len(numbers))) and isinstance(next(iter(sampler)).seed, int)
        seen = numbers[order]
        windows, current = [], []
        for shard in seen:
            if shard not in current:
                if len(current) == 2:
                    windows.append(current)
                    current = []
                current = [*current, shard]
        windows.append(current)
        assert sorted(shard for window in windows for shard in window) == sorted(
            set(numbers.tolist())
        )  # no shard comes back
        assert (np.diff(seen) != 0).sum() > len(set(numbers.tolist()))  # and two are mixed

    def test_ranks_share_one_order_and_epochs_differ(self, sharded):
        whole, numbers = self.sampler(sharded[1], buffer_shards=3)
        whole.set_epoch(2)
        alone = [int(i) for i in whole]
        parts = []
        for rank in range(4):
            part, _ = self.sampler(sharded[1], buffer_shards=3, rank=rank, world_size=4)
            part.set_epoch(2)
            parts.append([int(i) for i in part])
        assert len({len(part) for part in parts}) == 1
        dealt = [part[k] for k in range(len(parts[0])) for part in parts]
        assert dealt[: len(alone)] == alone and dealt[len(alone) :] == alone[: len(dealt) - len(alone)]
        whole.set_epoch(3)
        assert [int(i) for i in whole] != alone
        assert len(numbers) == len(alone)

    def test_it_resumes_in_mid_epoch(self, sharded):
        whole, _ = self.sampler(sharded[1])
        later, _ = self.sampler(sharded[1], start=5)
        assert [int(i) for i in later] == [int(i) for i in whole][5:] and len(later) == len(whole) - 5
        assert isinstance(later, TrainSampler)

    def test_what_it_cannot_do(self, sharded):
        records, folder = sharded
        with pytest.raises(ConfigError, match="pictures in folders are shuffled without it"):
            ShardShuffle(records, seed=0)
        with pytest.raises(ConfigError, match="buffer_shards"):
            self.sampler(folder, buffer_shards=0)


@pytest.mark.skipif("EFFDENSE_DATA" not in os.environ, reason="EFFDENSE_DATA is not set")
def test_coco128_in_shards_is_coco128(tmp_path):
    from effdense.data import paths, read_coco

    root = paths.resolve("coco128")
    if not root.is_dir():
        pytest.skip(f"no coco128 in {root.parent}")
    records, _ = read_coco(root / "annotations" / "instances_train.json", root / "images", segments=True)
    write_shards(records, tmp_path / "out", split="train", shard_mb=5, shuffle=None)
    read, report = read_shards(str(tmp_path / "out"), "train", segments=True)
    assert not report.findings and same(read, records) and len(list((tmp_path / "out").glob("*.tar"))) > 3
    np.testing.assert_array_equal(read.segments.points, records.segments.points)
    assert all(read.path(i).name and read_image(read.path(i)).shape == (*records.sizes[i], 3) for i in range(0, 128, 9))


def test_a_tar_that_was_replaced_under_a_running_process(sharded):
    """Same member name at the same place, another length: bytes of the new file must not pass for the old picture."""
    _, folder = sharded
    shards = open_shards(folder, "train")
    tar = folder / shards.index.shard_names[0]
    content = bytearray(tar.read_bytes())
    content[124:136] = b"00000000077\0"
    tar.unlink()
    tar.write_bytes(content)
    with pytest.raises(DataError, match="not of the same writing"):
        shards.read(folder / shards.index.image_name(0))


@pytest.mark.parametrize(
    "options",
    [{"root": 3}, {"retries": "a"}, {"retries": -1}, {"timeout": -1}, {"timeout": 0}, {"cache_gigabytes": "a"},
     {"cache_gigabytes": 0}, {"split": 3}],
)  # fmt: skip
def test_wrong_options_of_reading(tmp_path, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        read_shards(**{"root": "https://nowhere.invalid/x", "split": "train", "cache_dir": tmp_path, **options})
