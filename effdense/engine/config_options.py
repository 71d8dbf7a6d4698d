"""``--cfg-options KEY=VALUE``: text to typed values, and typed values against what the config holds."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping
from typing import Any

from effdense.errors import ConfigError

# Where the type may change: one side or (height, width), a path or a switch, a word or a number or options.
_EITHER = frozenset(
    {"image_size", "size", "window", "stride", "resume", "cache", "decode", "files", "frozen_stages", "sampler"}
)

# Words in place of a number or a switch.
_WORD_INSTEAD = {"train_dataloader.batch_size": "auto", "randomness.deterministic": "warn"}


def parse_option(text: str) -> tuple[str, Any]:
    """``a.b=VALUE`` -> (path, value). VALUE is a Python literal (``1e-3``, ``True``, ``(384, 640)``, ``[{...}]``),
    mmengine's bare list ``a,b``, or else text: ``001`` stays what it is.

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


def check_option_types(cfg: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value of another kind than the one it would replace: a typing slip, found here and not
    in epoch 3. None is always a value; numbers may become others.
    """
    for path, value in options.items():
        current, known = _walk(cfg, path)
        if not known or current is None or value is None or value == _WORD_INSTEAD.get(path):
            continue
        key = path.split(".")[-1]
        expected = None if key in _EITHER and not _plainly_wrong(current, value) else _expected(current, value)
        if expected is not None:
            raise ConfigError(f"--cfg-options {path}: expected {expected}, got {value!r}.")


def replacing(cfg: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with a dict that takes the place of None or a single value marked as such: mmengine would merge it
    and fail.
    """
    found = {}
    for path, value in options.items():
        current, known = _walk(cfg, path)
        takes_place = known and isinstance(value, Mapping) and not isinstance(current, (Mapping, list))
        found[path] = {**value, "_delete_": True} if takes_place else value
    return found


def _plainly_wrong(current: Any, value: Any) -> bool:
    """Text in place of a size, which may change between one number and two."""
    return isinstance(value, str) and isinstance(current, (int, float, list, tuple)) and not isinstance(current, bool)


def _expected(current: Any, value: Any) -> str | None:
    """What should have come in place of ``current``; None where the value will do."""
    if isinstance(current, bool):
        return None if isinstance(value, bool) else "True or False"
    if isinstance(current, (int, float)):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if is_number else f"a number like {current!r}"
    if isinstance(current, Mapping):
        if isinstance(value, Mapping):
            return None
        said = "a dict, not a list" if isinstance(value, (list, tuple)) else "a dict"
        return f"{said}, such as \"{{'type': ...}}\"; single keys are PATH.KEY=VALUE"
    if isinstance(current, (list, tuple)):
        # mmengine merges {0: ...} into a list.
        if isinstance(value, (list, tuple, Mapping)):
            return None
        one = ", one item as PATH.0=VALUE" if isinstance(current, list) else ""
        return f"a list or tuple like {_short(current)}{one}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _walk(cfg: Any, path: str) -> tuple[Any, bool]:
    """The present value at a dotted path, and whether there is one.

    Raises: ConfigError for a place in a list that is no number, or beyond its end.
    """
    node, done = cfg, ""
    for part in path.split("."):
        if isinstance(node, Mapping):
            if part not in node:
                return None, False  # new: whether anything reads it is for the check of the whole
            node = node[part]
        elif isinstance(node, tuple):
            raise ConfigError(f"--cfg-options {path}: {done} is the tuple {node!r}; give it whole, {done}=VALUE.")
        elif isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f"--cfg-options {path}: {done} is a list of {len(node)}, numbered from 0; {part!r} is none of them."
                )
            node = node[int(part)]
        else:
            raise ConfigError(f"--cfg-options {path}: {done} is {node!r} and has nothing inside.")
        done = f"{done}.{part}".lstrip(".")
    return node, True
