"""The index of a sharded split: where every picture lies in which tar, and all annotations, in one npz of plain arrays.

``SPLIT.index.npz`` lies beside ``SPLIT-000000.tar`` ...; opening a set of 100 000 pictures reads this one file and
scans no tar. Member ``i`` of a split is called ``NNNNNNNNN.jpg`` (its number, nine digits), its mask
``NNNNNNNNN.mask.png``. Nothing in an index is trusted: arrays are read without pickle and checked against each other.
Symbols: N pictures, S shards.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdense.data.records import ClassMap, PackedStrings
from effdense.errors import DataError

FORMAT, VERSION = "effdense-shards", 1
TASKS = ("detection", "segmentation", "classification")
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SHARD_NAME = re.compile(r"(?P<split>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})-(?P<number>\d{6})\.tar")
_MEMBER_NAME = re.compile(r"(?P<key>\d{9})\.(?P<mask>mask\.)?(?P<suffix>[a-z0-9]{2,5})")
MASK = "mask"
_WHOLE_NUMBERS = (
    "shard_of",
    "image_offset",
    "image_bytes",
    "suffix_of",
    "shard_bytes",
    "mask_offset",
    "mask_bytes",
    "names_offsets",
)


class Member(NamedTuple):
    """Bytes ``offset:offset + size`` of shard number ``shard``."""

    shard: int
    offset: int
    size: int


def index_name(split: str) -> str:
    """File name of a split's index."""
    return f"{split}.index.npz"


def shard_name(split: str, number: int) -> str:
    """File name of a shard."""
    return f"{split}-{number:06d}.tar"


def split_of_shard(name: str) -> str | None:
    """The split that a shard's file name is of; None for any other name."""
    found = _SHARD_NAME.fullmatch(name)
    return None if found is None else found["split"]


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where the N pictures of a split are, and what the annotations say.

    Attributes:
        task: one of ``TASKS``. split: its name.
        class_map: of the whole set.
        shard_of: (N,) number of the shard. image_offset, image_bytes: (N,) place of the picture in its shard.
        mask_offset, mask_bytes: the same of the masks; empty where there are none.
        suffixes, suffix_of: file endings and (N,) which of them a picture has.
        shard_bytes: (S,) size of the shards. shard_sha256: their hashes, hex.
        names: N original file names, for messages.
        annotations: further arrays of the task, by name (``shard_records.py`` knows them).
        extra: further plain values of the task.
    """

    task: str
    split: str
    class_map: ClassMap
    shard_of: NDArray[np.int32] = field(repr=False)
    image_offset: NDArray[np.int64] = field(repr=False)
    image_bytes: NDArray[np.int64] = field(repr=False)
    mask_offset: NDArray[np.int64] = field(repr=False)
    mask_bytes: NDArray[np.int64] = field(repr=False)
    suffixes: tuple[str, ...]
    suffix_of: NDArray[np.uint8] = field(repr=False)
    shard_bytes: NDArray[np.int64] = field(repr=False)
    shard_sha256: tuple[str, ...] = field(repr=False)
    names: PackedStrings = field(repr=False)
    annotations: dict[str, NDArray[Any]] = field(repr=False)
    extra: dict[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.shard_of)

    @property
    def shard_names(self) -> list[str]:
        """File names of the shards."""
        return [shard_name(self.split, number) for number in range(len(self.shard_bytes))]

    def image_name(self, index: int) -> str:
        """``SPLIT-000003.tar/000000123.jpg``: where a picture is, below the folder of the shards."""
        shard = shard_name(self.split, int(self.shard_of[index]))
        return f"{shard}/{index:09d}.{self.suffixes[int(self.suffix_of[index])]}"

    def mask_name(self, index: int) -> str:
        """The same of a mask."""
        return f"{shard_name(self.split, int(self.shard_of[index]))}/{index:09d}.{MASK}.png"

    def find(self, shard: str, member: str) -> Member | None:
        """The place of ``member`` of shard file ``shard``; None where the index has no such member."""
        parts = _MEMBER_NAME.fullmatch(member)
        if parts is None or (index := int(parts["key"])) >= len(self):
            return None
        is_mask = parts["mask"] is not None
        if is_mask and not len(self.mask_offset):
            return None
        expected = self.mask_name(index) if is_mask else self.image_name(index)
        if expected != f"{shard}/{member}":
            return None
        offsets, sizes = (self.mask_offset, self.mask_bytes) if is_mask else (self.image_offset, self.image_bytes)
        return Member(int(self.shard_of[index]), int(offsets[index]), int(sizes[index]))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What is written into the npz."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "task": self.task,
            "split": self.split,
            "class_map": self.class_map.to_dict(),
            "suffixes": list(self.suffixes),
            "shard_sha256": list(self.shard_sha256),
            "annotations": sorted(self.annotations),
            "extra": self.extra,
        }
        arrays: dict[str, NDArray[Any]] = {
            "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
            "shard_of": self.shard_of,
            "image_offset": self.image_offset,
            "image_bytes": self.image_bytes,
            "mask_offset": self.mask_offset,
            "mask_bytes": self.mask_bytes,
            "suffix_of": self.suffix_of,
            "shard_bytes": self.shard_bytes,
            "names": self.names.buffer,
            "names_offsets": self.names.offsets,
        }
        return arrays | {f"annotation_{name}": array for name, array in self.annotations.items()}


def read_index(file: Path) -> ShardIndex:
    """Read and check an index.

    Raises: DataError for a file that is missing, damaged, of another program or version, or at odds with itself.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its arrays are compressed, which ours never are")  # they could unfold without end
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays.pop("head").astype(np.uint8).tobytes())
    except FileNotFoundError:
        raise DataError(_missing(file)) from None
    except Exception as error:  # zipfile, numpy and json raise a dozen kinds for damaged files
        raise DataError(
            f"{file}: the index cannot be read ({type(error).__name__}: {error}); it is cut short or damaged. Copy it "
            "again, or write the shards anew with tools/make_shards.py."
        ) from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise DataError(f"{file}: not an index of shards; tools/make_shards.py writes one beside the tars.")
    if head.get("version") != VERSION:
        raise DataError(
            f"{file}: written as version {head.get('version')!r}, this effdense reads version {VERSION}. Write the "
            "shards again with tools/make_shards.py, or update effdense."
        )
    try:
        return _checked(head, arrays)
    except DataError as error:
        raise DataError(f"{file}: the index is at odds with itself: {error} Write the shards again.") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"{file}: the index is damaged ({type(error).__name__}: {error}). Write the shards again."
        ) from error


def _missing(file: Path) -> str:
    there = sorted(path.name.removesuffix(".index.npz") for path in file.parent.glob("*.index.npz"))
    if there:
        return f"{file}: there is no such split; the folder has {', '.join(there)}."
    tars = " There are tars without an index: only sets written by tools/make_shards.py can be opened."
    return f"{file}: there is no index of shards.{tars if any(file.parent.glob('*.tar')) else ''}"


def _checked(head: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> ShardIndex:
    split, task = head["split"], head["task"]
    if not isinstance(split, str) or not SPLIT_NAME.fullmatch(split) or task not in TASKS:
        raise DataError(f"split {split!r} of task {task!r}.")
    suffixes = tuple(head["suffixes"])
    if not all(isinstance(name, str) and re.fullmatch(r"[a-z0-9]{2,5}", name) for name in suffixes):
        raise DataError(f"file endings {suffixes}.")
    hashes = tuple(head["shard_sha256"])
    if not all(isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) for value in hashes):
        raise DataError("a checksum is no SHA-256.")
    whole = {name: _integers(arrays, name) for name in _WHOLE_NUMBERS}
    count, shards = len(whole["shard_of"]), len(whole["shard_bytes"])
    if any(len(whole[name]) != count for name in ("image_offset", "image_bytes", "suffix_of")):
        raise DataError("its arrays have different lengths.")
    masks = len(whole["mask_offset"])
    if masks not in (0, count) or len(whole["mask_bytes"]) != masks or len(hashes) != shards or shards > 999_999:
        raise DataError(f"{count} pictures, {masks} masks, {shards} shards, {len(hashes)} checksums.")
    _within(whole["shard_of"], 0, shards, "shard numbers")
    _within(whole["suffix_of"], 0, len(suffixes), "numbers of file endings")
    room = whole["shard_bytes"][whole["shard_of"]]
    for what in ("image", "mask"):
        offset, size = whole[f"{what}_offset"], whole[f"{what}_bytes"]
        if len(offset) and ((offset < 512) | (size < 0) | (offset + size > room)).any():
            raise DataError(f"an {what} lies outside its shard.")
    names = PackedStrings(())
    names.buffer, names.offsets = np.ascontiguousarray(arrays["names"], np.uint8), whole["names_offsets"]
    ascending = len(names.offsets) == count + 1 and names.offsets[0] == 0 and (np.diff(names.offsets) >= 0).all()
    if not ascending or names.offsets[-1] != len(names.buffer):
        raise DataError("its list of names is broken.")
    return ShardIndex(
        task=task,
        split=split,
        class_map=ClassMap.from_dict(head["class_map"]),
        shard_of=whole["shard_of"].astype(np.int32),
        image_offset=whole["image_offset"],
        image_bytes=whole["image_bytes"],
        mask_offset=whole["mask_offset"],
        mask_bytes=whole["mask_bytes"],
        suffixes=suffixes,
        suffix_of=whole["suffix_of"].astype(np.uint8),
        shard_bytes=whole["shard_bytes"],
        shard_sha256=hashes,
        names=names,
        annotations={name: arrays[f"annotation_{name}"] for name in head["annotations"]},
        extra=dict(head["extra"]),
    )


def _integers(arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.int64]:
    array = arrays[name]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{name} is {array.dtype} {array.shape}, expected whole numbers.")
    return array.astype(np.int64)


def _within(array: NDArray[np.int64], low: int, stop: int, what: str) -> None:
    if len(array) and not (low <= array.min() and array.max() < stop):
        raise DataError(f"{what} {array.min()}..{array.max()} are not in {low}..{stop - 1}.")
