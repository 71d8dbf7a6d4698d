"""Checkpoint files: plain data only, never half written, and no file can run code."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
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
from effdense.engine.hooks import CheckpointHook, EarlyStoppingHook
from effdense.engine.resume_checks import require_same_classes
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
    CheckpointHook().before_train(
        SimpleNamespace(work_dir=str(tmp_path), epoch=0, resumed_from=None)
    )  # the next start tidies up
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


def test_files_of_the_user_are_no_checkpoints_of_the_run(tmp_path: Path) -> None:
    """Copies, links to nothing and folders are neither resumed from nor deleted."""
    paths = write_epochs(tmp_path, 1, 2, 3)
    (tmp_path / "last_checkpoint").unlink()
    shutil.copy(paths[2], tmp_path / "epoch_3_copy.pth")
    shutil.copy(paths[2], tmp_path / "iter_4_copy.pth")
    (tmp_path / "epoch_7.pth").symlink_to(tmp_path / "nothing.pth")
    (tmp_path / "epoch_0.pth").mkdir()
    assert files.find_last(tmp_path) == paths[2]
    CheckpointHook(max_keep=1)._drop_old(paths[2], 3, 9)
    left = ["epoch_0.pth", "epoch_3.pth", "epoch_3_copy.pth", "epoch_7.pth", "iter_4_copy.pth"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


@pytest.mark.parametrize("content", [b"\0\0\0", b"\xff\xfe", b"e" * 5000])
def test_a_damaged_pointer_is_passed_over(tmp_path: Path, content: bytes) -> None:
    paths = write_epochs(tmp_path, 1, 2)
    (tmp_path / "last_checkpoint").write_bytes(content)
    assert files.pointed_at(tmp_path) is None and files.find_last(tmp_path) == paths[1]


# -- when it is written ------------------------------------------------------------------------------------------------


class Steps:
    """A runner of six iterations an epoch, as far as the hook looks at one."""

    def __init__(self, folder: Path, epochs: int, resumed_from: Path | None = None) -> None:
        self.work_dir, self.resumed_from = str(folder), resumed_from
        self.max_epochs, self.epoch, self.iter = epochs, 0, 0
        self.train_dataloader = range(6)
        self.train_loop = SimpleNamespace(epoch=0, batches_done=0)
        self.optim_wrapper = SimpleNamespace(should_update=lambda: True)
        self.said: list[str] = []
        self.logger = SimpleNamespace(warning=self.said.append)
        self.saved: list[str] = []

    def call_hook(self, name: str) -> None:
        pass

    def write_checkpoint(self, path: Path, **options: Any) -> None:
        path.write_bytes(b"")
        self.saved.append(path.name)

    def epochs(self, hook: CheckpointHook, number: int) -> None:
        for _ in range(number):
            for batch in range(6):
                hook.after_train_iter(self, batch)  # type: ignore[arg-type]
                self.iter += 1
            hook.after_train_epoch(self)
            self.epoch = self.train_loop.epoch = self.epoch + 1


def test_an_interval_that_meets_the_end_of_an_epoch(tmp_path: Path) -> None:
    """Every four of six iterations, epochs kept every third: nowhere are more than four lost."""
    hook, run = CheckpointHook(interval=3, every_iters=4), Steps(tmp_path, 4)
    run.epochs(hook, 4)
    assert run.saved == [
        "iter_4.pth",
        "iter_8.pth",
        "iter_12.pth",
        "iter_16.pth",
        "epoch_3.pth",
        "iter_20.pth",
        "epoch_4.pth",
    ]
    hook, run = CheckpointHook(interval=10, every_iters=6), Steps(tmp_path, 20)
    run.epochs(hook, 2)
    assert run.saved == ["iter_6.pth", "iter_12.pth"]


def test_the_last_epoch_of_a_run_that_is_stopped_early(tmp_path: Path) -> None:
    hook, run = CheckpointHook(interval=5), Steps(tmp_path, 20)
    run.epochs(hook, 7)
    hook.after_train(run)
    assert run.saved == ["epoch_5.pth", "epoch_7.pth"]
    hook.after_train(run)
    assert len(run.saved) == 2


def test_a_signal_saves_over_the_file_of_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "epoch_1.pth").write_bytes(b"of another run")
    hook, run = CheckpointHook(interval=5), Steps(tmp_path, 20)
    hook.before_train(run)
    run.epochs(hook, 1)
    assert hook.save_now(run) == tmp_path / "epoch_1.pth" and run.saved == ["epoch_1.pth"]
    assert hook.save_now(run) == tmp_path / "epoch_1.pth" and len(run.saved) == 1  # nothing trained since


def test_files_of_another_run_in_the_folder_do_not_count(tmp_path: Path) -> None:
    """Begun anew beside epochs 8 and 9: two of its own are kept."""
    for number in (8, 9):
        (tmp_path / f"epoch_{number}.pth").touch()
    hook, run = CheckpointHook(max_keep=2), Steps(tmp_path, 20)
    run.epochs(hook, 4)
    assert [number for number, _ in files.numbered(tmp_path, "epoch")] == [3, 4, 8, 9]


def test_validations_of_another_run_do_not_count(tmp_path: Path) -> None:
    """Else an epoch of the new run that was killed before its validation would pass for validated."""
    for epoch, best in ((1, 1), (2, 2), (3, 2)):
        files.note_validation(tmp_path, epoch, {"best_score": 0.1, "best_epoch": best})
    run = Steps(tmp_path, 20, resumed_from=tmp_path / "epoch_1.pth")
    run.epoch = 1
    CheckpointHook().before_train(run)
    assert list(files.read_validations(tmp_path)) == ["1"] and "best.pth is of a later epoch than 1" in run.said[0]
    CheckpointHook().before_train(Steps(tmp_path, 20, resumed_from=tmp_path / "elsewhere" / "epoch_1.pth"))
    assert files.read_validations(tmp_path) == {}


@pytest.mark.parametrize(("state", "patience", "stops"), [
    ({"waited": 3, "stopped": True, "patience": 3}, 3, True),
    ({"waited": 3, "stopped": True, "patience": 3}, 5, False),  # raised to go on
    ({"waited": 2, "stopped": False, "patience": 3}, 1, False),
    ({"waited": 1, "stopped": True, "patience": 3}, 9, True),  # by its threshold
    ({"waited": 3, "stopped": True}, 9, True),  # written before patience was
])  # fmt: skip
def test_early_stopping_with_another_patience(state: dict[str, Any], patience: int, stops: bool) -> None:
    run = SimpleNamespace(progress={"early_stopping": {"best": 0.5, **state}}, train_loop=SimpleNamespace())
    EarlyStoppingHook("coco/AP", patience=patience).before_train(run)
    assert run.train_loop.stop_training is stops


def test_classes_in_another_order_are_not_resumed() -> None:
    run = SimpleNamespace(metadata={"classes": ["cat", "dog"]})
    require_same_classes(run, "a.pth", {"classes": ["cat", "dog"]})
    with pytest.raises(WeightsError, match=r"\['dog', 'cat'\], in this order, the data have \['cat', 'dog'\]"):
        require_same_classes(run, "a.pth", {"classes": ["dog", "cat"]})


def test_what_a_resumed_run_keeps_is_said(tiny_config: Any, trained: Any, tmp_path: Path) -> None:
    """Options of the optimizer are the saved ones, another seed is another run, and nothing left to do is said."""
    options = {"optim_wrapper.optimizer.weight_decay": 0.5, "randomness.seed": 7, "default_hooks.pictures": None}
    last = str(trained.work_dir / "epoch_3.pth")
    train(tiny_config("kept"), work_dir=str(tmp_path / "run"), resume=last, options=options)
    (log,) = (tmp_path / "run").glob("*/*.log")
    text = log.read_text()
    assert re.search(r"weight_decay stays [\d.]+, the config says 0\.5", text) and "initial_lr" not in text
    assert "the seed was 0 and is 7" in text and "nothing is left to train: 3 of 3 epochs are done" in text


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
        ({"optim_wrapper.optimizer.type": "Adam"}, "state of AdamW over .* this run's is Adam over"),
        ({"optim_wrapper.paramwise_cfg.norm_decay_mult": 0.5}, "AdamW over .* groups .* this run's is AdamW over"),
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
