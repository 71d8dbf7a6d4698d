"""What ``tools/train.py``, ``tools/test.py`` and the console script do: config in, trained and evaluated model out."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator

from effdense.data import ClassMap, DetectionRecords
from effdense.data.combining.joined_masks import JoinedMasks
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.readers.mask_folder import SegmentationRecords
from effdense.data.transforms.geometry import ResizePad, check_size
from effdense.data.transforms.rectangles import ResizeFit
from effdense.engine import checkpoint as files
from effdense.engine import datasets
from effdense.engine.combined_datasets import is_combined
from effdense.engine.config import load_config
from effdense.engine.distributed import infer_launcher, init_distributed, rank_and_world
from effdense.engine.early import RunPlan, build_hooks, check_run
from effdense.engine.hooks.multi_scale import multi_scale_hooks
from effdense.engine.memory import keep_freed_memory
from effdense.engine.models import NetworkModel
from effdense.engine.models.segmentation import SegmentationModel
from effdense.engine.models.shell import size_hw
from effdense.engine.registry import METRICS, MODELS, SCOPE, resolve
from effdense.engine.runner import EffRunner
from effdense.errors import ConfigError
from effdense.models.segmentation.inference import InferenceOptions
from effdense.models.weights.load import read_checkpoint

_RUN_NUMBERS = itertools.count(1)
_METRICS = {"detection": "CocoMetric", "classification": "TopKMetric", "segmentation": "SegmentationMetric"}
_RECORDS: dict[str, tuple[type, ...]] = {
    "detection": (DetectionRecords,),
    "classification": (ClassificationRecords,),
    "segmentation": (SegmentationRecords, JoinedMasks),
}


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
    cfg, launcher = _prepare(config, options, launcher)
    if not torch.cuda.is_available():
        keep_freed_memory()
    cfg.work_dir = _work_dir(cfg, config, work_dir)
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
    # torchrun starts all processes anew when one of them is lost: from the newest checkpoint, not from the beginning.
    going_on = resume or cfg.get("resume", False) or int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0
    train_split = datasets.build_split(cfg, "train", seed=seed)
    val_split = datasets.build_split(cfg, "val", seed=seed, class_map=train_split.records.class_map)
    cfg.model["num_classes"] = datasets.check_class_count(
        cfg.model.get("num_classes"), train_split.records.class_map, train_split.source, task=_task(cfg)
    )
    datasets.compare_splits(train_split, val_split)
    runner = _runner(
        cfg,
        launcher,
        seed,
        train_split.records.class_map,
        is_training_run=True,
        train_dataloader=datasets.build_loader(train_split, seed=seed, training=True),
        val_dataloader=datasets.build_loader(val_split, seed=seed, training=False),
        val_evaluator=_evaluator(cfg, "val", val_split),
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
    _header(runner, [train_split, val_split])
    start = time.monotonic()
    runner.train()
    runner.logger.info(f"trained in {time.monotonic() - start:.0f} s; checkpoints and pictures: {cfg.work_dir}")
    return Path(cfg.work_dir)


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
    cfg, launcher = _prepare(config, options, launcher)
    files.require(checkpoint, "CHECKPOINT")
    cfg.work_dir = _work_dir(cfg, config, work_dir)
    seed = int((cfg.get("randomness") or {}).get("seed") or 0)
    name = split
    if split == "train":  # evaluated like validation: its images, the validation transforms
        cfg.train_dataloader["dataset"]["transforms"] = cfg.val_dataloader["dataset"]["transforms"]
        cfg.train_dataloader = {**cfg.val_dataloader, "dataset": cfg.train_dataloader["dataset"]}
    if inference:
        _look_differently(cfg, name, inference)
    chosen = datasets.build_split(cfg, name, seed=seed, class_map=_classes_trained(checkpoint, cfg))
    chosen.dataset.training = False
    cfg.model["num_classes"] = datasets.check_class_count(
        cfg.model.get("num_classes"), chosen.records.class_map, chosen.source, task=_task(cfg)
    )
    for key in ("weights", "encoder_weights"):
        cfg.model.pop(key, None)
    hooks = dict(cfg.get("default_hooks") or {})
    hooks = {key: value for key, value in hooks.items() if key in ("timer", "logger", "runtime_info", "pictures")}
    if show_dir is not None:
        hooks["pictures"] = {**(hooks.get("pictures") or {"type": "PicturesHook"}), "each_dir": show_dir}
    cfg.default_hooks = {**hooks, "checkpoint": None, "param_scheduler": None, "sampler_seed": None}
    evaluator = _evaluator(cfg, name, chosen)
    if out is not None:
        evaluator.dump = out
    if hasattr(evaluator, "report") and evaluator.report is None:
        evaluator.report = str(Path(cfg.work_dir) / "scores.json")
    runner = _runner(
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
    _header(runner, [chosen])
    runner.val()
    assert evaluator.scores is not None
    if rank_and_world()[0] == 0:
        runner.logger.info("\n" + evaluator.scores.table())
    return evaluator.scores


def _prepare(config: str | os.PathLike[str], options: Mapping[str, Any] | None, launcher: str) -> tuple[Config, str]:
    cfg = load_config(config, options)
    launcher = infer_launcher(launcher if launcher != "none" else cfg.get("launcher", "none"))
    dist_cfg = (cfg.get("env_cfg") or {}).get("dist_cfg") or {}
    init_distributed(launcher, backend=dist_cfg.get("backend"), timeout=dist_cfg.get("timeout", 1800))
    cfg.setdefault("default_scope", SCOPE)
    if "image_size" not in cfg:
        raise ConfigError(f"{config}: the config needs image_size (an int, or (height, width)).")
    size_hw(cfg.image_size)
    return cfg, launcher


def _classes_trained(checkpoint: str, cfg: Config) -> ClassMap | None:
    """Classes of a classifier of ours: a split need not hold pictures of each of them to be scored; and of any model
    trained on a combined set, whose classes are those of all its parts.

    Other annotation and class files list their classes whatever a split holds.
    """
    task, combined = _task(cfg), is_combined((cfg.get("train_dataloader") or {}).get("dataset"))
    content = read_checkpoint(checkpoint)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping) or meta.get("task") != task or "classes" not in meta:
        return None
    if task != "classification" and not combined:
        return None
    return ClassMap(
        tuple(meta["classes"]), tuple(meta.get("category_ids") or range(len(meta["classes"]))), meta.get("palette")
    )


def _work_dir(cfg: Config, config: str | os.PathLike[str], work_dir: str | None) -> str:
    return work_dir or cfg.get("work_dir") or os.path.join("work_dirs", Path(config).stem)


def _evaluator(cfg: Config, name: str, split: datasets.Split) -> Any:
    task = _task(cfg)
    section = dict(cfg.get(f"{name}_evaluator") or cfg.get("val_evaluator") or {"type": _METRICS[task]})
    metric = resolve(METRICS, section.pop("type"), f"{name}_evaluator")(**section)
    if type(metric).__name__ != _METRICS[task]:
        raise ConfigError(
            f"{name}_evaluator of a {task} model must be a {_METRICS[task]}, got {type(metric).__name__}."
        )
    if not isinstance(split.records, _RECORDS[task]):
        raise ConfigError(
            f"{name}_dataloader.dataset gives {type(split.records).__name__}, a {task} model needs "
            f"{_RECORDS[task][0].__name__}; choose a dataset of its task."
        )
    metric.bind_dataset(split.dataset)
    return metric


def _task(cfg: Config) -> str:
    return str(resolve(MODELS, cfg.model["type"], "model").task)


def _runner(cfg: Config, launcher: str, seed: int, class_map: Any, *, is_training_run: bool, **parts: Any) -> EffRunner:
    rank, _ = rank_and_world()
    # Weights are drawn from the same seed on every rank; stochastic depth then from one stream per rank.
    torch.manual_seed(seed)
    model_cfg = dict(cfg.model)
    if "image_size" not in model_cfg:
        model_cfg["image_size"] = cfg.image_size
    model: NetworkModel = resolve(MODELS, model_cfg.pop("type"), "model")(**model_cfg)
    model.load_starting_weights(class_map.names)
    if is_training_run and not parts["resume"] and parts["load_from"] is not None:
        model.start_from(parts.pop("load_from"), class_map.names)  # here, so that a wrong file leaves no folder behind
    hooks, more_hooks = build_hooks(cfg.get("default_hooks"), cfg.get("custom_hooks"))
    if is_training_run:
        dataset, epochs = parts["train_dataloader"].dataset, cfg.train_cfg.max_epochs
        plan = RunPlan(model, dataset, epochs, parts["val_evaluator"].names())
        check_run(plan, [*hooks.values(), *more_hooks], parts["optim_wrapper"])
        more_hooks += multi_scale_hooks(model, seed)
    parts["val_evaluator"] = Evaluator(parts["val_evaluator"])
    metadata: dict[str, Any] = {
        "task": model.task,
        "model": model.build_arguments,
        "classes": list(class_map.names),
        "category_ids": list(class_map.category_ids),
        "mean": list(model.mean),
        "std": list(model.std),
        "image_size": list(model.image_size),
        "color": "rgb",
        "palette": None if class_map.palette is None else [list(color) for color in class_map.palette],
    }
    crop = [t for t in _val_transforms(cfg) if t.get("type") == "CenterCrop"]
    if crop:  # how a classifier looks at a picture is part of what it is
        metadata["crop_fraction"] = float(crop[-1].get("crop_fraction", 0.875))
    if isinstance(model, SegmentationModel):
        transforms = parts["val_dataloader"].dataset.transforms
        letterboxes = [check_size(t.size) for t in transforms if isinstance(t, (ResizePad, ResizeFit))]
        _check_windows(model, letterboxes)
        metadata["inference"] = model.inference.to_dict()
        metadata["letterbox"] = list(letterboxes[-1]) if letterboxes else None
    randomness = dict(cfg.get("randomness") or {})
    # Different dropout on every rank; data order and augmentation have their own seeds.
    randomness["seed"] = seed + rank
    runner = EffRunner(
        model=model,
        work_dir=cfg.work_dir,
        default_hooks=hooks,
        custom_hooks=more_hooks,
        launcher=launcher,
        env_cfg=cfg.get("env_cfg") or {},
        log_processor=cfg.get("log_processor"),
        log_level=cfg.get("log_level", "INFO"),
        visualizer=cfg.get("visualizer"),
        default_scope=cfg.default_scope,
        randomness=randomness,
        # mmengine shares loggers and scalars between runners of one name; its own names differ by the second only.
        experiment_name=cfg.get("experiment_name") or f"{Path(cfg.filename).stem}_{next(_RUN_NUMBERS)}",
        cfg=cfg,
        metadata=metadata,
        is_training_run=is_training_run,
        **parts,
    )
    for report in model.reports:
        runner.logger.info(f"starting weights: {report}")
    return runner


def _look_differently(cfg: Config, name: str, inference: Mapping[str, Any]) -> None:
    """Change ``model.inference`` for one evaluation, and with it what the pictures are prepared for.

    Raises: ConfigError for a model of another task, or options that cannot be used.
    """
    if _task(cfg) != "segmentation":
        raise ConfigError(
            f"inference options such as --slide and --tta are for segmentors, this is a {_task(cfg)} model."
        )
    changed = InferenceOptions.of(cfg.model.get("inference")).override(**inference)
    cfg.model["inference"] = changed.to_dict()
    dataset = (cfg.get(f"{name}_dataloader") or {}).get("dataset")
    if inference.get("mode") == "slide" and dataset is not None:
        letterboxes = ("ResizePad", "ResizeFit")
        dataset["transforms"] = [t for t in dataset.get("transforms") or () if t.get("type") not in letterboxes]


def _check_windows(model: SegmentationModel, letterboxes: Sequence[tuple[int, int]]) -> None:
    """Raise ConfigError where windows would slide over pictures that were shrunk to fit into one."""
    if model.inference.mode != "slide":
        return
    window, _ = model.inference.window_and_stride(model.network)
    small = [size for size in letterboxes if size[0] <= window[0] and size[1] <= window[1]]
    if small:
        raise ConfigError(
            f"model.inference slides a window of {window[0]}x{window[1]} px over pictures that ResizePad has shrunk to "
            f"{small[-1][0]}x{small[-1][1]}, so there is one window and nothing is gained. Evaluate at original size "
            "(val_dataloader.dataset.transforms=[]), give ResizePad a larger size, or use mode='whole'."
        )


def _val_transforms(cfg: Config) -> list[Any]:
    return list(((cfg.get("val_dataloader") or {}).get("dataset") or {}).get("transforms") or ())


def _header(runner: EffRunner, splits: list[datasets.Split]) -> None:
    """What is about to run, in a few lines."""
    runner.logger.info(runner.shell.describe())
    for split in splits:
        runner.logger.info(split.describe())
        for warning in split.report.warnings:
            runner.logger.log(logging.WARNING, f"{split.name}: {warning}")
