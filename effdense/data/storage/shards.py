"""Pictures inside tar shards, read by their place: ``FOLDER/SPLIT-000003.tar/000000123.jpg`` in, bytes out.

Such a path stands in the records of a sharded set like that of any other picture, so subsets, combined sets, checks and
drawings need to know nothing about shards: what reads a file asks here when there is none. The index
(``shard_index.py``) knows offset and size; one ``pread`` fetches the picture together with its tar header, whose name
shows at once an index that belongs to other tars. Shards of an object store are fetched first (``shard_fetch.py``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from effdense.data.storage.shard_index import Member, ShardIndex, index_name, read_index, split_of_shard
from effdense.errors import DataError

BLOCK = 512  # of a tar: POSIX ustar, a member's header is the block before its content
OPEN_FILES = 32  # shards that a process keeps open


@dataclass(eq=False)
class ShardSet:
    """The shards of one split, opened.

    Args:
        folder: where index and tars lie (of a remote set: where they are kept).
        index: the split's.
        fetch: brings a shard, given its number, into ``folder`` and returns its path; None where all are there.
    """

    folder: Path
    index: ShardIndex
    fetch: Callable[[int], Path] | None = None
    _files: dict[int, BinaryIO] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # open files do not travel to other processes

    def read(self, path: Path) -> bytes:
        """Content of a member. Raises: DataError naming shard and member."""
        member = self._find(path)
        return self._bytes(path, member, -BLOCK, member.size + BLOCK)[BLOCK:]

    def open(self, path: Path) -> BinaryIO:
        """A member as a file that is read piece by piece, for looks at its head and tail."""
        member = self._find(path)
        self._bytes(path, member, -BLOCK, BLOCK)
        return cast(BinaryIO, io.BufferedReader(_MemberFile(self, path, member)))

    def _find(self, path: Path) -> Member:
        member = self.index.find(path.parent.name, path.name)
        if member is None:
            raise DataError(f"{path}: {index_name(self.index.split)} lists no such member of this shard.")
        return member

    def _bytes(self, path: Path, member: Member, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` on, counted from the member's content; the tar header is looked at, too."""
        stream = self._file(member.shard)
        try:
            content = _pread(stream.fileno(), member.offset + start, count)
        except OSError as error:
            raise DataError(f"{path}: the shard cannot be read ({error}).") from error
        if len(content) < count:
            raise DataError(
                f"{path}: the shard ends after {os.fstat(stream.fileno()).st_size} bytes, the index expects "
                f"{self.index.shard_bytes[member.shard]}: it is cut short. Copy it again."
            )
        if start == -BLOCK:
            name = content[:100].split(b"\0", 1)[0]
            size = content[124:136].strip(b" \0")  # octal; what is too large for that is none of our members
            if name != path.name.encode() or size.lstrip(b"0") != f"{member.size:o}".encode().lstrip(b"0"):
                raise DataError(
                    f"{path}: the shard holds {name[:40]!r} of {size.decode('ascii', 'replace')} (octal) bytes where "
                    f"{index_name(self.index.split)} expects this member of {member.size:o}: "
                    "index and tar are not of the same writing, or the tar is damaged. Copy both again."
                )
        return content

    def _file(self, shard: int) -> BinaryIO:
        """An open shard. Reads are by position, so threads and forked workers may share it."""
        stream = self._files.get(shard)
        if stream is None:
            path = self.folder / self.index.shard_names[shard] if self.fetch is None else self.fetch(shard)
            try:
                stream = path.open("rb", buffering=0)
            except FileNotFoundError:
                raise DataError(
                    f"{path}: the shard is missing ({len(self.index.shard_bytes)} are expected beside "
                    f"{index_name(self.index.split)}). Copy it there."
                ) from None
            except OSError as error:
                raise DataError(f"{path}: the shard cannot be opened ({error}).") from error
            while len(self._files) >= OPEN_FILES:
                # Forgotten, not closed: another thread may be reading; it closes with its last reference.
                self._files.pop(next(iter(self._files)), None)
            self._files[shard] = stream
        return stream


def _pread(descriptor: int, offset: int, count: int) -> bytes:
    """As many bytes as there are; one call is limited to 2 GB and may return less."""
    if not hasattr(os, "pread"):
        raise OSError("shards need POSIX reads by position (Linux, macOS), which this system has not")
    content = os.pread(descriptor, count, offset)
    while len(content) < count:
        more = os.pread(descriptor, count - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content


class _MemberFile(io.RawIOBase):
    """A member as a raw stream."""

    def __init__(self, shards: ShardSet, path: Path, member: Member) -> None:
        self.shards, self.path, self.member, self.position = shards, path, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.member.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.member.size - self.position))
        buffer[:count] = self.shards._bytes(self.path, self.member, self.position, count)
        self.position += count
        return count


# Sets that this process has opened, by folder and split; forked workers inherit them.
_OPENED: dict[tuple[str, str], ShardSet] = {}


def register(shards: ShardSet) -> ShardSet:
    """Let paths below ``shards.folder`` be read through this set."""
    _OPENED[str(shards.folder), shards.index.split] = shards
    return shards


def open_shards(folder: Path, split: str) -> ShardSet:
    """Open a split whose shards lie in a local folder. Raises: DataError, see ``read_index``."""
    return register(ShardSet(folder, read_index(folder / index_name(split))))


def shard_set_of(path: Path) -> ShardSet | None:
    """The set that a member path is of, opened if need be; None for the path of an ordinary file."""
    shard = path.parent
    split = split_of_shard(shard.name)
    if split is None or shard.is_dir():
        return None
    opened = _OPENED.get((str(shard.parent), split))
    if opened is None and (shard.parent / index_name(split)).is_file():
        opened = open_shards(shard.parent, split)
    return opened


def read_member(path: Path) -> bytes | None:
    """Content of a member of a shard; None where the path is that of an ordinary file. Raises: DataError."""
    shards = shard_set_of(path)
    return None if shards is None else shards.read(path)


def open_member(path: Path) -> BinaryIO | None:
    """The same as a stream."""
    shards = shard_set_of(path)
    return None if shards is None else shards.open(path)


class TarStore:
    """A store (``PictureStore``) for records of shards; it takes the opened sets along into spawned workers."""

    def __init__(self, sets: Iterable[ShardSet]) -> None:
        self.sets = tuple(sets)
        for shards in self.sets:
            register(shards)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["sets"])  # type: ignore[misc]

    def read(self, index: int, path: Path) -> bytes:
        """The member at ``path``, or the file where it is none."""
        opened = _OPENED.get((str(path.parent.parent), split_of_shard(path.parent.name) or ""))
        if opened is not None:
            return opened.read(path)
        member = read_member(path)
        return path.read_bytes() if member is None else member

    def __repr__(self) -> str:
        return f"TarStore({', '.join(str(shards.folder / shards.index.split) for shards in self.sets)})"
