"""Records of any task to the arrays of a shard index, and back: the same records, with paths into the shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from effdense.data.readers.class_file import choose_classes
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.readers.mask_values import MaskCoding, SegmentTable
from effdense.data.records import ClassMap, DetectionRecords, PackedStrings
from effdense.data.segments import PackedSegments
from effdense.data.storage.shard_index import ShardIndex, index_name
from effdense.errors import ConfigError, DataError, did_you_mean

Records = DetectionRecords | SegmentationRecords | ClassificationRecords
Arrays = dict[str, NDArray[Any]]

_DETECTION = ("image_ids", "sizes", "offsets", "boxes", "labels", "is_crowd", "annotation_ids", "areas")
_SEGMENTS = ("points", "point_of", "ring_of", "runs", "run_of", "run_sizes")
_TABLE = ("offsets", "ids", "labels")


def task_of(records: Any) -> str:
    """``detection``, ``segmentation`` or ``classification``. Raises: ConfigError for anything else."""
    for kind, task in (
        (DetectionRecords, "detection"),
        (SegmentationRecords, "segmentation"),
        (ClassificationRecords, "classification"),
    ):
        if isinstance(records, kind):
            return task
    raise ConfigError(
        f"cannot write {type(records).__name__} as shards; expected are records of one detection, segmentation or "
        "classification split. Write the parts of a combined set one by one and combine them when training."
    )


def to_arrays(records: Records) -> tuple[Arrays, dict[str, Any]]:
    """All annotations of a split as arrays, and what is no array."""
    if isinstance(records, DetectionRecords):
        arrays: Arrays = {name: getattr(records, name) for name in _DETECTION}
        if records.segments is not None:
            arrays |= {f"segments_{name}": getattr(records.segments, name) for name in _SEGMENTS}
        return arrays, {}
    if isinstance(records, ClassificationRecords):
        return {"labels": records.labels}, {}
    coding = records.coding
    arrays = {} if records.segments is None else {f"table_{n}": getattr(records.segments, n) for n in _TABLE}
    return arrays, {
        "values": coding.values,
        "ignore_values": coding.ignore_values,
        "colors": coding.colors,
        "ignore_colors": coding.ignore_colors,
        "by_color": coding.by_color,
    }


def from_index(index: ShardIndex, folder: Path) -> Records:
    """The records of a split, their paths leading into the shards in ``folder``.

    Raises: DataError for annotations that are at odds with themselves.
    """
    names = PackedStrings(index.image_name(i) for i in range(len(index)))
    source = folder / index_name(index.split)
    try:
        if index.task == "detection":
            return _detection(index, folder, names, source)
        if index.task == "classification":
            labels = np.asarray(index.annotations["labels"], np.int64)
            return ClassificationRecords(index.class_map, folder, names, labels)
        return _segmentation(index, folder, names, source)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        raise DataError(
            f"{source}: the annotations in the index are damaged ({reason}). Write the shards again."
        ) from error


def _typed(array: NDArray[Any], dtype: Any, *shape: int) -> NDArray[Any]:
    """The array, if it has this many rows (-1: any) of this shape, as ``dtype``."""
    expected = (len(array), *shape[1:]) if shape[0] < 0 else shape
    if array.shape != expected or array.dtype.kind not in "biuf":
        raise DataError(f"an array is {array.dtype} {array.shape}, expected {expected}.")
    return np.ascontiguousarray(array, dtype)


def _ascending(array: NDArray[Any], rows: int, last: int) -> NDArray[np.int64]:
    offsets = cast(NDArray[np.int64], _typed(array, np.int64, rows + 1))
    if offsets[0] != 0 or offsets[-1] != last or (np.diff(offsets) < 0).any():
        raise DataError(f"offsets of {rows} rows do not lead from 0 to {last}.")
    return offsets


def _detection(index: ShardIndex, folder: Path, names: PackedStrings, source: Path) -> DetectionRecords:
    found, count = index.annotations, len(index)
    boxes = _typed(found["boxes"], np.float32, -1, 4)
    labels = _typed(found["labels"], np.int32, len(boxes))
    if not np.isfinite(boxes).all():
        raise DataError("a box holds NaN or infinity.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(index.class_map):
        raise DataError(f"labels {labels.min()}..{labels.max()} of {len(index.class_map)} classes.")
    return DetectionRecords(
        class_map=index.class_map,
        image_dir=folder,
        names=names,
        image_ids=_typed(found["image_ids"], np.int64, count),
        sizes=_typed(found["sizes"], np.int32, count, 2),
        offsets=_ascending(found["offsets"], count, len(boxes)),
        boxes=boxes,
        labels=labels,
        is_crowd=_typed(found["is_crowd"], np.bool_, len(boxes)),
        annotation_ids=_typed(found["annotation_ids"], np.int64, len(boxes)),
        areas=_typed(found["areas"], np.float32, len(boxes)),
        annotation_file=source,
        segments=_segments(found, len(boxes)) if "segments_points" in found else None,
    )


def _segments(found: Arrays, objects: int) -> PackedSegments:
    points = _typed(found["segments_points"], np.float32, -1, 2)
    runs = _typed(found["segments_runs"], np.uint8, -1)
    rings = len(found["segments_point_of"]) - 1
    return PackedSegments(
        points=points,
        point_of=_ascending(found["segments_point_of"], rings, len(points)),
        ring_of=_ascending(found["segments_ring_of"], objects, rings),
        runs=runs,
        run_of=_ascending(found["segments_run_of"], objects, len(runs)),
        run_sizes=_typed(found["segments_run_sizes"], np.int32, objects, 2),
    )


def _segmentation(index: ShardIndex, folder: Path, names: PackedStrings, source: Path) -> SegmentationRecords:
    found, extra = index.annotations, index.extra
    if len(index.mask_offset) != len(index):
        raise DataError("the masks are not in the shards.")
    colors = extra["colors"]
    coding = MaskCoding(
        values=_numbers(extra["values"]),
        ignore_values=_numbers(extra["ignore_values"]),
        colors=None if colors is None else tuple(_color(c) for c in colors),
        ignore_colors=tuple(_color(c) for c in extra["ignore_colors"]),
        by_color=bool(extra["by_color"]),
    )
    table = None
    if "table_ids" in found:
        ids = _typed(found["table_ids"], np.int32, -1)
        table = SegmentTable(
            _ascending(found["table_offsets"], len(index), len(ids)),
            ids,
            _typed(found["table_labels"], np.uint8, len(ids)),
        )
    return SegmentationRecords(
        class_map=index.class_map,
        image_dir=folder,
        mask_dir=folder,
        image_names=names,
        mask_names=PackedStrings(index.mask_name(i) for i in range(len(index))),
        coding=coding,
        segments=table,
        source=source,
    )


def _numbers(values: Any) -> tuple[int, ...]:
    if not all(type(value) is int and 0 <= value <= 255 for value in values):
        raise DataError(f"mask values {values!r}.")
    return tuple(values)


def _color(values: Any) -> tuple[int, int, int]:
    numbers = _numbers(values)
    if len(numbers) != 3:
        raise DataError(f"a colour {values!r}.")
    return numbers


def with_classes(
    records: Records, classes: Sequence[str] | None, class_map: ClassMap | None, *, keep_empty: bool = True
) -> Records:
    """The records with some classes only, under the training split's class map.

    Args:
        classes: names to keep; None: all. class_map: of the training split, which must be the same.
        keep_empty: of detection records keep pictures without objects.

    Raises: ConfigError for a class that there is not, DataError for another class map.
    """
    source = getattr(records, "annotation_file", None) or records.source  # type: ignore[union-attr]
    known = records.class_map
    if classes is not None:
        unknown = [name for name in classes if name not in known.names]
        if unknown or not classes:
            hints = "".join(f" {name!r} is not among them.{did_you_mean(name, known.names)}" for name in unknown)
            raise ConfigError(f"classes must name classes of {source}, which has {list(known.names)}.{hints}")
        records = _chosen(records, classes)
    if class_map is not None and isinstance(records, ClassificationRecords):
        records = _relabelled(records, class_map)  # a folder of pictures shows only the classes that it has
    if class_map is not None and class_map != records.class_map:
        raise DataError(
            f"{source}: its classes {list(records.class_map.names)} with ids {list(records.class_map.category_ids)} "
            f"are not those of the training split, {list(class_map.names)} with {list(class_map.category_ids)}. Write "
            "both splits from one data set, or choose the same classes=[...]."
        )
    if isinstance(records, DetectionRecords) and not keep_empty:
        owners = np.repeat(np.arange(len(records)), np.diff(records.offsets))
        objects = np.bincount(owners[~records.is_crowd], minlength=len(records))
        records = records.subset(np.flatnonzero(objects > 0))
    return records


def _relabelled(records: ClassificationRecords, class_map: ClassMap) -> ClassificationRecords:
    """With labels of ``class_map``, where that knows all its classes."""
    if not set(records.class_map.names) <= set(class_map.names):
        return records
    to = np.array([class_map.names.index(name) for name in records.class_map.names], np.int64)
    return replace(records, class_map=class_map, labels=to[records.labels])


def _chosen(records: Records, classes: Sequence[str]) -> Records:
    known = records.class_map
    if isinstance(records, SegmentationRecords):
        used, coding = choose_classes(known, records.coding, classes)
        table = records.segments
        if table is not None:
            labels_of = np.full(256, 255, np.uint8)
            labels_of[[known.names.index(name) for name in used.names]] = np.arange(len(used))
            table = replace(table, labels=labels_of[table.labels])
        return replace(records, class_map=used, coding=coding, segments=table)
    kept = [label for label, name in enumerate(known.names) if name in set(classes)]
    names = tuple(known.names[label] for label in kept)
    palette = None if known.palette is None else tuple(known.palette[label] for label in kept)
    to = np.full(len(known), -1, np.int64)
    to[kept] = np.arange(len(kept))
    moved = to[records.labels]
    if isinstance(records, ClassificationRecords):  # pictures of the other classes go
        chosen = records.subset(np.flatnonzero(moved >= 0))
        return replace(chosen, class_map=ClassMap(names, tuple(range(len(kept))), palette), labels=to[chosen.labels])
    used = ClassMap(names, tuple(known.category_ids[label] for label in kept), palette)
    rows = np.flatnonzero(moved >= 0)
    ends = np.concatenate([[0], np.cumsum(moved >= 0)])
    return replace(
        records,
        class_map=used,
        offsets=ends[records.offsets],
        boxes=records.boxes[rows],
        labels=moved[rows].astype(np.int32),
        is_crowd=records.is_crowd[rows],
        annotation_ids=records.annotation_ids[rows],
        areas=records.areas[rows],
        segments=None if records.segments is None else records.segments.take(rows),
    )
