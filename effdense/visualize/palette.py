"""One colour per class, the same in every picture and every run: the data set's own, else by the label alone."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from effdense.errors import ConfigError

Color = tuple[int, int, int]
Palette = Sequence[Sequence[int]]  # RGB of class i at index i

# Names of classes that are no thing of their own; pictures leave their pixels as they were.
BACKGROUND_NAMES = frozenset({"background", "_background_", "unlabelled", "unlabeled", "void"})

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


def color_of(label: int, palette: Palette | None = None) -> Color:
    """RGB of a class: that of the palette, past its end (or without one) :func:`class_color`."""
    if palette is None or not 0 <= label < len(palette):
        return class_color(label)
    red, green, blue = palette[label]
    return int(red), int(green), int(blue)


def color_table(palette: Palette | None = None) -> np.ndarray:
    """Colours of the labels 0..255, uint8 (256, 3).

    Raises: ConfigError for a palette that is not three whole numbers in 0..255 per class, or has more than 256.
    """
    table = np.array([class_color(label) for label in range(256)], np.uint8)
    if palette is not None and len(palette):
        colors = np.asarray(palette)
        fits = colors.ndim == 2 and colors.shape[1] == 3 and colors.dtype.kind in "iu" and len(colors) <= 256
        if not fits or colors.min() < 0 or colors.max() > 255:
            raise ConfigError(
                "a palette is (red, green, blue) in 0..255 for each of at most 256 classes, got "
                f"{colors.dtype} {colors.shape}{'' if not fits else f' in {colors.min()}..{colors.max()}'}."
            )
        table[: len(colors)] = colors
    return table


def background_labels(names: Sequence[str] | None, palette: Palette | None = None) -> frozenset[int]:
    """Classes that pictures leave unpainted: those named background or unlabelled, and a class 0 whose colour is black
    (so PASCAL VOC has it).
    """
    named = {label for label, name in enumerate(names or ()) if name.strip().lower() in BACKGROUND_NAMES}
    black = {0} if palette is not None and len(palette) and not any(palette[0]) else set()
    return frozenset(named | black)


def text_color(background: Color) -> Color:
    """Black or white, whichever reads better on a background. Source: luma weights of ITU-R BT.601."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
