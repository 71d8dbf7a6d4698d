"""Pascal VOC XML to records, with every fault found, counted and named on the way.

Coordinates are taken as written, as edges of pixels. Only the files of the VOC challenges themselves (their
``<source><database>`` starts with "The VOC") count pixels from 1, both ends inclusive: of them 1 is taken off xmin and
ymin, as detectron2 does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from effdense.data.checks.box_forms import look_relative
from effdense.data.checks.check import DataReport
from effdense.data.paths import resolve
from effdense.data.readers.coco import choose_categories
from effdense.data.readers.coco_boxes import BoxStyle, CocoAnnotations
from effdense.data.readers.settled import settled_records
from effdense.data.readers.splits import pick_split
from effdense.data.readers.voc_layout import VOC_LAYOUT, VocLayout, VocPart, find_voc
from effdense.data.readers.voc_pictures import parse_all, read_files, with_pictures
from effdense.data.readers.voc_xml import VocFile
from effdense.data.records import ClassMap, DetectionRecords
from effdense.errors import ConfigError, DataError, did_you_mean

Difficult = Literal["keep", "ignore", "drop"]
BEYOND = (
    "this looks like boxes of pictures of another size, or x, y, width, height written as xmin, ymin, xmax, ymax. "
    "Write corners in pixels of the picture."
)


def read_voc_detection(
    path: str | Path | VocLayout,
    split: str,
    *,
    difficult: Difficult = "keep",
    one_based: bool | None = None,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """Read one split.

    Args:
        path: the folder, or one XML file; a relative path goes under ``EFFDENSE_DATA``.
        split: "train", "val" or "test" by any spelling, "trainval" where there is such a list, "all" for a set that is
            not divided.
        difficult: objects marked difficult: "keep" them, "ignore" them (not trained on, and neither right nor wrong in
            evaluation, as VOC scores them), or "drop" them.
        one_based: pixels count from 1; None: in the files of the challenges only.
        classes: only these. Without a class list beside the set they also give the order of the labels.
        class_map: of another split; its names and ids are used.
        keep_empty, training: see ``read_coco``. segments: every outline is then None, the format has none.

    Labels follow classes.txt, labels.txt or label_map.pbtxt beside the set, else the sorted names of all its splits;
    category ids count from 1 where the list has none.

    Returns:
        The records, sorted by name, and the report.

    Raises:
        DataError: no VOC set there, no such split, or classes other than ``class_map``'s.
        ConfigError: ``classes`` names one that the set does not have, or an option is not usable.
    """
    if difficult not in get_args(Difficult):
        raise ConfigError(f"difficult must be one of {get_args(Difficult)}, got {difficult!r}.")
    layout = path if isinstance(path, VocLayout) else _layout(resolve(path))
    name, part = pick_split({**layout.splits, **layout.others}, split, layout.root)
    report = DataReport(f"{layout.root} ({name})")
    files = read_files(part, layout.root, report)
    images, files = with_pictures(part, files, layout.root, report)
    known, derived = _class_map(layout, part, files, classes, class_map, report)
    wanted = None if derived else classes
    used = choose_categories(known, wanted, class_map, layout.root, advice="Give both the same class list.")
    places, refused, columns = _columns(
        files, known, used, difficult, one_based, layout, report, left_aside=classes is not None
    )
    records = settled_records(
        columns,
        images,
        used,
        report,
        image_dir=part.image_dir,
        annotation_file=layout.root,
        style=BoxStyle(lambda annotation_id, name, position: places[position], BEYOND, has_areas=False, form="corners"),
        refused=refused,
        outlines=_NoOutlines() if segments else None,
        keep_empty=keep_empty,
        training=training,
    )
    return records, report


class _NoOutlines:
    """Of a format that has none."""

    def __call__(self, position: int, row: int) -> None:
        return None

    def add_to(self, report: DataReport) -> None:
        """Nothing."""


def _layout(path: Path) -> VocLayout:
    found = find_voc(path) if path.exists() else None
    if found is None:
        state = "it holds no such set" if path.exists() else "there is nothing there"
        raise DataError(f"Expected a VOC set at {path.absolute()}, but {state}. {VOC_LAYOUT}")
    return found


def _class_map(
    layout: VocLayout,
    part: VocPart,
    files: Sequence[tuple[str, VocFile]],
    classes: Sequence[str] | None,
    expected: ClassMap | None,
    report: DataReport,
) -> tuple[ClassMap, bool]:
    """(all classes, whether they were put together here and not read from a list)."""
    if layout.classes is not None:
        return layout.classes.class_map(1), False
    if expected is not None:
        return expected, True
    names = {found.name for _, content in files for found in content.objects if found.name}
    names |= _names_elsewhere(layout, part)
    if classes is not None:
        if isinstance(classes, str):
            raise ConfigError(f"classes must be a list of class names, got the text {classes!r}.")
        unknown = [name for name in classes if name not in names]
        if unknown or not classes:
            hints = " ".join(f"{name!r} is not among them.{did_you_mean(name, names)}" for name in unknown)
            raise ConfigError(
                f"classes must name classes of {layout.root}, which has {sorted(names)}. {hints}".rstrip()
            )
        names_in_order = list(dict.fromkeys(classes))
    else:
        names_in_order = sorted(names)
    if not names_in_order:
        raise DataError(
            f"{layout.root}: no object in any XML file names a class, and there is no class list. Add classes.txt, one "
            "name a line, or give classes=[...]."
        )
    by_case: dict[str, list[str]] = {}
    for name in names_in_order:
        by_case.setdefault(name.casefold(), []).append(name)
    alike = [" and ".join(repr(name) for name in group) for group in by_case.values() if len(group) > 1]
    message = "class names differ in capital letters only and are taken for different classes; use one spelling."
    report.add("warning", "similar-class-names", message, alike)
    return ClassMap(tuple(names_in_order), tuple(range(1, len(names_in_order) + 1))), True


def _names_elsewhere(layout: VocLayout, part: VocPart) -> set[str]:
    """Class names of the other splits, so that all splits agree."""
    here = {part.xml_dir / f"{name}.xml" for name in part.names()}
    rest = {other.xml_dir / f"{name}.xml" for other in layout.splits.values() for name in other.names()} - here
    found = parse_all(sorted(rest))
    return {item.name for content in found if isinstance(content, VocFile) for item in content.objects if item.name}


def _columns(
    files: Sequence[tuple[str, VocFile]],
    known: ClassMap,
    used: ClassMap,
    difficult: Difficult,
    one_based: bool | None,
    layout: VocLayout,
    report: DataReport,
    *,
    left_aside: bool,
) -> tuple[list[str], list[tuple[int, int]], CocoAnnotations]:
    """Words for each object that is used; (row, label or -1) of those that cannot be, which are reported; columns."""
    label_of = {name: label for label, name in enumerate(used.names)}
    all_names = set(known.names)
    faults: dict[str, list[str]] = {"missing-name": [], "bad-bbox": [], "non-finite-bbox": []}
    places: list[str] = []
    refused: list[tuple[int, int]] = []
    unknown: list[str] = []
    hard: list[str] = []
    columns: list[tuple[int, int, bool]] = []
    corners: list[tuple[float, float, float, float]] = []
    counted_from_one = 0
    for row, (name, content) in enumerate(files):
        shift = content.one_based if one_based is None else one_based
        counted_from_one += shift
        for number, item in enumerate(content.objects, start=1):
            place = f"{name}.xml object {number} ({item.name})"
            if item.fault is not None:
                faults[item.fault[0]].append(f"{place}: {item.fault[1]}")
                refused.append((row, label_of.get(item.name, -1)))
            elif item.name not in label_of:
                if item.name not in all_names and (layout.classes is not None or not left_aside):
                    unknown.append(f"{place}{did_you_mean(item.name, all_names)}")
                    refused.append((row, -1))
            else:
                if item.difficult and not item.crowd:
                    hard.append(place)
                    if difficult == "drop":
                        continue
                x1, y1, x2, y2 = item.box
                columns.append((row, label_of[item.name], item.crowd or (item.difficult and difficult == "ignore")))
                corners.append((x1 - shift, y1 - shift, x2, y2))
                places.append(place)
    report.add("error", "missing-name", "objects have no class name; add <name>.", faults["missing-name"])
    message = "objects need <bndbox> with the numbers xmin, ymin, xmax, ymax; correct or remove them."
    report.add("error", "bad-bbox", message, faults["bad-bbox"])
    message = "a box holds NaN, infinity or an absurd number; correct or remove it."
    report.add("error", "non-finite-bbox", message, faults["non-finite-bbox"])
    message = "objects are of a class that is not in the class list; correct the name or add it to the list."
    report.add("error", "unknown-class", message, unknown)
    action = {"keep": "kept", "ignore": "not trained on and ignored in evaluation", "drop": "left out"}[difficult]
    message = f'objects are marked difficult; {action}. difficult="keep", "ignore" or "drop" decides.'
    report.add("note", "difficult", message, hard)
    message = (
        "files count pixels from 1, both ends inclusive: 1 is taken off xmin and ymin. one_based=False leaves them."
    )
    report.add("note", "one-based", message, [files[0][0] + ".xml"] if counted_from_one else [], count=counted_from_one)
    boxes = np.array(corners, np.float64).reshape(-1, 4)
    relative = look_relative(boxes)
    message = "boxes are fractions 0..1, and VOC means pixels; dropped. Multiply by the picture's width and height."
    report.add("error", "normalised-bbox", message, [places[i] for i in np.flatnonzero(relative)])
    refused += [columns[i][:2] for i in np.flatnonzero(relative)]
    kept = np.flatnonzero(~relative).tolist()
    boxes, places, columns = boxes[kept], [places[i] for i in kept], [columns[i] for i in kept]
    count = len(boxes)
    rows, labels, crowd = zip(*columns, strict=True) if columns else ((), (), ())
    return (
        places,
        refused,
        CocoAnnotations(
            np.arange(1, count + 1, dtype=np.int64),
            np.array(rows, np.int64),
            np.array(labels, np.int64),
            np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1),
            np.array(crowd, np.bool_),
            np.full(count, np.nan),
            np.arange(count, dtype=np.int64),
        ),
    )
