"""Schedules of a resumed run whose config has changed since: said, and run through from the beginning.

mmengine saves a schedule with its length and takes both back, so a run resumed with more epochs would stay at the end
of the old schedule; and its values follow from the one before, so a new length alone would not help either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What says where a schedule is, not what it is; the second line is of ReduceOnPlateau.
_POSITION = frozenset(
    {"last_step", "_global_step", "global_step", "_last_value", "base_values", "verbose"}
    | {"best", "num_bad_epochs", "cooldown_counter"}
)
_AFTER_VALIDATION = "schedules_after_validation"


def changed_schedules(schedulers: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> list[str]:
    """``TYPE.OPTION OLD -> NEW`` of every option that differs between the config and what was saved."""
    changed = []
    for scheduler, state in zip(schedulers, states, strict=True):
        mine = scheduler.state_dict()
        for key, old in state.items():
            if key not in _POSITION and _plain(mine.get(key)) != _plain(old):
                changed.append(f"{type(scheduler).__name__}.{key.lstrip('_')} {old} -> {mine.get(key)}")
    return changed


def changed_options(
    groups: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]], scheduled: Iterable[str]
) -> list[str]:
    """``OPTION stays OLD, the config says NEW`` of what an optimizer's groups had and the config has changed since.

    Args: scheduled: names of options that schedules set, for which their beginnings (``initial_lr``) are compared.
    """
    left_out = {"params", "fused", "foreach", *scheduled}
    pairs = {
        f"{key} stays {old[key]}, the config says {mine[key]}"
        for mine, old in zip(groups, saved, strict=False)
        for key in mine
        if key not in left_out and key in old and _plain(mine[key]) != _plain(old[key])
    }
    return sorted(pairs)


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


def follows_validation(scheduler: Any) -> bool:
    """Whether a schedule steps by what validation gives (ReduceOnPlateau), and so cannot be run through again."""
    return bool(getattr(scheduler, "need_val_args", False))


def keep_position(scheduler: Any, state: Mapping[str, Any]) -> None:
    """Put a schedule where it was saved, with the options that it has now."""
    scheduler.load_state_dict({key: value for key, value in state.items() if key in _POSITION})


def validated_schedules(schedulers: Sequence[Any]) -> dict[str, Any]:
    """Those that have just stepped by a validation, which comes after its epoch was saved: for its note."""
    stepped = {
        str(i): {"state": s.state_dict(), "values": [group[s.param_name] for group in s.optimizer.param_groups]}
        for i, s in enumerate(schedulers)
        if follows_validation(s)
    }
    return {_AFTER_VALIDATION: stepped} if stepped else {}


def resume_validated(schedulers: Sequence[Any], progress: dict[str, Any]) -> None:
    """Inverse of :func:`validated_schedules`, which is taken out of the note."""
    for index, noted in progress.pop(_AFTER_VALIDATION, {}).items():
        scheduler = schedulers[int(index)]
        keep_position(scheduler, noted["state"])
        for group, value in zip(scheduler.optimizer.param_groups, noted["values"], strict=True):
            group[scheduler.param_name] = value
