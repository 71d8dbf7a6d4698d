"""Config files: load, override from the command line, and refuse what nothing would read.

A config is Python that runs when it is loaded: use configs you trust. mmengine merges unknown keys in silence; here
every key is checked against what will read it (the engine's sections, or the signature of the class that ``type=``
names), values as far as they can be judged before anything is built, and what is said twice against each other.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from effdense.engine import registry as reg
from effdense.engine.combined_datasets import nested
from effdense.engine.config_lines import Fault, place_of
from effdense.engine.config_links import check_links
from effdense.engine.config_options import OptionsAction, check_option_types, parse_option
from effdense.engine.config_tables import (
    CUSTOM_KEYS,
    EXTRA,
    FILLED_IN,
    SECTIONS,
    SPLITS,
    SUPPLIED,
    TYPED,
    top_level_keys,
)
from effdense.engine.config_values import check_arguments, check_model, check_plain, check_words, lookup
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
    try:
        # lazy_import=False: in a virtual environment mmengine takes a file with `import math` for its lazy style and
        # fails.
        cfg = Config.fromfile(str(file), lazy_import=False)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{file}: the config cannot be loaded: {type(error).__name__}: {error}") from error
    # mmengine leaves out imported modules and functions, but not classes such as pathlib.Path.
    for key in [key for key, value in cfg.items() if key.startswith("_") or isinstance(value, type)]:
        cfg.pop(key)
    if options:
        check_option_types(cfg.to_dict(), options)
        try:
            cfg.merge_from_dict(dict(options))
        except (KeyError, TypeError, AssertionError, IndexError, ValueError) as error:
            raise ConfigError(f"--cfg-options {dict(options)} cannot be merged into {file}: {error}") from error
    try:
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


def _check(cfg: Mapping[str, Any]) -> None:
    known = top_level_keys()
    for key in cfg:
        if key not in known:
            raise Fault(
                str(key),
                f"unknown key {key!r}.{did_you_mean(str(key), known)} "
                "(A variable of the file's own starts with an underscore.)",
            )
    if not isinstance(cfg.get("model"), Mapping):
        raise Fault("model", "the config has no 'model' section, dict(type=...).")
    check_plain(cfg)
    for path, allowed in SECTIONS.items():
        section = lookup(cfg, path)
        if isinstance(section, Mapping):
            _check_keys(section, allowed, path)
        elif section is not None:
            raise Fault(path, f"{path} must be a dict of {', '.join(sorted(allowed)[:4])}, ...; got {section!r}.")
    for name, options in (lookup(cfg, "optim_wrapper.paramwise_cfg.custom_keys") or {}).items():
        if isinstance(options, Mapping):
            _check_keys(options, CUSTOM_KEYS, f"optim_wrapper.paramwise_cfg.custom_keys.{name}")
    _check_values(cfg)
    check_words(cfg)
    for path, (registry, default) in TYPED.items():
        for where, node in _dicts(lookup(cfg, path), path):
            _check_typed(node, registry, default, where, path)
    hooks = cfg.get("default_hooks") or {}
    for name, hook in hooks.items():
        if isinstance(hook, Mapping):
            _check_typed(hook, reg.HOOKS, None, f"default_hooks.{name}", "default_hooks")
    for split in SPLITS:
        dataset = lookup(cfg, f"{split}_dataloader.dataset")
        if isinstance(dataset, Mapping):
            for where, node in _dicts(dataset.get("transforms"), f"{split}_dataloader.dataset.transforms"):
                _check_typed(node, reg.TRANSFORMS, None, where, "transforms")
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
        _check_typed(node, reg.DATASETS, None, place, "datasets" if more else "dataset")


def _check_values(cfg: Mapping[str, Any]) -> None:
    """What has to be there and cannot have a default."""
    loop = cfg.get("train_cfg")
    if loop is not None and loop.get("by_epoch", True) is not True:
        raise Fault("train_cfg.by_epoch", "train_cfg.by_epoch must be True; schedules and intervals count epochs here.")
    if loop is not None and "max_epochs" not in loop:
        raise Fault("train_cfg", "train_cfg needs max_epochs.")
    for path in ("train_cfg.max_epochs", "train_cfg.val_interval", *(f"{s}_dataloader.batch_size" for s in SPLITS)):
        value = lookup(cfg, path)
        if value is not None and (type(value) is not int or value < 1):
            raise Fault(path, f"{path} must be a whole number of at least 1, got {value!r}.")
    for split in SPLITS:
        _check_loader(cfg, f"{split}_dataloader")
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


def _check_typed(node: Mapping[str, Any], registry: Registry, default: str | None, where: str, section: str) -> None:
    type_name = node.get("type", default)
    if type_name is None:
        misspelt = [key for key in node if "'type'" in did_you_mean(str(key), {"type"})]
        known = ", ".join(sorted(reg.known_names(registry))[:12])
        raise Fault(
            f"{where}.{misspelt[0]}" if misspelt else where,
            f"{where} needs a 'type'; one of {known}."
            + (f" Unknown key {where}.{misspelt[0]}. Did you mean 'type'?" if misspelt else ""),
        )
    try:
        target = reg.resolve(registry, type_name, where)
    except ConfigError as error:
        raise Fault(f"{where}.type", str(error)) from None
    allowed = _arguments(target)
    if allowed is not None:
        _check_keys(node, allowed | {"type"} | EXTRA.get(section, frozenset()), where)
    lacking = [name for name in _required(target) if name not in node]
    if lacking:
        raise Fault(where, f"{where} ({type_name}) needs {', '.join(lacking)}.")
    check_arguments({"type": type_name, **node}, target, where)


def _required(target: Any) -> list[str]:
    """Names of the arguments that have no default and that only the config can give."""
    parameters = inspect.signature(target).parameters.values()
    free = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in free if p.name not in SUPPLIED | FILLED_IN]


def _arguments(target: Any) -> frozenset[str] | None:
    """Names of the keyword arguments a class or function takes, None if it takes any.

    A target that passes ``**options`` on says which in a ``config_arguments()`` static method.
    """
    if hasattr(target, "config_arguments"):
        return frozenset(target.config_arguments())
    names: set[str] = set()
    classes = target.__mro__ if inspect.isclass(target) else (target,)
    for cls in classes:
        function = cls.__dict__.get("__init__") if inspect.isclass(cls) else cls
        if function is None or cls is object:
            continue
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD or p.kind is p.VAR_POSITIONAL for p in parameters):
            return frozenset(names - SUPPLIED)
    return None


def _check_keys(section: Mapping[str, Any], allowed: frozenset[str] | set[str], where: str) -> None:
    for key in section:
        if key not in allowed:
            raise Fault(
                f"{where}.{key}",
                f"unknown key {where}.{key}.{did_you_mean(str(key), allowed)} "
                f"Known here: {', '.join(sorted(allowed - {'self'}))}.",
            )


def _dicts(node: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The dict itself, or every dict of a list, with its dotted path."""
    if isinstance(node, Mapping):
        yield where, node
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for i, item in enumerate(node):
            if isinstance(item, Mapping):
                yield f"{where}.{i}", item
