"""Copy-paste: objects of another picture pasted by their outlines (arXiv 2012.07177)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from effdense.data.segments import ObjectMasks
from effdense.data.transforms import geometry
from effdense.data.transforms.geometry import MEAN_FILL, Interpolation
from effdense.data.transforms.joining import (
    AnySample,
    joined_objects,
    one_other,
    random_view,
    without_outlines,
)
from effdense.data.transforms.options import (
    checked_count,
    checked_interpolation,
    checked_range,
    checked_share,
    checked_switch,
)
from effdense.data.transforms.outline_clip import encoded
from effdense.data.transforms.outlines import pixel_bounds
from effdense.errors import ConfigError

_NO_OUTLINES = (
    "CopyPaste cuts objects out by their outlines, and {what} has none. Read the data set with outlines "
    "(dataset=dict(..., segments=True) where its annotations have them), or set boxes=True to paste whole rectangles."
)


@dataclass(frozen=True)
class CopyPaste:
    """Paste a random subset of the objects of another picture; for detection, in training only.

    Comes after the transform that fixes the size. The other picture is resized by a factor drawn uniformly from
    ``scale`` (1 makes it just fit), a random window of at most the size is cut out of it, and its chosen objects go to
    where they are in it. What they cover is taken from the objects below: the box of one with an outline becomes that
    of what can still be seen of it, and those of which less than ``min_visible`` is left are dropped. A rectangle
    without an outline keeps its box. A sample that has a ``mask`` besides gets the classes of the pasted pixels.

    ``others`` decides whether anything is pasted: it returns no index where not, and a call without others returns the
    sample as it came.

    Args:
        prob: share of the samples that are pasted on.
        share: probability of each object of the other picture to be taken; one is always.
        max_objects: at most so many are pasted.
        scale: lowest and highest factor of the other picture. flip: share of others that are mirrored.
        min_visible: least share of an object's area that must be left, of those pasted on as of those pasted.
        feather: blend over 1 px at the border of what is pasted; False is a hard edge.
        boxes: paste objects without an outline as rectangles.
        interpolation: see ``geometry.resize_window``.

    Raises: ConfigError for values out of range, and for samples without outlines unless ``boxes``.
    """

    lazy: ClassVar[bool] = True

    prob: float = 0.5
    share: float = 0.5
    max_objects: int = 20
    scale: tuple[float, float] = (0.5, 1.5)
    flip: float = 0.5
    min_visible: float = 0.1
    feather: bool = True
    boxes: bool = False
    interpolation: Interpolation = "fast"

    def __post_init__(self) -> None:
        for name in ("prob", "share", "flip", "min_visible"):
            checked_share("CopyPaste", name, getattr(self, name))
        checked_count("CopyPaste", "max_objects", self.max_objects, 1)
        object.__setattr__(self, "scale", checked_range("CopyPaste", "scale", self.scale))
        for name in ("feather", "boxes"):
            checked_switch("CopyPaste", name, getattr(self, name))
        checked_interpolation("CopyPaste", self.interpolation)

    def check_records(self, records: Any) -> None:
        """Raise ConfigError where a data set has nothing that could be cut out; asked before training."""
        if not hasattr(records, "boxes"):
            raise ConfigError("CopyPaste pastes objects with boxes; this data set has none. For masks use Mosaic.")
        segments = getattr(records, "segments", None)
        if not self.boxes and (segments is None or not (len(segments.points) or len(segments.runs))):
            raise ConfigError(_NO_OUTLINES.format(what="the data set"))

    def others(self, count: int, generator: np.random.Generator) -> list[int]:
        """Position of the other picture in a data set of ``count``; none where nothing is to be pasted."""
        return [int(generator.integers(0, count))] if float(generator.random()) < self.prob else []

    def __call__(self, sample: AnySample, generator: np.random.Generator, others: Sequence[Any] = ()) -> AnySample:
        if not others:
            return sample
        other = one_other(others, "CopyPaste")
        if "boxes" not in sample:
            raise ConfigError("CopyPaste pastes objects with boxes, and the sample has none. For masks use Mosaic.")
        if not self.boxes and ("object_masks" not in other or "object_masks" not in sample):
            raise ConfigError(_NO_OUTLINES.format(what=str(other.get("path", "the sample"))))
        own: Any = geometry.settled(sample)
        height, width = own["image"].shape[:2]
        view = random_view(
            other,
            (height, width),
            generator,
            canvas=None,
            scale=self.scale,
            flip=self.flip,
            fill=MEAN_FILL,
            interpolation=self.interpolation,
            min_visible=self.min_visible,
        )
        chosen = self._choose(view, generator)
        size = view["image"].shape[:2]
        cover = np.zeros((height, width), np.uint8)
        kept: list[int] = []
        for row in chosen:
            x0, y0, x1, y1 = _region(view["boxes"][row], size)
            bitmap = _bitmap(view, row, (x0, y0, x1, y1))
            if bitmap.any():
                cover[y0:y1, x0:x1] |= bitmap
                kept.append(row)
        if not kept:
            return own  # type: ignore[no-any-return]
        below = _covered(own, cover, self.min_visible)
        pasted = _take(view, np.array(sorted(kept)))
        changes: dict[str, Any] = {"image": _pasted(own["image"], view["image"], cover, self.feather)}
        if "mask" in own and "mask" in view:
            mask, inner = own["mask"].copy(), cover[: size[0], : size[1]].astype(bool)
            mask[: size[0], : size[1]][inner] = view["mask"][inner]
            changes["mask"] = mask
        return {**own, **changes, **joined_objects((below, pasted))}  # type: ignore[return-value]

    def _choose(self, view: Any, generator: np.random.Generator) -> list[int]:
        """Rows of the view to paste, in random order."""
        masks = view.get("object_masks")
        fit = [i for i in range(len(view["labels"])) if self.boxes or (masks is not None and masks.segments[i])]
        if not fit:
            return []
        order = generator.permutation(fit)
        count = max(1, int((generator.random(len(fit)) < self.share).sum()))
        return [int(i) for i in order[: min(count, self.max_objects)]]


def _region(box: NDArray[Any], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole pixels x0, y0, x1, y1 around a box and one more on each side, inside (height, width)."""
    x0, y0 = (max(0, int(np.floor(v)) - 1) for v in box[:2])
    x1, y1 = (min(side, int(np.ceil(v)) + 1) for v, side in zip(box[2:], size[::-1], strict=True))
    return x0, y0, x1, y1


def _bitmap(sample: Any, row: int, region: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """One object as 0 and 1 on a region: its outline, or the rectangle of its box where it has none."""
    x0, y0, x1, y1 = region
    masks: ObjectMasks | None = sample.get("object_masks")
    segment = None if masks is None else masks.segments[row]
    if segment is not None and masks is not None:
        return segment.bitmap(
            (y1 - y0, x1 - x0), np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1.0]]) @ masks.matrices[row]
        )
    filled = np.zeros((y1 - y0, x1 - x0), np.uint8)
    left, top, right, bottom = np.round(sample["boxes"][row]).astype(int) - [x0, y0, x0, y0]
    filled[max(0, top) : bottom, max(0, left) : right] = 1
    return filled


def _take(sample: Any, rows: NDArray[Any]) -> dict[str, Any]:
    """Objects at these rows."""
    taken = {"boxes": sample["boxes"][rows], "labels": sample["labels"][rows]}
    return {**taken, "object_masks": sample["object_masks"].take(rows)} if "object_masks" in sample else taken


def _covered(sample: Any, cover: NDArray[np.uint8], min_visible: float) -> dict[str, Any]:
    """Boxes, labels and outlines of what is left of objects under ``cover`` (H, W), 1 where something is pasted."""
    size = (cover.shape[0], cover.shape[1])
    top = pixel_bounds(cover)
    boxes, keep = sample["boxes"].copy(), np.ones(len(sample["labels"]), bool)
    masks: ObjectMasks = sample.get("object_masks") or without_outlines(len(boxes))
    segments, matrices = list(masks.segments), masks.matrices.copy()
    touched = (boxes[:, :2] < top[2:]).all(1) & (boxes[:, 2:] > top[:2]).all(1)
    for row in np.flatnonzero(touched):
        x0, y0, x1, y1 = _region(boxes[row], size)
        before = _bitmap(sample, int(row), (x0, y0, x1, y1))
        left = before & (1 - cover[y0:y1, x0:x1])
        total, remains = int(before.sum()), int(left.sum())
        if remains == total:
            continue
        bounds = pixel_bounds(left) + [x0, y0, x0, y0]
        keep[row] = remains > 0 and remains >= min_visible * total and bool((bounds[2:] - bounds[:2] >= 1).all())
        if keep[row] and segments[row] is not None:
            whole = np.zeros(size, np.uint8)
            whole[y0:y1, x0:x1] = left
            segments[row], matrices[row] = encoded(whole), np.eye(3)
            boxes[row] = bounds
    return _take(
        {**sample, "boxes": boxes, "object_masks": ObjectMasks(tuple(segments), matrices)}, np.flatnonzero(keep)
    )


def _pasted(
    image: NDArray[np.uint8], other: NDArray[np.uint8], cover: NDArray[np.uint8], feather: bool
) -> NDArray[np.uint8]:
    """``other`` (top left, maybe smaller) where ``cover`` is 1, ``image`` elsewhere."""
    x0, y0, x1, y1 = pixel_bounds(cover).astype(int)
    x0, y0 = max(0, x0 - 1), max(0, y0 - 1)
    x1, y1 = min(other.shape[1], x1 + 1), min(other.shape[0], y1 + 1)
    result = image.copy()
    below, above, weight = image[y0:y1, x0:x1], other[y0:y1, x0:x1], cover[y0:y1, x0:x1]
    if feather:
        # 3x3 averages: 1 inside, 0 outside, and in between over the pixels on both sides of the border.
        soft = cv2.blur(weight.astype(np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE)
        result[y0:y1, x0:x1] = cv2.blendLinear(
            np.ascontiguousarray(above), np.ascontiguousarray(below), soft, np.float32(1) - soft
        )
    else:
        result[y0:y1, x0:x1] = np.where(weight[..., None] > 0, above, below)
    return result
