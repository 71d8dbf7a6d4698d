"""The whole check of a data set: splits that were read in, numbers and findings of each and between them out.

Readers have reported what is wrong in annotation files; here the picture files are looked at (once each), the boxes,
masks and classes as a whole, and the splits against each other. Symbols: N pictures, M boxes, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from effdense.data.checks import box_findings
from effdense.data.checks.check import DataReport, picture_findings
from effdense.data.checks.check_types import (
    CheckedSplit,
    CheckOptions,
    DatasetReport,
    Records,
    SplitToCheck,
    has_own_ids,
)
from effdense.data.checks.label_statistics import (
    LabelStatistics,
    box_statistics,
    folder_statistics,
    joined_statistics,
    mask_statistics,
)
from effdense.data.checks.leakage import PictureList, find_doubles
from effdense.data.checks.mask_check import look_at_masks
from effdense.data.checks.mask_findings import Look, report_looks
from effdense.data.checks.picture_scan import PictureFacts, add_kinds, scan_pictures
from effdense.data.checks.split_compare import compare_classes, compare_counts, find_unlisted
from effdense.data.combining.joined_masks import JoinedMasks
from effdense.data.readers.image_folder import IMAGE_SUFFIXES
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.records import DetectionRecords

__all__ = ["CheckOptions", "CheckedSplit", "DatasetReport", "Records", "SplitToCheck", "check_dataset"]

# Handled as they should be and common in good data: no word of warning where the whole check is read.
_HARMLESS = frozenset({"crowd", "empty-image"})
_MOSTLY_EMPTY = 0.5
_DEFAULT = CheckOptions()


def check_dataset(
    source: str,
    format: str,
    splits: Sequence[SplitToCheck],
    options: CheckOptions = _DEFAULT,
    *,
    complete: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> DatasetReport:
    """Look at everything.

    Args:
        source, format: for the report.
        splits: those to check, the training split first.
        complete: whether these are all splits of the set, so that pictures none of them lists are worth a note.
        progress: called with (split, pictures done, pictures in all).
    """
    facts: dict[str, list[PictureFacts]] = {}
    for split in splits:
        paths = [] if split.records is None else [split.records.path(i) for i in range(len(split.records))]
        tell = None if progress is None else partial(_tell, progress, split.name, len(paths))
        facts[split.name] = scan_pictures(
            paths, decode=options.decode, hash=options.hash, workers=options.workers, progress=tell
        )
    between = DataReport("all splits")
    checked = [_check_split(split, facts[split.name], options) for split in splits]
    lists = [_picture_list(split, facts[split.name]) for split in splits if split.records is not None]
    if options.hash:
        between = between.merge(find_doubles(lists, distance=options.distance))
    else:
        between = between.merge(find_doubles(lists, content=False, distance=None))
    own_ids = any(isinstance(split.records, DetectionRecords) and has_own_ids(split.records) for split in splits)
    compare_classes(checked, own_ids, between)
    checked = compare_counts(checked, between)
    if complete:
        find_unlisted(splits, facts, between)
    return DatasetReport(source, format, tuple(checked), between, facts)


def _tell(progress: Callable[[str, int, int], None], split: str, total: int, done: int) -> None:
    progress(split, done, total)


def _place(records: Records, index: int) -> str:
    """How reports name a picture."""
    if isinstance(records, DetectionRecords):
        name = records.names[index]
        own_ids = records.annotation_file is not None and records.annotation_file.suffix == ".json"
        return f"{name} (image id {records.image_ids[index]})" if own_ids else name
    if isinstance(records, JoinedMasks):
        return str(records.path(index))
    return records.image_names[index] if isinstance(records, SegmentationRecords) else records.paths[index]


def _picture_list(split: SplitToCheck, facts: list[PictureFacts]) -> PictureList:
    assert split.records is not None
    numbers = range(len(split.records))
    return PictureList(
        split.name, [split.records.path(i) for i in numbers], [_place(split.records, i) for i in numbers], facts
    )


def _check_split(split: SplitToCheck, facts: list[PictureFacts], options: CheckOptions) -> CheckedSplit:
    records, report = split.records, DataReport(split.report.source)
    if records is None:
        return CheckedSplit(split.name, split.report.source, None, {}, None, split.report)
    places = [_place(records, i) for i in range(len(records))]
    sizes = [tuple(size) for size in records.sizes.tolist()] if isinstance(records, DetectionRecords) else None
    picture_findings(report, [f.fault or f.header for f in facts], _with_hints(records, places, facts), sizes)
    add_kinds(report, facts, places)
    missing = sum(f.fault is not None and f.fault.code == "missing-image" for f in facts)
    broken = sum(f.fault is not None for f in facts) - missing
    gone = _gone(split.report)
    images = {
        "listed": len(records) + sum(gone.values()),
        "found": len(records) - missing + gone["unreadable"],
        "missing": missing + gone["missing"],
        "unreadable": broken + gone["unreadable"],
    }
    statistics: LabelStatistics
    if isinstance(records, DetectionRecords):
        box_findings.find_twins(records, report)
        box_findings.find_odd_sizes(records, report, options.image_size)
        box_findings.find_odd_outlines(records, report)
        statistics = box_statistics(records)
        images["empty"] = int((statistics.objects_per_image == 0).sum())
        zero = (
            [
                f"annotation 0 in {records.names[int(box_findings.box_owners(records)[row])]}"
                for row in np.flatnonzero(records.annotation_ids == 0)
            ]
            if has_own_ids(records)
            else []
        )
        report.add(
            "note",
            "annotation-id-zero",
            'the annotation id 0 means "no match" to pycocotools\' evaluation; scored rightly here. Count from 1.',
            zero,
        )
    elif isinstance(records, SegmentationRecords):
        looks = _looks(records, facts, options)
        report = report.merge(report_looks(records, looks))
        statistics = mask_statistics(records, looks)
    elif isinstance(records, JoinedMasks):
        parts = []
        for number, part in enumerate(records.parts):
            at = np.flatnonzero(records.part_of == number)
            own = part.subset(records.row_of[at])
            looks = _looks(own, [facts[i] for i in at], options)
            report = report.merge(report_looks(own, looks))
            parts.append(mask_statistics(own, looks))
        statistics = joined_statistics(records, parts)
    else:
        statistics = folder_statistics(records)
    things = {"boxes": "boxes", "pictures": "pictures"}.get(statistics.unit)
    if things is not None:
        box_findings.find_class_balance(records.class_map.names, statistics.counts, report, things=things)
    # What the check says once for all splits, or the reader has said of the folder as a whole, is not said again.
    nowhere = any(f.code == "no-image-folder" for f in split.report.findings)
    empty = any(f.code == "empty-split" for f in split.report.findings)
    once = {"similar-class-names", *(("no-image-folder",) if empty else ())}
    said = DataReport(split.report.source, [f for f in split.report.findings if f.code not in once])
    report.findings = [f for f in report.findings if not (nowhere and f.code == "missing-image")]
    merged = said.merge(report)
    mostly_empty = images.get("empty", 0) > _MOSTLY_EMPTY * len(records)
    findings = [
        replace(f, severity="note")
        if f.code in _HARMLESS and not (f.code == "empty-image" and mostly_empty) and f.severity == "warning"
        else f
        for f in merged.findings
    ]
    source = split.report.source or str(getattr(records, "source", "") or "")
    return CheckedSplit(split.name, source, records.class_map, images, statistics, DataReport(source, findings))


def _looks(records: SegmentationRecords, facts: Sequence[PictureFacts], options: CheckOptions) -> list[Look]:
    pictures = [found.fault or found.header for found in facts]
    return look_at_masks(records, pictures=pictures, decode=options.decode, workers=options.workers)


def _gone(report: DataReport) -> dict[str, int]:
    """Pictures that the reader itself had to leave out, by kind."""
    counts = {"missing": 0, "unreadable": 0}
    for finding in report.findings:
        if finding.code == "missing-image":
            counts["missing"] += finding.count
        elif finding.code in ("unreadable-image", "truncated-image", "not-an-image", "empty-file", "too-large"):
            counts["unreadable"] += finding.count
    return counts


def _with_hints(records: Records, places: Sequence[str], facts: Sequence[PictureFacts]) -> list[str]:
    """Places of missing pictures with the name of a file that differs in case or suffix only."""
    lost = [i for i, f in enumerate(facts) if f.fault is not None and f.fault.code == "missing-image"]
    texts = list(places)
    folders: dict[Path, dict[str, str]] = {}
    for index in lost:
        path = records.path(index)
        if path.parent not in folders:
            folders[path.parent] = _stems(path.parent)
        near = folders[path.parent].get(path.stem.casefold())
        if near is not None:
            texts[index] = f"{places[index]}, but there is {near!r}"
    return texts


def _stems(folder: Path) -> dict[str, str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES)
    except OSError:
        return {}
    return {Path(name).stem.casefold(): name for name in reversed(names)}
