"""``effdense convert``: turn a data set into another format.

Formats: coco (JSON), yolo (text labels and data.yaml), voc (XML), masks (class and instance masks). The source's format
is found out; splits are kept; what the new format cannot hold is counted.
"""

from __future__ import annotations

import argparse

from effdense.errors import ConfigError

HELP = "turn a data set into another format"
_FORMATS = ("coco", "yolo", "voc", "masks")


def add(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("source", help="data set: a folder, COCO .json, YOLO .yaml or VOC .xml")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=f"format to write: {', '.join(_FORMATS)}")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--from", dest="source_format", metavar="FORMAT", help="format of the source, where unclear")
    parser.add_argument("--split", nargs="+", metavar="S", help="only these splits (default all)")
    parser.add_argument("--classes", metavar="A,B", help="only these classes, by name, separated by commas")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--link", dest="pictures", action="store_const", const="link", help="hard-link pictures (default)")
    how.add_argument("--copy", dest="pictures", action="store_const", const="copy", help="copy pictures")
    how.add_argument("--no-images", dest="pictures", action="store_const", const="none", help="annotations only")
    parser.add_argument(
        "--polygons", action="store_true", default=None,
        help="yolo: write outlines, even where boxes then become their bounds (default where no box changes)",
    )  # fmt: skip
    parser.add_argument("--difficult", choices=("keep", "ignore", "drop"), help="voc: objects marked so (default keep)")
    parser.add_argument(
        "--background", metavar="A,B", help="masks: classes that are no objects; '' for none (default by name)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    parser.add_argument(
        "--skip-errors", action="store_true", help="leave out what is at fault; else an error stops before writing"
    )
    parser.set_defaults(pictures="link")


def run(arguments: argparse.Namespace) -> int | None:
    """Convert, and say what was written, what was lost and how to train on it; exit code 2 for errors in the source."""
    from effdense.data.writing.convert import convert_dataset

    options = {}
    if arguments.difficult is not None:
        options["difficult"] = arguments.difficult
    if arguments.background is not None:
        options["background"] = _listed(arguments.background)
    classes = None if arguments.classes is None else _listed(arguments.classes)
    if classes == []:
        raise ConfigError("--classes names no class; give names separated by commas, or leave it out for all.")
    done = convert_dataset(
        arguments.source,
        arguments.out,
        arguments.to,
        source_format=arguments.source_format,
        splits=arguments.split,
        classes=classes,
        pictures=arguments.pictures,
        polygons=arguments.polygons,
        overwrite=arguments.overwrite,
        skip_errors=arguments.skip_errors,
        **options,
    )
    print(f"{done.source.root} ({done.source.format}) -> {done.out} ({done.format})")
    for finding in [*done.report.errors, *done.report.warnings, *done.report.notes]:
        left = " Left out." if finding.severity == "error" else ""
        print(f"  {finding.severity} {finding}{left}")
    for part in done.splits:
        print(part)
    for note in done.notes:
        print(f"note: {note}")
    print(f"\nTo train on it, in a config:\n\n{done.config()}")
    return 0


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
