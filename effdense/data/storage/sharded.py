"""Sharded sets opened and checked: a folder or an address and a split in, records and a report out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport
from effdense.data.paths import require_dir, resolve
from effdense.data.records import ClassMap, DetectionRecords
from effdense.data.storage.shard_fetch import Remote, ShardCache, default_cache, is_url
from effdense.data.storage.shard_index import SPLIT_NAME, ShardIndex, index_name, read_index, split_of_shard
from effdense.data.storage.shard_records import Records, from_index, with_classes
from effdense.data.storage.shards import ShardSet, open_shards, register, shard_set_of
from effdense.errors import ConfigError, DataError

SHARD_LAYOUT = (
    "A sharded set is laid out as ROOT/SPLIT-000000.tar, ... and ROOT/SPLIT.index.npz; tools/make_shards.py writes it."
)
_CHUNK = 1 << 22


def read_shards(
    root: str,
    split: str,
    *,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    cache_dir: str | Path | None = None,
    cache_gigabytes: float | None = None,
    retries: int = 4,
    timeout: float = 60.0,
    allow_pipe: bool = False,
) -> tuple[Records, DataReport]:
    """Read a split of a sharded set. Only its index is read, and its tars' sizes are looked at.

    Args:
        root: folder, under ``EFFDENSE_DATA`` if relative; or address, see ``shard_fetch.Remote``.
        split: name. task: what it must be for; None: any.
        classes, class_map, keep_empty: as in every reader.
        segments: of a detection split: keep the outlines of the objects, where the shards have them.
        cache_dir: folder for the shards of an address, default ``$EFFDENSE_CACHE`` or ``~/.cache/effdense``.
        cache_gigabytes: how much of an address's shards to keep there (10^9 bytes); None: all.
        retries, timeout, allow_pipe: see ``Remote``.

    Raises:
        DataError: folder, index or address is missing or damaged, or the split is for another task.
        ConfigError: an option cannot be used.
    """
    if not isinstance(root, str) or not root:
        raise ConfigError(f"root must be the folder or the address of a sharded set, got {root!r}.")
    if not isinstance(split, str) or not SPLIT_NAME.fullmatch(split):
        raise ConfigError(f"split must be the name of a split, such as 'train', got {split!r}.")
    report = DataReport(f"{root} {split}")
    if is_url(root) and not root.startswith("file://"):
        limit = None if cache_gigabytes is None else int(_gigabytes(cache_gigabytes) * 1e9)
        key = hashlib.sha256(root.encode()).hexdigest()[:16]
        folder = (default_cache() if cache_dir is None else resolve(cache_dir)) / "shards" / key
        remote = Remote(root, folder, limit, retries=retries, timeout=timeout, allow_pipe=allow_pipe)
        shards = _open_remote(remote, split, report)
    else:
        folder = require_dir(resolve(root.removeprefix("file://")), "the folder of shards", advice=SHARD_LAYOUT)
        shards = open_shards(folder, split)
        report = report.merge(check_shards(shards))
    if task is not None and shards.index.task != task:
        raise DataError(
            f"{root}: split {split!r} was written for {shards.index.task}, not for {task}. Use "
            f"type='Sharded{shards.index.task.capitalize()}'."
        )
    records = from_index(shards.index, shards.folder)
    if isinstance(records, DetectionRecords) and not segments:
        records = replace(records, segments=None)
    return with_classes(records, classes, class_map, keep_empty=keep_empty), report


def _gigabytes(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ConfigError(f"cache_gigabytes must be a number above 0 (10^9 bytes), got {value!r}.")
    return value


def _open_remote(remote: Remote, split: str, report: DataReport) -> ShardSet:
    """Fetch the index, the old one of an earlier run where that fails, and forget shards that have changed."""
    file = remote.folder / index_name(split)
    before: ShardIndex | None = None
    with suppress(DataError):
        before = read_index(file)
    try:
        index = read_index(remote.download(index_name(split)))
    except DataError as error:
        if before is None:
            raise
        message = f"the index could not be fetched anew; that of an earlier run is used. ({error})"
        report.add("warning", "old-index", message, [remote.url(index_name(split))])
        index = before
    if index.split != split:
        raise DataError(f"{remote.url(index_name(split))}: it is the index of split {index.split!r}.")
    if before is not None:
        now = dict(zip(index.shard_names, index.shard_sha256, strict=True))
        for name, sha256 in zip(before.shard_names, before.shard_sha256, strict=True):
            if now.get(name) != sha256:
                (remote.folder / name).unlink(missing_ok=True)
    return register(ShardSet(remote.folder, index, ShardCache(remote, index)))


def check_shards(shards: ShardSet, *, deep: bool = False, workers: int = 4) -> DataReport:
    """Look whether the tars are there and whole.

    Args:
        deep: False compares sizes, and one member's header per shard, in milliseconds; True every member's header and
            the SHA-256 of every tar (reads everything, some 500 MB/s per worker). Shards of an address are fetched for
            it.
        workers: threads.

    Returns: errors ``missing-shard``, ``shard-size``, ``shard-header``, ``shard-checksum``.
    """
    report = DataReport(str(shards.folder / index_name(shards.index.split)))
    if shards.fetch is not None and not deep:
        return report
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(partial(_look, shards, deep), range(len(shards.index.shard_bytes))))
    for code, message in (
        ("missing-shard", "tars of the split do not exist; copy them beside the index."),
        ("shard-size", "tars are not of the size that the index says: cut short, or written anew. Copy them again."),
        ("shard-header", "tars hold other members than the index says: they are of another writing. Copy both again."),
        ("shard-checksum", "tars have another SHA-256 than the index says: they are damaged. Copy them again."),
    ):
        report.add("error", code, message, [place for look in found for fault, place in look if fault == code])
    return report


def _look(shards: ShardSet, deep: bool, shard: int) -> list[tuple[str, str]]:
    """(code, place) of the first fault of a tar."""
    index, name = shards.index, shards.index.shard_names[shard]
    try:
        path = shards.folder / name if shards.fetch is None else shards.fetch(shard)
    except DataError as error:
        return [("missing-shard", str(error).rstrip("."))]
    if not path.is_file():
        return [("missing-shard", name)]
    size, expected = path.stat().st_size, int(index.shard_bytes[shard])
    if size != expected:
        return [("shard-size", f"{name} ({size} bytes, expected {expected})")]
    members = np.flatnonzero(index.shard_of == shard)
    wrong = next((place for i in (members if deep else members[:1]) if (place := _header_fault(shards, int(i)))), None)
    if wrong is not None:
        return [("shard-header", wrong)]
    if deep:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != index.shard_sha256[shard]:
            return [("shard-checksum", name)]
    return []


def _header_fault(shards: ShardSet, index: int) -> str | None:
    """The member whose tar header is not where the index says."""
    names = [shards.index.image_name(index)]
    names += [shards.index.mask_name(index)] if len(shards.index.mask_offset) else []
    for name in names:
        try:
            shards.open(shards.folder / name).close()
        except DataError:
            return name
    return None


def _may_be_sharded(records: object) -> bool:
    """False at once for what is surely in folders: no name of it has ".tar" in it."""
    parts = getattr(records, "parts", (records,))
    lists = [getattr(part, key, None) for part in parts for key in ("names", "paths", "image_names")]
    return any(names is not None and b".tar" in names.buffer.tobytes() for names in lists)


def shard_numbers(records: object) -> NDArray[np.int64] | None:
    """(N,) the shard that each picture of the records is in, numbered over all sets; None where one is in no shard.

    For any records with ``path(i)`` and a length: also subsets and combined sets.
    """
    numbers: dict[str, int] = {}
    found = np.empty(len(records), np.int64)  # type: ignore[arg-type]
    for i in range(len(found)):
        shard = str(records.path(i)).rpartition("/")[0]  # type: ignore[attr-defined]
        found[i] = numbers.setdefault(shard, len(numbers))
    return found if all(split_of_shard(shard.rpartition("/")[2]) for shard in numbers) else None


def sets_of(records: object) -> list[ShardSet]:
    """The opened sets that pictures of the records are in."""
    if not _may_be_sharded(records):
        return []
    shards: dict[str, Path] = {}
    for i in range(len(records)):  # type: ignore[arg-type]
        path = records.path(i)  # type: ignore[attr-defined]
        shards.setdefault(str(path).rpartition("/")[0], path)
    found = [shard_set_of(path) for path in shards.values()]
    return list({id(one): one for one in found if one is not None}.values())
