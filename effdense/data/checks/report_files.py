"""Where a check writes: ``data_report.json`` and pictures of the labels, never over files that are not its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from effdense.data.checks.dataset_check import DatasetReport
from effdense.data.checks.report_text import KIND, report_content
from effdense.data.image_io import write_bytes_atomically
from effdense.errors import ConfigError

REPORT_NAME = "data_report.json"
COMPARISON_NAME = "labels_compared.png"
_PICTURE = re.compile(r"labels_[A-Za-z0-9._-]+\.png")


def picture_name(split: str) -> str:
    """File name of a split's picture."""
    return f"labels_{re.sub(r'[^A-Za-z0-9._-]+', '_', split)}.png"


def planned_files(splits: list[str]) -> list[str]:
    """Names of the files that a check of these splits writes."""
    return [REPORT_NAME, *dict.fromkeys(picture_name(split) for split in splits), COMPARISON_NAME]


def claim_folder(out: Path, splits: list[str]) -> None:
    """Make sure that writing to ``out`` will not touch what somebody else put there.

    Raises: ConfigError naming the file in the way.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a folder.")
    own = _own_files(out)
    foreign = [name for name in planned_files(splits) if (out / name).exists() and name not in own]
    if foreign:
        raise ConfigError(
            f"--out {out} holds {foreign[0]!r}, which no check of ours wrote there; it is not overwritten. Give "
            "another folder with --out, or move the file away."
        )


def _own_files(out: Path) -> set[str]:
    """Names that an earlier report in the folder lists as written with it."""
    try:
        content: Any = json.loads((out / REPORT_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    if not isinstance(content, dict) or content.get("kind") != KIND:
        return set()
    files = content.get("files")
    return {REPORT_NAME, *(str(name) for name in files)} if isinstance(files, list) else {REPORT_NAME}


def write_report(report: DatasetReport, out: Path, *, max_examples: int, pictures: bool = True) -> list[Path]:
    """Write the report and its pictures; the paths, the report first.

    Args:
        max_examples: places of each finding in the JSON. pictures: draw them.
    """
    out.mkdir(parents=True, exist_ok=True)
    earlier = _own_files(out)
    drawn = _draw(report) if pictures else {}
    content = report_content(report, max_examples=max_examples)
    content["files"] = sorted(drawn)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    # First the report that lists the pictures: were it last, a broken-off run would leave pictures that look foreign.
    # Bytes of file names that are no UTF-8 become the escapes that JSON has for them.
    write_bytes_atomically(out / REPORT_NAME, (text + "\n").encode("utf-8", "backslashreplace"))
    for name, data in drawn.items():
        write_bytes_atomically(out / name, data)
    for name in earlier - drawn.keys():  # of a check before: they would show other data
        if _PICTURE.fullmatch(name):
            (out / name).unlink(missing_ok=True)
    return [out / REPORT_NAME, *(out / name for name in drawn)]


def _draw(report: DatasetReport) -> dict[str, bytes]:
    from effdense.visualize.label_plots import draw_comparison, draw_labels  # matplotlib takes a second to load

    full = {split.name: split.statistics for split in report.splits if split.statistics is not None}
    drawn = {picture_name(name): draw_labels(name, statistics) for name, statistics in full.items()}
    if len(full) > 1 and len({(one.names, one.category_ids, one.unit) for one in full.values()}) == 1:
        drawn[COMPARISON_NAME] = draw_comparison(full)
    return drawn
