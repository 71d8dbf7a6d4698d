"""mmengine's early stopping, which a resumed run goes on with."""

from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import EarlyStoppingHook as _EarlyStoppingHook

from effdense.engine.registry import HOOKS


@HOOKS.register_module()
class EarlyStoppingHook(_EarlyStoppingHook):
    """End training when a metric has not improved for ``patience`` validations.

    Args:
        monitor: the metric, as the log names it (``coco/AP``).
        rule: "greater" (default) or "less" is better.
        The rest as in mmengine; ``min_delta`` is the least gain that counts.

    Its counters are kept beside the checkpoints, so a run that is killed and resumed ends where it would have ended.
    A run that it has ended goes on with a larger ``patience``.
    """

    priority = "LOW"  # before the checkpoint hook writes down what is so far

    def __init__(self, monitor: str, rule: str = "greater", min_delta: float = 0.0, **options: Any) -> None:
        super().__init__(monitor, rule=rule, min_delta=min_delta, **options)

    def before_train(self, runner: Any) -> None:
        state = runner.progress.get("early_stopping")
        if state is not None:
            self.wait_count, self.best_score = int(state["waited"]), float(state["best"])
            by_patience = self.wait_count >= state.get("patience", math.inf)
            stopped = self.wait_count >= self.patience if by_patience else bool(state["stopped"])
            runner.train_loop.stop_training = stopped

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if not runner.is_training_run:
            return
        super().after_val_epoch(runner, metrics or {})
        runner.progress["early_stopping"] = {
            "waited": self.wait_count,
            "best": self.best_score,
            "stopped": runner.train_loop.stop_training,
            "patience": self.patience,
        }
