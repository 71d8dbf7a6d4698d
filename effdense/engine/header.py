"""The head of a log: what is about to run, a line per subject."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import effdense
from effdense.engine import datasets
from effdense.engine.optim import automatic_dtype
from effdense.models.costs import model_cost


def training_header(runner: Any, splits: Sequence[datasets.Split]) -> list[str]:
    """Device, model, data, batch, schedule and place of a training run."""
    cfg = runner.cfg
    wrapper = dict(cfg.get("optim_wrapper") or {})
    loop = dict(cfg.get("train_cfg") or {})
    epochs = loop.get("max_epochs")
    every = int(loop.get("val_interval") or 1)
    loader = runner._train_dataloader  # the property would build the loop
    accumulated = int(wrapper.get("accumulative_counts") or 1)
    step = loader.batch_size * runner.world_size * accumulated
    batch = f"{loader.batch_size} images x {_many(runner.world_size, 'process', 'es')} x {accumulated} accumulated"
    schedule = f"{_many(epochs, 'epoch')} x {_many(len(loader), 'iteration')}"
    return [
        _device(wrapper.get("dtype")),
        _model(runner),
        *[split.describe() for split in splits],
        f"batch: {batch} = {step} an optimizer step; {_workers(loader)}",
        f"schedule: {schedule}, {_schedules(cfg.get('param_scheduler'))}; "
        f"validation {'every epoch' if every == 1 else f'every {every} epochs'}",
        f"optimizer: {_optimizer(wrapper)}{_average(runner)}",
        f"seed: {_seed(cfg)}",
        f"work dir: {cfg.work_dir}; log file {os.path.join(runner.timestamp, f'{runner.timestamp}.log')}",
    ]


def evaluation_header(runner: Any, splits: Sequence[datasets.Split]) -> list[str]:
    """Device, model and data of an evaluation."""
    return [_device(None), _model(runner), *[split.describe() for split in splits]]


def _many(number: Any, word: str, plural: str = "s") -> str:
    return f"{number} {word}{'' if number == 1 else plural}"


def _device(dtype: str | None) -> str:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
        device = f"{torch.cuda.get_device_name()} ({memory:.0f} GB)"
    else:
        device = f"cpu, {_many(torch.get_num_threads(), 'thread')}"
    precision = automatic_dtype() if dtype == "auto" else dtype or "float32"
    return f"device: {device}, {precision}; effdense {effdense.__version__}, torch {torch.__version__}"


def _model(runner: Any) -> str:
    shell = runner.shell
    try:
        macs = f", {model_cost(shell.network, shell.image_size).macs / 1e9:.2f} G multiply-adds"
    except Exception:  # a network that cannot be traced without values; no reason not to train it
        macs = ""
    return f"{shell.describe()}{macs}{shell.describe_training() if runner.is_training_run else ''}"


def _workers(loader: Any) -> str:
    return "loaded in this process" if loader.num_workers == 0 else _many(loader.num_workers, "loader worker")


def _schedules(section: Any) -> str:
    if not section:
        return "constant LR"
    sections = [section] if isinstance(section, Mapping) else section
    return " then ".join(str(one.get("type")) for one in sections)


def _optimizer(wrapper: Mapping[str, Any]) -> str:
    options = dict(wrapper.get("optimizer") or {})
    names = {"lr": "LR", "weight_decay": "weight decay", "momentum": "momentum"}
    shown = [f"{word} {options[key]:g}" for key, word in names.items() if isinstance(options.get(key), (int, float))]
    clip = wrapper.get("clip_grad")
    if isinstance(clip, Mapping) and "max_norm" in clip:
        shown.append(f"gradient norm at most {clip['max_norm']:g}")
    if isinstance(clip, Mapping) and clip.get("type") == "agc":
        shown.append(f"gradients clipped to {clip.get('clip_factor', 0.01):g} of their weights")
    return ", ".join([str(options.get("type")), *shown])


def _average(runner: Any) -> str:
    section = (runner.cfg.get("default_hooks") or {}).get("ema")
    return "" if not section else f"; weights averaged, decay {section.get('decay', 0.9998):g}"


def _seed(cfg: Any) -> str:
    randomness = cfg.get("randomness") or {}
    return f"{randomness.get('seed') or 0}{', deterministic' if randomness.get('deterministic') else ''}"
