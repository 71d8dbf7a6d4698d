"""What goes into the whole check of a data set and what comes out: options, splits, results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from effdense.data.checks.check import DataReport, Finding
from effdense.data.checks.label_statistics import LabelStatistics
from effdense.data.checks.leakage import HASH_DISTANCE, MAX_DISTANCE
from effdense.data.checks.picture_scan import PictureFacts
from effdense.data.combining.joined_masks import JoinedMasks
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.records import ClassMap, DetectionRecords
from effdense.errors import ConfigError

Records = DetectionRecords | SegmentationRecords | JoinedMasks | ClassificationRecords


@dataclass(frozen=True)
class CheckOptions:
    """How closely to look.

    Args:
        decode: how many pictures and masks of each split to decode, spread over it, or "all".
        hash: compare the contents of pictures.
        distance: bits that the hashes of near duplicates may differ in, 0 to 16; None: do not look for them.
        workers: threads; None: one per core, 16 at most.
        image_size: (height, width) of the model's input, for boxes that vanish there.
    """

    decode: int | str = "all"
    hash: bool = True
    distance: int | None = HASH_DISTANCE
    workers: int | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.distance is not None and not 0 <= self.distance <= MAX_DISTANCE:
            raise ConfigError(f"the hash distance must be 0 to {MAX_DISTANCE} bits of 64, got {self.distance}.")


@dataclass(frozen=True)
class SplitToCheck:
    """A split as its reader gave it; without records where it could not be read (the report then has an error)."""

    name: str
    records: Records | None
    report: DataReport


@dataclass(frozen=True)
class CheckedSplit:
    """What a check found out about one split.

    Attributes:
        images: "listed", "found", "missing", "unreadable", "empty" (detection) -> number.
        statistics: of the labels; None where the split could not be read.
        report: findings of this split alone, errors first.
    """

    name: str
    source: str
    class_map: ClassMap | None
    images: dict[str, int]
    statistics: LabelStatistics | None
    report: DataReport


@dataclass(frozen=True)
class DatasetReport:
    """The result of :func:`check_dataset`.

    ``between`` holds what concerns the splits together, ``pictures`` what was seen of each file, by split.
    """

    source: str
    format: str
    splits: tuple[CheckedSplit, ...]
    between: DataReport = field(default_factory=DataReport)
    pictures: Mapping[str, list[PictureFacts]] = field(default_factory=dict, repr=False)

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """(split, finding), errors first; the split is "" for findings between splits."""
        pairs = [(split.name, f) for split in self.splits for f in split.report.findings]
        pairs += [("", f) for f in self.between.findings]
        rank = {"error": 0, "warning": 1, "note": 2}
        return sorted(pairs, key=lambda pair: rank[pair[1].severity])

    def count(self, severity: str) -> int:
        """Findings of a severity."""
        return sum(finding.severity == severity for _, finding in self.findings)


def has_own_ids(records: object) -> bool:
    """Whether ids in the records are those of a COCO file, worth naming to a reader."""
    if not isinstance(records, DetectionRecords):
        return False
    return records.annotation_file is not None and records.annotation_file.suffix == ".json"
