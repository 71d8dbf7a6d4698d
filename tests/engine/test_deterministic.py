"""Runs that a seed repeats, and the mode in which nothing may differ."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from effdense.engine import checkpoint as files
from effdense.engine import determinism
from effdense.engine.config import load_config
from effdense.engine.determinism import for_mmengine, set_determinism, without_deterministic_form
from effdense.engine.run import train
from effdense.errors import ConfigError, RunError
from effdense.models.detection.assignment import _first_by_target
from tests.engine.conftest import ROOT, WriteConfig
from tests.engine.test_exact_resume import SEGMENTATION
from tests.engine.test_run import assert_same_state

SHAPES = ROOT / "configs" / "effdet_b0_shapes.py"


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Switches of the process are put back."""
    benchmark, cublas = torch.backends.cudnn.benchmark, os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    set_determinism(None)
    torch.backends.cudnn.benchmark = benchmark
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if cublas is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = cublas


def test_every_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.backends.cudnn.benchmark = True
    assert set_determinism({"deterministic": True})
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert set_determinism({"deterministic": "warn"}) and torch.is_deterministic_algorithms_warn_only_enabled()
    assert not set_determinism({"seed": 1, "deterministic": False})
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic


def test_a_mode_that_the_program_has_chosen_is_left_alone() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        set_determinism({"deterministic": False})
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_mode_wins_over_the_benchmark() -> None:
    env = {"cudnn_benchmark": True, "mp_cfg": {}}
    assert for_mmengine({"seed": 1, "deterministic": False}, env) == ({"seed": 1}, env)
    set_determinism({"deterministic": True})
    assert for_mmengine({"seed": 1, "deterministic": True}, env) == ({"seed": 1}, {"mp_cfg": {}})


@pytest.mark.parametrize("value", [True, False, "warn", None])
def test_values_that_pass(value: Any) -> None:
    assert load_config(SHAPES, {"randomness.deterministic": value}).randomness.deterministic == value


@pytest.mark.parametrize("value", ["yes", 2])
def test_values_that_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"randomness\.deterministic"):
        load_config(SHAPES, {"randomness.deterministic": value})


def test_torchs_refusals_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    set_determinism({"deterministic": True})
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1), accumulate=False)
    said = without_deterministic_form(caught.value)
    assert said is not None and "no deterministic form of put_ " in said and "deterministic=warn" in said
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    cublas = RuntimeError("Deterministic behavior was enabled ... set CUBLAS_WORKSPACE_CONFIG=:4096:8")
    assert "says ':0:0'" in str(without_deterministic_form(cublas))
    assert without_deterministic_form(RuntimeError("something else")) is None


@pytest.mark.parametrize("seed", range(3))
def test_forced_anchors_are_those_of_scatter_reduce(seed: int) -> None:
    """What runs on a GPU in this mode, in place of an operation that torch refuses there."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 9, (2, 7), generator=generator)
    index = torch.arange(7).expand(2, -1)
    expected = torch.full((2, 10), 7).scatter_reduce(1, target, index, reduce="amin")
    assert torch.equal(_first_by_target(target, index, 7, 10), expected)


# -- runs --------------------------------------------------------------------------------------------------------------

SHORT = """
train_cfg["max_epochs"] = 1
train_cfg["val_begin"] = 2
default_hooks.update(pictures=None)
"""
LOOK = """
from mmengine.hooks import Hook as _Hook
from effdense.engine.registry import HOOKS as _HOOKS
import torch as _torch

class _Look(_Hook):
    def before_train(self, runner):
        assert _torch.are_deterministic_algorithms_enabled() and not _torch.backends.cudnn.benchmark
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if {refused} and batch_idx == 1:
            _torch.zeros(3).put_(_torch.tensor([0]), _torch.ones(1), accumulate=False)

_HOOKS.register_module(name="Look", module=_Look, force=True)
custom_hooks = [dict(type="Look")]
randomness = dict(seed=3, deterministic=True)
"""


def weights(run: Path) -> dict[str, torch.Tensor]:
    return files.load(run / "epoch_1.pth")["state_dict"]


def test_a_seed_gives_the_same_run_and_another_seed_another(tiny_config: WriteConfig, tmp_path: Path) -> None:
    """Detection in deterministic mode, with two workers; the shipped cudnn_benchmark=True does not come through."""
    config = tiny_config("seeds", SHORT + LOOK.format(refused=False))
    runs = [
        train(config, work_dir=str(tmp_path / name), options={"randomness.seed": seed})
        for name, seed in (("one", 3), ("two", 3), ("three", 4))
    ]
    assert_same_state(runs[0] / "epoch_1.pth", runs[1] / "epoch_1.pth")
    first, other = weights(runs[0]), weights(runs[2])
    assert any(not torch.equal(first[name], value) for name, value in other.items())


@pytest.mark.slow
def test_a_seed_gives_the_same_segmentor(tiny_config: WriteConfig, tmp_path: Path) -> None:
    more = SEGMENTATION.replace('train_cfg["max_epochs"] = 2', 'train_cfg["max_epochs"] = 1')
    config = tiny_config("seeds", more + "randomness = dict(seed=5, deterministic=True)\n")
    runs = [
        train(config, work_dir=str(tmp_path / name), options={"randomness.seed": seed})
        for name, seed in (("one", 5), ("two", 5), ("three", 6))
    ]
    assert_same_state(runs[0] / "epoch_1.pth", runs[1] / "epoch_1.pth")
    first, other = weights(runs[0]), weights(runs[2])
    assert any(not torch.equal(first[name], value) for name, value in other.items())


def test_a_run_that_cannot_be_repeated_says_what_to_do(tiny_config: WriteConfig, tmp_path: Path) -> None:
    config = tiny_config("refused", SHORT + LOOK.format(refused=True))
    options = {"train_dataloader.num_workers": 0}
    with pytest.raises(RunError, match=r"epoch 1, after 1 iterations: .*no deterministic form of put_ .*=warn"):
        train(config, work_dir=str(tmp_path / "run"), options=options)
    with pytest.warns(UserWarning, match="put_ does not have a deterministic implementation"):
        train(config, work_dir=str(tmp_path / "warn"), options={**options, "randomness.deterministic": "warn"})
    assert determinism._SWITCHED_ON
