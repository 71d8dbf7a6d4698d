"""Where the pictures, labels and names of a YOLO set are: a yaml, a list file or a folder in, a layout out.

ROOT/data.yaml  ROOT/images/train/*.jpg  ROOT/labels/train/*.txt          ultralytics
ROOT/data.yaml  ROOT/train/images/*.jpg  ROOT/train/labels/*.txt          Roboflow
ROOT/obj.data  obj.names  train.txt  obj_train_data/*.jpg, *.txt          Darknet, CVAT
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from effdense.data.paths import data_root
from effdense.data.readers.class_lists import ClassList, find_class_list, read_class_list, read_text
from effdense.data.readers.image_folder import IMAGE_SUFFIXES
from effdense.data.readers.splits import ALL, folders_of, is_usual, list_pictures, named_splits
from effdense.errors import DataError

MAX_CLASSES = 100_000  # of a set without names; what is read takes memory for each
YOLO_LAYOUT = (
    "A YOLO set is laid out as ROOT/data.yaml (path, train, val, names), ROOT/images/train/*.jpg and "
    "ROOT/labels/train/*.txt, the same for val."
)
YAML_SUFFIXES = (".yaml", ".yml")
# Text files that lie beside label files and are none.
NOT_LABELS = frozenset({"classes.txt", "labels.txt", "predefined_classes.txt", "labelmap.txt", "obj.names"})
_SPLIT_KEYS = ("train", "val", "valid", "validation", "test", ALL)


@dataclass(frozen=True)
class YoloLayout:
    """A YOLO set found, its pictures not yet listed.

    Attributes:
        root: what messages name files relative to.
        file: yaml, ``*.data`` or list file that says so; None for a bare folder.
        classes: None where nothing names them.
        count: ``nc`` of the yaml.
        bases: folders that relative entries are looked for in, in this order.
        splits: entries of each split: folders, list files or pictures.
        keypoint_columns: numbers behind each box, by ``kpt_shape``.
    """

    root: Path
    file: Path | None
    classes: ClassList | None
    splits: dict[str, tuple[str, ...]]
    bases: tuple[Path, ...] = field(default=(), repr=False)
    count: int | None = None
    keypoint_columns: int = 0
    odd_ids: bool = False


def find_yolo(path: Path) -> YoloLayout | None:
    """The layout of a file or folder that exists; None where it is no YOLO set.

    Raises: DataError for a yaml that is one but cannot be used.
    """
    if path.is_file():
        if path.suffix in YAML_SUFFIXES:
            return _from_yaml(path)
        if path.suffix == ".data":
            return _from_darknet(path)
        return _from_list(path) if path.suffix == ".txt" else None
    yamls = [file for file in sorted(path.iterdir()) if file.suffix in YAML_SUFFIXES and _looks_like_one(file)]
    if len(yamls) > 1:
        names = ", ".join(file.name for file in yamls)
        raise DataError(f"{path} holds several YOLO files, {names}; give one of them as the path.")
    if yamls:
        return _from_yaml(yamls[0])
    described = sorted(path.glob("*.data"))
    if len(described) == 1:
        return _from_darknet(described[0])
    return _from_folder(path)


def load_yaml(file: Path) -> dict[str, Any] | None:
    """A yaml's content where it is a mapping, read by the safe loader. Raises: DataError for broken ones."""
    try:
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        where = str(error).replace("\n", " ")
        raise DataError(f"{file}: not valid YAML ({where}).") from error
    except RecursionError as error:
        raise DataError(f"{file}: not valid YAML (nested too deeply).") from error
    return content if isinstance(content, dict) else None


def _looks_like_one(file: Path) -> bool:
    try:
        content = load_yaml(file)
    except DataError:
        return file.stem in ("data", "dataset")  # then its own message is the one to show
    return content is not None and any(key in content for key in _SPLIT_KEYS) and bool({"names", "nc"} & set(content))


def _from_yaml(file: Path) -> YoloLayout:
    content = load_yaml(file)
    if content is None or not any(content.get(key) for key in _SPLIT_KEYS):
        keys = "no mapping" if content is None else ", ".join(map(str, content)) or "no keys"
        raise DataError(
            f"{file}: expected the keys path, train, val and names of a YOLO set, got {keys}. Add train: and val:, "
            "each a folder of pictures or a list file."
        )
    names, ids, odd = _names(file, content.get("names"))
    count = content.get("nc")
    if count is not None and (type(count) is not int or not 1 <= count <= MAX_CLASSES):
        raise DataError(
            f"{file}: nc must be the number of classes, a whole number from 1 to {MAX_CLASSES:,}, got {count!r:.40}."
        )
    classes = None if names is None else _with_kept_ids(ClassList(names, ids, file))
    splits: dict[str, tuple[str, ...]] = {}
    for key in _SPLIT_KEYS:
        value = content.get(key)
        entries = value if isinstance(value, list) else [] if value is None else [value]
        if any(not isinstance(entry, str) or not entry.strip() for entry in entries):
            raise DataError(f"{file}: {key} must be a folder, a list file or a list of those, got {value!r:.80}.")
        if entries:
            splits[key] = tuple(entries)
    for key, value in content.items():  # splits of other names, as effdense convert writes them
        if isinstance(key, str) and key not in _SPLIT_KEYS and value == f"images/{key}":
            splits[key] = (value,)
    shape = content.get("kpt_shape")
    if shape is not None and not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)):
        raise DataError(f"{file}: kpt_shape must be [points, 2 or 3], got {shape!r:.80}.")
    return YoloLayout(
        root=file.parent,
        file=file,
        classes=classes,
        splits=named_splits(splits),
        bases=_bases(file, content.get("path")),
        count=count,
        keypoint_columns=0 if shape is None else shape[0] * shape[1],
        odd_ids=odd,
    )


def _bases(file: Path, stated: Any) -> tuple[Path, ...]:
    """Folders that the entries of a yaml may start from: ``path`` beside the yaml, above it, under EFFDENSE_DATA."""
    if stated is not None and not isinstance(stated, str):
        raise DataError(f"{file}: path must be a folder, got {stated!r:.80}.")
    starts = (file.parent, file.parent.parent, data_root())
    if not stated:
        return starts
    folder = Path(stated).expanduser()
    places = [folder] if folder.is_absolute() else [start / folder for start in starts]
    return tuple(dict.fromkeys([*(place for place in places if place.is_dir()), *places, file.parent]))


def _names(file: Path, value: Any) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None, bool]:
    """(names, ids or None for 0..K-1, whether ids have gaps) of a yaml's ``names``."""
    if value is None:
        return None, None, False
    if isinstance(value, str) and value.endswith((".txt", ".names")):
        found = read_class_list(file.parent / value)
        return found.names, found.ids, False
    if isinstance(value, dict):
        keys = [int(key) if isinstance(key, str) and key.isdecimal() else key for key in value]
        if any(type(key) is not int or key < 0 for key in keys):
            raise DataError(f"{file}: names must be numbered from 0 (0: cat), got the keys {list(value)!r:.80}.")
        pairs = sorted(zip(keys, value.values(), strict=True), key=lambda pair: pair[0])
        numbers, values = tuple(pair[0] for pair in pairs), [pair[1] for pair in pairs]
    elif isinstance(value, list):
        numbers, values = tuple(range(len(value))), value
    else:
        raise DataError(f"{file}: names must be a list of class names or 0: cat, 1: dog, got {value!r:.80}.")
    for number, name in zip(numbers, values, strict=True):
        if isinstance(name, bool) or name is None:
            raise DataError(
                f"{file}: the name of class {number} is read as {name!r}: YAML takes yes, no, on, off and null for "
                'more than words. Put quotes around it: "no".'
            )
        if not isinstance(name, (str, int, float)):
            raise DataError(f"{file}: the name of class {number} must be a text, got {type(name).__name__}.")
    if not values:
        raise DataError(f"{file}: names is empty; it needs one name per class.")
    gaps = numbers != tuple(range(len(numbers)))
    return tuple(str(name).strip() for name in values), numbers if gaps else None, gaps


def _with_kept_ids(found: ClassList) -> ClassList:
    """With the category ids of a ``classes.json`` beside the yaml, where that has the same names in the same order.

    The numbers in label files stay positions in the list.
    """
    kept = find_class_list([found.source.parent], ["classes.json"]) if found.ids is None else None
    if kept is None or kept.names != found.names or kept.ids is None:
        return found
    return found._replace(ids=kept.ids)


def _from_darknet(file: Path) -> YoloLayout:
    """``obj.data``: lines ``train = data/train.txt``, ``names = data/obj.names``."""
    content = {}
    for line in read_text(file).splitlines():
        key, found, value = line.partition("=")
        if found:
            content[key.strip()] = value.strip()
    splits = {key: (content[key],) for key in _SPLIT_KEYS if content.get(key)}
    if not splits:
        raise DataError(f"{file}: expected lines like 'train = train.txt' and 'names = obj.names', got neither.")
    bases = (file.parent, file.parent.parent)
    names = content.get("names")
    listed = None
    if names:
        found_at = next((place for base in bases for place in tails(base, names) if place.is_file()), None)
        if found_at is None:
            raise DataError(f"{file}: its names file {names!r} is not in {file.parent}; correct the line or add it.")
        listed = read_class_list(found_at)
    elif (found_list := find_class_list(bases)) is not None:
        listed = found_list
    return YoloLayout(file.parent, file, listed, named_splits(splits), bases)


def _from_list(file: Path) -> YoloLayout | None:
    lines = [line.strip() for line in read_text(file, 1 << 30).splitlines()]
    if not is_picture_list(lines):
        return None
    folders = (file.parent, file.parent.parent)
    listed = find_class_list(folders)
    for folder in folders:
        for candidate in sorted(folder.glob("*.yaml")) if listed is None else ():
            if _looks_like_one(candidate):
                listed = _from_yaml(candidate).classes
    name = file.stem if is_usual(file.stem) else ALL
    return YoloLayout(file.parent, file, listed, named_splits({name: (str(file.absolute()),)}), folders)


def is_picture_list(lines: list[str]) -> bool:
    """Whether the lines of a text file are names of pictures."""
    some = [line for line in lines if line][:20]
    return bool(some) and all(os.path.splitext(line)[1].lower() in IMAGE_SUFFIXES for line in some)


def _from_folder(root: Path) -> YoloLayout | None:
    """Folders without a yaml, by their shape."""
    splits: dict[str, tuple[str, ...]] = {}
    images, labels = root / "images", root / "labels"
    if images.is_dir() and labels.is_dir() and any(labels.rglob("*.txt")):
        lists = [file for file in sorted(root.glob("*.txt")) if is_usual(file.stem)]
        parts = [name for name in folders_of(images) if is_usual(name)]
        if parts:
            splits = {name: (str(images / name),) for name in parts}
        elif lists:
            splits = {file.stem: (str(file),) for file in lists}
        else:
            splits = {ALL: (str(images),)}
    if not splits:
        for name in folders_of(root):
            if is_usual(name) and (root / name / "images").is_dir() and (root / name / "labels").is_dir():
                if any((root / name / "labels").rglob("*.txt")):
                    splits[name] = (str(root / name / "images"),)
            elif is_usual(name) and _has_pairs(root / name):
                splits[name] = (str(root / name),)
    if not splits and _has_pairs(root):
        splits = {ALL: (str(root),)}
    if not splits:
        return None
    folders = [root, labels, *(root / name for name in splits), *(root / name / "labels" for name in splits)]
    listed = find_class_list(folder for folder in folders if folder.is_dir())
    return YoloLayout(root, None, listed, named_splits(splits), (root,))


def _has_pairs(folder: Path) -> bool:
    """Whether at least one picture right in the folder has a label file of its name beside it."""
    stems = {os.path.splitext(name)[0] for name in list_pictures(folder) if "/" not in name}
    return any(file.stem in stems and file.name not in NOT_LABELS for file in folder.glob("*.txt"))


def tails(base: Path, entry: str) -> list[Path]:
    """Places that an entry may mean below a folder: as it stands, then without its first folders."""
    parts = [part for part in Path(entry.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    return [base / entry, *(base.joinpath(*parts[start:]) for start in range(len(parts)))]
