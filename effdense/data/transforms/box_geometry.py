"""Boxes under a 3x3 matrix: there, back to the original picture, and what is left of them inside a window.

Boxes are (..., G, 4) xyxy px, coordinates are pixel edges: a picture w pixels wide spans 0..w.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdense.data.transforms.outlines import move_objects
from effdense.errors import ShapeError

Boxes = TypeVar("Boxes", NDArray[Any], Tensor)
MIN_SIDE_PX = 1.0


def transform_boxes(boxes: Boxes, matrix: NDArray[Any] | Tensor) -> Boxes:
    """Move boxes by a matrix; each result is the upright box around the moved corners.

    Args:
        boxes: (..., G, 4) xyxy px, numpy or torch, floating point.
        matrix: (..., 3, 3) affine, pixel-edge coordinates; leading dimensions broadcast against those of ``boxes``. For
            numpy boxes (G, 4) it may have a perspective.

    Returns:
        Same kind, dtype and shape as ``boxes``.

    Raises:
        ShapeError: last dimensions are not 4 and (3, 3).
    """
    if isinstance(boxes, np.ndarray):
        if boxes.ndim == 2 and boxes.shape[1] == 4 and isinstance(matrix, np.ndarray) and matrix.shape == (3, 3):
            return _transformed(boxes, matrix)
        return transform_boxes(torch.from_numpy(np.ascontiguousarray(boxes)), matrix).numpy()
    affine = torch.as_tensor(matrix)
    if boxes.shape[-1] != 4 or affine.shape[-2:] != (3, 3):
        raise ShapeError(
            f"Expected boxes (..., G, 4) and matrix (..., 3, 3), got {tuple(boxes.shape)} and {tuple(affine.shape)}."
        )
    work = torch.promote_types(boxes.dtype, torch.float32)
    affine = affine.to(dtype=work, device=boxes.device)
    points = boxes.to(work)[..., [0, 1, 2, 1, 0, 3, 2, 3]].reshape(*boxes.shape[:-1], 4, 2)
    points = points @ affine[..., None, :2, :2].mT + affine[..., None, None, :2, 2]
    return torch.cat([points.amin(-2), points.amax(-2)], -1).to(boxes.dtype)


def invert_boxes(
    boxes: Boxes, matrix: NDArray[Any] | Tensor, original_size: tuple[int, int] | NDArray[Any] | Tensor
) -> Boxes:
    """Bring boxes of a transformed picture back to original pixels and clip them to the original picture.

    Args:
        boxes: (..., G, 4) xyxy px of the transformed picture, numpy or torch.
        matrix: (..., 3, 3) original px -> transformed px, as in ``Sample.matrix`` and ``DetectionBatch.matrices``.
        original_size: (..., 2) height, width.

    Returns:
        Same kind, dtype and shape as ``boxes``; xyxy px of the original picture.
    """
    if isinstance(boxes, np.ndarray):
        return invert_boxes(torch.from_numpy(np.ascontiguousarray(boxes)), matrix, original_size).numpy()
    # Inverted in the matrix's own precision (float64), before the move to the precision and device of the boxes.
    home = transform_boxes(boxes, torch.linalg.inv(torch.as_tensor(matrix)))
    limit = torch.as_tensor(original_size).to(home)[..., None, [1, 0, 1, 0]]
    return torch.minimum(home.clamp(min=0), limit)


def _transformed(boxes: NDArray[Any], matrix: NDArray[Any]) -> NDArray[Any]:
    """:func:`transform_boxes` of few boxes in numpy, where calling torch costs more than the sums."""
    work = boxes.astype(np.promote_types(boxes.dtype, np.float32))
    matrix = matrix.astype(work.dtype)
    points = work[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2)
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2].tolist() != [0, 0, 1]:
        moved /= points @ matrix[2, :2, None] + matrix[2, 2]
    return np.concatenate([moved.min(1), moved.max(1)], axis=1).astype(boxes.dtype)


def move_boxes(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    matrix: NDArray[np.float64],
    *,
    visible: tuple[int, int],
    min_visible: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes moved along and clipped to ``visible`` (height, width) px, and the labels of those that are left.

    Boxes narrower or lower than 1 px afterwards, without area, or with less than ``min_visible`` of their area left go,
    along with their labels.
    """
    clipped, keep = _clipped(transform_boxes(boxes.astype(np.float64), matrix), visible, min_visible)
    return clipped[keep], labels[keep]


def moved_objects(
    sample: Mapping[str, Any], matrix: NDArray[np.float64], visible: tuple[int, int], min_visible: float
) -> dict[str, Any]:
    """Boxes, labels and outlines of a sample after a move, see :func:`move_boxes`; nothing where it has no boxes.

    The box of an object with an outline is the bounds of what can be seen of the outline wherever a matrix turns it or
    ``visible`` cuts it; see ``outlines.move_objects``.
    """
    if "boxes" not in sample:
        return {}
    if sample.get("object_masks") is not None:
        boxes, labels, masks = move_objects(
            sample["boxes"], sample["labels"], sample["object_masks"], matrix, sample["image"].shape[:2], visible,
            min_visible=min_visible,
        )  # fmt: skip
        return {"boxes": boxes, "labels": labels, "object_masks": masks}
    clipped, keep = _clipped(transform_boxes(sample["boxes"].astype(np.float64), matrix), visible, min_visible)
    return {"boxes": clipped[keep], "labels": sample["labels"][keep]}


def _clipped(
    moved: NDArray[np.float64], visible: tuple[int, int], min_visible: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Moved boxes clipped to ``visible``, and which of them stay."""
    clipped = np.clip(moved, 0, np.array([visible[1], visible[0]] * 2, np.float64))
    sides, full = clipped[:, 2:] - clipped[:, :2], moved[:, 2:] - moved[:, :2]
    keep = (sides >= MIN_SIDE_PX).all(1) & (sides.prod(1) >= min_visible * full.prod(1))
    return clipped.astype(np.float32), keep
