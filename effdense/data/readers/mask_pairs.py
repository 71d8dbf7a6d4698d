"""Pictures and masks matched by name: two folders (with sub-folders) and a split list in, pairs of file names out.

A name is the path below the folder without suffix: ``frankfurt/a`` for ``images/frankfurt/a.jpg``. Names of a split
list are looked up among the files found, so none can lead out of the folders.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from effdense.data.checks.check import DataReport
from effdense.data.readers.image_folder import IMAGE_SUFFIXES, walk
from effdense.data.readers.splits import EmptySplitError

MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff"})  # lossless: a JPEG of a mask has values of its own
_LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True)
class MaskPairing:
    """How the files of a picture and of its mask are named.

    Args:
        image_suffix, mask_suffix: what stands behind the common name, before the file's own suffix: "_L" for CamVid's
            ``0001TP_006690_L.png``.
        skip_missing: leave pictures without a mask out with a warning, where only some are labelled; else an error.
        chosen: by the user, so that messages may name these options; the public sets have none of them.
    """

    image_suffix: str = ""
    mask_suffix: str = ""
    skip_missing: bool = False
    chosen: bool = True


PLAIN = MaskPairing(chosen=False)


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
        raise EmptySplitError(f"{listing or image_dir}: the split is empty; {_why_empty(listing, image_dir, pairing)}")
    missing = [name for name in wanted if name not in masks]
    if pairing.skip_missing and len(missing) < len(wanted):
        report.add(
            "warning", "missing-mask", f"pictures have no mask in {mask_dir} and are left out.",
            [images[name] for name in missing],
        )  # fmt: skip
    else:
        near = _near_names(missing, images, masks, mask_dir, pairing)
        places = [images[name] for name in missing]
        report.add("error", "missing-mask", f"pictures have no mask in {mask_dir}.{near}", places)
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
    for place, folders, files in walk(folder):
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


def _near_names(
    missing: Sequence[str], images: Mapping[str, str], masks: Mapping[str, str], mask_dir: Path, pairing: MaskPairing
) -> str:
    """What the masks are called, when it is nearly the picture's name, or a lossy file."""
    if not missing:
        return ""
    name = missing[0]
    for suffix in sorted(_LOSSY_SUFFIXES):
        if (mask_dir / f"{name}{pairing.mask_suffix}{suffix}").is_file():
            return (
                f" There is {name + pairing.mask_suffix + suffix!r}, but {suffix} changes the values of a mask: export "
                "the masks as PNG again, from their source."
            )
    if not masks:
        there = sorted({file.suffix or file.name for file in mask_dir.iterdir() if file.is_file()})[:4]
        ending = f"{pairing.mask_suffix} and " if pairing.mask_suffix else ""
        return f" It has no files ending in {ending}{', '.join(sorted(MASK_SUFFIXES))}" + (
            f", but in {', '.join(there)}: save the masks as PNG." if there and not ending else "."
        )
    if (near := _nearest(name, [stem for stem in masks if stem not in images])) is not None:
        option = ""
        if pairing.chosen and not (pairing.image_suffix or pairing.mask_suffix):
            option = _suffix_option(PurePosixPath(name).name, PurePosixPath(near).name)
        return f" Picture and mask need the same name; for {name!r} there is {masks[near]!r}: rename the masks{option}."
    option = ", or skip_missing=True" if pairing.chosen else ""
    return f" Add the masks, give a split file that names only pictures with one{option}."


def _nearest(name: str, stems: Sequence[str]) -> str | None:
    """The mask name that is the picture's with other case or place, something added, or another ending."""
    base = PurePosixPath(name).name.casefold()
    bases = {PurePosixPath(stem).name.casefold(): stem for stem in reversed(stems)}
    if base in bases:
        return bases[base]
    inside = next((stem for other, stem in bases.items() if base in other), None)
    if inside is not None:
        return inside
    digits = _digits(base)  # 0001_sat and 0001_mask, img_0001 and mask_0001
    return next((stem for other, stem in bases.items() if digits and digits == _digits(other)), None)


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _suffix_option(picture: str, mask: str) -> str:
    """The suffix options that make the two names one, for a message."""
    same = next((i for i, (a, b) in enumerate(zip(picture, mask)) if a != b), min(len(picture), len(mask)))
    shared = len(picture[:same].rstrip("_-. "))
    added = {"image_suffix": picture[shared:], "mask_suffix": mask[shared:]}
    if not shared or not added["mask_suffix"] or _digits("".join(added.values())):
        return ""
    return " or give " + ", ".join(f"{key}={value!r}" for key, value in added.items() if value)
