"""What ``tools/train.py``, ``tools/test.py`` and the console script do: config in, trained and evaluated model out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from effdense.engine import checkpoint as files
from effdense.engine import datasets
from effdense.engine.batch_probe import settle_batch
from effdense.engine.distributed import on_main_then_all, rank_and_world, restarted_since
from effdense.engine.failures import explained
from effdense.engine.memory import keep_freed_memory
from effdense.engine.ranks import one_voice
from effdense.engine.run_parts import (
    build_evaluator,
    build_runner,
    classes_trained,
    log_header,
    look_differently,
    prepared_config,
    task_of,
    work_dir_of,
)
from effdense.errors import ConfigError


def _tell(text: str) -> None:
    """Before there is a logger."""
    print(text, file=sys.stderr, flush=True)


@one_voice()
def train(
    config: str | os.PathLike[str],
    *,
    work_dir: str | None = None,
    resume: bool | str = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    options: Mapping[str, Any] | None = None,
    launcher: str = "none",
) -> Path:
    """Train as a config says.

    Args:
        config: path of a config file. work_dir: default the config's, else ``work_dirs/<config name>``.
        resume: True continues the newest checkpoint of the work dir, a path that checkpoint.
        amp: mixed precision: bfloat16 where the device has it, else float16.
        auto_scale_lr: scale the LR by batch / ``auto_scale_lr.base_batch_size``.
        options: dotted config overrides. launcher: ``none`` | ``pytorch`` | ``slurm``.

    Returns: the work dir.
    Raises: ConfigError, DataError, WeightsError before the first step; unknown keys, unusable data and absent files
        before anything is written.
    """
    cfg, launcher = prepared_config(config, options, launcher)
    if not torch.cuda.is_available():
        keep_freed_memory()
    cfg.work_dir = work_dir_of(cfg, config, work_dir)
    if amp:
        cfg.optim_wrapper["dtype"] = "auto"
    if auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise ConfigError(f"--auto-scale-lr: {config} has no auto_scale_lr.base_batch_size to scale from.")
        cfg.auto_scale_lr["enable"] = True
    seed = int((cfg.get("randomness") or {}).get("seed") or 0)
    for section in ("train_cfg", "optim_wrapper"):
        if section not in cfg:
            raise ConfigError(f"{config}: training needs a {section!r} section.")
    if isinstance(resume, str):
        files.require(resume, "--resume")
    elif cfg.get("load_from") is not None:
        files.require(cfg.load_from, "load_from")
    going_on = resume or cfg.get("resume", False)
    since = restarted_since()
    if since is not None:
        # torchrun starts all processes anew when one is lost: from the newest checkpoint of this launch, not from the
        # beginning, from where --resume PATH began, or from what an earlier run has left in the folder.
        newest = on_main_then_all(lambda: files.find_last(Path(cfg.work_dir), since=since, report=_tell))
        going_on = going_on if newest is None else str(newest)
    train_split = datasets.build_split(cfg, "train", seed=seed)
    val_split = datasets.build_split(cfg, "val", seed=seed, class_map=train_split.records.class_map)
    cfg.model["num_classes"] = datasets.check_class_count(
        cfg.model.get("num_classes"), train_split.records.class_map, train_split.source, task=task_of(cfg)
    )
    datasets.compare_splits(train_split, val_split)
    notes = settle_batch(cfg, train_split, going_on)
    runner = build_runner(
        cfg,
        launcher,
        seed,
        train_split.records.class_map,
        is_training_run=True,
        train_dataloader=datasets.build_loader(train_split, seed=seed, training=True),
        val_dataloader=datasets.build_loader(val_split, seed=seed, training=False),
        val_evaluator=build_evaluator(cfg, "val", val_split),
        train_cfg={"by_epoch": True, **cfg.train_cfg},
        val_cfg={},
        optim_wrapper={
            "type": "EffOptimWrapper",
            "constructor": "QuietOptimWrapperConstructor",
            **cfg.optim_wrapper,
        },
        param_scheduler=cfg.get("param_scheduler"),
        auto_scale_lr=cfg.get("auto_scale_lr"),
        load_from=cfg.get("load_from"),
        resume=going_on,
    )
    log_header(runner, [train_split, val_split])
    for note in notes:
        runner.logger.info(note)
    start = time.monotonic()
    with explained(runner):
        runner.train()
    runner.logger.info(f"trained in {time.monotonic() - start:.0f} s; checkpoints and pictures: {cfg.work_dir}")
    return Path(cfg.work_dir)


@one_voice()
def test(
    config: str | os.PathLike[str],
    checkpoint: str,
    *,
    work_dir: str | None = None,
    split: str = "val",
    out: str | None = None,
    show_dir: str | None = None,
    inference: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    launcher: str = "none",
) -> Any:
    """Evaluate a checkpoint on a split of the config.

    Args:
        checkpoint: a checkpoint of ours, or weights of a layout that ``effdense.load_weights`` knows; all of the
            model's tensors must be there.
        split: ``val`` | ``test`` | ``train``.
        out: write the predictions here: COCO result JSON, a folder of class maps with ``scores.json``, or JSON with the
            best classes. show_dir: write truth-beside-prediction pictures here.
        inference: of a segmentor, in place of what ``model.inference`` says: fields of ``InferenceOptions``.
            ``mode="slide"`` also leaves the letterbox out, so that windows slide over pictures of original size.

    Returns: the scores (also printed).
    """
    cfg, launcher = prepared_config(config, options, launcher)
    files.require(checkpoint, "CHECKPOINT")
    cfg.work_dir = work_dir_of(cfg, config, work_dir)
    seed = int((cfg.get("randomness") or {}).get("seed") or 0)
    name = split
    if split == "train":  # evaluated like validation: its images, the validation transforms
        cfg.train_dataloader["dataset"]["transforms"] = cfg.val_dataloader["dataset"]["transforms"]
        cfg.train_dataloader = {**cfg.val_dataloader, "dataset": cfg.train_dataloader["dataset"]}
    if inference:
        look_differently(cfg, name, inference)
    chosen = datasets.build_split(cfg, name, seed=seed, class_map=classes_trained(checkpoint, cfg))
    chosen.dataset.training = False
    cfg.model["num_classes"] = datasets.check_class_count(
        cfg.model.get("num_classes"), chosen.records.class_map, chosen.source, task=task_of(cfg)
    )
    for key in ("weights", "encoder_weights"):
        cfg.model.pop(key, None)
    hooks = dict(cfg.get("default_hooks") or {})
    hooks = {key: value for key, value in hooks.items() if key in ("timer", "logger", "runtime_info", "pictures")}
    if show_dir is not None:
        hooks["pictures"] = {**(hooks.get("pictures") or {"type": "PicturesHook"}), "each_dir": show_dir}
    cfg.default_hooks = {**hooks, "checkpoint": None, "param_scheduler": None, "sampler_seed": None}
    evaluator = build_evaluator(cfg, name, chosen)
    if out is not None:
        evaluator.dump = out
    if hasattr(evaluator, "report") and evaluator.report is None:
        evaluator.report = str(Path(cfg.work_dir) / "scores.json")
    runner = build_runner(
        cfg,
        launcher,
        seed,
        chosen.records.class_map,
        is_training_run=False,
        val_dataloader=datasets.build_loader(chosen, seed=seed, training=False),
        val_evaluator=evaluator,
        val_cfg={},
        load_from=checkpoint,
    )
    log_header(runner, [chosen])
    runner.val()
    assert evaluator.scores is not None
    if rank_and_world()[0] == 0:
        runner.logger.info("\n" + evaluator.scores.table())
    return evaluator.scores
