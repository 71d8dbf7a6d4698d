"""Learning-rate schedules: warm-up, then cosine or polynomial."""

from __future__ import annotations

import math
from typing import Any

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from effdense.engine.registry import PARAM_SCHEDULERS
from effdense.errors import ConfigError


class _WarmupLR(LRSchedulerMixin, _ParamScheduler):
    """Linear warm-up, then a decay to ``final_factor``; one closed form per iteration.

    Args:
        end: length of the schedule in epochs; mmengine fills in the run's ``max_epochs``.
        warmup: length of the warm-up in epochs (fractions allowed) or, with ``by_epoch=False``, iterations.
        warmup_factor: LR at the first iteration relative to the base LR; automl .008 / .08 = .1.
        final_factor: LR at the end relative to the base LR.

    The decay runs over step / total from step 0, not from the end of the warm-up. Length and warm-up come from the
    config on resume, so raising ``max_epochs`` extends the schedule; only the position is restored.

    Raises: ConfigError for values out of range.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        end: float,
        warmup: float = 1.0,
        warmup_factor: float = 0.1,
        final_factor: float = 0.0,
        by_epoch: bool = True,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        name = type(self).__name__
        if end <= 0 or warmup < 0:
            raise ConfigError(f"{name} needs end > 0 and warmup >= 0, got end={end}, warmup={warmup}.")
        if not 0.0 <= warmup_factor <= 1.0 or not 0.0 <= final_factor <= 1.0:
            raise ConfigError(
                f"{name}: warmup_factor and final_factor are shares of the optimizer's LR in 0..1, "
                f"got {warmup_factor!r} and {final_factor!r}."
            )
        self.total = end
        self.warmup = warmup
        self.warmup_factor = warmup_factor
        self.final_factor = final_factor
        super().__init__(optimizer, by_epoch=by_epoch, last_step=last_step, verbose=verbose)

    @classmethod
    def build_iter_from_epoch(cls, *args: Any, epoch_length: int, **kwargs: Any) -> Any:
        """The same schedule in iterations."""
        kwargs["end"] = max(1, round(kwargs["end"] * epoch_length))
        kwargs["warmup"] = round(kwargs.get("warmup", 1.0) * epoch_length)
        return cls(*args, **{**kwargs, "by_epoch": False})

    def decay(self, progress: float) -> float:
        """From 1 at progress 0 to 0 at progress 1."""
        raise NotImplementedError

    def factor(self, step: int) -> float:
        """LR at ``step`` relative to the base LR."""
        if step < self.warmup:
            return self.warmup_factor + (1.0 - self.warmup_factor) * step / self.warmup
        return self.final_factor + (1.0 - self.final_factor) * self.decay(min(step / self.total, 1.0))

    def _get_value(self) -> list[float]:
        return [base * self.factor(self.last_step) for base in self.base_values]

    def state_dict(self) -> dict[str, Any]:
        return {
            "last_step": self.last_step,
            "global_step": self._global_step,
            "base_values": [float(value) for value in self.base_values],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_step = int(state_dict["last_step"])
        self._global_step = int(state_dict["global_step"])
        for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group[self.param_name] = value
        self._last_value = [group[self.param_name] for group in self.optimizer.param_groups]


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_WarmupLR):
    """Half a cosine, as automl efficientdet/tf2/train_lib.py ``CosineLrSchedule``."""

    def decay(self, progress: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * progress))


@PARAM_SCHEDULERS.register_module()
class WarmupPolyLR(_WarmupLR):
    """(1 - progress) ** ``power``, segmentation's usual schedule (ParseNet, arXiv 1506.04579; .9 is DeepLab's,
    1606.00915).

    Raises: ConfigError for a power that is not above 0.
    """

    def __init__(self, optimizer: Any, *, power: float = 0.9, **options: Any) -> None:
        if not power > 0:
            raise ConfigError(f"WarmupPolyLR needs power > 0 (.9 is usual, 1 is a straight line), got {power!r}.")
        self.power = power
        super().__init__(optimizer, **options)

    def decay(self, progress: float) -> float:
        return (1.0 - progress) ** self.power
