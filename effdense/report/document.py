"""What a report is made of, before it is HTML or Markdown. All text is plain: whoever renders it escapes it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from effdense.errors import DataError


@dataclass(frozen=True)
class Paragraph:
    """A few sentences. ``kind``: "" plain, "note" small and grey, "key" what to read first, "warning"."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells that are text already; ``text_columns`` are left-aligned, the others are numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Picture:
    """A picture file: its bytes, its name in the folder of pictures, what it shows, and a line below."""

    name: str
    data: bytes
    alt: str
    caption: str = ""
    size: tuple[int, int] = (0, 0)  # height, width px
    wide: bool = False  # shown at its own size, in a box that scrolls

    @property
    def media_type(self) -> str:
        """For a data URI."""
        return "image/png" if self.name.endswith(".png") else "image/jpeg"


@dataclass(frozen=True)
class Gallery:
    """Several pictures in a grid."""

    pictures: Sequence[Picture]


Block = Paragraph | Table | Picture | Gallery


@dataclass(frozen=True)
class Section:
    """A heading and what follows."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report: title, facts for the head (name, value), sections."""

    title: str
    facts: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = field(default_factory=tuple)

    def pictures(self) -> list[Picture]:
        """All pictures, in order."""
        found: list[Picture] = []
        for section in self.sections:
            for block in section.blocks:
                found += [block] if isinstance(block, Picture) else []
                found += block.pictures if isinstance(block, Gallery) else []
        return found


def chart(name: str, image: np.ndarray, alt: str, caption: str = "", *, wide: bool = False) -> Picture:
    """A chart (uint8 (H, W, 3) RGB) as PNG."""
    return Picture(f"{name}.png", _encoded(image, ".png", []), alt, caption, image.shape[:2], wide)


def photo(name: str, image: np.ndarray, alt: str, caption: str = "") -> Picture:
    """A photograph (uint8 (H, W, 3) RGB) as JPEG, quality 85."""
    data = _encoded(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 85])
    return Picture(f"{name}.jpg", data, alt, caption, image.shape[:2])


def _encoded(image: np.ndarray, suffix: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), options)
    if not done:
        raise DataError(f"a picture of shape {image.shape} could not be encoded as {suffix}.")
    return data.tobytes()


def file_part(text: str, most: int = 60) -> str:
    """A part of a file name made of any text: letters, digits, dot, dash and underscore of ASCII, at least one."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")[:most] or "picture"


def without_controls(text: str) -> str:
    """Text without control characters and halves of surrogate pairs, which neither HTML nor UTF-8 can hold."""
    allowed = (c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in text)
    return "".join(c if fine else "\N{REPLACEMENT CHARACTER}" for c, fine in zip(text, allowed, strict=True))


def number(value: float | None, digits: int = 3) -> str:
    """A number for a cell; a dash where there was nothing to score (nan, None, or -1 as COCO has it)."""
    if value is None or math.isnan(value) or value == -1:
        return "–"
    return f"{value:.{digits}f}"
