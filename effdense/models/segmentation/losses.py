"""Segmentation losses: logits (B, K, H, W) and masks (B, H, W) with values 0..K-1 or ignore in, one scalar out.

Ignored pixels count for nothing; where every pixel is ignored the loss is 0 and so are its gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from effdense.errors import ShapeError

_DICE_SMOOTH = 1.0  # px: keeps the ratio of a class with a handful of pixels from jumping


def cross_entropy(
    logits: Tensor,
    masks: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = 255,
) -> Tensor:
    """Mean cross-entropy over the pixels that count, weighted by the class of each; torch's, but 0 where none counts.

    Args:
        logits: (B, K, H, W) float. masks: (B, H, W) int64.
        class_weights: (K,) or None. label_smoothing: share spread over all classes.
    """
    total = F.cross_entropy(
        logits, masks, class_weights, ignore_index=ignore_index, reduction="sum", label_smoothing=label_smoothing
    )
    counted = masks != ignore_index
    if class_weights is None:
        return total / counted.sum().clamp(min=1)
    weight = (class_weights[masks.masked_fill(~counted, 0)] * counted).sum()
    return total / torch.where(weight > 0, weight, 1.0)


def dice_loss(logits: Tensor, masks: Tensor, *, ignore_index: int = 255) -> Tensor:
    """1 - soft Dice, over the whole batch at once, averaged over the classes that its masks hold.

    Args: logits (B, K, H, W) float; masks (B, H, W) int64.
    Source: V-Net, arXiv 1606.04797 section 3, with probabilities instead of their squares.
    """
    classes = logits.shape[1]
    counted = masks != ignore_index
    labels = masks.masked_fill(~counted, 0)
    probabilities = logits.softmax(1)
    of_truth = probabilities.gather(1, labels[:, None])[:, 0] * counted
    zeros = logits.new_zeros(classes)
    overlap = zeros.index_add(0, labels.flatten(), of_truth.flatten())
    predicted = (probabilities * counted[:, None]).sum((0, 2, 3))
    true = zeros.index_add(0, labels.flatten(), counted.flatten().to(logits.dtype))
    score = (2 * overlap + _DICE_SMOOTH) / (predicted + true + _DICE_SMOOTH)
    present = true > 0
    return ((1 - score) * present).sum() / present.sum().clamp(min=1)


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    *,
    ce_weight: float = 1.0,
    dice_weight: float = 0.0,
    focal_weight: float = 0.0,
    lovasz_weight: float = 0.0,
    ohem_weight: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    focal_gamma: float = 2.0,
    ohem_threshold: float = 0.7,
    ohem_min_kept: float = 0.0625,
    ignore_index: int = 255,
) -> dict[str, Tensor]:
    """``ce_weight`` x cross-entropy + ``dice_weight`` x Dice loss, in float32 whatever the logits are.

    Args:
        logits: (B, K, H, W).
        masks: (B, H, W) of any integer type.

    Returns: ``{"loss_seg": scalar}``.
    Raises: ShapeError for masks of another shape or type, and (on the CPU, where looking is free of a device wait) for
        values that are neither 0..K-1 nor ``ignore_index``.
    """
    _check_masks(logits, masks, ignore_index)
    with torch.autocast(logits.device.type, enabled=False):
        logits, labels = logits.float(), masks.long()
        loss = logits.new_zeros(())
        if ce_weight:
            loss = loss + ce_weight * cross_entropy(
                logits,
                labels,
                class_weights=class_weights,
                label_smoothing=label_smoothing,
                ignore_index=ignore_index,
            )
        if dice_weight:
            loss = loss + dice_weight * dice_loss(logits, labels, ignore_index=ignore_index)
        return {"loss_seg": loss}


def _check_masks(logits: Tensor, masks: Tensor, ignore_index: int) -> None:
    expected = (logits.shape[0], *logits.shape[-2:])
    if tuple(masks.shape) != expected or masks.is_floating_point():
        raise ShapeError(
            f"masks must be integers of shape {expected} (batch, height, width), one class per pixel, "
            f"got {masks.dtype} {tuple(masks.shape)}."
        )
    if masks.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = masks[((masks < 0) | (masks >= logits.shape[1])) & (masks != ignore_index)]
    if wrong.numel():
        values = wrong.unique().tolist()
        raise ShapeError(
            f"masks hold {values[:8]}, which are neither classes 0..{logits.shape[1] - 1} nor {ignore_index} (ignore). "
            "Run the check of the data set, which names the files."
        )
