"""Ground truth and detections as flat columns, what every score of boxes and masks is computed from.

Ids are those of the annotation file (image ids, category ids), boxes are x, y, width, height in float64 px of the
original image, as COCO has them. Symbols: N images, K categories, M ground truths, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Truth:
    """Checked ground truth, rows in the order of the file. Masks only where mask overlap is asked for."""

    name: str  # what to call it in messages
    image_ids: NDArray[np.int64]  # (N,) all images, ascending
    category_ids: NDArray[np.int64]  # (K,) ascending
    class_names: tuple[str, ...]  # (K,)
    image: NDArray[np.int64] = field(repr=False)  # (M,) image id
    category: NDArray[np.int64] = field(repr=False)  # (M,) category id
    xywh: NDArray[np.float64] = field(repr=False)  # (M, 4)
    area: NDArray[np.float64] = field(repr=False)  # (M,) px, by which sizes are told apart
    is_crowd: NDArray[np.bool_] = field(repr=False)  # (M,)
    rle: Sequence[Any] | None = field(default=None, repr=False)  # (M,) compressed run lengths of the masks
    file_names: tuple[str, ...] | None = field(default=None, repr=False)  # (N,) in the order of image_ids

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, eq=False)
class Found:
    """Checked detections, in the order they came."""

    image: NDArray[np.int64] = field(repr=False)  # (D,) image id
    category: NDArray[np.int64] = field(repr=False)  # (D,) category id
    xywh: NDArray[np.float64] = field(repr=False)  # (D, 4)
    score: NDArray[np.float64] = field(repr=False)  # (D,)
    rle: Sequence[Any] | None = field(default=None, repr=False)  # (D,)

    def __len__(self) -> int:
        return len(self.image)
