"""Lovász extension of the Jaccard loss: probabilities or logits of pixels in, a scalar out (arXiv 1705.08790).

The loss of a class is the dot product of its errors, sorted downwards, with the steps that the Jaccard loss takes as
one pixel after another turns wrong (algorithm 1). The steps are constant in the errors, so they are computed without a
graph and in closed form: as differences of ratios they would drown in rounding from a million pixels on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from effdense.models.encoders.cpu_kernels import eager_on_cpu


def jaccard_steps(errors: Tensor, foreground: Tensor) -> Tensor:
    """Derivative of the Lovász extension by each error.

    Args: errors (N,) float, -inf for pixels that do not count; foreground (N,) bool, the pixels of the class.
    Returns: (N,) like errors.

    When the i-th largest error turns wrong, the intersection loses a pixel (one of the class) or the union gains one.
    """
    with torch.no_grad():
        order = _descending(errors)
        of_class = foreground[order]
        hits = of_class.cumsum(0)
        left = hits[-1] - hits
        union = (left + torch.arange(1, len(errors) + 1, device=errors.device)).to(errors.dtype)
        gained = left / (union * (union - 1.0))
        # Without a pixel of the class, the first wrong one takes the loss from 0 to 1.
        gained = torch.where(union > 1.0, gained, 1.0)
        steps = torch.where(of_class, union.reciprocal(), gained)
        return torch.empty_like(errors).scatter_(0, order, steps)


def _descending(errors: Tensor) -> Tensor:
    """Order of the errors, largest first. NumPy sorts with vector instructions, about six times as fast as torch."""
    if eager_on_cpu(errors):
        return torch.from_numpy(np.argsort(-errors.numpy()))
    return errors.argsort(descending=True)


def lovasz_softmax(probabilities: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Mean over the classes that the labels hold, 0 where they hold none.

    Args: probabilities (N, K); labels (N,) int64; counted (N,) bool.

    Classes go one by one, so that memory is that of one sort. On the CPU those without a pixel are not sorted; on
    another device that would mean waiting for it.
    """
    classes = list(range(probabilities.shape[1]))
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        classes = labels[counted].unique().tolist()
    total, present = probabilities.sum() * 0.0, counted.new_zeros((), dtype=torch.int64)
    columns = probabilities.t().contiguous().unbind()
    for c in classes:
        foreground = (labels == c) & counted
        errors = (foreground.to(probabilities.dtype) - columns[c]).abs()
        loss = _extension(errors, foreground, counted)
        here = foreground.any()
        total = total + torch.where(here, loss, 0.0)
        present = present + here
    return total / present.clamp(min=1)


def lovasz_hinge(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Of one class against the rest: errors are hinge losses, 1 - logit * (1 or -1).

    Args: logits (N,); labels (N,) int64, 0 or 1; counted (N,) bool.
    """
    foreground = (labels == 1) & counted
    return _extension(1.0 - logits * (2.0 * labels - 1.0), foreground, counted)


def _extension(errors: Tensor, foreground: Tensor, counted: Tensor) -> Tensor:
    errors = errors.masked_fill(~counted, -torch.inf)  # last in order, where they change no step that counts
    return (errors.relu() * jaccard_steps(errors.detach(), foreground)).sum()
