"""Masks of ground truth as compressed run lengths: polygons, run lengths and outlines of records, checked first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data import run_lengths
from effdense.errors import DataError

_FARTHEST = 100_000  # px; pycocotools walks along every outline, in memory


def place_of(name: str, annotations: Sequence[Mapping[str, Any]], i: int) -> str:
    """What to call an annotation in a message."""
    return f"{name}: annotations[{i}] (id {annotations[i].get('id')})"


def masks_of_annotations(
    name: str,
    annotations: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
    image: NDArray[np.int64],
    image_ids: NDArray[np.int64],
    at: NDArray[np.int64],
) -> list[Any]:
    """Compressed run lengths of every annotation, as pycocotools' annToRLE makes them."""
    owners = at[np.searchsorted(image_ids, image)].tolist()
    masks = []
    for i, (annotation, owner) in enumerate(zip(annotations, owners, strict=True)):
        shape = annotation.get("segmentation")
        if shape is None or annotation.get("area") is None:
            raise DataError(
                f"{place_of(name, annotations, i)}: 'segmentation' and 'area' are needed to compare masks; one or "
                "both are missing."
            )
        size = images[owner].get("height"), images[owner].get("width")
        masks.append(_runs(shape, size, place_of(name, annotations, i)))
    run_lengths.require_masks(masks, lambda i: place_of(name, annotations, i))
    return masks


def _runs(shape: Any, size: tuple[Any, Any], place: str) -> Any:
    from pycocotools import mask

    compressed = isinstance(shape, Mapping) and isinstance(shape.get("counts"), (str, bytes))
    if compressed and isinstance(shape.get("size"), (list, tuple)):
        return shape
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        raise DataError(f"{place}: masks need width and height of its image, found {size[::-1]}.") from None
    try:
        if isinstance(shape, Mapping):
            return mask.frPyObjects(dict(shape), height, width)
        if isinstance(shape, (list, tuple)) and shape:
            # The longest first: one of four numbers would be taken for a box.
            rings = sorted((_ring(ring, place) for ring in shape), key=len, reverse=True)
            if len(rings[0]) < 6:
                raise DataError(
                    f"{place}: segmentation cannot be read: no polygon has three points: {str(shape)[:80]}."
                )
            return mask.merge(mask.frPyObjects(rings, height, width))
    except DataError:
        raise
    except Exception as error:  # the Cython code raises bare Exception
        raise DataError(f"{place}: segmentation cannot be read as polygons or run lengths: {error}") from error
    raise DataError(f"{place}: segmentation is {shape!r}; expected polygons [[x1, y1, x2, y2, ...], ...] or RLE.")


def _ring(ring: Any, place: str) -> list[float]:
    """A flat polygon; pycocotools takes any number for an address in memory."""
    try:
        numbers = [float(number) for number in ring]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) < 4 or len(numbers) % 2 or not all(abs(number) <= _FARTHEST for number in numbers):
        raise DataError(
            f"{place}: segmentation cannot be read: a polygon is {str(ring)[:80]}; expected x1, y1, x2, y2, ... in px, "
            f"no farther than {_FARTHEST:,} px from the corner of the image."
        )
    return numbers


def runs_of_segment(segment: Any, size: Sequence[int], place: str) -> Any:
    """Compressed run lengths of an outline of records on an image of (height, width)."""
    if segment is None:
        raise DataError(f"{place} has no outline; 'segm' needs one for each object.")
    if segment.rle is not None:
        return segment.rle
    return _runs([ring.astype(np.float64).ravel().tolist() for ring in segment.polygons], (size[0], size[1]), place)
