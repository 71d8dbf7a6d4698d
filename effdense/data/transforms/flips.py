"""Mirroring of picture, boxes, mask and matrix, whichever a sample has; see ``geometry.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import cv2
import numpy as np

from effdense.data.transforms.box_geometry import transform_boxes
from effdense.data.transforms.options import checked_share
from effdense.data.transforms.pending import Pending, mirror

AnySample = TypeVar("AnySample", bound=Mapping[str, Any])


class HorizontalFlip:
    """Mirror left and right with probability ``prob``."""

    lazy = True

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = checked_share(type(self).__name__, "prob", prob)

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        if generator.random() >= self.prob:
            return sample
        return _mirrored(sample, 1)

    def __repr__(self) -> str:
        return f"HorizontalFlip(prob={self.prob})"


class VerticalFlip:
    """Mirror top and bottom with probability ``prob``: for pictures without an upside, such as those taken from above
    or through a microscope.
    """

    lazy = True

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = checked_share(type(self).__name__, "prob", prob)

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        if generator.random() >= self.prob:
            return sample
        return _mirrored(sample, 0)

    def __repr__(self) -> str:
        return f"VerticalFlip(prob={self.prob})"


def _mirrored(sample: AnySample, axis: int) -> AnySample:
    """The sample mirrored left and right (axis 1) or top and bottom (0); a pending picture stays pending."""
    matrix = mirror(sample["image"].shape[:2], axis)
    changes: dict[str, Any] = {}
    for key in ("image", "mask"):
        picture = sample.get(key)
        if picture is not None:
            changes[key] = picture.flipped(axis) if isinstance(picture, Pending) else cv2.flip(picture, axis)
    if "matrix" in sample:  # a classifier's sample keeps no account of where its pixels came from
        changes["matrix"] = matrix @ sample["matrix"]
    if "boxes" in sample:
        changes["boxes"] = transform_boxes(sample["boxes"], matrix)
    if sample.get("object_masks") is not None:
        changes["object_masks"] = sample["object_masks"].moved(matrix)
    return cast(AnySample, {**sample, **changes})
