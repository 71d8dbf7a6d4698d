"""Values of a config that can be judged before anything is built: words of a list, numbers, what a file can hold."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin

from effdense.data.storage.picture_cache import CacheOptions
from effdense.engine.compiled import CompileOptions
from effdense.engine.config_kinds import check_kind, hints_of
from effdense.engine.config_lines import Fault
from effdense.engine.config_tables import OPTIONS, SPLITS, WORDS
from effdense.engine.models.shell import Normalize, split_options
from effdense.engine.registry import MODELS, resolve
from effdense.errors import ConfigError, did_you_mean
from effdense.models.activation_checkpointing import check_where
from effdense.models.classification.classifier import create_classifier
from effdense.models.detection.families import EfficientDetConfig, detector_config
from effdense.models.encoders.families import encoder_config
from effdense.models.segmentation.families import SegmentorConfig, segmentor_config
from effdense.models.segmentation.inference import InferenceOptions

_FAMILIES: dict[str, tuple[Any, Any]] = {
    "detection": (EfficientDetConfig, detector_config),
    "segmentation": (SegmentorConfig, segmentor_config),
}


def lookup(cfg: Any, path: str) -> Any:
    """What a dotted path leads to, through dicts and lists; None where it leads to nothing."""
    node = cfg
    for part in path.split("."):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def check_plain(node: Any, where: str = "") -> None:
    """Raise Fault for a value that the written config, which is Python text, could not give back."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not isinstance(key, str):
                raise Fault(where, f"{where} has the key {key!r}; keys of a config must be text.")
            check_plain(value, f"{where}.{key}" if where else key)
    elif type(node) in (list, tuple):
        for i, value in enumerate(node):
            check_plain(value, f"{where}.{i}")
    elif isinstance(node, float) and not math.isfinite(node):
        raise Fault(where, f"{where} is {node}, which a config file cannot say; use None or a large number.")
    elif type(node) not in (type(None), bool, int, float, str):
        advice = "str(...)" if hasattr(node, "__fspath__") else "its name as text" if callable(node) else "a number"
        raise Fault(
            where,
            f"{where} is a {type(node).__name__}, {node!r}; a config holds numbers, text, True, False, None, lists and "
            f"dicts, so that it can be written down and read again. Write {advice}.",
        )


def check_words(cfg: Mapping[str, Any]) -> None:
    """Options outside typed sections that take one of a few words."""
    for path, words in WORDS.items():
        value = lookup(cfg, path)
        if value is not None:
            _one_of(value, words, path, path)
    for split in SPLITS:
        where = f"{split}_dataloader.cache"
        cache = lookup(cfg, where)
        if cache is None:
            continue
        for key in cache if isinstance(cache, Mapping) else ():
            known = [field.name for field in fields(CacheOptions)]
            if key not in known:
                near = did_you_mean(str(key), known)
                raise Fault(f"{where}.{key}", f"unknown key {where}.{key}.{near} Known here: {', '.join(known)}.")
        kind = cache.get("type") if isinstance(cache, Mapping) else cache
        if isinstance(kind, str):
            _one_of(kind, ("ram", "disk"), where, where, "type" if isinstance(cache, Mapping) else "")
        with_where(where, lambda cache=cache, where=where: CacheOptions.of(cache, where))


def check_arguments(node: Mapping[str, Any], target: Any, where: str) -> None:
    """Values of a typed dict against the annotations of what it names: words of a ``Literal``, and their kind."""
    name = node.get("type")
    name = name.removeprefix("effdense.") if isinstance(name, str) else getattr(target, "__name__", str(target))
    hints = hints_of(target)
    for key, value in node.items():
        words = OPTIONS.get((name, key)) or _literals(hints.get(key))
        if words:
            _one_of(value, words, f"{where}.{key}", f"{name}.{key}")
        elif key in hints and not (key == "image_size" and hasattr(target, "task")):  # one side may stand for both
            check_kind(value, hints[key], f"{where}.{key}", f"{name}.{key}")


def check_model(model: Mapping[str, Any]) -> None:
    """Name and options of a model of ours, without building it."""
    target = resolve(MODELS, model.get("type"), "model")
    task = getattr(target, "task", None)
    if task is None or not isinstance(model.get("name"), str):
        return
    options = split_options({key: value for key, value in model.items() if key not in ("type", "inference")})[1]
    if task == "classification":
        with_where("model.name", lambda: encoder_config(model["name"]))
        check_arguments({"type": target.__name__, **options}, create_classifier, "model")
    elif task in _FAMILIES:
        row, find = _FAMILIES[task]
        sized = {key: value for key, value in options.items() if key != "image_size"}
        check_arguments({"type": target.__name__, **sized}, row, "model")
        base = with_where("model.name", lambda: find(model["name"]))
        with_where("model", lambda: base.override(**options), "model: ")
    if task == "segmentation":
        look = model.get("inference")
        with_where("model.inference", lambda: InferenceOptions.of(look), "model.")
    where = with_where(
        "model.activation_checkpointing", lambda: check_where(model.get("activation_checkpointing", False))
    )
    compiling = with_where("model.compile", lambda: CompileOptions.of(model.get("compile")))
    with_where("model.compile.backend", lambda: compiling and compiling.check(checkpointed=bool(where)))
    extras: dict[str, Any] = {key: model.get(key) for key in ("photometric", "multi_scale")}
    if any(value is not None for value in extras.values()):
        with_where("model", lambda: Normalize((0.5,) * 3, (0.5,) * 3, **extras))


def with_where(where: str, check: Any, prefix: str = "") -> Any:
    """What ``check()`` returns; its ConfigError, or stumble over a value, becomes the Fault of a place."""
    try:
        return check()
    except Fault:
        raise
    except ConfigError as error:
        raise Fault(where, f"{prefix}{error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise Fault(where, f"{where} cannot be used as written: {error}.") from error


def _one_of(value: Any, words: Sequence[Any], where: str, name: str, inner: str = "") -> None:
    """Raise Fault unless the value is one of the words, with the nearest."""
    if any(value == word and type(value) is type(word) for word in words):
        return
    near = did_you_mean(str(value), [word for word in words if isinstance(word, str)])
    said = name if where == name else f"{where}: {name}"
    shown = ", ".join(repr(word) for word in words)
    raise Fault(f"{where}.{inner}".rstrip("."), f"{said} must be one of {shown}; got {value!r}.{near}")


def _members(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _members(member)
    elif hint is not None:
        yield hint


def _literals(hint: Any) -> tuple[Any, ...]:
    """The words of ``Literal[...]`` or ``Literal[...] | None``; empty where anything else is possible, too."""
    words: list[Any] = []
    for member in _members(hint):
        if get_origin(member) is Literal:
            words.extend(get_args(member))
        elif member is type(None):
            words.append(None)
        else:
            return ()
    return tuple(words) if any(word is not None for word in words) else ()
