"""What is wrong with a data set, counted and named before any GPU time is spent.

Readers collect :class:`Finding` objects in a :class:`DataReport`: errors stop a run, warnings say what was found and
how it was handled. :func:`check_images` looks at the picture files behind the records.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from effdense.data.image_io import ImageFault, ImageHeader, inspect_file, read_image
from effdense.data.records import DetectionRecords
from effdense.errors import ConfigError, DataError

Severity = Literal["error", "warning", "note"]
EXAMPLES = 5
_kept: ContextVar[int] = ContextVar("examples", default=EXAMPLES)


@contextmanager
def keeping_examples(number: int) -> Iterator[None]:
    """Within the block every finding keeps so many places instead of :data:`EXAMPLES`."""
    token = _kept.set(number)
    try:
        yield
    finally:
        _kept.reset(token)


@dataclass(frozen=True)
class Finding:
    """One kind of fault: how often it occurs and the first places where."""

    severity: Severity
    code: str
    message: str
    count: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" First: {', '.join(self.examples)}." if self.examples else ""
        return f"[{self.code}] {self.count}x: {self.message}{where}"


@dataclass
class DataReport:
    """Findings of one source (an annotation file, a folder), or of several merged."""

    source: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Findings that make the data unusable as it is."""
        return [f for f in self.findings if f.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that were handled; the message says how."""
        return [f for f in self.findings if f.severity == "warning"]

    @property
    def notes(self) -> list[Finding]:
        """Findings that need nothing done, such as gaps between category ids."""
        return [f for f in self.findings if f.severity == "note"]

    def add(
        self, severity: Severity, code: str, message: str, where: Iterable[object], *, count: int | None = None
    ) -> None:
        """Add a finding, one entry of ``where`` per occurrence (or an explicit ``count``); none adds nothing."""
        places = [str(place) for place in where]
        count = len(places) if count is None else count
        if count:
            self.findings.append(Finding(severity, code, message, count, tuple(places[: _kept.get()])))

    def merge(self, other: DataReport) -> DataReport:
        """A report with the findings of both."""
        sources = [s for s in (self.source, other.source) if s]
        return DataReport(", ".join(dict.fromkeys(sources)), [*self.findings, *other.findings])

    def raise_for_errors(self) -> None:
        """Raise one DataError that lists every error; do nothing when there is none."""
        if self.errors:
            lines = "".join(f"\n  {finding}" for finding in self.errors)
            raise DataError(f"{self.source or 'The data set'} cannot be used, {len(self.errors)} error(s):{lines}")

    def summary(self) -> str:
        """Several lines: the source, one line per finding, errors first, and the totals."""
        lines = [f"  {f.severity} {f}" for f in [*self.errors, *self.warnings, *self.notes]]
        errors, warnings = len(self.errors), len(self.warnings)
        totals = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
        return "\n".join([self.source or "data set", *lines, totals])

    def to_dict(self) -> dict[str, Any]:
        """JSON-friendly form."""
        return {"source": self.source, "findings": [asdict(f) for f in self.findings]}


# Code -> (severity, what it means and what to do).
_IMAGE_MESSAGES: dict[str, tuple[Severity, str]] = {
    "missing-image": (
        "error",
        "picture files that the annotations name do not exist; correct image_dir or add them.",
    ),
    "empty-file": ("error", "picture files are empty (0 bytes); fetch them again."),
    "not-an-image": ("error", "files are not pictures in a known format; replace them or take them out."),
    "truncated-image": ("error", "picture files are cut short; fetch them again."),
    "unreadable-image": ("error", "picture files are damaged or may not be read; fetch them again or mend the rights."),
    "too-large": ("error", "pictures have more pixels than allowed; shrink them and their boxes."),
    "size-mismatch": (
        "error",
        "pictures are not of the size that the annotation file gives, so the boxes would not fit; correct either.",
    ),
    "exif-rotated": (
        "warning",
        "pictures carry an EXIF rotation and their annotated size is that of the unrotated pixels; "
        "they are read unrotated so that the boxes fit.",
    ),
    "exif-unclear": (
        "warning",
        "pictures carry an EXIF rotation that keeps their size, so the annotations do not say whether they were made "
        "before or after it; they are read rotated, as viewers show them. Look at one, and save them without EXIF.",
    ),
}


_TURNED = (
    "pictures carry an EXIF rotation and are annotated as viewers show them; they are read rotated. Nothing to do."
)


def picture_findings(
    report: DataReport,
    looks: Sequence[ImageHeader | ImageFault | None],
    places: Sequence[str],
    sizes: Sequence[tuple[int, ...]] | None = None,
) -> None:
    """Add what is wrong with picture files of which the headers (or faults) are known, one finding per picture.

    Args:
        places: how to name each. sizes: annotated (height, width) of each; None: no annotation says one.
    """
    found = [
        None if look is None else _fault(look, place, None if sizes is None else sizes[i])
        for i, (look, place) in enumerate(zip(looks, places, strict=True))
    ]
    for code, (severity, message) in _IMAGE_MESSAGES.items():
        report.add(severity, code, message, _places(found, code))
    if sizes is not None:
        turned = [
            place
            for look, place, fault in zip(looks, places, found)
            if isinstance(look, ImageHeader) and look.orientation != 1 and fault is None
        ]
        report.add("note", "exif-turned", _TURNED, turned)


def check_images(
    records: DetectionRecords,
    *,
    count: int | Literal["all"] = "all",
    decode: int | Literal["all"] = 0,
    workers: int = 4,
) -> DataReport:
    """Look at the picture files of a split: there, not empty, a known format, whole, and of the annotated size.

    Only headers and the last 4 kB are read: 0.1 ms per picture where the files are in the page cache.

    Args:
        records: the split.
        count: how many files to open, spread evenly over the split.
        decode: also decode the first so many of these fully; "all" for every one.
        workers: threads.

    Raises:
        ConfigError: ``count``, ``decode`` or ``workers`` is not usable.
    """
    if count != "all" and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
        raise ConfigError(f"count must be a number of pictures >= 0 or 'all', got {count!r}.")
    if decode != "all" and (not isinstance(decode, int) or decode < 0):
        raise ConfigError(f"decode must be a number of pictures >= 0 or 'all', got {decode!r}.")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}.")
    total = len(records) if count == "all" else min(count, len(records))
    chosen = np.linspace(0, len(records) - 1, total).round().astype(int).tolist()
    full = set(chosen if decode == "all" else chosen[:decode])
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(partial(_check_one, records, full), chosen))
    report = DataReport(str(records.annotation_file or records.image_dir))
    for code, (severity, message) in _IMAGE_MESSAGES.items():
        report.add(severity, code, message, _places(found, code))
    return report


def _places(found: Sequence[tuple[str, str] | None], code: str) -> list[str]:
    return [item[1] for item in found if item is not None and item[0] == code]


def _fault(look: ImageHeader | ImageFault, name: str, annotated: tuple[int, ...] | None) -> tuple[str, str] | None:
    """(code, place) of what is wrong with a file, or None."""
    if isinstance(look, ImageFault):
        return look.code, f"{name} ({look.reason.rstrip('.')})" if look.code != "missing-image" else name
    if annotated is None:
        return None
    if annotated not in (look.size, look.oriented_size):
        seen = look.oriented_size
        return "size-mismatch", f"{name} is {seen[1]}x{seen[0]}, annotated {annotated[1]}x{annotated[0]}"
    if look.orientation != 1 and look.size == look.oriented_size:
        return "exif-unclear", name
    return ("exif-rotated", name) if annotated != look.oriented_size else None


def _check_one(records: DetectionRecords, full: set[int], index: int) -> tuple[str, str] | None:
    """(code, place) of the first fault of a picture, or None."""
    path = records.path(index)
    name = os.path.relpath(path, records.image_dir) if records.image_dir.parts else str(path)
    height, width = records.sizes[index].tolist()
    annotated = (height, width)
    fault = _fault(inspect_file(path), name, annotated)
    if fault is None and index in full:
        try:
            read_image(path, expected_size=annotated)
        except DataError as error:
            return "unreadable-image", f"{name} ({str(error).removeprefix(f'{path.absolute()}: ').rstrip('.')})"
    return fault
