"""Pictures and masks matched by name: two folders (with sub-folders) and a split list in, pairs of file names out.

A name is the path below the folder without suffix: ``frankfurt/a`` for ``images/frankfurt/a.jpg``. Names of a split
list are looked up among the files found, so none can lead out of the folders.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from effdense.data.check import DataReport
from effdense.data.image_folder import IMAGE_SUFFIXES
from effdense.errors import DataError

MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff"})  # lossless: a JPEG of a mask has values of its own
_LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True)
class MaskPairing:
    """How the files of a picture and of its mask are named.

    Args:
        image_suffix, mask_suffix: what stands behind the common name, before the file's own suffix: "_L" for CamVid's
            ``0001TP_006690_L.png``.
        skip_missing: leave pictures without a mask out with a warning, where only some are labelled; else an error.
    """

    image_suffix: str = ""
    mask_suffix: str = ""
    skip_missing: bool = False


PLAIN = MaskPairing()


def pair_files(
    image_dir: Path,
    mask_dir: Path,
    listing: Path | None,
    report: DataReport,
    pairing: MaskPairing = PLAIN,
) -> list[tuple[str, str]]:
    """(picture, mask) file names below their folders, sorted or in the order of the split list.

    Args:
        listing: split file; None: all pictures.
        report: takes what has no partner, and names of the list that have no picture.

    Raises: DataError for an empty split.
    """
    images, masks = _files(image_dir, mask_dir, report, pairing)
    if listing is None:
        wanted = sorted(images)
        report.add(
            "warning", "unused-mask", f"masks in {mask_dir} have no picture and are left aside.",
            sorted(masks.keys() - images.keys()),
        )  # fmt: skip
    else:
        wanted = _listed(listing, images, image_dir, report, pairing)
    if not wanted and not report.errors:
        raise DataError(f"{listing or image_dir}: the split is empty; {_why_empty(listing, image_dir, pairing)}")
    missing = [name for name in wanted if name not in masks]
    if pairing.skip_missing and len(missing) < len(wanted):
        report.add(
            "warning", "missing-mask", f"pictures have no mask in {mask_dir} and are left out.",
            [images[name] for name in missing],
        )  # fmt: skip
    else:
        report.add(
            "error", "missing-mask", f"pictures have no mask in {mask_dir}.{_near_names(missing, masks, mask_dir)}",
            [images[name] for name in missing],
        )  # fmt: skip
    return [(images[name], masks[name]) for name in wanted if name in masks]


def _why_empty(listing: Path | None, image_dir: Path, pairing: MaskPairing) -> str:
    if listing is not None:
        return "the file has no names in it; it needs one picture name a line."
    ending = f"{pairing.image_suffix} and " if pairing.image_suffix else ""
    return f"no file in {image_dir} ends in {ending}{', '.join(sorted(IMAGE_SUFFIXES))}."


def _files(
    image_dir: Path, mask_dir: Path, report: DataReport, pairing: MaskPairing
) -> tuple[dict[str, str], dict[str, str]]:
    """Name -> file of the pictures and of the masks, also where one folder holds both or one lies in the other."""
    if image_dir.resolve() != mask_dir.resolve():
        return (
            list_files(image_dir, IMAGE_SUFFIXES, report, pairing.image_suffix, without=mask_dir),
            list_files(mask_dir, MASK_SUFFIXES, report, pairing.mask_suffix, without=image_dir),
        )
    masks = list_files(mask_dir, MASK_SUFFIXES, report, pairing.mask_suffix)
    if not pairing.mask_suffix:  # a.jpg and a.png in one folder
        return list_files(image_dir, IMAGE_SUFFIXES - MASK_SUFFIXES, report, pairing.image_suffix), masks
    taken = frozenset(masks.values())
    return list_files(image_dir, IMAGE_SUFFIXES, report, pairing.image_suffix, taken=taken), masks


def list_files(
    folder: Path,
    suffixes: frozenset[str],
    report: DataReport,
    ending: str = "",
    *,
    without: Path | None = None,
    taken: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Name -> file below ``folder``; of two files with one name the first by spelling is kept and both are reported.

    Args:
        ending: taken off the names; files without it are passed over, as are hidden ones.
        without: a folder that is not entered. taken: files that are something else.
    """
    found: dict[str, str] = {}
    doubled = []
    barred = None if without is None else str(without.resolve())
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and (not barred or os.path.realpath(f"{place}/{name}") != barred)
        )
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() not in suffixes or file[0] == "." or not stem.endswith(ending):
                continue
            path = file if below == "." else f"{below}/{file}"
            if path in taken:
                continue
            name = path[: len(path) - len(suffix) - len(ending)]
            if name in found:
                doubled.append(f"{found[name]} and {path}")
            else:
                found[name] = path
    report.add("error", "double-name", f"files in {folder} differ in their suffix only; take one away.", doubled)
    return found


def _listed(
    listing: Path, images: Mapping[str, str], image_dir: Path, report: DataReport, pairing: MaskPairing
) -> list[str]:
    """Names of a split file that have a picture, each once; the others are reported."""
    found: list[str] = []
    absent, unsafe = [], []
    for line in listing.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
        text = line.strip().replace("\\", "/")
        if not text:
            continue
        if ".." in text.split("/"):
            unsafe.append(text)
        elif (name := _match(text, images, pairing.image_suffix)) is not None:
            found.append(name)
        else:
            absent.append(text)
    report.add("error", "unsafe-path", "names of the split file must stay inside the image folder (no '..').", unsafe)
    hint = "" if found or not any("," in text for text in absent) else " It needs one name a line, without commas."
    report.add(
        "error",
        "missing-image",
        f"names of the split file have no picture in {image_dir}; correct either.{hint}",
        absent,
    )
    unique = list(dict.fromkeys(found))
    seen: set[str] = set()
    repeated = [name for name in found if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    report.add("warning", "repeated-name", "names occur again in the split file and are used once.", repeated)
    return unique


def _match(text: str, names: Mapping[str, str], ending: str) -> str | None:
    """Which file a line means: ``a``, ``a.jpg``, ``images/a.jpg``, ``/set/images/a.jpg masks/a.png``, ``a 1``."""
    for path in dict.fromkeys((text, text.split()[0])):
        stem, suffix = os.path.splitext(path)
        stem = stem if suffix.lower() in IMAGE_SUFFIXES else path
        for candidate in dict.fromkeys((stem, stem.removesuffix(ending))):
            parts = [part for part in PurePosixPath(candidate).parts if part != "/"]
            for start in range(len(parts)):
                name = "/".join(parts[start:])
                if name in names:
                    return name
    return None


def _near_names(missing: Sequence[str], masks: Mapping[str, str], mask_dir: Path) -> str:
    """What the masks are called, when it is the picture's name with something added, or a lossy file."""
    if not missing:
        return ""
    name = missing[0]
    for suffix in sorted(_LOSSY_SUFFIXES):
        if (mask_dir / f"{name}{suffix}").is_file():
            return (
                f" There is {name + suffix!r}, but {suffix} changes the values of a mask: export the masks as PNG "
                "again, from their source."
            )
    if not masks:
        there = sorted({file.suffix or file.name for file in mask_dir.iterdir() if file.is_file()})[:4]
        return f" It has no files ending in {', '.join(sorted(MASK_SUFFIXES))}" + (
            f", but in {', '.join(there)}: save the masks as PNG." if there else "."
        )
    base = PurePosixPath(name).name
    for stem, file in masks.items():
        if base in PurePosixPath(stem).name:
            rest = PurePosixPath(stem).name.removeprefix(base)
            option = f" or give mask_suffix={rest!r}" if PurePosixPath(stem).name.startswith(base) and rest else ""
            return f" Picture and mask need the same name; for {name!r} there is {file!r}: rename the masks{option}."
    return " Add the masks, give a split file that names only pictures with one, or skip_missing=True."
