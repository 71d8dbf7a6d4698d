"""MixUp of two pictures with the boxes of both (arXiv 1902.04103 section 3.1; the second at a random scale: YOLOX,
arXiv 2107.08430 section 2.1). For classification see ``mixing.py``, which mixes whole batches on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from effdense.data.transforms import geometry
from effdense.data.transforms.geometry import MEAN_FILL, Interpolation
from effdense.data.transforms.joining import (
    AnySample,
    joined_objects,
    one_other,
    random_view,
    shifted,
)
from effdense.data.transforms.options import checked_fill, checked_interpolation, checked_range, checked_share
from effdense.errors import ConfigError


@dataclass(frozen=True)
class MixUp:
    """Blend a picture with another one; for detection, in training only.

    Comes after the transform that fixes the size. The other picture is resized by a factor drawn uniformly from
    ``scale`` (1 makes it just fit), at most a window of the size is cut out, and it lies top left, ``fill`` beyond it.
    Every pixel becomes r * its own + (1 - r) * the other's with one r per sample from Beta(alpha, alpha). The boxes of
    both count alike in the loss, whatever their share, as in YOLOX.

    ``others`` decides whether a sample is mixed: it returns no index where not, and a call without others returns the
    sample as it came.

    Args:
        prob: share of the samples that are mixed.
        alpha: of the Beta distribution; 1.5 is the paper's, larger is nearer to half and half.
        scale: lowest and highest factor of the other picture. flip: share of others that are mirrored.
        fill: RGB beyond the other picture.
        min_visible: boxes of the other with less of their area inside the window are dropped.
        interpolation: see ``geometry.resize_window``.

    Raises: ConfigError for values out of range, and on a sample with a mask, whose classes cannot be blended.
    """

    lazy: ClassVar[bool] = True

    prob: float = 0.5
    alpha: float = 1.5
    scale: tuple[float, float] = (0.5, 1.5)
    flip: float = 0.5
    fill: tuple[int, int, int] = MEAN_FILL
    min_visible: float = 0.1
    interpolation: Interpolation = "fast"

    def __post_init__(self) -> None:
        checked_share("MixUp", "prob", self.prob)
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float)) or not 0 < self.alpha < 1e6:
            raise ConfigError(f"MixUp.alpha must be a number above 0, such as 1.5, got {self.alpha!r}.")
        object.__setattr__(self, "scale", checked_range("MixUp", "scale", self.scale))
        checked_share("MixUp", "flip", self.flip)
        object.__setattr__(self, "fill", checked_fill("MixUp", self.fill))
        checked_share("MixUp", "min_visible", self.min_visible)
        checked_interpolation("MixUp", self.interpolation)

    def others(self, count: int, generator: np.random.Generator) -> list[int]:
        """Position of the other picture in a data set of ``count``; none where there is to be no mixing."""
        return [int(generator.integers(0, count))] if float(generator.random()) < self.prob else []

    def __call__(self, sample: AnySample, generator: np.random.Generator, others: Sequence[Any] = ()) -> AnySample:
        if "mask" in sample or "boxes" not in sample:
            raise ConfigError(
                "MixUp blends pictures with boxes. Classes of a mask cannot be blended (use Mosaic); a classifier's "
                "pictures are mixed on the device (model.mixup)."
            )
        if not others:
            return sample
        other = one_other(others, "MixUp")
        own: Any = geometry.settled(sample)
        height, width = own["image"].shape[:2]
        view = random_view(
            other,
            (height, width),
            generator,
            canvas=None,
            scale=self.scale,
            flip=self.flip,
            fill=self.fill,
            interpolation=self.interpolation,
            min_visible=self.min_visible,
        )
        share = float(generator.beta(self.alpha, self.alpha))
        canvas = np.empty_like(own["image"])
        canvas[:] = self.fill
        canvas[: view["image"].shape[0], : view["image"].shape[1]] = view["image"]
        image = cv2.addWeighted(own["image"], share, canvas, 1.0 - share, 0.0)
        view = shifted(view, 0, 0, (height, width))
        return {**own, "image": image, **joined_objects((own, view))}  # type: ignore[return-value]
