"""Which class of one list becomes which of another, by name: a table from old labels to new ones, -1 for dropped.

``mapping`` is from old to new: ``{"car": "vehicle", "truck": "vehicle", "person": None}``; None drops a class. New
classes stand in the order in which the old ones bring them, and have the category ids 1..K.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data.records import ClassMap
from effdense.errors import ConfigError, DataError, did_you_mean

UNMAPPED = ("error", "keep", "drop")


@dataclass(frozen=True, eq=False)
class ClassTable:
    """New classes, and the new label of each old one: ``to`` (K_old,) int64, -1 where it is dropped."""

    class_map: ClassMap
    to: NDArray[np.int64] = field(repr=False)

    @property
    def is_identity(self) -> bool:
        """Whether every label stays what it is."""
        return len(self.to) == len(self.class_map) and bool((self.to == np.arange(len(self.to))).all())


def mapped(
    old: ClassMap, mapping: Mapping[str, str | None], *, classes: Sequence[str] | None = None, unmapped: str = "error"
) -> ClassTable:
    """The table of a mapping.

    Args:
        mapping: old name -> new name, or None to drop the class.
        classes: which of the new classes to keep, in the order that they shall have; default all.
        unmapped: old classes that the mapping does not name: "error", "keep" under their own name, or "drop".

    Raises: ConfigError for a name that is not there, a value that is no name, or where no class is left.
    """
    if unmapped not in UNMAPPED:
        raise ConfigError(f"unmapped must be one of {', '.join(map(repr, UNMAPPED))}, got {unmapped!r}.")
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"mapping must be a dict of old name to new name (or None to drop), got {mapping!r}.")
    for name, new in mapping.items():
        if isinstance(new, (list, tuple)):
            raise ConfigError(
                f"mapping goes from the old name to the new one, but {name!r} has the list {list(new)}. "
                f"Turn it around: {{{', '.join(f'{one!r}: {name!r}' for one in list(new)[:2])}, ...}}."
            )
        if name not in old.names:
            near = did_you_mean(str(name), old.names)
            raise ConfigError(f"mapping names {name!r}, which the data does not have.{near} It has {list(old.names)}.")
        if new is not None and (not isinstance(new, str) or not new):
            raise ConfigError(f"mapping gives {name!r} the value {new!r}; expected a class name, or None to drop it.")
    left = [name for name in old.names if name not in mapping]
    if left and unmapped == "error":
        raise ConfigError(
            f"mapping leaves out {len(left)} of the {len(old)} classes: {', '.join(left[:10])}"
            f"{', ...' if len(left) > 10 else ''}. Map each of them (None drops it), or say unmapped='keep' or 'drop'."
        )
    new_names = [mapping.get(name, name if unmapped == "keep" else None) for name in old.names]
    found = list(dict.fromkeys(name for name in new_names if name is not None))
    if not found:
        raise ConfigError("mapping drops every class, so there is nothing to learn.")
    chosen = found if classes is None else chosen_names(found, classes)
    return _table(old, new_names, chosen)


def chosen_names(found: Sequence[str], classes: Any) -> list[str]:
    """``classes``, if they are all among those found. Raises: ConfigError."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise ConfigError(f"classes must be a list of class names, got {classes!r}.")
    names = list(classes)
    unknown = [name for name in names if name not in found]
    if unknown or not names or len(set(names)) != len(names):
        what = f"{unknown[0]!r} is not among them.{did_you_mean(str(unknown[0]), found)}" if unknown else ""
        raise ConfigError(f"classes must name some of {list(found)}, each once; got {names}. {what}".rstrip())
    return names


def selected(old: ClassMap, target: ClassMap) -> ClassTable:
    """Old labels to those of ``target``, by name; classes that it does not have are dropped."""
    place = {name: label for label, name in enumerate(target.names)}
    return ClassTable(target, np.array([place.get(name, -1) for name in old.names], np.int64))


def aligned(old: ClassMap, target: ClassMap, where: str) -> ClassTable:
    """Old labels to those of ``target`` (of the training split), by name; ids of ``target`` hold.

    Raises: DataError for a class that ``target`` does not have.
    """
    strange = [name for name in old.names if name not in target.names]
    if strange:
        raise DataError(
            f"{where}: {len(strange)} of its classes are not among those trained: {', '.join(strange[:10])}"
            f"{', ...' if len(strange) > 10 else ''}.{did_you_mean(strange[0], target.names)} Trained are "
            f"{list(target.names)}. Map them (mapping={{...}}, None drops a class) or choose with classes=[...]."
        )
    return selected(old, target)


def union(maps: Sequence[ClassMap], classes: Sequence[str] | None = None) -> ClassMap:
    """All names in order of first appearance (or ``classes``, a choice of them in their order), ids 1..K.

    Each keeps the colour of the first list that has one for it.
    """
    found = list(dict.fromkeys(name for one in maps for name in one.names))
    names = found if classes is None else chosen_names(found, classes)
    colors: dict[str, Any] = {}
    for one in maps:
        for name, color in zip(one.names, one.palette or ()):
            colors.setdefault(name, color)
    palette = tuple(colors[name] for name in names) if all(name in colors for name in names) else None
    return ClassMap(tuple(names), tuple(range(1, len(names) + 1)), palette)


def _table(old: ClassMap, new_names: Sequence[str | None], names: Sequence[str]) -> ClassTable:
    label_of = {name: label for label, name in enumerate(names)}
    to = np.array([-1 if name is None else label_of.get(name, -1) for name in new_names], np.int64)
    palette = None
    if old.palette is not None:
        palette = tuple(old.palette[int(np.flatnonzero(to == label)[0])] for label in range(len(names)))
    return ClassTable(ClassMap(tuple(names), tuple(range(1, len(names) + 1)), palette), to)
