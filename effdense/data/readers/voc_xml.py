"""One Pascal VOC annotation: XML in, picture name, size and objects out. No document type, no entities, 16 MB at most.

Coordinates come as they are written; what they count from is for ``voc_detection.py`` to say.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from effdense.errors import DataError

MAX_BYTES = 16 << 20
_FORBIDDEN = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """One object; ``fault`` is (code, words) where it cannot be used, the box then all zero."""

    name: str
    box: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax as written
    difficult: bool
    crowd: bool = False  # <iscrowd>1</iscrowd>, which effdense convert writes
    fault: tuple[str, str] | None = None


@dataclass(frozen=True)
class VocFile:
    """What a file says.

    Attributes:
        file_name: without its folders; "" where the file has none.
        size: (height, width) px, None where it is absent or zero.
        one_based: written by the organisers of the challenge, whose pixels count from 1, both ends inclusive.
    """

    file_name: str
    size: tuple[int, int] | None
    one_based: bool
    objects: tuple[VocObject, ...]


class _Builder(ET.TreeBuilder):
    """A tree builder that refuses document types, in any encoding."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Called by the parser at ``<!DOCTYPE``."""
        raise DataError("it has a document type (<!DOCTYPE>), which is not read for safety; remove that.")


def read_voc_xml(path: Path) -> VocFile:
    """Read one file. Raises: DataError, without the path, for a missing, unsafe or broken one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"it is larger than {MAX_BYTES >> 20} MB.")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"it cannot be read ({error.strerror or error}).") from error
    if not data.strip():
        raise DataError("it is empty.")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace")
    else:
        text = data.decode("utf-8", "replace")
    if _FORBIDDEN.search(text):
        raise DataError("it has a document type or entities (<!DOCTYPE>, <!ENTITY>), which are not read for safety.")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = _DECLARATION.sub("", text).encode("utf-8")
    try:
        root = ET.fromstring(data, ET.XMLParser(target=_Builder()))
    except ET.ParseError as error:
        raise DataError(f"it is not valid XML ({error}); it may be cut short.") from error
    except (ValueError, LookupError) as error:  # an encoding that there is not
        raise DataError(str(error)) from error
    if root.tag != "annotation":
        raise DataError(f"it is not a VOC annotation: expected <annotation>, got <{root.tag:.40}>.")
    name = re.split(r"[/\\]", _text(root, "filename"))[-1]
    database = _text(root, "source/database")
    return VocFile(name, _size(root), database.startswith("The VOC"), tuple(map(_object, root.findall("object"))))


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _size(root: ET.Element) -> tuple[int, int] | None:
    try:
        height, width = (float(_text(root, f"size/{side}")) for side in ("height", "width"))
    except ValueError:
        return None
    if not (1 <= height < 1e6 and 1 <= width < 1e6 and height == int(height) and width == int(width)):
        return None
    return int(height), int(width)


def _object(element: ET.Element) -> VocObject:
    """An ``<object>``; its ``<part>`` elements have boxes of their own and are passed over."""
    name = _text(element, "name")
    difficult = _text(element, "difficult") in ("1", "true", "True")
    crowd = _text(element, "iscrowd") == "1"
    nothing = (0.0, 0.0, 0.0, 0.0)
    if not name:
        return VocObject(name, nothing, difficult, crowd, ("missing-name", "no <name>"))
    box = element.find("bndbox")
    if box is None:
        turned = " but a rotated box" if element.find("robndbox") is not None else ""
        return VocObject(name, nothing, difficult, crowd, ("bad-bbox", f"no <bndbox>{turned}"))
    written = [_text(box, corner) for corner in CORNERS]
    try:
        corners = [float(value) for value in written]
    except ValueError:
        found = ", ".join(f"{corner}={value!r:.20}" for corner, value in zip(CORNERS, written, strict=True))
        return VocObject(name, nothing, difficult, crowd, ("bad-bbox", found))
    if not all(math.isfinite(value) and abs(value) < 1e9 for value in corners):
        return VocObject(name, nothing, difficult, crowd, ("non-finite-bbox", " ".join(written)))
    return VocObject(name, (corners[0], corners[1], corners[2], corners[3]), difficult, crowd)
