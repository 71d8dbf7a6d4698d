"""Generated pictures of shapes on textured grounds: five classes that differ in form only, never in colour or size.

A picture comes from its own random generator, so picture i is the same whatever else is generated. Masks, and the boxes
around them, are of the visible part; a shape that would hide too much of an earlier one is not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

# Category ids leave gaps on purpose: a reader that confuses ids with labels fails on this set at once.
SHAPE_CATEGORIES = {1: "ellipse", 2: "rectangle", 4: "triangle", 7: "star", 9: "ring"}
SHAPE_NAMES = tuple(SHAPE_CATEGORIES.values())

EMPTY_SHARE = 0.04
MIN_VISIBLE = 0.4  # of the shape's pixels inside the picture
MIN_CONTRAST = 90.0  # Euclidean RGB distance of a shape to the ground under it
MIN_RADIUS_PX = 8.0
MIN_RADIUS_SHARE = 0.09  # of the shorter side
MAX_RADIUS_SHARE = 0.28
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class ShapePicture:
    """A picture and the visible mask of each object."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    labels: NDArray[np.int64]  # (G,) index into SHAPE_NAMES
    masks: NDArray[np.bool_]  # (G, H, W)


def draw_picture(size: tuple[int, int], max_objects: int, generator: np.random.Generator) -> ShapePicture:
    """One picture of ``size`` (height, width) px with 0..max_objects shapes."""
    image = _ground(size, generator)
    wanted = 0 if generator.random() < EMPTY_SHARE else int(generator.integers(1, max_objects + 1))
    owner = np.zeros(size, np.int32)  # 0 ground, i + 1 object i
    labels: list[int] = []
    full_areas: list[int] = []
    for _ in range(4 * wanted):
        if len(labels) == wanted:
            break
        label = int(generator.integers(len(SHAPE_NAMES)))
        alpha = _coverage(size, _random_outlines(label, size, generator))
        mask = alpha >= 128
        area = int(mask.sum())
        hidden = np.bincount(owner[mask], minlength=len(labels) + 1)[1:]
        visible = np.bincount(owner.ravel(), minlength=len(labels) + 1)[1:] - hidden
        if area < 60 or (visible < MIN_VISIBLE * np.array(full_areas)).any():
            continue
        _paint(image, alpha, mask, generator)
        labels.append(label)
        full_areas.append(area)
        owner[mask] = len(labels)
    image += generator.normal(0, generator.uniform(0, 4), (*size, 1)).astype(np.float32)
    masks = owner[None] == np.arange(1, len(labels) + 1)[:, None, None]
    return ShapePicture(np.clip(np.rint(image), 0, 255).astype(np.uint8), np.array(labels, np.int64), masks)


def _regular(corners: int, radii: NDArray[np.float64]) -> NDArray[np.float64]:
    angles = np.arange(corners) * (2 * np.pi / corners) - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.resize(radii, corners)[:, None]


def _random_outlines(label: int, size: tuple[int, int], generator: np.random.Generator) -> list[NDArray[np.float64]]:
    """Closed outlines (P, 2) px of one shape at random place, size, stretch and angle; a second one is a hole."""
    shorter = min(size)
    smallest = max(MIN_RADIUS_PX, MIN_RADIUS_SHARE * shorter)
    largest = max(smallest + 1, MAX_RADIUS_SHARE * shorter)
    radius = np.exp(generator.uniform(np.log(smallest), np.log(largest)))
    name = SHAPE_NAMES[label]
    squeeze = generator.uniform(0.55, 1.0) if name in ("ellipse", "rectangle") else generator.uniform(0.8, 1.0)
    if name == "ellipse":
        outlines = [_regular(48, np.ones(1))]
    elif name == "ring":
        outlines = [_regular(48, np.ones(1)), _regular(48, np.full(1, generator.uniform(0.45, 0.65)))]
    elif name == "rectangle":
        outlines = [_regular(4, np.ones(1)) @ (np.array([[1, 1], [-1, 1]]) / np.sqrt(2))]
    elif name == "triangle":
        outlines = [_regular(3, np.ones(1)) * 1.1]
    else:
        outlines = [_regular(10, np.array([1.15, generator.uniform(0.42, 0.52)]))]
    angle = generator.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    margin = 0.5 * radius  # so that some shapes are cut by the border, none by more than about a third
    centre = np.array([generator.uniform(margin, side - margin) for side in (size[1], size[0])])
    return [(points * [1.0, squeeze]) @ turn * radius + centre for points in outlines]


def _coverage(size: tuple[int, int], outlines: list[NDArray[np.float64]]) -> NDArray[np.uint8]:
    """Anti-aliased coverage 0..255 of outlines, (H, W); even-odd, so an inner outline is a hole."""
    alpha = np.zeros(size, np.uint8)
    # OpenCV counts from pixel centres, boxes from pixel edges: half a pixel apart.
    fixed = [np.rint((points - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32) for points in outlines]
    cv2.fillPoly(alpha, fixed, 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    return alpha


def _paint(
    image: NDArray[np.float32], alpha: NDArray[np.uint8], mask: NDArray[np.bool_], generator: np.random.Generator
) -> None:
    """Blend a shape into the image: a colour away from the ground's, shaded from side to side, sometimes with a rim."""
    ground = image[mask].mean(0)
    colours = generator.uniform(0, 255, (12, 3))
    distance = np.linalg.norm(colours - ground, axis=1)
    far = np.flatnonzero(distance >= MIN_CONTRAST)
    colour = colours[far[0] if len(far) else distance.argmax()]
    x, y, w, h = cv2.boundingRect(alpha)
    part = np.s_[y : y + h, x : x + w]
    slope = generator.uniform(-25, 25, 2)
    shade = slope[0] * np.linspace(-1, 1, w)[None, :, None] + slope[1] * np.linspace(-1, 1, h)[:, None, None]
    paint = np.clip(colour + shade, 0, 255)
    if generator.random() < 0.3 and min(w, h) > 24:
        inner = cv2.erode(alpha[part], np.ones((3, 3), np.uint8), iterations=2, borderValue=0)
        rim = (alpha[part] >= 128) & (inner < 128)
        paint[rim] *= generator.uniform(0.35, 0.7)
    image[part] += (alpha[part] / np.float32(255))[..., None] * (paint - image[part])


def _value_noise(size: tuple[int, int], cells: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise in -1..1 with about ``cells`` bumps along the longer side, (H, W)."""
    step = max(size) / cells
    grid = generator.uniform(-1, 1, (max(2, round(size[0] / step)), max(2, round(size[1] / step)))).astype(np.float32)
    return cast(NDArray[np.float32], cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC))


def _pattern(size: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float32]:
    """One of five textures in about 0..1, (H, W): gradient, stripes, clouds, blotches, checks."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    angle = generator.uniform(0, np.pi)
    along = (columns * np.cos(angle) + rows * np.sin(angle)).astype(np.float32)
    kind = int(generator.integers(5))
    if kind == 0:
        return cast(NDArray[np.float32], (along - along.min()) / max(float(np.ptp(along)), 1.0))
    if kind == 1:
        period = generator.uniform(6, 40)
        bend = 4 * _value_noise(size, 4, generator)
        return cast(NDArray[np.float32], 0.5 + 0.5 * np.sin((along + bend) * (2 * np.pi / period)))
    if kind == 2:
        clouds = np.full(size, 0.5, np.float32)
        for octave in range(4):
            clouds += 0.4 / 2**octave * _value_noise(size, 3 * 2**octave, generator)
        return clouds
    if kind == 3:
        blotches = _value_noise(size, generator.uniform(5, 18), generator)
        return (blotches > generator.uniform(-0.2, 0.3)).astype(np.float32)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    cell = generator.uniform(10, 45)
    return ((np.floor(along / cell) + np.floor(across / cell)) % 2).astype(np.float32)


def _ground(size: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float32]:
    """Textured ground between two random colours, uneven light, float32 (H, W, 3) in about 0..255.

    Colours are muted, as grounds of photographs are. A picture filled with one saturated colour has feature means far
    from any training statistics, and a network with BatchNorm answers such a picture with noise until it is well
    trained.
    """
    first = generator.uniform(60, 195) + generator.normal(0, 22, 3)
    second = first + generator.uniform(-60, 60) + generator.normal(0, 12, 3)
    first, second = np.clip(first, 10, 245), np.clip(second, 10, 245)
    pattern = _pattern(size, generator)
    if generator.random() < 0.5:
        pattern = cast(NDArray[np.float32], cv2.GaussianBlur(pattern, (0, 0), generator.uniform(0.6, 2.0)))
    image = (first + pattern[..., None] * (second - first)).astype(np.float32)
    image += (generator.uniform(5, 20) * _value_noise(size, 3, generator))[..., None]
    image += (generator.uniform(2, 10) * _value_noise(size, max(size) / 3, generator))[..., None]
    return image
