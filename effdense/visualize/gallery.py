"""Panels of a gallery: the truth of a picture beside what was said of it, every box in the colour of its fate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from effdense.visualize.draw import draw_marks
from effdense.visualize.legend import GAP, LegendEntry
from effdense.visualize.palette import Color
from effdense.visualize.picture import put_text, require_image, shorten, text_size

RIGHT: Color = (60, 190, 80)
WRONG: Color = (235, 60, 45)
NOT_FOUND: Color = (255, 150, 20)
_LEFT_ALONE: Color = (165, 165, 165)  # crowds, and what they excuse
_EMPTY: Color = (225, 225, 225)


@dataclass(frozen=True)
class Mark:
    """A box with what to write on it; the fate decides the colour: right, wrong, missed or excused."""

    box: tuple[float, float, float, float]  # xyxy px of the picture
    text: str
    fate: str


_COLORS = {"right": RIGHT, "wrong": WRONG, "missed": NOT_FOUND, "excused": _LEFT_ALONE}
# What is on top: the false ones, then the missed.
_LAYERS = {"excused": 0, "right": 1, "missed": 2, "wrong": 3}


def gallery_legend() -> list[LegendEntry]:
    """What the colours of :func:`detection_panel` say."""
    return [
        ("right", RIGHT),
        ("false, with its error type", WRONG),
        ("missed object", NOT_FOUND),
        ("crowd, or excused by one", _LEFT_ALONE),
    ]


def detection_panel(
    image: np.ndarray, truth: Sequence[Mark], said: Sequence[Mark], *, width: int = 440, text: bool = True
) -> np.ndarray:
    """Truth on the left, detections (and missed objects) on the right.

    Args:
        image: uint8 (H, W, 3) RGB. truth, said: boxes in its px; drawn in the order given within each fate.
        width: px of one half; pictures are scaled to it, tall ones to at most 1.5 times as high.

    Returns: uint8 RGB, two halves and 8 px between them.
    """
    require_image(image, "detection_panel")
    scale = min(width / image.shape[1], 1.5 * width / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    halves = []
    for marks in (truth, said):
        ordered = sorted(marks, key=lambda mark: _LAYERS[mark.fate])
        drawn = draw_marks(
            small,
            np.array([mark.box for mark in ordered], np.float64).reshape(-1, 4) * scale,
            [mark.text if text else "" for mark in ordered],
            [_COLORS[mark.fate] for mark in ordered],
            line_width=2,
            text_scale=0.4,
        )
        half = np.full((drawn.shape[0], width, 3), 250, np.uint8)
        left = (width - drawn.shape[1]) // 2
        half[:, left : left + drawn.shape[1]] = drawn
        halves.append(half)
    return np.hstack([halves[0], np.full((halves[0].shape[0], GAP, 3), 250, np.uint8), halves[1]])


def placeholder(lines: Sequence[str], width: int = 440, height: int = 120) -> np.ndarray:
    """A grey picture with text, where a picture is missing."""
    page = np.full((height, width, 3), _EMPTY, np.uint8)
    _, text_height, depth = text_size("", 0.45)
    for i, line in enumerate(lines):
        baseline = 2 * GAP + text_height + i * (text_height + depth + GAP // 2)
        put_text(page, shorten(line, 0.45, width - 2 * GAP), GAP, baseline, 0.45, (90, 90, 90))
    return page
