"""Multi-scale training: whole batches resized on the device to a random size that all ranks agree on.

Source: YOLOv2 (arXiv 1612.08242 section 2, "Multi-Scale Training": a new multiple of 32 px every 10 batches); on the
device as YOLOX does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from effdense.errors import ConfigError


class MultiScale:
    """The size of a training batch as a function of (seed, iteration), and batches resized to it.

    Args:
        low, high: smallest and largest factor of the batch's own height.
        step: heights and widths are multiples of it, px.
        interval: iterations that keep one size.
        seed: non-negative; the same on every rank.

    The size is one of the multiples of ``step`` that lie between the factors, each as likely; the width follows in
    proportion. The first ``interval`` iterations of a run have the largest, so that one that does not fit into memory
    stops at once.

    Attributes: ``iteration``, counted over all epochs; who trains sets it before each batch.
    Raises: ConfigError for values out of range.
    """

    def __init__(
        self, low: float = 0.75, high: float = 1.25, step: int = 32, interval: int = 10, *, seed: int = 0
    ) -> None:
        for name, value in (("low", low), ("high", high)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 4:
                raise ConfigError(f"multi_scale.{name} must be a factor in (0, 4], such as 0.75, got {value!r}.")
        if low > high:
            raise ConfigError(f"multi_scale needs low <= high, got {low!r} and {high!r}.")
        for name, count in (("step", step), ("interval", interval)):
            if type(count) is not int or count < 1:
                raise ConfigError(f"multi_scale.{name} must be a whole number of at least 1, got {count!r}.")
        self.low, self.high = float(low), float(high)
        self.step = step
        self.interval = interval
        self.seed = seed
        self.iteration = 0

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """All (height, width) that a batch of ``size`` may get, smallest first; none where no multiple fits."""
        height, width = size
        first, last = int(np.ceil(self.low * height / self.step - 1e-9)), int(self.high * height / self.step + 1e-9)
        heights = [k * self.step for k in range(max(1, first), last + 1)]
        return [(h, max(self.step, round(width * h / height / self.step) * self.step)) for h in heights]

    def check(self, size: tuple[int, int]) -> None:
        """Raise ConfigError where there is no choice for batches of (height, width) ``size``."""
        found = self.sizes(size)
        if len(found) < 2:
            raise ConfigError(
                f"multi_scale has {'one size' if found else 'no size'} to choose from: multiples of step={self.step} "
                f"between {self.low:g} and {self.high:g} times {size[0]} px{'' if not found else f': {found[0][0]}'}. "
                "Widen low and high, or lower step (a detector's pyramid takes any multiple of 32)."
            )

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the present iteration for a batch of ``size``."""
        choices = self.sizes(size)
        if not choices:
            return size
        turn = self.iteration // self.interval
        if turn == 0:
            return choices[-1]
        return choices[int(np.random.default_rng([self.seed, turn]).integers(len(choices)))]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A collated batch at the size of the present iteration; see :func:`resized_batch`."""
        height, width = batch["inputs"].shape[-2:]
        return resized_batch(batch, self.size((int(height), int(width))))

    def __repr__(self) -> str:
        return f"MultiScale(low={self.low:g}, high={self.high:g}, step={self.step}, interval={self.interval})"


def resized_batch(batch: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A collated batch with inputs of (height, width) ``size``, and what is measured in their pixels moved along.

    Args: batch: ``inputs`` (B, C, H, W) float; maybe ``boxes`` (B, G, 4) xyxy px, ``masks`` (B, H, W) uint8,
        ``matrices`` (B, 3, 3), ``input_sizes`` (B, 2).
    Returns: a new mapping: inputs bilinear, antialiased where they shrink; masks take the class under the centre.
    """
    inputs: Tensor = batch["inputs"]
    old = (int(inputs.shape[-2]), int(inputs.shape[-1]))
    changed = dict(batch)
    if old == size:
        return changed
    scale_y, scale_x = size[0] / old[0], size[1] / old[1]
    changed["inputs"] = F.interpolate(
        inputs, size=size, mode="bilinear", align_corners=False, antialias=min(scale_x, scale_y) < 1
    )
    if "boxes" in batch:
        boxes: Tensor = batch["boxes"]
        factors = torch.tensor([scale_x, scale_y, scale_x, scale_y], dtype=boxes.dtype)
        changed["boxes"] = boxes * factors.to(boxes.device, non_blocking=True)
    if "masks" in batch:
        changed["masks"] = F.interpolate(batch["masks"][:, None], size=size, mode="nearest-exact")[:, 0]
    if "matrices" in batch:
        matrices: Tensor = batch["matrices"]
        changed["matrices"] = torch.diag(torch.tensor([scale_x, scale_y, 1.0])).to(matrices) @ matrices
    if "input_sizes" in batch:
        sizes: Tensor = batch["input_sizes"]
        factors = torch.tensor([scale_y, scale_x], device=sizes.device, dtype=torch.float64)
        changed["input_sizes"] = (sizes * factors).round().to(sizes.dtype)
    return changed
