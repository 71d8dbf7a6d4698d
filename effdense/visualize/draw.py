"""Boxes on a picture: an outline in the colour of the class and a label that stays readable and inside the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from effdense.errors import ShapeError
from effdense.visualize.palette import Color, class_color, text_color
from effdense.visualize.picture import put_text, require_image, shorten, text_size

Rect = tuple[int, int, int, int]  # left, top, right, bottom in px; right and bottom are outside


def draw_boxes(
    image: np.ndarray,
    boxes: Any,
    labels: Any,
    scores: Any = None,
    class_names: Sequence[str] | None = None,
    *,
    line_width: int | None = None,
    text_scale: float | None = None,
) -> np.ndarray:
    """Draw boxes and their labels on a copy of an image.

    Labels look for a free place above, below or inside their box; the best score is drawn last, on top.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (M, 4) xyxy px of this image, array or tensor; what lies outside the image is cut off.
        labels: (M,) class indices; the colour depends on it alone.
        scores: (M,) shown with two decimals, or None (ground truth).
        class_names: name of label i at index i; without it, or past its end, the number is shown.
        line_width: px; default by the size of the image.
        text_scale: 0 draws no labels; default by the size of the image (0.5 is a text of about 12 px).

    Returns:
        uint8 (H, W, 3) RGB, a new array.

    Raises:
        ShapeError: the image, or the lengths of boxes, labels and scores, do not fit; a box is not finite.
    """
    box_array, label_array, score_array = _checked(boxes, labels, scores)
    texts = []
    for index, label in enumerate(label_array.tolist()):
        text = class_names[label] if class_names is not None and 0 <= label < len(class_names) else str(label)
        texts.append(text if score_array is None else f"{text} {score_array[index]:.2f}")
    order = np.arange(len(box_array)) if score_array is None else np.argsort(score_array, kind="stable")
    colors = [class_color(int(label)) for label in label_array]
    require_image(image, "draw_boxes")
    return draw_marks(
        image, box_array[order], [texts[i] for i in order], [colors[i] for i in order],
        line_width=line_width, text_scale=text_scale,
    )  # fmt: skip


def draw_marks(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
    *,
    line_width: int | None = None,
    text_scale: float | None = None,
) -> np.ndarray:
    """Draw boxes with any text and colour on a copy of an image; the last is drawn on top and chooses its place first.

    Args: boxes: (M, 4) xyxy px, finite. texts, colors: M each; an empty text draws no label. Others as `draw_boxes`.

    Returns: uint8 (H, W, 3) RGB, a new array.
    Raises: ShapeError: the image is none.
    """
    canvas = require_image(image, "draw_marks").copy()
    side = math.sqrt(canvas.shape[0] * canvas.shape[1])
    line_width = max(1, round(side / 300)) if line_width is None else line_width
    text_scale = min(max(side / 1100, 0.38), 1.5) if text_scale is None else text_scale
    rects = _pixels(np.asarray(boxes, np.float64).reshape(-1, 4), canvas.shape[0], canvas.shape[1])
    for rect, color in zip(rects, colors, strict=True):
        _outline(canvas, rect, color, line_width)
    if text_scale <= 0:
        return canvas
    taken: list[Rect] = []
    places: list[tuple[Rect, str, Color]] = []
    for index in range(len(rects) - 1, -1, -1):
        if not texts[index]:
            continue
        text = shorten(texts[index], text_scale, canvas.shape[1] - 2 * _padding(text_scale))
        place = _place(rects[index], text, text_scale, canvas.shape[0], canvas.shape[1], taken)
        taken.append(place)
        places.append((place, text, colors[index]))
    for place, text, color in reversed(places):
        _label(canvas, place, text, text_scale, color)
    return canvas


def _checked(boxes: Any, labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    box_array = np.asarray(_to_numpy(boxes), dtype=np.float64)
    box_array = box_array.reshape(0, 4) if box_array.size == 0 else box_array
    label_array = np.asarray(_to_numpy(labels)).reshape(-1)
    score_array = None if scores is None else np.asarray(_to_numpy(scores), dtype=np.float64).reshape(-1)
    if box_array.ndim != 2 or box_array.shape[1] != 4:
        raise ShapeError(f"draw_boxes: boxes have shape {box_array.shape}; expected (M, 4) xyxy px.")
    for name, array in (("labels", label_array), ("scores", score_array)):
        if array is not None and len(array) != len(box_array):
            raise ShapeError(f"draw_boxes: {len(box_array)} boxes but {len(array)} {name}; expected as many.")
    wrong = np.flatnonzero(~np.isfinite(box_array).all(axis=1))
    if wrong.size:
        raise ShapeError(f"draw_boxes: box {wrong[0]} is {box_array[wrong[0]].tolist()}; expected finite numbers.")
    return box_array, label_array, score_array


def _to_numpy(values: Any) -> Any:
    """Tensors (any device) to numpy without importing torch here; everything else as it is."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _pixels(boxes: np.ndarray, height: int, width: int) -> list[Rect]:
    """Pixel-edge boxes to pixel rectangles of at least one pixel inside the image."""
    limits = np.array([width, height, width, height])
    edges = np.clip(np.round(boxes), 0, limits).astype(int)
    left, top = np.minimum(edges[:, 0], width - 1), np.minimum(edges[:, 1], height - 1)
    right, bottom = np.maximum(edges[:, 2], left + 1), np.maximum(edges[:, 3], top + 1)
    return list(zip(left.tolist(), top.tolist(), right.tolist(), bottom.tolist(), strict=True))


def _outline(canvas: np.ndarray, rect: Rect, color: Color, line_width: int) -> None:
    """The outline over a darker, wider one, so that it shows on a background of its own colour as well."""
    shade = tuple(channel * 2 // 5 for channel in color)
    corners = (rect[0], rect[1]), (rect[2] - 1, rect[3] - 1)
    cv2.rectangle(canvas, *corners, shade, line_width + 2)
    cv2.rectangle(canvas, *corners, color, line_width)


def _padding(text_scale: float) -> int:
    return max(2, round(6 * text_scale))


def _place(rect: Rect, text: str, text_scale: float, height: int, width: int, taken: list[Rect]) -> Rect:
    """The first place (above, inside, below; left, right) that hides no other label, or the one that hides least."""
    text_width, text_height, depth = text_size(text, text_scale)
    pad = _padding(text_scale)
    w, h = min(text_width + 2 * pad, width), min(text_height + depth + pad, height)
    left, top, right, bottom = rect
    best: tuple[int, Rect] | None = None
    for x in (left, right - w):
        for y in (top - h, top, bottom, bottom - h):
            if y < 0 or y + h > height:
                continue
            x_in = min(max(x, 0), width - w)
            place = (x_in, y, x_in + w, y + h)
            hidden = sum(_overlap(place, other) for other in taken)
            if best is None or hidden < best[0]:
                best = (hidden, place)
    if best is not None:
        return best[1]
    x_in, y_in = min(max(left, 0), width - w), min(max(top, 0), height - h)
    return x_in, y_in, x_in + w, y_in + h


def _overlap(a: Rect, b: Rect) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _label(canvas: np.ndarray, place: Rect, text: str, text_scale: float, color: Color) -> None:
    left, top, right, bottom = place
    _, text_height, depth = text_size(text, text_scale)
    cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), color, cv2.FILLED)
    baseline = top + (bottom - top + text_height - depth) // 2
    put_text(canvas, text, left + _padding(text_scale), baseline, text_scale, text_color(color))
