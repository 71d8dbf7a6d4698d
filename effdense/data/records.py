"""Annotations in memory: a class map and one flat, compact record store that every reader fills.

A reader (COCO today) turns its format into :class:`DetectionRecords`; nothing behind this line knows about files again.
Symbols: N images, M boxes over all images, G boxes of one image, K classes. Boxes are ``xyxy`` float32, pixels of the
original image; labels are 0..K-1 in the order of the category ids.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data.segments import PackedSegments, Segment, positions, ragged_rows
from effdense.errors import DataError

Color = tuple[int, int, int]  # R, G, B, 0..255 each


@dataclass(frozen=True)
class ClassMap:
    """Class names and the category ids of the annotation file, both in label order (ascending category id).

    Args:
        names: K class names, unique.
        category_ids: K ids, strictly ascending; gaps are fine (COCO's 80 classes use 1..90).
        palette: RGB of each class in pictures, where its data set has colours of its own; no part of ``==``.

    Raises:
        DataError: lengths differ, names repeat, ids do not ascend, there is no class, or a colour is none.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    palette: tuple[Color, ...] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.category_ids):
            raise DataError(
                f"A class map needs at least one class and as many names as category ids, "
                f"got {len(self.names)} names and {len(self.category_ids)} ids."
            )
        if len(set(self.names)) != len(self.names):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise DataError(f"Class names must be unique, these repeat: {repeated}. Rename one of each.")
        if any(a >= b for a, b in zip(self.category_ids, self.category_ids[1:], strict=False)):
            raise DataError(f"Category ids must be strictly ascending, got {self.category_ids}. Sort classes by id.")
        if self.palette is not None:
            object.__setattr__(self, "palette", _checked_palette(self.palette, len(self.names)))

    def __len__(self) -> int:
        return len(self.names)

    def label(self, category_id: int) -> int:
        """Label 0..K-1 of a category id; DataError when the id is unknown."""
        position = bisect_left(self.category_ids, category_id)
        if position == len(self) or self.category_ids[position] != category_id:
            raise DataError(f"Category id {category_id} is not in the class map; known ids: {list(self.category_ids)}.")
        return position

    def to_dict(self) -> dict[str, Any]:
        """JSON-friendly form, for checkpoints and exported files; "palette" only where there is one."""
        content: dict[str, Any] = {"names": list(self.names), "category_ids": list(self.category_ids)}
        return content if self.palette is None else {**content, "palette": [list(color) for color in self.palette]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ClassMap:
        """Inverse of :meth:`to_dict`; DataError when a key is missing."""
        missing = {"names", "category_ids"} - content.keys()
        if missing:
            raise DataError(f"A class map dict needs 'names' and 'category_ids', missing: {sorted(missing)}.")
        names, ids = tuple(str(n) for n in content["names"]), tuple(int(i) for i in content["category_ids"])
        return cls(names, ids, content.get("palette"))


def _checked_palette(palette: Any, classes: int) -> tuple[Color, ...]:
    """The palette as tuples of plain ints; DataError for a wrong number of colours and for what is no colour."""
    colors = list(palette) if isinstance(palette, (list, tuple, np.ndarray)) else []
    if len(colors) != classes:
        raise DataError(f"A palette needs one [R, G, B] for each of the {classes} classes, got {len(colors)} colours.")
    return tuple(checked_color(color, f"palette[{label}]") for label, color in enumerate(colors))


def checked_color(color: Any, where: str) -> Color:
    """[R, G, B] of whole numbers 0..255 as a tuple; DataError, naming ``where``, for anything else."""
    parts = color.tolist() if isinstance(color, np.ndarray) else color
    if (
        not isinstance(parts, (list, tuple))
        or [type(part) for part in parts] != [int] * 3
        or not all(0 <= part <= 255 for part in parts)
    ):
        raise DataError(f"{where} must be [R, G, B], three whole numbers 0..255, got {color!r}.")
    return parts[0], parts[1], parts[2]


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its annotations.

    Fields: ``boxes`` (G, 4) float32 xyxy px of the original image, inside it; ``labels`` (G,) int64; ``is_crowd`` (G,)
    bool (a region of many objects: not trained on, ignored in evaluation); ``annotation_ids`` (G,) int64; ``areas``
    (G,) float32 px, the annotated (mask) area by which COCO sorts small, medium and large; ``segments`` the outlines of
    the G objects (None for one without), or None where the split was read without them.
    """

    image_id: int
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    annotation_ids: NDArray[np.int64]
    areas: NDArray[np.float32]
    segments: tuple[Segment | None, ...] | None = None


class PackedStrings:
    """A read-only list of strings in two arrays: no Python object per string, so forked workers share the pages."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [s.encode("utf-8", "surrogateescape") for s in strings]
        self.offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=self.offsets[1:])
        self.buffer = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        part = self.buffer[self.offsets[index] : self.offsets[index + 1]]
        return part.tobytes().decode("utf-8", "surrogateescape")

    def take(self, rows: NDArray[np.int64]) -> PackedStrings:
        """Those at these positions, in this order."""
        taken = PackedStrings(())
        taken.offsets, characters = ragged_rows(self.offsets, positions(rows, len(self)))
        taken.buffer = self.buffer[characters]
        return taken


@dataclass(frozen=True, eq=False)
class Origins:
    """Where the images of a combined set came from: ``names`` of the sources, ``of`` (N,) index into them."""

    names: tuple[str, ...]
    of: NDArray[np.int32] = field(repr=False)

    def __str__(self) -> str:
        return " + ".join(self.names)


@dataclass(frozen=True, eq=False)
class DetectionRecords:
    """All images of a split. ``len(records)`` is N, ``records[i]`` an :class:`ImageRecord` (views: copy to edit).

    Everything is flat numpy, about 33 bytes per box, so a million boxes take 33 MB, pickle fast and are not copied by
    forked workers. Boxes of image i are rows ``offsets[i]:offsets[i + 1]``.
    """

    class_map: ClassMap
    image_dir: Path
    names: PackedStrings = field(repr=False)
    image_ids: NDArray[np.int64] = field(repr=False)  # (N,)
    sizes: NDArray[np.int32] = field(repr=False)  # (N, 2) height, width
    offsets: NDArray[np.int64] = field(repr=False)  # (N + 1,)
    boxes: NDArray[np.float32] = field(repr=False)  # (M, 4) xyxy px original
    labels: NDArray[np.int32] = field(repr=False)  # (M,)
    is_crowd: NDArray[np.bool_] = field(repr=False)  # (M,)
    annotation_ids: NDArray[np.int64] = field(repr=False)  # (M,)
    areas: NDArray[np.float32] = field(repr=False)  # (M,) px
    annotation_file: Path | None = None
    segments: PackedSegments | None = field(default=None, repr=False)  # (M,) where outlines were asked for
    origins: Origins | None = field(default=None, repr=False)  # (N,) of combined sets

    def __post_init__(self) -> None:
        images, boxes = len(self.image_ids), len(self.boxes)
        lengths = [len(self.names), len(self.sizes), len(self.offsets) - 1]
        lengths += [] if self.origins is None else [len(self.origins.of)]
        flat = [len(self.labels), len(self.is_crowd), len(self.annotation_ids), len(self.areas), int(self.offsets[-1])]
        flat += [] if self.segments is None else [len(self.segments)]
        if any(n != images for n in lengths) or any(n != boxes for n in flat):
            raise DataError(f"Record arrays disagree: {images} images against {lengths}, {boxes} boxes against {flat}.")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> ImageRecord:
        index = range(len(self))[index]
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        height, width = self.sizes[index].tolist()
        return ImageRecord(
            image_id=int(self.image_ids[index]),
            path=self.path(index),
            width=width,
            height=height,
            boxes=self.boxes[rows],
            labels=self.labels[rows].astype(np.int64),
            is_crowd=self.is_crowd[rows],
            annotation_ids=self.annotation_ids[rows],
            areas=self.areas[rows],
            segments=None
            if self.segments is None
            else tuple(self.segments[row] for row in range(rows.start, rows.stop)),
        )

    def path(self, index: int) -> Path:
        """Image file of record ``index``."""
        return self.image_dir / self.names[index]

    def source_of(self, index: int) -> str:
        """Where record ``index`` came from: the annotation file (or folder) that it was read from."""
        if self.origins is not None:
            return self.origins.names[int(self.origins.of[range(len(self))[index]])]
        return str(self.annotation_file or self.image_dir)

    def class_counts(self) -> NDArray[np.int64]:
        """Instances per class without crowds, (K,)."""
        return np.bincount(self.labels[~self.is_crowd], minlength=len(self.class_map))

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        own: list[NDArray[Any]] = [
            self.image_ids,
            self.sizes,
            self.offsets,
            self.boxes,
            self.labels,
            self.is_crowd,
            self.annotation_ids,
        ]
        own += [self.areas, self.names.buffer, self.names.offsets]
        own += [] if self.origins is None else [self.origins.of]
        return sum(a.nbytes for a in own) + (0 if self.segments is None else self.segments.nbytes)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> DetectionRecords:
        """The same split with only these images (numbers or a mask), in this order."""
        chosen = positions(indices, len(self))
        offsets, rows = ragged_rows(self.offsets, chosen)
        return DetectionRecords(
            class_map=self.class_map,
            image_dir=self.image_dir,
            names=self.names.take(chosen),
            image_ids=self.image_ids[chosen],
            sizes=self.sizes[chosen],
            offsets=offsets,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            is_crowd=self.is_crowd[rows],
            annotation_ids=self.annotation_ids[rows],
            areas=self.areas[rows],
            annotation_file=self.annotation_file,
            segments=None if self.segments is None else self.segments.take(rows),
            origins=None if self.origins is None else Origins(self.origins.names, self.origins.of[chosen]),
        )

    @classmethod
    def from_images(
        cls, images: Sequence[ImageRecord], class_map: ClassMap, *, annotation_file: Path | None = None
    ) -> DetectionRecords:
        """Pack single records, e.g. those of a reader that walks one file per image."""

        def flat(arrays: list[Any], dtype: Any, shape: tuple[int, ...]) -> Any:
            return np.concatenate([np.zeros(shape, dtype), *arrays]).astype(dtype)

        return cls(
            class_map=class_map,
            image_dir=Path(),
            names=PackedStrings(str(r.path) for r in images),
            image_ids=np.array([r.image_id for r in images], np.int64),
            sizes=np.array([(r.height, r.width) for r in images], np.int32).reshape(-1, 2),
            offsets=np.concatenate([[0], np.cumsum([len(r.boxes) for r in images])]).astype(np.int64),
            boxes=flat([r.boxes for r in images], np.float32, (0, 4)),
            labels=flat([r.labels for r in images], np.int32, (0,)),
            is_crowd=flat([r.is_crowd for r in images], np.bool_, (0,)),
            annotation_ids=flat([r.annotation_ids for r in images], np.int64, (0,)),
            areas=flat([r.areas for r in images], np.float32, (0,)),
            annotation_file=annotation_file,
            segments=_packed_segments(images),
        )


def _packed_segments(images: Sequence[ImageRecord]) -> PackedSegments | None:
    """Outlines of all objects, or None where no image brings any."""
    if all(record.segments is None for record in images):
        return None
    return PackedSegments.pack(
        segment
        for record in images
        for segment in (record.segments if record.segments is not None else (None,) * len(record.boxes))
    )
