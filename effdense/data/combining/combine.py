"""Several data sets as one, and classes under other names: records in, records out; no picture is opened.

For detection (:class:`DetectionRecords`), classification and segmentation alike; see :class:`JoinedMasks` for the last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from effdense.data.combining import class_mapping
from effdense.data.combining.class_mapping import ClassTable
from effdense.data.combining.joined_masks import JoinedMasks, join_masks
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.records import ClassMap, DetectionRecords, Origins, PackedStrings
from effdense.data.segments import PackedSegments
from effdense.errors import ConfigError, DataError

Records = TypeVar("Records", DetectionRecords, ClassificationRecords, SegmentationRecords | JoinedMasks)


def concatenate(parts: Sequence[Records]) -> Any:
    """The images of all parts, one part after the other.

    All parts must have the same class names; labels and category ids become those of the first. Images keep their ids;
    an image whose id has come before gets the next number above the largest id of all parts, in order, and so do
    annotations. File names become absolute, ``annotation_file`` is None, ``source_of(i)`` says where image i
    came from. Outlines are joined; objects of a part that was read without them have none.

    Raises:
        ConfigError: no parts, or parts of different tasks.
        DataError: class names that differ.
    """
    if not parts:
        raise ConfigError("concatenate needs at least one data set, got none.")
    kinds = {_kind(part) for part in parts}
    if len(kinds) > 1:
        raise ConfigError(f"data sets of one task can be concatenated, got {', '.join(sorted(kinds))} together.")
    first = parts[0].class_map
    for number, part in enumerate(parts):
        if set(part.class_map.names) != set(first.names):
            only = [sorted(set(a.names) - set(b.names)) for a, b in ((part.class_map, first), (first, part.class_map))]
            raise DataError(
                f"data set {number} has other classes than the first: only it has {only[0]}, only the first has "
                f"{only[1]}. Map them to common names (map_classes), or take the union "
                "(relabel each to union_of(parts), as ConcatDetection does)."
            )
    same = [relabel(part, class_mapping.aligned(part.class_map, first, "data set")) for part in parts]
    if kinds == {"detection"}:
        return _concatenate_detection(cast(list[DetectionRecords], same), first)
    if kinds == {"classification"}:
        return _concatenate_classification(cast(list[ClassificationRecords], same), first)
    return join_masks(cast(Any, same))


def union_of(parts: Sequence[Any], classes: Sequence[str] | None = None) -> ClassMap:
    """One class map for all parts: names in order of first appearance unless ``classes`` gives them, ids 1..K."""
    return class_mapping.union([part.class_map for part in parts], classes)


def map_classes(
    records: Records,
    mapping: Mapping[str, str | None],
    *,
    classes: Sequence[str] | None = None,
    unmapped: str = "error",
) -> Any:
    """The same images with classes under other names, several old ones as one or left out.

    Args:
        mapping: old name -> new name; None drops the class.
        classes: which of the new classes to keep, in the order they shall have.
        unmapped: what becomes of classes that ``mapping`` does not name: "error", "keep" or "drop".

    Returns: records of the same task. Objects of a dropped class are gone and their images stay; a picture of a dropped
        class is left out in classification, and its pixels are ignored in segmentation.
    Raises: ConfigError for names that are not there.
    """
    return relabel(records, class_mapping.mapped(records.class_map, mapping, classes=classes, unmapped=unmapped))


def relabel(records: Records, table: ClassTable) -> Any:
    """Records with the classes of a table."""
    if table.is_identity and table.class_map == records.class_map:
        return records
    if isinstance(records, ClassificationRecords):
        labels = table.to[records.labels]
        kept = np.flatnonzero(labels >= 0)
        return replace(records.subset(kept), class_map=table.class_map, labels=labels[kept])
    if isinstance(records, (SegmentationRecords, JoinedMasks)):
        return join_masks([records]).relabelled(table)
    labels = table.to[records.labels]
    kept = np.flatnonzero(labels >= 0)
    starts = np.concatenate([[0], np.cumsum(labels >= 0)])
    whole = len(kept) == len(labels)
    segments = records.segments
    return replace(
        records,
        class_map=table.class_map,
        offsets=starts[records.offsets].astype(np.int64),
        boxes=records.boxes[kept],
        labels=labels[kept].astype(np.int32),
        is_crowd=records.is_crowd[kept],
        annotation_ids=records.annotation_ids[kept],
        areas=records.areas[kept],
        annotation_file=None,  # its ids are no longer those of the class map
        segments=segments if segments is None or whole else segments.take(kept),
        origins=_origins([records]),
    )


def take_share(records: Records, share: float, *, seed: int) -> Any:
    """A random ``share`` of the images (rounded, at least one), in their order; the same for the same seed.

    Raises: ConfigError unless 0 < share <= 1.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ConfigError(f"take is the share of the images to use, above 0 and at most 1, got {share!r}.")
    count = min(len(records), max(1, round(share * len(records))))
    if count == len(records):
        return records
    chosen = np.random.default_rng(seed).choice(len(records), count, replace=False)
    return records.subset(np.sort(chosen))


def _kind(records: Any) -> str:
    for kind, types in (
        ("detection", DetectionRecords),
        ("classification", ClassificationRecords),
        ("segmentation", (SegmentationRecords, JoinedMasks)),
    ):
        if isinstance(records, cast(Any, types)):
            return kind
    raise ConfigError(f"expected records of a data set, got {type(records).__name__}.")


def _concatenate_detection(parts: Sequence[DetectionRecords], class_map: ClassMap) -> DetectionRecords:
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    return DetectionRecords(
        class_map=class_map,
        image_dir=Path(),
        names=PackedStrings(name for part in parts for name in _absolute(part.image_dir, part.names)),
        image_ids=_unique_ids([part.image_ids for part in parts], "image"),
        sizes=np.concatenate([part.sizes for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        is_crowd=np.concatenate([part.is_crowd for part in parts]),
        annotation_ids=_unique_ids([part.annotation_ids for part in parts], "annotation"),
        areas=np.concatenate([part.areas for part in parts]),
        segments=_joined_segments(parts),
        origins=_origins(parts),
    )


def _concatenate_classification(parts: Sequence[ClassificationRecords], class_map: ClassMap) -> ClassificationRecords:
    names = [name for part in parts for name in _absolute(part.source, part.paths)]
    return ClassificationRecords(
        class_map, Path(), PackedStrings(names), np.concatenate([part.labels for part in parts])
    )


def _absolute(folder: Path, names: PackedStrings) -> list[str]:
    start = os.path.abspath(folder)
    return [os.path.join(start, names[i]) for i in range(len(names))]


def _unique_ids(parts: Sequence[NDArray[np.int64]], what: str) -> NDArray[np.int64]:
    """Ids of all parts; those that have come before are counted on from the largest of all."""
    ids = np.concatenate(parts)
    again = np.ones(len(ids), bool)
    again[np.unique(ids, return_index=True)[1]] = False
    start = max(int(ids.max(initial=0)), 0) + 1
    if start + int(again.sum()) > np.iinfo(np.int64).max:
        raise DataError(f"{what} ids go up to {start - 1}, so there is no room above them; number them from 1.")
    ids[again] = np.arange(start, start + int(again.sum()))
    return ids


def _origins(parts: Sequence[DetectionRecords]) -> Origins:
    """Sources of all parts, each named once."""
    number: dict[str, int] = {}
    of = []
    for part in parts:
        names = part.origins.names if part.origins is not None else (str(part.annotation_file or part.image_dir),)
        index = np.array([number.setdefault(name, len(number)) for name in names], np.int32)
        of.append(index[part.origins.of] if part.origins is not None else np.full(len(part), index[0], np.int32))
    return Origins(tuple(number), np.concatenate(of))


def _joined_segments(parts: Sequence[DetectionRecords]) -> PackedSegments | None:
    if all(part.segments is None for part in parts):
        return None
    packed = [
        part.segments if part.segments is not None else PackedSegments.pack([None] * len(part.boxes)) for part in parts
    ]
    return PackedSegments(
        points=np.concatenate([one.points for one in packed]),
        point_of=_joined_offsets([one.point_of for one in packed]),
        ring_of=_joined_offsets([one.ring_of for one in packed]),
        runs=np.concatenate([one.runs for one in packed]),
        run_of=_joined_offsets([one.run_of for one in packed]),
        run_sizes=np.concatenate([one.run_sizes for one in packed]),
    )


def _joined_offsets(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    counts = np.concatenate([np.diff(part) for part in parts])
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
