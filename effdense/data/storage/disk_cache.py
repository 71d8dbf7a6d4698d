"""Pictures of a slow disk kept on a fast one: copied when first read, for all workers, ranks and later runs.

A copy is found by the hash of the picture's path, size and time of change, so a changed picture is another entry. Each
copy carries its length and a checksum and is put in place by renaming; one that is damaged is thrown away and made
anew.
"""

from __future__ import annotations

import hashlib
import os
import struct
import uuid
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data.image_io import PictureStore
from effdense.data.storage.file_lock import locked
from effdense.errors import ConfigError

_HEAD = struct.Struct("<8sQI")  # magic, length, CRC-32
_MAGIC = b"EFFPIC01"
_FOLDERS = 256


class DiskCache:
    """A store (``PictureStore``) in front of another.

    Args:
        source: what has the pictures.
        folder: where copies are kept; several sets and jobs may share it.
        stamps: (count, 2) int64 size and time of change (ns) of each entry, taken at the start of the run.
        max_bytes: limit of all copies in the folder, whoever wrote them; when it is reached, nothing is added.
        pictures: entries that are pictures, before those of masks; default all.

    Raises: ConfigError where the folder cannot be written.
    """

    def __init__(
        self,
        source: PictureStore,
        folder: Path,
        stamps: NDArray[np.int64],
        max_bytes: int,
        *,
        pictures: int | None = None,
    ) -> None:
        self.pictures = len(stamps) if pictures is None else pictures
        self.source, self.folder, self.stamps, self.max_bytes = source, folder, stamps, max_bytes
        self.full = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock"):
                self._write_used(sum(_sizes(folder)))
        except OSError as error:
            raise ConfigError(
                f"the disk cache cannot use {folder} ({error}); give another folder: cache=dict(type='disk', dir=...)."
            ) from error

    def place(self, index: int, path: Path) -> Path:
        """The file that keeps an entry."""
        size, changed = self.stamps[index].tolist()
        key = hashlib.sha256(f"{os.path.abspath(path)}\0{size}\0{changed}".encode("utf-8", "surrogateescape"))
        name = key.hexdigest()
        return self.folder / name[:2] / name[2:42]

    def read(self, index: int, path: Path) -> Any:
        """Bytes of an entry. Raises: what the source raises."""
        place = self.place(index, path)
        kept = self._kept(place)
        if kept is not None:
            return kept
        content = self.source.read(index, path)
        if not self.full and isinstance(content, bytes) and content:
            self._keep(place, content)
        return content

    def read_mask(self, index: int, path: Path) -> Any:
        """The same for the mask of record ``index``: masks come behind the pictures."""
        return self.read(self.pictures + index, path)

    @property
    def used(self) -> int:
        """Bytes in the folder, as counted by all who write into it."""
        with suppress(OSError, ValueError):
            return int((self.folder / ".used").read_text())
        return 0

    def holds(self, paths: Sequence[Path]) -> int:
        """How many of these entries (from entry 0 on) have a file."""
        return sum(self.place(index, path).is_file() for index, path in enumerate(paths))

    def _kept(self, place: Path) -> bytes | None:
        try:
            content = place.read_bytes()
        except OSError:
            return None
        if len(content) >= _HEAD.size:
            magic, length, checksum = _HEAD.unpack_from(content)
            body = content[_HEAD.size :]
            if magic == _MAGIC and length == len(body) and checksum == zlib.crc32(body):
                return body
        with suppress(OSError):
            place.unlink()
            with locked(self.folder / ".lock"):
                self._write_used(max(0, self.used - len(content)))
        return None

    def _keep(self, place: Path, content: bytes) -> None:
        size = len(content) + _HEAD.size
        part = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with locked(self.folder / ".lock"):
                used = self.used
                if used + size > self.max_bytes:
                    self.full = True
                    return
                self._write_used(used + size)
            place.parent.mkdir(exist_ok=True)
            part.write_bytes(_HEAD.pack(_MAGIC, len(content), zlib.crc32(content)) + content)
            part.replace(place)
        except OSError as error:
            self.full = True
            warnings.warn(f"nothing more goes into the disk cache {self.folder}: {error}", RuntimeWarning, stacklevel=2)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _write_used(self, used: int) -> None:
        """Under the lock."""
        (self.folder / ".used").write_text(str(used))

    def __repr__(self) -> str:
        return f"DiskCache({self.folder}, {self.used / 1e9:.2f} of {self.max_bytes / 1e9:.2f} GB)"


def _sizes(folder: Path) -> list[int]:
    """Sizes of the copies in a cache folder."""
    sizes = []
    for number in range(_FOLDERS):
        with suppress(FileNotFoundError), os.scandir(folder / f"{number:02x}") as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    sizes.append(entry.stat().st_size)
    return sizes
