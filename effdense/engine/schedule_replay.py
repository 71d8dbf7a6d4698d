"""Schedules of a resumed run whose config has changed since: said, and run through from the beginning.

mmengine saves a schedule with its length and takes both back, so a run resumed with more epochs would stay at the end
of the old schedule; and its values follow from the one before, so a new length alone would not help either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What says where a schedule is, not what it is.
_POSITION = frozenset({"last_step", "_global_step", "global_step", "_last_value", "base_values", "verbose"})


def changed_schedules(schedulers: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> list[str]:
    """``TYPE.OPTION OLD -> NEW`` of every option that differs between the config and what was saved."""
    changed = []
    for scheduler, state in zip(schedulers, states, strict=True):
        mine = scheduler.state_dict()
        for key, old in state.items():
            if key not in _POSITION and _plain(mine.get(key)) != _plain(old):
                changed.append(f"{type(scheduler).__name__}.{key.lstrip('_')} {old} -> {mine.get(key)}")
    return changed


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def replay_schedules(schedulers: Sequence[Any], epochs: int, iterations: int, batches_done: int) -> None:
    """Step newly built schedules to where a run is, as the run would have: after each iteration and each epoch.

    Args:
        epochs: completed. iterations: of an epoch. batches_done: of the epoch after them.
    """
    per_iteration = [s for s in schedulers if not s.by_epoch]
    per_epoch = [s for s in schedulers if s.by_epoch]
    for epoch in range(epochs + 1):
        for _ in range(iterations if epoch < epochs else batches_done):
            for scheduler in per_iteration:
                scheduler.step()
        if epoch < epochs:
            for scheduler in per_epoch:
                scheduler.step()
