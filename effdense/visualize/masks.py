"""Class maps as pictures: laid over a photograph, or as a file of class numbers with its colours."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from effdense.errors import ConfigError, ShapeError
from effdense.visualize.palette import Palette, background_labels, color_table
from effdense.visualize.picture import require_image, write_whole

_IGNORE_COLOR = (224, 224, 192)  # of index 255 in the mask files of PASCAL VOC


def draw_mask(
    image: np.ndarray,
    mask: Any,
    class_names: Sequence[str] | None = None,
    alpha: float = 0.5,
    *,
    palette: Palette | None = None,
    unpainted: Collection[int] | None = None,
    ignore_index: int = 255,
) -> np.ndarray:
    """Lay a class map over a copy of an image; where two classes meet, the colour is full.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: (H, W) integers 0..254, array or tensor.
        class_names: name of class i at index i; to find values that have none, and the background.
        alpha: weight of the colour, 0..1; borders of painted classes have it at 1.
        palette: RGB of class i at index i; default ``class_color``.
        unpainted: classes whose pixels stay as they are; default the background: a class of that name (or
            "unlabelled", "void"), and class 0 where its palette colour is black. () paints every class.
        ignore_index: value whose pixels stay as they are.

    Returns:
        uint8 (H, W, 3) RGB, a new array.

    Raises:
        ShapeError: mask and image differ in size, or a value has no name.
        ConfigError: alpha outside 0..1, or a palette that is none.
    """
    require_image(image, "draw_mask")
    labels = class_map(mask, image.shape[:2], "draw_mask")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"draw_mask: alpha must be in 0..1, got {alpha!r}.")
    shown = labels != ignore_index
    _check_values(labels[shown], class_names)
    index = np.where(shown, labels, 0).astype(np.uint8)
    left_out = background_labels(class_names, palette) if unpainted is None else unpainted
    shown &= ~np.isin(index, list(left_out))
    colors = color_table(palette)[index]
    result = cv2.addWeighted(image, 1 - alpha, colors, alpha, 0)
    border = _borders(labels, shown)
    result[border] = colors[border]
    result[~shown] = image[~shown]
    return result


def class_map(mask: Any, size: tuple[int, ...], where: str) -> np.ndarray:
    """A mask as an array.

    Raises: ShapeError unless it is integers (H, W) of `size`.
    """
    labels = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
    if labels.shape != tuple(size) or labels.dtype.kind not in "iu":
        raise ShapeError(
            f"{where}: the mask is {labels.dtype} {labels.shape}; expected integers {tuple(size)}, as the image."
        )
    return labels


def _borders(labels: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """First pixel of a class from the left and from above; where what follows stays unpainted, the last one as well."""
    border = np.zeros(labels.shape, bool)
    border[:, 1:] = labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    border[:, :-1] |= ~painted[:, 1:]
    border[:-1] |= ~painted[1:]
    return border & painted


def _check_values(values: np.ndarray, class_names: Sequence[str] | None) -> None:
    most = 255 if class_names is None else len(class_names)
    if values.size and not 0 <= values.min() <= values.max() < most:
        wrong = int(values.min() if values.min() < 0 else values.max())
        raise ShapeError(f"draw_mask: the mask holds {wrong}, but there are classes 0..{most - 1} only.")


def save_mask(
    mask: Any, path: str | Path, class_names: Sequence[str] | None = None, *, palette: Palette | None = None
) -> Path:
    """Write class numbers as an 8-bit palette PNG: readers get the numbers, viewers show the colours.

    Args:
        mask: (H, W) integers 0..255, array or tensor.
        path: ends in .png; missing folders are made.
        class_names, palette: for the colours; the background is black, 255 (ignore) pale.

    Returns:
        the path written.

    Raises:
        ConfigError: another suffix, or a palette that is none.
        ShapeError: not integers (H, W), or values outside 0..255.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"save_mask: {str(path)!r} ends in {path.suffix!r}; a mask is stored as .png, without loss.")
    labels = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ShapeError(f"save_mask: the mask is {labels.dtype} {labels.shape}; expected integers (H, W).")
    if labels.min() < 0 or labels.max() > 255:
        raise ShapeError(f"save_mask: the mask holds {labels.min()}..{labels.max()}; a PNG of classes holds 0..255.")
    table = color_table(palette)
    table[255] = _IGNORE_COLOR
    if palette is None:
        table[list(background_labels(class_names))] = 0
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(table.tobytes())  # makes it mode P; the numbers stay
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", optimize=False)
    return write_whole(path, encoded.getvalue())
