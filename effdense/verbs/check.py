"""``effdense check``: look for what is wrong with a data set before it costs training time.

PATH is a data set in any known format (COCO JSON, YOLO, Pascal VOC, image and mask folders, class folders), CONFIG a
training config (*.py), of which every split is checked as training would read it. The exit code is 1 where there are
errors, else 0; 2 for a command that cannot be carried out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdense.errors import ConfigError

if TYPE_CHECKING:
    from effdense.data.checks.dataset_check import DatasetReport, SplitToCheck

HELP = "look for what is wrong with a data set before it costs training time"
_KEPT = 10_000  # places of one finding that are held in memory
_SHOWN = 5


def add(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="PATH|CONFIG", help="data set (folder, json, yaml ...) or config (*.py)")
    parser.add_argument("--split", nargs="+", metavar="S", help="only these splits (default: all)")
    parser.add_argument(
        "--format",
        "--from",
        dest="format",
        metavar="FORMAT",
        help="coco, yolo, voc, masks or folder (default: found out)",
    )
    parser.add_argument(
        "--decode", default="all", metavar="N|all", help="decode so many pictures and masks of each split (default all)"
    )
    parser.add_argument("--no-hash", action="store_true", help="do not compare the contents of pictures")
    parser.add_argument(
        "--near-duplicates", action=argparse.BooleanOptionalAction, default=True,
        help="look for pictures that look nearly alike, within splits and between them (default: yes)",
    )  # fmt: skip
    parser.add_argument(
        "--hash-distance",
        type=int,
        metavar="D",
        help="bits of 64 that near duplicates may differ in, 0 to 16 (default 6)",
    )
    parser.add_argument("--image-size", metavar="N|H,W", help="px of the model's input, for boxes that vanish there")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core, 16 at most)")
    parser.add_argument(
        "--max-examples",
        type=int,
        default=_SHOWN,
        metavar="N",
        help=f"places named for each finding (default {_SHOWN})",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write data_report.json and pictures here (default data_check/NAME)"
    )
    parser.add_argument("--no-pictures", action="store_true", help="write data_report.json only")
    parser.add_argument("--repair", metavar="DIR", help="write a repaired copy of the annotations to this new folder")
    parser.add_argument("--strict", action="store_true", help="warnings, too, make the exit code 1")


def run(arguments: argparse.Namespace) -> int | None:
    """Check, print, write; the exit code."""
    from effdense.data.checks.check import keeping_examples
    from effdense.data.checks.dataset_check import CheckOptions, check_dataset
    from effdense.data.checks.leakage import HASH_DISTANCE
    from effdense.data.checks.picture_scan import ScanOptions, checked_number
    from effdense.data.checks.report_files import claim_folder, write_report

    if arguments.max_examples < 0:
        raise ConfigError(f"--max-examples must be at least 0, got {arguments.max_examples}.")
    if not arguments.near_duplicates and arguments.hash_distance is not None:
        raise ConfigError("--hash-distance is for near duplicates, which --no-near-duplicates leaves out.")
    ScanOptions(workers=arguments.workers)
    distance = HASH_DISTANCE if arguments.hash_distance is None else arguments.hash_distance
    decode = arguments.decode if arguments.decode == "all" else _number(arguments.decode)
    options = CheckOptions(
        decode=checked_number(decode, "--decode"),
        hash=not arguments.no_hash,
        distance=distance if arguments.near_duplicates else None,
        workers=arguments.workers,
    )
    with keeping_examples(max(_KEPT, arguments.max_examples)):
        given = _read(arguments)
        out = Path(arguments.out or Path("data_check") / given.name)
        claim_folder(out, [split.name for split in given.splits])
        if arguments.repair is not None:
            from effdense.data.checks.repair_dataset import claim_repair

            claim_repair(Path(arguments.repair), given.format, given.splits)
        progress = _Progress() if sys.stderr.isatty() else None
        report = check_dataset(
            given.source,
            given.format,
            given.splits,
            _with_size(options, arguments.image_size, given.image_size),
            complete=given.complete,
            progress=progress,
        )
        if progress is not None:
            progress.close()
    written = write_report(report, out, max_examples=arguments.max_examples, pictures=not arguments.no_pictures)
    _show(report, arguments.max_examples, [f"written: {', '.join(str(path) for path in written)}"])
    if arguments.repair is not None:
        from effdense.data.checks.repair_dataset import repair_dataset

        lines = repair_dataset(Path(arguments.repair), given.format, given.splits, report.pictures)
        print("\n".join(_encodable(line) for line in lines))
    _print_totals(report)
    failed = report.count("error") or (arguments.strict and report.count("warning"))
    return 1 if failed else 0


class _Given:
    """What is to be checked."""

    def __init__(
        self, name: str, source: str, format: str, splits: list[SplitToCheck], image_size: Any, complete: bool
    ) -> None:
        self.name, self.source, self.format, self.splits = name, source, format, splits
        self.image_size, self.complete = image_size, complete


def _read(arguments: argparse.Namespace) -> _Given:
    if str(arguments.source).endswith(".py"):
        from effdense.engine.data_report import read_config_splits

        if arguments.format is not None:
            raise ConfigError("--format is for a data set; a config says itself what its data are.")
        read = read_config_splits(arguments.source, arguments.split)
        name = Path(arguments.source).stem
        return _Given(name, str(arguments.source), "config", read.splits, read.image_size, read.complete)
    from effdense.data.checks.source_check import read_source

    source, splits = read_source(arguments.source, arguments.split, format=arguments.format)
    place = Path(arguments.source).expanduser().absolute()
    name = place.stem if place.is_file() else place.name
    complete = arguments.split is None and not source.root.is_file()
    return _Given(name or "root", str(source.root), source.format, splits, None, complete)


def _number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _with_size(options: Any, text: str | None, own: tuple[int, int] | None) -> Any:
    from dataclasses import replace

    if text is None:
        return replace(options, image_size=own)
    parts = [part.strip() for part in text.split(",")]
    if not 1 <= len(parts) <= 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--image-size takes N or H,W in px, got {text!r}.")
    sides = [int(part) for part in parts]
    return replace(options, image_size=(sides[0], sides[-1]))


class _Progress:
    """One line on stderr that is written over and over; for terminals only."""

    def __init__(self) -> None:
        self.width = 0

    def __call__(self, split: str, done: int, total: int) -> None:
        from effdense.data.checks.report_text import printable

        text = f"{printable(split)}: {done:,} of {total:,} pictures"
        sys.stderr.write("\r" + text.ljust(self.width))
        sys.stderr.flush()
        self.width = len(text)

    def close(self) -> None:
        sys.stderr.write("\r" + " " * self.width + "\r")
        sys.stderr.flush()


def _show(report: DatasetReport, max_examples: int, last: list[str]) -> None:
    """Print splits and findings: with rich on a terminal, else as plain lines."""
    from effdense.data.checks import report_text

    if not sys.stdout.isatty():
        lines = report_text.report_lines(report, max_examples)[:-1]
        print("\n".join(_encodable(line) for line in [*lines, *last]))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    styles = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for split in report.splits:
        console.print(Text(report_text.printable(split.name), style="bold"))
        for label, text in report_text.split_facts(split):
            console.print(Text(f"  {label:<8}{report_text.printable(text)}"))
        if split.statistics is not None:
            content = report_text.class_table(split.statistics)
            table = Table(box=None, pad_edge=True)
            for at, column in enumerate(content.columns):
                table.add_column(Text(column), justify="left" if at == 2 else "right")
            for row in content.rows:
                table.add_row(*map(Text, row))
            console.print(table)
            if content.left_out:
                console.print(Text(f"  {content.left_out} classes between are left out; data_report.json has all"))
        console.print()
    for name, finding in report.findings:
        for at, line in enumerate(report_text.finding_lines(name, finding, max_examples)):
            console.print(Text(line, style=styles[finding.severity] if at == 0 else ""))
    for line in last:
        console.print(Text(line))


def _encodable(line: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _print_totals(report: DatasetReport) -> None:
    from effdense.data.checks.report_text import totals_line

    print(totals_line(report))
