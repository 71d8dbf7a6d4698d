"""YOLO text labels to records: one label file per picture, coordinates as shares of the picture's size.

The size of a picture is that in its file's head, turned as its EXIF orientation says, as ultralytics takes it. A
picture without a label file is background. What stops reading is raised as DataError; everything else is in the report.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effdense.data.checks.check import DataReport
from effdense.data.image_io import ImageHeader
from effdense.data.paths import resolve
from effdense.data.readers.coco import choose_categories
from effdense.data.readers.coco_boxes import BoxStyle, CocoAnnotations, CocoImages
from effdense.data.readers.settled import settled_records
from effdense.data.readers.splits import pick_split, read_headers, report_headers
from effdense.data.readers.yolo_files import image_folder, label_files, read_labels, short_name, split_pictures
from effdense.data.readers.yolo_labels import LabelRows, read_label_text
from effdense.data.readers.yolo_layout import YOLO_LAYOUT, YoloLayout, find_yolo
from effdense.data.records import ClassMap, DetectionRecords
from effdense.errors import DataError

BEYOND = (
    "this looks like x1 y1 x2 y2, or a corner and a size, written where YOLO means centre x, centre y, width, height. "
    "Write the centre, width and height as shares of the picture."
)
CORNERS = (
    "boxes look like x1, y1, x2, y2 (they fit their picture only so), but YOLO means centre x, centre y, width, "
    "height, and so they are read. Write the centre, width and height as shares of the picture."
)


def read_yolo(
    path: str | Path | YoloLayout,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """Read one split.

    Args:
        path: the yaml, a list file, or the folder; a relative path goes under ``EFFDENSE_DATA``.
        split: "train", "val" or "test" by any spelling; "all" for a set that is not divided.
        classes, class_map, keep_empty, training: see ``read_coco``. Category ids are the numbers in the label files,
            or those of a ``classes.json`` beside the yaml.
        segments: read outlines (lines of more than 5 columns), too.

    Returns:
        The records, sorted by file name, and the report. Annotations count from 1 through the split.

    Raises:
        DataError: no YOLO set there, no such split, no picture in it, or classes other than ``class_map``'s.
        ConfigError: ``classes`` names one that the set does not have.
    """
    layout = path if isinstance(path, YoloLayout) else _layout(resolve(path))
    name, entries = pick_split(layout.splits, split, layout.file or layout.root)
    report = DataReport(f"{layout.file or layout.root} ({name})")
    pictures = split_pictures(layout, name, entries, report)
    headers = read_headers(map(Path, pictures))
    report_headers([short_name(picture, layout.root) for picture in pictures], headers, report)
    usable = [(p, h) for p, h in zip(pictures, headers, strict=True) if isinstance(h, ImageHeader)]
    files = label_files([picture for picture, _ in usable], layout, report)
    texts = read_labels(files, layout, report)
    known, numbers = _class_map(layout, texts, report)
    used = choose_categories(known, classes, class_map, layout.file or layout.root, advice="Give both the same names.")
    number_of = dict(zip(known.category_ids, numbers, strict=True))
    label_of = {number_of[category]: label for label, category in enumerate(used.category_ids)}
    found = LabelRows()
    for row, ((_, header), file, text) in enumerate(zip(usable, files, texts, strict=True)):
        if text:
            name, size = short_name(file or "", layout.root), header.oriented_size
            read_label_text(text, name, row, size, label_of, frozenset(numbers), found, extra=layout.keypoint_columns)
    found.report(report)
    image_dir = image_folder(layout, entries, pictures)
    images = CocoImages(
        np.arange(1, len(usable) + 1, dtype=np.int64),
        [os.path.relpath(picture, image_dir).replace(os.sep, "/") for picture, _ in usable],
        np.array([header.oriented_size for _, header in usable], np.int32).reshape(-1, 2),
    )
    records = settled_records(
        _columns(found),
        images,
        used,
        report,
        image_dir=image_dir,
        annotation_file=layout.file or layout.root,
        style=BoxStyle(found.place, BEYOND, has_areas=False, form="centre and size", corners=CORNERS),
        # A picture without a label file has had its finding.
        refused=[*found.refused, *((row, -1) for row, file in enumerate(files) if file is None)],
        outlines=found if segments else None,
        keep_empty=keep_empty,
        training=training,
    )
    return records, report


def _layout(path: Path) -> YoloLayout:
    found = find_yolo(path) if path.exists() else None
    if found is None:
        state = "it holds no such set" if path.exists() else "there is nothing there"
        raise DataError(f"Expected a YOLO set at {path.absolute()}, but {state}. {YOLO_LAYOUT}")
    return found


def _columns(found: LabelRows) -> CocoAnnotations:
    corners = np.array(found.boxes, np.float64).reshape(-1, 4)
    count = len(corners)
    return CocoAnnotations(
        np.arange(1, count + 1, dtype=np.int64),
        np.array(found.rows, np.int64),
        np.array(found.labels, np.int64),
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1),
        np.zeros(count, np.bool_),
        np.array(found.areas, np.float64),
        np.arange(count, dtype=np.int64),
    )


def _class_map(layout: YoloLayout, texts: Sequence[str | None], report: DataReport) -> tuple[ClassMap, tuple[int, ...]]:
    """The class map, and the number that label files write for each class."""
    source = str(layout.file or layout.root)
    if layout.classes is not None:
        known = layout.classes.class_map(0)
        if layout.count not in (None, len(known)):
            message = f"nc is {layout.count}, but there are {len(known)} names; make them agree."
            report.add("error", "class-count", message, [source])
        if layout.odd_ids:
            message = "class numbers in names have gaps; a label must use one of those that are there."
            report.add("warning", "class-gaps", message, [f"{source}: {list(known.category_ids)}"])
        return known, known.category_ids if layout.odd_ids else tuple(range(len(known)))
    count = layout.count or 1 + max(_largest(texts), _largest_anywhere(layout))
    message = "set has no class names; its classes are called by their numbers. Add names: to a data.yaml."
    report.add("warning", "no-names", message, [f"{source}: 0..{count - 1}"])
    return ClassMap(tuple(map(str, range(count))), tuple(range(count))), tuple(range(count))


def _largest(texts: Sequence[str | None]) -> int:
    """The largest class number in label files, 0 where there is none."""
    first = (line.split(None, 1)[0] for text in texts if text for line in text.splitlines() if line.strip())
    numbers = (int(word) for word in first if word.isdecimal() and len(word) < 5)
    return max(numbers, default=0)


def _largest_anywhere(layout: YoloLayout) -> int:
    """The same over all splits, so that they agree on the classes."""
    largest = 0
    for split, entries in layout.splits.items():
        ignored = DataReport()
        try:
            files = label_files(split_pictures(layout, split, entries, ignored), layout, ignored)
        except DataError:
            continue
        largest = max(largest, _largest(read_labels(files, layout, ignored)))
    return largest
