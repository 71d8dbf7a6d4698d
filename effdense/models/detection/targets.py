"""Targets of a batch: checked, and padded to one shape.

Letters: B images, G ground truths of the fullest image, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from effdense.errors import ShapeError


def pad_targets(
    targets: Sequence[Mapping[str, Tensor]], num_classes: int, *, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Stack targets of any length.

    Args:
        targets: B mappings with ``boxes`` (g, 4) xyxy px and ``labels`` (g,) in 0..K-1 or -1 to ignore.
        num_classes: K.
        device: where the result lies.

    Returns: boxes (B, G, 4) float32 xyxy px, labels (B, G) int64 (-1 on padding), valid (B, G) bool; G is at least 1.
    Raises: ShapeError naming the target, for a missing entry, wrong shapes, labels outside -1..K-1, and boxes that are
        not finite or not xyxy (x2 < x1 or y2 < y1).
    """
    for i, target in enumerate(targets):
        _check(i, target, num_classes)
    count = max([1, *(len(target["labels"]) for target in targets)])
    boxes = torch.zeros((len(targets), count, 4), device=device)
    labels = torch.full((len(targets), count), -1, dtype=torch.int64, device=device)
    valid = torch.zeros((len(targets), count), dtype=torch.bool, device=device)
    for i, target in enumerate(targets):
        n = len(target["labels"])
        boxes[i, :n] = target["boxes"].to(boxes)
        labels[i, :n] = target["labels"].to(labels)
        valid[i, :n] = True
    return boxes, labels, valid


def _check(i: int, target: Mapping[str, Tensor], num_classes: int) -> None:
    if {"boxes", "labels"} - set(target):
        raise ShapeError(f"target {i} needs 'boxes' and 'labels', got {sorted(target)}.")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[-1] != 4 or labels.shape != boxes.shape[:1]:
        raise ShapeError(
            f"target {i}: expected boxes (G, 4) and labels (G,), got {tuple(boxes.shape)} and {tuple(labels.shape)}."
        )
    sound = (boxes[:, 2:] >= boxes[:, :2]).all(1) & torch.isfinite(boxes).all(1)
    if not bool(sound.all()):
        first = int((~sound).nonzero()[0])
        raise ShapeError(
            f"target {i}: box {first} is {boxes[first].tolist()}; expected finite xyxy px with x2 >= x1 and y2 >= y1 "
            "(xywh boxes need converting)."
        )
    if labels.numel() and not (-1 <= int(labels.min()) and int(labels.max()) < num_classes):
        raise ShapeError(
            f"target {i}: labels must lie in 0..{num_classes - 1} (or -1 to ignore), "
            f"got {int(labels.min())}..{int(labels.max())}."
        )
