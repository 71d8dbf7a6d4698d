"""Activation checkpointing: parts of a network that keep their inputs only and are computed again in the backward pass.

Memory for time: a network whose encoder is marked keeps the input of each residual block instead of the maps inside it,
at the price of a second forward pass through the block. Gradients, running statistics and random draws are those of a
network that is not marked, bit for bit on a CPU.

    >>> network = create_detector("efficientdet_d0")
    >>> set_activation_checkpointing(network, "encoder")

Marks are plain attributes of modules: they are in no state dict, copies have them too, and they do nothing in
evaluation mode, without gradients, in export and under ``torch.func``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from effdense.errors import ConfigError, did_you_mean
from effdense.models.freezing import encoder_of

Where = bool | Literal["encoder"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def check_where(where: Any) -> Where:
    """``where`` if it says what to compute again: False (nothing), "encoder" or True (all that can be).

    Raises: ConfigError for anything else.
    """
    if where is True or where is False or where == "encoder":
        return where
    near = did_you_mean(str(where), ("encoder", "True", "False"))
    raise ConfigError(f"activation_checkpointing must be False, True or 'encoder', got {where!r}.{near}")


def set_activation_checkpointing(network: nn.Module, where: Where) -> int:
    """Mark the parts of a network that are computed again in the backward pass, and unmark the others.

    Args:
        network: encoder, classifier, detector or segmentor.
        where: False for none; "encoder" for the stem and the residual blocks; True also for BiFPN cells, prediction
            heads and the blocks of our decoders. Decoders of segmentation-models-pytorch keep their maps; so do losses,
            whose maps are the first to be used and freed.

    Returns: how many parts are marked.
    Raises: ConfigError for another value.
    """
    check_where(where)
    chosen = set((encoder_of(network) if where == "encoder" else network).modules()) if where else set()
    marked = 0
    for module in network.modules():
        if hasattr(module, "checkpointed"):
            setattr(module, "checkpointed", module in chosen)  # noqa: B010 (to mypy it is a tensor)
            marked += int(module in chosen)
    return marked


def call(
    part: nn.Module,
    *args: Any,
    function: Callable[..., Any] | None = None,
    norms: Iterable[nn.Module] | None = None,
) -> Any:
    """``function(*args)``, by default ``part(*args)``, keeping only ``args`` if ``part`` is marked and trains.

    Args:
        part: the module whose mark (``checkpointed``) and mode count.
        norms: modules whose BatchNorm layers ``function`` runs through, by default all in ``part``.
    """
    run = part if function is None else function
    if not getattr(part, "checkpointed", False) or not part.training or not _recomputes():
        return run(*args)
    if torch.compiler.is_compiling():
        # The compiler itself repeats what is marked, without the side effects and with the same random numbers.
        return checkpoint(run, *args, use_reentrant=False)
    roots = (part,) if norms is None else tuple(norms)
    return checkpoint(
        run, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), keep_statistics(roots))
    )


@contextlib.contextmanager
def keep_statistics(roots: Iterable[nn.Module]) -> Iterator[None]:
    """Let BatchNorm layers in training update copies of their running statistics and counters, which are dropped.

    For a forward pass that is a repetition: it would count the batch twice. Works with any subclass of torch's
    BatchNorm, also one whose forward pass sees the batch of all processes.
    """
    norms = {m for root in roots for m in root.modules() if isinstance(m, _BatchNorm) and m.training}
    kept = [(m._buffers, name, m._buffers[name]) for m in norms for name in _STATISTICS if name in m._buffers]
    try:
        for buffers, name, value in kept:
            buffers[name] = None if value is None else value.clone()
        yield
    finally:
        for buffers, name, value in kept:
            buffers[name] = value


def _recomputes() -> bool:
    """Whether a backward pass can follow, by plain autograd or in a compiled graph."""
    exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.6 has none
    if not torch.is_grad_enabled() or torch.jit.is_tracing() or exporting():
        return False
    # torch.func has no hooks on saved tensors, which checkpointing is made of.
    return torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active()
