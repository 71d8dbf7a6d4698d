"""Boundary IoU: class maps in, pixels along the contours out, counted by class.

Large regions hide wrong contours from IoU; Boundary IoU looks at a band inside each region alone. Source: Cheng et al.,
"Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021 (arXiv 2103.16562), section 4: the
band is what is at most d from the contour, d 2 % of the image diagonal; distances are counted in steps of a 3 x 3
square and the image's border is a contour, as in the authors' code (``mask_to_boundary``). For class maps the pixels of
the intersections and unions are summed over the data set, class by class.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effdense.errors import ConfigError, ShapeError
from effdense.evaluation.confusion import count_pairs

RATIO = 0.02  # section 4.2
_MOST_CLASSES = 254  # a byte each for the classes, for what is beyond the band, and for ignore


def check_ratio(ratio: float) -> float:
    """``ratio`` as float; ConfigError unless it is a share of the diagonal above 0 and at most 1."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
        raise ConfigError(f"boundary_ratio is a share of the image diagonal in (0, 1], got {ratio!r}.")
    return float(ratio)


def band_width(height: int, width: int, ratio: float = RATIO) -> int:
    """Width of the band in px, at least 1."""
    return max(1, round(ratio * float(np.hypot(height, width))))


def boundary_band(labels: Tensor, width: int) -> Tensor:
    """Pixels that have another label, or the image's border, at most ``width`` px away.

    Args:
        labels: (H, W) uint8.
        width: px, counted as the larger of the horizontal and the vertical distance.

    Returns: (H, W) bool on the same device.
    """
    if labels.device.type == "cpu":
        square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        values = np.ascontiguousarray(labels.numpy())
        band = torch.from_numpy(cv2.dilate(values, square) != cv2.erode(values, square))
    else:
        band = _differs_nearby(labels, width)
    band[:width] = band[-width:] = True
    band[:, :width] = band[:, -width:] = True
    return band


def _differs_nearby(labels: Tensor, width: int) -> Tensor:
    """Pixels with another label within the square, by pooling. Half floats hold bytes exactly."""
    values = labels[None, None].half()
    high, low = (
        F.max_pool2d(F.max_pool2d(v, (2 * width + 1, 1), 1, (width, 0)), (1, 2 * width + 1), 1, (0, width))
        for v in (values, -values)
    )
    return (high != -low)[0, 0]


def boundary_counts(
    prediction: Tensor, target: Tensor, num_classes: int, *, ratio: float = RATIO, ignore_index: int = 255
) -> Tensor:
    """Intersection and union of the bands of prediction and truth, class by class.

    Pixels that the truth ignores belong to no region in either map, so they are counted nowhere, and where a region
    ends at them both maps have the same contour.

    Args:
        prediction: (H, W) uint8 in 0..K-1.
        target: (H, W) uint8 in 0..K-1 or ``ignore_index``, on the same device.
        num_classes: K, at most 254.
        ratio: width of the band as a share of the diagonal.

    Returns: (2, K) int64 on that device: intersections, unions; those of several images add up.
    Raises: ShapeError for maps that do not fit.
    """
    if prediction.shape != target.shape or target.ndim != 2 or {prediction.dtype, target.dtype} != {torch.uint8}:
        raise ShapeError(
            "boundary_counts: expected two (H, W) uint8 maps, got prediction "
            f"{prediction.dtype} {tuple(prediction.shape)} and target {target.dtype} {tuple(target.shape)}."
        )
    if not 1 <= num_classes <= _MOST_CLASSES:
        raise ShapeError(
            f"boundary_counts: at most {_MOST_CLASSES} classes fit beside 'no band' and 'ignore', got {num_classes}."
        )
    if target.numel() == 0:
        return torch.zeros(2, num_classes, dtype=torch.int64, device=target.device)
    ignored = target == ignore_index
    width = band_width(target.shape[0], target.shape[1], ratio)
    # Beyond the band both maps get one more class, K, and what is asked for stands in a confusion matrix.
    predicted, true = (
        torch.where(boundary_band(labels, width), labels, num_classes)
        for labels in (prediction.masked_fill(ignored, 255), target.masked_fill(ignored, 255))
    )
    counts = count_pairs(predicted.masked_fill(ignored, num_classes), true.masked_fill(ignored, 255), num_classes + 1)
    matrix = counts[:-1].reshape(num_classes + 1, num_classes + 1)
    both = matrix.diagonal()
    return torch.stack((both, matrix.sum(0) + matrix.sum(1) - both))[:, :-1]
