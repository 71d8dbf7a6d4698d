"""Mosaic: four pictures around a random point of one canvas (YOLOv4, arXiv 2004.10934, section 3.3).

YOLO's own code puts four whole pictures on a canvas of twice the side and cuts the middle out of it. Here each picture
is cut first and resized straight into its quarter, so a mosaic makes no more pixels than it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from effdense.data.transforms.geometry import MASK_FILL, MEAN_FILL, Interpolation, check_size
from effdense.data.transforms.joining import (
    AnySample,
    joined_objects,
    random_view,
    shifted,
)
from effdense.data.transforms.options import checked_fill, checked_interpolation, checked_range, checked_share
from effdense.errors import ConfigError


@dataclass(frozen=True)
class Mosaic:
    """Four pictures in one; for detection and segmentation, in training only.

    Each picture is resized by a factor f of its own, drawn uniformly from ``scale``: 1 makes it just fit the whole
    canvas. A random window of it fills its quarter; a picture smaller than its quarter lies at the inner corner, with
    ``fill`` (a mask: 255) beyond it.

    ``others`` decides whether a sample becomes a mosaic: it returns no index where it does not, and a call without
    others returns the sample as it came, at its own size; so a transform that fixes the size has to follow.
    The sample stays that of the first picture (id, path, ``matrix``): a mosaic has no one way back to original pixels.

    Args:
        size: px of the canvas, one number for a square or (height, width).
        prob: share of the samples that become mosaics.
        scale: lowest and highest f.
        center: lowest and highest place of the common corner, as a share of the sides.
        fill: RGB of what no picture covers.
        min_visible: boxes with less of their area inside their quarter are dropped.
        interpolation: see ``geometry.resize_window``.

    Raises: ConfigError for values out of range.
    """

    lazy: ClassVar[bool] = True

    size: int | tuple[int, int]
    prob: float = 0.5
    scale: tuple[float, float] = (0.5, 1.5)
    center: tuple[float, float] = (0.25, 0.75)
    fill: tuple[int, int, int] = MEAN_FILL
    min_visible: float = 0.1
    interpolation: Interpolation = "fast"

    def __post_init__(self) -> None:
        size = check_size(self.size)
        if min(size) < 2:
            raise ConfigError(f"Mosaic.size must be at least 2 px, so that there are four quarters, got {self.size!r}.")
        object.__setattr__(self, "size", size)
        checked_share("Mosaic", "prob", self.prob)
        object.__setattr__(self, "scale", checked_range("Mosaic", "scale", self.scale))
        object.__setattr__(self, "center", checked_range("Mosaic", "center", self.center, up_to=1.0))
        object.__setattr__(self, "fill", checked_fill("Mosaic", self.fill))
        checked_share("Mosaic", "min_visible", self.min_visible)
        checked_interpolation("Mosaic", self.interpolation)

    def others(self, count: int, generator: np.random.Generator) -> list[int]:
        """Positions of the three other pictures in a data set of ``count``; none where there is to be no mosaic."""
        if float(generator.random()) >= self.prob:
            return []
        return [int(i) for i in generator.integers(0, count, 3)]

    def __call__(self, sample: AnySample, generator: np.random.Generator, others: Sequence[Any] = ()) -> AnySample:
        if not others:
            return sample
        if len(others) != 3:
            raise ConfigError(f"Mosaic joins a sample with three others, got {len(others)}.")
        height, width = check_size(self.size)
        y, x = (min(max(1, round(side * generator.uniform(*self.center))), side - 1) for side in (height, width))
        image = np.empty((height, width, 3), np.uint8)
        image[:] = self.fill
        mask = np.full((height, width), MASK_FILL, np.uint8) if "mask" in sample else None
        parts = []
        for row, part in enumerate((sample, *others)):
            above, left = row < 2, row % 2 == 0
            view = random_view(
                part,
                (y if above else height - y, x if left else width - x),
                generator,
                canvas=(height, width),
                scale=self.scale,
                flip=0.0,
                fill=self.fill,
                interpolation=self.interpolation,
                min_visible=self.min_visible,
            )
            rows, columns = view["image"].shape[:2]
            top, start = y - rows if above else y, x - columns if left else x
            image[top : top + rows, start : start + columns] = view["image"]
            if mask is not None:
                mask[top : top + rows, start : start + columns] = view["mask"]
            parts.append(shifted(view, start, top, (height, width)))
        changes = {"image": image, "matrix": parts[0]["matrix"], **joined_objects(parts)}
        if mask is not None:
            changes["mask"] = mask
        return {**sample, **changes}  # type: ignore[return-value]
