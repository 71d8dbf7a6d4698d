"""The training and the validation split against each other, in the time that a training start can spare."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from effdense.data.checks.box_findings import find_class_names
from effdense.data.checks.check import DataReport
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.records import DetectionRecords

Records = DetectionRecords | ClassificationRecords


def compare_quickly(train: Records, val: Records) -> DataReport:
    """Warnings: ``also-in-training``, ``class-not-in-training``, ``similar-class-names``.

    A picture counts as the same when it is the same file, or one of the same name with the same bytes; only files of
    equal names and sizes are read. ``effdense check`` compares contents and looks as well.
    """
    report = DataReport()
    by_name: dict[str, list[Path]] = {}
    for index in range(len(train)):
        path = train.path(index)
        by_name.setdefault(path.name, []).append(path)
    both = []
    for index in range(len(val)):
        path = val.path(index)
        if any(_same(path, other) for other in by_name.get(path.name, ())):
            both.append(path.name)
    message = (
        "pictures of this split are in the training split, too: its score says nothing about new pictures. Take them "
        "out of one; effdense check names all."
    )
    report.add("warning", "also-in-training", message, both)
    if train.class_map == val.class_map:
        ours, theirs = val.class_counts(), train.class_counts()
        only = np.flatnonzero((ours > 0) & (theirs == 0)).tolist()
        message = "classes are in this split and not in the training split, so none will be found. Add some there."
        names = train.class_map.names
        report.add("warning", "class-not-in-training", message, [f"{names[k]} ({ours[k]} here)" for k in only])
    find_class_names(val.class_map, report)
    return report


def _same(path: Path, other: Path) -> bool:
    if path == other:
        return True
    try:
        return path.stat().st_size == other.stat().st_size and path.read_bytes() == other.read_bytes()
    except OSError:
        return False
