"""A check's result as JSON content and as lines of plain text; no file or terminal is touched here."""

from __future__ import annotations

from typing import Any, NamedTuple

import effdense
from effdense.data.checks.check import Finding
from effdense.data.checks.dataset_check import CheckedSplit, DatasetReport
from effdense.data.checks.label_statistics import SIZE_NAMES, LabelStatistics

KIND = "effdense data report"
FORMAT_VERSION = 1
MOST_ROWS = 100  # classes in a table of text; of more the largest and the smallest are shown


class ClassTable(NamedTuple):
    """Columns and rows of text of a split's classes, largest first; ``left_out`` says how many rows are not there."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left_out: int


def report_content(report: DatasetReport, *, max_examples: int) -> dict[str, Any]:
    """JSON content of ``data_report.json``; the keys are described in docs/check.md."""
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "effdense_version": effdense.__version__,
        "source": report.source,
        "format": report.format,
        "errors": report.count("error"),
        "warnings": report.count("warning"),
        "notes": report.count("note"),
        "splits": {split.name: _split_content(split) for split in report.splits},
        "findings": [
            {
                "split": name or None,
                "severity": finding.severity,
                "code": finding.code,
                "message": finding.message,
                "count": finding.count,
                "examples": [printable(place) for place in finding.examples[:max_examples]],
            }
            for name, finding in report.findings
        ],
    }


def _split_content(split: CheckedSplit) -> dict[str, Any]:
    labels = None if split.statistics is None else split.statistics.to_dict()
    return {"source": split.source, "images": split.images, "labels": labels}


def printable(text: str) -> str:
    """Text without control characters and lone surrogates: names come from files that nobody has looked at."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean.encode("utf-8", "replace").decode("utf-8")


def split_facts(split: CheckedSplit) -> list[tuple[str, str]]:
    """(label, text) lines above the table of a split."""
    facts = [("source", split.source)]
    if split.images:
        facts.append(("images", ", ".join(f"{number:,} {what}" for what, number in split.images.items())))
    labels = split.statistics
    if labels is None:
        return [*facts, ("labels", "could not be read")]
    total = int(labels.counts.sum())
    if labels.unit == "boxes":
        sizes = ", ".join(f"{number:,} {name}" for name, number in zip(SIZE_NAMES, labels.sizes))
        facts.append(("boxes", f"{total:,} ({sizes}), {labels.crowds:,} crowd regions"))
    elif labels.unit == "pixels":
        everything = max(1, total + labels.ignored)
        facts.append(
            ("pixels", f"{total:,} of classes, {labels.ignored:,} ignored ({labels.ignored / everything:.1%})")
        )
    facts.append(("classes", f"{len(labels.names)}, {_id_text(labels)}"))
    return facts


def _id_text(labels: LabelStatistics) -> str:
    first, last = labels.category_ids[0], labels.category_ids[-1]
    ids = f"ids {first}..{last}" if first != last else f"id {first}"
    gaps = last - first + 1 - len(labels.category_ids)
    return f"{ids} with {gaps} not used: labels follow the order of the ids" if gaps else ids


def class_table(labels: LabelStatistics) -> ClassTable:
    """Label, id, name, amount, share and pictures of each class, the largest amount first."""
    total = max(1, int(labels.counts.sum()))
    order = sorted(range(len(labels.names)), key=lambda k: (-int(labels.counts[k]), k))
    left_out = max(0, len(order) - MOST_ROWS)
    if left_out:
        order = order[: MOST_ROWS // 2] + order[-(MOST_ROWS // 2) :]
    rows: list[tuple[str, ...]] = [
        (
            str(k),
            str(labels.category_ids[k]),
            printable(labels.names[k]),
            f"{int(labels.counts[k]):,}",
            f"{int(labels.counts[k]) / total:.1%}",
            f"{int(labels.pictures[k]):,}",
        )
        for k in order
    ]
    columns = ("label", "id", "class", labels.unit, "share", "in images")
    return ClassTable(columns, rows, left_out)


def table_lines(table: ClassTable) -> list[str]:
    """The table as aligned lines."""
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows)]
    lines = []
    for at, row in enumerate([table.columns, *table.rows]):
        if table.left_out and at == MOST_ROWS // 2 + 1:
            lines.append(f"  ... {table.left_out} more; data_report.json has all")
        cells = [cell.ljust(w) if i == 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def split_lines(split: CheckedSplit) -> list[str]:
    """A split as plain lines."""
    facts = split_facts(split)
    lines = [printable(split.name), *(f"  {label:<8}{printable(text)}" for label, text in facts)]
    return lines if split.statistics is None else [*lines, *table_lines(class_table(split.statistics))]


def finding_lines(name: str, finding: Finding, max_examples: int) -> list[str]:
    """A finding: severity, code, count, split and message with its fix; then one line per place."""
    where = f" in {printable(name)}" if name else ""
    lines = [f"{finding.severity} [{finding.code}] {finding.count}x{where}: {printable(finding.message)}"]
    shown = finding.examples[:max_examples]
    lines += [f"    {printable(place)}" for place in shown]
    if shown and finding.count > len(shown):
        lines.append(f"    ... {finding.count - len(shown)} more")
    return lines


def totals_line(report: DatasetReport) -> str:
    """``N errors, M warnings``."""
    errors, warnings = report.count("error"), report.count("warning")
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"


def report_lines(report: DatasetReport, max_examples: int) -> list[str]:
    """Everything as plain lines: splits, findings (errors first), totals last."""
    lines: list[str] = []
    for split in report.splits:
        lines += [*split_lines(split), ""]
    for name, finding in report.findings:
        lines += finding_lines(name, finding, max_examples)
    return [*lines, *([""] if report.findings else []), totals_line(report)]
