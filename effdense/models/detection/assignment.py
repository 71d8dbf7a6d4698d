"""Which anchor learns which ground truth: an argmax IoU matcher, vectorised over the batch.

Letters: B images, N anchors, G padded ground truths per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effdense.models.detection.boxes import pairwise_iou

IGNORE = -1
BACKGROUND = -2
_CHUNK = 16  # ground truths per IoU block: bounds memory at B * 16 * N floats (28 MB an image at D7x)


def assign_anchors(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    positive_iou: float = 0.5,
    negative_iou: float = 0.5,
) -> Tensor:
    """Match every anchor to its best ground truth.

    Args:
        anchors: (N, 4) xyxy px.
        boxes: (B, G, 4) xyxy px, padded.
        labels: (B, G) int64; a ground truth labelled -1 makes the anchors it wins ignored.
        valid: (B, G) bool, False on padding.
        positive_iou: anchors with IoU >= this are matched.
        negative_iou: anchors with IoU < this are background; in between they are ignored. EfficientDet's .5 / .5 leaves
            no ignore zone.

    Returns: (B, N) int64: -1 ignore, -2 background, else index into G.

    Every ground truth with any overlap also wins its best anchor whatever the IoU; two that want the same anchor: the
    first keeps it. Source: automl object_detection/argmax_matcher.py with force_match_for_each_row.
    """
    batch, num_boxes = labels.shape
    num_anchors = anchors.shape[0]
    device = anchors.device
    best_iou = torch.full((batch, num_anchors), -1.0, device=device)
    best_index = torch.zeros((batch, num_anchors), dtype=torch.int64, device=device)
    # Column num_anchors collects ground truths that force nothing; it is cut off below.
    forced = torch.full((batch, num_anchors + 1), num_boxes, dtype=torch.int64, device=device)
    for start in range(0, num_boxes, _CHUNK):
        stop = min(start + _CHUNK, num_boxes)
        iou = pairwise_iou(boxes[:, start:stop].float(), anchors[None])
        iou = torch.where(valid[:, start:stop, None], iou, -1.0)
        chunk_iou, chunk_index = iou.max(dim=1)
        better = chunk_iou > best_iou
        best_iou = torch.where(better, chunk_iou, best_iou)
        best_index = torch.where(better, chunk_index + start, best_index)
        top_iou, top_anchor = iou.max(dim=2)
        target = torch.where(top_iou > 0, top_anchor, num_anchors)
        index = torch.arange(start, stop, device=device).expand(batch, -1)
        if forced.is_cuda and torch.are_deterministic_algorithms_enabled():
            forced = torch.minimum(forced, _first_by_target(target, index, num_boxes, num_anchors + 1))
        else:
            forced = forced.scatter_reduce(1, target, index, reduce="amin")
    forced = forced[:, :num_anchors]
    matches = torch.where(best_iou >= positive_iou, best_index, IGNORE)
    matches = torch.where(best_iou < negative_iou, BACKGROUND, matches)
    matches = torch.where(forced < num_boxes, forced, matches)
    if num_boxes == 0:
        return matches
    matched_label = labels.gather(1, matches.clamp(min=0))
    return torch.where((matches >= 0) & (matched_label < 0), IGNORE, matches)


def _first_by_target(target: Tensor, index: Tensor, none: int, length: int) -> Tensor:
    """``scatter_reduce(..., "amin")`` by comparing: torch refuses the former on a GPU in deterministic mode, though a
    minimum does not depend on the order.

    Args: target, index: (B, G) int64. none: where nothing is aimed at. Returns: (B, length).
    """
    places = torch.arange(length, device=target.device)
    return torch.where(target[:, :, None] == places, index[:, :, None], none).amin(1)
