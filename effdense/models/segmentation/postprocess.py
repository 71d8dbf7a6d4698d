"""From logits of a letterboxed input to a class map of the original picture."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def class_map_at(logits: Tensor, matrix: Any, size: tuple[int, int]) -> Tensor:
    """Class of every pixel of the original picture.

    The part of the input that the picture covers is cut out and its logits are resized bilinearly, so that padding is
    neither scored nor smeared into the edge.

    Args:
        logits: (1, K, h, w) of the input.
        matrix: (3, 3) original px -> px of the input, a scaling without offset as ``ResizePad`` makes it.
        size: (H, W) px of the original.

    Returns: (H, W) uint8 in 0..K-1, on the device of the logits.
    """
    height, width = size
    bottom, right = round(height * float(matrix[1, 1])), round(width * float(matrix[0, 0]))
    part = logits[:, :, : max(1, bottom), : max(1, right)]
    resized = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
    return resized[0].argmax(0).to(torch.uint8)
