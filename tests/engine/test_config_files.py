"""Config files as people write them: slips in the text, kinds of values, keys of other frameworks, own modules; and
what a run tells and leaves when it is interrupted.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from effdense import cli
from effdense.engine.config import load_config
from effdense.engine.config_kinds import fits, in_words
from effdense.engine.environment import without_home
from effdense.engine.failures import explained
from effdense.engine.hooks.metrics_file import METRICS, keep_until
from effdense.engine.logging_setup import live_console
from effdense.errors import ConfigError
from tests.engine.conftest import ROOT

SHAPES = ROOT / "configs" / "effdet_b0_shapes.py"
RUNTIME = ROOT / "configs" / "_base_" / "default_runtime.py"


def refused(path: Path, text: str | bytes, said: str, *, base: bool = True) -> None:
    """The file is refused with this text."""
    start = f"_base_ = [{str(SHAPES)!r}]\n" if base else ""
    path.write_bytes(text if isinstance(text, bytes) else (start + text).encode())
    with pytest.raises(ConfigError, match=said):
        load_config(path)


# -- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_bas_", "_ase_", "_bases_", "_basep_", "b_ase_", "base", "_BASE_", "__base__"])
def test_a_misspelt_base_is_no_variable(tmp_path: Path, name: str) -> None:
    refused(tmp_path / "a.py", f"{name} = [{str(SHAPES)!r}]\n", rf"a\.py, line 1: .*{name}.*'_base_'", base=False)


def test_a_missing_base_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "_base_").mkdir()
    (tmp_path / "_base_" / "runtime.py").write_text("image_size = 64\n")
    for wrong in ("_base_/runtme.py", "_bsae_/runtime.py", "_base_/Runtime.pyy"):
        refused(
            tmp_path / "a.py",
            f"_base_ = [\n    {wrong!r},\n]\n",
            r"a\.py, line 2: _base_ .*no such file.*Did you mean '_base_/runtime\.py'",
            base=False,
        )
    refused(tmp_path / "b.py", "_base_ = ['a.py']\n", r"a\.py, line 2", base=False)


def test_bases_that_go_round(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("_base_ = 'a.py'\n")
    refused(tmp_path / "a.py", "_base_ = 'b.py'\n", "leads back .*a.py -> .*b.py -> .*a.py", base=False)
    refused(tmp_path / "c.py", "_base_ = 3\n", "line 1: _base_ must be the path", base=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = dict(fpn_cells=2\n", r"a\.py, line 2: this is not Python: '\(' was never closed"),
        ("model = dict(fpn_cells=2, fpn_cells=3)\n", r"a\.py, line 2: .*keyword argument repeated"),
        ("model = {'fpn_cells': 2,\n 'fpn_cells': 3}\n", r"a\.py, line 3: the key 'fpn_cells' .* line 2"),
        ("_sizes = 3\nimage_size = _size\n", r"a\.py, line 3: .*NameError.*Did you mean '_sizes'"),
        ("with read_base():\n    from .b import *\n", r"a\.py, line 2: read_base\(\) belongs to .* lazy"),
        (b"\xef\xbb\xbfimage_size = 3\n", "byte order mark"),
        ("image_size = 3\n# gr\u00f6\u00dfe\n".encode("latin-1"), r"a\.py, line 2: the text is not UTF-8"),
        ("model = dict(\r\n    fpn_cels=2)\r\n", r"a\.py, line 3: unknown key model\.fpn_cels"),
        ("model = dict(_delet_=True)\n", r"model\._delet_\. Did you mean '_delete_'"),
        ("auto_scale_lr = dict(_delete_=True, enable=False)\n", "no base of the config has auto_scale_lr"),
    ],
)
def test_a_slip_in_the_text_is_found_by_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    refused(tmp_path / "a.py", text, said)


def test_windows_line_ends_and_letters_of_any_language_pass(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(f"_base_ = [{str(SHAPES)!r}]\nimage_size = {{{{$SIDE_OF_NOBODY:96}}}}\n")
    assert load_config(path).image_size == 96
    path.write_bytes(f"_base_ = [{str(SHAPES)!r}]\r\nclasses = ['Stra\u00dfe', '\u65e5']\r\n".encode())
    assert load_config(path).classes == ["Stra\u00dfe", "\u65e5"]


def test_a_service_is_asked_for_over_the_shipped_base(tmp_path: Path) -> None:
    """mmengine cannot merge a dict into the None of a base."""
    path = tmp_path / "a.py"
    path.write_text(f"_base_ = [{str(SHAPES)!r}]\nlogging = dict(wandb=dict(project='birds'))\n")
    assert load_config(path).logging.wandb.project == "birds"
    assert load_config(SHAPES, {"logging.wandb": {"project": "a"}}).logging.wandb == {"project": "a"}
    path.write_text(f"_base_ = [{str(SHAPES)!r}]\noptim_wrapper = dict(clip_grad=None)\n")
    assert load_config(path, {"optim_wrapper.clip_grad": {"max_norm": 2.0}}).optim_wrapper.clip_grad == {"max_norm": 2}


# -- keys of other frameworks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataset_type = 'CocoDataset'\n", "the type stands in train_dataloader.dataset"),
        ("train_pipeline = []\n", "train_dataloader.dataset.transforms"),
        ("model = dict(backbone=dict(type='ResNet'))\n", "named by model.name"),
        ("train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12)\n", "leave it out"),
        ("train_dataloader = dict(sampler=dict(type='DefaultSampler'))\n", "leave the sampler out"),
        ("default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))\n", "Did you mean 'max_keep'.*it is max_keep"),
        ("optim_wrapper = dict(type='AmpOptimWrapper')\n", "must be EffOptimWrapper .*dtype='auto'"),
    ],
)
def test_a_key_of_mmdet_is_told_by_ours(tmp_path: Path, text: str, said: str) -> None:
    refused(tmp_path / "a.py", text, said)


# -- kinds of values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"optim_wrapper.optimizer.lr": None}, "AdamW.lr must be a number"),
        ({"optim_wrapper.optimizer.betas": "big"}, r"betas must be \(a number, a number\)"),
        ({"optim_wrapper.optimizer.fused": 3}, "expected True or False"),
        ({"default_hooks.logger.interval": 0}, "logger.interval must be at least 1"),
        ({"default_hooks.checkpoint.interval": 1.5}, "interval must be a whole number"),
        ({"custom_hooks": [{"type": "EMAHook", "priority": "LWO"}]}, "priority .*Did you mean 'LOW'"),
        ({"custom_hooks": {"type": "EMAHook"}}, "custom_hooks must be a list"),
        ({"custom_hooks": ["EMAHook"]}, r"custom_hooks.0 must be a dict\(type="),
        ({"env_cfg.cudnn_benchmark": 1}, "cudnn_benchmark"),
        ({"randomness.seed": -1}, "seed must be at least 0"),
        ({"auto_scale_lr": {"base_batch_size": "64"}}, "base_batch_size must be a whole number"),
        ({"image_size": (64, 64, 64)}, r"image_size must be a whole number or \(a whole number, a whole number\)"),
        ({"sync_bn": "yes"}, "sync_bn must be True or False"),
        ({"logging.tensorboard": "atuo"}, "must be one of 'auto', True, False.*Did you mean 'auto'"),
        ({"train_dataloader.dataset.transforms.1.prob": True}, "expected a number"),
        ({"train_dataloader.dataset.splits": {"train": "many", "val": 2}}, "splits"),
        ({"train_dataloader.dataset.split": ["train"]}, "split must be text"),
        ({"param_scheduler.0.convert_to_iter_based": None}, "must be True or False"),
        ({"optim_wrapper.paramwise_cfg.flat_decay_mult": [0]}, "expected a number"),
        ({"optim_wrapper.paramwise_cfg.custom_keys": {"head": 0.1}}, "custom_keys must be a dict"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_value_of_a_kind_that_its_reader_does_not_take(option: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(SHAPES, option)


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [3, -1], [True, 1.0, "1", None, [1]]),
        (float, [3, 0.5], [False, "1", None]),
        (bool, [True], [1, 0, "True", None]),
        (str | None, ["a", None], [1, ["a"]]),
        (tuple[float, float], [(1, 2), [0.5, 1.5]], [(1,), (1, 2, 3), "ab", 3]),
        (tuple[int, ...], [(), (1, 2)], [(1.5,), 3]),
        (Sequence[str], [["a"], ()], ["a", [1]]),
        (Mapping[str, int], [{}, {"a": 1}], [{"a": "b"}, [1]]),
        (Literal["all"] | int, ["all", 3], ["al", True]),
        (Callable[[], None], [1, "a"], []),
        (Any, [1, None, {}], []),
    ],
)
def test_what_fits_an_annotation(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    assert all(fits(value, hint) for value in right) and not any(fits(value, hint) for value in wrong)
    assert isinstance(in_words(hint), str)


# -- of the user's own -------------------------------------------------------------------------------------------------


def test_a_hook_of_ones_own_is_checked_by_its_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_own_hooks.py").write_text(
        "from mmengine.hooks import Hook\nfrom effdense.engine.registry import HOOKS\n\n"
        "@HOOKS.register_module()\nclass BellHook(Hook):\n"
        "    def __init__(self, volume: float, every: int = 3):\n        self.volume = volume\n"
    )
    imports = "custom_imports = dict(imports=['my_own_hooks'])\n"
    path = tmp_path / "a.py"
    path.write_text(f"_base_ = [{str(SHAPES)!r}]\n{imports}custom_hooks = [dict(type='BellHook', volume=1)]\n")
    assert load_config(path).custom_hooks[0].type == "BellHook"
    refused(path, f"{imports}custom_hooks = [dict(type='BelHook', volume=1)]\n", r"line 3: .*Did you mean 'BellHook'")
    refused(path, f"{imports}custom_hooks = [dict(type='BellHook', volme=1)]\n", r"line 3: .*Did you mean 'volume'")
    refused(path, f"{imports}custom_hooks = [dict(type='BellHook')]\n", "needs volume")
    refused(path, f"{imports}custom_hooks = [dict(type='BellHook', volume='loud')]\n", "volume must be a number")
    refused(path, "custom_imports = dict(imports=['my_own_hoks'])\n", r"line 2: .*my_own_hoks.*PYTHONPATH")
    refused(path, "custom_imports = dict(import_=['os'])\n", "Did you mean 'imports'")
    refused(path, "custom_imports = 'os'\n", "custom_imports must be dict")


# -- signals and files of a run ----------------------------------------------------------------------------------------


def test_a_pipe_is_no_terminal_whatever_the_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert live_console("auto") is None


def test_control_c_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runner = SimpleNamespace(epoch=1, iter=12, work_dir="nowhere")

    def interrupted(*_: Any, **__: Any) -> None:
        with explained(runner):
            raise KeyboardInterrupt

    monkeypatch.setattr("effdense.engine.run.train", interrupted)
    assert cli.main(["train", str(SHAPES)]) == 130
    said = capsys.readouterr().err
    assert "interrupted: epoch 2, after 12 iterations." in said and "Traceback" not in said


@pytest.mark.parametrize("end", ['{"iter": 2, "lr": 1}', '{"iter": 3, "l', "\x00\x00\x00", '{"iter": "x"}\n', "3\n"])
def test_rows_after_a_crash_of_the_machine(tmp_path: Path, end: str) -> None:
    """A last row without its line end would take the next one in."""
    path = tmp_path / METRICS
    path.write_bytes(b'{"iter": 1, "lr": 1}\n' + end.encode() + (b"\xff\xfe" if "\x00" in end else b""))
    keep_until(path, 2, validated=True)
    kept = [json.loads(line)["iter"] for line in path.read_text().splitlines()]
    assert path.read_text().endswith("\n") and kept == ([1, 2] if end.endswith("1}") else [1])


# -- what is sent along with a question --------------------------------------------------------------------------------


def test_neither_keys_nor_passwords_nor_half_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/al")
    assert without_home("/people/al/a /people/alice /people/al") == "~/a /people/alice ~"
    for text in ("wandb.api_key=abc123", "{'token': 'abc123'}", "PASSWORD: abc123", "http://me:abc123@host:5000"):
        assert "abc123" not in without_home(text) and "***" in without_home(text)
    assert without_home("model.fpn_cells=2 http://host:5000") == "model.fpn_cells=2 http://host:5000"
