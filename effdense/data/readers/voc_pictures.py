"""XML files of a VOC split, read, and the picture and size that belong to each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from effdense.data.checks.check import DataReport
from effdense.data.image_io import ImageFault, ImageHeader
from effdense.data.readers.coco_boxes import CocoImages
from effdense.data.readers.splits import list_pictures, read_headers, report_headers
from effdense.data.readers.voc_layout import VocPart
from effdense.data.readers.voc_xml import VocFile, read_voc_xml
from effdense.errors import DataError


def _parsed(file: Path) -> VocFile | str:
    try:
        return read_voc_xml(file)
    except DataError as error:
        return str(error)


def parse_all(files: Sequence[Path]) -> list[VocFile | str]:
    """Content of each file, or what is wrong with it."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(_parsed, files, chunksize=64))


def read_files(part: VocPart, root: Path, report: DataReport) -> list[tuple[str, VocFile]]:
    """(name, content) of every XML file of the split that can be read."""
    names = part.names()
    paths = [part.xml_dir / f"{name}.xml" for name in names]
    there = [path.is_file() for path in paths]
    lost = [os.path.relpath(path, root) for path, found in zip(paths, there, strict=True) if not found]
    message = "names of the split list have no XML file; add it or take the name out. They are left out."
    report.add("error", "missing-annotation", message, lost)
    chosen = [(name, path) for name, path, found in zip(names, paths, there, strict=True) if found]
    found = list(zip(chosen, parse_all([path for _, path in chosen]), strict=True))
    broken = [
        f"{os.path.relpath(path, root)}: {text}".rstrip(".") for (_, path), text in found if isinstance(text, str)
    ]
    report.add("error", "unreadable-annotation", "XML files cannot be read; mend or remove them.", broken)
    return [(name, content) for (name, _), content in found if isinstance(content, VocFile)]


def with_pictures(
    part: VocPart, files: list[tuple[str, VocFile]], root: Path, report: DataReport
) -> tuple[CocoImages, list[tuple[str, VocFile]]]:
    """Picture and size of each file; a file whose size is nowhere to be had is left out."""
    pictures = list_pictures(part.image_dir)
    at_stem = {os.path.splitext(picture)[0]: picture for picture in reversed(pictures)}
    listed = set(pictures)
    at_base: dict[str, str] = {os.path.basename(picture): picture for picture in reversed(pictures)}
    names, other = [], []
    for stem, content in files:
        name = at_stem.get(stem) or _by_file_name(content.file_name, listed, at_base, at_stem)
        names.append(name or f"{stem}{os.path.splitext(content.file_name)[1] or '.jpg'}")
        if name and content.file_name and os.path.splitext(os.path.basename(name))[0] != _stem(content.file_name):
            other.append(f"{stem}.xml says {content.file_name}, taken is {name}")
    message = "files name another picture than the one of their own name, which is taken. Correct <filename>."
    report.add("warning", "filename-differs", message, other)
    taken = set(names)
    bare = [picture for picture in pictures if picture not in taken] if part.listing is None and not part.only else []
    message = "pictures have no XML file and are left out; where they are background, give them one without objects."
    report.add("warning", "missing-annotation", message, bare)
    unsized = [i for i, (_, content) in enumerate(files) if content.size is None]
    headers = dict(zip(unsized, read_headers(part.image_dir / names[i] for i in unsized), strict=True))
    faults = [(names[i], header) for i, header in headers.items() if isinstance(header, ImageFault)]
    report_headers([name for name, _ in faults], [header for _, header in faults], report)
    message = "files give no size of the picture; that in the picture's own head is taken. Add <size>."
    report.add("warning", "missing-size", message, [f"{files[i][0]}.xml" for i in unsized])
    kept, sizes = [], []
    for i, (_, content) in enumerate(files):
        header = headers.get(i)
        size = header.oriented_size if isinstance(header, ImageHeader) else content.size
        if size is not None:
            kept.append(i)
            sizes.append(size)
    images = CocoImages(
        np.arange(1, len(kept) + 1, dtype=np.int64),
        [names[i] for i in kept],
        np.array(sizes, np.int32).reshape(-1, 2),
    )
    return images, [files[i] for i in kept]


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _by_file_name(name: str, listed: set[str], at_base: dict[str, str], at_stem: dict[str, str]) -> str | None:
    """The picture that ``<filename>`` names, with or without folder and right ending."""
    if not name:
        return None
    return name if name in listed else at_base.get(name) or at_stem.get(_stem(name)) or at_stem.get(name)
