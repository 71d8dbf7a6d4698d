"""Anchors of a feature pyramid: image size and feature sizes in, one (N, 4) xyxy tensor out.

Order: level (fine to coarse), row, column, octave scale, aspect ratio: that of the heads' outputs after
``(B, A*K, h, w) -> (B, h*w*A, K)``. Source: automl efficientdet/tf2/anchors.py; effdet/anchors.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pyramid_sizes(image_size: tuple[int, int], min_level: int, max_level: int) -> list[tuple[int, int]]:
    """(h, w) of levels ``min_level .. max_level`` for an image of (H, W): every level halves and rounds up."""
    height, width = image_size
    sizes = []
    for level in range(1, max_level + 1):
        height, width = (height + 1) // 2, (width + 1) // 2
        if level >= min_level:
            sizes.append((height, width))
    return sizes


def make_anchors(
    image_size: tuple[int, int],
    feature_sizes: Sequence[tuple[int, int]],
    *,
    anchor_scale: float = 4.0,
    num_scales: int = 3,
    aspect_ratios: Sequence[tuple[float, float]] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)),
    device: torch.device | None = None,
) -> Tensor:
    """Anchor boxes of all levels.

    Args:
        image_size: (H, W) of the network input in px.
        feature_sizes: (h, w) of each level, fine to coarse.
        anchor_scale: base anchor side in units of the level's stride.
        num_scales: octave scales 2^(i / num_scales) per level.
        aspect_ratios: (width factor, height factor) pairs.

    Returns: (N, 4) float32 xyxy px, N = A * sum(h*w).

    The stride is the real quotient image / feature size per axis, so sizes that no power of two divides keep their
    anchors centred on the cells: centre (i + .5) * stride. Computed in float64 and rounded once, as effdet does: equal
    IoUs of neighbouring anchors are common, and another rounding would break those ties another way in the assignment.
    Computed on the CPU whatever the device: the same bits everywhere, and not every device has float64.
    """
    levels = []
    for height, width in feature_sizes:
        stride_y, stride_x = image_size[0] / height, image_size[1] / width
        half = [
            (
                anchor_scale * stride_x * 2 ** (octave / num_scales) * ratio_x / 2,
                anchor_scale * stride_y * 2 ** (octave / num_scales) * ratio_y / 2,
            )
            for octave in range(num_scales)
            for ratio_x, ratio_y in aspect_ratios
        ]
        half_sides = torch.tensor(half, dtype=torch.float64)  # (A, 2) x, y
        center_x = (torch.arange(width, dtype=torch.float64) + 0.5) * stride_x
        center_y = (torch.arange(height, dtype=torch.float64) + 0.5) * stride_y
        center = torch.stack(
            (center_x[None, :].expand(height, width), center_y[:, None].expand(height, width)), dim=-1
        )[:, :, None, :]  # (h, w, 1, 2)
        levels.append(torch.cat((center - half_sides, center + half_sides), dim=-1).reshape(-1, 4))
    return torch.cat(levels).to(device, torch.float32)
