"""Geometry of picture, boxes and mask: every change is one 3x3 matrix, exact for the pixels that were really made.

Samples hold an image and a matrix; those of detection have ``boxes`` and ``labels`` besides, those of segmentation a
``mask``, those of classification neither.

Coordinates are pixel edges, as in boxes: a picture w pixels wide spans 0..w and ``x_out = x_in * scale + offset``. The
matrix of a sample maps original pixels to pixels of its present image, so its inverse brings predictions home.

Sources: letterbox and jitter follow EfficientDet (google/automl efficientdet/dataloader.py, ``InputProcessor`` and
``DetectionInputProcessor``). That code resizes the whole picture and then crops; here the visible window is cut out
first, so a picture jittered to twice the size costs no more than the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from effdense.data.box_geometry import invert_boxes, move_boxes, transform_boxes
from effdense.data.flips import HorizontalFlip, VerticalFlip
from effdense.errors import ConfigError, did_you_mean

__all__ = [
    "MASK_FILL",
    "MEAN_FILL",
    "HorizontalFlip",
    "Interpolation",
    "ResizePad",
    "ScaleJitterCrop",
    "VerticalFlip",
    "apply_window",
    "check_size",
    "invert_boxes",
    "resize_mask_window",
    "resize_window",
    "transform_boxes",
]

Interpolation = Literal["auto", "linear", "area", "cubic"]
AnySample = TypeVar("AnySample", bound=Mapping[str, Any])

# ImageNet mean (0.485, 0.456, 0.406) * 255, rounded: nearly zero after normalisation, what Google's code pads with.
MEAN_FILL = (124, 116, 104)
_FLAGS = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "cubic": cv2.INTER_CUBIC}
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
        interpolation: "auto" is area averaging when a side shrinks and linear otherwise; "linear" without antialiasing
            is what Google's ``tf.image.resize`` does.

    Returns:
        The canvas and the (3, 3) matrix from px of ``image`` to px of the canvas.
    """
    x0, y0, x1, y1 = window
    height, width = resized
    scale_x, scale_y = width / (x1 - x0), height / (y1 - y0)
    part = image[y0:y1, x0:x1]
    if (height, width) != part.shape[:2]:
        chosen = ("area" if min(scale_x, scale_y) < 1 else "linear") if interpolation == "auto" else interpolation
        part = cast(NDArray[np.uint8], cv2.resize(part, (width, height), interpolation=_FLAGS[chosen]))
    part = part[: size[0], : size[1]]
    below, right = size[0] - part.shape[0], size[1] - part.shape[1]
    canvas = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_CONSTANT, value=fill)
    matrix = np.array([[scale_x, 0, -x0 * scale_x], [0, scale_y, -y0 * scale_y], [0, 0, 1]], np.float64)
    return cast(NDArray[np.uint8], canvas), matrix


def resize_mask_window(
    mask: NDArray[np.uint8], window: tuple[int, int, int, int], resized: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The same of a mask (h, w): each pixel takes the class under its centre, the canvas is 255."""
    x0, y0, x1, y1 = window
    part = mask[y0:y1, x0:x1]
    if resized != part.shape:
        # The plain flag rounds towards the upper left corner, half a pixel away from where the image goes.
        part = cast(NDArray[np.uint8], cv2.resize(part, resized[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
    part = part[: size[0], : size[1]]
    canvas = np.full(size, MASK_FILL, np.uint8)
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas


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

    Args:
        min_visible: see :func:`move_boxes`.
    """
    image, matrix = resize_window(sample["image"], window, resized, size, fill=fill, interpolation=interpolation)
    visible = (min(resized[0], size[0]), min(resized[1], size[1]))
    changes: dict[str, Any] = {"image": image, "matrix": matrix @ sample["matrix"]}
    if "boxes" in sample:
        changes["boxes"], changes["labels"] = move_boxes(
            sample["boxes"], sample["labels"], matrix, visible=visible, min_visible=min_visible
        )
    if "mask" in sample:
        changes["mask"] = resize_mask_window(sample["mask"], window, resized, size)
    return cast(AnySample, {**sample, **changes})


class ResizePad:
    """Letterbox: resize to fit with the aspect kept, top left on a canvas of fixed size.

    Args:
        size: px of the result, one number for a square or (height, width).
        fill: RGB of the canvas beyond the picture.
        interpolation: see :func:`resize_window`.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        fill: tuple[int, int, int] = MEAN_FILL,
        interpolation: Interpolation = "auto",
    ) -> None:
        self.size = check_size(size)
        self.fill = _check_fill(fill)
        self.interpolation = _check_interpolation(interpolation)

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
        interpolation: see :func:`resize_window`.
        class_ratio_cap: largest share of the crop's counted pixels that one class of the mask may hold; below 1, so
            there are at least two classes. None takes the first crop; .75 is MMSegmentation's ``cat_max_ratio``.

    Raises: ConfigError for values out of range, and on a sample without a mask where there is a cap.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        scale: tuple[float, float] = (0.1, 2.0),
        fill: tuple[int, int, int] = MEAN_FILL,
        min_visible: float = 0.0,
        interpolation: Interpolation = "auto",
        class_ratio_cap: float | None = None,
    ) -> None:
        low, high = scale
        if not 0 < low <= high:
            raise ConfigError(f"scale must be (low, high) with 0 < low <= high, got {scale}.")
        if not 0 <= min_visible <= 1:
            raise ConfigError(f"min_visible is a share of the box area, 0..1, got {min_visible}.")
        if class_ratio_cap is not None and not 0 < class_ratio_cap < 1:
            raise ConfigError(
                f"class_ratio_cap is a share of the crop's pixels between 0 and 1, such as 0.75, or None, "
                f"got {class_ratio_cap!r}."
            )
        self.size = check_size(size)
        self.scale = (float(low), float(high))
        self.fill = _check_fill(fill)
        self.min_visible = min_visible
        self.interpolation = _check_interpolation(interpolation)
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
        y0, y1, resized_y = _random_window(height, self.size[0], scale, generator)
        x0, x1, resized_x = _random_window(width, self.size[1], scale, generator)
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


def _random_window(length: int, target: int, scale: float, generator: np.random.Generator) -> tuple[int, int, int]:
    """Start and end of a window of whole source pixels on one axis, and the length it is resized to.

    The window covers the target with up to one source pixel to spare (cut off later), so the aspect stays true even
    where one source pixel becomes many.
    """
    covered = min(length, max(1, int(np.ceil(target / scale))))
    start = int(generator.integers(0, length - covered + 1))
    return start, start + covered, max(1, round(covered * scale))


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number or a pair; ConfigError unless whole and positive."""
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in pair):
        raise ConfigError(f"size must be a positive whole number or (height, width), got {size!r}.")
    return pair


def _check_fill(fill: tuple[int, int, int]) -> tuple[int, int, int]:
    if len(fill) != 3 or any(not 0 <= int(v) <= 255 for v in fill):
        raise ConfigError(f"fill must be three numbers 0..255 (RGB), got {fill!r}.")
    return int(fill[0]), int(fill[1]), int(fill[2])


def _check_interpolation(name: str) -> Interpolation:
    known = ("auto", *_FLAGS)
    if name not in known:
        raise ConfigError(f"interpolation must be one of {known}, got {name!r}.{did_you_mean(str(name), known)}")
    return cast(Interpolation, name)
