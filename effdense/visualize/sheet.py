"""Several pictures on one page: truth beside prediction, and contact sheets with captions and a legend of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from effdense.errors import ConfigError
from effdense.visualize.palette import class_color
from effdense.visualize.picture import put_text, require_image, shorten, text_size

_PAPER, _INK = (250, 250, 250), (40, 40, 40)
_GAP = 8  # px between pictures
_CAPTION, _HEADING = 0.5, 0.8  # text scales


def side_by_side(
    truth: np.ndarray, prediction: np.ndarray, titles: tuple[str, str] = ("truth", "prediction")
) -> np.ndarray:
    """Two pictures with a title above each; the smaller one is padded, neither is resized.

    Returns:
        uint8 (H + title, W_truth + gap + W_prediction, 3) RGB.
    """
    pair = [
        _captioned(require_image(image, "side_by_side"), title)
        for image, title in zip((truth, prediction), titles, strict=True)
    ]
    height = max(image.shape[0] for image in pair)
    gap = _paper(height, _GAP)
    return np.hstack([_padded(pair[0], height, pair[0].shape[1]), gap, _padded(pair[1], height, pair[1].shape[1])])


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int = 2,
    *,
    captions: Sequence[str] | None = None,
    heading: str = "",
    legend: Sequence[str] | Mapping[int, str] | None = None,
    cell_width: int = 480,
) -> np.ndarray:
    """Pictures in rows on one page, row by row from the left.

    Args:
        images: uint8 (H, W, 3) RGB each, of any sizes; each is resized to ``cell_width``.
        columns: pictures per row; for truth beside prediction give the pairs one after the other and 2 (or 4).
        captions: a line above each picture.
        heading: a title above the page.
        legend: class names (index or key is the label) shown with their colours below the heading.
        cell_width: px.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        ConfigError: no images, columns or cell_width below 1, or not one caption per image.
        ShapeError: an image is not uint8 (H, W, 3).
    """
    if not images or columns < 1 or cell_width < 1:
        raise ConfigError(
            f"contact_sheet: {len(images)} images, {columns} columns, cell_width {cell_width}; each must be at least 1."
        )
    if captions is not None and len(captions) != len(images):
        raise ConfigError(f"contact_sheet: {len(images)} images but {len(captions)} captions; expected one for each.")
    cells = [_fitted(require_image(image, "contact_sheet"), cell_width) for image in images]
    if captions is not None:
        cells = [_captioned(cell, caption) for cell, caption in zip(cells, captions, strict=True)]
    columns = min(columns, len(cells))
    width = columns * cell_width + (columns + 1) * _GAP
    page = [_paper(_GAP, width)]
    if heading:
        page.append(_text_line(heading, width, _HEADING))
    if legend:
        page.append(_legend(dict(legend) if isinstance(legend, Mapping) else dict(enumerate(legend)), width))
    for start in range(0, len(cells), columns):
        page += [_row(cells[start : start + columns], cell_width, width), _paper(_GAP, width)]
    return np.vstack(page)


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), _PAPER, dtype=np.uint8)


def _padded(image: np.ndarray, height: int, width: int) -> np.ndarray:
    page = _paper(height, width)
    page[: image.shape[0], : image.shape[1]] = image
    return page


def _fitted(image: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    if (height, width) == image.shape[:2]:
        return image
    interpolation = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


def _text_line(text: str, width: int, scale: float) -> np.ndarray:
    _, height, depth = text_size(text, scale)
    line = _paper(height + depth + _GAP, width)
    put_text(line, shorten(text, scale, width - 2 * _GAP), _GAP, height + _GAP // 2, scale, _INK)
    return line


def _captioned(image: np.ndarray, caption: str) -> np.ndarray:
    return np.vstack([_text_line(caption, image.shape[1], _CAPTION), image])


def _row(cells: Sequence[np.ndarray], cell_width: int, width: int) -> np.ndarray:
    row = _paper(max(cell.shape[0] for cell in cells), width)
    for column, cell in enumerate(cells):
        left = _GAP + column * (cell_width + _GAP)
        row[: cell.shape[0], left : left + cell_width] = cell
    return row


def _legend(names: Mapping[int, str], width: int) -> np.ndarray:
    """Colour patch and name of each class, in as many lines as they need."""
    _, text_height, depth = text_size("", _CAPTION)
    line_height = text_height + depth + _GAP
    placed: list[tuple[int, int, int, str]] = []
    left, line = _GAP, 0
    for label, name in names.items():
        name = shorten(name, _CAPTION, width - 4 * _GAP - text_height)
        needed = text_height + _GAP + text_size(name, _CAPTION)[0] + 2 * _GAP
        if left > _GAP and left + needed > width:
            left, line = _GAP, line + 1
        placed.append((left, line, label, name))
        left += needed
    page = _paper((line + 1) * line_height, width)
    for left, line, label, name in placed:
        top = line * line_height + _GAP // 2
        cv2.rectangle(page, (left, top), (left + text_height, top + text_height), class_color(label), cv2.FILLED)
        put_text(page, name, left + text_height + _GAP, top + text_height, _CAPTION, _INK)
    return page
