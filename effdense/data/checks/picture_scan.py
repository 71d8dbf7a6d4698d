"""Picture files looked at once each: path in; header, fault, kind, content hash and a tiny grey copy out.

One read of a file serves everything: its head, its end, the hash of its bytes, a decode (of JPEG at 1/8 scale, which
still walks through every coded byte, so what is cut short is found), and the look that near duplicates share.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdense.data.checks.check import DataReport, Severity
from effdense.data.image_io import (
    TAIL_BYTES,
    ImageFault,
    ImageHeader,
    inspect_file,
    looks_complete,
    open_file,
    read_header,
)
from effdense.errors import ConfigError, DataError

THUMB = 16  # px per side of the grey copy
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png", ".apng"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
}
# Code -> (severity, what it means for training and what to do).
KINDS: dict[str, tuple[Severity, str]] = {
    "grey-picture": ("note", "pictures are grey; read as RGB of three equal channels. Nothing to do."),
    "palette-picture": ("note", "pictures have a palette; read as the RGB it stands for. Nothing to do."),
    "alpha-channel": ("note", "pictures have an alpha channel that is opaque; it is dropped. Nothing to do."),
    "transparent-picture": (
        "warning",
        "pictures have transparent pixels; alpha is dropped, so the colours beneath appear. Save them on the "
        "background that you mean.",
    ),
    "cmyk-picture": (
        "warning",
        "pictures have print colours (CMYK), converted to RGB without a colour profile. Save them as RGB.",
    ),
    "16-bit-picture": (
        "warning",
        "pictures have 16 bits per channel, of which the high byte is kept: what uses 12 bits turns nearly black. Save "
        "them as 8 bit with the contrast that you want.",
    ),
    "float-picture": (
        "warning",
        "pictures hold 32-bit numbers and are cut to 0..255. Save them as 8 bit with the contrast that you want.",
    ),
    "animated-picture": ("warning", "pictures have several frames; the first is read. Save the frames that you mean."),
    "wrong-extension": (
        "note",
        "files are of another format than their name says; read by their content. Rename them.",
    ),
}


class PictureFacts(NamedTuple):
    """What one look at a file found.

    ``fault`` is set where the file cannot be used, and ``header`` where it can. ``kinds`` are keys of :data:`KINDS`,
    each with a word about this file. ``digest`` is the hash of the file's bytes; ``thumb`` (16, 16) uint8 grey; both
    None where they were not asked for.
    """

    size: int = 0  # bytes
    fault: ImageFault | None = None
    header: ImageHeader | None = None
    kinds: tuple[tuple[str, str], ...] = ()
    digest: bytes | None = None
    thumb: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class ScanOptions:
    """How closely files are looked at.

    Args:
        decode: decode pictures. hash: hash the bytes, of decoded pictures also the look.
        workers: threads; None: one per core, 16 at most.
    """

    decode: bool = True
    hash: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}.")


def spread(total: int, wanted: int | str) -> NDArray[np.int64]:
    """Positions of ``wanted`` items ("all" or a number) spread evenly over ``total``."""
    number = total if wanted == "all" else min(int(wanted), total)
    return np.linspace(0, total - 1, number).round().astype(np.int64)


def checked_number(value: Any, name: str) -> int | str:
    """A number >= 0 or "all". Raises: ConfigError."""
    if value != "all" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ConfigError(f"{name} must be a number of pictures >= 0 or 'all', got {value!r}.")
    return cast("int | str", value)


def scan_pictures(
    paths: Sequence[Path],
    *,
    decode: int | str = "all",
    hash: bool = True,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[PictureFacts]:
    """Facts of each file, in order.

    Args:
        decode: how many to decode, spread over the list; the others are judged by head and tail.
        progress: called with the number of files done so far.

    Raises: ConfigError for an unusable option.
    """
    options = ScanOptions(workers=workers)
    full = set(spread(len(paths), checked_number(decode, "decode")).tolist())

    def one(index: int) -> PictureFacts:
        return scan_file(paths[index], decode=index in full, hash=hash)

    facts = []
    with ThreadPoolExecutor(options.workers or min(16, os.cpu_count() or 1)) as pool:
        for done, found in enumerate(pool.map(one, range(len(paths))), 1):
            facts.append(found)
            if progress is not None and (done % 64 == 0 or done == len(paths)):
                progress(done)
    return facts


def scan_file(path: Path, *, decode: bool = True, hash: bool = True) -> PictureFacts:
    """Facts of one file; see :func:`scan_pictures`."""
    if not decode:
        header = inspect_file(path)
        if isinstance(header, ImageFault):
            return PictureFacts(fault=_cut_head(header, path))
        try:
            with open_file(path) as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(0)
                return PictureFacts(size, None, header, _kinds_of(stream, path))
        except (OSError, DataError) as error:
            return PictureFacts(fault=ImageFault("unreadable-image", f"the file cannot be read ({error})."))
    try:
        with open_file(path) as stream:
            data = stream.read()
    except FileNotFoundError:
        return PictureFacts(fault=ImageFault("missing-image", "the file does not exist."))
    except (OSError, DataError) as error:
        return PictureFacts(fault=ImageFault("unreadable-image", f"the file cannot be read ({error})."))
    header = read_header(io.BytesIO(data))
    if isinstance(header, ImageFault):
        return PictureFacts(len(data), _cut_head(header, path))
    digest = hashlib.blake2b(data, digest_size=16).digest() if hash else None
    try:
        with Image.open(io.BytesIO(data)) as image:
            kinds = _kinds(image, path.suffix)
            thumb, more = _decode(image)
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error on damaged files
        short = "truncated" in str(error).lower() or not looks_complete(header, data[-TAIL_BYTES:])
        code = "truncated-image" if short else "unreadable-image"
        reason = f"the picture cannot be decoded ({error}); the file is cut short or damaged."
        return PictureFacts(len(data), ImageFault(code, reason))
    kinds = tuple((more if code == "alpha-channel" and more else code, word) for code, word in kinds)
    return PictureFacts(len(data), None, header, kinds, digest, thumb if hash else None)


def _cut_head(fault: ImageFault, path: Path) -> ImageFault:
    """A file that starts as JPEG or PNG and ends before its size was said is cut short, not "no picture"."""
    if fault.code not in ("not-an-image", "unreadable-image"):
        return fault
    try:
        with open_file(path) as stream:
            start = stream.read(8)
    except (OSError, DataError):
        return fault
    name = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    return fault if name is None else ImageFault("truncated-image", f"a {name} file that ends within its header.")


def _kinds_of(stream: BinaryIO, path: Path) -> tuple[tuple[str, str], ...]:
    try:
        with Image.open(stream) as image:
            return _kinds(image, path.suffix)
    except Exception:  # the header was read before; what is odd behind it shows where the picture is decoded
        return ()


def _kinds(image: Image.Image, suffix: str) -> tuple[tuple[str, str], ...]:
    """What is special in an opened picture: one code for its pixels, and those of the file."""
    mode, form = image.mode, image.format or ""
    tiles = getattr(image, "tile", None) or []
    raw = str(tiles[0][3]) if tiles else ""
    found: list[tuple[str, str]] = []
    if mode == "CMYK":
        found.append(("cmyk-picture", ""))
    elif mode.startswith("I;16") or mode == "I" or "16" in raw:
        found.append(("16-bit-picture", mode))
    elif mode == "F":
        found.append(("float-picture", mode))
    elif mode in ("RGBA", "LA", "PA", "RGBa", "La") or (mode in ("P", "RGB", "L") and "transparency" in image.info):
        if form != "GIF":
            found.append(("alpha-channel", mode))
    elif mode == "P" and form != "GIF":
        found.append(("palette-picture", ""))
    elif mode in ("L", "1"):
        found.append(("grey-picture", ""))
    if form != "MPO" and getattr(image, "is_animated", False):
        found.append(("animated-picture", f"{getattr(image, 'n_frames', 2)} frames"))
    if form in _SUFFIXES and suffix.lower() not in _SUFFIXES[form]:
        found.append(("wrong-extension", f"a {'JPEG' if form == 'MPO' else form} file"))
    return tuple(found)


def _decode(image: Image.Image) -> tuple[NDArray[np.uint8] | None, str]:
    """Decode; the (16, 16) grey copy and "transparent-picture" where there is such a pixel."""
    image.draft("L", (8 * THUMB, 8 * THUMB))
    image.load()
    transparent = ""
    if image.mode in ("RGBA", "LA", "PA", "P") and (image.mode != "P" or "transparency" in image.info):
        alpha = cast("tuple[float, float]", image.convert("RGBA").getchannel("A").getextrema())
        transparent = "transparent-picture" if alpha[0] < 255 else ""
    if image.mode == "F":
        return None, transparent
    if image.mode.startswith("I"):
        high = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        grey = Image.fromarray(high)
    else:
        grey = image.convert("L")
    return np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX), np.uint8), transparent


def add_kinds(report: DataReport, facts: Sequence[PictureFacts], places: Sequence[str]) -> None:
    """Findings about grey, transparent, 16-bit ... pictures."""
    for code, (severity, message) in KINDS.items():
        where = [
            f"{place}, {word}" if word else place
            for place, found in zip(places, facts, strict=True)
            for kind, word in found.kinds
            if kind == code
        ]
        report.add(severity, code, message, where)
