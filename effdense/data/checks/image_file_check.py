"""Picture files of a classification split looked at before training: records in, a report of what is broken out."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

import numpy as np

from effdense.data.checks.check import DataReport
from effdense.data.image_io import ImageFault, inspect_file, read_image
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.errors import ConfigError, DataError

_FAULTS = {
    "missing-image": "picture files have gone since the folder was read.",
    "empty-file": "picture files are empty (0 bytes); fetch them again.",
    "not-an-image": "files are not pictures in a known format; replace them or take them out.",
    "truncated-image": "picture files are cut short; fetch them again.",
    "unreadable-image": "picture files are damaged or may not be read; fetch them again or mend the rights.",
    "too-large": "pictures have more pixels than allowed; shrink them.",
}


def check_image_files(
    records: ClassificationRecords,
    *,
    count: int | Literal["all"] = 1000,
    decode: int | Literal["all"] = 0,
    workers: int = 4,
) -> DataReport:
    """Look at picture files of a split: there, not empty, a known format, whole; every fault is an error.

    Args:
        records: the split.
        count: how many files to open, spread evenly over the split; only headers and the last 4 kB are read.
        decode: how many of these, from the first on, to decode fully.
        workers: threads.

    Raises:
        ConfigError: an argument is not usable.
    """
    for name, value in (("count", count), ("decode", decode)):
        if value != "all" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ConfigError(f"{name} must be a number of pictures >= 0 or 'all', got {value!r}.")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}.")
    total = len(records) if count == "all" else min(count, len(records))
    chosen = np.linspace(0, len(records) - 1, total).round().astype(int).tolist()
    full = set(chosen if decode == "all" else chosen[:decode])
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(partial(_check_file, records, full), chosen))
    report = DataReport(str(records.source))
    for code, message in _FAULTS.items():
        report.add("error", code, message, _places(found, code))
    return report


def _check_file(records: ClassificationRecords, full: set[int], index: int) -> tuple[str, str] | None:
    """(code, place) of a file's fault, or None."""
    header = inspect_file(records.path(index))
    if isinstance(header, ImageFault):
        return header.code, f"{records.paths[index]} ({header.reason.rstrip('.')})"
    if index in full:
        try:
            read_image(records.path(index))
        except DataError as error:
            return "unreadable-image", str(error).rstrip(".")
    return None


def _places(found: Iterable[tuple[str, str] | None], code: str) -> list[str]:
    return [item[1] for item in found if item is not None and item[0] == code]
