"""Geometry of picture, boxes and mask: every change is one 3x3 matrix, exact for the pixels that were really made.

Samples hold an image and a matrix; those of detection have ``boxes`` and ``labels`` besides, those of segmentation a
``mask``, those of classification neither.

Coordinates are pixel edges, as in boxes: a picture w pixels wide spans 0..w and ``x_out = x_in * scale + offset``. The
matrix of a sample maps original pixels to pixels of its present image, so its inverse brings predictions home.

The transforms here are ``lazy``: they take a sample whose picture is not decoded yet (``pending.py``) and only say
where its pixels go, so that a chain of them costs one decode and one warp. Given plain arrays they give plain arrays.

Sources: letterbox and jitter follow EfficientDet (google/automl efficientdet/dataloader.py, ``InputProcessor`` and
``DetectionInputProcessor``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from effdense.data.transforms.box_geometry import invert_boxes, move_boxes, moved_objects, transform_boxes
from effdense.data.transforms.flips import HorizontalFlip, VerticalFlip
from effdense.data.transforms.options import (
    Interpolation,
    checked_fill,
    checked_interpolation,
    checked_range,
    checked_share,
)
from effdense.data.transforms.pending import Pending, Window, reduction, settled
from effdense.errors import ConfigError

__all__ = [
    "MASK_FILL",
    "MEAN_FILL",
    "HorizontalFlip",
    "Interpolation",
    "ResizePad",
    "ScaleJitterCrop",
    "VerticalFlip",
    "apply_matrix",
    "apply_window",
    "check_size",
    "invert_boxes",
    "move_boxes",
    "resize_mask_window",
    "resize_window",
    "settled",
    "transform_boxes",
]

AnySample = TypeVar("AnySample", bound=Mapping[str, Any])

# ImageNet mean (0.485, 0.456, 0.406) * 255, rounded: nearly zero after normalisation, what Google's code pads with.
MEAN_FILL = (124, 116, 104)
MASK_FILL = 255  # ignore: what lies beyond the picture is no class
_CROP_TRIES = 10


def resize_window(
    image: NDArray[np.uint8],
    window: tuple[int, int, int, int],
    resized: tuple[int, int],
    size: tuple[int, int],
    *,
    fill: tuple[int, int, int] = MEAN_FILL,
    interpolation: Interpolation = "auto",
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut a window out, resize it, put it top left on a canvas; what reaches beyond the canvas is cut off.

    Args:
        image: (h, w, 3) uint8.
        window: x0, y0, x1, y1 px of ``image``, whole pixels.
        resized: (height, width) px that the window is resized to.
        size: (height, width) px of the canvas.
        fill: RGB of the canvas.
        interpolation: "auto" is area averaging when a side shrinks and linear otherwise; "fast" halves as long as it
            can (by means of 2 x 2 pixels, which a JPEG decoder does at once) and is linear from there; "linear" without
            antialiasing is what Google's ``tf.image.resize`` does.

    Returns:
        The canvas and the (3, 3) matrix from px of ``image`` to px of the canvas.
    """
    placed = Window(window, resized)
    pending = Pending.of(image).windowed(placed, size, fill=fill, interpolation=interpolation)
    return pending.pixels(), placed.matrix


def resize_mask_window(
    mask: NDArray[np.uint8] | Pending,
    window: tuple[int, int, int, int],
    resized: tuple[int, int],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """The same of a mask (h, w): each pixel takes the class under its centre, the canvas is 255."""
    pending = mask if isinstance(mask, Pending) else Pending.of(mask)
    return pending.windowed(Window(window, resized), size, fill=(MASK_FILL,), interpolation="nearest").pixels()


def apply_window(
    sample: AnySample,
    window: tuple[int, int, int, int],
    resized: tuple[int, int],
    size: tuple[int, int],
    *,
    fill: tuple[int, int, int],
    interpolation: Interpolation,
    min_visible: float = 0.0,
) -> AnySample:
    """The sample seen through a window, see :func:`resize_window`: image, boxes, mask and matrix, whichever it has.

    A pending picture stays pending.

    Args:
        min_visible: see :func:`move_boxes`.
    """
    placed = Window(window, resized)
    visible = (min(resized[0], size[0]), min(resized[1], size[1]))
    changes = {**moved_objects(sample, placed.matrix, visible, min_visible), "matrix": placed.matrix @ sample["matrix"]}
    for key, filled, how in (("image", fill, interpolation), ("mask", (MASK_FILL,), "nearest")):
        if key in sample:
            changes[key] = _moved(sample[key], lambda p: p.windowed(placed, size, fill=filled, interpolation=how))  # noqa: B023
    return cast(AnySample, {**sample, **changes})


def apply_matrix(
    sample: AnySample,
    matrix: NDArray[np.float64],
    size: tuple[int, int],
    *,
    fill: tuple[int, int, int],
    interpolation: Interpolation = "fast",
    min_visible: float = 0.0,
) -> AnySample:
    """The sample under any (3, 3) matrix, px of its present image to px of a canvas of ``size``.

    Image, boxes, outlines, mask and matrix move, whichever it has. Boxes of objects with polygons are the bounds of the
    moved polygons. A pending picture stays pending.

    Args:
        interpolation: "fast" halves first where the picture shrinks; "linear" and "cubic" do not.
        min_visible: see :func:`move_boxes`.
    """
    changes = {**moved_objects(sample, matrix, size, min_visible), "matrix": matrix @ sample["matrix"]}
    for key, filled, how in (("image", fill, interpolation), ("mask", (MASK_FILL,), "nearest")):
        if key in sample:
            changes[key] = _moved(sample[key], lambda p: p.warped(matrix, size, fill=filled, interpolation=how))  # noqa: B023
    return cast(AnySample, {**sample, **changes})


def _moved(picture: NDArray[np.uint8] | Pending, move: Callable[[Pending], Pending]) -> NDArray[np.uint8] | Pending:
    """A moved picture: pending where it came so."""
    return move(picture) if isinstance(picture, Pending) else move(Pending.of(picture)).pixels()


class ResizePad:
    """Letterbox: resize to fit with the aspect kept, top left on a canvas of fixed size.

    Args:
        size: px of the result, one number for a square or (height, width).
        fill: RGB of the canvas beyond the picture.
        interpolation: see :func:`resize_window`.
    """

    lazy = True

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        fill: tuple[int, int, int] = MEAN_FILL,
        interpolation: Interpolation = "auto",
    ) -> None:
        self.size = check_size(size)
        self.fill = checked_fill(type(self).__name__, fill)
        self.interpolation = checked_interpolation(type(self).__name__, interpolation)

    def __call__(self, sample: AnySample, generator: np.random.Generator | None = None) -> AnySample:
        height, width = sample["image"].shape[:2]
        scale = min(self.size[0] / height, self.size[1] / width)
        resized = (max(1, round(height * scale)), max(1, round(width * scale)))
        return apply_window(
            sample, (0, 0, width, height), resized, self.size, fill=self.fill, interpolation=self.interpolation
        )

    def __repr__(self) -> str:
        return f"ResizePad(size={self.size}, fill={self.fill}, interpolation={self.interpolation!r})"


class ScaleJitterCrop:
    """Training geometry of EfficientDet: letterbox to a randomly scaled target, then a random crop of the real target.

    A factor f is drawn uniformly from ``scale``; the picture is resized to fit f * size, a window of at most ``size``
    is cut out at random, and the rest is filled right and below (a mask with 255). For segmentation this is the usual
    random scale and crop; where the crop is a part of the picture (512x1024 of 1024x2048), f is relative to the crop:
    scale 0.5..2 of the picture is ``scale=(1.0, 4.0)`` here. ``class_ratio_cap`` lets crops that are nearly all road or
    sky be drawn again, at the same scale, 10 times in all; the last one stays.

    Args:
        size: px of the result, one number for a square or (height, width).
        scale: lowest and highest f; (0.1, 2.0) is EfficientDet's (section 5.1, automl ``jitter_min``, ``jitter_max``).
        fill: RGB beyond the picture.
        min_visible: boxes with less of their area inside the window are dropped; 0 keeps all, as Google's code does.
        interpolation: see :func:`resize_window`. With "fast", a window that is shrunk to a half or less starts and ends
            at multiples of 2, 4 or 8 px, so that the decoder can shrink it.
        class_ratio_cap: largest share of the crop's counted pixels that one class of the mask may hold; below 1, so
            there are at least two classes. None takes the first crop; .75 is MMSegmentation's ``cat_max_ratio``.

    Raises: ConfigError for values out of range, and on a sample without a mask where there is a cap.
    """

    lazy = True

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        scale: tuple[float, float] = (0.1, 2.0),
        fill: tuple[int, int, int] = MEAN_FILL,
        min_visible: float = 0.0,
        interpolation: Interpolation = "fast",
        class_ratio_cap: float | None = None,
    ) -> None:
        if class_ratio_cap is not None:
            checked_share("ScaleJitterCrop", "class_ratio_cap", class_ratio_cap)
            if class_ratio_cap in (0, 1):
                raise ConfigError(
                    "class_ratio_cap is a share of the crop's pixels between 0 and 1, such as 0.75, or None, "
                    f"got {class_ratio_cap!r}."
                )
        self.size = check_size(size)
        self.scale = checked_range("ScaleJitterCrop", "scale", scale)
        self.fill = checked_fill(type(self).__name__, fill)
        self.min_visible = checked_share("ScaleJitterCrop", "min_visible", min_visible)
        self.interpolation = checked_interpolation(type(self).__name__, interpolation)
        self.class_ratio_cap = class_ratio_cap

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        height, width = sample["image"].shape[:2]
        scale = generator.uniform(*self.scale) * min(self.size[0] / height, self.size[1] / width)
        window, resized = self._draw(height, width, scale, generator)
        if self.class_ratio_cap is not None:
            if "mask" not in sample:
                raise ConfigError("class_ratio_cap looks at the classes of a mask; leave it out where there is none.")
            whole = window == (0, 0, width, height)  # there is no other crop
            for _ in range(0 if whole else _CROP_TRIES - 1):
                seen = resize_mask_window(sample["mask"], window, resized, self.size)
                if largest_class_share(seen) <= self.class_ratio_cap:
                    break
                window, resized = self._draw(height, width, scale, generator)
        return apply_window(
            sample,
            window,
            resized,
            self.size,
            fill=self.fill,
            interpolation=self.interpolation,
            min_visible=self.min_visible,
        )

    def _draw(
        self, height: int, width: int, scale: float, generator: np.random.Generator
    ) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """A window and the (height, width) it is resized to."""
        step = reduction(scale) if self.interpolation == "fast" else 1
        y0, y1, resized_y = _random_window(height, self.size[0], scale, step, generator)
        x0, x1, resized_x = _random_window(width, self.size[1], scale, step, generator)
        return (x0, y0, x1, y1), (resized_y, resized_x)

    def __repr__(self) -> str:
        return (
            f"ScaleJitterCrop(size={self.size}, scale={self.scale}, fill={self.fill}, min_visible={self.min_visible}, "
            f"interpolation={self.interpolation!r}, class_ratio_cap={self.class_ratio_cap})"
        )


def largest_class_share(mask: NDArray[np.uint8]) -> float:
    """Share of the pixels that are not 255 that the most frequent value holds; 1 where there are none."""
    counts = np.bincount(mask.ravel(), minlength=256)[:MASK_FILL]
    total = int(counts.sum())
    return float(counts.max() / total) if total else 1.0


def _random_window(
    length: int, target: int, scale: float, step: int, generator: np.random.Generator
) -> tuple[int, int, int]:
    """Start and end of a window of whole source pixels on one axis, and the length it is resized to.

    The window covers the target with up to ``step`` source pixels to spare (cut off later), so the aspect stays true
    even where one source pixel becomes many. It starts and ends at multiples of ``step``: of a picture of another
    length the last pixels are left out, less than one of the result.
    """
    whole = length // step
    if whole == 0:
        return 0, length, max(1, round(length * scale))
    covered = min(whole, max(1, int(np.ceil(target / scale / step))))
    start = int(generator.integers(0, whole - covered + 1)) * step
    return start, start + covered * step, max(1, round(covered * step * scale))


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number or a pair; ConfigError unless whole and positive."""
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in pair):
        raise ConfigError(f"size must be a positive whole number or (height, width), got {size!r}.")
    return pair
