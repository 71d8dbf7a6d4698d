"""Tells multi-scale training which iteration it is, so that all ranks and resumed runs choose the same sizes."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from effdense.engine.hooks.ema import unwrap


class MultiScaleHook(Hook):
    """Added by the engine itself where ``model.multi_scale`` is set.

    Args:
        seed: that of the config, on every rank.
    """

    priority = "NORMAL"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        chooser = unwrap(runner.model).data_preprocessor.multi_scale
        chooser.seed, chooser.iteration = self.seed, runner.iter


def multi_scale_hooks(model: Any, seed: int) -> list[Hook]:
    """The hook that a model's multi-scale training needs, if it has any."""
    return [] if model.data_preprocessor.multi_scale is None else [MultiScaleHook(seed)]
