"""Files of a YOLO split: pictures from folders and lists, and the label file of each.

The path of a label file is that of the picture with the last folder ``images`` exchanged for ``labels``, or it lies
beside the picture where there is no such folder of labels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from effdense.data.checks.check import DataReport
from effdense.data.readers.class_lists import read_text
from effdense.data.readers.image_folder import IMAGE_SUFFIXES
from effdense.data.readers.splits import EmptySplitError, common_folder, list_pictures
from effdense.data.readers.yolo_layout import NOT_LABELS, YOLO_LAYOUT, YoloLayout, tails
from effdense.errors import DataError

_SHARED = "pictures differ in their ending only and share a label file. Rename one, and give it labels of its own."


def short_name(path: str | Path, root: Path) -> str:
    """A file as messages name it: relative to the set where it lies below."""
    text = os.path.relpath(path, root).replace(os.sep, "/")
    return str(path) if text.startswith("..") else text


def split_pictures(layout: YoloLayout, split: str, entries: Sequence[str], report: DataReport) -> list[str]:
    """Absolute paths of the pictures of a split, sorted, each once."""
    found: list[str] = []
    absent: list[str] = []
    for entry in entries:
        place = _resolved(layout, split, entry)
        if os.path.isdir(place):
            found += (f"{place}/{name}" for name in list_pictures(place))
        elif place.suffix.lower() in IMAGE_SUFFIXES:
            found.append(str(place))
        else:
            _read_list(place, layout, found, absent)
    message = "pictures of a list file do not exist; correct the list or add them. They are left out."
    report.add("error", "missing-image", message, absent)
    unique = sorted(dict.fromkeys(found))
    repeats = [short_name(picture, layout.root) for picture in _repeated(found)]
    report.add("warning", "repeated-name", "pictures occur again in the split and are used once.", repeats)
    if not unique and not absent:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise EmptySplitError(
            f"{layout.file or layout.root}: the {split} split ({', '.join(entries)}) has no picture; expected files "
            f"ending in {endings}. {YOLO_LAYOUT}"
        )
    return unique


def _repeated(values: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]


def _resolved(layout: YoloLayout, split: str, entry: str) -> Path:
    """An entry as an absolute path that exists. Raises: DataError that lists where it was looked for."""
    path = Path(entry).expanduser()
    places = [path] if path.is_absolute() else [base / path for base in layout.bases]
    if not path.is_absolute() and entry.startswith("../"):  # Roboflow writes ../train/images for train/images
        places += [base / entry.removeprefix("../") for base in layout.bases]
    if entry.endswith(".txt"):  # CVAT writes data/train.txt for train.txt
        places += [place for base in layout.bases for place in tails(base, entry)]
    for place in places:
        if place.exists():
            return Path(os.path.abspath(place))
    tried = ", ".join(dict.fromkeys(os.path.abspath(place) for place in places))
    raise DataError(
        f"{layout.file or layout.root}: {split} is {entry!r}, but there is nothing at any of: {tried}. Correct path: "
        f"and {split}: (relative to the yaml), or move the pictures there."
    )


def _read_list(file: Path, layout: YoloLayout, found: list[str], absent: list[str]) -> None:
    """Pictures of a list file: absolute, relative to the list or the set, or with folders of another machine."""
    bases = tuple(dict.fromkeys([file.parent, *layout.bases]))
    for number, line in enumerate(read_text(file, 1 << 30).splitlines(), start=1):
        entry = line.strip()
        if not entry:
            continue
        place = None
        if Path(entry).suffix.lower() in IMAGE_SUFFIXES:
            places = (place for base in bases for place in tails(base, entry))
            place = next((place for place in places if os.path.isfile(place)), None)
        if place is None:
            absent.append(f"{short_name(file, layout.root)}:{number} ({entry[:80]})")
        else:
            found.append(os.path.abspath(place))


def image_folder(layout: YoloLayout, entries: Sequence[str], pictures: Sequence[str]) -> Path:
    """The folder that image names start from: that of the split where it is one, else the deepest that holds all."""
    if len(entries) == 1:
        path = Path(entries[0])
        for place in [path] if path.is_absolute() else [base / path for base in layout.bases]:
            if place.is_dir():
                return Path(os.path.abspath(place))
    return common_folder(pictures) if pictures else layout.root


def label_folder(folder: str) -> str:
    """Folder of the labels of a folder of pictures: the last ``images`` in its path exchanged for ``labels``."""
    head, found, tail = f"{folder}/".rpartition("/images/")
    return f"{head}/labels/{tail}".rstrip("/") if found else folder


def label_files(pictures: Sequence[str], layout: YoloLayout, report: DataReport) -> list[str | None]:
    """Label file of each picture, None where there is none; labels that no picture has are reported."""
    places: dict[str, tuple[str, set[str]]] = {}  # folder of pictures -> folder of labels, stems of the labels there
    files: list[str | None] = []
    missing: list[str] = []
    shared: list[str] = []
    taken: dict[str, str] = {}
    for picture in pictures:
        folder, name = os.path.split(picture)
        if folder not in places:
            labels = label_folder(folder)
            labels = labels if os.path.isdir(labels) else folder
            places[folder] = (labels, _stems(labels, {".txt"}))
        labels, stems = places[folder]
        stem = os.path.splitext(name)[0]
        if stem not in stems:
            missing.append(short_name(picture, layout.root))
            files.append(None)
            continue
        file = f"{labels}/{stem}.txt"
        if file in taken:
            shared.append(f"{short_name(taken[file], layout.root)} and {short_name(picture, layout.root)}")
        taken[file] = picture
        files.append(file)
    if pictures and len(missing) == len(pictures):
        folders = ", ".join(dict.fromkeys(f"{labels}" for labels, _ in list(places.values())[:3]))
        message = (
            f"pictures have no label file, not one of the split: looked for NAME.txt in {folders}. The path of the "
            "labels is that of the pictures with the last 'images' exchanged for 'labels'; move them there."
        )
        report.add("error", "no-labels", message, missing)
    else:
        message = "pictures have no label file; taken as background. Add the files where there are objects."
        report.add("warning", "missing-label", message, missing)
    report.add("warning", "shared-label", _SHARED, shared)
    orphans = []
    for folder, (labels, stems) in places.items():
        lost = sorted(stems - _stems(folder, IMAGE_SUFFIXES))
        orphans += [short_name(f"{labels}/{stem}.txt", layout.root) for stem in lost]
    message = "label files have no picture of their name; add the picture or remove the file. They are left aside."
    report.add("warning", "orphan-label", message, orphans)
    return files


def _stems(folder: str, suffixes: set[str] | frozenset[str]) -> set[str]:
    pairs = (os.path.splitext(entry.name) for entry in os.scandir(folder) if entry.name not in NOT_LABELS)
    return {stem for stem, suffix in pairs if suffix.lower() in suffixes and stem[0] != "."}


def read_labels(files: Sequence[str | None], layout: YoloLayout, report: DataReport) -> list[str | None]:
    """Text of each label file; what cannot be read is reported."""
    faults: list[str] = []

    def one(file: str | None) -> str | None:
        if file is None:
            return None
        try:
            return read_text(Path(file))
        except DataError as error:
            faults.append(str(error).replace(file, short_name(file, layout.root)).rstrip("."))
            return None

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(one, files, chunksize=64))
    report.add("error", "unreadable-label", "label files cannot be read; write them again.", sorted(faults))
    return texts
