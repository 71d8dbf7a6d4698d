"""``metrics.jsonl`` in the work dir: one JSON object per logging interval and per validation, over all starts of a run.

Training: ``{"epoch": 1, "iter": 50, "loss": ..., "loss_cls": ..., "lr": ..., "images_per_second": ..., ...}``;
validation: ``{"epoch": 1, "iter": 300, "coco/AP": ...}``. Losses are means over the interval, of rank 0; what is not a
finite number is ``null``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook, LoggerHook

from effdense.engine.distributed import rank_and_world
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError

METRICS = "metrics.jsonl"
_MEANS = ("loss", "time", "data_time", "grad_norm")  # beginnings of the names that are averaged; others are the latest


class Throughput:
    """Images a second since the last reading, all processes together; validation and pauses between epochs excluded."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._start, self._images = time.perf_counter(), 0

    def add(self, batch: Any) -> None:
        """Count a training batch; its size is known on the host."""
        inputs = batch.get("inputs") if isinstance(batch, Mapping) else None
        self._images += 0 if inputs is None else len(inputs)

    def read(self) -> float:
        """The rate since the last reading, and count anew."""
        seconds = time.perf_counter() - self._start
        rate = self._images * rank_and_world()[1] / max(seconds, 1e-9)
        self.restart()
        return rate


def interval_ends(hook: Any, batch_idx: int, length: int) -> bool:
    """Whether mmengine's ``LoggerHook`` logs after this iteration of an epoch of ``length``."""
    if (batch_idx + 1) % hook.interval == 0:
        return True
    return batch_idx + 1 == length and (not hook.ignore_last or length <= hook.interval)


@HOOKS.register_module()
class MetricsFileHook(Hook):
    """Writes ``metrics.jsonl``; rank 0 only.

    Args:
        interval: iterations between rows; None follows the logger.

    Each row is on disk before the next iteration. A resumed run goes on in the same file, without the rows that are
    newer than what it resumed; a run that starts anew moves the file of the one before to ``metrics_1.jsonl``.
    """

    # Before the checkpoint hook, which writes down that the validation is done: a kill between the two repeats it, and
    # the row of the first time is dropped.
    priority = "LOW"

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None and (type(interval) is not int or interval < 1):
            raise ConfigError(
                f"MetricsFileHook.interval is a number of iterations or None, the logger's; got {interval!r}."
            )
        self.interval = interval
        self.ignore_last = True
        self._throughput = Throughput()
        self._begins = True
        self._said = False

    def before_train(self, runner: Any) -> None:
        logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
        if self.interval is None:
            self.interval = logger.interval if logger is not None else 50
        if logger is not None:
            self.ignore_last = logger.ignore_last
        if rank_and_world()[0] == 0:
            path = Path(runner.work_dir, METRICS)
            validated = runner.iter > 0 and not getattr(runner.train_loop, "validate_first", False)
            self._try(runner, lambda: keep_until(path, runner.iter, validated=validated))

    def before_train_epoch(self, runner: Any) -> None:
        self._begins = True

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self._begins:  # the first batch is there by now: starting workers is not counted
            self._throughput.restart()
            self._begins = False

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self._throughput.add(data_batch)
        if rank_and_world()[0] != 0 or not interval_ends(self, batch_idx, len(runner.train_dataloader)):
            return
        assert self.interval is not None
        values = train_values(runner.message_hub, batch_idx % self.interval + 1)
        row = {"epoch": runner.epoch + 1, "iter": runner.iter + 1, **values}
        self._append(runner, {**row, "images_per_second": round(self._throughput.read(), 2)})

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if metrics and runner.is_training_run and rank_and_world()[0] == 0:
            self._append(runner, {"epoch": runner.epoch, "iter": runner.iter, **metrics})

    def _append(self, runner: Any, row: Mapping[str, Any]) -> None:
        text = json.dumps({key: _plain(value) for key, value in row.items()}, allow_nan=False) + "\n"

        def write() -> None:
            with open(Path(runner.work_dir, METRICS), "a", encoding="utf-8") as file:
                file.write(text)

        self._try(runner, write)

    def _try(self, runner: Any, write: Any) -> None:
        """A row that cannot be written is no reason to stop training; said once."""
        try:
            write()
        except OSError as error:
            if not self._said:
                runner.logger.warning(f"{METRICS} cannot be written and lacks rows from here on: {error}")
            self._said = True


def train_values(hub: Any, window: int) -> dict[str, float]:
    """Training scalars that the message hub holds, without their prefix: means over ``window`` iterations of losses,
    times and the gradient norm, else the latest.
    """
    values = {}
    for key, history in hub.log_scalars.items():
        name = key.removeprefix("train/")
        if name != key and name != "base_lr":
            values[name] = history.mean(window) if name.startswith(_MEANS) else history.current()
    return values


def keep_until(path: Path, iteration: int, *, validated: bool) -> None:
    """Drop the rows of ``metrics.jsonl`` that a run which goes on after ``iteration`` writes again; atomic.

    Args:
        validated: whether a validation at ``iteration`` itself is done. With ``iteration`` 0 the file is moved away.
    """
    if not path.is_file():
        return
    if iteration == 0:
        number = 1
        while (old := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists():
            number += 1
        path.rename(old)
        return
    # A crash of the machine may leave anything at the end: half a row, one without its line end, null bytes.
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = [line for line in text.split("\n") if _is_before(line, iteration, validated)]
    if text == "".join(f"{line}\n" for line in kept):
        return
    temporary = path.with_name(f".{path.name}.tmp.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _is_before(line: str, iteration: int, validated: bool) -> bool:
    try:
        row = json.loads(line)
        number = int(row["iter"])
    except (ValueError, KeyError, TypeError):
        return False
    return number < iteration or (number == iteration and (validated or "lr" in row))


def _plain(value: Any) -> Any:
    if isinstance(value, (str, bool)) or value is None:
        return value
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None
