"""Class maps over a picture: each class in its colour, outlines sharp, ignored pixels as they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from effdense.errors import ConfigError, ShapeError
from effdense.visualize.palette import class_color
from effdense.visualize.picture import require_image


def draw_mask(
    image: np.ndarray,
    mask: Any,
    class_names: Sequence[str] | None = None,
    alpha: float = 0.5,
    *,
    ignore_index: int = 255,
) -> np.ndarray:
    """Lay a class map over a copy of an image, in the colours that ``contact_sheet`` shows in its legend.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: (H, W) integers 0..254, array or tensor.
        class_names: name of class i at index i; only to find values that have none.
        alpha: weight of the colour, 0..1; borders between classes have it at 1.
        ignore_index: value whose pixels stay as they are.

    Returns:
        uint8 (H, W, 3) RGB, a new array.

    Raises:
        ShapeError: mask and image differ in size, or a value has no name.
        ConfigError: alpha outside 0..1.
    """
    require_image(image, "draw_mask")
    labels = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
    if labels.shape != image.shape[:2] or labels.dtype.kind not in "iu":
        raise ShapeError(
            f"draw_mask: the mask is {labels.dtype} {labels.shape}; expected integers {image.shape[:2]}, as the image."
        )
    if not 0 <= alpha <= 1:
        raise ConfigError(f"draw_mask: alpha must be in 0..1, got {alpha!r}.")
    shown = labels != ignore_index
    _check_values(labels[shown], class_names)
    index = np.where(shown, labels, 0).astype(np.uint8)
    palette = np.array([class_color(label) for label in range(256)], np.uint8)
    colors = palette[index]
    result = cv2.addWeighted(image, 1 - alpha, colors, alpha, 0)
    border = np.zeros(labels.shape, bool)
    border[:, 1:] = labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    result[border] = colors[border]
    result[~shown] = image[~shown]
    return result


def _check_values(values: np.ndarray, class_names: Sequence[str] | None) -> None:
    most = 255 if class_names is None else len(class_names)
    if values.size and not 0 <= values.min() <= values.max() < most:
        wrong = int(values.min() if values.min() < 0 else values.max())
        raise ShapeError(f"draw_mask: the mask holds {wrong}, but there are classes 0..{most - 1} only.")
