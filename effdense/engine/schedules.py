"""Learning-rate schedules: warm-up, then cosine, polynomial or steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    def decay(self, step: int) -> float:
        """What is left of the way from the base LR to ``final_factor`` of it at ``step``, 1 at step 0."""
        raise NotImplementedError

    def progress(self, step: int) -> float:
        """Share of the schedule that is over, at most 1."""
        return min(step / self.total, 1.0)

    def factor(self, step: int) -> float:
        """LR at ``step`` relative to the base LR."""
        if step < self.warmup:
            return self.warmup_factor + (1.0 - self.warmup_factor) * step / self.warmup
        return self.final_factor + (1.0 - self.final_factor) * self.decay(step)

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

    def decay(self, step: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * self.progress(step)))


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

    def decay(self, step: int) -> float:
        return (1.0 - self.progress(step)) ** self.power


@PARAM_SCHEDULERS.register_module()
class WarmupStepLR(_WarmupLR):
    """The LR times ``gamma`` at each milestone: the classic of detection (x .1 at epochs 8 and 11 of 12; Fast R-CNN,
    arXiv 1504.08083; MMDetection's 1x), and EfficientNet's (x .97 every 2.4 epochs).

    Args:
        milestones: when, in epochs (fractions allowed) or, with ``by_epoch=False``, iterations; ascending, above 0.
            Those after the end are not reached, unless a longer run goes on from this one.
        gamma: what the LR is multiplied by.

    A milestone inside the warm-up has its effect when that ends. Raises: ConfigError for values out of range.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        milestones: Sequence[float],
        end: float,
        gamma: float = 0.1,
        warmup: float = 1.0,
        warmup_factor: float = 0.1,
        by_epoch: bool = True,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        self.milestones = _checked_milestones(milestones)
        if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not 0.0 < gamma < 1.0:
            raise ConfigError(f"WarmupStepLR.gamma must lie between 0 and 1, such as 0.1, got {gamma!r}.")
        self.gamma = float(gamma)
        super().__init__(
            optimizer,
            end=end,
            warmup=warmup,
            warmup_factor=warmup_factor,
            by_epoch=by_epoch,
            last_step=last_step,
            verbose=verbose,
        )

    @classmethod
    def build_iter_from_epoch(cls, *args: Any, epoch_length: int, **kwargs: Any) -> Any:
        """The same schedule in iterations."""
        kwargs["milestones"] = [m * epoch_length for m in _checked_milestones(kwargs["milestones"])]
        return super().build_iter_from_epoch(*args, epoch_length=epoch_length, **kwargs)

    def decay(self, step: int) -> float:
        return self.gamma ** sum(step >= milestone for milestone in self.milestones)


def _checked_milestones(milestones: Any) -> tuple[float, ...]:
    numbers = isinstance(milestones, (list, tuple)) and all(
        isinstance(m, (int, float)) and not isinstance(m, bool) for m in milestones
    )
    if not numbers or not milestones or min(milestones) <= 0 or list(milestones) != sorted(set(milestones)):
        raise ConfigError(
            "WarmupStepLR.milestones must be ascending numbers of epochs above 0, such as [8, 11] of a run of 12, got "
            f"{milestones!r}."
        )
    return tuple(float(m) for m in milestones)
