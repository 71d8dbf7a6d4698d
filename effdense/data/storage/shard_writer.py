"""A split written as tar shards that webdataset reads too, with an index for random access.

Each sample is ``NNNNNNNNN.jpg`` (the picture file as it is), ``NNNNNNNNN.json`` (its annotations), and as the task
needs ``NNNNNNNNN.mask.png`` or ``NNNNNNNNN.cls``. Nothing is decoded or encoded again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdense.data.image_io import ImageFault, read_bytes, read_header
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.records import DetectionRecords, PackedStrings
from effdense.data.storage.shard_index import MASK, SPLIT_NAME, ShardIndex, index_name, shard_name
from effdense.data.storage.shard_records import Records, task_of, to_arrays
from effdense.errors import ConfigError, DataError, MissingExtra

_SUFFIX = re.compile(r"[a-z0-9]{2,5}")
_TAKEN = frozenset({"json", "cls"})  # endings of the other parts of a sample


@dataclass(frozen=True)
class WrittenShards:
    """What was written: ``index`` file, number of ``shards`` and ``samples``, bytes of the tars."""

    index: Path
    shards: int
    samples: int
    bytes: int


class _Place(NamedTuple):
    shard: int
    offset: int
    size: int


class _HashingFile(io.RawIOBase):
    """Counts and hashes what goes into a file."""

    def __init__(self, path: Path) -> None:
        self.stream: BinaryIO = path.open("xb")
        self.digest, self.count = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.stream.write(content)
        self.digest.update(content)
        self.count += len(content)
        return len(content)

    def close(self) -> None:
        self.stream.close()
        super().close()


def write_shards(
    records: Records,
    out: str | Path,
    *,
    split: str,
    shard_mb: float = 256,
    shuffle: int | None = 0,
    progress: Callable[[int, int], None] | None = None,
) -> WrittenShards:
    """Write a split as ``OUT/SPLIT-000000.tar`` ... and ``OUT/SPLIT.index.npz``.

    Args:
        records: of a detection, segmentation or classification split.
        out: folder, made if need be. Files of the split that are there already are never overwritten.
        split: "train", "val", ...
        shard_mb: content of a shard in MB (10^6 bytes); the last picture may go beyond.
        shuffle: seed of the order in the shards: a reader that takes shard after shard should meet all classes. None
            keeps the order of the records.
        progress: called with (samples done, samples).

    Raises:
        MissingExtra: webdataset is not installed.
        ConfigError: an option cannot be used.
        DataError: files of this split are there, a picture or mask cannot be read, or the disk is full; nothing is left
            behind then.
    """
    try:
        from webdataset import ShardWriter
    except ImportError as error:
        raise MissingExtra('writing shards needs webdataset; run: pip install "effdense[shards]"') from error
    task = task_of(records)
    if not SPLIT_NAME.fullmatch(split):
        raise ConfigError(f"split must be a name of letters, digits, '_', '-' and '.', got {split!r}.")
    if not shard_mb > 0:
        raise ConfigError(f"shard_mb must be more than 0, got {shard_mb}.")
    if shuffle is not None and shuffle < 0:
        raise ConfigError(f"shuffle is a seed >= 0, or None, got {shuffle}.")
    if not len(records):
        raise DataError("the split has no picture, so there is nothing to write.")
    out = Path(out)
    _refuse_overwriting(out, split)
    order = np.arange(len(records))
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(order)
    records = records.subset(order)
    partial = out / f".{split}.{uuid.uuid4().hex[:8]}.part"
    made = not out.exists()
    try:
        partial.mkdir(parents=True)
        written = _Tars(partial, split)
        pattern = str(partial).replace("%", "%%") + f"/{split}-%06d.tar"
        with ShardWriter(
            pattern, maxcount=len(records), maxsize=shard_mb * 1e6, opener=written.open, post=written.close,
            encoder=False, mtime=0, user="", group="", verbose=0,
        ) as writer:  # fmt: skip
            for i in range(len(records)):
                writer.write(_sample(records, i))
                if progress is not None:
                    progress(i + 1, len(records))
        index = _index(task, split, records, written)
        np.savez(partial / index_name(split), **index.to_arrays())  # type: ignore[arg-type]
        _refuse_overwriting(out, split)
        for name in (*index.shard_names, index_name(split)):  # the index last: it is what makes them a set
            os.replace(partial / name, out / name)
    except OSError as error:
        raise DataError(f"{out}: the shards cannot be written ({error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    total = int(index.shard_bytes.sum())
    return WrittenShards(out / index_name(split), len(index.shard_bytes), len(index), total)


def _refuse_overwriting(out: Path, split: str) -> None:
    there = [path for path in (out / index_name(split), out / shard_name(split, 0)) if path.exists()]
    if there:
        raise DataError(f"{there[0]} exists already; choose another folder or split name, or remove the old shards.")


def _sample(records: Records, index: int) -> dict[str, Any]:
    """One webdataset sample."""
    path = records.path(index)
    image = read_bytes(path)
    header = read_header(io.BytesIO(image))
    if isinstance(header, ImageFault):
        raise DataError(f"{path}: {header.reason} Mend or remove it first; effdense check lists every such file.")
    suffix = path.suffix.lower().lstrip(".")
    if not _SUFFIX.fullmatch(suffix) or suffix in _TAKEN:
        suffix = header.format.lower()[:5] or "img"
    sample: dict[str, Any] = {"__key__": f"{index:09d}", suffix: image}
    facts: dict[str, Any] = {"file_name": _file_name(records, index)}
    if isinstance(records, DetectionRecords):
        facts |= _objects(records, index)
    else:
        facts |= {"height": header.oriented_size[0], "width": header.oriented_size[1]}
    if isinstance(records, ClassificationRecords):
        label = int(records.labels[index])
        sample["cls"] = str(label).encode()
        facts |= {"label": label, "name": records.class_map.names[label]}
    if isinstance(records, SegmentationRecords):
        sample[f"{MASK}.png"] = read_bytes(records.mask_path(index))
        facts["classes"] = dict(zip(records.class_map.names, records.coding.values))
    sample["json"] = json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return sample


def _file_name(records: Records, index: int) -> str:
    """The picture's name below its folder; of sets with absolute names the last part only."""
    if isinstance(records, DetectionRecords):
        name = records.names[index]
    else:
        name = records.image_names[index] if isinstance(records, SegmentationRecords) else records.paths[index]
    return Path(name).name if os.path.isabs(name) else name


def _objects(records: DetectionRecords, index: int) -> dict[str, Any]:
    record = records[index]
    facts: dict[str, Any] = {
        "image_id": record.image_id,
        "height": record.height,
        "width": record.width,
        "boxes": record.boxes.tolist(),  # x0, y0, x1, y1 px
        "labels": record.labels.tolist(),
        "names": [records.class_map.names[label] for label in record.labels],
        "category_ids": [records.class_map.category_ids[label] for label in record.labels],
        "is_crowd": record.is_crowd.tolist(),
        "annotation_ids": record.annotation_ids.tolist(),
        "areas": record.areas.tolist(),
    }
    if record.segments is not None:
        facts["segmentations"] = [None if s is None else s.to_coco() for s in record.segments]
    return facts


class _Tars:
    """The tars being written: what ``ShardWriter`` opens and closes, and where their members came to lie."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self.current: _HashingFile | None = None
        self.sizes: list[int] = []
        self.hashes: list[str] = []
        self.places: dict[int, dict[str, _Place]] = {}

    def open(self, name: str) -> _HashingFile:
        self.current = _HashingFile(Path(name))
        return self.current

    def close(self, name: str) -> None:
        assert self.current is not None
        self.current.close()
        shard = len(self.sizes)
        self.sizes.append(self.current.count)
        self.hashes.append(self.current.digest.hexdigest())
        with tarfile.open(name, "r:") as tar:
            for member in tar:
                key, _, part = member.name.partition(".")
                self.places.setdefault(int(key), {})[part] = _Place(shard, member.offset_data, member.size)


def _index(task: str, split: str, records: Records, written: _Tars) -> ShardIndex:
    count = len(records)
    parts = [written.places[i] for i in range(count)]
    endings = [next(part for part in place if part not in _TAKEN and not part.startswith(MASK)) for place in parts]
    suffixes = tuple(sorted(set(endings)))
    if len(suffixes) > 255:
        raise DataError(f"{len(suffixes)} different file endings: {suffixes[:5]} ...; expected a handful.")
    images = [place[ending] for place, ending in zip(parts, endings, strict=True)]
    masks = [place[f"{MASK}.png"] for place in parts] if task == "segmentation" else []
    annotations, extra = to_arrays(records)

    def column(places: list[_Place], name: str) -> NDArray[np.int64]:
        return np.array([getattr(place, name) for place in places], np.int64)

    return ShardIndex(
        task=task,
        split=split,
        class_map=records.class_map,
        shard_of=column(images, "shard").astype(np.int32),
        image_offset=column(images, "offset"),
        image_bytes=column(images, "size"),
        mask_offset=column(masks, "offset"),
        mask_bytes=column(masks, "size"),
        suffixes=suffixes,
        suffix_of=np.array([suffixes.index(ending) for ending in endings], np.uint8),
        shard_bytes=np.array(written.sizes, np.int64),
        shard_sha256=tuple(written.hashes),
        names=PackedStrings(_file_name(records, i) for i in range(count)),
        annotations=annotations,
        extra=extra,
    )
