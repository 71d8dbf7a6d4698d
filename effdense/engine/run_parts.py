"""The parts of a run, made from a config: its task, classes, metric and runner."""

from __future__ import annotations

import itertools
import logging
import os
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
from effdense.engine import datasets
from effdense.engine.combined_datasets import is_combined
from effdense.engine.compiled import refuse_synced_statistics
from effdense.engine.config import load_config
from effdense.engine.determinism import for_mmengine, set_determinism
from effdense.engine.distributed import infer_launcher, init_distributed, rank_and_world
from effdense.engine.early import RunPlan, build_hooks, check_run
from effdense.engine.header import evaluation_header, training_header
from effdense.engine.hooks.multi_scale import multi_scale_hooks
from effdense.engine.logging_setup import logging_plan, only, visualizer_config
from effdense.engine.models import NetworkModel
from effdense.engine.models.segmentation import SegmentationModel
from effdense.engine.models.shell import size_hw
from effdense.engine.ranks import said_once_a_node
from effdense.engine.registry import METRICS, MODELS, SCOPE, resolve
from effdense.engine.runner import EffRunner
from effdense.errors import ConfigError, EffdenseError
from effdense.models.segmentation.inference import InferenceOptions
from effdense.models.weights.load import read_checkpoint

SHOWN_WARNINGS = 2
_RUN_NUMBERS = itertools.count(1)
METRIC_OF_TASK = {"detection": "CocoMetric", "classification": "TopKMetric", "segmentation": "SegmentationMetric"}
_RECORDS: dict[str, tuple[type, ...]] = {
    "detection": (DetectionRecords,),
    "classification": (ClassificationRecords,),
    "segmentation": (SegmentationRecords, JoinedMasks),
}


def prepared_config(
    config: str | os.PathLike[str], options: Mapping[str, Any] | None, launcher: str
) -> tuple[Config, str]:
    """The checked config with its overrides, and the launcher; processes of a launch are joined here."""
    try:
        cfg = load_config(config, options)
    except EffdenseError as error:
        said_once_a_node(error)
        raise
    set_determinism(cfg.get("randomness"))
    launcher = infer_launcher(launcher if launcher != "none" else cfg.get("launcher", "none"))
    dist_cfg = (cfg.get("env_cfg") or {}).get("dist_cfg") or {}
    init_distributed(launcher, backend=dist_cfg.get("backend"), timeout=dist_cfg.get("timeout", 1800))
    cfg.setdefault("default_scope", SCOPE)
    if "image_size" not in cfg:
        raise ConfigError(f"{config}: the config needs image_size (an int, or (height, width)).")
    size_hw(cfg.image_size)
    logging_plan(cfg, "", is_training_run=False)  # its values, before data are read
    return cfg, launcher


def classes_trained(checkpoint: str, cfg: Config) -> ClassMap | None:
    """Classes of a classifier of ours: a split need not hold pictures of each of them to be scored; and of any model
    trained on a combined set, whose classes are those of all its parts.

    Other annotation and class files list their classes whatever a split holds.
    """
    task, combined = task_of(cfg), is_combined((cfg.get("train_dataloader") or {}).get("dataset"))
    content = read_checkpoint(checkpoint)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping) or meta.get("task") != task or "classes" not in meta:
        return None
    if task != "classification" and not combined:
        return None
    return ClassMap(
        tuple(meta["classes"]), tuple(meta.get("category_ids") or range(len(meta["classes"]))), meta.get("palette")
    )


def work_dir_of(cfg: Config, config: str | os.PathLike[str], work_dir: str | None) -> str:
    """Where a run writes: what was asked for, else the config\'s, else ``work_dirs/<config name>``."""
    return work_dir or cfg.get("work_dir") or os.path.join("work_dirs", Path(config).stem)


def build_evaluator(cfg: Config, name: str, split: datasets.Split) -> Any:
    """The metric of a split, bound to its data; ConfigError for one of another task."""
    task = task_of(cfg)
    section = dict(cfg.get(f"{name}_evaluator") or cfg.get("val_evaluator") or {"type": METRIC_OF_TASK[task]})
    metric = resolve(METRICS, section.pop("type"), f"{name}_evaluator")(**section)
    if type(metric).__name__ != METRIC_OF_TASK[task]:
        raise ConfigError(
            f"{name}_evaluator of a {task} model must be a {METRIC_OF_TASK[task]}, got {type(metric).__name__}."
        )
    if not isinstance(split.records, _RECORDS[task]):
        raise ConfigError(
            f"{name}_dataloader.dataset gives {type(split.records).__name__}, a {task} model needs "
            f"{_RECORDS[task][0].__name__}; choose a dataset of its task."
        )
    metric.bind_dataset(split.dataset)
    return metric


def task_of(cfg: Config) -> str:
    """detection, segmentation or classification."""
    return str(resolve(MODELS, cfg.model["type"], "model").task)


def build_runner(
    cfg: Config, launcher: str, seed: int, class_map: Any, *, is_training_run: bool, **parts: Any
) -> EffRunner:
    """The runner of a training or an evaluation; ``parts`` are its loaders, evaluator and loops."""
    rank, _ = rank_and_world()
    plan_of_logging = logging_plan(cfg, Path(cfg.work_dir).name, is_training_run=is_training_run)
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
        refuse_synced_statistics(model, cfg.get("sync_bn"))
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
    randomness, environment = for_mmengine(randomness, cfg.get("env_cfg") or {})
    runner = EffRunner(
        model=model,
        work_dir=cfg.work_dir,
        default_hooks=hooks,
        custom_hooks=more_hooks,
        launcher=launcher,
        env_cfg=environment,
        log_processor=cfg.get("log_processor"),
        log_level=cfg.get("log_level", "INFO"),
        visualizer=visualizer_config(cfg, plan_of_logging, cfg.work_dir),
        default_scope=cfg.default_scope,
        randomness=randomness,
        # mmengine shares loggers and scalars between runners of one name; its own names differ by the second only.
        experiment_name=cfg.get("experiment_name") or f"{Path(cfg.filename).stem}_{next(_RUN_NUMBERS)}",
        cfg=cfg,
        metadata=metadata,
        is_training_run=is_training_run,
        **parts,
    )
    for note in plan_of_logging.notes:
        runner.logger.warning(note)
    for report in model.reports:
        runner.logger.info(f"starting weights: {report}")
    return runner


def look_differently(cfg: Config, name: str, inference: Mapping[str, Any]) -> None:
    """Change ``model.inference`` for one evaluation, and with it what the pictures are prepared for.

    Raises: ConfigError for a model of another task, or options that cannot be used.
    """
    if task_of(cfg) != "segmentation":
        raise ConfigError(
            f"inference options such as --slide and --tta are for segmentors, this is a {task_of(cfg)} model."
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


def log_header(runner: EffRunner, splits: list[datasets.Split]) -> None:
    """What is about to run, in a few lines; of many warnings about the data the rest is in the log file."""
    if rank_and_world()[0] != 0:
        return
    for line in (training_header if runner.is_training_run else evaluation_header)(runner, splits):
        runner.logger.info(line)
    warnings = [f"{split.name}: {warning}" for split in splits for warning in split.report.warnings]
    for i, text in enumerate(warnings):
        runner.logger.log(logging.WARNING, text, extra=only("file") if i >= SHOWN_WARNINGS else None)
    if len(warnings) > SHOWN_WARNINGS:
        runner.logger.info(f"{len(warnings) - SHOWN_WARNINGS} more warnings about the data are in the log file.")
