"""Checkpoint files: plain data only, never half written, and no file can run code."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from effdense.engine import checkpoint as files
from effdense.engine.hooks import CheckpointHook
from effdense.engine.run import train
from effdense.errors import RunError, WeightsError

# -- plain data --------------------------------------------------------------------------------------------------------


class Name(str):
    """A str subclass, as torch.__version__ is one."""


def test_plain_keeps_values_and_drops_types(tmp_path: Path) -> None:
    content = {
        "tensor": torch.arange(3.0, requires_grad=True),
        "scalars": [np.float32(0.5), np.int64(7), np.bool_(True), True, None, 2, 0.25],
        "array": np.array([[1, 2], [3, 4]], np.int16),
        "key": np.array([0, 2**32 - 1], np.uint32),
        "bytes": np.array([0, 255], np.uint8),
        "nested": ({"a": (1, 2)}, [Path("x") / "y", Name("2.15")]),
        3: {"set": {5}},
    }
    files.save_atomically(files.plain(content), tmp_path / "file.pth")
    back = torch.load(tmp_path / "file.pth", weights_only=True)
    assert torch.equal(back["tensor"], torch.arange(3.0)) and not back["tensor"].requires_grad
    assert back["scalars"] == [0.5, 7, True, True, None, 2, 0.25]
    assert [type(v) for v in back["scalars"]] == [float, int, bool, bool, type(None), int, float]
    assert back["array"].tolist() == [[1, 2], [3, 4]] and back["array"].dtype == torch.int16
    assert back["key"].tolist() == [0, 2**32 - 1] and back["bytes"].dtype == torch.uint8
    assert back["nested"] == ({"a": (1, 2)}, ["x/y", "2.15"]) and type(back["nested"][1][1]) is str
    assert back[3] == {"set": [5]}


def test_plain_refuses_objects() -> None:
    with pytest.raises(TypeError, match="not SimpleNamespace"):
        files.plain({"a": [SimpleNamespace()]})


@pytest.mark.parametrize("name", ["epoch_1.pth", "epoch_3.pth", "best.pth"])
def test_a_runs_checkpoints_hold_no_code(trained: Any, name: str) -> None:
    path = trained.work_dir / name
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    content = torch.load(path, weights_only=True)
    assert content["format"] == "effdense/1"
    assert content["meta"]["classes"] == ["ellipse", "rectangle", "triangle", "star", "ring"]


def test_random_streams_are_restored() -> None:
    before = files.rng_state()
    first = (random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist(), np.random.randn())
    state = torch.load(_saved(files.plain(before)), weights_only=True)
    files.set_rng_state(state)
    assert (random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist(), np.random.randn()) == first


def _saved(content: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    return buffer


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.pth"
    files.save_atomically({"format": files.FORMAT, "epoch": 1}, path)

    def half(content: Any, file: Any) -> None:
        file.write(b"PK half of a checkpoint")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(RunError, match=r"No space left on device; .* MiB free"):
        files.save_atomically({"format": files.FORMAT, "epoch": 2}, path)
    assert files.load(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["best.pth"]


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from effdense.engine import checkpoint as files
def half(content, file):
    file.write(b"PK half of a checkpoint"); file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
files.save_atomically({"format": files.FORMAT, "epoch": 2}, Path(sys.argv[1]))
"""


def test_a_process_killed_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    files.save_atomically({"format": files.FORMAT, "epoch": 1}, path)
    files.write_pointer(tmp_path, path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    leftovers = list(tmp_path.glob(".*.tmp.*"))
    assert len(leftovers) == 1 and leftovers[0].stat().st_size > 0
    assert files.find_last(tmp_path) == path and files.load(path)["epoch"] == 1
    CheckpointHook().before_train(SimpleNamespace(work_dir=str(tmp_path)))  # the next start tidies up
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch_1.pth", "last_checkpoint"]


# -- finding the newest ------------------------------------------------------------------------------------------------


def write_epochs(folder: Path, *epochs: int) -> list[Path]:
    """Files that differ by a second in age, and the pointer to the last."""
    paths = []
    for epoch in epochs:
        paths.append(folder / f"epoch_{epoch}.pth")
        files.save_atomically({"format": files.FORMAT, "epoch": epoch, "w": torch.ones(1000)}, paths[-1])
        os.utime(paths[-1], (epoch, epoch))
    files.write_pointer(folder, paths[-1])
    return paths


def test_the_pointer_is_relative_and_moves_with_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_epochs(tmp_path / "run", 1, 2)
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "epoch_2.pth"
    moved = tmp_path / "elsewhere" / "moved"
    shutil.move(tmp_path / "run", moved)
    assert files.find_last(moved) == moved / "epoch_2.pth"


def test_a_damaged_newest_file_falls_back_to_the_one_before(tmp_path: Path) -> None:
    older, newer = write_epochs(tmp_path, 9, 10)
    newer.write_bytes(newer.read_bytes()[: newer.stat().st_size // 2])
    assert files.find_last(tmp_path) == older
    newer.write_bytes(b"")
    assert files.find_last(tmp_path) == older


@pytest.mark.parametrize("text", ["", "  \n", "epoch_99.pth"])
def test_a_pointer_to_nothing_is_passed_over(tmp_path: Path, text: str) -> None:
    paths = write_epochs(tmp_path, 9, 10)
    (tmp_path / "last_checkpoint").write_text(text)
    assert files.find_last(tmp_path) == paths[1]


def test_nothing_to_find(tmp_path: Path) -> None:
    assert files.find_last(tmp_path) is None
    (tmp_path / "epoch_1.pth").write_bytes(b"no checkpoint")
    assert files.find_last(tmp_path) is None


# -- what may be resumed and loaded ------------------------------------------------------------------------------------


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("use", ["resume", "load_from", "weights"])
def test_a_pickle_with_code_is_refused_and_does_not_run(tiny_config: Any, tmp_path: Path, use: str) -> None:
    trap, evil = tmp_path / "it_ran", tmp_path / "evil.pth"
    torch.save({"format": files.FORMAT, "state_dict": {"a": Payload(trap)}}, evil)
    with pytest.raises(WeightsError, match="could run code"):
        if use == "resume":
            train(tiny_config("evil_resume"), work_dir=str(tmp_path / "run"), resume=str(evil))
        else:
            option = {"load_from": "load_from", "weights": "model.weights"}[use]
            train(tiny_config(f"evil_{use}"), work_dir=str(tmp_path / "run"), options={option: str(evil)})
    assert not trap.exists()
    evil.write_bytes(pickle.dumps(Payload(trap), protocol=2))  # the same without torch's archive around it
    with pytest.raises(WeightsError):
        files.load(evil)
    assert not trap.exists()


def test_best_is_no_point_to_resume_from(tiny_config: Any, trained: Any, tmp_path: Path) -> None:
    best = str(trained.work_dir / "best.pth")
    with pytest.raises(WeightsError, match=r"weights only .* resume from an epoch_N\.pth .* load_from="):
        train(tiny_config("from_best"), work_dir=str(tmp_path / "run"), resume=best)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train_dataloader.batch_size": 6},
            r"6 iterations an epoch \(this run: 4\), 4 images a batch",
        ),
        ({"model.fpn_cells": 2}, "tensors that .* needs"),
        ({"default_hooks.ema": None}, "moving average"),
        ({"param_scheduler": []}, "1 schedules, the config 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_run_cannot_be_resumed(
    tiny_config: Any, trained: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    config = tiny_config("other_" + "".join(c for c in next(iter(options)) if c.isalpha()))
    with pytest.raises(WeightsError, match=message):
        train(config, work_dir=str(tmp_path / "run"), resume=str(trained.work_dir / "epoch_1.pth"), options=options)


def test_a_foreign_file_is_no_checkpoint_of_ours(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"no effdense checkpoint .*load_from"):
        files.load(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="format 'list'"):
        files.load(tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="no weight file"):
        files.load(tmp_path / "absent.pth")
