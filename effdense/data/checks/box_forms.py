"""What four numbers of a COCO box mean when they are not x, y, width, height in pixels: evidence, box by box.

Symbols: M boxes. A box is called something else only where its own numbers say so: its area field, or that it leaves
its picture as x, y, width, height and fits as the other form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLEARLY_BEYOND = 0.05  # of the side of the picture
_AREA_TOLERANCE = 1e-3
_FITTING = 0.95  # share of the boxes that a form must fit to be named as the likely one


def _fits(low: NDArray[np.float64], high: NDArray[np.float64], limit: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Corners in order and inside, (M,); 1 px beyond is a matter of counting."""
    return np.asarray(((low >= -1) & (high > low) & (high <= limit + 1)).all(1))


def _equal(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.abs(a - b) <= np.maximum(_AREA_TOLERANCE * np.abs(b), 1e-6)


def look_like_corners(
    xywh: NDArray[np.float64], areas: NDArray[np.float64], limit: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(M,) which boxes are x1, y1, x2, y2.

    Args:
        xywh: (M, 4) as written. areas: (M,) area fields, NaN for none. limit: (M, 2) width, height of the picture.

    Two kinds of evidence, each with corners in order inside the picture: the area field is (x2 - x1)(y2 - y1) and not
    width x height, in a file whose area fields are box areas (else a mask's area may hit it by chance); or the box
    ends clearly beyond its picture as x, y, width, height.
    """
    low, other = xywh[:, :2], xywh[:, 2:]
    fits = _fits(low, other, limit)
    as_size, as_corners = other.prod(1), (other - low).prod(1)
    by_size = _equal(areas, as_size)
    by_corners = fits & _equal(areas, as_corners) & ~by_size
    if (by_size | by_corners).sum() * 2 < len(xywh):
        by_corners[:] = False
    beyond = ((low + other - limit) > CLEARLY_BEYOND * limit).any(1)
    return np.asarray(by_corners | (fits & beyond & ~by_size))


def centres_look_like_corners(boxes: NDArray[np.float64], limit: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(M,) which boxes leave their picture clearly as centre x, centre y, width, height, and fit it as corners."""
    half = boxes[:, 2:] / 2
    past = np.maximum(half - boxes[:, :2], boxes[:, :2] + half - limit)
    return np.asarray((past > CLEARLY_BEYOND * limit).any(1) & _fits(boxes[:, :2], boxes[:, 2:], limit))


def look_relative(xywh: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(M,) which boxes are fractions of the picture: all four numbers in 0..1, not all of them whole."""
    inside = ((xywh >= 0) & (xywh <= 1)).all(1)
    return np.asarray(inside & (xywh != np.floor(xywh)).any(1))


def likely_order(xywh: NDArray[np.float64], limit: NDArray[np.float64]) -> str:
    """What all boxes would fit as: "corners", "swapped" (y, x, height, width), "swapped corners" or ""."""
    low, other = xywh[:, :2], xywh[:, 2:]
    forms = {
        "corners": _fits(low, other, limit),
        "swapped": _fits(low[:, ::-1], low[:, ::-1] + other[:, ::-1], limit),
        "swapped corners": _fits(low[:, ::-1], other[:, ::-1], limit),
    }
    return next((name for name, fits in forms.items() if len(fits) and fits.mean() >= _FITTING), "")
