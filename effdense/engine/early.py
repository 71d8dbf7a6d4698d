"""What would stop a run on its way to the first step, or after its first epoch, is tried before its folder is made.

mmengine makes the work dir first and builds hooks and optimizer afterwards; a value that one of them refuses would
leave a folder behind.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from effdense.engine.registry import HOOKS, SCOPE, resolve
from effdense.errors import ConfigError


@dataclass(frozen=True)
class RunPlan:
    """What a hook may look at before anything is written; hooks that do have a method ``check(plan)``.

    Attributes:
        model: the shell. train_dataset: the dataset with its transforms. max_epochs: of the run.
        metric_names: what validation will report, the one that tells most first.
    """

    model: Any
    train_dataset: Any
    max_epochs: int
    metric_names: Sequence[str]


@contextmanager
def _said_by(where: str) -> Any:
    """Errors of torch and mmengine about a value of the config, as ConfigErrors."""
    try:
        yield
    except ConfigError:
        raise
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise ConfigError(f"{where} cannot be used as written: {type(error).__name__}: {error}") from error


def build_hooks(default: Mapping[str, Any] | None, custom: Any) -> tuple[dict[str, Hook | None], list[Hook]]:
    """The hooks of ``default_hooks`` (None stays: it drops one) and of ``custom_hooks``.

    Raises: ConfigError for a value that a hook refuses.
    """
    named = {name: _hook(config, f"default_hooks.{name}") for name, config in (default or {}).items()}
    if custom is not None and not (
        isinstance(custom, (list, tuple)) and all(isinstance(one, (Mapping, Hook)) for one in custom)
    ):
        raise ConfigError(f"custom_hooks must be a list of dict(type=...), got {custom!r}.")
    return named, [_hook(config, f"custom_hooks.{i}") for i, config in enumerate(custom or ())]


def _hook(config: Any, where: str) -> Any:
    if config is None or isinstance(config, Hook):
        return config
    options = dict(config)
    priority = options.pop("priority", None)
    target = resolve(HOOKS, options.pop("type"), where)
    with _said_by(where):
        hook = target(**options)
    if priority is not None:
        hook.priority = priority
    return hook


def check_run(plan: RunPlan, hooks: Sequence[Any], optim_wrapper: Mapping[str, Any]) -> None:
    """Ask the hooks and build the optimizer once.

    Raises: ConfigError.
    """
    for hook in hooks:
        if hasattr(hook, "check"):
            hook.check(plan)
    # The runner sets the scope in which names are looked up; there is none yet.
    with _said_by("optim_wrapper"), DefaultScope.overwrite_default_scope(SCOPE):
        build_optim_wrapper(plan.model, copy.deepcopy(dict(optim_wrapper)))
