"""What the pixels of mask files stand for: files in, labels (H, W) uint8 out: 0..K-1, and 255 for what does not count.

Three kinds of mask: one 8-bit number per pixel (grey or palette image), one colour per class, and COCO's panoptic form,
where a colour is a segment of the picture and a JSON file says the segment's class. A colour is handled as one number,
R + 256 G + 65536 B, which is how COCO writes segment ids. Symbols: K classes, S segments of a picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdense.data.records import Color
from effdense.data.storage.shards import read_member
from effdense.errors import DataError

IGNORE = 255
# Pillow's modes of one 8-bit number per pixel; "1" is black and white.
INDEX_MODES = ("L", "P", "1")
COLOR_MODES = ("RGB", "RGBA")
MAX_COLORS = 254  # labels of colours; two numbers are needed for "ignore" and "unknown"
_MODE_HINTS = {
    "LA": "grey with transparency: save it without the alpha channel",
    "PA": "a palette image with transparency: save it without the alpha channel",
    "I;16": "16-bit: save it as 8-bit grey, one class number per pixel",
    "I;16B": "16-bit: save it as 8-bit grey, one class number per pixel",
    "I": "16- or 32-bit: save it as 8-bit grey, one class number per pixel",
    "F": "floating point: save it as 8-bit grey, one class number per pixel",
    "CMYK": "four print colours: write the class number of each colour into an 8-bit grey PNG",
}


class MaskKindError(DataError):
    """A mask file is of a kind that cannot be read; ``kind`` completes "the mask is ..."."""

    def __init__(self, kind: str, path: str | Path | None = None) -> None:
        super().__init__(f"the mask is {kind}." if path is None else f"{path}: the mask is {kind}.")
        self.kind = kind


@dataclass(frozen=True)
class MaskCoding:
    """How pixels of mask files become labels; the same for all files of a split.

    Args:
        values: number of label i in masks of one number per pixel.
        ignore_values: numbers that are no class; none where every number must be one.
        colors: RGB of label i in masks of colours; None: such masks are refused.
        ignore_colors: colours that are no class.
        by_color: read grey and palette files by their colours, too.
    """

    values: tuple[int, ...]
    ignore_values: tuple[int, ...] = (IGNORE,)
    colors: tuple[Color, ...] | None = None
    ignore_colors: tuple[Color, ...] = ()
    by_color: bool = False

    @property
    def ignore_index(self) -> int | None:
        """The first of ``ignore_values``."""
        return self.ignore_values[0] if self.ignore_values else None

    def reads_colors(self, mode: str) -> bool:
        """Whether a file of this Pillow mode is read by its colours.

        Raises: MaskKindError where it cannot be read at all.
        """
        if mode in INDEX_MODES:
            return self.by_color
        if mode in COLOR_MODES and self.colors is not None:
            return True
        raise MaskKindError(f"{mode} ({_hint(mode)})")


@dataclass(frozen=True, eq=False)
class SegmentTable:
    """Classes of the segments of all pictures, packed: those of picture i are rows ``offsets[i]:offsets[i + 1]``."""

    offsets: NDArray[np.int64] = field(repr=False)  # (N + 1,)
    ids: NDArray[np.int32] = field(repr=False)  # R + 256 G + 65536 B of each segment
    labels: NDArray[np.uint8] = field(repr=False)  # 0..K-1, 255 = ignore

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """(ids, labels) of one picture, (S,) each."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.ids[rows], self.labels[rows]

    def subset(self, indices: Sequence[int]) -> SegmentTable:
        """Those of these pictures, in this order."""
        parts = [self.of(index) for index in indices]
        return SegmentTable(
            np.concatenate([[0], np.cumsum([len(ids) for ids, _ in parts])]).astype(np.int64),
            np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in parts)]).astype(np.int32),
            np.concatenate([np.zeros(0, np.uint8), *(labels for _, labels in parts)]).astype(np.uint8),
        )


class MaskPixels(NamedTuple):
    """A mask read: labels (H, W) uint8, 255 = ignore, and the pixels of each value (or colour code) that is none."""

    labels: NDArray[np.uint8]
    unknown: dict[int, int]
    is_color: bool


def read_labels(
    path: str | Path, coding: MaskCoding, segments: tuple[Any, Any] | None = None, *, data: bytes | None = None
) -> MaskPixels:
    """Read a mask file.

    Args:
        segments: (ids, labels) of the picture's segments: the file is a panoptic one.
        data: the file's bytes where a store has them.

    Raises: DataError for a missing or broken file, and one of a kind that ``coding`` does not cover.
    """
    with open_mask(path, data) as image:
        return labels_of(image, coding, segments)


def labels_of(image: Image.Image, coding: MaskCoding, segments: tuple[Any, Any] | None = None) -> MaskPixels:
    """Labels of an opened mask, see :func:`read_labels`."""
    if segments is not None:
        if image.mode not in COLOR_MODES:
            raise MaskKindError(f"{image.mode}, and a panoptic mask is RGB (R + 256 G + 65536 B is the segment's id)")
        return _look_up(color_codes(image), *segments, ignored=(0,))
    if coding.reads_colors(image.mode):
        assert coding.colors is not None
        codes = [color_code(color) for color in coding.colors]
        return _look_up(
            color_codes(image), codes, range(len(codes)), ignored=[color_code(c) for c in coding.ignore_colors]
        )
    indices = index_pixels(image, coding.values)
    labels, known = index_tables(coding.values, coding.ignore_values)
    unknown = {}
    if not cv2.LUT(indices, known).all():
        values, counts = np.unique(indices[known[indices] == 0], return_counts=True)
        unknown = dict(zip(values.tolist(), counts.tolist()))
    return MaskPixels(np.asarray(cv2.LUT(indices, labels), np.uint8), unknown, False)


class open_mask:
    """``with open_mask(path) as image``: a Pillow image; whatever goes wrong in the block names the file.

    Raises: DataError.
    """

    def __init__(self, path: str | Path, data: bytes | None = None) -> None:
        self.path = path
        self.data = data

    def __enter__(self) -> Image.Image:
        try:
            self.image = self._open()
        except DataError:  # of a shard
            raise
        except Exception as error:
            raise self._named(error) from error
        return self.image

    def _open(self) -> Image.Image:
        """Of a file, of its bytes, or of a member of a shard."""
        if self.data is not None:
            return Image.open(io.BytesIO(self.data))
        try:
            return Image.open(self.path)
        except (FileNotFoundError, NotADirectoryError):
            member = read_member(Path(self.path))
            if member is None:
                raise
            return Image.open(io.BytesIO(member))

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.image.close()
        if isinstance(error, Exception):
            raise self._named(error) from error

    def _named(self, error: Exception) -> DataError:
        if isinstance(error, FileNotFoundError):
            return DataError(f"{self.path}: the mask file does not exist.")
        if isinstance(error, MaskKindError):
            return MaskKindError(error.kind, self.path)
        return DataError(f"{self.path}: the mask cannot be read ({error}); the file is cut short or damaged.")


def read_index_image(path: str | Path) -> NDArray[np.uint8]:
    """A mask file as (H, W) uint8: the numbers in it, of a palette image the indices.

    Raises: DataError for a missing or broken file, and one that is not 8-bit with one number per pixel.
    """
    with open_mask(path) as image:
        if image.mode not in INDEX_MODES:
            raise MaskKindError(f"not 8-bit with one number per pixel, but {image.mode} ({_hint(image.mode)})")
        return index_pixels(image, ())


def index_pixels(image: Image.Image, values: Sequence[int]) -> NDArray[np.uint8]:
    """(H, W) uint8 numbers of a grey or palette image.

    White of a black-and-white file is 255 where ``values`` have that and no 1, else 1. Pillow stretches grey of 2 and
    4 bits to 0..255; that is undone.
    """
    if (fast := _decode_grey(image)) is not None:
        return fast
    tiles = getattr(image, "tile", None)  # before decoding: what the pixels are in the file
    raw = tiles[0][3] if tiles else ""
    pixels = np.array(image, np.uint8)
    if image.mode == "1" and IGNORE in values and 1 not in values:
        return pixels * np.uint8(255)
    if image.mode == "L" and raw in ("L;2", "L;4"):
        return pixels // np.uint8(85 if raw == "L;2" else 17)
    return pixels


def _decode_grey(image: Image.Image) -> NDArray[np.uint8] | None:
    """Pixels of an 8-bit grey PNG by OpenCV, which lets other threads run meanwhile; None for anything else."""
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or not tiles or tiles[0][3] != "L" or "transparency" in image.info:
        return None
    path, stream = getattr(image, "filename", ""), getattr(image, "fp", None)
    if path:
        encoded = np.fromfile(path, np.uint8)
    elif isinstance(stream, io.BytesIO):
        encoded = np.frombuffer(stream.getvalue(), np.uint8)
    else:
        return None
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    fits = pixels is not None and pixels.dtype == np.uint8 and pixels.shape == (image.size[1], image.size[0])
    return cast(NDArray[np.uint8], pixels) if fits else None


def value_counts(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256,) pixels per value."""
    if pixels.size < 1 << 24:  # calcHist counts in float32; it lets other threads run
        return cast(NDArray[np.int64], cv2.calcHist([pixels], [0], None, [256], [0, 256]).ravel().astype(np.int64))
    return np.bincount(pixels.ravel(), minlength=256)


def color_code(color: Sequence[int]) -> int:
    """R + 256 G + 65536 B."""
    return int(color[0]) | int(color[1]) << 8 | int(color[2]) << 16


def code_color(code: int) -> Color:
    """Inverse of :func:`color_code`."""
    return code & 255, code >> 8 & 255, code >> 16


def color_codes(image: Image.Image) -> NDArray[np.int32]:
    """(H, W) colour codes of an image. Raises: MaskKindError where it has pixels that are not opaque."""
    if image.mode == "RGBA":
        if np.asarray(image.getchannel("A")).min() < 255:
            raise MaskKindError(
                "RGBA with an alpha channel that is not 255 everywhere: where the mask is the alpha channel, save that "
                "as 8-bit grey; else save it without"
            )
    elif image.mode != "RGB":
        image.info.pop("transparency", None)
        image = image.convert("RGB")
    width, height = image.size
    raw = image.tobytes("raw", "RGBA" if image.mode == "RGBA" else "RGBX")
    return np.frombuffer(raw, "<i4").reshape(height, width) & 0xFFFFFF


def _look_up(codes: NDArray[np.int32], known: Any, labels: Any, *, ignored: Sequence[int]) -> MaskPixels:
    """Labels of colour codes, by a table over all 2^24 of them: calloc'ed, so only the touched pages cost memory."""
    table = np.zeros(1 << 24, np.uint8)  # 0 unknown, 255 ignore, else label + 1
    table[list(ignored)] = IGNORE
    numbers = np.asarray(labels, np.int64)
    table[np.asarray(known, np.int64)] = np.where(numbers == IGNORE, IGNORE, numbers + 1).astype(np.uint8)
    found = table[codes]
    unknown = {}
    if not found.all():
        values, counts = np.unique(codes[found == 0], return_counts=True)
        unknown = dict(zip(values.tolist(), counts.tolist()))
    return MaskPixels(np.asarray(cv2.LUT(found, _LABEL_OF), np.uint8), unknown, True)


_LABEL_OF = np.array([IGNORE, *range(254), IGNORE], np.uint8)


@lru_cache(maxsize=64)
def index_tables(
    values: tuple[int, ...], ignore_values: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tables over the 256 numbers of a mask file: its label (255 = ignore), and whether it is one or ignored."""
    labels, known = np.full(256, IGNORE, np.uint8), np.zeros(256, np.uint8)
    labels[list(values)] = np.arange(len(values))
    known[[*values, *ignore_values]] = 1
    return labels, known


def _hint(mode: str) -> str:
    if mode in COLOR_MODES:
        return (
            'colour-coded: give the colours of the classes as "palette" in the class file, each class its own, or '
            "write the class number of each colour into an 8-bit grey PNG"
        )
    return _MODE_HINTS.get(mode, "save it as 8-bit grey, one class number per pixel")
