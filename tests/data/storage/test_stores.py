"""Files, memory, disk cache and shards: every store gives the same pixels, and says what goes wrong."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from effdense.data import ClassificationDataset, DetectionDataset, collate_detection, read_image, read_image_folder
from effdense.data.image_io import inspect_file
from effdense.data.readers.mask_folder import read_mask_folder
from effdense.data.segmentation import SegmentationDataset
from effdense.data.storage.disk_cache import DiskCache
from effdense.data.storage.picture_cache import CacheOptions, FileStore, free_memory, paths_of, plan_store, stamps_of
from effdense.data.storage.ram_cache import RamCache
from effdense.data.storage.shard_records import from_index
from effdense.data.storage.shard_writer import write_shards
from effdense.data.storage.shards import TarStore, open_shards
from effdense.data.transforms.geometry import ResizePad
from effdense.errors import ConfigError, DataError
from tests.data.odd_pictures import odd_records, write_odd_pictures


class Counting:
    """Files, and how often each was asked for."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def read(self, index: int, path: Path) -> bytes:
        self.reads.append(index)
        return path.read_bytes()


class Gone:
    """A source that has nothing any more."""

    def read(self, index: int, path: Path) -> bytes:
        raise DataError(f"{path}: asked for again")


def disk(source, folder, records, max_bytes=10**9):
    paths = paths_of(records)
    return DiskCache(source, folder, stamps_of(paths), max_bytes, pictures=len(records))


@pytest.mark.parametrize("kind", ["files", "ram", "decoded", "disk", "tar", "ram over tar"])
def test_every_store_decodes_every_kind_of_picture(tmp_path, kind):
    expected = write_odd_pictures(tmp_path / "images")
    records = odd_records(tmp_path / "images")
    names = [records.path(i).name for i in range(len(records))]
    assert sorted(set(names)) == sorted(expected)
    if "tar" in kind:
        write_shards(records, tmp_path / "shards", split="train", shard_mb=0.002, shuffle=None)
        shards = open_shards(tmp_path / "shards", "train")
        assert len(shards.index.shard_bytes) > 1
        records = from_index(shards.index, tmp_path / "shards")
        store = TarStore([shards])
        store = RamCache(store, len(records), 10**6) if "ram" in kind else store
    else:
        store = {
            "files": lambda: FileStore(),
            "ram": lambda: RamCache(FileStore(), len(records), 10**6),
            "decoded": lambda: RamCache(FileStore(), len(records), 10**6, decoded=True),
            "disk": lambda: disk(FileStore(), tmp_path / "cache", records),
        }[kind]()
    dataset = DetectionDataset(records, [], training=False, store=store)
    plain = DetectionDataset(records, [], training=False)
    for _ in range(3):  # filling, from the cache, and again
        for i, name in enumerate(names):
            sample = dataset.load(i)
            wanted = expected[name]
            if name == "turned.png" and sample["original_size"] != wanted.shape[:2]:
                wanted = np.rot90(wanted)  # annotated by its stored size: the stored pixels
            assert sample["image"].shape == (*sample["original_size"], 3)
            assert np.abs(sample["image"].astype(int) - wanted).max() <= 4, name  # JPEG decoders differ in rounding
            np.testing.assert_array_equal(sample["image"], plain.load(i)["image"])
            sample["image"][:] = 0  # what a transform does in place must not reach the cache


@pytest.mark.parametrize("decoded", [False, True])
def test_ram_reads_each_picture_once_and_keeps_to_its_limit(tmp_path, decoded):
    records = odd_records(tmp_path / "images")
    source = Counting()
    cache = RamCache(source, len(records), 10**6, decoded=decoded)
    for _ in range(3):
        for i in range(len(records)):
            read_image(records.path(i), data=cache.read(i, records.path(i)))
    assert sorted(source.reads) == list(range(len(records)))
    entries, size = cache.held
    files = sum(records.path(i).stat().st_size for i in range(len(records)))
    turned = sum(os.path.getsize(records.path(i)) for i in range(len(records)) if "turned" in records.names[i])
    upright = sum("turned" not in records.names[i] for i in range(len(records)))
    assert entries == len(records)
    assert size == (files if not decoded else 40 * 64 * 3 * upright + turned)

    small = RamCache(source, len(records), size // 2, decoded=decoded)
    for _ in range(2):
        for i in range(len(records)):
            read_image(records.path(i), data=small.read(i, records.path(i)))
    held = small.held
    assert 0 < held[0] < len(records) and held[1] <= size // 2


def test_ram_is_shared_by_forked_workers_and_by_those_that_come_later(tmp_path):
    records = odd_records(tmp_path / "images", copies=3)
    cache = RamCache(FileStore(), len(records), 10**6)
    dataset = DetectionDataset(records, [ResizePad((32, 32))], training=True, store=cache)

    def batches():
        loader = DataLoader(
            dataset, batch_size=4, num_workers=2, collate_fn=collate_detection, multiprocessing_context="fork"
        )
        return [batch["inputs"].clone() for batch in loader]

    first = batches()
    assert cache.held[0] == len(records)  # seen from here, though the workers filled it
    cache.source = Gone()
    assert all((a == b).all() for a, b in zip(batches(), first, strict=True))


def test_ram_filled_from_many_processes_at_once_is_right(tmp_path):
    records = odd_records(tmp_path / "images", copies=4)
    cache = RamCache(FileStore(), len(records), 10**6)
    context = multiprocessing.get_context("fork")

    def fill(seed):
        for i in np.random.default_rng(seed).permutation(len(records)).tolist():
            if cache.read(i, records.path(i)) != records.path(i).read_bytes():
                os._exit(1)

    workers = [context.Process(target=fill, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    cache.source = Gone()
    assert all(cache.read(i, records.path(i)) == records.path(i).read_bytes() for i in range(len(records)))
    assert cache.held[1] == sum(records.path(i).stat().st_size for i in range(len(records)))  # nothing twice


def test_ram_goes_on_without_new_entries_when_its_lock_is_lost(tmp_path, monkeypatch):
    records = odd_records(tmp_path / "images")
    monkeypatch.setattr("effdense.data.storage.ram_cache._PATIENCE", 0.01)
    cache = RamCache(FileStore(), len(records), 10**6)
    cache.lock.acquire()  # as a worker that was killed would leave it
    assert cache.read(0, records.path(0)) == records.path(0).read_bytes()
    assert cache.held == (0, 0)


def test_a_copy_of_a_ram_cache_in_another_process_reads_the_source(tmp_path):
    records = odd_records(tmp_path / "images")
    cache = RamCache(FileStore(), len(records), 10**6, decoded=True)
    cache.read(0, records.path(0))
    copy = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(copy.read(0, records.path(0)), read_image(records.path(0)))
    assert copy.held == (0, 0) and cache.held[0] == 1


def test_a_broken_picture_is_not_cached_and_named(tmp_path):
    records = odd_records(tmp_path / "images")
    broken = records.path(0)
    broken.write_bytes(broken.read_bytes()[:100])
    for store in (RamCache(FileStore(), len(records), 10**6, decoded=True), disk(FileStore(), tmp_path / "c", records)):
        dataset = DetectionDataset(records, [], training=False, store=store)
        for _ in range(2):
            with pytest.raises(DataError, match=broken.name):
                dataset.load(0)
    missing = records.path(1)
    missing.unlink()
    with pytest.raises(DataError, match=f"{missing.name}: the file does not exist"):
        RamCache(FileStore(), len(records), 10**6).read(1, missing)


def test_disk_copies_once_for_all_and_for_later_runs(tmp_path):
    records = odd_records(tmp_path / "images")
    source = Counting()
    cache = disk(source, tmp_path / "cache", records)
    contents = [cache.read(i, records.path(i)) for i in range(len(records))]
    again = disk(Gone(), tmp_path / "cache", records)
    assert again.holds(paths_of(records)) == len(records)
    assert [again.read(i, records.path(i)) for i in range(len(records))] == contents
    assert len(source.reads) == len({records.path(i) for i in range(len(records))})  # the doubled file is one entry
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_disk_makes_damaged_copies_anew_and_forgets_changed_pictures(tmp_path):
    records = odd_records(tmp_path / "images")
    path = records.path(0)
    cache = disk(FileStore(), tmp_path / "cache", records)
    content = cache.read(0, path)
    place = cache.place(0, path)
    whole = place.read_bytes()
    for damage in (whole[:-5], b"", whole[:10], whole[:-1] + bytes([whole[-1] ^ 1]), b"x" * len(whole)):
        place.write_bytes(damage)
        assert cache.read(0, path) == content
        assert place.read_bytes() == whole
    Image.new("RGB", (64, 40), (9, 9, 9)).save(path)
    os.utime(path, ns=(1, 1))
    fresh = disk(FileStore(), tmp_path / "cache", records)
    assert fresh.read(0, path) == path.read_bytes() != content


def test_disk_keeps_to_its_limit_and_counts_what_others_wrote(tmp_path):
    records = odd_records(tmp_path / "images")
    sizes = [records.path(i).stat().st_size for i in range(len(records))]
    limit = sum(sizes) // 2
    cache = disk(FileStore(), tmp_path / "cache", records, limit)
    for i in range(len(records)):
        assert cache.read(i, records.path(i)) == records.path(i).read_bytes()
    written = sum(file.stat().st_size for file in (tmp_path / "cache").glob("??/*"))
    assert 0 < written <= limit and cache.used == written
    assert disk(FileStore(), tmp_path / "cache", records, limit).used == written  # counted anew


def test_disk_written_by_threads_at_once_is_whole(tmp_path):
    records = odd_records(tmp_path / "images", copies=2)
    caches = [disk(FileStore(), tmp_path / "cache", records) for _ in range(4)]
    wrong = []

    def read(cache):
        for i in range(len(records)):
            if cache.read(i, records.path(i)) != records.path(i).read_bytes():
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for file in (tmp_path / "cache").glob("??/*"):
        content = file.read_bytes()
        assert zlib.crc32(content[20:]) == int.from_bytes(content[16:20], "little")


def test_a_disk_that_cannot_be_written_is_refused_or_left_alone(tmp_path):
    records = odd_records(tmp_path / "images")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot use .*file.*dir="):
        disk(FileStore(), tmp_path / "file", records)
    cache = disk(FileStore(), tmp_path / "cache", records)
    place = cache.place(0, records.path(0))
    place.parent.write_text("in the way")
    with pytest.warns(RuntimeWarning, match="nothing more goes into the disk cache"):
        assert cache.read(0, records.path(0)) == records.path(0).read_bytes()
    assert cache.full


def test_masks_are_cached_too(tmp_path):
    for i in range(3):
        for name, mode in (("images", "RGB"), ("masks", "L")):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(np.full((16, 16), i % 2, np.uint8)).convert(mode).save(tmp_path / name / f"{i}.png")
    records, _ = read_mask_folder(tmp_path / "images", tmp_path / "masks", classes=["a", "b"])
    for option in ("ram", {"type": "disk", "dir": str(tmp_path / "cache")}):
        plan = plan_store(records, option)
        dataset = SegmentationDataset(records, [], training=True, store=plan.store)
        first = [dataset.load(i) for i in range(3)]
        plan.store.source = Gone()
        for i, sample in enumerate(first):
            assert (sample["mask"] == i % 2).all()
            np.testing.assert_array_equal(dataset.load(i)["mask"], sample["mask"])
            np.testing.assert_array_equal(dataset.load(i)["image"], sample["image"])


def test_classification_reads_through_the_store(tmp_path):
    write_odd_pictures(tmp_path / "set" / "odd")
    records, _ = read_image_folder(tmp_path / "set")
    plan = plan_store(records, {"type": "ram", "decoded": True, "gigabytes": 0.001})
    dataset = ClassificationDataset(records, [], training=True, store=plan.store)
    first = [dataset.load(i)["image"] for i in range(len(records))]
    upright = [i for i in range(len(records)) if "turned" not in records.paths[i]]
    plan.store.source = Gone()
    for i in range(len(records)):
        np.testing.assert_array_equal(dataset.load(i)["image"], first[i])
        np.testing.assert_array_equal(first[i], read_image(records.path(i)))
    assert plan.store.held[0] == len(records) and len(upright) == len(records) - 1
    assert "about" in plan.text


def test_the_plan_says_what_fits(tmp_path):
    records = odd_records(tmp_path / "images", copies=40)
    need = sum(p.stat().st_size for p in paths_of(records))
    assert plan_store(records, None) is None
    plan = plan_store(records, "ram")
    assert f"{need / 1e9:.2f} of {need / 1e9:.2f} GB of files" in plan.text and not plan.report.findings
    small = plan_store(records, {"type": "ram", "gigabytes": need / 2e9})
    assert [f.code for f in small.report.warnings] == ["cache-too-small"]
    assert "50 % of the split" in small.report.warnings[0].message
    shared = plan_store(records, {"type": "ram", "gigabytes": need / 1e9}, processes=4)
    assert "25 % of the split" in shared.report.warnings[0].message and "each of 4 processes" in shared.text
    pixels = plan_store(records, {"type": "ram", "decoded": True, "gigabytes": 1})
    exact = int(records.sizes.prod(1).sum()) * 3
    assert f"of {exact / 1e9:.2f} GB of decoded pictures" in pixels.text
    full = plan_store(records, {"type": "disk", "dir": str(tmp_path / "cache"), "gigabytes": need / 2e9})
    assert [f.code for f in full.report.warnings] == ["cache-too-small"]
    assert "Raise gigabytes" in full.report.warnings[0].message


def test_more_than_the_memory_there_is_gets_a_warning(tmp_path, monkeypatch):
    records = odd_records(tmp_path / "images")
    need = sum(p.stat().st_size for p in paths_of(records))
    monkeypatch.setattr("effdense.data.storage.picture_cache.free_memory", lambda: need // 2)
    plan = plan_store(records, {"type": "ram", "gigabytes": 10})
    assert [f.code for f in plan.report.warnings] == ["cache-beyond-memory"]
    automatic = plan_store(records, "ram")
    assert [f.code for f in automatic.report.warnings] == ["cache-too-small"]
    assert automatic.store.max_bytes == need // 4


def test_free_memory_is_a_plausible_number():
    free = free_memory()
    assert free is None or 10**7 < free < 10**14


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rma", 'must be "ram", "disk"'),
        (True, 'must be "ram", "disk"'),
        ({"type": "ram", "gigabyte": 1}, "Did you mean 'gigabytes'"),
        ({"gigabytes": 1}, 'must be "ram"'),
        ({"type": "ram", "gigabytes": 0}, "above 0"),
        ({"type": "ram", "gigabytes": "8"}, "above 0"),
        ({"type": "ram", "dir": "x"}, "dir is for type='disk'"),
        ({"type": "disk", "decoded": True}, "decoded=True is for type='ram'"),
    ],
)
def test_a_wrong_option_is_named(option, message):
    with pytest.raises(ConfigError, match=message):
        CacheOptions.of(option, "train_dataloader.cache")


def test_the_check_sees_members_of_shards(tmp_path):
    records = odd_records(tmp_path / "images")
    write_shards(records, tmp_path / "shards", split="val", shuffle=None)
    inside = from_index(open_shards(tmp_path / "shards", "val").index, tmp_path / "shards")
    for i in range(len(records)):
        assert inspect_file(inside.path(i)) == inspect_file(records.path(i))
    assert inspect_file(tmp_path / "shards" / "val-000000.tar" / "000000999.png").code == "unreadable-image"
    assert inspect_file(tmp_path / "none.tar" / "a.png").code == "missing-image"


def test_decoded_pictures_do_not_depend_on_room_or_process(tmp_path):
    """A JPEG decoder halves a little differently from means of pixels, so a sample must not see both."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    path = tmp_path / "a.jpg"
    roomy, full = (RamCache(FileStore(), 1, size, decoded=True) for size in (10**6, 10))
    elsewhere = pickle.loads(pickle.dumps(roomy))
    seen = [store.read(0, path) for store in (roomy, roomy, full, full, elsewhere)]
    assert all(isinstance(one, np.ndarray) and np.array_equal(one, seen[0]) for one in seen)
    assert roomy.held[0] == 1 and full.held[0] == 0


@pytest.mark.parametrize(
    "option",
    [{"decoded": "yes"}, {"gigabytes": float("inf")}, {"type": "disk", "dir": 3}],
)
def test_cache_options_of_the_wrong_kind(option):
    with pytest.raises(ConfigError, match=next(key for key in option if key != "type")):
        CacheOptions.of({"type": "ram", **option})


def test_a_memory_cache_needs_fork(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(ConfigError, match="forked"):
        RamCache(FileStore(), 1, 10)
