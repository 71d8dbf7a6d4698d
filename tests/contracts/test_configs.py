"""Every shipped config loads, passes the check, and describes a model that can be built; its note is complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from effdense.engine.config import check_config, load_config
from effdense.engine.registry import MODELS, resolve
from effdense.engine.run_parts import METRIC_OF_TASK

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def test_configs_are_found() -> None:
    assert len(CONFIGS) >= 15


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_loads_and_its_model_can_be_built(path: Path) -> None:
    cfg = load_config(path)
    options = cfg.model.to_dict()
    size = options.setdefault("image_size", cfg.image_size)
    with torch.device("meta"):  # D7X has 77 M parameters: shapes are enough
        model = resolve(MODELS, options.pop("type"), "model")(num_classes=3, **options)
    assert model.image_size == (tuple(size) if not isinstance(size, int) else (size, size))
    assert sum(p.numel() for p in model.parameters()) > 5e5


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_resolved_config_is_a_config(path: Path, tmp_path: Path) -> None:
    """What a run leaves in its work dir can be given to the tools again and says the same."""
    cfg = load_config(path)
    written = tmp_path / path.name
    written.write_text(cfg.pretty_text)
    assert load_config(written).to_dict() == cfg.to_dict()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_opens_with_its_note(path: Path) -> None:
    note = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"configs/{path.name}" in note and "Run:" in note


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_run_validates_and_keeps_its_best(path: Path) -> None:
    cfg = load_config(path)
    assert cfg.train_cfg.max_epochs >= cfg.train_cfg.val_interval
    task = resolve(MODELS, cfg.model.type, "model").task
    assert (
        cfg.default_hooks.checkpoint.get("save_best", "auto") == "auto"
        and cfg.val_evaluator.type == METRIC_OF_TASK[task]
    )
    # Sections of a base that a config overrides must still be whole.
    check_config(cfg.to_dict())
    assert {"train_dataloader", "val_dataloader", "optim_wrapper", "param_scheduler"} <= set(cfg.to_dict())
