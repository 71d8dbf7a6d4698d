"""A repaired copy of a data set's annotations in a new folder: splits as checked in, files and a list of changes out.

COCO stays COCO, field by field, with links to the pictures in the places the file names them. YOLO and VOC are written
anew from their records. The sources are only read.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from effdense.data.checks.box_findings import box_owners
from effdense.data.checks.check import DataReport
from effdense.data.checks.dataset_check import SplitToCheck
from effdense.data.checks.picture_scan import PictureFacts
from effdense.data.checks.repair import CHANGES, repair_coco
from effdense.data.checks.report_text import printable
from effdense.data.image_io import ImageFault, ImageHeader, inspect_file, write_bytes_atomically
from effdense.data.records import DetectionRecords
from effdense.errors import ConfigError

_REASONS = {
    "masks": "what the pixels of a wrong mask should have been is nowhere to be read; make the masks again as the "
    "findings say",
    "folder": "class folders have no annotations; move or replace the files that the findings name",
}


def claim_repair(out: Path, format: str, splits: Sequence[SplitToCheck]) -> None:
    """Refuse what cannot be repaired, and a folder that is in use.

    Raises: ConfigError.
    """
    if format in _REASONS:
        raise ConfigError(f"--repair cannot help with the format {format}: {_REASONS[format]}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--repair {out} is there already; give a new or empty folder, nothing is overwritten.")
    for split in splits:
        if split.records is not None and not isinstance(split.records, DetectionRecords):
            raise ConfigError(f"--repair is for boxes; the {split.name} split has none. {_REASONS['masks']}.")
        if format == "config" and isinstance(split.records, DetectionRecords) and not _is_coco(split.records):
            raise ConfigError(
                f"--repair: the {split.name} split of the config is not one COCO file; repair its data sets by their "
                "paths."
            )


def _is_coco(records: DetectionRecords) -> bool:
    return records.annotation_file is not None and records.annotation_file.suffix == ".json"


def repair_dataset(
    out: Path, format: str, splits: Sequence[SplitToCheck], pictures: Mapping[str, Sequence[PictureFacts]]
) -> list[str]:
    """Write the repaired set; lines that say what was changed and where it is.

    Args:
        out: see :func:`claim_repair`.
        pictures: what was seen of the picture files, by split.

    Raises: ConfigError where :func:`claim_repair` would.
    """
    claim_repair(out, format, splits)
    lines = []
    roots = [
        str(part)
        for split in splits
        if isinstance(split.records, DetectionRecords) and _is_coco(split.records)
        for part in (split.records.annotation_file, split.records.image_dir)
    ]
    for split in splits:
        if not isinstance(split.records, DetectionRecords):
            lines.append(f"{split.name}: could not be read, so nothing was written")
            continue
        if _is_coco(split.records):
            root = Path(os.path.commonpath(roots))
            root = root.parent if root.suffix == ".json" else root
            file, done = _repair_file(split.records, pictures[split.name], root, out)
        else:
            file, done = _rewrite(split, pictures[split.name], format, out)
        changes = [f"  {done[key]:>6} {text}" for key, text in CHANGES.items() if done[key]]
        lines += [
            f"repaired {printable(split.name)}: {printable(str(file))}",
            *(changes or ["  nothing had to be changed"]),
        ]
    return lines


def _repair_file(
    records: DetectionRecords, facts: Sequence[PictureFacts], root: Path, out: Path
) -> tuple[Path, Counter[str]]:
    assert records.annotation_file is not None
    content = json.loads(records.annotation_file.read_bytes())
    looks: dict[str, ImageHeader | ImageFault] = {}
    for index, found in enumerate(facts):
        look = found.fault or found.header
        if look is not None:
            looks[records.names[index]] = look
    for entry in content["images"]:  # those that the reader refused, for example without a size
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name and name not in looks and ".." not in Path(name).parts:
            looks[name] = inspect_file(records.image_dir / name)
    content, done = repair_coco(content, looks)
    target = out / records.annotation_file.relative_to(root)
    folder = out / records.image_dir.relative_to(root)
    for entry in content["images"]:
        link = folder / entry["file_name"]
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink() and not link.exists():
            link.symlink_to((records.image_dir / entry["file_name"]).absolute())
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(target, json.dumps(content).encode("utf-8"))
    return target, done


def _rewrite(split: SplitToCheck, facts: Sequence[PictureFacts], format: str, out: Path) -> tuple[Path, Counter[str]]:
    """YOLO and VOC: the records as read (clipped, without what had to be dropped), less pictures that are lost."""
    from effdense.data.writing.convert import write_dataset

    assert isinstance(split.records, DetectionRecords)
    records, done = repair_records(split.records, facts, split.report)
    write_dataset(records, out, format, split=split.name)
    return out, done


def repair_records(
    records: DetectionRecords, facts: Sequence[PictureFacts], report: DataReport
) -> tuple[DetectionRecords, Counter[str]]:
    """Records without pictures that cannot be read and without exact doubles, of the sizes that the pictures have.

    Args:
        report: of the reader, whose own drops and clips are counted in.
    """
    done: Counter[str] = Counter()
    for finding in report.findings:
        if (change := _READERS.get(finding.code)) is not None:
            done[change] += finding.count
    sizes = records.sizes.copy()
    for index, found in enumerate(facts):
        if found.header is not None and tuple(sizes[index]) not in (found.header.size, found.header.oriented_size):
            sizes[index] = found.header.oriented_size
            done["image-size"] += 1
    owners = box_owners(records)
    limit = sizes[owners][:, ::-1].astype(np.float32)
    boxes = np.concatenate([np.clip(records.boxes[:, :2], 0, limit), np.clip(records.boxes[:, 2:], 0, limit)], 1)
    lost = np.array([found.fault is not None for found in facts], bool)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    keys = np.column_stack([owners, records.labels, records.boxes])
    _, first = np.unique(keys, axis=0, return_index=True)
    single = np.zeros(len(boxes), bool)
    single[first] = True
    done["outside"] += int((~inside & ~lost[owners]).sum())
    done["duplicate"] += int((inside & ~single & ~lost[owners]).sum())
    done["lost-image"] += int(lost.sum())
    kept = np.flatnonzero(inside & single)
    counts = np.bincount(owners[kept], minlength=len(records))
    smaller = replace(
        records,
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes[kept],
        labels=records.labels[kept],
        is_crowd=records.is_crowd[kept],
        annotation_ids=records.annotation_ids[kept],
        areas=records.areas[kept],
        segments=None if records.segments is None else records.segments.take(kept),
    )
    return smaller.subset(np.flatnonzero(~lost)), done


# What readers leave out or clip themselves, as the change it amounts to in what is written.
_READERS = {
    "missing-image": "lost-image",
    "unreadable-image": "lost-image",
    "truncated-image": "lost-image",
    "not-an-image": "lost-image",
    "empty-file": "lost-image",
    "too-large": "lost-image",
    "degenerate-bbox": "degenerate",
    "bbox-outside": "outside",
    "bbox-clipped": "clipped",
    "xyxy-bbox": "clipped",
    "bad-bbox": "bad-annotation",
    "non-finite-bbox": "bad-annotation",
    "unknown-class": "bad-annotation",
    "missing-name": "bad-annotation",
    "label-not-a-number": "bad-annotation",
    "label-columns": "bad-annotation",
    "prediction-line": "bad-annotation",
    "class-not-whole": "bad-annotation",
    "negative-class": "bad-annotation",
    "class-out-of-range": "bad-annotation",
    "not-normalised": "bad-annotation",
    "normalised-bbox": "bad-annotation",
}
