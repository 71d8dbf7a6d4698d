"""Mirroring of picture, boxes, mask and matrix, whichever a sample has; see ``geometry.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from effdense.data.box_geometry import transform_boxes
from effdense.errors import ConfigError

AnySample = TypeVar("AnySample", bound=Mapping[str, Any])


class HorizontalFlip:
    """Mirror left and right with probability ``prob``."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = _check_prob(prob)

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        if generator.random() >= self.prob:
            return sample
        return _mirrored(sample, np.array([[-1, 0, sample["image"].shape[1]], [0, 1, 0], [0, 0, 1]], np.float64), 1)

    def __repr__(self) -> str:
        return f"HorizontalFlip(prob={self.prob})"


class VerticalFlip:
    """Mirror top and bottom with probability ``prob``: for pictures without an upside, such as those taken from above
    or through a microscope.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = _check_prob(prob)

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        if generator.random() >= self.prob:
            return sample
        return _mirrored(sample, np.array([[1, 0, 0], [0, -1, sample["image"].shape[0]], [0, 0, 1]], np.float64), 0)

    def __repr__(self) -> str:
        return f"VerticalFlip(prob={self.prob})"


def _mirrored(sample: AnySample, matrix: NDArray[np.float64], axis: int) -> AnySample:
    """The sample mirrored by OpenCV along its axis 1 (left and right) or 0, which the matrix says too."""
    changes: dict[str, Any] = {"image": cv2.flip(sample["image"], axis)}
    if "matrix" in sample:  # a classifier's sample keeps no account of where its pixels came from
        changes["matrix"] = matrix @ sample["matrix"]
    if "boxes" in sample:
        changes["boxes"] = transform_boxes(sample["boxes"], matrix)
    if "mask" in sample:
        changes["mask"] = cv2.flip(sample["mask"], axis)
    return cast(AnySample, {**sample, **changes})


def _check_prob(prob: float) -> float:
    if not 0 <= prob <= 1:
        raise ConfigError(f"prob must be in 0..1, got {prob}.")
    return prob
