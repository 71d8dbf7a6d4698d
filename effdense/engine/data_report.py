"""A config's splits for the whole check: the readers and classes of training, but bad data raise nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effdense.data.checks.dataset_check import SplitToCheck
from effdense.data.checks.source_check import unreadable
from effdense.data.records import ClassMap
from effdense.engine import datasets as datasets  # registers all data sets
from effdense.engine.combined_datasets import following, is_combined
from effdense.engine.config import load_config
from effdense.engine.models.shell import size_hw
from effdense.engine.registry import DATASETS, resolve
from effdense.errors import ConfigError, DataError, did_you_mean

SPLITS = ("train", "val", "test")


class ConfigSplits(NamedTuple):
    """What a config says about its data: splits as read, and (height, width) of the model's input."""

    splits: list[SplitToCheck]
    image_size: tuple[int, int] | None
    complete: bool


def read_config_splits(
    config: str | os.PathLike[str], names: Sequence[str] | None = None, options: Mapping[str, Any] | None = None
) -> ConfigSplits:
    """Read the splits of a config; a section that repeats an earlier one's data is left out.

    Args:
        names: which of train, val, test; None: all that the config has.
        options: dotted config overrides.

    Raises: ConfigError for an unusable config or a split that it does not have.
    """
    cfg = load_config(config, options)
    sections = {name: cfg.get(f"{name}_dataloader") for name in SPLITS if cfg.get(f"{name}_dataloader")}
    unknown = [name for name in names or () if name not in sections]
    if unknown:
        raise ConfigError(
            f"{Path(config)}: the config has no {unknown[0]}_dataloader; it has {', '.join(sections) or 'none'}."
            f"{did_you_mean(unknown[0], sections)}"
        )
    read: list[SplitToCheck] = []
    seen: list[dict[str, Any]] = []
    left_out = 0
    for name, section in sections.items():
        data = {key: value for key, value in dict(section.get("dataset") or {}).items() if key != "transforms"}
        if data in seen:
            continue
        seen.append(data)
        if names is None or name in names:
            train = (cfg.get("train_dataloader") or {}).get("dataset")
            follows = name != "train" and is_combined(train) and bool(read) and read[0].name == "train"
            trained = read[0].records.class_map if follows and read[0].records is not None else None
            read.append(_read(name, following(data, train) if follows else data, cfg.get("classes"), trained))
        else:
            left_out += 1
    size = cfg.get("image_size")
    return ConfigSplits(read, None if size is None else size_hw(size), not left_out)


def _read(name: str, data: dict[str, Any], classes: Any, class_map: ClassMap | None = None) -> SplitToCheck:
    where = f"{name}_dataloader.dataset"
    options = dict(data)
    reader = resolve(DATASETS, options.pop("type"), where)
    options.setdefault("classes", classes)
    try:
        records, report = reader(**options, class_map=class_map, training=name == "train")
    except DataError as error:
        return SplitToCheck(name, None, unreadable(where, where, error))
    return SplitToCheck(name, records, report)
