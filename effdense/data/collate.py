"""Samples to one batch: uint8 pictures in channels-last memory, boxes padded to the fullest picture of the batch.

Pictures that are still pending are decoded and warped straight into their place in the batch. Normalising here would be
100 times the work of stacking bytes and four times the traffic to the device: not done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from effdense.data.dataset import Sample
from effdense.data.transforms.pending import stacked
from effdense.data.transforms.rectangles import pad_to_common
from effdense.errors import ShapeError


class DetectionBatch(TypedDict):
    """A batch of B pictures with at most G boxes each (G is at least 1, so an all-empty batch has a shape too)."""

    inputs: Tensor  # (B, 3, H, W) uint8 RGB, channels_last memory
    boxes: Tensor  # (B, G, 4) float32 xyxy px of `inputs`, zeros where padded
    labels: Tensor  # (B, G) int64, -1 where padded
    valid: Tensor  # (B, G) bool, False where padded
    image_ids: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64
    original_sizes: Tensor  # (B, 2) int64 height, width
    matrices: Tensor  # (B, 3, 3) float64 original px -> px of `inputs`
    paths: list[str]


def collate_detection(samples: Sequence[Sample]) -> DetectionBatch:
    """Stack samples; the ``collate_fn`` of detection loaders. Those of ``ResizeFit`` are padded to their largest.

    Raises:
        ShapeError: no samples, or pictures of different sizes (names the files: a ``ResizePad`` is missing).
    """
    if not samples:
        raise ShapeError("collate_detection needs at least one sample, got none.")
    samples = pad_to_common(samples)
    shapes = [s["image"].shape for s in samples]
    if len(set(shapes)) > 1:
        other = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
        raise ShapeError(
            f"All pictures of a batch must have one size, got {shapes[0]} for {samples[0]['path']} and {shapes[other]} "
            f"for {samples[other]['path']}. End the transforms with one that fixes the size, such as ResizePad."
        )
    inputs = torch.from_numpy(stacked([s["image"] for s in samples])).permute(0, 3, 1, 2)
    most = max(1, *(len(s["labels"]) for s in samples))
    boxes = np.zeros((len(samples), most, 4), np.float32)
    labels = np.full((len(samples), most), -1, np.int64)
    for row, sample in enumerate(samples):
        count = len(sample["labels"])
        boxes[row, :count] = sample["boxes"]
        labels[row, :count] = sample["labels"]
    counts = torch.tensor([len(s["labels"]) for s in samples])
    return DetectionBatch(
        inputs=inputs,
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        valid=torch.arange(most)[None, :] < counts[:, None],
        image_ids=torch.tensor([s["image_id"] for s in samples], dtype=torch.int64),
        indices=torch.tensor([s["index"] for s in samples], dtype=torch.int64),
        original_sizes=torch.tensor([s["original_size"] for s in samples], dtype=torch.int64),
        matrices=torch.from_numpy(np.stack([s["matrix"] for s in samples]).astype(np.float64)),
        paths=[s["path"] for s in samples],
    )
