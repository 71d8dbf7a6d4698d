"""Configs: what nothing reads is refused with the nearest right name; overrides are parsed as what they look like."""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from effdense.engine import registry
from effdense.engine.config import OptionsAction, check_config, load_config, parse_option, top_level_keys
from effdense.errors import ConfigError

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "configs" / "effdet_b0_shapes.py"
COCO = ROOT / "configs" / "effdet_b3_coco.py"


# -- a misspelt name is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ({"trian_dataloader": {}}, "train_dataloader"),
        ({"train_cfg.max_epoch": 3}, "max_epochs"),
        ({"train_dataloader.batchsize": 3}, "batch_size"),
        ({"train_dataloader.dataset.max_object": 3}, "max_objects"),
        ({"train_dataloader.dataset.transforms.0.scal": 3}, "scale"),
        ({"train_dataloader.dataset.transforms.1.probe": 0.1}, "prob"),
        ({"train_dataloader.dataset.transforms.1.type": "HorizontalFlop"}, "HorizontalFlip"),
        ({"model.fpn_cell": 2}, "fpn_cells"),
        ({"model.type": "DetectionModle"}, "DetectionModel"),
        ({"optim_wrapper.accumulative_count": 2}, "accumulative_counts"),
        ({"optim_wrapper.optimizer.weight_deacy": 0.1}, "weight_decay"),
        ({"optim_wrapper.optimizer.type": "AdmaW"}, "AdamW"),
        ({"optim_wrapper.clip_grad.max_nrom": 1.0}, "max_norm"),
        ({"optim_wrapper.paramwise_cfg.flat_deacy_mult": 0.0}, "flat_decay_mult"),
        ({"param_scheduler.0.warm_up": 2}, "warmup"),
        ({"default_hooks.ema.deacy": 0.9}, "decay"),
        ({"default_hooks.emma": {"type": "EMAHook"}}, "ema"),
        ({"default_hooks.checkpoint.max_keep_ckpts": 2}, "max_keep"),
        ({"default_hooks.checkpoint.type": "ChekpointHook"}, "CheckpointHook"),
        ({"val_evaluator.class_wise": True}, "classwise"),
        ({"log_processor.window_sise": 5}, "window_size"),
        ({"log_procesor.window_size": 5}, "log_processor"),
        ({"env_cfg.mp_cfg.opencv_num_thread": 1}, "opencv_num_threads"),
        ({"randomness.sed": 1}, "seed"),
        ({"data_check.decod": 1}, "decode"),
        ({"custom_hooks": [{"type": "PreciseBNHok"}]}, "PreciseBNHook"),
        ({"custom_hooks": [{"type": "EMAHook", "prioritty": 1}]}, "priority"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_misspelling_is_refused_with_what_was_meant(option: dict[str, Any], meant: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean .*'{meant}'"):
        load_config(SHAPES, option)


def places(node: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of every dict key, through dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if isinstance(key, str):
            yield (*where, key)
        yield from places(value, (*where, key))


def at(node: Any, where: tuple[Any, ...]) -> Any:
    for key in where:
        node = node[key]
    return node


@pytest.mark.parametrize("path", [SHAPES, COCO], ids=lambda path: path.stem)
def test_no_key_of_a_shipped_config_can_be_misspelt(path: Path) -> None:
    """Double the last letter of each key in turn: all are refused, and every refusal names the right key."""
    cfg = load_config(path).to_dict()
    unread = ("splits",)  # names of the user's own choice
    checked = 0
    for where in places(cfg):
        if any(name in where[:-1] for name in unread):
            continue
        key = where[-1]
        mutated = copy.deepcopy(cfg)
        parent = at(mutated, where[:-1])
        parent[key + key[-1]] = parent.pop(key)
        with pytest.raises(ConfigError) as refusal:
            check_config(mutated)
        assert f"'{key}'" in str(refusal.value), where
        checked += 1
    assert checked > 80


@pytest.mark.parametrize("path", [SHAPES, COCO], ids=lambda path: path.stem)
def test_no_type_of_a_shipped_config_can_be_misspelt(path: Path) -> None:
    cfg = load_config(path).to_dict()
    types = [where for where in places(cfg) if where[-1] == "type"]
    for where in types:
        mutated = copy.deepcopy(cfg)
        name = at(cfg, where)
        at(mutated, where[:-1])["type"] = name[:3] + name[2:]
        with pytest.raises(ConfigError, match=f"'{name}'"):
            check_config(mutated)
    assert len(types) >= 18


def test_the_config_object_is_checked_like_its_dict() -> None:
    """mmengine's Config has keys and items and is no Mapping; a check that tests for Mapping sees nothing in it."""
    cfg = Config({"model": {"type": "DetectionModel", "name": "efficientdet_d0", "fpn_cels": 2}})
    for form in (cfg, cfg.to_dict()):
        with pytest.raises(ConfigError, match="fpn_cells"):
            check_config(form)


def test_what_is_missing_is_named() -> None:
    for option, lacking in [
        ({"train_dataloader.dataset": {"_delete_": True, "type": "CocoDetection", "root": "a"}}, "ann_file, image_dir"),
        ({"model": {"_delete_": True, "type": "DetectionModel"}}, "needs name"),
        ({"train_cfg": {"_delete_": True, "val_interval": 1}}, "max_epochs"),
        ({"auto_scale_lr": {"enable": True}}, "auto_scale_lr needs base_batch_size"),
        ({"val_evaluator": [{"type": "CocoMetric"}]}, "not a list"),
        ({"param_scheduler": [{"warmup": 1}]}, "needs a 'type'"),
    ]:
        with pytest.raises(ConfigError, match=lacking):
            load_config(SHAPES, option)
    with pytest.raises(ConfigError, match="'model'"):
        check_config({"image_size": 64})


def test_by_iteration_loops_are_refused() -> None:
    with pytest.raises(ConfigError, match="by_epoch must be True"):
        load_config(SHAPES, {"train_cfg.by_epoch": False})


def test_mmengines_own_types_may_be_named() -> None:
    """Ours first, mmengine's second; nothing has to be imported by hand."""
    cfg = {
        "model": {"type": "DetectionModel", "name": "efficientdet_d0"},
        "param_scheduler": {"type": "CosineAnnealingLR", "T_max": 3, "eta_min": 1e-5, "convert_to_iter_based": True},
        "default_hooks": {"early_stopping": {"type": "EarlyStoppingHook", "monitor": "coco/AP", "patience": 3}},
        "visualizer": {"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]},
    }
    check_config(cfg)
    assert registry.resolve(registry.HOOKS, "EMAHook", "").__module__.startswith("effdense.")
    assert registry.resolve(registry.HOOKS, "LoggerHook", "").__module__.startswith("mmengine.")
    with pytest.raises(ConfigError, match="needs monitor"):
        check_config({**cfg, "default_hooks": {"early_stopping": {"type": "EarlyStoppingHook"}}})


# -- loading -----------------------------------------------------------------------------------------------------------


def test_a_missing_file_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"no config file at .*Did you mean 'effdet_b0_shapes\.py'"):
        load_config(SHAPES.with_name("effdet_b0_shape.py"))
    with pytest.raises(ConfigError, match="no config file"):
        load_config("/nowhere/at/all.py")


def test_an_error_in_a_config_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    for text, said in [
        ("image_size = undefined_name\n", "the config cannot be loaded: NameError"),
        ("image_size = = 3\n", "this is not Python"),
        ("_base_ = ['absent.py']\n", "no such file"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=rf"broken\.py, line 1: .*{said}"):
            load_config(path)


def test_variables_with_an_underscore_are_the_files_own(tmp_path: Path) -> None:
    path = tmp_path / "variables.py"
    path.write_text(f"_base_ = {str(SHAPES)!r}\n_side = 96\nimage_size = _side + 32\n_unused = dict(a=1)\n")
    cfg = load_config(path)
    assert cfg.image_size == 128
    assert [key for key in cfg.to_dict() if key.startswith("_")] == []
    path.write_text(f"_base_ = {str(SHAPES)!r}\nside = 96\n")
    with pytest.raises(ConfigError, match="starts with an underscore"):
        load_config(path)


def test_a_config_without_a_base_may_import(tmp_path: Path) -> None:
    """In a virtual environment mmengine takes `import math` for its lazy style and fails with an empty message."""
    path = tmp_path / "alone.py"
    path.write_text(
        "import math\nfrom pathlib import Path\nimage_size = int(math.sqrt(4096))\n"
        "model = dict(type='DetectionModel', name=Path('a/efficientdet_d0').name)\n"
    )
    cfg = load_config(path)
    assert (cfg.image_size, cfg.model.name) == (64, "efficientdet_d0")


def test_the_check_needs_no_run_before_it() -> None:
    """Types are found in a fresh process, where nothing has imported mmengine's runner yet."""
    code = f"from effdense.engine.config import load_config; print(load_config({str(SHAPES)!r}).image_size)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "128"), result.stderr


# -- overrides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("True", True),
        ("false", False),
        ("None", None),
        ("none", None),
        ("(384, 640)", (384, 640)),
        ("[1,2]", [1, 2]),
        ("1,2", (1, 2)),
        ("a,b", ["a", "b"]),
        ("[dict", "[dict"),
        ("[{'type': 'EMAHook'}, {'type': 'PicturesHook'}]", [{"type": "EMAHook"}, {"type": "PicturesHook"}]),
        ("'001'", "001"),
        ('"a,b"', "a,b"),
        ("a = b", "a = b"),
        ("some text", "some text"),
        ("efficientdet_d0", "efficientdet_d0"),
        ("/data/a b/c.pth", "/data/a b/c.pth"),
        ("", ""),
    ],
)
def test_values_of_options(text: str, value: Any) -> None:
    key, parsed = parse_option(f"a.b={text}")
    assert key == "a.b"
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("text", ["train_cfg.max_epochs", "=3", " =3"])
def test_an_option_is_a_pair(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_option(text)


def test_options_add_up_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction)
    parsed = parser.parse_args(["--cfg-options", "a=1", "b.c=x,y", "--cfg-options", "a=2"])
    assert parsed.cfg_options == {"a": 2, "b.c": ["x", "y"]}
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(["--cfg-options", "a"])
    assert exit_.value.code == 2 and "key=value" in capsys.readouterr().err


def test_options_reach_dicts_and_lists() -> None:
    cfg = load_config(
        SHAPES,
        {"train_cfg.max_epochs": 3, "param_scheduler.0.warmup": 2, "train_dataloader.dataset.transforms.1.prob": 0.1},
    )
    assert cfg.train_cfg.max_epochs == 3 and cfg.param_scheduler[0].warmup == 2
    assert cfg.train_dataloader.dataset.transforms[1].prob == 0.1
    assert load_config(SHAPES, {"default_hooks.pictures": None}).default_hooks.pictures is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"train_cfg.max_epochs": "ten"}, "expected a number like"),
        ({"optim_wrapper.optimizer.lr": "1e-3x"}, "expected a number like"),
        ({"val_evaluator.classwise": "yes"}, "expected True or False"),
        ({"val_evaluator.classwise": 1}, "expected True or False"),
        ({"image_size": "large"}, "expected a number like"),
    ],
)
def test_text_does_not_replace_a_number(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        load_config(SHAPES, option)
    assert next(iter(option)) in str(refusal.value)


def test_a_size_may_become_a_pair_and_a_number_none() -> None:
    assert load_config(SHAPES, {"image_size": (96, 128)}).image_size == (96, 128)
    assert load_config(SHAPES, {"randomness.seed": None}).randomness.seed is None


@pytest.mark.parametrize(
    "option",
    [
        {"train_cfg.max_epochs.more": 1},
        {"param_scheduler.7.warmup": 1},
        {"param_scheduler.first.warmup": 1},
        {"model.backbone.depth": 1},
        {"train_dataloader.dataset.transform.0.prob": 1},
    ],
    ids=lambda option: next(iter(option)),
)
def test_an_option_for_nothing_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        load_config(SHAPES, option)


def test_every_documented_key_is_a_key() -> None:
    """docs/training.md lists the top-level keys in a table."""
    text = (ROOT / "docs" / "training.md").read_text()
    table = text.split("## The config")[1].split("##")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name.strip(" `") for row in rows for name in row.split(",")}
    assert len(named) >= 10 and named <= top_level_keys()
