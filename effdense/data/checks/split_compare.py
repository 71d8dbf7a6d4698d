"""Splits that were checked against each other: classes that differ or lack objects, pictures that none lists."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from effdense.data.checks import box_findings
from effdense.data.checks.check import DataReport
from effdense.data.checks.check_types import CheckedSplit, SplitToCheck, has_own_ids
from effdense.data.checks.picture_scan import PictureFacts
from effdense.data.readers.image_folder import IMAGE_SUFFIXES
from effdense.data.records import ClassMap, DetectionRecords

_ABSENT = ("class-without-objects", "absent-class", "class-without-pictures")


def find_unlisted(
    splits: Sequence[SplitToCheck], facts: Mapping[str, Sequence[PictureFacts]], report: DataReport
) -> None:
    """Pictures of COCO image folders that no split lists, but for those that stand for a missing one."""
    listed: set[Path] = set()
    stems: set[tuple[Path, str]] = set()
    for split in splits:
        if isinstance(split.records, DetectionRecords) and has_own_ids(split.records):
            for index, found in enumerate(facts[split.name]):
                path = split.records.path(index)
                listed.add(path)
                if found.fault is not None and found.fault.code == "missing-image":
                    stems.add((path.parent, path.stem.casefold()))
    unlisted = [
        str(path)
        for folder in sorted({path.parent for path in listed})
        for path in _pictures_in(folder)
        if path not in listed and (folder, path.stem.casefold()) not in stems
    ]
    message = (
        "pictures lie beside those of the set and no split lists them; they are not used. Annotate or remove them."
    )
    report.add("note", "unlisted-image", message, unlisted)


def _pictures_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                Path(e.path) for e in entries if Path(e.name).suffix.lower() in IMAGE_SUFFIXES and e.name[0] != "."
            )
    except OSError:
        return []


def compare_classes(checked: Sequence[CheckedSplit], own_ids: bool, report: DataReport) -> None:
    """The class maps of the splits against the first's, and what is odd in each that differs."""
    maps = [(split.name, split.class_map) for split in checked if split.class_map is not None]
    distinct: list[tuple[str, ClassMap]] = []
    for class_map in dict.fromkeys(class_map for _, class_map in maps):
        owners = [name for name, other in maps if other == class_map]
        where = "" if len(owners) == len(maps) else f"{', '.join(owners)}: "
        box_findings.find_class_names(class_map, report, where=where)
        distinct.append((where, class_map))
    if own_ids:
        box_findings.find_id_gaps(distinct, report)
    texts = [
        text
        for name, ours in maps[1:]
        for text in box_findings.class_differences(name, ours, maps[0][0], maps[0][1] or ours)
    ]
    message = (
        "the classes of the splits differ, so labels would mean different things. Give every split the same classes "
        "and ids."
    )
    report.add("error", "class-map-differs", message, texts)


def compare_counts(checked: Sequence[CheckedSplit], report: DataReport) -> list[CheckedSplit]:
    """Classes without objects in one split said with what the others have; in all, said once."""
    full = [split for split in checked if split.statistics is not None]
    if len(full) < 2 or any(split.class_map != full[0].class_map for split in full):
        return list(checked)
    counts = {split.name: _counts(split) for split in full}
    nowhere: list[str] = []
    changed = []
    for split in checked:
        findings = []
        for finding in split.report.findings:
            if finding.code not in _ABSENT:
                findings.append(finding)
                continue
            places = []
            for name in finding.examples:
                elsewhere = [f"{c[name]:,} in {other}" for other, c in counts.items() if c.get(name)]
                if elsewhere:
                    places.append(f"{name} ({', '.join(elsewhere)})")
                elif name not in nowhere:
                    nowhere.append(name)
            if places:
                findings.append(replace(finding, count=len(places), examples=tuple(places)))
        changed.append(replace(split, report=DataReport(split.report.source, findings)))
    message = (
        "classes have no object in any split, so nothing can be learnt about them. Add objects, or leave them out "
        "(classes)."
    )
    report.add("warning", "class-without-objects", message, nowhere)
    return changed


def _counts(split: CheckedSplit) -> dict[str, int]:
    assert split.class_map is not None and split.statistics is not None
    return dict(zip(split.class_map.names, split.statistics.counts.tolist(), strict=True))
