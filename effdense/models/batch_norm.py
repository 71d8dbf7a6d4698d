"""BatchNorm statistics: measured anew for fixed weights, or frozen."""

from __future__ import annotations

from collections.abc import Container, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, batches: Iterable[Tensor], *, keep: Container[str] = ()) -> int:
    """Replace running means and variances by their average over ``batches``, weights unchanged ("precise BN").

    Running statistics lag behind weights that still move fast and are noisy with small batches, and those of averaged
    weights were never measured at all; a network trained for minutes can look random in evaluation mode because of it.

    Args:
        network: any module; only its BatchNorm layers run in training mode, so dropout and stochastic depth stay off.
        batches: normalised images (B, C, H, W) as in training.
        keep: names of layers whose statistics stay as they are (frozen ones).

    Returns: how many batches were used; with none, nothing changes.
    Source: Wu and Johnson, Rethinking "Batch" in BatchNorm, section 3 (arXiv 2105.07576).
    """
    norms = [m for name, m in network.named_modules() if isinstance(m, _BatchNorm) and name not in keep]
    modes = {module: module.training for module in network.modules()}
    kept = [
        (norm, norm.momentum, norm.num_batches_tracked.clone())
        for norm in norms
        if norm.num_batches_tracked is not None
    ]
    used = 0
    try:
        network.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # cumulative average
        for images in batches:
            if used == 0:
                for norm in norms:
                    norm.reset_running_stats()
            network(images)
            used += 1
    finally:
        for norm, momentum, tracked in kept:
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(tracked)
        for module, mode in modes.items():
            module.training = mode
    return used


def set_batch_norm_training(network: nn.Module, training: bool) -> None:
    """Let BatchNorm layers use batch statistics (True) or their running ones (False); other modules keep their mode."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.training = training
