"""Results of all ranks together: each sample exactly once, scored on rank 0, the numbers on every rank."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from effdense.data.image_io import write_bytes_atomically
from effdense.engine.distributed import gather_objects, on_main_then_all
from effdense.errors import DataError


def require_complete(found: list[int], size: int) -> None:
    """Raise DataError unless ``found`` holds each of 0..size - 1 exactly once."""
    counts = Counter(found)
    if len(found) == size and len(counts) == size and all(0 <= i < size for i in counts):
        return
    doubled = sorted(i for i, count in counts.items() if count > 1)
    missing = sorted(set(range(size)) - set(counts))
    raise DataError(
        f"evaluation needs one result for each of {size} samples, got {len(found)} "
        f"({len(missing)} missing, first {missing[:3]}; {len(doubled)} doubled, first {doubled[:3]})."
    )


def gather_complete(results: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """The entries of all ranks in sample order.

    Raises: DataError unless each of ``size`` samples came exactly once (key ``index``).
    """
    parts = gather_objects(results)
    entries = sorted((entry for part in parts for entry in part), key=lambda entry: entry["index"])
    require_complete([entry["index"] for entry in entries], size)
    return entries


def evaluated(metric: Any, size: int, score: Callable[[list[dict[str, Any]]], tuple[dict[str, float], Any]]) -> Any:
    """Score what a metric has seen on all ranks: ``{"prefix/name": value}`` on each; ``metric.scores`` is set.

    Args:
        metric: has ``results`` (emptied), ``scores`` and ``prefix``. size: samples that must have come once each.
        score: entries of all ranks to (numbers by name, scores), run on rank 0.

    Raises: DataError for samples that are missing or doubled.
    """
    results, metric.results = metric.results, []
    entries = gather_complete(results, size)
    metrics, metric.scores = on_main_then_all(lambda: score(entries))
    return {f"{metric.prefix}/{name}": value for name, value in metrics.items()}


def write_json(path: str, content: Any) -> None:
    """Write JSON atomically; missing folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(Path(path), json.dumps(content).encode())
