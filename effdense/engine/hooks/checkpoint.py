"""Save what a run needs to go on and what its user wants to keep: ``epoch_N.pth`` and ``best.pth``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from effdense.engine import checkpoint as files
from effdense.engine.distributed import rank_and_world
from effdense.engine.early import RunPlan
from effdense.engine.registry import HOOKS
from effdense.engine.schedule_replay import validated_schedules
from effdense.errors import ConfigError, did_you_mean


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Write checkpoints into the work dir.

    Args:
        interval: epochs between ``epoch_N.pth``; the last epoch is always saved.
        max_keep: how many ``epoch_N.pth`` to keep; 0 keeps all.
        save_best: metric whose best value is kept as ``best.pth`` (weights and metadata); "auto" takes the first that
            validation reports (``coco/AP``, ``seg/mIoU``, ``cls/top1``), None none.
        greater_is_better: direction of ``save_best``.
        every_iters: also save inside an epoch, every so many iterations, as ``iter_N.pth``; the newest is kept until
            an epoch's file comes after it. A killed run loses at most that much.

    Whatever ends a training early (``EarlyStoppingHook``), its last epoch is saved, too. Files with higher numbers than
    the newest, which a run leaves that was begun anew or resumed further back, stay until they are written over.

    The new file is complete on disk before the pointer moves to it, and the pointer moves before an old file goes, so
    a kill at any point leaves a checkpoint that resumes.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        interval: int = 1,
        max_keep: int = 2,
        save_best: str | None = "auto",
        greater_is_better: bool = True,
        every_iters: int | None = None,
    ) -> None:
        if interval < 1 or max_keep < 0:
            raise ConfigError(f"CheckpointHook needs interval >= 1 and max_keep >= 0, got {interval} and {max_keep}.")
        if every_iters is not None and (type(every_iters) is not int or every_iters < 1):
            raise ConfigError(f"CheckpointHook.every_iters is a number of iterations or None, got {every_iters!r}.")
        self.every_iters = every_iters
        self._waits = False
        self._unsaved = False  # whether something was trained since the newest file
        self._newest: Path | None = None
        self.interval = interval
        self.max_keep = max_keep
        self.save_best = save_best
        self.greater_is_better = greater_is_better

    def check(self, plan: RunPlan) -> None:
        """Raise ConfigError where validation will not report ``save_best``."""
        self._require(plan.metric_names)

    def _require(self, reported: Sequence[str]) -> None:
        if self.save_best not in (None, "auto", *reported):
            raise ConfigError(
                f"default_hooks.checkpoint.save_best is {self.save_best!r}, but validation reports "
                f"{sorted(reported)[:12]}.{did_you_mean(str(self.save_best), reported)}"
            )

    def before_train(self, runner: Any) -> None:
        self._unsaved = False
        if rank_and_world()[0] != 0:
            return
        folder, source = Path(runner.work_dir), runner.resumed_from
        files.remove_stale(folder)
        goes_on = source is not None and source.parent.resolve() == folder.resolve()
        later = files.forget_validations(folder, runner.epoch if goes_on else 0)
        if goes_on and any(one.get("best_epoch", 0) > runner.epoch for one in later.values()):
            runner.logger.warning(
                f"best.pth is of a later epoch than {runner.epoch}, where this run goes on, and will be replaced by "
                "the best from here on; copy it to keep it."
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self._unsaved = True
        if self.every_iters is None:
            return
        self._waits = self._waits or (runner.iter + 1) % self.every_iters == 0
        if batch_idx + 1 == len(runner.train_dataloader):
            return  # the epoch is completed first
        if self._waits and runner.optim_wrapper.should_update():  # gradients of a window are in no file
            self._waits = False
            self._save(runner, runner.epoch, batch_idx + 1)

    def after_train_epoch(self, runner: Any) -> None:
        waits, self._waits = self._waits, False
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self._save(runner, runner.epoch + 1)
        elif waits:  # between two that are kept
            self._save(runner, runner.epoch + 1, in_passing=True)

    def after_train(self, runner: Any) -> None:
        if self._unsaved:  # ended before its last epoch
            self._save(runner, runner.epoch)

    def save_now(self, runner: Any) -> Path:
        """Save between two steps, or between two epochs, whatever the interval; returns the file."""
        loop = runner.train_loop
        if self._unsaved or self._newest is None:
            return self._save(runner, loop.epoch, loop.batches_done)
        return self._newest

    def _save(self, runner: Any, epoch: int, batches_done: int = 0, *, in_passing: bool = False) -> Path:
        """Save as ``epoch_N.pth``, inside an epoch or ``in_passing`` as ``iter_N.pth``; returns the file."""
        iteration = epoch * len(runner.train_dataloader) + batches_done
        name = f"iter_{iteration}.pth" if batches_done or in_passing else f"epoch_{epoch}.pth"
        path = Path(runner.work_dir, name)
        runner.call_hook("before_checkpoint")
        runner.write_checkpoint(path, epoch=epoch, batches_done=batches_done, training_state=True)
        if rank_and_world()[0] == 0:
            files.write_pointer(path.parent, path)
            self._drop_old(path, epoch, iteration)
        self._unsaved, self._newest = False, path
        return path

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if not metrics or not runner.is_training_run:
            return
        if self.save_best is not None:
            self._require(list(metrics))
            name = next(iter(metrics)) if self.save_best == "auto" else self.save_best
            self._keep_best(runner, name, metrics)
        if rank_and_world()[0] == 0:
            noted = {**runner.progress, **validated_schedules(runner.param_schedulers or [])}
            files.note_validation(Path(runner.work_dir), runner.epoch, noted)

    def _keep_best(self, runner: Any, name: str, metrics: dict[str, float]) -> None:
        value = float(metrics[name])
        best = runner.progress.get("best_score")
        sign = 1.0 if self.greater_is_better else -1.0
        if math.isnan(value) or (best is not None and sign * value <= sign * best):
            return
        runner.progress["best_score"] = value
        runner.progress["best_epoch"] = runner.epoch
        path = Path(runner.work_dir) / "best.pth"
        runner.write_checkpoint(path, epoch=runner.epoch, training_state=False, metrics=metrics)
        runner.logger.info(f"best {name} {value:.4f} at epoch {runner.epoch}: {path.name}")

    def _drop_old(self, newest: Path, epoch: int, iteration: int) -> None:
        """Delete what is not to be kept of this run: what has higher numbers is of another."""
        folder = newest.parent
        old = [path for number, path in files.numbered(folder, "iter") if number <= iteration and path != newest]
        if self.max_keep > 0:
            saved = [path for number, path in files.numbered(folder, "epoch") if number <= epoch]
            old += [path for path in saved if path != newest][: max(0, len(saved) - self.max_keep)]
        for path in old:
            path.unlink(missing_ok=True)
