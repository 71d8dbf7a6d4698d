"""Pictures of a split for a gallery, each read when it is drawn; one that is missing becomes a line of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from effdense.data.image_io import read_image
from effdense.data.readers.coco_entries import escapes
from effdense.errors import DataError
from effdense.visualize.gallery import placeholder

Loader = Callable[[int], np.ndarray]  # row of the image -> uint8 (H, W, 3) RGB; raises DataError


def from_folder(folder: Path | None, names: Sequence[str] | None) -> Loader:
    """Pictures of an annotation file in a folder.

    Args:
        folder: the image folder; None: no picture can be read. names: file name of each row, None where the annotation
            file has none.
    """

    def load(row: int) -> np.ndarray:
        if names is None:
            raise DataError("the annotation file gives no file_name for its images.")
        if folder is None:
            raise DataError(f"{names[row]}: no picture folder was given (--images DIR).")
        if escapes(names[row]):
            raise DataError(f"{names[row]!r}: file_name must stay inside the image folder (no '..', not absolute).")
        return read_image(folder / names[row])

    return load


def loaded_or_placeholder(load: Loader, row: int, problems: list[str]) -> np.ndarray | None:
    """A picture, or None; then ``problems`` gets a line that says why."""
    try:
        return load(row)
    except DataError as error:
        problems.append(str(error))
        return None


def blank(size: tuple[int, int], reason: str) -> np.ndarray:
    """A grey picture of (height, width) px, at least 60 x 120, with the reason on it."""
    height, width = max(size[0], 60), max(size[1], 120)
    return placeholder(["picture missing", reason], width, height)
