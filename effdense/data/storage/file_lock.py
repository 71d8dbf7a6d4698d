"""One process at a time: an advisory lock on a file, for caches that workers, ranks and jobs share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effdense.errors import ConfigError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of file ``path`` (made if need be). The system frees it when a process dies.

    Raises: ConfigError on systems without POSIX locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise ConfigError(
            "disk caches and shards of object stores need POSIX file locks (Linux, macOS); leave them out here."
        ) from error
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
