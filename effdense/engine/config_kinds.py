"""Kinds of values: what an annotation, or the tables of sections without a class, would take from a config."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import os
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mmengine.runner.priority import Priority
from torch import Tensor

from effdense.engine.config_lines import Fault
from effdense.errors import did_you_mean

_SEQUENCES = (list, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value of a config may stand where ``hint`` is annotated.

    Whole numbers are numbers, True and False are not; a list may stand for a tuple, text for a path. What a config
    cannot hold (a callable, an object) counts as anything: only whoever reads it knows.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, member) for member in inner if member is not Tensor) or set(inner) == {Tensor}
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in inner)
    base = origin or hint
    if base is None or base is type(None):
        return value is None
    if base is bool:
        return isinstance(value, bool)
    if base in (int, float):
        return isinstance(value, (int, float) if base is float else int) and not isinstance(value, bool)
    if base is str or base is os.PathLike:
        return isinstance(value, str)
    if base is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(fits(item, inner[0]) for item in value)
        return not inner or (
            len(inner) == len(value) and all(fits(item, one) for item, one in zip(value, inner, strict=True))
        )
    if base in _SEQUENCES:
        return isinstance(value, (list, tuple)) and all(fits(item, inner[0]) for item in value if inner)
    if base in _DICTS:
        return isinstance(value, Mapping) and all(fits(item, inner[1]) for item in value.values() if len(inner) == 2)
    return True


def in_words(hint: Any) -> str:
    """``a whole number, or (a number, a number)``, for messages."""
    return " or ".join(dict.fromkeys(_said(hint)))


def _said(hint: Any) -> Iterator[str]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        numbers = float in inner
        for member in inner:
            if member is not Tensor and not (member is int and numbers):
                yield from _said(member)
    elif origin is Literal:
        yield from map(repr, inner)
    elif hint in _WORDS:
        yield _WORDS[hint]
    elif hint is None:
        yield "None"
    elif (origin or hint) is tuple and inner and inner[-1] is not Ellipsis:
        yield f"({', '.join(in_words(one) for one in inner)})"
    elif (origin or hint) is tuple or (origin or hint) in _SEQUENCES:
        yield f"a list, of {in_words(inner[0])} each" if inner else "a list"
    elif (origin or hint) in _DICTS:
        yield "a dict"
    elif (origin or hint) is os.PathLike:
        yield "text"


def check_kind(value: Any, hint: Any, where: str, name: str) -> None:
    """Raise Fault where ``value`` is of another kind than ``hint``; ``name`` is what the message calls it."""
    if fits(value, hint):
        return
    said = f"{where}: {name}" if name != where else where
    more = ""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and fits("", hint):
        more = f"; write it in quotes (behind --cfg-options {where}=\"'{value}'\")"
    raise Fault(where, f"{said} must be {in_words(hint)}, got {value!r}{more}.")


@functools.cache
def hints_of(target: Any) -> dict[str, Any]:
    """Annotations of the arguments of a class or function, nearest class first; without those that cannot be read.
    None fits where it is the default, whatever the annotation says.
    """
    classes = target.__mro__ if inspect.isclass(target) else (target,)
    found: dict[str, Any] = {}
    for cls in classes:
        function = cls.__dict__.get("__init__") if inspect.isclass(cls) else cls
        if function is None or cls is object:
            continue
        try:
            hints = get_type_hints(function)
            parameters = inspect.signature(function).parameters
        except (NameError, TypeError, AttributeError, ValueError):
            continue
        for name, hint in hints.items():
            silent = name in parameters and parameters[name].default is None
            found.setdefault(name, hint | None if silent and hint is not Any and _joins(hint) else hint)
    return found


def _joins(hint: Any) -> bool:
    try:
        return bool(hint | None)
    except TypeError:
        return False


def check_priority(node: Mapping[str, Any], where: str) -> None:
    """The place of a hook among the others: a word of mmengine's or a number from 0 to 100."""
    value = node.get("priority")
    words = list(Priority.__members__)
    if value is None or (isinstance(value, str) and value.upper() in words):
        return
    if type(value) is int and 0 <= value <= 100:
        return
    near = did_you_mean(str(value).upper(), words)
    raise Fault(
        f"{where}.priority", f"{where}.priority must be one of {', '.join(words)} or 0 to 100; got {value!r}.{near}"
    )


# -- sections that no class describes ----------------------------------------------------------------------------------

_SIZE = int | tuple[int, int]
_RATE = float | None
KINDS: dict[str, Any] = {
    "image_size": _SIZE | None,
    "work_dir": str | None,
    "load_from": str | None,
    "resume": bool | str | None,
    "experiment_name": str | None,
    "sync_bn": bool | None,
    "find_unused_parameters": bool | None,
    "train_cfg.val_begin": int,
    "train_cfg.dynamic_intervals": collections.abc.Sequence[tuple[int, int]] | None,
    "auto_scale_lr.base_batch_size": int,
    "auto_scale_lr.enable": bool,
    "env_cfg.cudnn_benchmark": bool,
    "env_cfg.resource_limit": int,
    "env_cfg.mp_cfg.opencv_num_threads": int,
    "env_cfg.dist_cfg.timeout": float,
    "randomness.seed": int | None,
    "randomness.deterministic": bool | Literal["warn"] | None,
    "data_check.enable": bool,
    "data_check.decode": int | Literal["all"] | None,
    "data_check.files": int | Literal["all"] | None,
    "optim_wrapper.clip_grad.max_norm": float,
    "optim_wrapper.clip_grad.clip_factor": float,
    "optim_wrapper.clip_grad.eps": float,
    "optim_wrapper.clip_grad.exclude": list[str] | None,
    "optim_wrapper.clip_grad.norm_type": float,
    "optim_wrapper.clip_grad.clip_value": float,
    "optim_wrapper.clip_grad.error_if_nonfinite": bool,
    "optim_wrapper.clip_grad.foreach": bool | None,
    "optim_wrapper.paramwise_cfg.custom_keys": Mapping[str, Mapping[str, float]] | None,
    "optim_wrapper.paramwise_cfg.bypass_duplicate": bool,
    **{
        f"optim_wrapper.paramwise_cfg.{name}": _RATE
        for name in (
            *("bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "flat_decay_mult", "dwconv_decay_mult"),
            *("dcn_offset_lr_mult", "encoder_lr_mult", "layer_decay"),
        )
    },
}
# The least that each may be.
LEAST: dict[str, float] = {
    "train_cfg.val_begin": 1,
    "auto_scale_lr.base_batch_size": 1,
    "randomness.seed": 0,
    "data_check.decode": 0,
    "data_check.files": 0,
    "env_cfg.dist_cfg.timeout": 1,
    "image_size": 1,
}


def check_sections(cfg: Mapping[str, Any], paths: Iterable[str] = KINDS) -> None:
    """Values of the keys that no class describes."""
    for path in paths:
        *route, key = path.split(".")
        node: Any = cfg
        for part in route:
            node = node.get(part) if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping) or key not in node:
            continue
        value = node[key]
        check_kind(value, KINDS[path], path, path)
        sides = value if isinstance(value, (list, tuple)) else [value]
        if path in LEAST and any(isinstance(side, (int, float)) and side < LEAST[path] for side in sides):
            raise Fault(path, f"{path} must be at least {LEAST[path]}, got {value!r}.")
