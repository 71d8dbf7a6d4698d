"""One split of records into a folder, in any of the formats that are written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from effdense.data.readers.splits import ALL
from effdense.data.records import DetectionRecords
from effdense.data.writing.write_coco import write_coco
from effdense.data.writing.write_masks import write_masks
from effdense.data.writing.write_pictures import Transfer, Transferred, picture_names, transfer_pictures
from effdense.data.writing.write_voc import write_voc
from effdense.data.writing.write_yolo import write_yolo
from effdense.errors import ConfigError, did_you_mean

TARGETS = ("coco", "yolo", "voc", "masks")


@dataclass(frozen=True)
class WrittenSplit:
    """One split as it was written: how much, and in words what the format could not hold."""

    split: str
    images: int
    boxes: int
    classes: int
    losses: tuple[str, ...]
    pictures: Transferred

    def __str__(self) -> str:
        lost = "; ".join(self.losses) if self.losses else "nothing lost"
        return (
            f"{self.split}: {self.images} images, {self.boxes} boxes, {self.classes} classes, {self.pictures}; {lost}"
        )


def write_dataset(
    records: DetectionRecords,
    out: str | Path,
    format: str,
    *,
    split: str,
    pictures: Transfer = "link",
    polygons: bool | None = None,
) -> WrittenSplit:
    """Write one split below ``out``, beside splits that are there already.

    Args: as in :func:`convert_dataset`.

    Raises: DataError for what the format cannot hold at all, ConfigError for arguments.
    """
    check_arguments(format, pictures, None)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    names = picture_names(records)
    image_dir = picture_dir(folder, format, split)
    if format == "voc":
        names = _free_names(records, names, folder, image_dir, split)
    if format == "coco":
        losses = write_coco(records, names, folder, split)
    elif format == "yolo":
        losses = write_yolo(records, names, folder, split, polygons=polygons)
    elif format == "voc":
        losses = write_voc(records, names, folder, split)
    else:
        losses = write_masks(records, names, folder, "" if split == ALL else split)
    moved = transfer_pictures(records, [image_dir / name for name in names], pictures)
    if moved.unturned:
        losses.append(
            f"{len(moved.unturned)} pictures lose their EXIF rotation, since their boxes fit the stored pixels"
        )
    other = sum(name != os.path.normpath(records.names[i]).replace("\\", "/") for i, name in enumerate(names))
    if other and not os.path.isabs(records.names[0]):
        losses.append(f"{other} pictures renamed, so that names without ending are unique")
    return WrittenSplit(split, len(records), len(records.boxes), len(records.class_map), tuple(losses), moved)


def check_arguments(format: str, pictures: str, classes: Sequence[str] | None) -> None:
    if format not in TARGETS:
        raise ConfigError(
            f"the format to write must be one of {', '.join(TARGETS)}, got {format!r}."
            f"{did_you_mean(str(format), TARGETS)}"
        )
    if pictures not in get_args(Transfer):
        raise ConfigError(f"pictures must be one of {', '.join(get_args(Transfer))}, got {pictures!r}.")
    if isinstance(classes, str):
        raise ConfigError(f"classes must be a list of class names, got the text {classes!r}.")


def picture_dir(out: Path, format: str, split: str) -> Path:
    if format == "voc":
        return out / "JPEGImages"
    if format == "coco":
        return out / split
    return out / "images" if format == "masks" and split == ALL else out / "images" / split


def _free_names(records: DetectionRecords, names: list[str], out: Path, image_dir: Path, split: str) -> list[str]:
    """Names for VOC, whose splits share one folder: a name that another picture has gets the split before it."""
    free = []
    for index, name in enumerate(names):
        there, source = image_dir / name, records.path(index)
        annotated = out / "Annotations" / f"{os.path.splitext(name)[0]}.xml"
        taken = annotated.is_file() and not (there.is_file() and _same_file(there, source))
        parent, _, base = name.rpartition("/")
        free.append(f"{parent}/{split}_{base}".lstrip("/") if taken and not _listed(out, split, name) else name)
    return free


def _listed(out: Path, split: str, name: str) -> bool:
    """Whether the split as it is on disk has this name: it is being written again."""
    listing = out / "ImageSets" / "Main" / f"{split}.txt"
    return listing.is_file() and os.path.splitext(name)[0] in listing.read_text(encoding="utf-8").split("\n")


def _same_file(one: Path, other: Path) -> bool:
    if not other.is_file():
        return False
    return os.path.samefile(one, other) or (
        one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
    )
