"""A report on disk: report.html, report.md, metrics.json and pictures/, each written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effdense.data.image_io import write_bytes_atomically
from effdense.errors import ConfigError
from effdense.report.document import Document
from effdense.report.html import render_html
from effdense.report.markdown import render_markdown

FORMAT = "effdense-analysis/1"
PICTURES = "pictures"


def check_folder(out: Path) -> None:
    """Raise ConfigError where a report would be written among files that are not an older report's."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"the report needs a folder, but {out.absolute()} is a file; name another with --out.")
    if out.is_dir() and any(out.iterdir()) and _older(out) is None:
        raise ConfigError(
            f"{out.absolute()} holds files that are not a report of effdense analyze, and none is written over; name "
            "an empty or new folder with --out."
        )


def write_report(document: Document, numbers: Mapping[str, Any], out: Path) -> Path:
    """Write a report; an older one in that folder is replaced, its pictures go.

    Args:
        numbers: plain JSON (nan and infinite become null).

    Returns: the HTML file.
    Raises: ConfigError where the folder holds anything but an older report, or cannot be written to.
    """
    check_folder(out)
    try:
        _write(document, numbers, out)
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written to {out.absolute()}: {error}; name another folder with --out."
        ) from error
    return out / "report.html"


def _write(document: Document, numbers: Mapping[str, Any], out: Path) -> None:
    older = _older(out) or {}
    pictures = out / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    names = [picture.name for picture in document.pictures()]
    listed = older.get("pictures")
    for name in listed if isinstance(listed, list) else []:
        # Names come from a file: only plain names inside the folder are looked at.
        if isinstance(name, str) and Path(name).name == name and name not in names:
            (pictures / name).unlink(missing_ok=True)
    content = {"format": FORMAT, **_plain(numbers), "pictures": names}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    # First, since it marks the folder as a report's: one that was interrupted can be written again.
    write_bytes_atomically(out / "metrics.json", text.encode("utf-8", "replace"))
    for picture in document.pictures():
        write_bytes_atomically(pictures / picture.name, picture.data)
    write_bytes_atomically(out / "report.md", render_markdown(document, PICTURES).encode("utf-8", "replace"))
    write_bytes_atomically(out / "report.html", render_html(document).encode("utf-8", "replace"))


def _older(out: Path) -> dict[str, Any] | None:
    """metrics.json of the report in a folder, None where there is none."""
    try:
        content = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def _plain(value: Any) -> Any:
    """JSON has neither nan nor numpy."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
