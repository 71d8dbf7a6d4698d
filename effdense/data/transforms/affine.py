"""Random rotation, scale, shear, shift and perspective in one warp from the original picture to the canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from effdense.data.transforms import geometry
from effdense.data.transforms.geometry import MEAN_FILL, Interpolation, check_size
from effdense.data.transforms.joining import AnySample
from effdense.data.transforms.options import (
    checked_fill,
    checked_interpolation,
    checked_number,
    checked_range,
    checked_share,
)
from effdense.data.transforms.outlines import move_objects
from effdense.errors import ConfigError


def affine_matrix(
    source: tuple[int, int],
    size: tuple[int, int],
    *,
    degrees: float = 0.0,
    translate: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
    perspective: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float64]:
    """(3, 3) from px of a picture to px of a canvas; pixel edges.

    Centre goes to centre, and with the defaults the picture just fits. About the centre it is then scaled, sheared,
    turned and tilted, at last shifted.

    Args:
        source, size: (height, width) px of picture and canvas.
        degrees: clockwise as seen. translate: x, y shift as a share of the canvas. shear: x, y degrees.
        perspective: x, y: at the right and lower border of the canvas the picture is p nearer or farther: what was at
            distance d from the centre comes to d / (1 + p); -0.5 < p < 0.5 keeps all of the canvas in front of the eye.
    """
    fit = scale * min(size[0] / source[0], size[1] / source[1])
    angle, shear_x, shear_y = (math.radians(v) for v in (degrees, *shear))
    to_center = np.array([[1, 0, -source[1] / 2], [0, 1, -source[0] / 2], [0, 0, 1]])
    resize = np.diag([fit, fit, 1.0])
    skew = np.array([[1, math.tan(shear_x), 0], [math.tan(shear_y), 1, 0], [0, 0, 1]])
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, 1, 0], [perspective[0] * 2 / size[1], perspective[1] * 2 / size[0], 1]])
    x, y = (0.5 + translate[0]) * size[1], (0.5 + translate[1]) * size[0]
    to_place = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    return cast(NDArray[np.float64], to_place @ tilt @ turn @ skew @ resize @ to_center)


@dataclass(frozen=True)
class RandomAffine:
    """One random warp from the original picture to a canvas of fixed size; for detection and segmentation.

    Defaults are YOLOX's (arXiv 2107.08430; turn 10 degrees, shift .1, scale .5 to 1.5, shear 2 degrees). Boxes are the
    tight boxes of what can be seen: of the outline where an object has one (read the data set with ``segments=True``),
    else of the turned rectangle, which is larger than the object in it; mind that with large angles. Masks take the
    class under each pixel's centre, 255 beyond the picture.

    Args:
        size: px of the canvas, one number for a square or (height, width).
        prob: share of the samples that are turned, shifted, scaled and so on; the others are fitted into the canvas.
        degrees: the angle is drawn from -x to x. translate: shifts, as shares of the sides, from -x to x.
        scale: lowest and highest factor; 1 makes the picture just fit.
        shear: both angles are drawn from -x to x degrees. perspective: both tilts from -x to x, below 0.5; 0 is none.
        fill: RGB beyond the picture.
        min_visible: boxes with less of their area on the canvas are dropped.
        interpolation: see ``geometry.resize_window``.

    Raises: ConfigError for values out of range.
    """

    lazy: ClassVar[bool] = True

    size: int | tuple[int, int]
    prob: float = 1.0
    degrees: float = 10.0
    translate: float = 0.1
    scale: tuple[float, float] = (0.5, 1.5)
    shear: float = 2.0
    perspective: float = 0.0
    fill: tuple[int, int, int] = MEAN_FILL
    min_visible: float = 0.1
    interpolation: Interpolation = "fast"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_size(self.size))
        checked_share("RandomAffine", "prob", self.prob)
        limits = {"degrees": 180.0, "translate": 1.0, "shear": 60.0, "perspective": 0.45}
        for name, limit in limits.items():
            checked_number("RandomAffine", name, getattr(self, name), 0, limit)
        object.__setattr__(self, "scale", checked_range("RandomAffine", "scale", self.scale))
        object.__setattr__(self, "fill", checked_fill("RandomAffine", self.fill))
        checked_share("RandomAffine", "min_visible", self.min_visible)
        checked_interpolation("RandomAffine", self.interpolation)

    def draw(self, source: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float64]:
        """A random matrix for a picture of (height, width) px; as many numbers are drawn whatever the options."""
        size = check_size(self.size)
        changed = float(generator.random()) < self.prob
        turn, x, y, shear_x, shear_y, tilt_x, tilt_y = generator.uniform(-1, 1, 7).tolist()
        scale = float(generator.uniform(*self.scale))
        if not changed:
            return affine_matrix(source, size)
        return affine_matrix(
            source,
            size,
            degrees=turn * self.degrees,
            translate=(x * self.translate, y * self.translate),
            scale=scale,
            shear=(shear_x * self.shear, shear_y * self.shear),
            perspective=(tilt_x * self.perspective, tilt_y * self.perspective),
        )

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        if "matrix" not in sample:
            raise ConfigError(
                "RandomAffine is for detection and segmentation; for classification use RandomResizedCrop and "
                "RandAugment."
            )
        size = check_size(self.size)
        frame = (int(sample["image"].shape[0]), int(sample["image"].shape[1]))
        matrix = self.draw(frame, generator)
        objects: dict[str, Any] = {k: sample[k] for k in ("boxes", "labels", "object_masks") if k in sample}
        rest = {key: value for key, value in sample.items() if key not in objects}
        warped = geometry.apply_matrix(
            rest, matrix, size, fill=self.fill, interpolation=self.interpolation, min_visible=self.min_visible
        )
        if objects:
            boxes, labels, masks = move_objects(
                objects["boxes"], objects["labels"], objects.get("object_masks"), matrix, frame, size,
                min_visible=self.min_visible,
            )  # fmt: skip
            objects = {"boxes": boxes, "labels": labels, **({} if masks is None else {"object_masks": masks})}
        return cast(AnySample, {**warped, **objects})
