"""Picture files in and out: any common format becomes uint8 (H, W, 3) RGB, or an error that names file and reason.

OpenCV decodes (the fastest decoder at hand, about 2 ms per COCO picture); Pillow reads the header first, so that a bomb
is refused before memory is spent, and decodes strictly what OpenCV refuses or a missing end marker makes doubtful.
"""

from __future__ import annotations

import io
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from effdense.data.storage.shards import open_member, read_member
from effdense.data.transforms.pending import shrunk
from effdense.errors import DataError

if "OPENCV_LOG_LEVEL" not in os.environ:
    # OpenCV writes its own warnings to stderr from worker processes; every fault it sees is raised as DataError here.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# Pillow's own hard limit (twice Image.MAX_IMAGE_PIXELS): 0.5 GB once decoded to RGB.
MAX_PIXELS = 178_956_970
TAIL_BYTES = 4096
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_ORIENTATION_TAG = 0x0112  # EXIF 2.32 section 4.6.4 A


class ImageFault(NamedTuple):
    """What is wrong with a file: a short code for reports and a reason that completes 'PATH: ...'."""

    code: str
    reason: str


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about itself before any pixel is decoded; ``size`` is (height, width) as stored."""

    format: str
    size: tuple[int, int]
    orientation: int  # EXIF 1..8, 1 = as stored

    @property
    def oriented_size(self) -> tuple[int, int]:
        """(height, width) as the picture is meant to be seen."""
        return self.size if self.orientation < 5 else (self.size[1], self.size[0])


def read_header(stream: BinaryIO, *, max_pixels: int = MAX_PIXELS) -> ImageHeader | ImageFault:
    """Read format, size and orientation lazily; no pixel is decoded."""
    try:
        with Image.open(stream) as image:
            width, height = image.size
            if width * height > max_pixels:
                return ImageFault("too-large", f"{width}x{height} pixels are more than the limit of {max_pixels}.")
            return ImageHeader(image.format or "", (height, width), _orientation(image))
    except Image.DecompressionBombError as error:
        return ImageFault("too-large", f"{error}")
    except UnidentifiedImageError:
        stream.seek(0)
        start = stream.read(8)
        if not start:
            return ImageFault("empty-file", "the file is empty (0 bytes).")
        return ImageFault("not-an-image", f"not a picture in a known format (it starts with {start!r}).")
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error on broken headers.
        return ImageFault("unreadable-image", f"its header cannot be read ({type(error).__name__}: {error}).")


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # OpenCV and Pillow both turn TIFF pixels while decoding
    raw = image.info.get("exif")  # image.getexif() would decode a whole PNG to look behind its pixels
    if not raw:
        return 1
    exif = Image.Exif()
    try:
        exif.load(raw)
        value = exif.get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block must not cost the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def looks_complete(header: ImageHeader, tail: bytes) -> bool:
    """False when a JPEG or PNG lacks its end marker in its last bytes: cut short, or with foreign data behind it."""
    marker = _END_MARKERS.get(header.format)
    return marker is None or marker in tail


def inspect_file(path: Path, *, max_pixels: int = MAX_PIXELS) -> ImageHeader | ImageFault:
    """Header of a file, or its fault, from a few kB; only a file without end marker is decoded to be sure."""
    try:
        with open_file(path) as stream:
            header = read_header(stream, max_pixels=max_pixels)
            if isinstance(header, ImageFault):
                return header
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL_BYTES))
            if looks_complete(header, stream.read()):
                return header
            stream.seek(0)
            pixels = _decode_strictly(stream)
    except FileNotFoundError:
        return ImageFault("missing-image", "the file does not exist.")
    except OSError as error:
        return ImageFault("unreadable-image", f"the file cannot be read ({error}).")
    except DataError as error:  # of a shard
        return ImageFault("unreadable-image", str(error).removeprefix(f"{path}: "))
    return pixels if isinstance(pixels, ImageFault) else header


def _decode_strictly(stream: BinaryIO) -> NDArray[np.uint8] | ImageFault:
    try:
        with Image.open(stream) as image:
            image.load()
            if image.mode.startswith(("I;16", "I")):  # 16-bit grey: the high byte, as OpenCV does
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.ascontiguousarray(image.convert("RGB"))
    except Exception as error:
        code = "truncated-image" if "truncated" in str(error).lower() else "unreadable-image"
        return ImageFault(code, f"the picture cannot be decoded ({error}); the file is cut short or damaged.")


def read_image(
    path: str | Path,
    *,
    expected_size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    data: bytes | NDArray[np.uint8] | None = None,
    reduce: int = 1,
) -> NDArray[np.uint8]:
    """Read a picture as uint8 (H, W, 3) RGB, contiguous.

    Grey is repeated, alpha dropped, 16 bit cut to its high byte, CMYK converted, EXIF orientation applied - unless
    only the unturned size is ``expected_size``: then the annotation was made on the stored pixels and they are kept.

    Args:
        path: picture file.
        expected_size: (height, width) from the annotation, if known.
        max_pixels: refuse larger pictures before decoding; Pillow's ``Image.MAX_IMAGE_PIXELS`` holds besides.
        data: the file's bytes, or its (H, W, 3) pixels, where a store has them; ``path`` is then a name for messages.
        reduce: 2, 4 or 8 divides each side (rounded up); a JPEG is decoded at that size (libjpeg's DCT scaling), other
            pictures are averaged.

    Raises:
        DataError: missing, not a picture, cut short, or too large; names path and reason.
    """
    path = Path(path)
    if isinstance(data, np.ndarray):
        return data.copy() if reduce == 1 else shrunk(data, reduce)
    data = read_bytes(path) if data is None else data
    header = read_header(io.BytesIO(data), max_pixels=max_pixels)
    if isinstance(header, ImageFault):
        raise DataError(f"{path.absolute()}: {header.reason}")
    as_stored = header.orientation == 1 or (expected_size == header.size and expected_size != header.oriented_size)
    pixels: NDArray[np.uint8] | ImageFault | None = None
    if looks_complete(header, data[-TAIL_BYTES:]):
        if reduce > 1 and as_stored and header.format == "JPEG":
            pixels = _decode_fast(data, reduce)
            if pixels is not None:
                return pixels
        pixels = _decode_fast(data)
    if pixels is None:
        pixels = _decode_strictly(io.BytesIO(data))
    if isinstance(pixels, ImageFault):
        raise DataError(f"{path.absolute()}: {pixels.reason}")
    return shrunk(pixels if as_stored else _turn(pixels, header.orientation), reduce)


def read_bytes(path: Path) -> bytes:
    """Content of a file, or of a member of a shard; DataError with path and reason where it cannot be read."""
    try:
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            member = read_member(path)
            if member is None:
                raise
            return member
    except FileNotFoundError:
        raise DataError(f"{path.absolute()}: the file does not exist.") from None
    except OSError as error:
        raise DataError(f"{path.absolute()}: the file cannot be read ({error}).") from error


def open_file(path: Path) -> BinaryIO:
    """A file, or a member of a shard, for reading. Raises: OSError, DataError."""
    try:
        if path.is_fifo():  # opening one waits for a writer, for ever
            raise OSError("it is a named pipe")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        member = open_member(path)
        if member is None:
            raise
        return member


_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def _decode_fast(data: bytes, reduce: int = 1) -> NDArray[np.uint8] | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if image is None:
        return None
    return cast(NDArray[np.uint8], cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image))


class PictureStore(Protocol):
    """Where the bytes of a split's pictures come from: files, memory, a cache, shards."""

    def read(self, index: int, path: Path) -> bytes | NDArray[np.uint8]:
        """The encoded picture of record ``index``, or its decoded (H, W, 3) RGB pixels, which nobody may change."""
        ...


@dataclass(frozen=True, eq=False)
class PictureFile:
    """A picture to be decoded, of a size that is known before.

    Attributes:
        path: file. size: (height, width) that its annotation says. mismatch: completes "PATH: the picture is WxH but"
            where it is of another.
        index, store: record number, and what has its bytes; None reads the file.
    """

    path: Path
    size: tuple[int, int]
    mismatch: str
    index: int = 0
    store: PictureStore | None = None

    def read(self, reduce: int) -> NDArray[np.uint8]:
        """The picture, each side divided by ``reduce`` and rounded up.

        Raises:
            DataError: see :func:`read_image`, or another size.
        """
        data = None if self.store is None else self.store.read(self.index, self.path)
        image = read_image(self.path, expected_size=self.size, data=data, reduce=reduce)
        expected = (-(-self.size[0] // reduce), -(-self.size[1] // reduce))
        if image.shape[:2] != expected:
            if reduce > 1:
                return shrunk(self.read(1), reduce)  # which says what is wrong
            raise DataError(f"{self.path}: the picture is {image.shape[1]}x{image.shape[0]} but {self.mismatch}")
        return image


def _turn(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation: 2 mirrored, 3 half turn, 4 flipped, 5 transposed, 6, 8 quarter turns, 7 transverse."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


@dataclass(frozen=True, eq=False)
class PictureData:
    """A picture whose bytes are here, its pixels not yet; ``size`` is (height, width) as it is meant to be seen."""

    path: Path
    data: bytes
    size: tuple[int, int]

    @classmethod
    def of(cls, path: Path, data: bytes) -> PictureData:
        """Read the header; DataError with path and reason where there is none."""
        header = read_header(io.BytesIO(data))
        if isinstance(header, ImageFault):
            raise DataError(f"{path.absolute()}: {header.reason}")
        return cls(path, data, header.oriented_size)

    def read(self, reduce: int) -> NDArray[np.uint8]:
        """The picture, each side divided by ``reduce`` and rounded up; DataError where it cannot be decoded."""
        return read_image(self.path, data=self.data, reduce=reduce)


def write_bytes_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the whole new one, never a part."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _encode(path: str | Path, image: NDArray[np.uint8], suffix: str, options: list[int]) -> None:
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise DataError(f"{path}: expected uint8 (H, W) or (H, W, 3) RGB to write, got {image.dtype} {image.shape}.")
    done, encoded = cv2.imencode(suffix, image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise DataError(f"{path}: the picture of shape {image.shape} cannot be written as {suffix}.")
    write_bytes_atomically(path, encoded.tobytes())


def write_jpeg(path: str | Path, image: NDArray[np.uint8], *, quality: int = 92) -> None:
    """Write uint8 (H, W, 3) RGB or (H, W) grey as JPEG, atomically."""
    _encode(path, image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def write_png(path: str | Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W, 3) RGB or (H, W) grey or label map as PNG, losslessly and atomically."""
    _encode(path, image, ".png", [])
