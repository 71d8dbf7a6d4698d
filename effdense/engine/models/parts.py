"""A batch that does not fit into memory, trained in parts whose gradients are added up.

The loss of a part counts as much as what it is a mean over, so that it comes out as that of the batch. BatchNorm
normalises each part by itself, and random numbers are drawn for each.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from effdense.engine.training_step import losses_of, training_step


def train_whole_or_in_parts(shell: Any, data: Mapping[str, Any], optim_wrapper: Any) -> dict[str, Tensor]:
    """One iteration; the first that runs out of memory is done again in halves, as are all after it.

    Args: optim_wrapper: an ``EffOptimWrapper``, which remembers ``parts``.
    Raises: RunError where a half does not fit either.
    """
    if optim_wrapper.parts == 1:
        try:
            return training_step(shell, shell, data, optim_wrapper)
        except torch.OutOfMemoryError as error:
            optim_wrapper.halve(error, len(data["inputs"]))
        # Only here: the error held what the pass had made.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    pieces = parts_of(data, optim_wrapper.parts)

    def backward(number: int, loss: Tensor, count: Tensor | None) -> None:
        if count is not None:
            loss = optim_wrapper.shared_loss(loss, count, shell.count_offset)
        (optim_wrapper.accumulate if number < len(pieces) else optim_wrapper.update_params)(loss)

    try:
        return over_parts(shell, pieces, lambda: optim_wrapper.optim_context(shell), backward)
    except torch.OutOfMemoryError as error:
        optim_wrapper.halve(error, len(data["inputs"]))  # says what to do
        raise


def over_parts(
    shell: Any,
    pieces: list[dict[str, Any]],
    context: Callable[[], Any],
    backward: Callable[[int, Tensor, Tensor | None], None],
) -> dict[str, Tensor]:
    """Forward passes over the parts of a batch, each followed by ``backward(number from 1, loss, count)``; the losses
    of the whole, for the log.

    Without counts (None) a loss is taken for a mean over images, and comes as its share in that of the batch.
    """
    sums: dict[str, Tensor] = {}
    images = sum(len(piece["inputs"]) for piece in pieces)
    whole: Tensor | float = 0.0
    for number, piece in enumerate(pieces, start=1):
        with context():
            loss, named, count = losses_of(shell, shell, shell.data_preprocessor(piece, True))
        offset = 0.0 if count is None else shell.count_offset
        share: Tensor | float = len(piece["inputs"]) / images if count is None else count
        for name, value in named.items():
            part = value.detach() * (share + offset)
            sums[name] = sums[name] + part if name in sums else part
        whole = whole + share if number > 1 else share + offset
        backward(number, loss * share if count is None else loss, count)
    whole = torch.as_tensor(whole)
    return {name: value / torch.where(whole > 0, whole, 1.0) for name, value in sums.items()}


def parts_of(data: Mapping[str, Any], parts: int) -> list[dict[str, Any]]:
    """A collated batch cut into parts."""
    count = len(data["inputs"])
    if parts == 1:
        return [dict(data)]
    bounds = [-(-count * i // parts) for i in range(parts + 1)]
    return [
        {key: value[low:high] if _is_per_image(value, count) else value for key, value in data.items()}
        for low, high in itertools.pairwise(bounds)
        if low < high
    ]


def _is_per_image(value: Any, count: int) -> bool:
    if isinstance(value, Tensor):
        return value.dim() > 0 and len(value) == count
    return isinstance(value, (list, tuple)) and len(value) == count
