"""Lost and hung workers, pictures that break in mid-epoch, memory: a sentence with the newest checkpoint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from effdense.engine import checkpoint as files
from effdense.engine.config import load_config
from effdense.engine.datasets import build_loader, build_split
from effdense.engine.failures import explained
from effdense.engine.run import train
from effdense.errors import DataError, RunError
from tests.engine.conftest import WriteConfig

# Done by a transform, so that it happens inside a worker: kills itself, or never answers.
TROUBLE = """
import os as _os, signal as _signal, time as _time
from effdense.engine.registry import TRANSFORMS as _TRANSFORMS

class _Trouble:
    def __init__(self, what): self.what = what
    def __call__(self, sample, generator):
        if _os.environ.get("TROUBLE") and sample["index"] == 5 and _os.getppid() == int(_os.environ["TROUBLE"]):
            if self.what == "kill": _os.kill(_os.getpid(), _signal.SIGKILL)
            _time.sleep(9)
        return sample

_TRANSFORMS.register_module(name="Trouble", module=_Trouble, force=True)
train_dataloader["dataset"]["transforms"].append(dict(type="Trouble", what="WHAT"))
train_cfg["max_epochs"] = 1
default_hooks.update(pictures=None, checkpoint=dict(every_iters=1))
"""


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUBLE", str(os.getpid()))


@pytest.mark.usefixtures("trouble")
def test_a_worker_that_is_killed(tiny_config: WriteConfig, tmp_path: Path) -> None:
    config = tiny_config("killed", TROUBLE.replace("WHAT", "kill"))
    with pytest.raises(RunError, match=r"epoch 1, after \d iterations: a loader's worker process \(\d+\) is killed by"):
        train(config, work_dir=str(tmp_path / "run"))


@pytest.mark.usefixtures("trouble")
def test_a_worker_that_hangs(tiny_config: WriteConfig, tmp_path: Path) -> None:
    """The message names the worker and what it was to read, the picture of index 5 among them."""
    config = tiny_config("hangs", TROUBLE.replace("WHAT", "hang") + 'train_dataloader["timeout"] = 2\n')
    with pytest.raises(
        RunError, match=r"no batch came within 2 s from worker \d \(process \d+\), which reads"
    ) as error:
        train(config, work_dir=str(tmp_path / "run"))
    split = build_split(load_config(config), "train", seed=0)
    assert split.dataset.pending(5)["path"] in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_breaks_in_mid_epoch(
    data_root: Path, tiny_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """After the check before training; the checkpoint before it is named and whole."""
    folder = Path(shutil.copytree(data_root / "shapes", tmp_path / "data" / "shapes"))
    more = """
train_cfg["max_epochs"] = 2
default_hooks.update(pictures=None, checkpoint=dict(every_iters=1))
from mmengine.hooks import Hook as _Hook
from effdense.engine.registry import HOOKS as _HOOKS
class _Break(_Hook):
    def after_train_epoch(self, runner):
        open(FILE, "wb").close()
_HOOKS.register_module(name="Break", module=_Break, force=True)
custom_hooks = [dict(type="Break")]
"""
    file = folder / "train" / "000004.jpg"
    config = tiny_config("broken", more.replace("FILE", repr(str(file))))
    monkeypatch.setenv("EFFDENSE_DATA", str(folder.parent))
    with pytest.raises(DataError, match=r"000004\.jpg.* The newest checkpoint is .*\.pth: go on") as error:
        train(config, work_dir=str(tmp_path / "run"), options={"train_dataloader.num_workers": workers})
    assert "Traceback" not in str(error.value) and "Caught" not in str(error.value)
    assert files.find_last(tmp_path / "run") is not None


def runner_in(folder: Path) -> Any:
    loader = SimpleNamespace(batch_size=8)
    wrapper = SimpleNamespace(_accumulative_counts=2)
    return SimpleNamespace(work_dir=str(folder), epoch=1, iter=30, train_dataloader=loader, optim_wrapper=wrapper)


def test_memory_ends_with_advice(tmp_path: Path) -> None:
    """In an optimizer's step, in validation, or in one of several processes."""
    said = r"CUDA out of memory.*batch_size=4 .*counts=4.* No checkpoint"
    with pytest.raises(RunError, match=said), explained(runner_in(tmp_path)):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried")


def test_what_is_a_bug_stays_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), explained(runner_in(tmp_path)):
        raise RuntimeError("shapes differ")
    (tmp_path / files.POINTER).write_text("epoch_3.pth")
    (tmp_path / "epoch_3.pth").touch()
    said = r"^bad\.jpg is empty\. The newest checkpoint is .*epoch_3\.pth: go on with"
    with pytest.raises(DataError, match=said), explained(runner_in(tmp_path)):
        raise DataError(
            "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            '  File "x.py", line 1\neffdense.errors.DataError: bad.jpg is empty.\n'
        )


@pytest.mark.usefixtures("data")
def test_a_hung_worker_is_waited_for_ten_minutes(tiny_config: WriteConfig) -> None:
    config = tiny_config("timeouts")
    for option, expected in ((None, 600.0), (0, 0), (5, 5)):
        options = {} if option is None else {"train_dataloader.timeout": option}
        split = build_split(load_config(config, options), "train", seed=0)
        assert build_loader(split, seed=0, training=True).timeout == expected
    split = build_split(load_config(config, {"train_dataloader.num_workers": 0}), "train", seed=0)
    assert build_loader(split, seed=0, training=True).timeout == 0
