"""Grids of samples on their way to a network: views in, pages out; every picture with the truth that goes with it.

Pictures are brought to the size of a cell first and drawn on then, so names stay readable on small inputs. Nothing
here knows where a view comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from effdense.data.segments import ObjectMasks
from effdense.visualize.draw import draw_boxes
from effdense.visualize.legend import PAPER, class_legend
from effdense.visualize.masks import draw_mask
from effdense.visualize.palette import Palette, background_labels, class_color
from effdense.visualize.picture import require_image
from effdense.visualize.sheet import contact_sheet

MAX_PAGE_PX = 25_000_000
_IGNORE = 255
_HATCH, _HATCH_STEP = (150, 150, 150), 8


@dataclass(frozen=True, eq=False)
class View:
    """A picture and what is known of it, at one stage.

    Attributes:
        image: uint8 (H, W, 3) RGB. title: one line.
        boxes, labels: (G, 4) xyxy px of the image, (G,), or None.
        outlines: of the G objects, or None.
        mask: (H, W) uint8 class map, 255 = ignore, or None.
        classes: labels that a picture has as a whole.
    """

    image: np.ndarray
    title: str
    boxes: Any = None
    labels: Any = None
    outlines: ObjectMasks | None = None
    mask: np.ndarray | None = None
    classes: tuple[int, ...] = ()

    def counts(self) -> Counter[int]:
        """How often each class occurs: objects, pixels, or pictures."""
        if self.mask is not None:
            found = np.bincount(self.mask.ravel(), minlength=256)
            return Counter({int(k): int(found[k]) for k in np.flatnonzero(found) if k != _IGNORE})
        return Counter([*self.classes, *([] if self.labels is None else [int(label) for label in self.labels])])


@dataclass(frozen=True)
class Classes:
    """Names of the classes, in label order, and the data set's own colours, if any."""

    names: Sequence[str]
    palette: Palette | None = None


def draw_view(view: View, classes: Classes, side: int) -> np.ndarray:
    """The view in a cell ``side`` px wide: uint8 (h, side, 3) RGB, h at most ``side``.

    Ignored pixels of a class map are hatched in grey.

    Raises: ShapeError for a picture that is not uint8 (H, W, 3).
    """
    image = require_image(view.image, "draw_view")
    factor = side / max(image.shape[:2])
    width, height = (max(1, round(length * factor)) for length in (image.shape[1], image.shape[0]))
    canvas = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    if view.mask is not None:
        mask = cv2.resize(view.mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        canvas = _hatched(draw_mask(canvas, mask, classes.names, 0.4, palette=classes.palette), mask == _IGNORE)
    scale = np.array([width / image.shape[1], height / image.shape[0]])
    if view.outlines is not None and len(view.outlines):
        canvas = _filled(canvas, view.outlines.moved(np.diag([*scale, 1.0])), view.labels)
    if view.boxes is not None:
        canvas = draw_boxes(canvas, np.asarray(view.boxes) * np.tile(scale, 2), view.labels, class_names=classes.names)
    cell = np.full((height, side, 3), PAPER, np.uint8)
    cell[:, :width] = canvas
    return cell


def pages(
    samples: Iterable[Sequence[View]], classes: Classes, *, columns: int, side: int, heading: str
) -> Iterator[np.ndarray]:
    """Pages with the views of the samples, in each row as many whole samples as fit, at most 25 megapixels each.

    Args:
        samples: views of each. columns: cells in a row; a sample with more goes on in the next row.
        side: width of a cell in px. heading: above every page, with its number.
    """
    rows: list[list[View]] = []
    row: list[View] = []  # being filled with whole samples
    most_rows = max(1, MAX_PAGE_PX // (columns * (side + 8) * (side + 40)) - 1)
    number = 1
    for views in samples:
        if len(row) + len(views) <= columns:
            row += views
            continue
        full = [row] if row else []
        row = []
        if len(views) <= columns:
            row += views
        else:
            full += [list(views[start : start + columns]) for start in range(0, len(views), columns)]
        if rows and len(rows) + len(full) > most_rows:
            yield _page(rows, classes, columns, side, f"{heading}, page {number}")
            rows, number = [], number + 1
        rows += full
    if row and rows and len(rows) == most_rows:
        yield _page(rows, classes, columns, side, f"{heading}, page {number}")
        rows, number = [], number + 1
    rows += [row] if row else []
    if rows:
        yield _page(rows, classes, columns, side, heading if number == 1 else f"{heading}, page {number}")


def _page(rows: Sequence[Sequence[View]], classes: Classes, columns: int, side: int, heading: str) -> np.ndarray:
    cells, titles = [], []
    counts: Counter[int] = Counter()
    for row in rows:
        for view in row:
            cells.append(draw_view(view, classes, side))
            titles.append(view.title)
            counts += view.counts()
        empty = columns - len(row) if len(rows) > 1 else 0
        cells += [np.full((1, side, 3), PAPER, np.uint8)] * empty
        titles += [""] * empty
    boxed = any(view.labels is not None for row in rows for view in row)
    masked = any(view.mask is not None for row in rows for view in row)
    legend = None
    if boxed or masked:
        palette = classes.palette if masked else None
        unpainted = background_labels(classes.names, palette) if masked else frozenset()
        legend = class_legend(classes.names, counts, palette=palette, unpainted=unpainted)
        legend += [("ignored", _HATCH)] if masked else []
    return contact_sheet(
        cells, min(columns, len(cells)), captions=titles, heading=heading, legend=legend, cell_width=side
    )


def _filled(canvas: np.ndarray, outlines: ObjectMasks, labels: Any) -> np.ndarray:
    """Objects filled in the colours of their classes; of two at one place the later is seen."""
    kinds = sorted({int(label) for label in labels})[:_IGNORE]
    shown = np.full(canvas.shape[:2], _IGNORE, np.uint8)
    for bitmap, label in zip(outlines.render((canvas.shape[0], canvas.shape[1])), labels, strict=True):
        if int(label) in kinds:
            shown[bitmap > 0] = kinds.index(int(label))
    palette = [class_color(label) for label in kinds]
    return draw_mask(canvas, shown, alpha=0.35, palette=palette, unpainted=())


def _hatched(canvas: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Grey diagonal lines where a class map counts for nothing."""
    rows, columns = np.indices(where.shape)
    canvas[where & ((rows + columns) % _HATCH_STEP < 2)] = _HATCH
    return canvas
