"""Mixing transforms, multi-scale batches and rectangles in whole runs, by config alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from effdense.data.transforms.mosaic import Mosaic
from effdense.data.transforms.staged import StagedTransforms
from effdense.engine.early import RunPlan
from effdense.engine.hooks.transform_stages import TransformStagesHook, without_last
from effdense.engine.models import DetectionModel
from effdense.engine.run import test as evaluate
from effdense.engine.run import train
from effdense.errors import ConfigError, ShapeError
from tests.engine.test_run import log_text

MIXING = """
train_dataloader["dataset"]["transforms"] = [
    dict(type="Mosaic", prob=0.7), dict(type="RandomAffine", degrees=5), dict(type="HorizontalFlip"),
    dict(type="CopyPaste", boxes=True), dict(type="MixUp", scale=[0.8, 1.2])]
default_hooks["transform_stages"] = dict(
    type="TransformStagesHook", drop=["Mosaic", "MixUp", "CopyPaste"], last_epochs=1)
model["multi_scale"] = dict(low=0.5, high=1.5, step=32, interval=2)
train_dataloader["group_by_aspect"] = True
"""


def test_names_are_left_out_from_an_epoch_on() -> None:
    mosaic, other = Mosaic(64), object()
    staged = without_last([mosaic, other], ["Mosaic"], 3)
    assert [len(staged.at(epoch)) for epoch in (0, 2, 3, 9)] == [2, 2, 1, 1] and staged.at(3) == (other,)
    grown = StagedTransforms([[mosaic, 1], [mosaic, 2]], [0, 4])
    both = without_last(grown, ["Mosaic"], 6)
    assert [both.at(epoch) for epoch in (0, 4, 6)] == [(mosaic, 1), (mosaic, 2), (2,)]
    assert without_last(both, ["Mosaic"], 6).starts == both.starts == (0, 4, 6)


def plan(epochs: int = 10) -> Any:
    return RunPlan(None, SimpleNamespace(transforms=(Mosaic(64),)), epochs, [])


def test_what_the_hook_refuses() -> None:
    TransformStagesHook(drop="Mosaic", last_epochs=9).check(plan())
    with pytest.raises(ConfigError, match=r"called 'Mosiac'\. Did you mean 'Mosaic'"):
        TransformStagesHook(drop=["Mosiac"], last_epochs=2).check(plan())
    with pytest.raises(ConfigError, match="whole run of 10 epochs"):
        TransformStagesHook(drop=["Mosaic"], last_epochs=10).check(plan())
    for wrong in ({"drop": [], "last_epochs": 1}, {"drop": ["Mosaic"], "last_epochs": 0}):
        with pytest.raises(ConfigError, match="TransformStagesHook"):
            TransformStagesHook(**wrong)


def test_a_run_with_everything(tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes change every second batch, the mixing ends with the second epoch, and it can be done again to the bit."""
    fed: list[tuple[int, ...]] = []
    plain = DetectionModel.forward

    def watch(self: Any, inputs: Any, *args: Any, mode: str = "loss", **kwargs: Any) -> Any:
        if mode == "loss":
            fed.append(tuple(inputs.shape[-2:]))
        return plain(self, inputs, *args, mode=mode, **kwargs)

    monkeypatch.setattr(DetectionModel, "forward", watch)
    config = tiny_config("mixing", MIXING)
    options = {"train_cfg.max_epochs": 2, "default_hooks.pictures": None, "train_dataloader.num_workers": 0}
    first = train(config, work_dir=str(tmp_path / "one"), options=options)
    assert len(fed) == 12 and set(fed) <= {(32, 32), (64, 64), (96, 96)} and len(set(fed)) > 1
    assert fed[:2] == [(96, 96)] * 2 and all(fed[i] == fed[i + 1] for i in range(0, 12, 2))
    assert "epoch 2: from here on without Mosaic, MixUp, CopyPaste" in log_text(first)
    sizes = list(fed)
    fed.clear()
    resumed = tmp_path / "two"
    train(
        config, work_dir=str(resumed), options={**options, "train_cfg.max_epochs": 2}, resume=str(first / "epoch_1.pth")
    )
    assert fed == sizes[6:]


def test_another_order_finds_the_same_boxes(tiny_config: Any, trained: Any, tmp_path: Path) -> None:
    """By aspect, on rectangles that are the square here: every box of every picture is the same."""
    rectangles = """
val_dataloader["dataset"]["transforms"] = [dict(type="ResizeFit", multiple={})]
val_dataloader["group_by_aspect"] = True
"""
    found = {}
    for name, more in (("square", ""), ("same", rectangles.format(64)), ("less", rectangles.format(32))):
        out = tmp_path / f"{name}.json"
        evaluate(
            tiny_config(name, more), str(trained.work_dir / "epoch_3.pth"), work_dir=str(tmp_path / name), out=str(out)
        )
        found[name] = json.loads(out.read_text())
    # Another place in a batch may round another way.
    square, same = (np.array(sorted((d["image_id"], d["score"]) for d in found[name])) for name in ("square", "same"))
    assert len(square) > 100 and square == pytest.approx(same, abs=1e-5)
    sums = [sum(np.array(d["bbox"]) * d["score"] for d in found[name]) for name in ("square", "same")]
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)
    assert {d["image_id"] for d in found["less"]} == {d["image_id"] for d in found["square"]}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('train_dataloader["dataset"]["transforms"][0] = dict(type="CopyPaste")', "segments=True"),
        ('train_dataloader["dataset"]["transforms"][0] = dict(type="Mosaik")', "Did you mean 'Mosaic'"),
        ('train_dataloader["dataset"]["transforms"][0] = dict(type="Mosaic", scael=(0.5, 1))', "Did you mean 'scale'"),
        ('train_dataloader["group_by_aspect"] = 3', "True or False"),
        ('model["multi_scale"] = dict(lo=0.5)', "unknown key model.multi_scale.lo"),
        ('model["multi_scale"] = dict(low=0.9, high=1.1)', "to choose from"),
        ('model["multi_scale"] = True', "must be a dict"),
    ],
)
def test_faults_are_said_before_anything_is_written(tiny_config: Any, tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(tiny_config("faulty", more + "\n"), work_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("transforms[0]['interpolation'] = 'lanczos'", "interpolation must be one of"),
        ("transforms[0]['scale'] = 2", r"ScaleJitterCrop\.scale must be"),
        ("transforms[0]['class_ratio_cap'] = .5", "looks at the classes of a mask"),
        ("transforms[1]['prob'] = 'a'", r"HorizontalFlip\.prob must be a number"),
        ("transforms.append('Mosaic')", "must be a list"),
        ("transforms.append(dict(type='RandomAffine', interpolation='bogus'))", "RandomAffine.interpolation"),
        ("transforms.append(dict(type='CopyPaste', boxes='yes'))", "CopyPaste.boxes must be True or False"),
        ("transforms.append(dict(type='RandAugment'))", "Set photometric_only=True"),
        ("transforms.append(dict(type='RandomErasing', fill=(1, 2)))", "RandomErasing.fill"),
        ("del transforms[0]", "All pictures of a batch must have one size"),
        ("train_dataloader['num_workers'] = 1.5", "num_workers must be a whole number"),
        ("train_dataloader['prefetch_factor'] = 0", "prefetch_factor must be a whole number of at least 1"),
        ("train_dataloader['pin_memory'] = 'x'", "pin_memory must be True or False"),
        ("train_dataloader['shuffle'] = 'no'", "shuffle must be True or False"),
        ("train_dataloader['timeout'] = -1", "timeout must be a number of seconds"),
    ],
)
def test_what_cannot_work_is_said_before_there_is_a_work_dir(
    tiny_config: Any, tmp_path: Path, more: str, said: str
) -> None:
    named = more.replace("transforms", "train_dataloader['dataset']['transforms']")
    with pytest.raises(ConfigError if "del " not in more else ShapeError, match=said):
        train(tiny_config("wrong", named + "\n"), work_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
