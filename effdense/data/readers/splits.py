"""What the detection readers share about folders: names of splits, lists of pictures, sizes from their heads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from effdense.data.checks.check import DataReport
from effdense.data.image_io import ImageFault, ImageHeader, read_header
from effdense.data.readers.image_folder import IMAGE_SUFFIXES, walk
from effdense.errors import DataError, did_you_mean


class EmptySplitError(DataError):
    """A split is named and its folder or list is there, but no picture is in it."""


T = TypeVar("T")
ALL = "all"  # the one split of a set that is not divided
ORDER = ("train", "val", "test")
_USUAL = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_YEAR = re.compile(r"[_-]?(19|20)\d\d$")
_HEADERS = {
    "missing-image": "picture files do not exist; correct the list or add them. They are left out.",
    "empty-file": "picture files are empty (0 bytes); fetch them again. They are left out.",
    "not-an-image": "files are not pictures in a known format; replace them or take them out. They are left out.",
    "unreadable-image": "picture files are damaged or may not be read; fetch them again or mend the rights. They are "
    "left out.",
    "too-large": "pictures have more pixels than allowed; shrink them and their boxes. They are left out.",
}


def split_name(text: str) -> str:
    """``train``, ``val`` or ``test`` for their usual spellings ("valid", "Training", "train2017"); else the text."""
    return _USUAL.get(_YEAR.sub("", text.strip().lower()), text)


def is_usual(text: str) -> bool:
    """Whether a name is a spelling of train, val or test."""
    return split_name(text) in ORDER


def named_splits(found: Mapping[str, T]) -> dict[str, T]:
    """The same under their usual names, train, val and test first; two spellings of one split keep their own names."""
    usual = [split_name(name) for name in found]
    pairs = {
        name if usual.count(short) > 1 else short: part
        for (name, part), short in zip(found.items(), usual, strict=True)
    }
    return dict(sorted(pairs.items(), key=lambda item: (ORDER.index(item[0]) if item[0] in ORDER else 3, item[0])))


def pick_split(splits: Mapping[str, T], split: str, where: object) -> tuple[str, T]:
    """(name, part) of a split by any spelling. Raises: DataError that lists what there is."""
    name = split if split in splits else split_name(split)
    if name in splits:
        return name, splits[name]
    hint = f' The set is not divided; say split="{ALL}".' if list(splits) == [ALL] else ""
    raise DataError(
        f"{where} has no split {split!r}; it has {', '.join(repr(s) for s in splits) or 'none'}."
        f"{did_you_mean(split, splits)}{hint}"
    )


def list_pictures(folder: Path) -> list[str]:
    """Names of all pictures below a folder, with forward slashes, sorted; hidden files and folders are passed over."""
    found: list[str] = []
    for place, folders, files in walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        found += (
            name if below == "." else f"{below}/{name}"
            for name in files
            if name[0] != "." and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
        )
    return sorted(found)


def folders_of(path: Path) -> list[str]:
    """Sorted names of the visible folders right below a folder."""
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and entry.name[0] != ".")


def common_folder(paths: Sequence[str]) -> Path:
    """The deepest folder that holds all these files."""
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))


def read_headers(paths: Iterable[Path], workers: int = 8) -> list[ImageHeader | ImageFault]:
    """What each picture file says about itself, or its fault; about 0.1 ms a file."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_header, paths, chunksize=64))


def _header(path: Path) -> ImageHeader | ImageFault:
    try:
        with path.open("rb") as stream:
            return read_header(stream)
    except FileNotFoundError:
        return ImageFault("missing-image", "the file does not exist.")
    except OSError as error:
        return ImageFault("unreadable-image", f"the file cannot be read ({error}).")


def report_headers(names: Sequence[str], headers: Sequence[ImageHeader | ImageFault], report: DataReport) -> None:
    """Report every fault by its code, as ``check_images`` names them."""
    for code, message in _HEADERS.items():
        places = [
            name if code == "missing-image" else f"{name} ({header.reason.rstrip('.')})"
            for name, header in zip(names, headers, strict=True)
            if isinstance(header, ImageFault) and header.code == code
        ]
        report.add("error", code, message, places)
