"""One letter wrong in a key, a type, or a word of an option: refused with the right name among the first three.

Every key, type and word of every shipped config is misspelt in turn, beside configs that use what those do not.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from effdense.engine.config import check_config, load_config
from effdense.errors import ConfigError, did_you_mean
from tests.engine.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
SHAPES = ROOT / "configs" / "effdet_b0_shapes.py"

# What the shipped configs leave out: nested data sets, samplers, caches, per-parameter rates, every kind of hook.
FULL: dict[str, Any] = {
    "image_size": 64,
    "model": {
        "type": "SegmentationModel",
        "name": "efficientunet_b0",
        "decoder": "unet",
        "attention": "scse",
        "upsample": "nearest",
        "padding": "same",
        "inference": {"mode": "slide", "window": 64, "stride": 32, "scales": (1.0,), "flip": True, "window_batch": 2},
        "photometric": {"brightness": 0.1, "contrast": (0.8, 1.2), "saturation": (0.8, 1.2)},
        "multi_scale": {"low": 0.5, "high": 1.5, "step": 32, "interval": 10},
    },
    "train_dataloader": {
        "batch_size": 4,
        "sampler": {"type": "ClassBalanced", "image": "rarest"},
        "cache": {"type": "ram", "gigabytes": 1.0, "decoded": True},
        "dataset": {
            "type": "ConcatSegmentation",
            "seed": 1,
            "datasets": [
                {
                    "type": "MappedSegmentation",
                    "unmapped": "keep",
                    "mapping": {},
                    "dataset": {"type": "Cityscapes", "split": "train", "masks": "labelIds", "annotations": "gtFine"},
                    "repeat": 2,
                    "take": 0.5,
                },
            ],
            "transforms": [
                {"type": "RandomAffine", "interpolation": "fast", "degrees": 5.0},
                {"type": "Mosaic", "center": (0.25, 0.75), "interpolation": "linear"},
            ],
        },
    },
    "val_dataloader": {
        "batch_size": 4,
        "cache": "disk",
        "dataset": {"type": "Cityscapes", "split": "val", "transforms": [{"type": "ResizePad", "size": 128}]},
    },
    "optim_wrapper": {
        "type": "EffOptimWrapper",
        "dtype": "bfloat16",
        "accumulative_counts": 2,
        "constructor": "QuietOptimWrapperConstructor",
        "optimizer": {"type": "AdamW", "lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.01},
        "paramwise_cfg": {
            "custom_keys": {"head": {"lr_mult": 2.0, "decay_mult": 0.0}},
            "layer_decay": 0.9,
            "bias_decay_mult": 0.0,
        },
        "clip_grad": {"type": "norm", "max_norm": 1.0, "norm_type": 2.0},
    },
    "param_scheduler": [{"type": "CosineAnnealingLR", "T_max": 3, "eta_min": 0.0, "convert_to_iter_based": True}],
    "train_cfg": {"max_epochs": 3, "val_begin": 1, "val_interval": 1},
    "env_cfg": {
        "dist_cfg": {"backend": "gloo", "timeout": 60},
        "mp_cfg": {"mp_start_method": "spawn", "opencv_num_threads": 0},
    },
    "default_hooks": {
        "early_stopping": {"type": "EarlyStoppingHook", "monitor": "seg/mIoU", "rule": "greater", "patience": 3},
        "transform_stages": {"type": "TransformStagesHook", "drop": ["Mosaic"], "last_epochs": 1},
        "progressive": {"type": "ProgressiveLearningHook", "stages": 2, "drop_path": (0.0, 0.2), "divisor": 16},
    },
    "custom_hooks": [{"type": "PreciseBNHook", "num_batches": 20, "priority": "LOW"}],
    "randomness": {"seed": 1, "deterministic": True},
    "launcher": "none",
    "log_level": "INFO",
}
DETECTION: dict[str, Any] = {
    "image_size": 64,
    "model": {
        "type": "DetectionModel",
        "name": "efficientdet_d0",
        "nms": "soft",
        "fusion": "softmax",
        "activation": "silu",
        "downsample": "bilinear",
        "frozen_stages": 2,
    },
    "train_dataloader": {
        "sampler": {"type": "RepeatFactor", "threshold": 0.1},
        "dataset": {"type": "VocDetection", "root": "a", "split": "train", "difficult": "ignore", "classes": ["a"]},
    },
    "val_dataloader": {"dataset": {"type": "DetectionData", "root": "a", "split": "val", "format": "coco"}},
    "val_evaluator": {"type": "CocoMetric", "backend": "pycocotools", "classwise": True},
    "test_dataloader": {"dataset": {"type": "ShardedDetection", "root": "a", "split": "test", "cache_gigabytes": 1.0}},
}
# Text of the user's own: paths, names of splits, classes, parameters and metrics. It is compared with the data, or with
# what validation reports, before a run writes anything: see test_bad_input.py, test_hooks.py.
OWN_TEXT = {"root", "ann_file", "image_dir", "images", "masks", "annotations", "split_file", "split", "monitor", "drop"}
OWN_KEYS = {"mapping", "custom_keys"}


def places(node: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of every dict key, through dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in items:
        if isinstance(key, str):
            yield (*where, key)
        yield from places(value, (*where, key))


def at(node: Any, where: tuple[Any, ...]) -> Any:
    for key in where:
        node = node[key]
    return node


def misspellings(word: str) -> list[str]:
    """A letter dropped, doubled, swapped with the next, or changed: one place of each kind, spread over the word."""
    n = len(word)
    found = []
    for kind, i in enumerate((n // 2, n - 1, max(0, n // 2 - 1), n // 3)):
        if kind == 0:
            found.append(word[:i] + word[i + 1 :])
        elif kind == 1:
            found.append(word[: i + 1] + word[i:])
        elif kind == 2 and n > 1:
            found.append(word[:i] + word[i + 1] + word[i] + word[i + 2 :])
        elif kind == 3:
            found.append(word[:i] + ("q" if word[i] != "q" else "x") + word[i + 1 :])
    return [other for other in dict.fromkeys(found) if other and other != word]


@cache
def shipped() -> tuple[tuple[str, dict[str, Any]], ...]:
    return tuple((path.stem, load_config(path).to_dict()) for path in CONFIGS)


def sources() -> list[tuple[str, dict[str, Any]]]:
    return [*shipped(), ("full", FULL), ("detection", DETECTION)]


def verdict(cfg: dict[str, Any], right: str) -> str | None:
    """None where the config is refused with ``right`` among the first three suggestions, else what happened."""
    try:
        check_config(cfg)
    except ConfigError as error:
        said = re.search(r"Did you mean ([^?]*)\?", str(error))
        names = re.findall(r"'([^']*)'", said[1])[:3] if said else []
        return None if right in names else f"suggested {names}: {str(error)[:160]}"
    return "passed"


def test_what_is_spelt_right_passes() -> None:
    for _, cfg in sources():
        check_config(cfg)
    assert len(CONFIGS) >= 30


def test_every_key() -> None:
    tried, wrong = set(), []
    for name, cfg in sources():
        for where in places(cfg):
            kind = at(cfg, where[:-1]).get("type")
            route = (*(part for part in where if isinstance(part, str)), kind)
            if route in tried or OWN_KEYS & set(where[:-1]):
                continue
            tried.add(route)
            for other in misspellings(where[-1]):
                if other in at(cfg, where[:-1]):
                    continue
                mutated = copy.deepcopy(cfg)
                parent = at(mutated, where[:-1])
                parent[other] = parent.pop(where[-1])
                found = verdict(mutated, where[-1])
                if found is not None:
                    wrong.append((name, where, other, found))
    assert len(tried) > 250 and wrong == []


def test_every_type_and_word() -> None:
    tried, wrong = set(), []
    for name, cfg in sources():
        for where in places(cfg):
            value = at(cfg, where)
            route = (*(part for part in where if isinstance(part, str)), value if isinstance(value, str) else None)
            if not isinstance(value, str) or route in tried or where[-1] in OWN_TEXT or value == "labelIds":
                continue
            if where[-2:] in (("logging", "tensorboard"), ("model", "name")) or where[-1] == "priority":
                continue
            tried.add(route)
            for other in misspellings(value):
                mutated = copy.deepcopy(cfg)
                at(mutated, where[:-1])[where[-1]] = other
                found = verdict(mutated, value)
                if found is not None and not (found == "passed" and (value, other) == ("AdamW", "Adam")):
                    wrong.append((name, where, other, found))
    assert len(tried) > 80 and wrong == []


def test_every_model_name() -> None:
    """A letter of the family's name; of the last one or two there are more right answers than three."""
    wrong = []
    names = sorted({cfg["model"]["name"] for _, cfg in shipped()})
    for name in names:
        cfg = next(cfg for _, cfg in shipped() if cfg["model"]["name"] == name)
        family, _, member = name.partition("_")
        for other in misspellings(family):
            mutated = copy.deepcopy(cfg)
            mutated["model"]["name"] = f"{other}_{member}"
            found = verdict(mutated, name)
            scaled = "w0.5" in name  # one of endlessly many: refused, and no list holds it
            if found is not None and not (scaled and found != "passed"):
                wrong.append((name, other, found))
    assert len(names) >= 20 and wrong == []


# -- suggestions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("rl", ["lr", "foreach", "maximize"], ["lr"]),
        ("AdaWm", ["Adam", "RAdam", "NAdam", "AdamW", "Adamax"], ["Adam", "AdamW", "NAdam"]),
        ("max_epoch", ["max_epochs", "val_begin"], ["max_epochs"]),
        ("adamw", ["Adam", "AdamW", "NAdam"], ["AdamW", "Adam", "NAdam"]),
        ("AP51", ["AP75", "AP50", "AP"], ["AP50", "AP75", "AP"]),
        ("abc", ["abd", "abe", "abf", "abg"], ["abd", "abe", "abf"]),
        ("zebra", ["lr", "momentum", "weight_decay"], []),
    ],
)
def test_the_fewest_slips_come_first(word: str, known: list[str], said: list[str]) -> None:
    names = ", ".join(map(repr, said))
    assert did_you_mean(word, known) == (f" Did you mean {names}?" if said else "")


# -- where it is -------------------------------------------------------------------------------------------------------


def test_the_file_and_the_line_are_named(tmp_path: Path) -> None:
    base, config = tmp_path / "base.py", tmp_path / "child.py"
    base.write_text(
        f"_base_ = {str(SHAPES)!r}\n"
        "_more = dict(\n    num_workers=1,\n    prefetch_facto=2,\n)\n"
        "train_dataloader = dict(\n    batch_size=2,\n    **_more,\n)\n"
    )
    config.write_text("_base_ = ['base.py']\nimage_size = 64\n")
    with pytest.raises(ConfigError, match=r"base\.py, line 4 \(a base of .*child\.py\): .*'prefetch_factor'"):
        load_config(config)
    config.write_text(
        "_base_ = ['base.py']\n"
        "train_dataloader = dict(_delete_=True, dataset={'type': 'ShapesDetection', 'split': 'train',\n"
        "    'transforms': [dict(type='ResizePad'),\n"
        "                   dict(type='HorizontalFlip', prop=0.5)]})\n"
    )
    with pytest.raises(ConfigError, match=r"child\.py, line 4: .*transforms\.1\.prop.*'prob'"):
        load_config(config)


def test_what_was_built_by_code_names_the_file(tmp_path: Path) -> None:
    config = tmp_path / "built.py"
    config.write_text(f"_base_ = {str(SHAPES)!r}\nmodel = {{}}\nmodel['fpn_' + 'cels'] = 2\n")
    with pytest.raises(ConfigError, match=r"built\.py: unknown key model\.fpn_cels.*'fpn_cells'"):
        load_config(config)


def test_an_option_is_named_as_one() -> None:
    with pytest.raises(ConfigError, match=r"effdet_b0_shapes\.py with --cfg-options model\.fpn_cels: .*'fpn_cells'"):
        load_config(SHAPES, {"image_size": 64, "model.fpn_cels": 2})


# -- sections that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["train_cfg", "default_hooks", "env_cfg", "train_dataloader", "model"])
def test_a_section_is_a_dict(where: str) -> None:
    cfg = copy.deepcopy(dict(shipped()[0][1]))
    cfg[where] = ["what"]
    with pytest.raises(ConfigError, match=where):
        check_config(cfg)
