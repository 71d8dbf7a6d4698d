"""Which format a data set is in, and one door to its reader: a file or folder in, records of a split out.

Formats: ``coco`` (JSON), ``yolo`` (text labels), ``voc`` (XML), ``masks`` (pictures and masks) and ``folder`` (one
folder per class, for classification).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effdense.data.checks.check import DataReport
from effdense.data.paths import COCO_LAYOUT, resolve
from effdense.data.readers.coco_source import CocoLayout, find_coco, read_coco_split
from effdense.data.readers.image_folder import FOLDER_LAYOUT, ClassificationRecords, read_image_folder
from effdense.data.readers.mask_folder import MASK_LAYOUT, SegmentationRecords
from effdense.data.readers.mask_layout import MaskLayout, find_masks, read_segmentation
from effdense.data.readers.mask_objects import read_mask_objects
from effdense.data.readers.splits import ALL, folders_of, is_usual, list_pictures, named_splits, pick_split
from effdense.data.readers.voc_detection import read_voc_detection
from effdense.data.readers.voc_layout import VOC_LAYOUT, VocLayout, find_voc
from effdense.data.readers.yolo import read_yolo
from effdense.data.readers.yolo_layout import YOLO_LAYOUT, YoloLayout, find_yolo
from effdense.data.records import ClassMap, DetectionRecords
from effdense.errors import ConfigError, DataError, did_you_mean

FORMATS = ("coco", "yolo", "voc", "masks", "folder")
LAYOUTS = {
    "coco": COCO_LAYOUT,
    "yolo": YOLO_LAYOUT,
    "voc": VOC_LAYOUT,
    "masks": MASK_LAYOUT,
    "folder": FOLDER_LAYOUT,
}


@dataclass(frozen=True)
class DataSource:
    """A data set found.

    Attributes:
        format: one of ``FORMATS``.
        root: its folder, or the file that was given.
        splits: names, train, val and test first and so spelled; "all" where the set is not divided. Other lists that
            repeat pictures of these (VOC's trainval) can be read as well, and are not among them.
        layout: where everything is, as the format's own module found it.
    """

    format: str
    root: Path
    splits: tuple[str, ...]
    layout: Any = field(repr=False, compare=False)


def _find_folder(path: Path) -> dict[str, Path] | None:
    """Splits of a set of class folders: path by name."""
    if not path.is_dir():
        return None
    inner = {name: path / name for name in folders_of(path)}
    usual = {name: folder for name, folder in inner.items() if is_usual(name)}
    if usual and all(_is_class_root(folder) for folder in usual.values()):
        return named_splits(usual)
    return {ALL: path} if not usual and _is_class_root(path) else None


def _is_class_root(path: Path) -> bool:
    """Whether every folder in it holds pictures, and none lies beside them."""
    inner = folders_of(path)
    loose = any("/" not in name for name in list_pictures(path))
    return bool(inner) and not loose and all(list_pictures(path / name) for name in inner)


_FINDERS: dict[str, Callable[[Path], Any]] = {
    "coco": find_coco,
    "yolo": find_yolo,
    "voc": find_voc,
    "masks": find_masks,
    "folder": _find_folder,
}


def detect(path: str | Path, *, format: str | None = None) -> DataSource:
    """Find out what a file or folder is.

    Args:
        path: a COCO JSON, a YOLO yaml, list file or ``*.data``, a VOC XML, or a folder; relative ones go under
            ``EFFDENSE_DATA`` unless they are there from the working directory.
        format: one of ``FORMATS``, where it is known or a folder holds several.

    Raises:
        DataError: nothing there, no format fits (lists what was looked for), or several do.
        ConfigError: ``format`` is none of ``FORMATS``.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(
            f"format must be one of {', '.join(FORMATS)}, got {format!r}.{did_you_mean(str(format), FORMATS)}"
        )
    place = located(path)
    wanted = FORMATS if format is None else (format,)
    found: dict[str, Any] = {}
    faults: list[DataError] = []
    for name in wanted:
        if name == "folder" and found:
            break  # folders of any set may hold pictures
        try:
            layout = _FINDERS[name](place)
        except DataError as error:
            faults.append(error)
            continue
        if layout is not None:
            found[name] = layout
    if len(found) > 1:
        options = " or ".join(f'format="{name}"' for name in found)
        flags = " or ".join(f"--from {name}" for name in found)
        raise DataError(
            f"{place} holds a data set in {len(found)} formats, {' and '.join(found)}. Say which: {options}; on the "
            f"command line {flags}."
        )
    if not found and faults:
        raise faults[0]
    if not found:
        raise _nothing(place, wanted)
    (name, layout), *_ = found.items()
    splits = layout if isinstance(layout, dict) else layout.splits
    root = place if isinstance(layout, dict) or place.is_file() else layout.root
    return DataSource(name, root, tuple(splits), layout)


def located(path: str | Path) -> Path:
    """A path that exists: from the working directory, else under ``EFFDENSE_DATA``. Raises: DataError with both."""
    given = Path(path).expanduser()
    for place in (given, resolve(path)):
        if place.exists():
            return place.absolute()
    places = " and ".join(dict.fromkeys([str(given.absolute()), str(resolve(path))]))
    raise DataError(
        f"There is no data set at {path}: looked for {places}. Correct the path, or set EFFDENSE_DATA to the folder of "
        "your data sets."
    )


def _nothing(place: Path, wanted: Sequence[str]) -> DataError:
    lines = "".join(f"\n  {name}: {LAYOUTS[name]}" for name in wanted)
    if place.is_file():
        held = f"a file ending in {place.suffix or 'nothing'}"
        hint = " Files can be a COCO .json, a YOLO .yaml, .txt list or .data, or a VOC .xml."
    else:
        names = sorted(entry.name for entry in place.iterdir())
        held = (
            f"a folder with {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "an empty folder"
        )
        hint = ""
    return DataError(f"{place} is {held}: no data set was recognised.{hint} Looked for:{lines}")


_DETECTION: Mapping[type, Callable[..., tuple[DetectionRecords, DataReport]]] = {
    CocoLayout: read_coco_split,
    YoloLayout: read_yolo,
    VocLayout: read_voc_detection,
    MaskLayout: read_mask_objects,
}


def read_split(
    source: DataSource | str | Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
    **options: Any,
) -> tuple[DetectionRecords, DataReport]:
    """Boxes of one split of a set in any of the four formats; see ``read_coco`` for the arguments.

    Args:
        options: of the format's own reader, for example ``difficult`` of VOC.

    Raises: DataError, also for class folders, which have no boxes; ConfigError for options that the format lacks.
    """
    found = source if isinstance(source, DataSource) else detect(source)
    reader = _DETECTION.get(type(found.layout))
    if reader is None:
        raise DataError(f"{found.root} is a set of class folders, which have no boxes. {COCO_LAYOUT}")
    if options and found.format in ("coco", "yolo"):
        raise ConfigError(f"the {found.format} format has no option {', '.join(map(repr, options))}.")
    try:
        return reader(
            found.layout, split, classes=classes, class_map=class_map, keep_empty=keep_empty, segments=segments,
            training=training, **options,
        )  # fmt: skip
    except TypeError as error:
        if options and "unexpected keyword" in str(error):
            raise ConfigError(f"the {found.format} format has not all of the options {sorted(options)}.") from error
        raise


def read_segmentation_split(
    source: DataSource | str | Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
    **options: Any,
) -> tuple[SegmentationRecords, DataReport]:
    """Pictures and masks of one split of a set of masks. Raises: DataError for any other format."""
    found = source if isinstance(source, DataSource) else detect(source, format="masks")
    if not isinstance(found.layout, MaskLayout):
        raise DataError(f"{found.root} is in the format {found.format}, which has no class masks. {MASK_LAYOUT}")
    return read_segmentation(found.layout, split, classes=classes, class_map=class_map, training=training, **options)


def read_classification_split(
    source: DataSource | str | Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
) -> tuple[ClassificationRecords, DataReport]:
    """Pictures and classes of one split of class folders. Raises: DataError for any other format."""
    found = source if isinstance(source, DataSource) else detect(source, format="folder")
    if found.format != "folder":
        raise DataError(f"{found.root} is in the format {found.format}, not one folder per class. {FOLDER_LAYOUT}")
    _, folder = pick_split(found.layout, split, found.root)
    return read_image_folder(folder, classes=classes, class_map=class_map)
