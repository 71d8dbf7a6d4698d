"""EfficientDet's training loss: raw per-level outputs and padded targets in, two scalars out.

Letters: B images, L levels, N anchors over all levels, A per cell, K classes, G padded ground truths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from effdense.models.detection.assignment import IGNORE
from effdense.models.detection.boxes import encode_boxes


def flatten_level(output: Tensor, num_anchors: int) -> Tensor:
    """(B, A*C, h, w) -> (B, h*w*A, C); a view when the tensor is channels_last."""
    batch, channels, height, width = output.shape
    return output.permute(0, 2, 3, 1).reshape(batch, height * width * num_anchors, channels // num_anchors)


def _negative_focal(logits: Tensor, alpha: float, gamma: float, smoothing: float) -> Tensor:
    """Focal loss of every entry as if it were background: (1-alpha) p^gamma (softplus(x) - x*smoothing/2).

    p^gamma = exp(gamma * (x - softplus(x))): two transcendental functions an entry, finite gradients for any x.
    """
    log_one_plus = F.softplus(logits)
    cross_entropy = log_one_plus - logits * (0.5 * smoothing) if smoothing else log_one_plus
    return (1.0 - alpha) * torch.exp(gamma * (logits - log_one_plus)) * cross_entropy


def _positive_focal(logits: Tensor, alpha: float, gamma: float, smoothing: float) -> Tensor:
    """Focal loss of entries of the true class: alpha (1-p)^gamma * BCE(x, 1 - smoothing/2)."""
    log_one_plus = F.softplus(logits)
    cross_entropy = log_one_plus - logits * (1.0 - 0.5 * smoothing)
    return alpha * torch.exp(-gamma * log_one_plus) * cross_entropy


def focal_loss_sum(
    logits: Tensor, labels: Tensor, ignored: Tensor, *, alpha: float = 0.25, gamma: float = 1.5, smoothing: float = 0.0
) -> Tensor:
    """Sum of the sigmoid focal loss over anchors and classes, without a one-hot target.

    Args:
        logits: (B, n, K).
        labels: (B, n) int64 class index, negative = background.
        ignored: (B, n) bool, rows that do not count.
        alpha, gamma: RetinaNet equation 5; EfficientDet uses .25 and 1.5.
        smoothing: label smoothing, applied after the modulating factor as automl does.

    Returns: float32 scalar.
    """
    logits = logits.float()
    rows = _negative_focal(logits, alpha, gamma, smoothing).sum(-1)
    true_logit = logits.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    swap = _positive_focal(true_logit, alpha, gamma, smoothing) - _negative_focal(true_logit, alpha, gamma, smoothing)
    rows = rows + torch.where(labels >= 0, swap, 0.0)
    return torch.where(ignored, 0.0, rows).sum()


def huber_loss_sum(deltas: Tensor, targets: Tensor, mask: Tensor, *, delta: float = 0.1) -> Tensor:
    """Sum of the Huber loss over masked entries; deltas, targets, mask: same shape. Linear beyond ``delta``."""
    error = torch.where(mask, deltas.float() - targets, 0.0).abs()
    quadratic = error.clamp(max=delta)
    return (0.5 * quadratic * quadratic + delta * (error - quadratic)).sum()


def detection_loss(
    class_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    anchors: Tensor,
    matches: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    num_anchors: int,
    focal_alpha: float = 0.25,
    focal_gamma: float = 1.5,
    label_smoothing: float = 0.0,
    huber_delta: float = 0.1,
    box_loss_weight: float = 50.0,
    normalizer: Tensor | None = None,
) -> dict[str, Tensor]:
    """Classification and box loss of a batch; their sum is what EfficientDet minimises.

    Args:
        class_logits, box_deltas: per level (B, A*K, h, w) and (B, A*4, h, w), fine to coarse.
        anchors: (N, 4) xyxy px. matches: (B, N) from ``assign_anchors``.
        boxes: (B, G, 4) xyxy px. labels: (B, G) int64 in 0..K-1.
        num_anchors: A.
        normalizer: what both sums are divided by; default the batch's number of positive anchors + 1.

    Returns: ``{"loss_cls", "loss_box"}`` float32 scalars; ``loss_box`` already carries ``box_loss_weight``.

    Box entries whose target is exactly 0 do not count, and the box sum is divided by 4 * normalizer.
    Source: EfficientDet section 5.1; automl efficientdet/det_model_fn.py ``detection_loss``.
    """
    positive = matches >= 0
    ignored = matches == IGNORE
    if normalizer is None:
        normalizer = positive.sum() + 1.0
    if labels.shape[1] == 0:
        boxes = boxes.new_zeros((boxes.shape[0], 1, 4))
        labels = labels.new_zeros((labels.shape[0], 1))
    index = matches.clamp(min=0)
    anchor_labels = torch.where(positive, labels.gather(1, index), -1)

    class_sum = anchors.new_zeros(())
    start = 0
    for logits in class_logits:
        flat = flatten_level(logits, num_anchors)
        stop = start + flat.shape[1]
        class_sum = class_sum + focal_loss_sum(
            flat, anchor_labels[:, start:stop], ignored[:, start:stop],
            alpha=focal_alpha, gamma=focal_gamma, smoothing=label_smoothing,
        )  # fmt: skip
        start = stop

    targets = encode_boxes(boxes.float().gather(1, index[..., None].expand(-1, -1, 4)), anchors)
    mask = positive[..., None] & (targets != 0)
    deltas = torch.cat([flatten_level(level, num_anchors) for level in box_deltas], dim=1)
    box_sum = huber_loss_sum(deltas, targets, mask, delta=huber_delta)
    return {
        "loss_cls": class_sum / normalizer,
        "loss_box": box_loss_weight * box_sum / (4.0 * normalizer),
    }
