"""What a person sees of a run: a live bar per epoch on a terminal, a line per logging interval elsewhere, one row per
validation. The log file and the scalars get mmengine's full lines as ever.
"""

from __future__ import annotations

import atexit
import math
import time
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import LoggerHook
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from effdense.engine.console_lines import change, describe_step, short
from effdense.engine.hooks.checkpoint import CheckpointHook
from effdense.engine.hooks.metrics_file import Throughput, interval_ends, train_values
from effdense.engine.logging_setup import console_handler, live_console, only, to_file_only
from effdense.engine.registry import HOOKS

_REDRAW = 0.25  # seconds between two drawings of a bar
_SHOWN = 3  # numbers of a validation in its row
_TIMES = ("time", "data_time")


class _Numbers(ProgressColumn):
    """What stands behind the bar: cut off where the terminal ends."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["text"], no_wrap=True, overflow="ellipsis")


class LiveBar:
    """A bar on a terminal that log lines scroll above.

    It is drawn by whoever advances it, at most four times a second: a drawing thread could hold the console's lock at
    the moment in which a loader forks its workers.
    """

    def __init__(self, console: Console, logger: Any) -> None:
        self._console, self._handler = console, console_handler(logger)
        self._progress: Progress | None = None
        self._task: Any = None
        self._drawn = 0.0
        atexit.register(self.stop)  # whatever ends the process, the cursor comes back

    @property
    def is_on(self) -> bool:
        """Whether there is a bar now."""
        return self._progress is not None

    @property
    def is_narrow(self) -> bool:
        """Whether there is no room beside a bar for more than the main numbers."""
        return self._console.width < 130

    def start(self, title: str, total: int, done: int = 0, *, stays: bool) -> None:
        """Draw a new bar; ``stays`` leaves its last state on the screen."""
        self.stop()
        columns = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=6 if self.is_narrow else 20, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _Numbers(),
        )
        self._progress = Progress(*columns, console=self._console, auto_refresh=False, transient=not stays)
        self._task = self._progress.add_task(title, total=total, completed=done, text="")
        self._progress.start()
        if self._handler is not None:
            self._handler.live = self._console
        self._drawn = 0.0

    def advance(self, text: str | None = None) -> None:
        """One iteration further; ``text`` is what stands behind the bar from now on."""
        if self._progress is None:
            return
        self._progress.advance(self._task)
        if text is not None:
            self._progress.update(self._task, text=text)
        now = time.monotonic()
        if now - self._drawn >= _REDRAW:
            self._drawn = now
            self._progress.refresh()

    def stop(self) -> None:
        """Leave the terminal as it was; does nothing without a bar."""
        if self._progress is None:
            return
        progress, self._progress = self._progress, None
        if self._handler is not None:
            self._handler.live = None
        progress.stop()


@HOOKS.register_module()
class ConsoleHook(LoggerHook):
    """mmengine's LoggerHook with short lines, or a bar, on the console.

    Args:
        interval: iterations between two lines, and between two changes of the numbers beside a bar.
        options: of mmengine's hook, such as ``ignore_last``: a shorter last interval of an epoch gets no line.
    """

    def __init__(self, interval: int = 50, **options: Any) -> None:
        super().__init__(interval=interval, **options)
        self._throughput = Throughput()
        self._begins = True
        self._bar: LiveBar | None = None
        self._fallback_best: tuple[float, int] | None = None
        self._val_start = 0.0

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        self._prepare(runner)

    def _prepare(self, runner: Any) -> None:
        if self._bar is None:
            console = live_console((runner.cfg.get("logging") or {}).get("console", "auto"))
            self._bar = None if console is None else LiveBar(console, runner.logger)

    # -- training ------------------------------------------------------------------------------------------------------

    def before_train_epoch(self, runner: Any) -> None:
        self._begins = True

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if not self._begins:
            return
        self._begins = False  # here and not at the epoch's start: workers are there by now, without a bar of their own
        self._throughput.restart()
        if self._bar is not None:
            title = f"epoch {runner.epoch + 1}/{runner.max_epochs}"
            self._bar.start(title, len(runner.train_dataloader), batch_idx, stays=True)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self._throughput.add(data_batch)
        length = len(runner.train_dataloader)
        text = None
        if interval_ends(self, batch_idx, length):
            tag, line = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
            runner.logger.info(line, extra=only("file"))
            runner.visualizer.add_scalars(tag, step=runner.iter + 1, file_path=self.json_log_path)
            window = batch_idx % self.interval + 1
            values = train_values(runner.message_hub, window)
            eta = runner.message_hub.runtime_info.get("eta")
            brief = self._bar is not None and self._bar.is_narrow
            text = describe_step(values, self._throughput.read(), tag.get("memory"), eta, brief=brief)
            if self._bar is None:
                place = f"epoch {runner.epoch + 1}/{runner.max_epochs}  {batch_idx + 1:>{len(str(length))}}/{length}"
                runner.logger.info(f"{place}  {text}", extra=only("console"))
        if self._bar is not None:
            self._bar.advance(text)

    def after_train_epoch(self, runner: Any) -> None:
        self.close()

    # -- validation ----------------------------------------------------------------------------------------------------

    def before_val_epoch(self, runner: Any) -> None:
        self._prepare(runner)  # an evaluation has no before_run
        self._val_start = time.perf_counter()

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self._bar is not None and not self._bar.is_on:
            self._bar.start("validation", len(runner.val_dataloader), batch_idx, stays=False)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        with to_file_only(runner.logger):
            super().after_val_iter(runner, batch_idx, data_batch, outputs)
        if self._bar is not None:
            self._bar.advance()
            if batch_idx + 1 == len(runner.val_dataloader):  # the metric has its own lines
                self._bar.stop()

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self.close()
        tag, line = runner.log_processor.get_log_after_epoch(runner, len(runner.val_dataloader), "val")
        runner.logger.info(line, extra=only("file"))
        # Of the same axis as training's, and not under the names of its times.
        scalars = {f"val/{name}" if name in _TIMES else name: value for name, value in tag.items()}
        step = runner.iter if runner.is_training_run else 0
        runner.visualizer.add_scalars(scalars, step=step, file_path=self.json_log_path)
        if metrics and runner.is_training_run:
            took = time.perf_counter() - self._val_start
            row = self._row(runner, metrics)
            runner.logger.info(f"epoch {runner.epoch}/{runner.max_epochs}  {row}  in {took:.0f} s")

    def _row(self, runner: Any, metrics: Mapping[str, float]) -> str:
        keeper = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        name, sign, best = next(iter(metrics)), 1.0, self._fallback_best
        if keeper is not None and keeper.save_best is not None:
            name = name if keeper.save_best == "auto" else keeper.save_best
            sign = 1.0 if keeper.greater_is_better else -1.0
            score = runner.progress.get("best_score")
            best = None if score is None else (score, runner.progress["best_epoch"])
        value = float(metrics[name])
        if not math.isnan(value) and (best is None or sign * value > sign * best[0]):
            self._fallback_best = (value, runner.epoch)
        others = [key for key, number in metrics.items() if key != name and number >= 0][: _SHOWN - 1]
        shown = "  ".join(f"{key.rpartition('/')[2]} {short(metrics[key])}" for key in others)
        return f"{name} {short(value)} ({change(value, best, sign)})  {shown}".rstrip()

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take the bar away; the runner does so too when a run ends with an error."""
        if self._bar is not None:
            self._bar.stop()

    def after_run(self, runner: Any) -> None:
        self.close()
        super().after_run(runner)
