"""Transforms that change from one stage of training to the next, as a function of the epoch alone.

The epoch travels with every sample index (:class:`SampleIndex`), so a loader worker that was started in the first epoch
makes the pictures of the present one, and a resumed run those it would have made.
"""

from __future__ import annotations

import copy
import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from effdense.errors import ConfigError


class StagedTransforms:
    """One list of transforms per stage.

    Args:
        stages: transforms of each stage, in order.
        starts: first epoch (counted from 0) of each stage, ascending, the first 0.
    """

    def __init__(self, stages: Sequence[Sequence[Any]], starts: Sequence[int]) -> None:
        if not stages or len(stages) != len(starts) or starts[0] != 0 or list(starts) != sorted(set(starts)):
            raise ConfigError(
                f"StagedTransforms needs one ascending start per stage, the first 0; got {len(stages)} stages and "
                f"starts {list(starts)}."
            )
        self.stages = tuple(tuple(stage) for stage in stages)
        self.starts = tuple(starts)

    def at(self, epoch: int) -> tuple[Any, ...]:
        """The transforms of an epoch; the last stage goes on for ever."""
        return self.stages[bisect_right(self.starts, epoch) - 1]

    def __iter__(self) -> Any:
        """Those of the last stage: what the network is trained for."""
        return iter(self.stages[-1])

    def __len__(self) -> int:
        return len(self.stages[-1])

    def __repr__(self) -> str:
        steps = "; ".join(f"from epoch {start}: {list(stage)}" for start, stage in zip(self.starts, self.stages))
        return f"StagedTransforms({steps})"


def with_settings(transforms: Sequence[Any], settings: dict[str, Any]) -> list[Any]:
    """Copies of transforms with other values of the attributes that they have.

    Args:
        settings: attribute -> value, for example ``{"size": (128, 128), "magnitude": 7.5}``.

    Raises: ConfigError for a setting that no transform has.
    """
    changed = []
    unused = set(settings)
    for transform in transforms:
        mine = {name: value for name, value in settings.items() if hasattr(transform, name)}
        unused -= set(mine)
        if mine and dataclasses.is_dataclass(transform) and not isinstance(transform, type):
            transform = dataclasses.replace(transform, **mine)
        elif mine:
            transform = copy.copy(transform)
            for name, value in mine.items():
                setattr(transform, name, value)
        changed.append(transform)
    if unused:
        names = ", ".join(type(t).__name__ for t in transforms) or "none"
        raise ConfigError(f"no training transform has {', '.join(sorted(unused))}; the transforms are: {names}.")
    return changed
