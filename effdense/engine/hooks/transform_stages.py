"""Transforms that stop before training does: the last epochs see pictures as they are in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook

from effdense.data.transforms.staged import StagedTransforms
from effdense.engine.early import RunPlan
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError, did_you_mean


@HOOKS.register_module()
class TransformStagesHook(Hook):
    """Leave some training transforms out for the last epochs, as YOLOX does with mosaic and mixup.

    Args:
        drop: names of transforms, such as ``["Mosaic", "MixUp"]``.
        last_epochs: how many; YOLOX's 15 of 300.

    All is a function of the epoch, which travels with each sample: workers that prefetch and runs that are resumed see
    what they should. Works together with ``ProgressiveLearningHook``.
    Source: YOLOX (arXiv 2107.08430 section 2.1).
    """

    # After ProgressiveLearningHook, whose stages are divided further.
    priority = "BELOW_NORMAL"

    def __init__(self, *, drop: Sequence[str], last_epochs: int) -> None:
        names = [drop] if isinstance(drop, str) else list(drop) if isinstance(drop, (list, tuple)) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"TransformStagesHook.drop must be a list of names of transforms, got {drop!r}.")
        if type(last_epochs) is not int or last_epochs < 1:
            raise ConfigError(
                f"TransformStagesHook.last_epochs must be a whole number of at least 1, got {last_epochs!r}."
            )
        self.drop = tuple(names)
        self.last_epochs = last_epochs

    def check(self, plan: RunPlan) -> None:
        """Raise ConfigError for a name that no training transform has, or a run that is not longer."""
        known = [type(t).__name__ for t in plan.train_dataset.transforms]
        for name in self.drop:
            if name not in known:
                raise ConfigError(
                    f"TransformStagesHook: no training transform is called {name!r}.{did_you_mean(name, known)} "
                    f"The transforms are: {', '.join(known) or 'none'}."
                )
        if plan.max_epochs <= self.last_epochs:
            raise ConfigError(
                f"TransformStagesHook: last_epochs={self.last_epochs} is the whole run of {plan.max_epochs} epochs; "
                f"remove {', '.join(self.drop)} from the transforms instead, or train longer."
            )

    def before_train(self, runner: Any) -> None:
        self.start = runner.train_loop.max_epochs - self.last_epochs
        # Loader workers start later and take the transforms with them.
        dataset = runner.train_dataloader.dataset
        dataset.transforms = without_last(dataset.transforms, self.drop, self.start)

    def before_train_epoch(self, runner: Any) -> None:
        if runner.epoch == self.start:
            runner.logger.info(f"epoch {runner.epoch + 1}: from here on without {', '.join(self.drop)}")


def without_last(transforms: Any, names: Sequence[str], start: int) -> StagedTransforms:
    """The same transforms, from epoch ``start`` (counted from 0) on without those of these names."""
    staged = transforms if isinstance(transforms, StagedTransforms) else StagedTransforms([transforms], [0])
    starts = sorted({*staged.starts, start})
    stages = [[t for t in staged.at(first) if first < start or type(t).__name__ not in names] for first in starts]
    return StagedTransforms(stages, starts)
