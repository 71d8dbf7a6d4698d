"""Config files: load, override from the command line, and refuse what nothing would read.

A config is Python that runs when it is loaded: use configs you trust. mmengine merges unknown keys in silence; here
every key is checked against what will read it (the engine's sections, or the signature of the class that ``type=``
names).
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from effdense.engine import registry as reg
from effdense.engine.combined_datasets import PART_KEYS, nested
from effdense.errors import ConfigError, did_you_mean

_DATALOADER_KEYS = frozenset(
    {
        "batch_size",
        "num_workers",
        "persistent_workers",
        "pin_memory",
        "prefetch_factor",
        "drop_last",
        "timeout",
        "shuffle",
        "sampler",
        "group_by_aspect",
        "cache",
        "dataset",
    }
)
_TRAINING_ONLY = frozenset({"shuffle", "drop_last", "sampler"})  # others: every sample once, in order
# Keys of sections that no `type=` describes.
_SPLITS = ("train", "val", "test")
_SECTIONS: dict[str, frozenset[str]] = {
    "train_dataloader": _DATALOADER_KEYS,
    "val_dataloader": _DATALOADER_KEYS - _TRAINING_ONLY,
    "test_dataloader": _DATALOADER_KEYS - _TRAINING_ONLY,
    "train_cfg": frozenset({"by_epoch", "max_epochs", "val_begin", "val_interval", "dynamic_intervals"}),
    "val_cfg": frozenset(),
    "test_cfg": frozenset(),
    "auto_scale_lr": frozenset({"base_batch_size", "enable"}),
    "env_cfg": frozenset({"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"}),
    "env_cfg.mp_cfg": frozenset({"mp_start_method", "opencv_num_threads"}),
    "env_cfg.dist_cfg": frozenset({"backend", "timeout"}),
    "randomness": frozenset({"seed", "deterministic"}),
    "data_check": frozenset({"enable", "decode", "files"}),
    "optim_wrapper.clip_grad": frozenset(
        {"type", "max_norm", "norm_type", "clip_value", "error_if_nonfinite", "foreach"}
    ),
    "optim_wrapper.paramwise_cfg": frozenset(
        {
            "custom_keys",
            "bias_lr_mult",
            "bias_decay_mult",
            "norm_decay_mult",
            "flat_decay_mult",
            "dwconv_decay_mult",
            "dcn_offset_lr_mult",
            "bypass_duplicate",
            "encoder_lr_mult",
            "layer_decay",
        }
    ),
    "default_hooks": frozenset(
        {
            "runtime_info",
            "timer",
            "sampler_seed",
            "logger",
            "param_scheduler",
            "checkpoint",
            "ema",
            "precise_bn",
            "sync_buffers",
            "pictures",
            "early_stopping",
            "progressive",
            "transform_stages",
        }
    ),
}
_SCALARS = frozenset(
    {
        "image_size",
        "classes",
        "work_dir",
        "default_scope",
        "load_from",
        "resume",
        "launcher",
        "log_level",
        "experiment_name",
        "sync_bn",
        "find_unused_parameters",
        "custom_imports",
    }
)
# Sections whose dicts carry `type=`; the registry that resolves it and, where mmengine has one, the default type.
_TYPED: dict[str, tuple[Registry, str | None]] = {
    "model": (reg.MODELS, None),
    "train_dataloader.dataset": (reg.DATASETS, None),
    "val_dataloader.dataset": (reg.DATASETS, None),
    "test_dataloader.dataset": (reg.DATASETS, None),
    "train_dataloader.sampler": (reg.SAMPLERS, None),
    "optim_wrapper": (reg.OPTIM_WRAPPERS, "EffOptimWrapper"),
    "optim_wrapper.optimizer": (reg.OPTIMIZERS, None),
    "param_scheduler": (reg.PARAM_SCHEDULERS, None),
    "val_evaluator": (reg.METRICS, None),
    "test_evaluator": (reg.METRICS, None),
    "custom_hooks": (reg.HOOKS, None),
    "log_processor": (reg.LOG_PROCESSORS, "LogProcessor"),
    "visualizer": (reg.VISUALIZERS, None),
    "visualizer.vis_backends": (reg.VISBACKENDS, None),
}
# Arguments that the engine supplies itself, and those that it fills in where the config does not say them.
_SUPPLIED = frozenset({"self", "optimizer", "params", "runner", "args", "kwargs", "cfg"})
_FILLED_IN = frozenset({"num_classes", "image_size", "size", "end", "save_dir"})
# Keys that are read beside the constructor's own, by the engine or by mmengine's builders.
_EXTRA: dict[str, frozenset[str]] = {
    "optim_wrapper": frozenset({"optimizer", "paramwise_cfg", "constructor", "clip_grad"}),
    "param_scheduler": frozenset({"convert_to_iter_based"}),
    "datasets": PART_KEYS,
    "custom_hooks": frozenset({"priority"}),
    "default_hooks": frozenset({"priority"}),
}


def top_level_keys() -> frozenset[str]:
    """Every top-level key that something reads."""
    names = set(_SCALARS)
    names |= {key.split(".")[0] for key in (*_SECTIONS, *_TYPED)}
    return frozenset(names)


def load_config(path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Config:
    """Load a config file, merge dotted ``options`` (``--cfg-options``) and check every key.

    Names that start with an underscore are the file's own variables: they are dropped after loading and never checked.

    Raises: ConfigError for a missing file, Python errors in it, and any key, type or argument that nothing reads.
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
        _check_option_types(cfg.to_dict(), options)
        try:
            cfg.merge_from_dict(dict(options))
        except (KeyError, TypeError, AssertionError, IndexError, ValueError) as error:
            raise ConfigError(f"--cfg-options {dict(options)} cannot be merged into {file}: {error}") from error
    check_config(cfg, str(file))
    return cfg


def check_config(cfg: Config | Mapping[str, Any], source: str = "config") -> None:
    """Raise ConfigError at the first key, type name or argument that nothing would read, with the nearest right
    ones.
    """
    if isinstance(cfg, Config):  # reads like a mapping and is none
        cfg = cfg.to_dict()
    known = top_level_keys()
    for key in cfg:
        if key not in known:
            raise ConfigError(
                f"{source}: unknown key {key!r}.{did_you_mean(key, known)} "
                "(A variable of the file's own starts with an underscore.)"
            )
    if "model" not in cfg:
        raise ConfigError(f"{source}: the config has no 'model' section.")
    for path, allowed in _SECTIONS.items():
        section = _lookup(cfg, path)
        if isinstance(section, Mapping):
            _check_keys(section, allowed, path, source)
    _check_values(cfg, source)
    for path, (registry, default) in _TYPED.items():
        for where, node in _dicts(_lookup(cfg, path), path):
            _check_typed(node, registry, default, where, path, source)
    hooks = cfg.get("default_hooks") or {}
    for name, hook in hooks.items():
        if isinstance(hook, Mapping):
            _check_typed(hook, reg.HOOKS, None, f"default_hooks.{name}", "default_hooks", source)
    for split in _SPLITS:
        dataset = _lookup(cfg, f"{split}_dataloader.dataset")
        if isinstance(dataset, Mapping):
            for where, node in _dicts(dataset.get("transforms"), f"{split}_dataloader.dataset.transforms"):
                _check_typed(node, reg.TRANSFORMS, None, where, "transforms", source)
            _check_nested(dataset, f"{split}_dataloader.dataset", source)


def _check_nested(dataset: Mapping[str, Any], where: str, source: str) -> None:
    """Data sets inside that of a split: ``dataset`` of a mapped one, ``datasets`` of a concatenated one."""
    for place, node, more in nested(dataset, where):
        if not isinstance(node, Mapping):
            raise ConfigError(f"{source}: {place} must be a data set, dict(type=...), got {node!r}.")
        if node.get("transforms"):
            raise ConfigError(
                f"{source}: {place}.transforms: transforms belong to the outer data set; move them there."
            )
        _check_typed(node, reg.DATASETS, None, place, "datasets" if more else "dataset", source)


def _check_values(cfg: Mapping[str, Any], source: str) -> None:
    """What has to be there and cannot have a default."""
    loop = cfg.get("train_cfg")
    if loop is not None and loop.get("by_epoch", True) is not True:
        raise ConfigError(f"{source}: train_cfg.by_epoch must be True; schedules and intervals count epochs here.")
    if loop is not None and "max_epochs" not in loop:
        raise ConfigError(f"{source}: train_cfg needs max_epochs.")
    for path in ("train_cfg.max_epochs", "train_cfg.val_interval", *(f"{s}_dataloader.batch_size" for s in _SPLITS)):
        value = _lookup(cfg, path)
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{source}: {path} must be a whole number of at least 1, got {value!r}.")
    for split in _SPLITS:
        _check_loader(cfg, f"{split}_dataloader", source)
    sampler = _lookup(cfg, "train_dataloader.sampler")
    if sampler is not None and not isinstance(sampler, Mapping):
        raise ConfigError(
            f"{source}: train_dataloader.sampler must be dict(type='RepeatFactor', ...), got {sampler!r}."
        )
    scaling = cfg.get("auto_scale_lr") or {}
    if scaling.get("enable") and "base_batch_size" not in scaling:
        raise ConfigError(f"{source}: auto_scale_lr needs base_batch_size, the batch that the config's LR is for.")
    for split in ("val", "test"):
        if not isinstance(cfg.get(f"{split}_evaluator") or {}, Mapping):
            raise ConfigError(f"{source}: {split}_evaluator must be one dict(type='CocoMetric', ...), not a list.")


def _check_loader(cfg: Mapping[str, Any], where: str, source: str) -> None:
    """Options of a loader, which torch would take as they are and stumble over later, if at all."""
    for key in ("persistent_workers", "pin_memory", "shuffle", "drop_last", "group_by_aspect"):
        value = _lookup(cfg, f"{where}.{key}")
        if value is not None and not isinstance(value, bool):
            raise ConfigError(f"{source}: {where}.{key} must be True or False, got {value!r}.")
    for key, low in (("num_workers", 0), ("prefetch_factor", 1)):
        value = _lookup(cfg, f"{where}.{key}")
        if value is not None and (type(value) is not int or value < low):
            raise ConfigError(f"{source}: {where}.{key} must be a whole number of at least {low}, got {value!r}.")
    seconds = _lookup(cfg, f"{where}.timeout")
    if seconds is not None and (type(seconds) not in (int, float) or not 0 <= seconds < float("inf")):
        raise ConfigError(f"{source}: {where}.timeout must be a number of seconds, 0 for none, got {seconds!r}.")
    steps = _lookup(cfg, f"{where}.dataset.transforms")
    if steps is not None and (
        not isinstance(steps, (list, tuple)) or not all(isinstance(step, Mapping) for step in steps)
    ):
        raise ConfigError(f"{source}: {where}.dataset.transforms must be a list, [dict(type=...), ...], got {steps!r}.")


def _check_typed(
    node: Mapping[str, Any], registry: Registry, default: str | None, where: str, section: str, source: str
) -> None:
    type_name = node.get("type", default)
    if type_name is None:
        raise ConfigError(
            f"{source}: {where} needs a 'type'; one of {', '.join(sorted(reg.known_names(registry))[:12])}."
        )
    try:
        target = reg.resolve(registry, type_name, where)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    allowed = _arguments(target)
    if allowed is not None:
        _check_keys(node, allowed | {"type"} | _EXTRA.get(section, frozenset()), where, source)
    lacking = [name for name in _required(target) if name not in node]
    if lacking:
        raise ConfigError(f"{source}: {where} ({type_name}) needs {', '.join(lacking)}.")


def _required(target: Any) -> list[str]:
    """Names of the arguments that have no default and that only the config can give."""
    parameters = inspect.signature(target).parameters.values()
    free = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in free if p.name not in _SUPPLIED | _FILLED_IN]


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
            return frozenset(names - _SUPPLIED)
    return None


def _check_keys(section: Mapping[str, Any], allowed: frozenset[str] | set[str], where: str, source: str) -> None:
    for key in section:
        if key not in allowed:
            raise ConfigError(
                f"{source}: unknown key {where}.{key}.{did_you_mean(str(key), allowed)} "
                f"Known here: {', '.join(sorted(allowed - {'self'}))}."
            )


def _lookup(cfg: Mapping[str, Any], path: str) -> Any:
    node: Any = cfg
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _dicts(node: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The dict itself, or every dict of a list, with its dotted path."""
    if isinstance(node, Mapping):
        yield where, node
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for i, item in enumerate(node):
            if isinstance(item, Mapping):
                yield f"{where}.{i}", item


def _check_option_types(cfg: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """A number or switch in the config must not be replaced by text: that is a typing slip, found here and not in
    epoch 3.
    """
    for path, value in options.items():
        current = _lookup_indexed(cfg, path)
        if isinstance(current, bool) and not isinstance(value, bool):
            raise ConfigError(f"--cfg-options {path}: expected True or False, got {value!r}.")
        if (
            isinstance(current, (int, float))
            and not isinstance(current, bool)
            and value is not None
            and not isinstance(value, (int, float, list, tuple, dict))
        ):
            raise ConfigError(f"--cfg-options {path}: expected a number like {current!r}, got {value!r}.")


def _lookup_indexed(cfg: Any, path: str) -> Any:
    node = cfg
    for part in path.split("."):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def parse_option(text: str) -> tuple[str, Any]:
    """``a.b=VALUE`` -> (path, value). VALUE is a Python literal (``1e-3``, ``True``, ``(384, 640)``, ``[dict...]``),
    mmengine's bare list ``a,b``, or else text.

    Raises: ConfigError without an ``=`` or a name before it.
    """
    key, sep, raw = text.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"--cfg-options takes key=value pairs such as train_cfg.max_epochs=10, got {text!r}.")
    return key.strip(), _literal(raw.strip())


def _literal(raw: str) -> Any:
    if raw.lower() in ("true", "false"):
        return raw.lower() == "true"
    if raw.lower() == "none":
        return None
    try:
        return ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        if "," in raw and not raw.startswith(("[", "(", "{")):
            return [_literal(item.strip()) for item in raw.split(",") if item.strip()]
        return raw


class OptionsAction(argparse.Action):
    """argparse action for ``--cfg-options A=1 B.c=2``; repeatable."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for text in values:
            try:
                key, value = parse_option(text)
            except ConfigError as error:
                parser.error(str(error))
            options[key] = value
        setattr(namespace, self.dest, options)
