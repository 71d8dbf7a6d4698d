"""The ``cache`` option of a loader: what it says, how much a split needs, and the store that does it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport
from effdense.data.image_io import ImageFault, PictureStore, inspect_file, read_bytes
from effdense.data.paths import resolve
from effdense.data.records import DetectionRecords
from effdense.data.storage.disk_cache import DiskCache
from effdense.data.storage.ram_cache import RamCache
from effdense.data.storage.shard_fetch import default_cache
from effdense.data.storage.sharded import sets_of
from effdense.data.storage.shards import ShardSet, TarStore
from effdense.errors import ConfigError, did_you_mean

_STAMP_THREADS = 16  # of a network file system each stat waits for an answer
_STAMP_CHUNK = 500
_HEADERS_TO_GUESS = 64
_DISK_GIGABYTES = 50.0


class FileStore:
    """Every picture from its file (or shard), every time."""

    def read(self, index: int, path: Path) -> bytes:
        """The file's content. Raises: DataError."""
        return read_bytes(path)


@dataclass(frozen=True)
class CacheOptions:
    """``cache="ram"``, ``"disk"``, or a dict of these.

    Args:
        type: "ram" or "disk".
        gigabytes: limit in 10^9 bytes: of memory for all training processes of a machine together (default: what the
            split needs, at most half of what is free), or of the folder (default 50).
        decoded: memory only: keep pixels.
        dir: disk only: folder, under ``EFFDENSE_DATA`` if relative; default ``$EFFDENSE_CACHE/pictures`` or
            ``~/.cache/effdense/pictures``.

    Raises: ConfigError.
    """

    type: Literal["ram", "disk"]
    gigabytes: float | None = None
    decoded: bool = False
    dir: str | None = None

    @classmethod
    def of(cls, option: Any, where: str = "cache") -> CacheOptions:
        """From a config's value."""
        given = {"type": option} if isinstance(option, str) else option
        known = [one.name for one in fields(cls)]
        if not isinstance(given, Mapping) or given.get("type") not in ("ram", "disk"):
            raise ConfigError(
                f'{where} must be "ram", "disk", or dict(type="ram" or "disk", gigabytes=...), got {option!r}.'
            )
        for key in given:
            if key not in known:
                raise ConfigError(f"{where}: unknown key {key!r}.{did_you_mean(str(key), known)} Known: {known}.")
        options = cls(**given)
        size = options.gigabytes
        if size is not None and (
            isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 < size < float("inf")
        ):
            raise ConfigError(f"{where}.gigabytes must be a number above 0, got {size!r}.")
        if not isinstance(options.decoded, bool):
            raise ConfigError(f"{where}.decoded must be True or False, got {options.decoded!r}.")
        if options.dir is not None and not isinstance(options.dir, (str, Path)):
            raise ConfigError(f"{where}.dir must be the path of a folder, got {options.dir!r}.")
        if options.type == "disk" and options.decoded:
            raise ConfigError(f"{where}: decoded=True is for type='ram'; a disk cache keeps the files as they are.")
        if options.type == "ram" and options.dir is not None:
            raise ConfigError(f"{where}: dir is for type='disk'; memory has none.")
        return options


@dataclass(frozen=True)
class CachePlan:
    """A store, what it will hold, in a line for the log, and what is to be said about it."""

    store: PictureStore
    text: str
    report: DataReport = field(default_factory=DataReport)


def paths_of(records: Any) -> list[Path]:
    """Pictures of a split, then its masks where it has any."""
    pictures = [records.path(index) for index in range(len(records))]
    return pictures + (list(records.mask_paths) if hasattr(records, "mask_paths") else [])


def stamps_of(paths: list[Path]) -> NDArray[np.int64]:
    """(count, 2) size and time of change (ns) of files; zeros where there is none."""
    chunks = [paths[start : start + _STAMP_CHUNK] for start in range(0, len(paths), _STAMP_CHUNK)]
    with ThreadPoolExecutor(_STAMP_THREADS) as pool:
        found = list(pool.map(lambda chunk: [_stamp(path) for path in chunk], chunks))
    return np.array([stamp for chunk in found for stamp in chunk], np.int64).reshape(-1, 2)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    except OSError:
        return 0, 0


def plan_store(records: Any, option: Any, *, processes: int = 1, where: str = "cache") -> CachePlan | None:
    """The store of a split's dataset; None where files are read as they are.

    Args:
        records: of any task.
        option: the config's ``cache``, or None.
        processes: training processes on this machine, which share the memory that there is.

    Raises: ConfigError for options that cannot be used.
    """
    sets = sets_of(records)
    source: PictureStore = TarStore(sets) if sets else FileStore()
    if option is None:
        return CachePlan(source, "shards") if sets else None
    options = CacheOptions.of(option, where)
    if options.type == "disk" and sets:
        raise ConfigError(
            f"{where}: shards of an address are kept on disk anyway (the data set's cache_dir and cache_gigabytes), "
            "and local ones are there already; remove the disk cache, or use cache='ram'."
        )
    paths = paths_of(records)
    stamps = _member_stamps(paths, sets) if sets else stamps_of(paths)
    if options.type == "disk":
        return _disk(source, options, paths, stamps, len(records))
    return _ram(source, options, records, stamps, processes, where)


def _member_stamps(paths: list[Path], sets: list[ShardSet]) -> NDArray[np.int64]:
    """The same where some or all are members of shards: their sizes as the index says."""
    by_shard = {str(one.folder / name): (one, name) for one in sets for name in one.index.shard_names}
    stamps = np.zeros((len(paths), 2), np.int64)
    for i, path in enumerate(paths):
        shard, _, member_name = str(path).rpartition("/")
        place = by_shard.get(shard)
        member = None if place is None else place[0].index.find(place[1], member_name)
        stamps[i] = _stamp(path) if member is None else (member.size, 0)
    return stamps


def _disk(
    source: PictureStore, options: CacheOptions, paths: list[Path], stamps: NDArray[np.int64], pictures: int
) -> CachePlan:
    folder = default_cache() / "pictures" if options.dir is None else resolve(options.dir)
    limit = int((_DISK_GIGABYTES if options.gigabytes is None else options.gigabytes) * 1e9)
    store = DiskCache(source, folder, stamps, limit, pictures=pictures)
    need, there = int(stamps[:, 0].sum()), store.holds(paths)
    text = f"disk cache {folder}: {there} of {len(paths)} files are there, {need / 1e9:.2f} GB in all"
    report = DataReport()
    missing = need * (1 - there / max(1, len(paths)))
    if store.used + missing > limit:
        message = (
            f"the disk cache may grow to {limit / 1e9:.3g} GB and has {store.used / 1e9:.3g} GB in it, the split lacks "
            f"{missing / 1e9:.3g} GB: the rest is read from its place in every epoch. Raise gigabytes, or empty the "
            "folder where its content is of old runs."
        )
        report.add("warning", "cache-too-small", message, [str(folder)])
    return CachePlan(store, text, report)


def _ram(
    source: PictureStore, options: CacheOptions, records: Any, stamps: NDArray[np.int64], processes: int, where: str
) -> CachePlan:
    pictures = len(records)
    need, about = int(stamps[:, 0].sum()), ""
    if options.decoded:
        pixels, about = _decoded_bytes(records)
        need = pixels + int(stamps[pictures:, 0].sum())
    free = free_memory()
    if options.gigabytes is not None:
        limit = int(options.gigabytes * 1e9 / processes)
    else:
        limit = need + need // 8 if free is None else min(need + need // 8, free // (2 * processes))
    limit = min(limit, need + need // 8 + (1 << 20))  # a guess of the need may be low
    share = min(1.0, limit / max(1, need))
    kind = "decoded pictures" if options.decoded else "files"
    text = f"RAM cache: {min(limit, need) / 1e9:.2f} of {about}{need / 1e9:.2f} GB of {kind}"
    text += f", in each of {processes} processes" if processes > 1 else ""
    report = DataReport()
    if share < 0.999:
        message = (
            f"the RAM cache holds {100 * share:.0f} % of the split ({limit / 1e9:.3g} of {about}{need / 1e9:.3g} GB"
            + (f" in each of {processes} processes" if processes > 1 else "")
            + "); the rest is read from its place in every epoch. Raise gigabytes"
            + (", keep files instead of pixels (decoded=False)" if options.decoded else "")
            + " or use cache='disk'."
        )
        report.add("warning", "cache-too-small", message, [where])
    if free is not None and limit * processes > free:
        message = (
            f"the RAM cache may grow to {limit * processes / 1e9:.3g} GB, but {free / 1e9:.3g} GB of memory are free: "
            "lower gigabytes, or the system will end the run."
        )
        report.add("warning", "cache-beyond-memory", message, [where])
    return CachePlan(RamCache(source, len(stamps), limit, pictures=pictures, decoded=options.decoded), text, report)


def _decoded_bytes(records: Any) -> tuple[int, str]:
    """Bytes of all pictures as pixels, and "about " where that is a guess from some headers."""
    if isinstance(records, DetectionRecords):
        return int(records.sizes.astype(np.int64).prod(1).sum()) * 3, ""
    some = np.unique(np.linspace(0, len(records) - 1, min(_HEADERS_TO_GUESS, len(records))).round().astype(int))
    headers = [inspect_file(records.path(int(i))) for i in some]
    sizes = [header.size for header in headers if not isinstance(header, ImageFault)]
    mean = float(np.mean([height * width for height, width in sizes])) if sizes else 0.0
    return int(3 * mean * len(records)), "about "


def free_memory() -> int | None:
    """Bytes that programs may still take, by the kernel and by the container's limit; None where that is unknown."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found.append(limit - used + int(stat.get("inactive_file", 0)))
    return max(0, min(found)) if found else None
