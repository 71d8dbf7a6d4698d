"""``metrics.jsonl``: a row per interval and validation, once each, over all starts of a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub

from effdense.engine.hooks import MetricsFileHook
from effdense.engine.hooks.metrics_file import METRICS, Throughput, keep_until, train_values
from effdense.engine.run import train
from effdense.errors import ConfigError
from tests.engine.conftest import WriteConfig, read_log


def rows(work_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work_dir / METRICS).read_text().splitlines()]


def places(work_dir: Path) -> list[tuple[int, int, bool]]:
    """(epoch, iteration, is it a validation) of each row."""
    return [(row["epoch"], row["iter"], "lr" not in row) for row in rows(work_dir)]


def test_a_run_has_a_row_per_interval_and_validation(trained: Any) -> None:
    found = rows(trained.work_dir)
    expected = [(epoch, 6 * epoch - 5 + i, False) for epoch in (1, 2, 3) for i in range(6)]
    expected += [(epoch, 6 * epoch, True) for epoch in (1, 2, 3)]
    assert places(trained.work_dir) == sorted(expected, key=lambda place: (place[1], place[2]))
    steps = [row for row in found if "lr" in row]
    hub_lr = [line["lr"] for line in read_log(trained.work_dir) if "lr" in line]
    assert [row["lr"] for row in steps] == hub_lr
    assert all(row["images_per_second"] > 0 and row["loss_cls"] < row["loss"] for row in steps)
    assert all(row["loss"] == pytest.approx(row["loss_cls"] + row["loss_box"], rel=1e-5) for row in steps)
    scores = [row["coco/AP"] for row in found if "lr" not in row]
    assert scores == [scores["AP"] for scores in trained.scores]


def test_a_resumed_run_goes_on_without_repeats(trained: Any, tiny_config: WriteConfig, tmp_path: Path) -> None:
    """From epoch 2 in a folder where epoch 3 is written already, and half a line of what came then."""
    folder = tmp_path / "run"
    folder.mkdir()
    old = (trained.work_dir / METRICS).read_text()
    (folder / METRICS).write_text(old + '{"epoch": 4, "it')
    for name in ("epoch_2.pth", "validations.json"):
        (folder / name).write_bytes((trained.work_dir / name).read_bytes())
    train(tiny_config("resumed"), work_dir=str(folder), resume=True)
    assert places(folder) == places(trained.work_dir)
    new = (folder / METRICS).read_text().splitlines()
    assert new[:14] == old.splitlines()[:14] and new[14:] != old.splitlines()[14:]
    same = [{k: v for k, v in row.items() if "time" not in k and "per_second" not in k} for row in rows(folder)]
    timeless = [
        {k: v for k, v in row.items() if "time" not in k and "per_second" not in k} for row in rows(trained.work_dir)
    ]
    assert same == timeless


def test_what_a_resume_keeps(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    steps = [{"epoch": 1, "iter": i, "lr": 0.1} for i in (2, 4)]
    validation = {"epoch": 1, "iter": 4, "coco/AP": 0.5}
    later = {"epoch": 2, "iter": 6, "lr": 0.1}

    def write() -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in (*steps, validation, later)) + '{"ep')

    write()
    keep_until(path, 4, validated=True)
    assert rows(tmp_path) == [*steps, validation]
    write()
    keep_until(path, 4, validated=False)  # the validation is done again
    assert rows(tmp_path) == steps
    write()
    keep_until(path, 3, validated=True)
    assert rows(tmp_path) == steps[:1]
    keep_until(path, 0, validated=False)  # another run begins in this folder
    assert not path.exists() and (tmp_path / "metrics_1.jsonl").read_text().count("\n") == 1
    write()
    keep_until(path, 0, validated=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics_1.jsonl", "metrics_2.jsonl"]
    keep_until(path, 5, validated=True)  # nothing there is no error


def fake_runner(folder: Path, warnings: list[str]) -> Any:
    hub = MessageHub.get_instance(f"metrics_{folder.name}")
    for i, loss in enumerate((1.0, 3.0, float("nan"), 5.0, 7.0)):
        hub.update_scalar("train/loss", loss)
        hub.update_scalar("train/lr", 0.1 * (i + 1))
    return SimpleNamespace(
        work_dir=str(folder), hooks=[LoggerHook(interval=2)], iter=0, epoch=0, train_dataloader=[0] * 5,
        message_hub=hub, train_loop=SimpleNamespace(validate_first=False), is_training_run=True,
        logger=SimpleNamespace(warning=warnings.append),
    )  # fmt: skip


def test_intervals_follow_the_logger_and_json_stays_json(tmp_path: Path) -> None:
    runner = fake_runner(tmp_path, [])
    hook = MetricsFileHook()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    for i in range(5):
        runner.iter = i
        hook.before_train_iter(runner, i)
        hook.after_train_iter(runner, i, {"inputs": torch.zeros(3, 1)})
    runner.epoch, runner.iter = 1, 5
    hook.after_val_epoch(runner, {"coco/AP": float("nan"), "coco/AP50": torch.tensor(0.5)})
    found = rows(tmp_path)
    assert [row["iter"] for row in found] == [2, 4, 5]
    assert found[0]["loss"] == 6.0 and found[0]["lr"] == 0.5  # the mean of the newest two, the newest
    assert found[2] == {"epoch": 1, "iter": 5, "coco/AP": None, "coco/AP50": 0.5}
    assert train_values(runner.message_hub, 3)["loss"] != train_values(runner.message_hub, 3)["loss"]  # nan as it is


def test_a_full_disk_does_not_stop_training(tmp_path: Path) -> None:
    warnings: list[str] = []
    runner = fake_runner(tmp_path, warnings)
    (tmp_path / METRICS).mkdir()  # cannot be opened for writing
    hook = MetricsFileHook(interval=1)
    hook.before_train(runner)
    for i in range(3):
        hook.after_train_iter(runner, i, {"inputs": torch.zeros(3, 1)})
    assert len(warnings) == 1 and "metrics.jsonl cannot be written" in warnings[0]


def test_others_than_rank_0_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effdense.engine.hooks.metrics_file.rank_and_world", lambda: (1, 2))
    runner, hook = fake_runner(tmp_path, []), MetricsFileHook(interval=1)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, {"inputs": torch.zeros(3, 1)})
    hook.after_val_epoch(runner, {"coco/AP": 0.1})
    assert not (tmp_path / METRICS).exists()


def test_images_of_all_processes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effdense.engine.hooks.metrics_file.rank_and_world", lambda: (0, 2))
    clock = iter([10.0, 14.0, 14.0, 15.0, 15.0])
    monkeypatch.setattr("effdense.engine.hooks.metrics_file.time.perf_counter", lambda: next(clock))
    throughput = Throughput()
    for size in (8, 8, 4):
        throughput.add({"inputs": torch.zeros(size, 1)})
    assert throughput.read() == 20 * 2 / 4.0
    assert throughput.read() == 0.0


def test_a_senseless_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"MetricsFileHook\.interval"):
        MetricsFileHook(interval=0)
