"""Progressive learning (EfficientNetV2): early epochs train on small pictures with weak regularisation, late ones on
large pictures with strong regularisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook

from effdense.data.transforms.staged import StagedTransforms, with_settings
from effdense.engine.early import RunPlan
from effdense.engine.hooks.ema import unwrap
from effdense.engine.models.shell import size_hw
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError

Range = tuple[float, float]


def stage_starts(stages: int, epochs: int) -> list[int]:
    """First epoch (counted from 0) of each of ``stages`` stages of nearly equal length."""
    return [-(-stage * epochs // stages) for stage in range(stages)]


def stage_value(span: Sequence[float], stage: int, stages: int) -> float:
    """Value of stage i of M: lo + (hi - lo) * i / (M - 1)  (EfficientNetV2, Algorithm 1)."""
    low, high = span
    return float(low) if stages == 1 else float(low) + (float(high) - float(low)) * stage / (stages - 1)


@HOOKS.register_module()
class ProgressiveLearningHook(Hook):
    """Grow image size and regularisation over stages of equal length.

    Args:
        stages: how many (the paper uses 4).
        image_size: (first, last) px of the training pictures; each a side or (height, width). The last should be the
            config's own ``image_size`` or a little less, as in the paper; evaluation keeps the config's.
        divisor: sizes in between are rounded to a multiple of it.
        dropout, drop_path: (first, last) rates of the network.
        randaugment: (first, last) magnitudes of the RandAugment among the training transforms.
        mixup, cutmix: (first, last) strengths of a classifier's mixing.

    Works for every task: whatever is given must have something in the config that takes it, or the run does not start.
    All is a function of the epoch alone, so a run resumed in the middle of a stage goes on as if it had not stopped.
    The log says each epoch what is in force; the same goes to ``scalars.json`` under ``progressive/``.
    Source: EfficientNetV2 (arXiv 2104.00298) section 4.2, Algorithm 1 and Table 6.
    """

    # After mmengine's sampler hook has told the sampler the epoch, before anything draws or logs.
    priority = "NORMAL"

    def __init__(
        self,
        *,
        stages: int = 4,
        image_size: Sequence[Any] | None = None,
        divisor: int = 32,
        dropout: Range | None = None,
        drop_path: Range | None = None,
        randaugment: Range | None = None,
        mixup: Range | None = None,
        cutmix: Range | None = None,
    ) -> None:
        if type(stages) is not int or stages < 1:
            raise ConfigError(f"ProgressiveLearningHook.stages must be a whole number of at least 1, got {stages!r}.")
        if type(divisor) is not int or divisor < 1:
            raise ConfigError(f"ProgressiveLearningHook.divisor must be a whole number of at least 1, got {divisor!r}.")
        strengths = {"dropout": dropout, "drop_path": drop_path, "mixup": mixup, "cutmix": cutmix}
        self.strengths = {name: _range(name, span) for name, span in strengths.items() if span is not None}
        for name in ("dropout", "drop_path"):
            if any(not 0.0 <= value < 1.0 for value in self.strengths.get(name, ())):
                raise ConfigError(f"ProgressiveLearningHook.{name} are rates in [0, 1), got {self.strengths[name]}.")
        self.randaugment = None if randaugment is None else _range("randaugment", randaugment)
        self.sizes = None if image_size is None else _size_range(image_size)
        if not self.strengths and self.randaugment is None and self.sizes is None:
            raise ConfigError(
                "ProgressiveLearningHook has nothing to change; give image_size=(first, last), dropout, drop_path, "
                "randaugment, mixup or cutmix."
            )
        self.stages = stages
        self.divisor = divisor

    def size(self, stage: int) -> tuple[int, int] | None:
        """(height, width) px of a stage; the first and the last as given, those between rounded."""
        if self.sizes is None:
            return None
        if stage in (0, self.stages - 1):
            return self.sizes[0] if stage == 0 and self.stages > 1 else self.sizes[1]
        height, width = (
            max(self.divisor, round(stage_value(span, stage, self.stages) / self.divisor) * self.divisor)
            for span in zip(*self.sizes, strict=True)
        )
        return height, width

    def settings(self, stage: int) -> dict[str, Any]:
        """Everything in force in a stage, by name."""
        values: dict[str, Any] = {}
        if self.sizes is not None:
            values["image_size"] = self.size(stage)
        if self.randaugment is not None:
            values["randaugment"] = stage_value(self.randaugment, stage, self.stages)
        return values | {name: stage_value(span, stage, self.stages) for name, span in self.strengths.items()}

    def check(self, plan: RunPlan) -> None:
        """Raise ConfigError where model, transforms or length of the run do not take what is given."""
        takers = plan.model.regularisers()
        unknown = sorted(set(self.strengths) - set(takers))
        if unknown:
            raise ConfigError(
                f"ProgressiveLearningHook: a {plan.model.task} model has no {', '.join(unknown)}; "
                f"it has {', '.join(sorted(takers))}."
            )
        if plan.max_epochs < self.stages:
            raise ConfigError(
                f"ProgressiveLearningHook: {self.stages} stages do not fit into {plan.max_epochs} epochs."
            )
        self._transforms_by_stage(plan.train_dataset.transforms)

    def before_train(self, runner: Any) -> None:
        self.starts = stage_starts(self.stages, runner.train_loop.max_epochs)
        # Loader workers start later and take the transforms with them.
        dataset = runner.train_dataloader.dataset
        lists = self._transforms_by_stage(dataset.transforms)
        if lists:
            dataset.transforms = StagedTransforms(lists, self.starts)

    def before_train_epoch(self, runner: Any) -> None:
        stage = sum(start <= runner.epoch for start in self.starts) - 1
        values = self.settings(stage)
        takers = unwrap(runner.model).regularisers()
        for name in self.strengths:
            takers[name](values[name])
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
        runner.logger.info(f"progressive learning, epoch {runner.epoch + 1}: stage {stage + 1}/{self.stages}, {shown}")
        scalars = {f"progressive/{k}": float(v[0] if isinstance(v, tuple) else v) for k, v in values.items()}
        runner.visualizer.add_scalars({"progressive/stage": stage + 1, **scalars}, step=runner.iter + 1)

    def _transforms_by_stage(self, transforms: Any) -> list[list[Any]]:
        """One list of transforms per stage; none where they stay as they are."""
        if self.sizes is None and self.randaugment is None:
            return []
        if isinstance(transforms, StagedTransforms):  # a second call of train() on the same runner
            return []
        lists = []
        for stage in range(self.stages):
            changes: dict[str, Any] = {} if self.sizes is None else {"size": self.size(stage)}
            if self.randaugment is not None:
                changes["magnitude"] = stage_value(self.randaugment, stage, self.stages)
            try:
                lists.append(with_settings(transforms, changes))
            except ConfigError as error:
                raise ConfigError(
                    f"ProgressiveLearningHook (image_size -> size, randaugment -> magnitude): {error}"
                ) from None
        return lists


def _range(name: str, span: Any) -> Range:
    numbers = isinstance(span, (list, tuple)) and all(isinstance(v, (int, float)) for v in span)
    if not numbers or len(span) != 2 or min(span) < 0:
        raise ConfigError(f"ProgressiveLearningHook.{name} must be (first, last), both >= 0, got {span!r}.")
    return float(span[0]), float(span[1])


def _size_range(span: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    if not isinstance(span, (list, tuple)) or len(span) != 2:
        raise ConfigError(f"ProgressiveLearningHook.image_size must be (first, last), got {span!r}.")
    return size_hw(span[0]), size_hw(span[1])


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]}x{value[1]}"
    return f"{value:.3g}"
