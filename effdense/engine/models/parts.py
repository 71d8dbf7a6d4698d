"""A batch that does not fit into memory, trained in parts whose gradients are added up.

Each part's loss is multiplied by its share (``part_weights`` of the shell), so that a loss that is a sum over a count
comes out as that of the batch. BatchNorm normalises each part by itself, and random numbers are drawn for each.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def train_whole_or_in_parts(
    shell: Any, whole: Callable[[Any, Any], dict[str, Tensor]], data: Mapping[str, Any], optim_wrapper: Any
) -> dict[str, Tensor]:
    """One iteration; the first that runs out of memory is done again in halves, as are all after it.

    Args: whole: mmengine's step. optim_wrapper: an ``EffOptimWrapper``, which remembers ``parts``.
    Raises: RunError where a half does not fit either.
    """
    if optim_wrapper.parts == 1:
        try:
            return whole(data, optim_wrapper)
        except torch.OutOfMemoryError as error:
            optim_wrapper.halve(error, len(data["inputs"]))
        # Only here: the error held what the pass had made.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    logged: dict[str, Tensor] = {}
    pieces = parts_of(shell, data, optim_wrapper.parts)
    try:
        for number, (piece, share) in enumerate(pieces, start=1):
            with optim_wrapper.optim_context(shell):
                losses = shell(**shell.data_preprocessor(piece, True), mode="loss")
            loss, named = shell.parse_losses(losses)
            share = share.to(loss.device, non_blocking=True)
            for name, value in named.items():
                part = value.detach() * share
                logged[name] = logged[name] + part if name in logged else part
            (optim_wrapper.accumulate if number < len(pieces) else optim_wrapper.update_params)(loss * share)
    except torch.OutOfMemoryError as error:
        optim_wrapper.halve(error, len(data["inputs"]))  # says what to do
    return logged


def parts_of(shell: Any, data: Mapping[str, Any], parts: int) -> list[tuple[dict[str, Any], Tensor]]:
    """A collated batch cut into parts, each with what its loss is multiplied by."""
    count = len(data["inputs"])
    if parts == 1:
        return [(dict(data), torch.ones(()))]
    bounds = [-(-count * i // parts) for i in range(parts + 1)]
    pieces = [
        {
            key: value[low:high] if isinstance(value, (Tensor, list)) and len(value) == count else value
            for key, value in data.items()
        }
        for low, high in itertools.pairwise(bounds)
        if low < high
    ]
    return list(zip(pieces, shell.part_weights(data, pieces), strict=True))
