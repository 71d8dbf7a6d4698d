"""The legend of a page: a patch of colour and a name for each class, in as many lines as they need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import cv2
import numpy as np

from effdense.visualize.palette import Color, Palette, color_of
from effdense.visualize.picture import put_text, shorten, text_size

LegendEntry = tuple[str, Color]
# What a page takes: class names (index or key is the label) or names with their colours.
Legend = Sequence[str] | Mapping[int, str] | Sequence[LegendEntry]

PAPER, INK = (250, 250, 250), (40, 40, 40)
GAP = 8  # px
_SCALE = 0.5
_MIN_WIDTH = 320  # px: names below a small picture stay readable
_ALL_UP_TO = 20  # more classes than these are not told apart by colour: only those that occur are shown
_MOST = 40


def class_legend(
    names: Sequence[str],
    counts: Mapping[int, int],
    *,
    palette: Palette | None = None,
    unpainted: Collection[int] = (),
) -> list[LegendEntry]:
    """Entries of a legend for pictures of these classes.

    Args:
        names: of all K classes.
        counts: how often each label occurs (pixels, boxes). Up to 20 classes all are shown, in label order; of more,
            those that occur, the most frequent first, at most 40 and how many more there are.
        palette: RGB of class i at index i.
        unpainted: classes left out, as they have no colour in the pictures.
    """
    labels = [label for label in range(len(names)) if label not in unpainted]
    if len(labels) > _ALL_UP_TO:
        occurring = [label for label in labels if counts.get(label, 0) > 0]
        labels = sorted(occurring, key=lambda label: -counts[label])
    entries = [(names[label], color_of(label, palette)) for label in labels[:_MOST]]
    if len(labels) > _MOST:
        entries.append((f"and {len(labels) - _MOST} more", PAPER))
    return entries


def entries_of(legend: Legend) -> list[LegendEntry]:
    """Names of classes with their colours; entries that have theirs stay."""
    named: Iterable[tuple[int, str | LegendEntry]] = (
        legend.items() if isinstance(legend, Mapping) else enumerate(legend)
    )
    entries: list[LegendEntry] = []
    for label, entry in named:
        entries.append((entry, color_of(label)) if isinstance(entry, str) else entry)
    return entries


def draw_legend(entries: Sequence[LegendEntry], width: int) -> np.ndarray:
    """uint8 (height, width, 3) RGB with a patch and a name for each entry."""
    _, text_height, depth = text_size("", _SCALE)
    line_height = text_height + depth + GAP
    placed: list[tuple[int, int, Color, str]] = []
    left, line = GAP, 0
    for name, color in entries:
        name = shorten(name, _SCALE, width - 4 * GAP - text_height)
        needed = text_height + GAP + text_size(name, _SCALE)[0] + 2 * GAP
        if left > GAP and left + needed > width:
            left, line = GAP, line + 1
        placed.append((left, line, color, name))
        left += needed
    page = np.full(((line + 1) * line_height, width, 3), PAPER, np.uint8)
    for left, line, color, name in placed:
        top = line * line_height + GAP // 2
        cv2.rectangle(page, (left, top), (left + text_height, top + text_height), color, cv2.FILLED)
        put_text(page, name, left + text_height + GAP, top + text_height, _SCALE, INK)
    return page


def with_legend(page: np.ndarray, legend: Legend) -> np.ndarray:
    """A page with the legend below, uint8 (H', W', 3) RGB; nothing is covered, narrow pages are padded to 320 px."""
    entries = entries_of(legend)
    if not entries:
        return page
    below = draw_legend(entries, max(page.shape[1], _MIN_WIDTH))
    height, width = page.shape[0] + GAP + below.shape[0], below.shape[1]
    whole = np.full((height, width, 3), PAPER, np.uint8)
    whole[: page.shape[0], : page.shape[1]] = page
    whole[page.shape[0] + GAP :] = below
    return whole
