"""From a run folder to what its model says on a split: config and checkpoint found, evaluated, predictions kept."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from effdense.engine import checkpoint as files
from effdense.engine import datasets
from effdense.engine import run as engine
from effdense.engine.config import load_config
from effdense.engine.run_parts import classes_trained, task_of
from effdense.errors import ConfigError, WeightsError
from effdense.models.weights.load import read_checkpoint

# Nothing is drawn or logged beside the report; a split that was just read and checked is not checked again.
_QUIET = {"default_hooks.pictures": None, "log_level": "WARNING"}


@dataclass(frozen=True)
class RunFiles:
    """What a run left: the resolved config, and the checkpoint to look at."""

    folder: Path
    config: Path
    checkpoint: Path


@dataclass(frozen=True, eq=False)
class SplitPredictions:
    """A model's predictions on a split.

    Attributes:
        task: detection, segmentation or classification.
        classes: names in label order. palette: RGB of each, or None.
        dataset: of the split, as it was evaluated; its ``records`` hold the truth.
        scores: what the split's metric says.
        predictions: what the metric wrote: the COCO results (list of dicts), the best classes of every picture (list of
            dicts), or the folder with a PNG of class numbers for each picture.
        checkpoint_note: epoch and version the checkpoint was written at, for the head of a report.
    """

    task: str
    classes: tuple[str, ...]
    palette: Any
    dataset: Any
    scores: Any
    predictions: Any
    checkpoint_note: str


def run_files(run: str | os.PathLike[str], *, config: str | None = None, checkpoint: str | None = None) -> RunFiles:
    """The config and the checkpoint of a run folder: ``best.pth``, else the newest checkpoint that can be read.

    Args:
        run: the work dir of a training run, or a checkpoint in it.
        config, checkpoint: use these instead.

    Raises: ConfigError without a folder, or without exactly one config in it; WeightsError without a checkpoint.
    """
    given = Path(run).expanduser()
    if given.is_file() and given.suffix == ".py":
        raise ConfigError(
            f"{given} is a config; analyze takes the folder of a run, {given.stem} for example lies in "
            f"work_dirs/{given.stem} (or name the checkpoint and --config {given})."
        )
    if given.is_file():
        folder, checkpoint = given.parent, checkpoint or str(given)
    else:
        folder = given
    if not folder.is_dir():
        raise ConfigError(f"no run folder at {folder.absolute()}; expected the work dir of a training run.")
    if config is None:
        found = sorted(folder.glob("*.py"))
        if len(found) != 1:
            held = "no config (*.py)" if not found else f"{len(found)} configs ({', '.join(p.name for p in found[:5])})"
            raise ConfigError(f"{folder.absolute()} holds {held}; name the one it was trained with: --config FILE.")
        config = str(found[0])
    if checkpoint is None:
        best = folder / "best.pth"
        newest = best if best.is_file() else files.find_last(folder)
        if newest is None:
            raise WeightsError(
                f"{folder.absolute()} holds neither best.pth nor an epoch_N.pth that can be read; has the run saved "
                "yet? Name a checkpoint with --checkpoint FILE."
            )
        checkpoint = str(newest)
    files.require(checkpoint, "--checkpoint")
    return RunFiles(folder, Path(config), Path(checkpoint))


def predict_split(
    config: Path, checkpoint: Path, split: str, scratch: Path, options: Mapping[str, Any] | None = None
) -> SplitPredictions:
    """Evaluate a checkpoint on a split and keep what it said.

    Args:
        split: train, val or test. scratch: an empty folder for logs and predictions, to be thrown away.
        options: dotted config overrides.

    Raises: what ``effdense test`` raises: ConfigError, DataError, WeightsError.
    """
    chosen = {**(options or {}), **_QUIET}
    out = scratch / "predictions"
    scores = engine.test(
        config, str(checkpoint), work_dir=str(scratch / "work"), split=split, out=str(out), options=chosen
    )
    cfg = load_config(config, chosen)
    cfg.data_check = {**(cfg.get("data_check") or {}), "enable": False}
    task = task_of(cfg)
    dataset = _dataset(cfg, split, str(checkpoint))
    class_map = dataset.records.class_map
    return SplitPredictions(
        task=task,
        classes=tuple(class_map.names),
        palette=class_map.palette,
        dataset=dataset,
        scores=scores,
        predictions=out if task == "segmentation" else json.loads(out.read_text(encoding="utf-8")),
        checkpoint_note=_note(checkpoint),
    )


def _dataset(cfg: Config, split: str, checkpoint: str) -> Any:
    """The data set that ``run.test`` scored."""
    if split == "train":
        cfg.train_dataloader["dataset"]["transforms"] = cfg.val_dataloader["dataset"]["transforms"]
    seed = int((cfg.get("randomness") or {}).get("seed") or 0)
    chosen = datasets.build_split(cfg, split, seed=seed, class_map=classes_trained(checkpoint, cfg))
    chosen.dataset.training = False
    return chosen.dataset


def _note(checkpoint: Path) -> str:
    content = read_checkpoint(checkpoint)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return checkpoint.name
    parts = [f"epoch {meta['epoch']}"] if "epoch" in meta else []
    parts += [f"written {meta['time']}"] if "time" in meta else []
    model = meta.get("model")
    parts += [str(model["name"])] if isinstance(model, Mapping) and "name" in model else []
    return f"{checkpoint.name} ({', '.join(parts)})" if parts else checkpoint.name
