"""Shards of an object store: a URL in, files in a local folder out, whole, verified and within a size limit.

A shard is fetched once for all workers and ranks of a machine (a lock file per shard), checked against the SHA-256 in
the index, and put in place by renaming. When the folder would outgrow its limit, the shards unused for longest go.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any, cast
from urllib.parse import urlsplit

from effdense.data.storage.file_lock import locked
from effdense.data.storage.shard_index import ShardIndex
from effdense.errors import ConfigError, DataError, EffdenseError, MissingExtra

CACHE_VARIABLE = "EFFDENSE_CACHE"
# Opened by webdataset with the command-line tool of each; http(s) by Python itself, s3 by the aws tool.
_WEBDATASET_SCHEMES = {"gs": "gsutil", "ais": "ais", "hf": "curl", "sftp": "curl", "scp": "curl", "ftps": "curl"}
SCHEMES = ("http", "https", "s3", *_WEBDATASET_SCHEMES)
_FINAL_STATUS = frozenset({400, 401, 403, 404, 405, 410, 414})  # asking again does not help
_CHUNK = 1 << 20
_FIRST_PAUSE = 0.5  # seconds; doubled after each try
_ABANDONED = 86_400  # seconds after which a part of a file that nobody finished is removed


class FetchError(OSError):
    """One try failed; ``final`` where another would fail, too."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def is_url(root: str) -> bool:
    """Whether a root is an address and no folder."""
    return root.startswith("pipe:") or "://" in root


def default_cache() -> Path:
    """``$EFFDENSE_CACHE``, else ``~/.cache/effdense``."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/effdense").expanduser().absolute()


@dataclass(frozen=True)
class Remote:
    """Where the files of a sharded set come from.

    Args:
        root: ``https://HOST/PATH``, ``s3://``, ``gs://``, ``hf://`` ...; or ``pipe:COMMAND {} -``, a shell command that
            writes file ``{}`` to its standard output.
        folder: where they are kept.
        max_bytes: limit of the shards kept there; None: all of them.
        retries: tries after the first. timeout: seconds without a byte, http(s) only.
        allow_pipe: run the shell command of a ``pipe:`` root.

    Raises: ConfigError for a scheme that is not known, or a pipe that is not allowed.
    """

    root: str
    folder: Path
    max_bytes: int | None = None
    retries: int = 4
    timeout: float = 60.0
    allow_pipe: bool = False

    def __post_init__(self) -> None:
        if self.root.startswith("pipe:"):
            if not self.allow_pipe:
                raise ConfigError(
                    f"root {self.root!r} runs a shell command for every shard. Say allow_pipe=True if it is yours, or "
                    f"use one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}."
                )
            if "{}" not in self.root:
                raise ConfigError(f"root {self.root!r} needs {{}} where the file name goes.")
        elif self.scheme not in SCHEMES:
            raise ConfigError(
                f"root {self.root!r}: cannot fetch from {self.scheme}://; known are "
                f"{', '.join(f'{scheme}://' for scheme in SCHEMES)} and pipe: with allow_pipe=True."
            )
        if type(self.retries) is not int or self.retries < 0:
            raise ConfigError(f"retries must be a whole number of at least 0, got {self.retries!r}.")
        if type(self.timeout) not in (int, float) or not 0 < self.timeout < float("inf"):
            raise ConfigError(f"timeout must be a number of seconds above 0, got {self.timeout!r}.")

    @property
    def scheme(self) -> str:
        """``https`` and the like."""
        return "pipe" if self.root.startswith("pipe:") else urlsplit(self.root).scheme.lower()

    def url(self, name: str) -> str:
        """Address of a file; ``name`` has been checked to be a plain file name."""
        if self.scheme == "pipe":
            return self.root.replace("{}", name)
        parts = urlsplit(self.root)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()

    def download(self, name: str, *, sha256: str | None = None, size: int | None = None) -> Path:
        """Fetch a file into the folder, over an older one, after tries and pauses.

        Raises: DataError naming the address, what went wrong, and how often it was tried.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        url, target = self.url(name), self.folder / name
        for attempt in range(self.retries + 1):
            part = self.folder / f".{name}.{uuid.uuid4().hex[:8]}.part"
            try:
                self._try(url, part, sha256, size)
                part.replace(target)
                return target
            except FetchError as error:
                if error.final or attempt == self.retries:
                    tries = f"{attempt + 1} {'try' if attempt == 0 else 'tries'}"
                    raise DataError(
                        f"{url} could not be fetched in {tries}: {error}. Check address, network and rights."
                    ) from error
                time.sleep(_FIRST_PAUSE * 2**attempt)
            finally:
                part.unlink(missing_ok=True)
        raise AssertionError("unreachable")

    def _try(self, url: str, part: Path, sha256: str | None, size: int | None) -> None:
        digest, count = hashlib.sha256(), 0
        try:
            with self._open(url) as stream, part.open("wb") as out:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    count += len(chunk)
                    if size is not None and count > size:
                        raise FetchError(f"more than the {size} bytes that the index says")
                    _keep(out, chunk, url)
        except (FetchError, EffdenseError):
            raise
        except Exception as error:  # http.client, ssl, sockets and the exit codes of tools
            raise FetchError(f"the connection broke after {count} bytes ({error})") from error
        if size is not None and count != size:
            raise FetchError(f"{count} bytes came, the index says {size}")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise FetchError("its SHA-256 is not the index's: damaged on the way, or written after the index")

    @contextmanager
    def _open(self, url: str) -> Iterator[IO[bytes]]:
        if self.scheme in ("http", "https"):
            stream: Any = self._open_http(url)
        elif self.scheme == "s3":
            tool = shutil.which("aws")
            if tool is None:
                raise MissingExtra("s3:// needs the aws command-line tool (pip install awscli); or root='pipe:...'.")
            stream = _Tool([tool, "s3", "cp", "--only-show-errors", url, "-"])
        else:
            stream = self._open_webdataset(url)
        with stream:
            yield cast(IO[bytes], stream)

    def _open_http(self, url: str) -> Any:
        request = urllib.request.Request(url, headers={"User-Agent": "effdense"})
        try:
            return urllib.request.urlopen(request, timeout=self.timeout)  # the scheme was checked above
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            error.close()
            raise FetchError(reason, final=error.code in _FINAL_STATUS) from error
        except Exception as error:
            raise FetchError(str(getattr(error, "reason", error))) from error

    def _open_webdataset(self, url: str) -> Any:
        try:
            from webdataset.gopen import gopen
        except ImportError as error:
            raise MissingExtra(f'{self.scheme}: needs webdataset; run: pip install "effdense[shards]"') from error
        tool = _WEBDATASET_SCHEMES.get(self.scheme)
        if tool is not None and shutil.which(tool) is None:
            raise MissingExtra(f"{self.scheme}:// needs the command-line tool {tool!r}, which is not on the PATH.")
        try:
            return gopen(url, "rb")
        except Exception as error:
            raise FetchError(str(error)) from error


def _keep(out: IO[bytes], chunk: bytes, url: str) -> None:
    try:
        out.write(chunk)
    except OSError as error:
        folder = Path(out.name).parent
        raise DataError(
            f"{folder}: cannot keep {url} ({error}). Make room, or give cache_dir a larger disk."
        ) from error


class _Tool:
    """Standard output of a command-line tool, without a shell; its exit code is part of the reading."""

    def __init__(self, command: list[str]) -> None:
        self.process = Popen(command, stdout=PIPE, stderr=PIPE)

    def read(self, count: int) -> bytes:
        assert self.process.stdout is not None and self.process.stderr is not None
        chunk = self.process.stdout.read(count)
        if not chunk and self.process.wait() != 0:
            said = self.process.stderr.read(400).decode(errors="replace").strip()
            raise OSError(said or f"exit code {self.process.returncode}")
        return chunk

    def __enter__(self) -> _Tool:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@dataclass(frozen=True, eq=False)
class ShardCache:
    """Callable ``cache(shard number) -> path`` for a ``ShardSet``: fetched where it is not there yet."""

    remote: Remote
    index: ShardIndex

    def __post_init__(self) -> None:
        limit, largest = self.remote.max_bytes, int(self.index.shard_bytes.max(initial=0))
        if limit is not None and limit < largest:
            raise ConfigError(
                f"cache_gigabytes={limit / 1e9:g} holds no shard of {self.remote.root}: the largest is "
                f"{largest / 1e9:.3g} GB. Raise it to a few shards per training process at least."
            )
        self.remote.folder.mkdir(parents=True, exist_ok=True)
        for part in self.remote.folder.glob(".*.part"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()

    def __call__(self, shard: int) -> Path:
        name, size = self.index.shard_names[shard], int(self.index.shard_bytes[shard])
        path = self.remote.folder / name
        if not _is_whole(path, size):
            with locked(self.remote.folder / f".{name}.lock"):
                if not _is_whole(path, size):  # another process may have been faster
                    self._make_room(size)
                    self.remote.download(name, sha256=self.index.shard_sha256[shard], size=size)
        with suppress(OSError):
            os.utime(path)  # used now
        return path

    def _make_room(self, size: int) -> None:
        limit = self.remote.max_bytes
        if limit is None:
            return
        with locked(self.remote.folder / ".room.lock"):
            kept = []
            for path in self.remote.folder.glob("*.tar"):
                with suppress(OSError):
                    found = path.stat()
                    kept.append((found.st_mtime, found.st_size, path))
            used = sum(count for _, count, _ in kept)
            for _, count, path in sorted(kept):
                if used + size <= limit:
                    break
                path.unlink(missing_ok=True)  # a process that has it open reads on
                used -= count


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
