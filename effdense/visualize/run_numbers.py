"""What a training run has logged, as arrays: the rows of its ``metrics.jsonl`` in, numbers over epochs out.

Symbols: T logged intervals of training, V validations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.errors import ConfigError, DataError, did_you_mean

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RunCurves:
    """What a run has logged.

    Attributes:
        name: of the run.
        at: (T,) place of a row of training, in epochs. training: numbers by name, each (T,), nan where there is none.
        validated: (V,) the same of validations. scores: by name, each (V,).
        metric: the score that decides which epoch is best, None without validations. best: its row, None without one.
    """

    name: str
    at: Numbers
    training: Mapping[str, Numbers]
    validated: Numbers
    scores: Mapping[str, Numbers]
    metric: str | None
    best: int | None


def read_curves(path: str | Path, name: str, *, metric: str | None = None, greater_is_better: bool = True) -> RunCurves:
    """Read ``metrics.jsonl``; half a line, which a killed run may leave, is passed over.

    Args:
        name: of the run, for titles and legends.
        metric: the score that decides; default the first one that validation reports.

    Raises: DataError for a file without a row or that cannot be read; ConfigError for a metric that is not in it.
    """
    train, val = _rows(Path(path))
    if not train and not val:
        raise DataError(f"{path} holds no row yet; the first comes after a logging interval or a validation.")
    names = list(dict.fromkeys(key for row in val for key in row if key not in ("epoch", "iter")))
    if metric is not None and metric not in names and val:
        raise ConfigError(
            f"{path} has no score {metric!r}.{did_you_mean(metric, names)} Validation reports: {', '.join(names)}."
        )
    scores = {key: _column(val, key) for key in names}
    chosen = (metric or names[0]) if names else None
    length = _epoch_length(train, val)
    best = None
    if chosen is not None and np.isfinite(scores[chosen]).any():
        best = int(np.nanargmax(scores[chosen] if greater_is_better else -scores[chosen]))
    keys = list(dict.fromkeys(key for row in train for key in row if key not in ("epoch", "iter")))
    return RunCurves(
        name=name,
        at=_column(train, "iter") / length,
        training={key: _column(train, key) for key in keys},
        validated=_column(val, "iter") / length,
        scores=scores,
        metric=chosen,
        best=best,
    )


def _rows(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of training and of validation."""
    train: list[dict[str, Any]] = []
    val: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    usable = row["iter"] > 0 and row["epoch"] > 0
                except (ValueError, KeyError, TypeError):
                    continue
                if usable:
                    (train if "lr" in row or "loss" in row else val).append(row)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return train, val


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> Numbers:
    values = (row.get(key) for row in rows)
    return np.array([v if isinstance(v, (int, float)) else np.nan for v in values], np.float64)


def _epoch_length(train: Sequence[Mapping[str, Any]], val: Sequence[Mapping[str, Any]]) -> float:
    """Iterations of an epoch: validations come at the end of one, and rows of training at most as far."""
    if val:
        return float(np.median(_column(val, "iter") / _column(val, "epoch")))
    return float((_column(train, "iter") / _column(train, "epoch")).max())
