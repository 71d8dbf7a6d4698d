"""Where a class map is wrong: truth against prediction, the right part of the picture dimmed."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from effdense.visualize.legend import LegendEntry
from effdense.visualize.masks import class_map
from effdense.visualize.palette import Color
from effdense.visualize.picture import require_image

WRONG: Color = (255, 45, 35)
MISSED: Color = (40, 120, 255)  # an object where the prediction has only background
_IGNORED: Color = (150, 150, 150)
_DIMMED, _STRENGTH = 0.55, 0.85
_STRIPE_PX = 4


def draw_errors(
    image: np.ndarray, truth: Any, prediction: Any, *, background: Collection[int] = (), ignore_index: int = 255
) -> np.ndarray:
    """Right pixels grey and dimmed, wrong ones red (blue where background is predicted in place of an object), and
    pixels that do not count striped.

    Args:
        image: uint8 (H, W, 3) RGB.
        truth, prediction: (H, W) integers, arrays or tensors.
        background: classes that are no object, see ``background_labels``; without any, every error is red.
        ignore_index: value of the truth that does not count.

    Returns:
        uint8 (H, W, 3) RGB, a new array.

    Raises:
        ShapeError: the three differ in size.
    """
    require_image(image, "draw_errors")
    true = class_map(truth, image.shape[:2], "draw_errors, truth")
    predicted = class_map(prediction, image.shape[:2], "draw_errors, prediction")
    grey = _DIMMED * (image @ np.array([0.299, 0.587, 0.114], np.float32))  # luma of ITU-R BT.601
    result = np.repeat(grey[..., None], 3, axis=2)
    counted = true != ignore_index
    wrong = counted & (true != predicted)
    missed = wrong & np.isin(predicted, list(background))
    for where, color in ((wrong & ~missed, WRONG), (missed, MISSED), (~counted & _stripes(true.shape), _IGNORED)):
        result[where] = (1 - _STRENGTH) * result[where] + _STRENGTH * np.array(color, np.float32)
    return np.rint(result).astype(np.uint8)


def wrong_share(truth: Any, prediction: Any, ignore_index: int = 255) -> float:
    """Share of the counted pixels whose class is wrong, 0..1; nan where none counts.

    Raises: ShapeError: the two differ in size.
    """
    true = np.asarray(truth.cpu() if hasattr(truth, "cpu") else truth)
    predicted = class_map(prediction, true.shape, "wrong_share")
    counted = true != ignore_index
    return float((true != predicted)[counted].mean()) if counted.any() else math.nan


def error_legend(background: Collection[int] = ()) -> list[LegendEntry]:
    """What the colours of :func:`draw_errors` say."""
    return [("wrong", WRONG), *([("object missed", MISSED)] if background else []), ("not counted", _IGNORED)]


def _stripes(size: tuple[int, ...]) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows + columns) // _STRIPE_PX % 2 == 0
