"""Folders of pictures to records: ``root/CLASS/**/*.jpg`` in, one label per picture out.

Classes are the folders right under the root, sorted by name, and pictures of a class are taken from its sub-folders as
well: the order of torchvision's ``ImageFolder``, so labels of checkpoints agree. Symbols: N pictures, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport
from effdense.data.paths import require_dir, require_file, resolve
from effdense.data.records import ClassMap, PackedStrings
from effdense.errors import ConfigError, DataError, did_you_mean

# torchvision.datasets.folder.IMG_EXTENSIONS, in any case of letters (ImageNet's files end in .JPEG).
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test"})
FOLDER_LAYOUT = "A classification split is laid out as ROOT/CLASS/*.jpg, one folder per class."


@dataclass(frozen=True, eq=False)
class ClassificationRecords:
    """All pictures of a split. ``len(records)`` is N, ``records.path(i)`` a file, ``records.labels[i]`` its class.

    Attributes:
        class_map: names in label order; the category ids are the labels themselves.
        source: the folder that `paths` start from.
        paths: N names relative to `source`, packed, so that forked workers share them.
        labels: (N,) int64 in 0..K-1.
    """

    class_map: ClassMap
    source: Path
    paths: PackedStrings = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise DataError(f"Record arrays disagree: {len(self.paths)} paths and {len(self.labels)} labels.")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_map):
            raise DataError(
                f"Labels must lie in 0..{len(self.class_map) - 1}, got {self.labels.min()}..{self.labels.max()}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Picture file of record ``index``."""
        return self.source / self.paths[index]

    def class_counts(self) -> NDArray[np.int64]:
        """Pictures per class, (K,)."""
        return np.bincount(self.labels, minlength=len(self.class_map))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ClassificationRecords:
        """The same split with only these pictures, in this order."""
        chosen = np.asarray(indices, np.int64)
        paths = PackedStrings(self.paths[int(i)] for i in chosen)
        return ClassificationRecords(self.class_map, self.source, paths, self.labels[chosen])


def read_image_folder(
    root: str | Path,
    *,
    class_map: ClassMap | None = None,
    classes: Sequence[str] | None = None,
    names_file: str | Path | None = None,
) -> tuple[ClassificationRecords, DataReport]:
    """Read one split.

    What stops reading is raised at once; everything else goes into the report, so call ``report.raise_for_errors()``.

    Args:
        root: folder with one folder per class; a relative path goes under ``EFFDENSE_DATA``.
        class_map: of the training split: labels follow it, and a folder that it does not know is an error.
        classes: only these classes, by name. Labels still follow the sorted folder names.
        names_file: lines of ``FOLDER NAME``, for example ImageNet's ``LOC_synset_mapping.txt``: the name shown for a
            folder. Of a comma-separated list the first is taken; a name that two folders share gets its folder behind.

    Returns:
        The records, class by class and sorted by path within each, and the report.

    Raises:
        DataError: the folder is missing, no class folder or no picture is in it, or the names file is unusable.
        ConfigError: ``classes`` names one that is not there.
    """
    folder = require_dir(resolve(root), "the image folder", advice=FOLDER_LAYOUT)
    report = DataReport(str(folder))
    found = _named_folders(folder, names_file, report)
    if classes is None and class_map is None:
        _report_splits(found, report)
    used = _choose_classes(found, classes, class_map, folder, report)
    if classes is not None:
        found = {name: place for name, place in found.items() if name in set(classes)}
    paths: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    empty: list[str] = []
    for label, name in enumerate(used.names):
        pictures = _pictures(folder, found[name], others) if name in found else []
        if not pictures:
            empty.append(name)
        paths += pictures
        labels += [label] * len(pictures)
    if not paths and class_map is not None and not set(found) & set(used.names):
        raise DataError(
            f"{folder}: none of its class folders ({_some(found)}) is a class of the training split "
            f"({_some(used.names)}). Give both splits the folder right above their class folders."
        )
    if not paths:
        raise DataError(
            f"{folder}: no picture in any of the {len(used)} class folders ({_some(used.names)}). "
            f"Expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}. {FOLDER_LAYOUT}"
        )
    if len(used) == 1:
        report.add("warning", "single-class", "class alone: there is nothing to tell apart.", list(used.names))
    report.add("warning", "class-without-images", "classes have no picture here; they keep their label.", empty)
    report.add("warning", "not-a-picture", "files do not end like pictures; they are left out.", others)
    records = ClassificationRecords(used, folder, PackedStrings(paths), np.array(labels, np.int64))
    return records, report


def _named_folders(folder: Path, names_file: str | Path | None, report: DataReport) -> dict[str, str]:
    """Class name -> folder, in the order of the folders."""
    folders = _class_folders(folder, report)
    name_of = {} if names_file is None else _read_names(resolve(names_file))
    found = {name_of.get(place, place): place for place in folders}
    if len(found) != len(folders):
        hidden = sorted(set(folders) - set(found.values()))
        raise DataError(f"{names_file} gives folder(s) {hidden} of {folder} the name of another class. Change one.")
    return found


def _report_splits(folders: Iterable[str], report: DataReport) -> None:
    """The folder above the splits given in place of one; a single class may be called "train"."""
    names = list(folders)
    if SPLIT_NAMES.issuperset(names):
        message = (
            "class folders are named like splits: give the folder of one of them (root or split in the config). "
            "If they are classes, list them in classes=[...]."
        )
        report.add("error" if len(names) > 1 else "warning", "split-as-class", message, names)


def _some(names: Iterable[str]) -> str:
    """The first five."""
    shown = list(names)
    return ", ".join([*shown[:5], *(["..."] if len(shown) > 5 else [])])


def _class_folders(folder: Path, report: DataReport) -> list[str]:
    """Sorted names of the folders right under the root; hidden ones belong to programs, not to classes."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    folders = [entry.name for entry in entries if entry.is_dir()]
    hidden = [name for name in folders if name.startswith(".")]
    loose = [e.name for e in entries if e.is_file() and Path(e.name).suffix.lower() in IMAGE_SUFFIXES]
    report.add("warning", "hidden-folder", "hidden folders are not taken for classes.", hidden)
    visible = [name for name in folders if name not in set(hidden)]
    if not visible:
        held = f"{len(loose)} pictures (first {loose[0]}) but no folder" if loose else "no folder"
        raise DataError(f"{folder} holds {held}, so there is no class. {FOLDER_LAYOUT}")
    report.add("warning", "picture-outside-class", "pictures lie beside the class folders; they are left out.", loose)
    return visible


def _choose_classes(
    found: dict[str, str], classes: Sequence[str] | None, class_map: ClassMap | None, folder: Path, report: DataReport
) -> ClassMap:
    """The classes to read: the training split's, or those asked for, or all."""
    known = set(found) if class_map is None else set(class_map.names) | set(found)
    if isinstance(classes, str):
        raise ConfigError(f"classes must be a list of class names, got the text {classes!r}.")
    for name in classes or ():
        if name not in known:
            raise ConfigError(
                f"classes names {name!r}, but {folder} has no such class folder.{did_you_mean(name, known)} "
                f"It has {len(found)}: {', '.join(list(found)[:10])}{', ...' if len(found) > 10 else ''}."
            )
    wanted = list(found) if classes is None else [name for name in found if name in set(classes)]
    if class_map is None:
        return ClassMap(tuple(wanted), tuple(range(len(wanted))))
    strange = [name for name in wanted if name not in class_map.names]
    report.add(
        "error",
        "unknown-class",
        "class folders are not among the classes of the training split; take them out, train with them, or choose with "
        "classes=[...].",
        strange,
    )
    return class_map


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk`` through links, but not through those that lead back to a folder above them."""
    for place, folders, files in os.walk(folder, followlinks=True):
        inner = f"{os.path.realpath(place)}{os.sep}"
        ahead = {name: os.path.realpath(f"{place}/{name}") for name in folders if os.path.islink(f"{place}/{name}")}
        folders[:] = [name for name in folders if name not in ahead or not inner.startswith(f"{ahead[name]}{os.sep}")]
        yield place, folders, files


def _pictures(root: Path, folder: str, others: list[str]) -> list[str]:
    """Picture files under a class folder, relative to the root, in torchvision's order; other files go to `others`."""
    pictures: list[str] = []
    for place, _, files in sorted(walk(root / folder)):
        for file in sorted(files):
            path = os.path.relpath(os.path.join(place, file), root)
            (pictures if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES else others).append(path)
    return pictures


def _read_names(file: Path) -> dict[str, str]:
    """Folder -> display name, unique, from lines of ``FOLDER NAME[, SYNONYM ...]``."""
    try:
        lines = require_file(file, "the class names file").read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a UTF-8 text file ({error}); expected lines of FOLDER NAME.") from error
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        parts = line.split(maxsplit=1)
        if not parts:
            continue
        if len(parts) != 2 or parts[0] in names:
            reason = f"folder {parts[0]!r} comes twice" if parts[0] in names else f"got {line!r}"
            raise DataError(f"{file}, line {number}: expected FOLDER NAME, each folder once; {reason}.")
        names[parts[0]] = parts[1].split(",")[0].strip()
    shown = list(names.values())
    shared = {name for name in shown if shown.count(name) > 1}
    return {folder: f"{name} ({folder})" if name in shared else name for folder, name in names.items()}
