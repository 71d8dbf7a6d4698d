"""Lists of class names that lie beside a data set: classes.txt, obj.names, label_map.pbtxt and their like to names.

``classes.json``, which ``effdense convert`` writes, also keeps the category ids:
``{"classes": ["cat", "dog"], "category_ids": [17, 18]}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from effdense.data.records import ClassMap
from effdense.errors import DataError

LIST_NAMES = (
    "classes.json",
    "classes.txt",
    "obj.names",
    "_darknet.labels",
    "predefined_classes.txt",
    "labels.txt",
    "labelmap.txt",
    "label_map.pbtxt",
)
BACKGROUND_NAMES = frozenset({"background", "_background_", "__background__", "unlabeled", "unlabelled", "void"})
MAX_BYTES = 8 << 20
_ITEM = re.compile(r"item\s*\{(.*?)\}", re.DOTALL)
_NUMBERED = re.compile(r"(\d+)\s*[:,\s]\s*(\S.*)")


class ClassList(NamedTuple):
    """Names in label order, their ids where the list has some (ascending), and the file."""

    names: tuple[str, ...]
    ids: tuple[int, ...] | None
    source: Path

    def class_map(self, first: int) -> ClassMap:
        """The class map; ids count from ``first`` where the list has none. Raises: DataError naming the file."""
        try:
            return ClassMap(self.names, self.ids or tuple(range(first, first + len(self.names))))
        except DataError as error:
            raise DataError(f"{self.source}: {error}") from None


def find_class_list(folders: Iterable[Path], names: Iterable[str] = LIST_NAMES) -> ClassList | None:
    """The first list found, folder by folder; None where there is none. Raises: DataError for a broken one."""
    wanted = tuple(names)
    for folder in dict.fromkeys(folders):
        for name in wanted:
            if (folder / name).is_file():
                return read_class_list(folder / name)
    return None


def read_class_list(file: Path) -> ClassList:
    """Read a list by the ending of its file. Raises: DataError that names file and line."""
    text = read_text(file)
    if file.suffix == ".json":
        return _from_json(file, text)
    if file.suffix == ".pbtxt":
        return _from_pbtxt(file, text)
    lines = [line.strip() for line in text.splitlines()]
    if file.name == "labelmap.txt":  # CVAT: label:color_rgb:parts:actions
        lines = [line.split(":")[0] for line in lines if not line.startswith("#")]
        lines = [line for line in lines if line.lower() not in BACKGROUND_NAMES]
    names = [line for line in lines if line]
    numbered = [_NUMBERED.fullmatch(name) for name in names]
    ids = None
    if names and all(numbered) and len({int(match[1]) for match in numbered if match}) == len(names):
        pairs = sorted((int(match[1]), match[2]) for match in numbered if match)
        ids, names = tuple(number for number, _ in pairs), [name for _, name in pairs]
    return _checked(ClassList(tuple(names), ids, file))


def read_text(file: Path, limit: int = MAX_BYTES) -> str:
    """A text file, with or without byte order mark. Raises: DataError where it is no UTF-8 text or too large."""
    try:
        if file.stat().st_size > limit:
            raise DataError(f"{file}: {file.stat().st_size} bytes, more than the {limit} that such a file may have.")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a UTF-8 text file ({error}); save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{file}: the file cannot be read ({error}).") from error


def _checked(found: ClassList) -> ClassList:
    repeated = sorted({name for name in found.names if found.names.count(name) > 1})
    if not found.names or repeated:
        what = f"{repeated} occur more than once" if repeated else "there is no name in it"
        raise DataError(f"{found.source}: expected one class name a line, each once, but {what}. Correct the list.")
    return found


def _from_json(file: Path, text: str) -> ClassList:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}).") from error
    names = content.get("classes") if isinstance(content, dict) else content
    ids = content.get("category_ids") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{file}: expected {{"classes": ["cat", "dog", ...]}}, a list of names.')
    if ids is not None and (
        not isinstance(ids, list) or len(ids) != len(names) or any(type(number) is not int for number in ids)
    ):
        raise DataError(f'{file}: "category_ids" must be {len(names)} whole numbers, one per class, got {ids!r:.80}.')
    return _checked(ClassList(tuple(names), None if ids is None else tuple(ids), file))


def _from_pbtxt(file: Path, text: str) -> ClassList:
    """TensorFlow's label map: ``item { id: 1 name: 'cat' }``."""
    pairs = []
    for item in _ITEM.findall(text):
        number = re.search(r"\bid\s*:\s*(\d+)", item)
        name = re.search(r"\b(?:display_)?name\s*:\s*(['\"])(.*?)\1", item)
        if number is None or name is None:
            raise DataError(f"{file}: each item needs an id and a name, got item {{{item.strip()[:80]}}}.")
        pairs.append((int(number[1]), name[2]))
    pairs.sort()
    return _checked(ClassList(tuple(name for _, name in pairs), tuple(number for number, _ in pairs), file))
