"""From logits of a letterboxed input to a class map of the original picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits at original size that exist at a time: 150 classes at 6000 x 4000 px would be 14 GB. Small bands also stay in a
# CPU's cache.
_BAND_VALUES = {"cpu": 2**20, "cuda": 2**26}


def class_map_at(logits: Tensor, matrix: Any, size: tuple[int, int], *, band_rows: int | None = None) -> Tensor:
    """Class of every pixel of the original picture.

    The part of the input that the picture covers is cut out and its logits are resized bilinearly, so that padding is
    neither scored nor smeared into the edge. The result is made in bands of rows, which do not change it.

    Args:
        logits: (1, K, h, w) of the input.
        matrix: (3, 3) original px -> px of the input, a scaling without offset as ``ResizePad`` makes it.
        size: (H, W) px of the original.
        band_rows: rows of the result made at a time; by default as many as a bounded memory takes.

    Returns: (H, W) uint8 in 0..K-1, on the device of the logits. For K = 1: 1 where the logit is above 0, else 0.
    """
    height, width = size
    bottom, right = round(height * float(matrix[1, 1])), round(width * float(matrix[0, 0]))
    part = logits[0, :, : max(1, bottom), : max(1, right)]
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

    Yields: (rows of the result, (K, rows, W) float32).
    """
    height, width = size
    classes = logits.shape[0]
    if band_rows is None:
        band_rows = max(1, _BAND_VALUES.get(logits.device.type, 2**24) // (classes * width))
    above, below, weight = _rows(logits.shape[1], height)
    for start in range(0, height, band_rows):
        rows = slice(start, min(start + band_rows, height))
        if logits.shape[1] == height:
            band = logits[:, rows].float().contiguous()
        else:
            first = int(above[start])
            # Contiguous, because picking rows out of channels-last memory is 20 times slower.
            source = logits[:, first : int(below[rows.stop - 1]) + 1].float().contiguous()
            upper, lower = ((index[rows] - first).to(logits.device) for index in (above, below))
            upper, lower = source.index_select(1, upper), source.index_select(1, lower)
            # One rounding per operation, whatever the band.
            band = upper + weight[rows, None].to(logits.device) * (lower - upper)
        if logits.shape[2] != width:
            flat = F.interpolate(band.view(1, -1, logits.shape[2]), size=width, mode="linear", align_corners=False)
            band = flat.view(classes, -1, width)
        yield rows, band


def _rows(given: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
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
    # torch's reduction over the first axis reads across memory on the CPU: 4 times slower.
    best, found = logits[0].clone(), torch.zeros(logits.shape[1:], dtype=torch.uint8)
    for label in range(1, len(logits)):
        found.masked_fill_(logits[label] > best, label)
        torch.maximum(best, logits[label], out=best)
    return found
