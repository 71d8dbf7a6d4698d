"""Config files: load, override from the command line, and refuse what nothing would read.

A config is Python that runs when it is loaded: use configs you trust. mmengine merges unknown keys in silence; here
every key is checked against what will read it (the engine's sections, or the signature of the class that ``type=``
names), values as far as they can be judged before anything is built, and what is said twice against each other.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from effdense.engine import registry as reg
from effdense.engine.combined_datasets import nested
from effdense.engine.config_foreign import advice
from effdense.engine.config_kinds import check_sections
from effdense.engine.config_lines import Fault, place_of
from effdense.engine.config_links import check_links
from effdense.engine.config_options import OptionsAction, check_option_types, parse_option, replacing
from effdense.engine.config_source import check_source, explain
from effdense.engine.config_tables import (
    CUSTOM_KEYS,
    LISTS,
    SECTIONS,
    SPLITS,
    TYPED,
    top_level_keys,
)
from effdense.engine.config_typed import check_keys, check_typed, dicts
from effdense.engine.config_values import check_model, check_plain, check_words, lookup
from effdense.errors import ConfigError, did_you_mean

__all__ = ["OptionsAction", "check_config", "load_config", "parse_option", "top_level_keys"]


def load_config(path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Config:
    """Load a config file, merge dotted ``options`` (``--cfg-options``) and check every key.

    Names that start with an underscore are the file's own variables: they are dropped after loading and never checked.

    Raises: ConfigError for a missing file, Python errors in it, and any key, type, argument or word that nothing
        reads, with the file and, where it can be found, the line.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        near = did_you_mean(file.name, [p.name for p in file.parent.glob("*.py")]) if file.parent.is_dir() else ""
        raise ConfigError(f"no config file at {file.absolute()}.{near}")
    check_source(file)
    try:
        # lazy_import=False: in a virtual environment mmengine takes a file with `import math` for its lazy style and
        # fails.
        cfg = Config.fromfile(str(file), lazy_import=False, import_custom_modules=False)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(explain(file, error)) from error
    # mmengine leaves out imported modules and functions, but not classes such as pathlib.Path.
    for key in [key for key, value in cfg.items() if key.startswith("_") or isinstance(value, type)]:
        cfg.pop(key)
    if options:
        present = cfg.to_dict()
        check_option_types(present, options)
        try:
            cfg.merge_from_dict(replacing(present, options))
        except (KeyError, TypeError, AssertionError, IndexError, ValueError) as error:
            said = ", ".join(options)
            raise ConfigError(f"--cfg-options {said} cannot be merged into {file}: {error}") from error
    try:
        _import_modules(cfg.get("custom_imports"))
        _check(cfg.to_dict())
    except Fault as fault:
        given = next((key for key in options or () if f"{fault.where}.".startswith(f"{key}.")), None)
        place = f"{file} with --cfg-options {given}" if given else place_of(file, fault.where)
        raise ConfigError(f"{place}: {fault}") from fault.__cause__
    return cfg


def check_config(cfg: Config | Mapping[str, Any], source: str = "config") -> None:
    """Raise ConfigError at the first key, type name, argument or word that nothing would read, with the nearest right
    ones.
    """
    try:
        _check(cfg.to_dict() if isinstance(cfg, Config) else cfg)  # a Config reads like a mapping and is none
    except Fault as fault:
        raise ConfigError(f"{source}: {fault}") from fault.__cause__


def _import_modules(section: Any) -> None:
    """The config's ``custom_imports``: modules that register types of the user's own."""
    if section is None:
        return
    where = "custom_imports"
    names = section.get("imports") if isinstance(section, Mapping) else None
    if isinstance(section, Mapping):
        check_keys(section, {"imports", "allow_failed_imports"}, where)
    if not isinstance(names, (str, list, tuple)) or not all(isinstance(name, str) for name in names):
        raise Fault(where, f"{where} must be dict(imports=['my_package.my_module']), got {section!r}.")
    for name in [names] if isinstance(names, str) else names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            if section.get("allow_failed_imports"):
                continue
            raise Fault(
                f"{where}.imports",
                f"{where}: {name} cannot be imported ({error}). Its folder has to be on PYTHONPATH: "
                "PYTHONPATH=. effdense train ...",
            ) from error


def _check(cfg: Mapping[str, Any]) -> None:
    known = top_level_keys()
    for key in cfg:
        if key not in known:
            near = did_you_mean(str(key), {*known, "_base_"}) + advice(str(key))
            own = "" if advice(str(key)) else " (A variable of the file's own starts with an underscore.)"
            raise Fault(str(key), f"unknown key {key!r}.{near}{own}")
    if not isinstance(cfg.get("model"), Mapping):
        raise Fault("model", "the config has no 'model' section, dict(type=...).")
    check_plain(cfg)
    for path, allowed in SECTIONS.items():
        section = lookup(cfg, path)
        if isinstance(section, Mapping):
            check_keys(section, allowed, path)
        elif section is not None:
            raise Fault(path, f"{path} must be a dict of {', '.join(sorted(allowed)[:4])}, ...; got {section!r}.")
    custom = lookup(cfg, "optim_wrapper.paramwise_cfg.custom_keys")
    for name, options in custom.items() if isinstance(custom, Mapping) else ():
        if isinstance(options, Mapping):
            check_keys(options, CUSTOM_KEYS, f"optim_wrapper.paramwise_cfg.custom_keys.{name}")
    _check_values(cfg)
    check_sections(cfg)
    check_words(cfg)
    for path, (registry, default) in TYPED.items():
        for where, node in dicts(lookup(cfg, path), path, path in LISTS):
            check_typed(node, registry, default, where, path)
    for name, hook in (cfg.get("default_hooks") or {}).items():
        for where, node in dicts(hook, f"default_hooks.{name}"):
            check_typed(node, reg.HOOKS, None, where, "default_hooks")
    for split in SPLITS:
        dataset = lookup(cfg, f"{split}_dataloader.dataset")
        if isinstance(dataset, Mapping):
            for where, node in dicts(dataset.get("transforms"), f"{split}_dataloader.dataset.transforms", True):
                check_typed(node, reg.TRANSFORMS, None, where, "transforms")
            _check_nested(dataset, f"{split}_dataloader.dataset")
    check_model(cfg["model"])
    check_links(cfg)


def _check_nested(dataset: Mapping[str, Any], where: str) -> None:
    """Data sets inside that of a split: ``dataset`` of a mapped one, ``datasets`` of a concatenated one."""
    for place, node, more in nested(dataset, where):
        if not isinstance(node, Mapping):
            raise Fault(place, f"{place} must be a data set, dict(type=...), got {node!r}.")
        if node.get("transforms"):
            raise Fault(
                f"{place}.transforms",
                f"{place}.transforms: transforms belong to the outer data set; move them there.",
            )
        check_typed(node, reg.DATASETS, None, place, "datasets" if more else "dataset")


def _check_values(cfg: Mapping[str, Any]) -> None:
    """What has to be there and cannot have a default."""
    loop = cfg.get("train_cfg")
    if loop is not None and loop.get("by_epoch", True) is not True:
        raise Fault("train_cfg.by_epoch", "train_cfg.by_epoch must be True; schedules and intervals count epochs here.")
    if loop is not None and "max_epochs" not in loop:
        raise Fault("train_cfg", "train_cfg needs max_epochs.")
    for path in ("train_cfg.max_epochs", "train_cfg.val_interval", *(f"{s}_dataloader.batch_size" for s in SPLITS)):
        value = lookup(cfg, path)
        found = path == "train_dataloader.batch_size"
        if found and (value == "auto" or (type(value) is float and 0 < value < 1)):
            continue
        if value is not None and (type(value) is not int or value < 1):
            more = ', "auto" or a share of the memory between 0 and 1' if found else ""
            raise Fault(path, f"{path} must be a whole number of at least 1{more}, got {value!r}.")
    for split in SPLITS:
        _check_loader(cfg, f"{split}_dataloader")
    if isinstance(cfg.get("custom_hooks"), Mapping):
        raise Fault("custom_hooks", "custom_hooks must be a list of dict(type=...), got one dict; write [dict(...)].")
    sampler = lookup(cfg, "train_dataloader.sampler")
    if sampler is not None and not isinstance(sampler, Mapping):
        raise Fault(
            "train_dataloader.sampler",
            f"train_dataloader.sampler must be dict(type='RepeatFactor', ...), got {sampler!r}.",
        )
    scaling = cfg.get("auto_scale_lr") or {}
    if scaling.get("enable") and "base_batch_size" not in scaling:
        raise Fault("auto_scale_lr", "auto_scale_lr needs base_batch_size, the batch that the config's LR is for.")
    for split in ("val", "test"):
        if not isinstance(cfg.get(f"{split}_evaluator") or {}, Mapping):
            raise Fault(
                f"{split}_evaluator", f"{split}_evaluator must be one dict(type='CocoMetric', ...), not a list."
            )


def _check_loader(cfg: Mapping[str, Any], where: str) -> None:
    """Options of a loader, which torch would take as they are and stumble over later, if at all."""
    for key in ("persistent_workers", "pin_memory", "shuffle", "drop_last", "group_by_aspect"):
        value = lookup(cfg, f"{where}.{key}")
        if value is not None and not isinstance(value, bool):
            raise Fault(f"{where}.{key}", f"{where}.{key} must be True or False, got {value!r}.")
    for key, low in (("num_workers", 0), ("prefetch_factor", 1)):
        value = lookup(cfg, f"{where}.{key}")
        if value is not None and (type(value) is not int or value < low):
            raise Fault(f"{where}.{key}", f"{where}.{key} must be a whole number of at least {low}, got {value!r}.")
    seconds = lookup(cfg, f"{where}.timeout")
    if seconds is not None and (type(seconds) not in (int, float) or not 0 <= seconds < float("inf")):
        raise Fault(f"{where}.timeout", f"{where}.timeout must be a number of seconds, 0 for none, got {seconds!r}.")
    steps = lookup(cfg, f"{where}.dataset.transforms")
    if steps is not None and (
        not isinstance(steps, (list, tuple)) or not all(isinstance(step, Mapping) for step in steps)
    ):
        place = f"{where}.dataset.transforms"
        raise Fault(place, f"{place} must be a list, [dict(type=...), ...], got {steps!r}.")
