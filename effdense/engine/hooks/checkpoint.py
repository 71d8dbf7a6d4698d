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
        if rank_and_world()[0] == 0:
            files.remove_stale(Path(runner.work_dir))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if self.every_iters is None or batch_idx + 1 == len(runner.train_dataloader):
            return
        self._waits = self._waits or (runner.iter + 1) % self.every_iters == 0
        if self._waits and runner.optim_wrapper.should_update():  # gradients of a window are in no file
            self._waits = False
            self._save(runner, runner.epoch, batch_idx + 1)

    def after_train_epoch(self, runner: Any) -> None:
        self._waits = False
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            self._save(runner, runner.epoch + 1)

    def save_now(self, runner: Any) -> Path:
        """Save between two steps, or between two epochs, whatever the interval; returns the file."""
        loop = runner.train_loop
        path = self._path(runner, loop.epoch, loop.batches_done)
        if loop.batches_done or not path.is_file():
            self._save(runner, loop.epoch, loop.batches_done)
        return path

    def _path(self, runner: Any, epoch: int, batches_done: int) -> Path:
        iteration = epoch * len(runner.train_dataloader) + batches_done
        return Path(runner.work_dir, f"iter_{iteration}.pth" if batches_done else f"epoch_{epoch}.pth")

    def _save(self, runner: Any, epoch: int, batches_done: int = 0) -> None:
        path = self._path(runner, epoch, batches_done)
        runner.call_hook("before_checkpoint")
        runner.write_checkpoint(path, epoch=epoch, batches_done=batches_done, training_state=True)
        if rank_and_world()[0] == 0:
            files.write_pointer(path.parent, path)
            self._drop_old(path.parent, path)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if not metrics or not runner.is_training_run:
            return
        if self.save_best is not None:
            self._require(list(metrics))
            name = next(iter(metrics)) if self.save_best == "auto" else self.save_best
            self._keep_best(runner, name, metrics)
        if rank_and_world()[0] == 0:
            files.note_validation(Path(runner.work_dir), runner.epoch, runner.progress)

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

    def _drop_old(self, folder: Path, newest: Path) -> None:
        for old in folder.glob("iter_*.pth"):
            if old != newest:
                old.unlink(missing_ok=True)
        if self.max_keep == 0:
            return
        saved = sorted(folder.glob("epoch_*.pth"), key=_epoch_of)
        for old in [path for path in saved if path != newest][: max(0, len(saved) - self.max_keep)]:
            old.unlink(missing_ok=True)


def _epoch_of(path: Path) -> int:
    number = path.stem.removeprefix("epoch_")
    return int(number) if number.isdigit() else -1
