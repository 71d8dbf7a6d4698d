"""From raw outputs to at most ``max_detections`` boxes an image: candidate selection, decoding, class-aware NMS.

Every step has fixed shapes and no data-dependent branch, works on the whole batch at once, and never reads a value back
from the device: it exports, compiles and does not synchronise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from effdense.errors import ConfigError
from effdense.models.detection.boxes import box_area, clip_boxes, decode_boxes
from effdense.models.detection.losses import flatten_level

NMS_METHODS = ("hard", "soft")


class Candidates(NamedTuple):
    """Top scoring (anchor, class) pairs, best first: boxes (B, C, 4) xyxy px, scores (B, C), labels (B, C) int64."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class PaddedDetections(NamedTuple):
    """boxes (B, D, 4) xyxy px, scores (B, D), labels (B, D) int64, valid (B, D) bool; best first, padding last."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor


def select_candidates(
    class_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    anchors: Tensor,
    *,
    num_anchors: int,
    image_sizes: Tensor | tuple[int, int],
    max_candidates: int = 5000,
) -> Candidates:
    """Best ``max_candidates`` (anchor, class) pairs of each image, decoded and clipped to the image.

    Args:
        class_logits, box_deltas: per level (B, A*K, h, w), (B, A*4, h, w).
        anchors: (N, 4) xyxy px.
        image_sizes: (H, W), or a (B, 2) tensor of (h, w) where images fill only a part of the input.

    The number taken is clamped to what exists (N*K). Selection is exact in two stages: the top C pairs can only come
    from the C anchors with the best class maximum, so classes are sorted for those alone.
    """
    logits = torch.cat([flatten_level(level, num_anchors) for level in class_logits], dim=1)
    deltas = torch.cat([flatten_level(level, num_anchors) for level in box_deltas], dim=1)
    batch, total, classes = logits.shape
    anchor_logit, anchor_index = logits.amax(-1).topk(min(max_candidates, total), dim=1)
    if classes == 1:
        top_logit, labels = anchor_logit, torch.zeros_like(anchor_index)
    else:
        rows = logits.gather(1, anchor_index[..., None].expand(-1, -1, classes)).reshape(batch, -1)
        top_logit, flat = rows.topk(min(max_candidates, rows.shape[1]), dim=1)
        labels = flat % classes
        anchor_index = anchor_index.gather(1, flat // classes)
    top_deltas = deltas.gather(1, anchor_index[..., None].expand(-1, -1, 4))
    boxes = decode_boxes(top_deltas.float(), anchors[anchor_index])
    if isinstance(image_sizes, Tensor):
        sizes = image_sizes.to(boxes)
        boxes = clip_boxes(boxes, sizes[:, 0:1].expand(-1, boxes.shape[1]), sizes[:, 1:2].expand(-1, boxes.shape[1]))
    else:
        boxes = clip_boxes(boxes, float(image_sizes[0]), float(image_sizes[1]))
    return Candidates(boxes, top_logit.float().sigmoid(), labels)


def non_maximum_suppression(
    candidates: Candidates,
    *,
    method: str = "hard",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    score_threshold: float = 0.0,
    max_detections: int = 100,
) -> PaddedDetections:
    """Greedy class-aware NMS, stopped at ``max_detections``; equal to the full run, whose later picks would be cut off.

    Args:
        method: ``hard`` drops boxes of the same class with IoU > ``iou_threshold``; ``soft`` multiplies their scores by
            exp(-IoU^2 / sigma) (Gaussian soft-NMS, Bodla et al. 2017; automl uses sigma .5).
        score_threshold: picks scoring at or below it are padding.

    Raises: ConfigError for another method or fewer than one detection.

    Source: hard: torchvision.ops.batched_nms; soft: automl efficientdet/nms_np.py without its +1 px areas.
    """
    if method not in NMS_METHODS:
        raise ConfigError(f"NMS method must be one of {NMS_METHODS}, got {method!r}.")
    if max_detections < 1:
        raise ConfigError(f"max_detections must be at least 1, got {max_detections}.")
    boxes, scores, labels = candidates
    areas = box_area(boxes)
    x1, y1, x2, y2 = boxes.unbind(-1)
    alive = torch.where(scores > 0, scores, -1.0)  # a diverged network's NaN would be every maximum
    picked_index: list[Tensor] = []
    picked_score: list[Tensor] = []
    for _ in range(max_detections):
        score, index = alive.max(dim=1, keepdim=True)  # (B, 1); the first of equals, so candidate order breaks ties
        picked_index.append(index)
        picked_score.append(score)
        width = torch.minimum(x2, x2.gather(1, index)) - torch.maximum(x1, x1.gather(1, index))
        height = torch.minimum(y2, y2.gather(1, index)) - torch.maximum(y1, y1.gather(1, index))
        intersection = width.clamp(min=0) * height.clamp(min=0)
        iou = intersection / (areas.gather(1, index) + areas - intersection).clamp(min=1e-12)
        same = labels == labels.gather(1, index)
        if method == "hard":
            alive = torch.where(same & (iou > iou_threshold), -1.0, alive)
        else:
            alive = torch.where(same, alive * torch.exp(-(iou * iou) / sigma), alive)
        alive = alive.scatter(1, index, -1.0)
    index = torch.cat(picked_index, dim=1)
    score = torch.cat(picked_score, dim=1)
    valid = score > max(score_threshold, 0.0)
    return PaddedDetections(
        torch.where(valid[..., None], boxes.gather(1, index[..., None].expand(-1, -1, 4)), 0.0),
        torch.where(valid, score, 0.0),
        torch.where(valid, labels.gather(1, index), -1),
        valid,
    )
