"""The last step of every detection reader: its columns of annotations in, settled :class:`DetectionRecords` out.

What is wrong with boxes and what a split lacks as a whole is reported here, in the same words for every format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from effdense.data.checks.check import DataReport
from effdense.data.readers.coco_boxes import COCO_STYLE, BoxStyle, CocoAnnotations, CocoImages, settle_boxes
from effdense.data.records import ClassMap, DetectionRecords, PackedStrings
from effdense.data.segments import PackedSegments, Segment


class Outlines(Protocol):
    """Where a reader keeps the outlines of its annotations."""

    def __call__(self, position: int, row: int) -> Segment | None:
        """Outline of the annotation at this position of the source, of the image at this row."""

    def add_to(self, report: DataReport) -> None:
        """Report what could not be read."""


def settled_records(
    annotations: CocoAnnotations,
    images: CocoImages,
    class_map: ClassMap,
    report: DataReport,
    *,
    image_dir: Path,
    annotation_file: Path | None,
    style: BoxStyle = COCO_STYLE,
    refused: Sequence[tuple[int, int]] = (),
    outlines: Outlines | None = None,
    keep_empty: bool = True,
    training: bool = False,
) -> DetectionRecords:
    """Records of a split, images in the order given, annotations of an image in theirs.

    Args:
        annotations: M columns, labels already those of ``class_map``.
        refused: (image row, label) of annotations that the reader had to leave out and has reported.
        outlines: None where the split is read without.
        keep_empty, training: see ``read_coco``.
    """
    given = {*zip(annotations.rows.tolist(), annotations.labels.tolist()), *refused}
    annotations, boxes = settle_boxes(annotations, images, report, style)
    order = np.argsort(annotations.rows, kind="stable")
    annotations, boxes = annotations.keep(order), boxes[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(annotations.rows, minlength=len(images.ids)))])
    areas = np.where(np.isnan(annotations.areas), (boxes[:, 2:] - boxes[:, :2]).prod(1), annotations.areas)
    packed = None
    if outlines is not None:
        pairs = zip(annotations.positions.tolist(), annotations.rows.tolist(), strict=True)
        packed = PackedSegments.pack([outlines(position, row) for position, row in pairs])
        outlines.add_to(report)
    records = DetectionRecords(
        class_map=class_map,
        image_dir=image_dir,
        names=PackedStrings(images.names),
        image_ids=images.ids,
        sizes=images.sizes,
        offsets=offsets.astype(np.int64),
        boxes=boxes.astype(np.float32),
        labels=annotations.labels.astype(np.int32),
        is_crowd=annotations.is_crowd,
        annotation_ids=annotations.ids,
        areas=areas.astype(np.float32),
        annotation_file=annotation_file,
        segments=packed,
    )
    return report_contents(records, report, keep_empty=keep_empty, training=training, given=given)


def report_contents(
    records: DetectionRecords,
    report: DataReport,
    *,
    keep_empty: bool,
    training: bool,
    given: Collection[tuple[int, int]] = (),
) -> DetectionRecords:
    """Report what the split holds as a whole, and leave empty images out when asked to.

    Args:
        given: (image row, label) of the annotations before any was dropped: who lacks objects only because those were
            at fault has had its finding.
    """
    crowd = records.annotation_ids[records.is_crowd]
    message = "annotations are crowd regions; not trained on, ignored in evaluation. Nothing to do."
    owners = np.repeat(np.arange(len(records)), np.diff(records.offsets))
    pairs = zip(crowd.tolist(), owners[records.is_crowd].tolist(), strict=True)
    report.add("warning", "crowd", message, [f"annotation {i} in {records.names[row]}" for i, row in pairs])
    objects = np.bincount(owners[~records.is_crowd], minlength=len(records))
    empty = np.flatnonzero(objects == 0)
    counts = records.class_counts()
    if len(records) == 0:
        report.add(
            "error",
            "empty-split",
            "the split has no usable image. Check what it lists: the 'images' of a JSON, the list, the folder.",
            [report.source],
        )
    elif training and counts.sum() == 0:
        message = "the training split has no usable object at all, so nothing can be learnt. Annotate it."
        report.add("error", "no-objects", message, [report.source])
    else:
        action = "kept as background" if keep_empty else "left out"
        crowded = set(owners[records.is_crowd].tolist())
        at_fault = {row for row, _ in given} - crowded
        again = (
            {name for name, times in Counter(records.names[i] for i in range(len(records))).items() if times > 1}
            if len(empty)
            else set()
        )
        pictures = [records.names[int(i)] for i in empty if int(i) not in at_fault]
        pictures = [name for name in pictures if name not in again]  # listed twice, which has been said
        message = f"images have no object; {action}. Annotate or remove them where they should have some."
        report.add("warning", "empty-image", message, pictures)
        dropped = {label for _, label in given} - set(records.labels[records.is_crowd].tolist())
        names = records.class_map.names
        absent = [names[label] for label in np.flatnonzero(counts == 0).tolist() if label not in dropped]
        message = (
            "classes have no object in this split; their AP is undefined. Add objects, or leave them out (classes)."
        )
        report.add("warning", "class-without-objects", message, absent)
    return records if keep_empty else records.subset(np.flatnonzero(objects > 0))
