"""Where data lies: relative paths go under ``EFFDENSE_DATA`` (default ``data``), absolute ones stay as they are."""

from __future__ import annotations

import os
from pathlib import Path

from effdense.errors import DataError

DATA_VARIABLE = "EFFDENSE_DATA"

COCO_LAYOUT = (
    "A COCO set is laid out as ROOT/annotations/instances_train2017.json, ROOT/train2017/*.jpg, the same for val2017; "
    "any other layout works when the annotation file and the image folder are named in the config."
)


def data_root() -> Path:
    """The folder that relative data paths start from, absolute: ``$EFFDENSE_DATA``, else ``data`` in the working
    directory.

    Absolute, so that a path that was resolved once is not put under the root a second time.
    """
    return Path(os.environ.get(DATA_VARIABLE) or "data").expanduser().absolute()


def resolve(path: str | Path) -> Path:
    """Absolute path (``~`` expanded): itself. Relative path: under :func:`data_root`."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else data_root() / path


def _missing(path: Path, what: str, kind: str, advice: str) -> DataError:
    value = os.environ.get(DATA_VARIABLE)
    root = f"{DATA_VARIABLE} is set to {value!r}" if value else f"{DATA_VARIABLE} is not set (default: 'data')"
    found = f"there is something there that is not a {kind}" if path.exists() else f"there is no {kind} there"
    return DataError(
        f"Expected {what} at {path.absolute()}, but {found}. {root}; relative data paths start from it. "
        f"Correct the path in the config or set {DATA_VARIABLE} to the folder of your data sets. {advice}".rstrip()
    )


def require_file(path: str | Path, what: str, *, advice: str = "") -> Path:
    """Return ``path`` as a :class:`Path` when it is a file.

    Args:
        path: where the file should be, already resolved.
        what: what it is, for the message, e.g. ``"the COCO annotation file"``.
        advice: one more sentence for the message, e.g. :data:`COCO_LAYOUT`.

    Raises:
        DataError: it is not there; names the absolute path and the state of ``EFFDENSE_DATA``.
    """
    path = Path(path)
    if not path.is_file():
        raise _missing(path, what, "file", advice)
    return path


def require_dir(path: str | Path, what: str, *, advice: str = "") -> Path:
    """Return ``path`` as a :class:`Path` when it is a folder; otherwise as :func:`require_file`."""
    path = Path(path)
    if not path.is_dir():
        raise _missing(path, what, "folder", advice)
    return path
