"""Pictures kept in memory: filled as they are first read, shared by all workers of a process, never more than a limit.

Memory is one anonymous shared mapping made before the loader forks its workers. What one worker has read all have,
with persistent workers or without, and pages that are not filled cost nothing. Nothing is evicted: when it is full, the
other pictures come from their source in every epoch, which under random access is as good as any eviction.
"""

from __future__ import annotations

import io
import mmap
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data.image_io import ImageFault, PictureStore, read_header, read_image
from effdense.errors import ConfigError, DataError

_OFFSET, _SIZE, _HEIGHT, _WIDTH = range(4)
_ABSENT, _CLAIMED, _REFUSED = 0, -1, -2  # in the column of sizes
_PATIENCE = 1.0  # seconds to wait for the lock, which is held for microseconds


class RamCache:
    """A store (``PictureStore``) in front of another.

    Args:
        source: what has the pictures.
        count: entries; pictures first, what else is cached (masks) behind them.
        max_bytes: limit.
        pictures: entries that are pictures; default all.
        decoded: keep pixels (3 bytes each: 0.92 MB for 640x480) instead of the file's bytes, so that nothing is decoded
            twice. Pictures that EXIF turns stay encoded, for which way they are read depends on their annotation.

    A copy in a process that was not forked has no part in the memory and reads from the source.

    Raises: ConfigError where the system does not give that much address space, or has no fork.
    """

    def __init__(
        self, source: PictureStore, count: int, max_bytes: int, *, pictures: int | None = None, decoded: bool = False
    ) -> None:
        self.source, self.decoded = source, decoded
        self.pictures = count if pictures is None else pictures
        self.max_bytes = max_bytes
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ConfigError(
                "cache='ram' needs workers that are forked (Linux, macOS), which this system cannot; leave it out."
            )
        try:
            self.arena: mmap.mmap | None = mmap.mmap(-1, max(1, max_bytes))
            # Row 0: how much of the arena is given away. Row i + 1: entry i.
            table = mmap.mmap(-1, (count + 1) * 4 * 8)
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"the system gives no {max_bytes / 1e9:.3g} GB for the RAM cache ({error}); say less: gigabytes=..."
            ) from error
        self.table: NDArray[np.int64] = np.frombuffer(table, np.int64).reshape(-1, 4)
        self.lock = multiprocessing.get_context("fork").Lock()

    def __getstate__(self) -> dict[str, Any]:
        kept = {"source": self.source, "decoded": self.decoded, "pictures": self.pictures, "max_bytes": 0}
        return {**kept, "arena": None, "table": None, "lock": None}

    def read(self, index: int, path: Path) -> bytes | NDArray[np.uint8]:
        """Bytes or pixels of an entry. Raises: what the source raises."""
        if self.arena is None:
            return self._from_source(index, path)
        entry = self.table[index + 1]
        size = int(entry[_SIZE])
        if size > 0:
            return self._kept(entry, size)
        content = self._from_source(index, path)
        if size == _ABSENT and self._claim(entry):
            return self._keep(entry, content)
        return content

    def _from_source(self, index: int, path: Path) -> bytes | NDArray[np.uint8]:
        """What is kept, or would be: pixels even where there is no room, for a decoder halves a little differently
        from :func:`shrunk`, and a sample must not depend on who came first.
        """
        content = self.source.read(index, path)
        if self.decoded and index < self.pictures and isinstance(content, bytes):
            pixels = self._pixels(path, content)
            content = content if pixels is None else pixels
        return content

    def read_mask(self, index: int, path: Path) -> Any:
        """The same for the mask of record ``index``: masks come behind the pictures."""
        return self.read(self.pictures + index, path)

    @property
    def held(self) -> tuple[int, int]:
        """Entries and bytes that are in memory now."""
        if self.arena is None:
            return 0, 0
        sizes = self.table[1:, _SIZE]
        return int((sizes > 0).sum()), int(sizes[sizes > 0].sum())

    def _kept(self, entry: NDArray[np.int64], size: int) -> bytes | NDArray[np.uint8]:
        assert self.arena is not None
        offset, height, width = int(entry[_OFFSET]), int(entry[_HEIGHT]), int(entry[_WIDTH])
        if not height:
            return self.arena[offset : offset + size]
        pixels = np.frombuffer(self.arena, np.uint8, size, offset).reshape(height, width, 3)
        pixels.flags.writeable = False
        return pixels

    def _claim(self, entry: NDArray[np.int64]) -> bool:
        """Whether this process is the one to fill an entry."""
        if not self.lock.acquire(timeout=_PATIENCE):
            return False  # a worker was killed with the lock in its hands: go on without new entries
        try:
            if entry[_SIZE] != _ABSENT:
                return False
            entry[_SIZE] = _CLAIMED
            return True
        finally:
            self.lock.release()

    def _keep(self, entry: NDArray[np.int64], content: bytes | NDArray[np.uint8]) -> bytes | NDArray[np.uint8]:
        """Fill a claimed entry; what ``read`` returns."""
        assert self.arena is not None
        is_array = isinstance(content, np.ndarray)
        size = content.nbytes if isinstance(content, np.ndarray) else len(content)
        start = self._room(size) if size else None
        if start is None:
            entry[_SIZE] = _REFUSED
            return content
        self.arena[start : start + size] = content.tobytes() if isinstance(content, np.ndarray) else content
        height, width = content.shape[:2] if isinstance(content, np.ndarray) else (0, 0)
        entry[_OFFSET], entry[_HEIGHT], entry[_WIDTH] = start, height, width
        if self.lock.acquire(timeout=_PATIENCE):  # the lock orders these writes before the size that announces them
            entry[_SIZE] = size
            self.lock.release()
        return self._kept(entry, size) if is_array else content

    def _room(self, size: int) -> int | None:
        """Where ``size`` bytes may go; None where the arena is full."""
        if not self.lock.acquire(timeout=_PATIENCE):
            return None
        try:
            start = int(self.table[0, 0])
            if start + size > self.max_bytes:
                return None
            self.table[0, 0] = start + size
            return start
        finally:
            self.lock.release()

    def _pixels(self, path: Path, content: bytes) -> NDArray[np.uint8] | None:
        """Decoded, unless the picture is turned, or broken, which is for the reader to say."""
        header = read_header(io.BytesIO(content))
        if isinstance(header, ImageFault) or header.orientation != 1:
            return None
        try:
            return read_image(path, data=content)
        except DataError:
            return None

    def __repr__(self) -> str:
        entries, size = self.held
        return f"RamCache({entries} entries, {size / 1e9:.2f} of {self.max_bytes / 1e9:.2f} GB)"
