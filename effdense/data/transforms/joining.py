"""What transforms that mix samples share: a random view of another sample, and the objects of several in one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from effdense.data.segments import ObjectMasks
from effdense.data.transforms import geometry
from effdense.data.transforms.flips import HorizontalFlip
from effdense.data.transforms.outline_clip import Rect, clip_outlines
from effdense.data.transforms.outlines import on_pixels
from effdense.data.transforms.pending import reduction
from effdense.errors import ConfigError

AnySample = TypeVar("AnySample", bound=Mapping[str, Any])
_MIRROR = HorizontalFlip(prob=1.0)


def random_view(
    sample: Any,
    size: tuple[int, int],
    generator: np.random.Generator,
    *,
    canvas: tuple[int, int] | None,
    scale: tuple[float, float],
    flip: float,
    fill: tuple[int, int, int],
    interpolation: geometry.Interpolation,
    min_visible: float,
) -> Any:
    """A sample at a random scale, a random window of at most ``size`` cut out, real pixels.

    Args:
        size: height, width px that the window is cut for.
        canvas: height, width px that the scale is relative to: 1 makes the picture just fit in. None for ``size``.
        scale: lowest and highest factor. flip: share of the views that are mirrored.

    Returns: the sample, its image as large as the window, smaller than ``size`` where the picture is.
    """
    height, width = sample["image"].shape[:2]
    fit = size if canvas is None else canvas
    factor = float(generator.uniform(*scale)) * min(fit[0] / height, fit[1] / width)
    step = reduction(factor) if interpolation == "fast" else 1  # windows that a decoder can shrink
    y0, y1, resized_y = _window(height, size[0], factor, step, generator)
    x0, x1, resized_x = _window(width, size[1], factor, step, generator)
    mirrored = float(generator.random()) < flip
    shown = (min(resized_y, size[0]), min(resized_x, size[1]))
    view = geometry.settled(
        geometry.apply_window(
            sample,
            (x0, y0, x1, y1),
            (resized_y, resized_x),
            shown,
            fill=fill,
            interpolation=interpolation,
            min_visible=min_visible,
        )
    )
    return _MIRROR(view, generator) if mirrored else view


def _window(length: int, target: int, scale: float, step: int, generator: np.random.Generator) -> tuple[int, int, int]:
    """Start and end of a random window on one axis, multiples of ``step`` source pixels, and the length that it is
    resized to; it covers the target with up to ``step`` source pixels to spare.
    """
    step = step if length >= step else 1
    whole = length // step
    covered = min(whole, max(1, int(np.ceil(target / scale / step))))
    start = int(generator.integers(0, whole - covered + 1)) * step
    return start, start + covered * step, max(1, round(covered * step * scale))


def shifted(sample: Any, x: int, y: int, size: tuple[int, int]) -> Any:
    """Matrix and objects of a view that is put at (x, y) of a canvas (height, width), outlines cut to the view."""
    rect: Rect = (x, y, x + sample["image"].shape[1], y + sample["image"].shape[0])
    matrix = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)
    changes: dict[str, Any] = {"matrix": matrix @ sample["matrix"]}
    if "boxes" in sample:
        changes["boxes"] = (sample["boxes"] + np.array([x, y, x, y], np.float32)).astype(np.float32)
    if "object_masks" in sample:
        whole = sample["object_masks"].moved(matrix)
        masks = changes["object_masks"] = clip_outlines(whole, rect, size)
        for row, (old, new) in enumerate(zip(whole.segments, masks.segments)):
            if new is not None and new is not old:
                box = on_pixels(new, masks.matrices[row], changes["boxes"][row])
                changes["boxes"][row] = box if box.any() else changes["boxes"][row]
    return {**sample, **changes}


def joined_objects(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Boxes, labels and outlines of samples in one frame, in turn; nothing for samples without boxes."""
    if "boxes" not in samples[0]:
        return {}
    changes: dict[str, Any] = {
        "boxes": np.concatenate([s["boxes"] for s in samples]).astype(np.float32).reshape(-1, 4),
        "labels": np.concatenate([s["labels"] for s in samples]).astype(np.int64),
    }
    if any("object_masks" in s for s in samples):
        all_masks = [s.get("object_masks") or without_outlines(len(s["labels"])) for s in samples]
        masks = all_masks[0]
        for more in all_masks[1:]:
            masks = masks.joined(more)
        changes["object_masks"] = masks
    return changes


def without_outlines(count: int) -> ObjectMasks:
    """Those of ``count`` objects of which no outline is known."""
    return ObjectMasks.at((None,) * count, np.eye(3))


def one_other(others: Sequence[Any], name: str) -> Any:
    """The one other sample; ConfigError for another number."""
    if len(others) != 1:
        raise ConfigError(f"{name} mixes a sample with one other, got {len(others)}.")
    return others[0]
