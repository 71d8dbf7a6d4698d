"""Fused optimizer steps: one kernel for all weights where torch has it, chosen by trying."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from effdense.errors import ConfigError

# Which code steps; not a setting of the optimization, so a resumed run follows its config.
_IMPLEMENTATION = ("fused", "foreach")


def with_fused(options: Mapping[str, Any], optimizer: Any, parameters: list[nn.Parameter]) -> dict[str, Any]:
    """``options`` of an optimizer with ``fused=True`` where it can be; what the options say stays.

    Args:
        options: the config's, without parameters. optimizer: its class. parameters: what it is to train.

    Raises: ConfigError for ``fused=True`` where there is no such step.
    """
    chosen = {key: value for key, value in options.items() if key != "type"}
    asked = chosen.get("fused")
    if asked not in (None, True, False):
        raise ConfigError(f"optim_wrapper.optimizer.fused must be True, False or None, got {asked!r}.")
    if not parameters:
        return dict(options)
    kinds = tuple(dict.fromkeys((str(p.device), p.dtype) for p in parameters))
    if asked:
        reason = _refusal(optimizer, kinds, chosen)
        if reason is not None:
            raise ConfigError(f"optim_wrapper.optimizer.fused=True: {reason} Remove it.")
    # With dampening, ``start_momentum`` could not start it as the first step would.
    left_alone = any(key in chosen for key in (*_IMPLEMENTATION, "capturable", "differentiable"))
    if left_alone or chosen.get("dampening", 0) != 0 or _refusal(optimizer, kinds, chosen) is not None:
        return dict(options)
    return {**options, "fused": True}


def _refusal(optimizer: Any, kinds: Sequence[tuple[str, torch.dtype]], options: Mapping[str, Any]) -> str | None:
    """Why an optimizer cannot step in one kernel with these options; None where it can. Found out with one number."""
    name, make = getattr(optimizer, "__name__", str(optimizer)), optimizer
    if not inspect.isclass(optimizer) or "fused" not in inspect.signature(optimizer).parameters:
        return f"{name} has no fused step."
    weights = [torch.zeros(1, device=device, dtype=dtype, requires_grad=True) for device, dtype in kinds]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    try:
        built = make(weights, **{**options, "fused": True})
        built.step()
        supports = getattr(built, "_step_supports_amp_scaling", False)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AssertionError) as error:
        places = ", ".join(f"{str(dtype).removeprefix('torch.')} on {device}" for device, dtype in kinds)
        return f"{name} has no fused step for {places} with these options ({next(iter(str(error).splitlines()), '')})."
    # Without it, float16's scaler and the guard could not hold a step back on the device.
    return None if supports else f"{name}'s fused step cannot be held back."


def start_momentum(optimizer: Optimizer) -> None:
    """Give a fused SGD its momentum, zeros, before the first step; the step comes out the same.

    torch makes it from uninitialised memory in the first step and counts on that step to fill it; where the step is
    held back (float16's scale too large, a loss that is not finite), later ones would go on from whatever was there.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        if group.get("fused") and group["momentum"] != 0 and group["dampening"] == 0:
            for parameter in group["params"]:
                optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


def keep_implementation(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A saved state of an optimizer with the kernels that this run uses, not those of the run that saved it."""
    groups = [
        {**saved, **{key: mine[key] for key in _IMPLEMENTATION if key in mine}}
        for saved, mine in zip(state["param_groups"], optimizer.param_groups, strict=False)
    ]
    return {**state, "param_groups": groups if len(groups) == len(state["param_groups"]) else state["param_groups"]}
