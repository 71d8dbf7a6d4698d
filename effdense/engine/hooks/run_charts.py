"""Charts of a run: the labels it trains on, and its curves, drawn anew now and then."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from effdense.data.checks.label_sample import sampled_statistics
from effdense.engine.hooks.checkpoint import CheckpointHook
from effdense.engine.hooks.metrics_file import METRICS
from effdense.engine.loading import is_elsewhere
from effdense.visualize.picture import write_whole

# matplotlib takes half a second to load: not before there is something to draw.

_SHARE = 0.03  # of the time of a run that may go into drawing its curves


def draw_train_labels(records: Any, path: Path) -> None:
    """``labels.png``: amounts per class of a training split, of boxes also their shapes and places.

    Masks are sampled; those in shards of an address are not fetched for this, and nothing is drawn.
    """
    if is_elsewhere(records) and hasattr(records, "read_mask"):
        return
    from effdense.visualize.label_plots import draw_labels

    statistics, looked_at = sampled_statistics(records)
    name = "train" if looked_at == len(records) else f"train, {looked_at:,} of {len(records):,} masks"
    write_whole(path, draw_labels(name, statistics))


class CurveDrawer:
    """Keeps ``curves.png`` up to ``metrics.jsonl``, at a bounded share of the time of the run."""

    def __init__(self) -> None:
        self._drawn_of: tuple[int, int] | None = None
        self._not_before = 0.0

    def draw(self, runner: Any, path: Path, *, now: bool = False) -> None:
        """Draw if there is something new and enough time has passed; ``now``: however little."""
        source = Path(runner.work_dir, METRICS)
        if not source.is_file() or (not now and time.monotonic() < self._not_before):
            return
        stat = source.stat()
        state = (stat.st_size, stat.st_mtime_ns)
        if state == self._drawn_of or stat.st_size == 0:
            return
        start = time.monotonic()
        try:
            from effdense.visualize.curves import draw_run
            from effdense.visualize.run_numbers import read_curves

            keeper = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
            metric = None if keeper is None or keeper.save_best == "auto" else keeper.save_best
            greater = keeper is None or keeper.greater_is_better
            name = Path(runner.work_dir).resolve().name
            curves = read_curves(source, name, metric=metric, greater_is_better=greater)
            write_whole(path, draw_run(curves))
            self._drawn_of = state
        finally:
            end = time.monotonic()
            self._not_before = end + (end - start) / _SHARE
