"""Curves of runs: what is read from ``metrics.jsonl``, and that odd files still give a picture."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from effdense.errors import ConfigError, DataError
from effdense.visualize import curves as curves_module
from effdense.visualize.curves import draw_run, draw_runs
from effdense.visualize.run_numbers import read_curves


def row(epoch: int, iteration: int, **values: Any) -> dict[str, Any]:
    return {"epoch": epoch, "iter": iteration, **values}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def opened(data: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.std() > 5
    return picture


def test_places_are_epochs_and_the_best_is_found(tmp_path: Path) -> None:
    """Ten iterations an epoch, logged at 5 and 10; the second validation is better, and lower on the other score."""
    rows = [row(i // 10 + 1 - (i % 10 == 0), i, loss=1 / i, lr=0.1) for i in (5, 10, 15, 20, 25)]
    rows[2:2] = [row(1, 10, **{"coco/AP": 0.2, "coco/AR1": 0.4})]
    rows.append(row(2, 20, **{"coco/AP": 0.3, "coco/AR1": 0.1}))
    path = write(tmp_path / "metrics.jsonl", *rows)
    run = read_curves(path, "a run")
    assert run.at.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5] and run.validated.tolist() == [1.0, 2.0]
    assert run.metric == "coco/AP" and run.best == 1
    assert read_curves(path, "a run", metric="coco/AR1").best == 0
    assert read_curves(path, "a run", metric="coco/AR1", greater_is_better=False).best == 1
    opened(draw_run(run))


def test_numbers_that_are_none_or_lacking(tmp_path: Path) -> None:
    """A loss that was not finite is null; half a line is what a killed run may leave."""
    path = write(
        tmp_path / "metrics.jsonl",
        row(1, 1, loss=None, lr=0.1),
        row(1, 2, loss=2.0, lr=0.1, grad_norm=None),
        row(1, 2, **{"seg/mIoU": None}),
        row(2, 4, **{"seg/mIoU": 0.5}),
    )
    with open(path, "a") as file:
        file.write('["iter"]\n{"epoch": 1, "iter": ')
    run = read_curves(path, "$x_i$")
    assert np.isnan(run.training["loss"][0]) and run.best == 1 and len(run.at) == 2
    opened(draw_run(run))


@pytest.mark.parametrize("rows", [[row(1, 7, loss=1.0, lr=0.0)], [row(1, 7, **{"cls/top1": 0.0})]])
def test_a_single_row_is_seen(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    nothing = write(tmp_path / "none.jsonl", row(1, 7, other="text", lr=None))
    empty = opened(draw_run(read_curves(nothing, "a")))
    run = read_curves(write(tmp_path / "metrics.jsonl", *rows), "a")
    assert float(np.concatenate([run.at, run.validated])[0]) == 1.0
    assert (opened(draw_run(run)) != empty).any()


def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(f'{{"epoch": {1 + i // 1000}, "iter": {i + 1}, "loss": 1.5, "lr": 0.1}}\n' for i in range(100_000))
    )
    start = time.process_time()
    opened(draw_run(read_curves(path, "long")))
    assert time.process_time() - start < 10  # 1 s where nothing else runs


def test_runs_together(tmp_path: Path) -> None:
    runs = []
    for k in range(35):  # more than have a colour, more than are named
        rows = [row(e, 10 * e, loss=1.0 / e, lr=0.1) for e in (1, 2)] + [row(2, 20, **{"coco/AP": k / 50})]
        runs.append(read_curves(write(tmp_path / f"{k}.jsonl", *rows), f"run {k}"))
    other = [row(1, 10, loss=1.0, lr=0.1), row(1, 10, **{"seg/mIoU": 0.5})]
    runs.append(read_curves(write(tmp_path / "other.jsonl", *other), "another task"))
    opened(draw_runs(runs))


def test_files_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row yet"):
        read_curves(write(tmp_path / "empty.jsonl"), "a")
    with pytest.raises(DataError, match="cannot be read"):
        read_curves(tmp_path / "nowhere.jsonl", "a")
    path = write(tmp_path / "metrics.jsonl", row(1, 7, **{"coco/AP": 0.5}))
    with pytest.raises(ConfigError, match=r"'coco/Ap'.*coco/AP"):
        read_curves(path, "a", metric="coco/Ap")


def test_a_single_part_of_the_loss_is_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the same line nobody would see it."""
    drawn: list[str] = []
    line = curves_module._line

    def noted(axes: Any, x: Any, y: Any, color: str, label: str, **options: Any) -> None:
        drawn.append(label)
        line(axes, x, y, color, label, **options)

    monkeypatch.setattr(curves_module, "_line", noted)
    for parts in (["loss_seg"], ["loss_cls", "loss_box"]):
        row = {"epoch": 1, "iter": 1, "lr": 0.1, "loss": 1.0, **dict.fromkeys(parts, 0.5)}
        (tmp_path / "metrics.jsonl").write_text(json.dumps(row))
        draw_run(read_curves(tmp_path / "metrics.jsonl", "run"))
    assert [label for label in drawn if "loss" in label] == ["loss", "loss_cls", "loss_box", "loss"]
