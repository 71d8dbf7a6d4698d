"""COCO instance JSON to records, with every fault found, counted and named on the way.

The meaning of each field is pycocotools' (bbox is x, y, width, height in pixels; a missing ``iscrowd`` is 0), but the
raw JSON is read here: pycocotools lets the last of two equal ids win without a word.

What stops reading is raised at once as DataError (no file, no JSON, no section, other classes than asked for).
Everything else goes into the report; what an error concerns is left out of the records, so call
``report.raise_for_errors()``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effdense.data.checks.check import DataReport
from effdense.data.paths import COCO_LAYOUT, require_dir, require_file, resolve
from effdense.data.readers.coco_boxes import CocoImages
from effdense.data.readers.coco_entries import read_annotations, read_categories, read_images
from effdense.data.readers.settled import settled_records
from effdense.data.records import ClassMap, DetectionRecords
from effdense.data.segments import Segment
from effdense.errors import ConfigError, DataError, did_you_mean


def read_coco(
    annotation_file: str | Path,
    image_dir: str | Path,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """Read one split.

    Args:
        annotation_file, image_dir: relative paths go under ``EFFDENSE_DATA``.
        classes: only these classes, by name; annotations of others are left aside. Labels still follow the ids.
        class_map: of another split (the training split's); ids and names must be the same.
        keep_empty: keep images without any object (crowds do not count). They teach what background is.
        segments: read the outlines, too; one that cannot be read is reported and left out.
        training: a split without any object is then an error.

    Returns:
        The records in the order of the file, and the report.

    Raises:
        DataError: file or folder missing, not JSON, sections missing, or classes other than ``class_map``'s.
        ConfigError: ``classes`` names one that the file does not have.
    """
    file = require_file(resolve(annotation_file), "the COCO annotation file", advice=COCO_LAYOUT)
    folder = require_dir(resolve(image_dir), "the image folder", advice=COCO_LAYOUT)
    return read_coco_content(
        load_coco(file),
        file,
        folder,
        classes=classes,
        class_map=class_map,
        keep_empty=keep_empty,
        segments=segments,
        training=training,
    )


def read_coco_content(
    content: dict[str, list[Any]],
    file: Path,
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """The same from what :func:`load_coco` gave; see :func:`read_coco`."""
    report = DataReport(str(file))
    known = read_categories(content["categories"], file, report)
    used = choose_categories(known, classes, class_map, file)
    images = read_images(content["images"], report)
    annotations, refused = read_annotations(content, images, used, report)
    records = settled_records(
        annotations,
        images,
        used,
        report,
        image_dir=folder,
        annotation_file=file,
        refused=refused,
        outlines=_Outlines(content["annotations"], images) if segments else None,
        keep_empty=keep_empty,
        training=training,
    )
    return records, report


class _Outlines:
    """Outline of an annotation by its place in the file; those that cannot be read are kept for the report."""

    def __init__(self, entries: list[Any], images: CocoImages) -> None:
        self.entries, self.images = entries, images
        self.bad: list[str] = []

    def __call__(self, position: int, row: int) -> Segment | None:
        entry = self.entries[position]
        height, width = self.images.sizes[row].tolist()
        try:
            return Segment.from_coco(entry.get("segmentation"), (height, width))
        except DataError as error:
            name = f"annotation {entry['id']}" if "id" in entry else f"annotations[{position}]"
            self.bad.append(f"{name} in {self.images.names[row]} ({str(error).rstrip('.')})")
            return None

    def add_to(self, report: DataReport) -> None:
        message = (
            "segmentations cannot be read; the objects keep their box and have no outline. Correct or remove them."
        )
        report.add("warning", "bad-segmentation", message, self.bad)


def load_coco(file: Path) -> dict[str, list[Any]]:
    """The JSON of a file that has the three sections as lists. Raises: DataError."""
    try:
        content = json.loads(file.read_bytes())
    except RecursionError as error:
        raise DataError(f"{file}: lists or objects are nested too deeply for annotations; fetch it again.") from error
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise DataError(f"{file}: not valid JSON ({error}). The file may be cut short; fetch it again.") from error
    if not isinstance(content, dict):
        hint = " A list is the form of a results file, not of annotations." if isinstance(content, list) else ""
        raise DataError(f"{file}: expected a JSON object with COCO sections, got {type(content).__name__}.{hint}")
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise DataError(
            f"{file}: the COCO section(s) {missing} are missing or not lists; the file has {sorted(content)}. "
            "Give the instances_*.json file of the split."
        )
    return content


def choose_categories(
    known: ClassMap,
    classes: Sequence[str] | None,
    expected: ClassMap | None,
    file: Path,
    *,
    advice: str = "Give both splits the same 'categories'.",
) -> ClassMap:
    """The classes to read: all that the source has, or those asked for; the training split's must be the same.

    Raises: ConfigError for a name that the source does not have, DataError where ``expected`` is another map.
    """
    used = known
    if isinstance(classes, str):
        raise ConfigError(f"classes must be a list of class names, got the text {classes!r}.")
    if classes is not None:
        unknown = [name for name in classes if name not in known.names]
        if unknown or not classes:
            hints = " ".join(f"{name!r} is not among them.{did_you_mean(name, known.names)}" for name in unknown)
            raise ConfigError(f"classes must name classes of {file}, which has {list(known.names)}. {hints}".rstrip())
        pairs = [(i, n) for i, n in zip(known.category_ids, known.names, strict=True) if n in set(classes)]
        used = ClassMap(tuple(n for _, n in pairs), tuple(i for i, _ in pairs))
    if expected is not None and expected != used:
        ours = dict(zip(used.category_ids, used.names, strict=True))
        theirs = dict(zip(expected.category_ids, expected.names, strict=True))
        differences = [
            f"id {i}: here {ours.get(i, 'absent')!r}, expected {theirs.get(i, 'absent')!r}"
            for i in sorted(ours.keys() | theirs.keys())
            if ours.get(i) != theirs.get(i)
        ]
        raise DataError(
            f"{file}: its categories differ from the class map of the training split in {len(differences)} place(s): "
            f"{'; '.join(differences[:10])}. {advice}"
        )
    return used
