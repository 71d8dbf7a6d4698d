"""Pixels counted by true and predicted class: class maps in, a (K, K) matrix of integers out.

Matrices of images, batches and ranks add up exactly, so any split of the work gives the same numbers. On the CPU a pass
over 8-bit maps is a joint histogram of OpenCV, 2 ms for 1024 x 2048 px on one core; elsewhere it is one scatter, and
nothing waits for the device until the matrix is read.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdense.errors import ShapeError

# cv2.calcHist counts in float32, which holds every whole number up to 2^24.
_MOST_PIXELS = 2**24


def confusion_matrix(
    prediction: Tensor | NDArray[np.integer],
    target: Tensor | NDArray[np.integer],
    num_classes: int,
    ignore_index: int = 255,
) -> Tensor:
    """Count pixels by true and predicted class.

    Args:
        prediction: class maps of any shape and integer type, values 0..K-1.
        target: the same shape, on the same device; values 0..K-1, or ``ignore_index`` for pixels that do not count.
        num_classes: K.

    Returns: (K, K) int64 on that device; row = truth, column = prediction.
    Raises: ShapeError for shapes that differ, types that are no integers, and values out of range.
    """
    predicted, true = _as_tensor(prediction), _as_tensor(target)
    counts = count_pairs(predicted, true, num_classes, ignore_index)
    if int(counts[-1]):
        _name_wrong_value(predicted, num_classes, "prediction", "")
        counted = true[true != ignore_index]
        _name_wrong_value(counted, num_classes, "target", f" or {ignore_index} (ignore)")
    return counts[:-1].reshape(num_classes, num_classes)


def count_pairs(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """The cells of the matrix in one row, without reading a value back from the device.

    Args: as for :func:`confusion_matrix`.

    Returns: (K * K + 1,) int64: cell ``truth * K + prediction``, and last how many pixels hold a value that is no
        class. A sum of such rows is a valid matrix where its last cell is 0.
    Raises: ShapeError for shapes or devices that differ and types that are no integers.
    """
    if prediction.shape != target.shape or not (_is_integer(prediction) and _is_integer(target)):
        raise ShapeError(
            "confusion_matrix: expected integer maps of one shape, got prediction "
            f"{prediction.dtype} {tuple(prediction.shape)} and target {target.dtype} {tuple(target.shape)}."
        )
    if prediction.device != target.device:
        raise ShapeError(
            f"confusion_matrix: the prediction is on {prediction.device}, the target on {target.device}; move one."
        )
    if prediction.device.type == "cpu" and prediction.dtype == target.dtype == torch.uint8 and num_classes <= 256:
        return _from_joint(joint_histogram(prediction.numpy(), target.numpy()), num_classes, ignore_index)
    return _scattered(prediction.flatten(), target.flatten(), num_classes, ignore_index)


def joint_histogram(prediction: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each pair of bytes occurs: (256, 256), row = target, column = prediction; exact for any size."""
    rows = [np.ascontiguousarray(values).reshape(1, -1) for values in (target, prediction)]
    total = np.zeros((256, 256), np.int64)
    for start in range(0, rows[0].shape[1], _MOST_PIXELS):
        part = [row[:, start : start + _MOST_PIXELS] for row in rows]
        total += cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return total


def _from_joint(joint: NDArray[np.int64], num_classes: int, ignore_index: int) -> Tensor:
    cells = joint[:num_classes, :num_classes].copy()
    right = cells.sum()
    if 0 <= ignore_index < num_classes:
        cells[ignore_index] = 0
    elif 0 <= ignore_index < 256:
        right += joint[ignore_index, :num_classes].sum()
    return torch.from_numpy(np.append(cells.ravel(), joint.sum() - right))


def _scattered(predicted: Tensor, true: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    predicted, true = _wide(predicted), _wide(true)
    ignored = true == ignore_index
    known = (predicted >= 0) & (predicted < num_classes) & ((true >= 0) & (true < num_classes) | ignored)
    last = num_classes * num_classes
    cells = torch.where(known, true * num_classes + predicted, last).masked_fill_(ignored & known, last + 1)
    counts = torch.zeros(last + 2, dtype=torch.int64, device=cells.device)
    counts.scatter_add_(0, cells.long(), torch.ones_like(cells, dtype=torch.int64))
    return counts[:-1]


def _wide(values: Tensor) -> Tensor:
    """As a type that holds K * K and every ignore_index."""
    return values.int() if values.dtype.itemsize < 4 else values.long()


def _as_tensor(values: Tensor | NDArray[np.integer]) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))


def _is_integer(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex())


def _name_wrong_value(values: Tensor, num_classes: int, what: str, besides: str) -> None:
    if values.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(values))
    if low < 0 or high >= num_classes:
        raise ShapeError(
            f"confusion_matrix: the {what} holds {low if low < 0 else high}; expected are classes "
            f"0..{num_classes - 1}{besides}."
        )
