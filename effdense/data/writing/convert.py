"""From one format to another: a set in any of four formats in, a folder in another and an account of the losses out.

Everything is read and checked before anything is written; the folder appears whole or not at all.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from effdense.data.checks.check import DataReport, check_images
from effdense.data.image_io import ImageHeader
from effdense.data.readers.formats import DataSource, detect, read_split
from effdense.data.readers.splits import ALL, is_usual, pick_split, read_headers
from effdense.data.records import ClassMap, DetectionRecords
from effdense.data.writing.write_pictures import Transfer
from effdense.data.writing.writers import WrittenSplit, check_arguments, picture_dir, write_dataset
from effdense.errors import ConfigError, DataError

DATASET_TYPES = {"coco": "CocoDetection", "yolo": "YoloDetection", "voc": "VocDetection", "masks": "MaskObjects"}


@dataclass(frozen=True)
class Conversion:
    """A finished conversion. ``report`` is what was found in the source."""

    source: DataSource
    format: str
    out: Path
    splits: tuple[WrittenSplit, ...]
    report: DataReport
    notes: tuple[str, ...] = field(default=())

    def config(self) -> str:
        """The lines of a config that train on it."""
        names = [part.split for part in self.splits]
        train = "train" if "train" in names else names[0]
        val = next((name for name in ("val", "test") if name in names), train)
        return "\n".join(
            f"{section}_dataloader = dict(\n"
            f"    batch_size=8,\n    num_workers=4,\n"
            f"    dataset=dict(\n        {self._dataset(name)},\n        transforms=[{transforms}],\n    ),\n)"
            for section, name, transforms in (
                ("train", train, 'dict(type="ScaleJitterCrop"), dict(type="HorizontalFlip", prob=0.5)'),
                ("val", val, 'dict(type="ResizePad")'),
            )
        )

    def _dataset(self, split: str) -> str:
        start = f'type="{DATASET_TYPES[self.format]}",\n        root={str(self.out.absolute())!r}'
        if self.format == "coco":
            file = f"annotations/instances_{split}.json"
            return f'{start},\n        ann_file="{file}",\n        image_dir="{split}"'
        return f'{start},\n        split="{split}"'


def convert_dataset(
    path: str | Path | DataSource,
    out: str | Path,
    format: str,
    *,
    source_format: str | None = None,
    splits: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    pictures: Transfer = "link",
    polygons: bool | None = None,
    overwrite: bool = False,
    skip_errors: bool = False,
    **options: Any,
) -> Conversion:
    """Write a set anew in another format.

    Args:
        path: what :func:`effdense.data.readers.formats.detect` takes. source_format: where that is ambiguous.
        out: folder to write; it must be empty or not there, unless ``overwrite``: then files of the same name are
            replaced and others left as they are.
        format: "coco", "yolo", "voc" or "masks".
        splits, classes: only these; default all.
        pictures: "link" makes hard links (no space; copies where the file system differs), "copy" copies, "none" writes
            annotations only.
        polygons: YOLO outlines, see ``write_yolo``.
        skip_errors: leave out what is at fault and go on; else an error in the source stops before anything is written.
        options: of the source's reader, for example ``difficult`` of VOC or ``background`` of masks.

    Raises: DataError for errors in the source, ConfigError for arguments.
    """
    check_arguments(format, pictures, classes)
    source = path if isinstance(path, DataSource) else detect(path, format=source_format)
    target = Path(out).expanduser().absolute()
    _check_target(target, source, overwrite)
    asked = [splits] if isinstance(splits, str) else splits
    names = list(source.splits) if asked is None else list(dict.fromkeys(_spelled(source, name) for name in asked))
    if not names:
        raise ConfigError("splits names no split; leave it out for all of them.")
    parts, report = _read(source, names, classes, pictures, skip_errors, options)
    notes: list[str] = []
    renamed = {name: _target_split(name, format, notes) for name in names}
    stage = target if overwrite and target.exists() else target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    stage.mkdir(parents=True, exist_ok=True)
    try:
        written = [
            write_dataset(parts[name], stage, format, split=renamed[name], pictures=pictures, polygons=polygons)
            for name in names
        ]
        if stage != target:
            if target.exists():
                target.rmdir()  # it is empty
            stage.rename(target)
    except BaseException:
        if stage != target:
            shutil.rmtree(stage, ignore_errors=True)
        raise
    if pictures == "none":
        notes.append(f"no pictures written: put them where {picture_dir(target, format, renamed[names[0]])} says")
    return Conversion(source, format, target, tuple(written), report, tuple(notes))


def _check_target(target: Path, source: DataSource, overwrite: bool) -> None:
    root = source.root if source.root.is_dir() else source.root.parent
    here = target.resolve()
    if here == root.resolve() or here in root.resolve().parents:
        raise ConfigError(f"{target} is the source or holds it; write into another folder.")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file; give a folder to write.")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise ConfigError(
            f"{target} is not empty. Give a new folder, or overwrite=True (--overwrite) to replace files of the same "
            "name."
        )


def _spelled(source: DataSource, name: str) -> str:
    """The source's own name of a split; also of lists beside the usual ones, such as trainval."""
    layout = source.layout
    if isinstance(layout, dict):
        return pick_split(layout, name, source.root)[0]
    return pick_split({**layout.splits, **getattr(layout, "others", {})}, name, source.root)[0]


def _target_split(name: str, format: str, notes: list[str]) -> str:
    if format == "yolo" and name == ALL:
        notes.append("the set is not divided: written as train. Ultralytics also needs val: in data.yaml")
        return "train"
    if format == "masks" and name != ALL and not is_usual(name):
        raise ConfigError(f"a set of masks has the splits train, val and test, not {name!r}; choose others (--split).")
    return name


def _read(
    source: DataSource,
    names: Sequence[str],
    classes: Sequence[str] | None,
    pictures: str,
    skip_errors: bool,
    options: dict[str, Any],
) -> tuple[dict[str, DetectionRecords], DataReport]:
    """Records of all splits, checked. Raises: DataError with every error of every split."""
    parts: dict[str, DetectionRecords] = {}
    report = DataReport(str(source.root))
    class_map: ClassMap | None = None
    for name in names:
        records, found = read_split(source, name, classes=classes, class_map=class_map, segments=True, **options)
        class_map = records.class_map
        report = _with_split(report, found, name)
        if pictures != "none":
            report = _with_split(report, check_images(records), name)
            records = _with_good_pictures(records) if skip_errors else records
        parts[name] = records
    if not skip_errors:
        try:
            report.raise_for_errors()
        except DataError as error:
            raise DataError(
                f"{error}\nNothing was written. Mend these, or leave them out with --skip-errors."
            ) from None
    if empty := [name for name, records in parts.items() if not len(records)]:
        raise DataError(f"{source.root}: nothing is left of {', '.join(empty)}.")
    return parts, report


def _with_split(report: DataReport, found: DataReport, split: str) -> DataReport:
    """The findings of a split added, its name in front of each place."""
    merged = DataReport(report.source, list(report.findings))
    for item in found.findings:
        merged.add(item.severity, item.code, item.message, [f"{split}: {e}" for e in item.examples], count=item.count)
    return merged


def _with_good_pictures(records: DetectionRecords) -> DetectionRecords:
    """Without images whose file is missing, broken or of another size."""
    headers = read_headers(records.path(i) for i in range(len(records)))
    good = [
        isinstance(header, ImageHeader) and tuple(size) in (header.size, header.oriented_size)
        for header, size in zip(headers, records.sizes.tolist(), strict=True)
    ]
    return records if all(good) else records.subset(np.flatnonzero(good))
