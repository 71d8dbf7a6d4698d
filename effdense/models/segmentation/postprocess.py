"""From logits of a letterboxed input to a class map of the original picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effdense.errors import ShapeError

# Logits at original size that exist at a time: 150 classes at 6000 x 4000 px would be 14 GB. Small bands also stay in a
# CPU's cache.
_BAND_VALUES = {"cpu": 2**18, "cuda": 2**26}
# From so many classes on a CPU is faster with the classes of a pixel side by side (channels last).
_CLASSES_SIDE_BY_SIDE = 4
_MOST_CLASSES = 256  # a byte each


def class_map_at(logits: Tensor, matrix: Any, size: tuple[int, int], *, band_rows: int | None = None) -> Tensor:
    """Class of every pixel of the original picture.

    The part of the input that the picture covers is cut out and its logits are resized bilinearly, so that padding is
    neither scored nor smeared into the edge. The result is made in bands of rows, which do not change it.

    Args:
        logits: (1, K, h, w) of the input, K at most 256.
        matrix: (3, 3) original px -> px of the input, a scaling without offset as ``ResizePad`` makes it.
        size: (H, W) px of the original.
        band_rows: rows of the result made at a time; by default as many as a bounded memory takes.

    Returns: (H, W) uint8 in 0..K-1, on the device of the logits. For K = 1: 1 where the logit is above 0, else 0.
    Raises: ShapeError for logits of another rank or batch, and for more classes than a byte holds.
    """
    if logits.ndim != 4 or len(logits) != 1 or logits.shape[1] > _MOST_CLASSES:
        raise ShapeError(
            f"class_map_at: expected logits (1, K, h, w) of one picture and at most {_MOST_CLASSES} classes, got "
            f"{tuple(logits.shape)}."
        )
    height, width = size
    bottom, right = round(height * float(matrix[1, 1])), round(width * float(matrix[0, 0]))
    part = logits[0, :, : max(1, bottom), : max(1, right)].detach()
    result = torch.empty(height, width, dtype=torch.uint8, device=part.device)
    for rows, band in resized_bands(part, size, band_rows):
        result[rows] = _argmax(band)
    return result


def resized_bands(
    logits: Tensor, size: tuple[int, int], band_rows: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Logits resized bilinearly (half-pixel centres), some rows at a time; the bands together are the same for any
    ``band_rows``.

    Args:
        logits: (K, h, w). size: (H, W).
        band_rows: by default as many as a bounded memory takes.

    Yields: (rows of the result, (K, rows, W) float32). On a CPU the values of many classes lie side by side in memory.
    """
    height, width = size
    classes = logits.shape[0]
    if band_rows is None:
        band_rows = max(1, _BAND_VALUES.get(logits.device.type, 2**24) // (classes * width))
    side_by_side = logits.device.type == "cpu" and classes >= _CLASSES_SIDE_BY_SIDE
    above, below, weight = _between(logits.shape[1], height)
    for start in range(0, height, band_rows):
        rows = slice(start, min(start + band_rows, height))
        if logits.shape[1] == height:
            source, places = logits[:, rows].float(), None
        else:
            first = int(above[start])
            source = logits[:, first : int(below[rows.stop - 1]) + 1].float()
            places = above[rows] - first, below[rows] - first, weight[rows]
        yield rows, (_resized_pixels if side_by_side else _resized_planes)(source, places, width)


def _resized_planes(source: Tensor, places: tuple[Tensor, Tensor, Tensor] | None, width: int) -> Tensor:
    """(K, r, w) -> (K, rows, W), contiguous. `places` as of ``_between``, None for the rows as they are."""
    band = source.contiguous()  # picking rows out of channels-last memory is 20 times slower
    if places is not None:
        upper, lower, weight = (values.to(source.device) for values in places)
        upper, lower = band.index_select(1, upper), band.index_select(1, lower)
        # One rounding per operation, whatever the band.
        band = upper + weight[:, None] * (lower - upper)
    if source.shape[2] == width:
        return band
    classes, rows, given = band.shape
    flat = F.interpolate(band.view(1, -1, given), size=width, mode="linear", align_corners=False)
    return flat.view(classes, rows, width)


def _resized_pixels(source: Tensor, places: tuple[Tensor, Tensor, Tensor] | None, width: int) -> Tensor:
    """(K, r, w) -> (K, rows, W), a view of (rows, W, K). `places` as of ``_between``, None for the rows as they are."""
    classes, _, given = source.shape
    if source.stride(0) == 1:
        band = source.permute(1, 2, 0).contiguous()
    else:
        # As a matrix: torch transposes those in blocks.
        band = source.flatten(1).t().contiguous().view(-1, given, classes)
    if places is not None:
        upper, lower, weight = (values.tolist() for values in places)
        source, band = band, band.new_empty(len(weight), given, classes)
        for row, (i, j, share) in enumerate(zip(upper, lower, weight, strict=True)):
            torch.lerp(source[i], source[j], share, out=band[row])
    if given != width:
        left, right, share = _between(given, width)
        band = torch.lerp(band.index_select(1, left), band.index_select(1, right), share[:, None])
    return band.permute(2, 0, 1)


def _between(given: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of the result: the two rows it lies between and its share of the second (half-pixel centres)."""
    at = ((torch.arange(wanted, dtype=torch.float64) + 0.5) * (given / wanted) - 0.5).clamp(0, given - 1)
    above = at.floor().long()
    return above, (above + 1).clamp(max=given - 1), (at - above).float()


def _argmax(logits: Tensor) -> Tensor:
    """Class of every pixel of (K, H, W), uint8; the first of equals. K = 1 is a logit against 0."""
    if len(logits) == 1:
        return (logits[0] > 0).to(torch.uint8)
    if logits.device.type != "cpu":
        return logits.argmax(0).to(torch.uint8)
    if logits.stride(0) == 1:
        # NumPy's looks at several values at a time, torch's at one.
        return torch.from_numpy(np.argmax(logits.permute(1, 2, 0).numpy(), axis=-1)).to(torch.uint8)
    # torch's reduction over the first axis reads across memory on the CPU: 4 times slower.
    best, found = logits[0].clone(), torch.zeros(logits.shape[1:], dtype=torch.uint8)
    for label in range(1, len(logits)):
        found.masked_fill_(logits[label] > best, label)
        torch.maximum(best, logits[label], out=best)
    return found
