"""LR by steps after a warm-up, against torch's MultiStepLR and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from effdense.engine.config import load_config
from effdense.engine.run import train
from effdense.engine.schedules import WarmupStepLR
from effdense.errors import ConfigError
from tests.engine.conftest import ROOT, WriteConfig, read_log


def optimizer(lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)


def rates(scheduler: Any, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


def test_values_by_hand() -> None:
    scheduler = WarmupStepLR(optimizer(), milestones=[4, 6], end=8, warmup=2, warmup_factor=0.5, by_epoch=False)
    assert rates(scheduler, 10) == pytest.approx([0.05, 0.075, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001, 0.001])


def test_without_warmup_it_is_torchs() -> None:
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer(), milestones=[3, 7, 8], gamma=0.3)
    expected = []
    for _ in range(12):
        expected.append(theirs.get_last_lr()[0])
        theirs.optimizer.step()
        theirs.step()
    mine = WarmupStepLR(optimizer(), milestones=(3, 7, 8), gamma=0.3, end=12, warmup=0, by_epoch=False)
    assert rates(mine, 12) == pytest.approx(expected)


def test_epochs_become_iterations() -> None:
    scheduler = WarmupStepLR.build_iter_from_epoch(
        optimizer(), milestones=[2.4, 4.8], gamma=0.97, end=6, warmup=1, epoch_length=10
    )
    assert (scheduler.milestones, scheduler.warmup, scheduler.by_epoch) == ((24.0, 48.0), 10, False)
    seen = rates(scheduler, 60)
    assert seen[23] == pytest.approx(0.1) and seen[24] == pytest.approx(0.097)
    assert seen[59] == pytest.approx(0.1 * 0.97**2)


@pytest.mark.parametrize("total", [20, 40])
def test_a_longer_run_goes_on_as_its_config_says(total: int) -> None:
    """The milestone at 30 lies beyond the first run."""

    def built(end: int) -> WarmupStepLR:
        return WarmupStepLR(optimizer(), milestones=[10, 30], end=end, warmup=4, by_epoch=False)

    first = built(20)
    rates(first, 12)
    resumed = built(total)
    resumed.load_state_dict(first.state_dict())
    assert rates(resumed, total - 12) == pytest.approx(rates(built(total), total)[12:])


@pytest.mark.parametrize("milestones", [[], [3, 2], [2, 2], [0, 4], [-1], "8", 8, ["8"], [True], None, {"a": 1}])
def test_milestones_that_are_none(milestones: Any) -> None:
    with pytest.raises(ConfigError, match="ascending numbers of epochs"):
        WarmupStepLR(optimizer(), milestones=milestones, end=12)


@pytest.mark.parametrize("gamma", [0, 1, 1.5, -0.1, "small"])
def test_a_gamma_that_goes_nowhere(gamma: Any) -> None:
    with pytest.raises(ConfigError, match="gamma must lie between 0 and 1"):
        WarmupStepLR(optimizer(), milestones=[8], gamma=gamma, end=12)


def test_the_config_check_knows_it() -> None:
    shapes = ROOT / "configs" / "effdet_b0_shapes.py"
    good = [{"type": "WarmupStepLR", "milestones": [8, 11], "convert_to_iter_based": True}]
    assert load_config(shapes, {"param_scheduler": good}).param_scheduler[0].milestones == [8, 11]
    with pytest.raises(ConfigError, match="Did you mean 'milestones'"):
        load_config(shapes, {"param_scheduler": [{"type": "WarmupStepLR", "milestone": [8]}]})
    with pytest.raises(ConfigError, match="needs milestones"):
        load_config(shapes, {"param_scheduler": [{"type": "WarmupStepLR"}]})
    with pytest.raises(ConfigError, match="Did you mean 'WarmupStepLR'"):
        load_config(shapes, {"param_scheduler": [{"type": "WarmupStepsLR", "milestones": [8]}]})


def test_a_run_follows_it(tiny_config: WriteConfig, tmp_path: Any) -> None:
    more = """
train_dataloader["num_workers"] = 0
train_cfg["max_epochs"] = 1
train_cfg["val_begin"] = 2
default_hooks.update(pictures=None, checkpoint=None)
param_scheduler = [dict(type="WarmupStepLR", milestones=[0.5], warmup=0, convert_to_iter_based=True)]
"""
    run = train(tiny_config("steps", more), work_dir=str(tmp_path / "run"))
    assert [row["lr"] for row in read_log(run) if "lr" in row] == pytest.approx([1e-3] * 3 + [1e-4] * 3)
