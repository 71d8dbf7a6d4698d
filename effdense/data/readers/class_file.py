"""Class files of mask folders: JSON (or the same as arguments) in, class map and mask coding out.

    {"classes": ["sky", "road"], "values": [4, 9], "ignore_index": 255, "palette": [[70, 130, 180], [128, 64, 128]]}

"classes" alone is enough. An object of values and names, ``{"0": "sky", "1": "road"}``, is read as well.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from effdense.data.paths import require_file, resolve
from effdense.data.readers.mask_values import IGNORE, MAX_COLORS, MaskCoding
from effdense.data.records import ClassMap, Color, checked_color
from effdense.errors import ConfigError, DataError, did_you_mean

IgnoreIndex = int | Literal["auto"] | None
FORM = 'It holds {"classes": ["sky", "road", ...]}.'
_KEYS = ("classes", "values", "palette", "colors", "ignore_index", "ignore_values", "ignore_colors")


def read_classes(
    classes: Sequence[str] | str | Path,
    *,
    values: Sequence[int] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    ignore_index: IgnoreIndex = "auto",
    ignore_values: Sequence[int] | None = None,
) -> tuple[ClassMap, MaskCoding]:
    """Classes, and how masks write them.

    Args:
        classes: names in label order, or a JSON file with ``"classes"`` and, where wanted, ``"values"`` (the number of
            each class in the masks, ascending; default 0..K-1), ``"palette"`` (RGB of each class: drawn so, and masks
            of colours are read by it) or ``"colors"`` (the same, and palette PNGs are read by their colours, too),
            ``"ignore_index"``, ``"ignore_values"``, ``"ignore_colors"``.
        values, palette: the same without a file.
        ignore_index: number in the masks that is no class; None: there is none, so that 255 can be a class; "auto":
            what the file says, else 255.
        ignore_values: several of them, in place of ``ignore_index``.

    Raises: DataError that names the file and the key.
    """
    content, where = _content(classes, ignore_index, ignore_values)
    for key, given in (("values", values), ("palette", palette)):
        if given is not None:
            stated = content.get(key)
            if stated is not None and [*stated] != [*given]:
                raise DataError(f"{where}: {key!r} is in the file and given besides; leave one of the two out.")
            content[key] = [*given]
    names = content.get("classes")
    if not isinstance(names, (list, tuple)) or not names or any(not isinstance(name, str) for name in names):
        raise DataError(f'{where}: expected {{"classes": ["sky", "road", ...]}}, a list of names, got {names!r}.')
    if len(names) > IGNORE:
        raise DataError(
            f"{where}: {len(names)} classes; at most {IGNORE} fit into 8-bit masks beside the ignore value."
        )
    numbers = _numbers(content.get("values", list(range(len(names)))), f"{where}: values", "one per class")
    ignored = _ignored(content, where, ignore_index, ignore_values)
    if both := sorted(set(ignored) & set(numbers)):
        raise DataError(
            f"{where}: ignore_index {both[0]} is also the value of a class; the ignore value must not be one. Where "
            'every value is a class (0/255 masks with values [0, 255]), say "ignore_index": null.'
        )
    try:
        class_map = ClassMap(tuple(names), numbers, content.get("palette", content.get("colors")))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return class_map, _coding(class_map, ignored, content, where)


def choose_classes(class_map: ClassMap, coding: MaskCoding, names: Sequence[str]) -> tuple[ClassMap, MaskCoding]:
    """The classes of these names, in their label order; numbers and colours of the others are ignored.

    Raises: ConfigError for a name that is not among them, with the nearest ones.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in class_map.names]
    if unknown or not wanted:
        hints = "".join(f" {name!r} is not.{did_you_mean(str(name), class_map.names)}" for name in unknown)
        raise ConfigError(f"classes must be some of those of the class file, {', '.join(class_map.names)}.{hints}")
    kept = [i for i, name in enumerate(class_map.names) if name in wanted]
    rest = [i for i, name in enumerate(class_map.names) if name not in wanted]
    palette = class_map.palette
    used = ClassMap(
        tuple(class_map.names[i] for i in kept),
        tuple(class_map.category_ids[i] for i in kept),
        None if palette is None else tuple(palette[i] for i in kept),
    )
    chosen = replace(
        coding,
        values=tuple(coding.values[i] for i in kept),
        ignore_values=(*coding.ignore_values, *(coding.values[i] for i in rest)),
    )
    if (colors := coding.colors) is not None:
        chosen = replace(
            chosen,
            colors=tuple(colors[i] for i in kept),
            ignore_colors=(*coding.ignore_colors, *(colors[i] for i in rest)),
        )
    return used, chosen


def _coding(class_map: ClassMap, ignored: tuple[int, ...], content: Mapping[str, Any], where: str) -> MaskCoding:
    colors, by_color = class_map.palette, "colors" in content
    if by_color and "palette" in content:
        raise DataError(f'{where}: "palette" and "colors" are both there; "colors" is also drawn with, leave one out.')
    ignore_colors = content.get("ignore_colors", [])
    if not isinstance(ignore_colors, (list, tuple)):
        raise DataError(f'{where}: "ignore_colors" must be a list of [R, G, B], got {ignore_colors!r}.')
    no_class = tuple(checked_color(color, f"{where}: ignore_colors[{i}]") for i, color in enumerate(ignore_colors))
    if colors is not None and (repeated := _repeated([*colors, *no_class])):
        if by_color:
            raise DataError(
                f"{where}: colours stand for two things each: {repeated[:5]}; masks cannot be read by them."
            )
        colors = None  # to draw with only
    if colors is not None and len(colors) > MAX_COLORS:
        colors = None
    return MaskCoding(class_map.category_ids, ignored, colors, no_class, by_color)


def _content(
    classes: Sequence[str] | str | Path, ignore_index: IgnoreIndex, ignore_values: Sequence[int] | None
) -> tuple[dict[str, Any], str]:
    if not isinstance(classes, (str, Path)):
        return {"classes": list(classes)}, "classes"
    file = require_file(resolve(classes), "the class file", advice=FORM)
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        return {"classes": content}, str(file)
    if content and all(key.isdecimal() for key in content):
        ignored = ignore_values if ignore_values is not None else [IGNORE if ignore_index == "auto" else ignore_index]
        pairs = sorted((int(key), name) for key, name in content.items() if int(key) not in ignored)
        return {"classes": [name for _, name in pairs], "values": [value for value, _ in pairs]}, str(file)
    for key in content.keys() - set(_KEYS):
        if near := difflib.get_close_matches(key, _KEYS, 1, 0.85):
            raise DataError(f"{file}: {key!r} is no key of a class file. Did you mean {near[0]!r}?")
    return content, str(file)


def _ignored(
    content: Mapping[str, Any], where: str, ignore_index: IgnoreIndex, ignore_values: Sequence[int] | None
) -> tuple[int, ...]:
    """Ignored numbers: as asked for, else as the file says, else 255."""
    stated = None
    if "ignore_values" in content:
        stated = _numbers(content["ignore_values"], f"{where}: ignore_values", "any number of them")
    elif "ignore_index" in content:
        single = content["ignore_index"]
        stated = () if single is None else _numbers([single], f"{where}: ignore_index", "one, or null")
    asked = None
    if ignore_values is not None:
        asked = _numbers(list(ignore_values), "ignore_values", "any number of them")
    elif ignore_index != "auto":
        asked = () if ignore_index is None else _numbers([ignore_index], "ignore_index", "one, or None")
    if asked is not None and stated is not None and set(asked) != set(stated):
        raise DataError(
            f"{where} says that the ignored values are {list(stated)}, but {list(asked)} was asked for; "
            "make them agree."
        )
    return asked if asked is not None else stated if stated is not None else (IGNORE,)


def _numbers(found: Any, what: str, how_many: str) -> tuple[int, ...]:
    if not isinstance(found, (list, tuple)) or any(type(value) is not int or not 0 <= value <= 255 for value in found):
        raise DataError(f"{what} must be whole numbers 0..255, {how_many}, got {found!r}.")
    return tuple(found)


def _repeated(colors: Sequence[Color]) -> list[Color]:
    return [color for color in dict.fromkeys(colors) if colors.count(color) > 1]
