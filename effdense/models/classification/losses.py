"""Cross-entropy for class indices and for soft targets: logits (B, K) and targets (B,) or (B, K) in, a scalar out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from effdense.errors import ConfigError, ShapeError


def soft_target_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of a batch, computed in float32.

    Args:
        logits: (B, K) float.
        targets: (B,) integer in 0..K-1, -1 = ignore; or (B, K) float, non-negative rows that sum to 1 (mixed pictures)
            or to less, where an ignored picture had a part in the mix.
        label_smoothing: share s in [0, 1) of each target's mass that is spread over all K classes (Inception v3,
            arXiv 1512.00567 section 7). 0.1 is what EfficientNet was trained with.

    Returns:
        Scalar float32: the sum over the batch divided by the mass of its targets, which is B where none is ignored.
        0 with zero gradients where all are.

    Raises:
        ShapeError: shapes or dtypes do not fit. Values are not looked at: on a GPU that would wait for the device.
        ConfigError: label_smoothing is out of range.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ConfigError(f"label_smoothing must lie in [0, 1), got {label_smoothing!r}. 0.1 is the published value.")
    if logits.ndim != 2:
        raise ShapeError(f"soft_target_cross_entropy expected logits (B, K), got shape {tuple(logits.shape)}.")
    classes = logits.shape[1]
    logits = logits.float()
    if targets.shape == logits.shape and targets.is_floating_point():
        targets = targets.float()
        mass = targets.sum(1, keepdim=True)
        targets = targets * (1.0 - label_smoothing) + mass * (label_smoothing / classes)
        total = -(targets * F.log_softmax(logits, dim=1)).sum()
        return total / _at_least_something(mass.sum())
    if targets.shape == logits.shape[:1] and not targets.is_floating_point() and targets.dtype != torch.bool:
        labels = targets.long()
        total = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum")
        return total / _at_least_something((labels != -1).sum().float())
    raise ShapeError(
        f"soft_target_cross_entropy expected targets ({logits.shape[0]},) of class indices or {tuple(logits.shape)} "
        f"float for logits {tuple(logits.shape)}, got {targets.dtype} of shape {tuple(targets.shape)}."
    )


def _at_least_something(mass: Tensor) -> Tensor:
    """A divisor that is never 0; where it would be, the sum over nothing above it is 0 already."""
    return torch.where(mass > 0, mass, torch.ones_like(mass))
