"""Several pictures on one page: truth beside prediction, and contact sheets with captions and a legend of classes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from effdense.errors import ConfigError
from effdense.visualize.legend import GAP as _GAP
from effdense.visualize.legend import INK, PAPER, Legend, draw_legend, entries_of, with_legend
from effdense.visualize.picture import put_text, require_image, shorten, text_size

_CAPTION, _HEADING = 0.5, 0.8  # text scales


def side_by_side(
    *pictures: np.ndarray,
    titles: Sequence[str] = ("truth", "prediction", "errors"),
    legend: Legend | None = None,
) -> np.ndarray:
    """Pictures in a row with a title above each; smaller ones are padded, none is resized.

    Args:
        pictures: uint8 (H, W, 3) RGB each.
        titles: one for each picture, or more.
        legend: below the row: class names (index or key is the label), or (name, colour).

    Returns:
        uint8 RGB; the row is the sum of the widths and 8 px between them wide.

    Raises:
        ConfigError: no picture, or more than titles.
        ShapeError: a picture is not uint8 (H, W, 3).
    """
    if not 1 <= len(pictures) <= len(titles):
        raise ConfigError(f"side_by_side: {len(pictures)} pictures and {len(titles)} titles; expected one for each.")
    cells = [
        _captioned(require_image(picture, "side_by_side"), title)
        for picture, title in zip(pictures, titles, strict=False)
    ]
    height = max(cell.shape[0] for cell in cells)
    row = [_padded(cells[0], height, cells[0].shape[1])]
    for cell in cells[1:]:
        row += [_paper(height, _GAP), _padded(cell, height, cell.shape[1])]
    page = np.hstack(row)
    return with_legend(page, legend) if legend else page


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int = 2,
    *,
    captions: Sequence[str] | None = None,
    heading: str = "",
    legend: Legend | None = None,
    cell_width: int = 480,
) -> np.ndarray:
    """Pictures in rows on one page, row by row from the left.

    Args:
        images: uint8 (H, W, 3) RGB each, of any sizes; each is resized to ``cell_width``.
        columns: pictures per row; for truth beside prediction give the pairs one after the other and 2 (or 4).
        captions: a line above each picture.
        heading: a title above the page.
        legend: below the heading: class names (index or key is the label), or (name, colour).
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
        page.append(draw_legend(entries_of(legend), width))
    for start in range(0, len(cells), columns):
        page += [_row(cells[start : start + columns], cell_width, width), _paper(_GAP, width)]
    return np.vstack(page)


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, dtype=np.uint8)


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
    put_text(line, shorten(text, scale, width - 2 * _GAP), _GAP, height + _GAP // 2, scale, INK)
    return line


def _captioned(image: np.ndarray, caption: str) -> np.ndarray:
    return np.vstack([_text_line(caption, image.shape[1], _CAPTION), image])


def _row(cells: Sequence[np.ndarray], cell_width: int, width: int) -> np.ndarray:
    row = _paper(max(cell.shape[0] for cell in cells), width)
    for column, cell in enumerate(cells):
        left = _GAP + column * (cell_width + _GAP)
        row[: cell.shape[0], left : left + cell_width] = cell
    return row
