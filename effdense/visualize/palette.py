"""One colour per class, the same in every picture and every run: it depends on the label alone."""

from __future__ import annotations

import colorsys

Color = tuple[int, int, int]

# Chosen by eye for outlines on photographs: bright, saturated, and told apart by hue or by lightness.
_FIRST: tuple[Color, ...] = (
    (255, 59, 48),  # red
    (0, 140, 255),  # blue
    (255, 204, 0),  # yellow
    (40, 205, 65),  # green
    (191, 64, 255),  # violet
    (255, 136, 0),  # orange
    (0, 224, 224),  # cyan
    (255, 105, 200),  # pink
    (168, 235, 60),  # lime
    (110, 110, 255),  # periwinkle
    (0, 140, 130),  # teal
    (200, 140, 90),  # brown
)
_GOLDEN_RATIO = 0.618033988749895  # steps of it spread any number of hues about evenly
_SHADES = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.7))  # saturation, value: neighbouring hues differ in these as well


def class_color(label: int) -> Color:
    """RGB of a class, 0..255 each. Source of the hue steps: the golden-angle rule, label 12 and up."""
    if label < len(_FIRST):
        return _FIRST[max(label, 0)]
    step = label - len(_FIRST)
    saturation, value = _SHADES[step % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb((0.05 + step * _GOLDEN_RATIO) % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_color(background: Color) -> Color:
    """Black or white, whichever reads better on a background. Source: luma weights of ITU-R BT.601."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
