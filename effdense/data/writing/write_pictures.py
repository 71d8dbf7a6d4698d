"""Pictures of a split into a new folder: hard links, copies or nothing, under names that no two pictures share.

A picture whose boxes were drawn on its unturned pixels, against its EXIF orientation, is copied with that orientation
taken out, so that every reader sees what the boxes fit.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from effdense.data.image_io import ImageHeader, write_bytes_atomically
from effdense.data.readers.splits import common_folder, read_headers
from effdense.data.records import DetectionRecords
from effdense.errors import DataError

Transfer = Literal["link", "copy", "none"]
_ORIENTATION = 0x0112  # EXIF 2.32 section 4.6.4 A


@dataclass
class Transferred:
    """How many pictures went which way."""

    linked: int = 0
    copied: int = 0
    unturned: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [
            f"{self.linked} pictures hard-linked" if self.linked else "",
            f"{self.copied} copied" if self.copied else "",
        ]
        return ", ".join(part for part in parts if part) or "no pictures written"


def picture_names(records: DetectionRecords) -> list[str]:
    """A relative name for every picture, with forward slashes; names without ending are unique, too.

    ``a.png`` beside ``a.jpg`` becomes ``a-png.png``: formats of one label file per picture tell them by the rest.
    """
    names = [records.names[i] for i in range(len(records))]
    if any(os.path.isabs(name) for name in names):
        base = common_folder([str(records.path(i).absolute()) for i in range(len(records))])
        names = [os.path.relpath(records.path(i).absolute(), base) for i in range(len(records))]
    names = [os.path.normpath(name).replace("\\", "/") for name in names]
    taken: set[str] = set()
    unique = []
    for name in names:
        stem, suffix = os.path.splitext(name)
        if stem in taken:
            stem = f"{stem}-{suffix[1:]}"
        number = 2
        while stem in taken:
            stem, number = f"{os.path.splitext(name)[0]}-{number}", number + 1
        taken.add(stem)
        unique.append(f"{stem}{suffix}")
    return unique


def transfer_pictures(
    records: DetectionRecords, targets: Sequence[Path], how: Transfer, *, progress: Transferred | None = None
) -> Transferred:
    """Bring every picture to its target; a link falls back to a copy where the file systems differ.

    Raises: DataError for a picture that is not there or cannot be written.
    """
    done = Transferred() if progress is None else progress
    if how == "none":
        return done
    headers = read_headers(records.path(i) for i in range(len(records)))
    for index, (target, header) in enumerate(zip(targets, headers, strict=True)):
        source = records.path(index)
        if not isinstance(header, ImageHeader):
            raise DataError(f"{source.absolute()}: {header.reason}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and os.path.samefile(source, target):
            continue
        height, width = records.sizes[index].tolist()
        if (height, width) != header.oriented_size and (height, width) == header.size:
            write_bytes_atomically(target, without_orientation(source))
            done.unturned.append(str(source.name))
            done.copied += 1
            continue
        target.unlink(missing_ok=True)
        try:
            if how == "copy":
                raise OSError
            os.link(os.path.realpath(source), target)
            done.linked += 1
        except OSError:
            try:
                shutil.copyfile(source, target)
            except OSError as error:
                raise DataError(f"{source.absolute()}: cannot be copied to {target} ({error}).") from error
            done.copied += 1
    return done


def without_orientation(path: Path) -> bytes:
    """The file with its EXIF orientation set to 1 (as stored): of a JPEG one number changes, others are encoded anew
    without loss.
    """
    data = bytearray(path.read_bytes())
    place = _orientation_place(data)
    if place is not None:
        at, order = place
        data[at : at + 2] = (1).to_bytes(2, order)
        return bytes(data)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        kind = image.format or "PNG"
        image.info.pop("exif", None)
        stream = io.BytesIO()
        clean = Image.new(image.mode, image.size)
        clean.paste(image)
        if image.mode == "P":
            clean.putpalette(image.getpalette() or [])
        clean.save(
            stream,
            kind,
            **({"quality": 98} if kind in ("JPEG", "MPO") else {"lossless": True} if kind == "WEBP" else {}),
        )
        return stream.getvalue()


def _orientation_place(data: bytes | bytearray) -> tuple[int, Literal["little", "big"]] | None:
    """(position of the orientation's value, byte order) in the first EXIF block of a JPEG."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\x00\x00":
            start = at + 10
            order: Literal["little", "big"] = "little" if data[start : start + 2] == b"II" else "big"
            table = start + int.from_bytes(data[start + 4 : start + 8], order)
            for entry in range(int.from_bytes(data[table : table + 2], order)):
                field_at = table + 2 + 12 * entry
                if int.from_bytes(data[field_at : field_at + 2], order) == _ORIENTATION:
                    return (field_at + 8, order) if field_at + 12 <= at + 2 + length else None
            return None
        at += 2 + length
    return None
