"""A picture with the best classes and their scores written below it, each with a bar as long as its score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from effdense.errors import ShapeError
from effdense.visualize.palette import class_color
from effdense.visualize.picture import put_text, require_image, shorten, text_size

MIN_WIDTH_PX = 224  # smaller pictures are enlarged by a whole factor, or no name would fit
_GROUND, _TEXT = (24, 24, 24), (255, 255, 255)


def draw_ranking(image: np.ndarray, names: Sequence[str], scores: Sequence[float], labels: Sequence[int]) -> np.ndarray:
    """Put a strip with one line per class under a picture.

    Args:
        image: uint8 (H, W, 3) RGB.
        names, scores, labels: of the lines from top to bottom; scores in 0..1, the label chooses the colour.

    Returns:
        uint8 (H', W', 3) RGB, a new array; nothing of the picture is covered.

    Raises:
        ShapeError: not an image, or the lengths differ.
    """
    picture = require_image(image, "draw_ranking")
    if not len(names) == len(scores) == len(labels):
        raise ShapeError(f"draw_ranking: {len(names)} names, {len(scores)} scores, {len(labels)} labels.")
    factor = -(-MIN_WIDTH_PX // picture.shape[1])
    picture = np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    width = picture.shape[1]
    scale = min(max(width / 700, 0.4), 1.5)
    _, height, depth = text_size("", scale)
    row = 2 * (height + depth)
    strip = np.full((row * len(names), width, 3), _GROUND, np.uint8)
    for position, (name, score, label) in enumerate(zip(names, scores, labels, strict=True)):
        top = position * row
        end = round(width * min(max(float(score), 0.0), 1.0))
        color = tuple(channel // 2 for channel in class_color(int(label)))  # dark enough for white text
        cv2.rectangle(strip, (0, top + 1), (max(end, 1) - 1, top + row - 2), color, cv2.FILLED)
        number = f"{score:.2f}"
        number_width = text_size(number, scale)[0]
        baseline = top + (row + height - depth) // 2
        put_text(strip, shorten(name, scale, width - number_width - 3 * depth), depth, baseline, scale, _TEXT)
        put_text(strip, number, width - number_width - depth, baseline, scale, _TEXT)
    return np.concatenate([picture, strip])
