"""A data set on disk to the splits that a check looks at: a path in any known format in, records of every split out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effdense.data.checks.check import DataReport
from effdense.data.checks.dataset_check import Records, SplitToCheck
from effdense.data.readers import formats
from effdense.data.readers.splits import EmptySplitError
from effdense.errors import ConfigError, DataError, did_you_mean


def read_source(
    path: str | Path, names: Sequence[str] | None = None, *, format: str | None = None
) -> tuple[formats.DataSource, list[SplitToCheck]]:
    """Read the splits of a data set.

    Args:
        path: what ``formats.detect`` takes. format: one of ``formats.FORMATS``; None: found out.
        names: which splits; None: all.

    Returns:
        The source and its splits. One that cannot be read has no records, and a report with an error.

    Raises:
        DataError: there is no data set. ConfigError: it has no such split.
    """
    source = formats.detect(path, format=format)
    for name in names or ():
        if name not in source.splits:
            raise ConfigError(
                f"{source.root} has no split {name!r}; it has {', '.join(source.splits)}."
                f"{did_you_mean(name, source.splits)}"
            )
    return source, [_read(source, name) for name in source.splits if names is None or name in names]


def _read(source: formats.DataSource, name: str) -> SplitToCheck:
    records: Records
    training = name in ("train", "all")
    try:
        if source.format == "masks":
            records, report = formats.read_segmentation_split(source, name, training=training)
        elif source.format == "folder":
            records, report = formats.read_classification_split(source, name)
        else:
            # Outlines are looked at where the format has them.
            segments = source.format in ("coco", "yolo")
            records, report = formats.read_split(source, name, segments=segments, training=training)
    except DataError as error:
        return SplitToCheck(name, None, unreadable(str(source.root), f"{source.root} ({name})", error))
    return SplitToCheck(name, records, report)


def unreadable(source: str, place: str, error: DataError) -> DataReport:
    """The report of a split that could not be read at all."""
    report = DataReport(source)
    if isinstance(error, EmptySplitError):
        report.add("error", "empty-split", f"the split has no picture: {error}", [place])
    else:
        report.add("error", "unreadable-split", f"the split cannot be read: {error}", [place])
    return report
