"""Values of options by type, values that a written config can give back, and places that have to agree."""

from __future__ import annotations

import copy
import json
import math
import platform
from pathlib import Path
from typing import Any

import pytest

from effdense.engine import environment
from effdense.engine.config import check_config, load_config, parse_option
from effdense.errors import ConfigError
from tests.engine.conftest import ROOT

SHAPES = ROOT / "configs" / "effdet_b0_shapes.py"
SEGMENT = ROOT / "configs" / "effunet_b0_shapes.py"


def given(*texts: str, config: Path = SHAPES) -> Any:
    """The config with ``--cfg-options`` as typed."""
    return load_config(config, dict(parse_option(text) for text in texts))


# -- --cfg-options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["001", "1e", "0x", "1_", "a b", "{broken", "3 px", "inf", "nan"])
def test_what_is_no_literal_stays_text(text: str) -> None:
    """mmengine makes 1 of 001 and takes spaces out."""
    assert parse_option(f"a={text}") == ("a", text)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("train_cfg.max_epochs=ten", "expected a number like 5, got 'ten'"),
        ("train_cfg.max_epochs=[1]", "expected a number like 5"),
        ("optim_wrapper.optimizer.lr=inf", "expected a number like 0.003, got 'inf'"),
        ("optim_wrapper.optimizer.lr=True", "expected a number like 0.003"),
        ("val_evaluator.classwise=1", "expected True or False, got 1"),
        ("train_dataloader.dataset.transforms.0.scale=1.5", r"expected a list or tuple like \(0.8, 1.25\)"),
        ("param_scheduler=WarmupPolyLR", "expected a list or tuple like"),
        ("train_dataloader.dataset.transforms=None.x", "expected a list or tuple"),
        ("optim_wrapper.optimizer=SGD", r"expected a dict, .* PATH\.KEY=VALUE, got 'SGD'"),
        ("train_cfg=[1]", "expected a dict, not a list"),
        ("train_dataloader.dataset.transforms.2.prob=0.1", "is a list of 2, numbered from 0; '2' is none of them"),
        ("train_dataloader.dataset.transforms.last.prob=0.1", "'last' is none of them"),
        ("train_dataloader.dataset.transforms.0.scale.1=2", r"is the tuple \(0.8, 1.25\); give it whole"),
        ("image_size.0=64", "image_size is 128 and has nothing inside"),
        ("image_size=big", "expected a number like 128"),
        ("train_dataloader.dataset.split=2017", r"split must be text, got 2017; write it in quotes .*=\"'2017'\""),
        ("train_dataloader.dataset.seed=a", "ShapesDetection.seed must be a whole number, got 'a'"),
        ("model.fpn_cells=two", "expected a number"),
        ("model.head_channels=2", "unknown key model.head_channels"),
        ("custom_hooks.0.type=EMAHook", "custom_hooks must be a list"),
        ("model.name=7", "must be text"),
        ("optim_wrapper.optimizer.lr=1e999", "which a config file cannot say"),
    ],
)
def test_a_value_of_another_kind_is_refused(option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        given(option)


def test_values_that_may_change_their_kind() -> None:
    assert given("image_size=(96, 128)").image_size == (96, 128)
    assert given("default_hooks.pictures=None").default_hooks.pictures is None
    assert given("data_check.decode=all").data_check.decode == "all"
    assert given("resume=runs/a/epoch_1.pth").resume == "runs/a/epoch_1.pth"
    assert given("optim_wrapper.optimizer.lr=1").optim_wrapper.optimizer.lr == 1
    assert given("train_dataloader.cache=ram").train_dataloader.cache == "ram"
    assert given("train_dataloader.dataset.transforms.1.prob=0").train_dataloader.dataset.transforms[1].prob == 0
    nested = "custom_hooks=[{'type': 'EMAHook', 'decay': 0.5}, {'type': 'SyncBuffersHook'}]"
    assert given(nested).custom_hooks[0]["decay"] == 0.5  # mmengine: RecursionError


# -- written down and read again ---------------------------------------------------------------------------------------


def test_a_resolved_config_gives_back_every_value(tmp_path: Path) -> None:
    cfg = given(
        "optim_wrapper.optimizer.betas=(0.9, 0.95)",
        "optim_wrapper.optimizer.lr=1e-7",
        "work_dir='a \"b\" ü\\\\n'",
        "train_dataloader.dataset.splits={'train': 3, 'val': 2, 'my split': 1}",
        "val_dataloader.dataset.splits={'train': 3, 'val': 2, 'my split': 1}",
        "classes=[]",
        "load_from=None",
        "experiment_name='001'",
    )
    path = tmp_path / "written.py"
    path.write_text(cfg.pretty_text)
    again = load_config(path).to_dict()
    assert again == cfg.to_dict() and again["experiment_name"] == "001"
    assert type(again["optim_wrapper"]["optimizer"]["betas"]) is tuple


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "from pathlib import Path\nmodel = dict(weights=Path('a.pth'))",
            r"model.weights is a PosixPath, .* str\(...\)",
        ),
        ("optim_wrapper = dict(optimizer=dict(lr=float('inf')))", "lr is inf, which a config file cannot say"),
        ("optim_wrapper = dict(optimizer=dict(lr=float('nan')))", "lr is nan"),
        ("default_hooks = dict(ema=dict(decay=lambda n: 0.9))", "default_hooks.ema.decay is a function"),
        ("classes = {'a', 'b'}", "classes is a set"),
        ("train_dataloader = dict(dataset=dict(splits={1: 2}))", "keys of a config must be text"),
        ("import numpy\nmodel = dict(mean=[numpy.float32(0.5)])", r"model.mean.0 is a float32, .* Write a number"),
        ("from torch.optim import SGD\noptim_wrapper = dict(optimizer=dict(type=SGD))", "its name as text"),
    ],
)
def test_a_value_that_cannot_be_written_is_refused(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "odd.py"
    path.write_text(f"_base_ = {str(SHAPES)!r}\n{line}\n")
    with pytest.raises(ConfigError, match=f"odd.py.*{said}"):
        load_config(path)


# -- said twice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["model.image_size=256"], "model.image_size is 256, image_size of the config 128"),
        (["val_dataloader.dataset.transforms.0.size=256"], r"transforms\.0\.size \(ResizePad\) is 256, image_size 128"),
        (["classes=['ring','star']", "model.num_classes=3"], r"num_classes is 3, but classes names 2 \(ring, star\)"),
        (["classes=ring"], "classes must be a list of names"),
        (
            ["classes=['ring','star']", "val_dataloader.dataset.classes=['star','ring']"],
            r"val_dataloader.dataset.classes is \['star', 'ring'\], classes \['ring', 'star'\]",
        ),
        (
            ["train_dataloader.dataset.classes=['ring']", "val_dataloader.dataset.classes=['star']"],
            r"val_dataloader.dataset.classes is \['star'\], train_dataloader.dataset.classes \['ring'\]",
        ),
        (
            ["val_dataloader.dataset.split=vall"],
            r"dataset\.split is 'vall', .*splits names 'train', 'val'\. Did you mean 'vall' in place of 'val' or",
        ),
    ],
)
def test_places_that_contradict_each_other_are_both_named(options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        given(*options)


def test_places_that_agree_pass() -> None:
    given("model.image_size=128", "val_dataloader.dataset.transforms.0.size=(128,128)")
    given("classes=['ring','star']", "model.num_classes=2", "val_dataloader.dataset.classes=['ring','star']")
    given("train_dataloader.dataset.transforms.0.size=96")  # training may crop smaller than it is evaluated
    given("val_dataloader.dataset.transforms.0.size=256", config=SEGMENT)  # kept in a segmentor's checkpoint
    given("classes=['background','object']", "model.num_classes=1", config=SEGMENT)  # binary: one logit


def test_what_only_a_reader_knows_is_read_early() -> None:
    for option, said in [
        ("model.name=efficientdet_e0", "unknown detector .* Did you mean 'efficientdet_d0'"),
        ("model.padding=smae", "DetectionModel.padding must be one of 'same', .* Did you mean 'same'"),
        ("model.photometric={'brihtness': 1}", "unknown key model.photometric.brihtness. Did you mean 'brightness'"),
        ("train_dataloader.cache=rma", "train_dataloader.cache must be one of 'ram', 'disk'; .* Did you mean 'ram'"),
        ("train_dataloader.cache={'type': 'ram', 'gigabyte': 2}", "cache.gigabyte. Did you mean 'gigabytes'"),
        ("optim_wrapper.dtype=bfloat17", "dtype must be one of .* Did you mean 'bfloat16'"),
        ("val_evaluator.backend=pycocotool", "backend must be one of .* Did you mean 'pycocotools'"),
        ("train_dataloader.dataset.transforms.0.interpolation=fsat", "must be one of .* Did you mean 'fast'"),
        ("default_hooks.early_stopping={'type': 'EarlyStoppingHook', 'monitor': 'a', 'rule': 'lses'}", "mean 'less'"),
        ("optim_wrapper.paramwise_cfg.custom_keys={'head': {'lr_mutl': 2}}", "Did you mean 'lr_mult'"),
    ]:
        with pytest.raises(ConfigError, match=said):
            given(option)
    with pytest.raises(ConfigError, match=r"model\.inference has no option 'strid'.*'stride'"):
        given("model.inference={'mode': 'slide', 'strid': 3}", config=SEGMENT)


def test_the_check_leaves_the_config_alone() -> None:
    cfg = load_config(SHAPES).to_dict()
    before = copy.deepcopy(cfg)
    check_config(cfg)
    assert cfg == before and math.isfinite(cfg["optim_wrapper"]["optimizer"]["lr"])


# -- what a run records ------------------------------------------------------------------------------------------------


def test_the_environment_of_a_run(trained: Any) -> None:
    said = json.loads(next(trained.work_dir.glob("*/environment.json")).read_text())
    assert {"python", "system", "packages", "cuda", "driver", "command", "source", "world_size", "seed"} <= set(said)
    assert said["packages"]["torch"].split("+")[0] == said["torch"].split("+")[0]
    assert "numpy" in said["packages"] and "model = dict(" in said["config_text"]
    assert said["config"].endswith("straight.py")


def test_neither_the_user_nor_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/somebody")
    monkeypatch.setattr("sys.argv", ["/people/somebody/train.py", "--work-dir=/people/somebody/runs"])
    said = environment.describe_environment()
    assert said["command"] == ["~/train.py", "--work-dir=~/runs"]
    text = json.dumps(said)
    assert "somebody" not in text and (len(platform.node()) < 5 or platform.node() not in text)


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert environment.source_version(tmp_path) is None  # an installed package
    (tmp_path / ".git").mkdir()
    assert environment.source_version(tmp_path) is None  # no repository
    if (ROOT / ".git").exists():
        version = environment.source_version(ROOT)
        assert version is None or len(version.rstrip("+")) == 40
