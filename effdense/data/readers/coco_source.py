"""Where the JSON files and pictures of a COCO set are: a file or folder in, the two of each split out.

ROOT/annotations/instances_train2017.json  ROOT/train2017/*.jpg     COCO
ROOT/train/_annotations.coco.json  ROOT/train/*.jpg                 Roboflow
ROOT/train.json or ROOT/labels.json  ROOT/images or ROOT/data       others
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effdense.data.checks.check import DataReport
from effdense.data.paths import COCO_LAYOUT, require_file
from effdense.data.readers.coco import load_coco, read_coco_content
from effdense.data.readers.coco_entries import escapes, is_file_name
from effdense.data.readers.splits import ALL, folders_of, is_usual, named_splits, pick_split, split_name
from effdense.data.records import ClassMap, DetectionRecords
from effdense.errors import DataError

_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_PICTURES = ("images", "data", "JPEGImages", "imgs", "img")
SAMPLE = 64  # file names that are looked for when the folder of the pictures is searched


@dataclass(frozen=True)
class CocoPart:
    """One split: its JSON file and how the set itself calls it."""

    file: Path
    raw: str


@dataclass(frozen=True)
class CocoLayout:
    """A COCO set found: splits by usual name, and other JSON files that repeat their pictures."""

    root: Path
    splits: dict[str, CocoPart]
    others: dict[str, CocoPart] = field(default_factory=dict)
    image_dir: Path | None = None  # told, not searched for


def find_coco(path: Path) -> CocoLayout | None:
    """The layout of a JSON file or a folder; None where it is no COCO set."""
    if path.is_file():
        if path.suffix.lower() != ".json":
            return None
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        raw = _split_of(path)
        name = split_name(raw) if is_usual(raw) else ALL
        return CocoLayout(root, {name: CocoPart(path, raw)})
    folder = path / "annotations"
    files = sorted(folder.glob("instances_*.json")) if folder.is_dir() else []
    for place in (folder, path):
        if not files and place.is_dir():
            files = [file for file in sorted(place.glob("*.json")) if looks_coco(file)]
    if not files:
        inner = [file for name in folders_of(path) if is_usual(name) for file in sorted((path / name).glob("*.json"))]
        files = [file for file in inner if looks_coco(file)]
    parts: dict[str, CocoPart] = {}
    for file in files:
        raw = _split_of(file)
        parts[file.stem if raw in parts else raw] = CocoPart(file, raw)
    if len(parts) == 1 and not is_usual(next(iter(parts))):
        return CocoLayout(path, {ALL: next(iter(parts.values()))})
    usual = {name: part for name, part in parts.items() if is_usual(name)} or parts
    others = {name: part for name, part in parts.items() if name not in usual}
    return CocoLayout(path, named_splits(usual), others) if parts else None


def looks_coco(file: Path) -> bool:
    """Whether a JSON file has the sections of COCO instances, without parsing it."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(key) >= 0 for key in _KEYS) and content.find(b'"segments_info"') < 0
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _split_of(file: Path) -> str:
    """Name of the split by that of the file, or of its folder: instances_train2017 is "train2017"."""
    stem = re.sub(r"^(instances|annotations)_", "", file.stem)
    stem = re.sub(r"[_.-](annotations|instances|coco)$", "", stem)
    if not is_usual(stem) and (file.stem.startswith("_annotations") or is_usual(file.parent.name)):
        return file.parent.name
    return stem


def read_coco_split(
    layout: CocoLayout,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """Read one split, its pictures searched for where COCO sets have them. See ``read_coco``."""
    _, part = pick_split({**layout.splits, **layout.others}, split, layout.root)
    content = load_coco(require_file(part.file, "the COCO annotation file", advice=COCO_LAYOUT))
    image_dir, tried = (layout.image_dir, []) if layout.image_dir else find_image_dir(content, part, layout.root)
    records, report = read_coco_content(
        content,
        part.file,
        image_dir or part.file.parent,
        classes=classes,
        class_map=class_map,
        keep_empty=keep_empty,
        segments=segments,
        training=training,
    )
    if image_dir is None:
        message = (
            f"pictures that the file names were found nowhere; tried {', '.join(map(str, tried))}. Put them into one "
            f"of these. {COCO_LAYOUT}"
        )
        report.add("error", "no-image-folder", message, [str(part.file)])
    return records, report


def find_image_dir(content: dict[str, list[Any]], part: CocoPart, root: Path) -> tuple[Path | None, list[Path]]:
    """(the folder that holds the most of the file's pictures, None where none holds any; all that were tried)."""
    names = _some_names(content["images"])
    home = part.file.parent
    spellings = dict.fromkeys([part.raw, split_name(part.raw), *(f"{split_name(part.raw)}{y}" for y in (2017, 2014))])
    starts = list(dict.fromkeys([root, home, home.parent]))
    tried = [start / folder / raw for start in starts for folder in _PICTURES for raw in spellings]
    tried += [start / raw for start in starts for raw in spellings]
    tried += [start / folder for start in starts for folder in _PICTURES]
    tried += starts
    tried = [folder for folder in dict.fromkeys(tried) if folder.is_dir()] or starts
    best, most = None, 0
    for folder in tried:
        count = sum((folder / name).is_file() for name in names)
        if count > most:
            best, most = folder, count
    return best, tried


def _some_names(entries: list[Any]) -> list[str]:
    """File names spread over the images."""
    names = [entry.get("file_name") for entry in entries if isinstance(entry, dict)]
    usable = [str(name) for name in names if is_file_name(name) and not escapes(str(name))]
    return usable[:: max(1, len(usable) // SAMPLE)]


def missing_coco(path: Path) -> DataError:
    """That there is no COCO set at a path."""
    state = "it holds no such set" if path.exists() else "there is nothing there"
    return DataError(f"Expected a COCO set at {path.absolute()}, but {state}. {COCO_LAYOUT}")
