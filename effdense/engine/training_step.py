"""One training iteration, of one process or under DDP: forward pass, loss, backward pass and, at the end of an
accumulation window, a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Key under which a model tells, beside its losses, how many things they are a mean over; not a loss itself.
COUNT = "count"


def losses_of(model: Any, shell: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
    """Loss, what is logged, and the count that the loss was divided by (None where the model gives none).

    Args: model: the shell, or DDP around it. batch: as the preprocessor of the shell gives it.
    """
    losses = dict(model(**batch, mode="loss"))
    count = losses.pop(COUNT, None)
    loss, named = shell.parse_losses(losses)
    return loss, dict(named), count


def training_step(model: Any, shell: Any, data: Mapping[str, Any], optim_wrapper: Any) -> dict[str, Tensor]:
    """One iteration over a collated batch; returns what is logged."""
    with optim_wrapper.optim_context(model):
        loss, named, count = losses_of(model, shell, shell.data_preprocessor(data, True))
    if count is not None:
        loss = optim_wrapper.shared_loss(loss, count, shell.count_offset)
    optim_wrapper.update_params(loss)
    return named
