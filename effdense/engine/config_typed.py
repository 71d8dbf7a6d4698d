"""One dict of a config against what will read it: its keys, its type, the arguments of that, and their values."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import Registry

from effdense.engine import registry as reg
from effdense.engine.config_foreign import advice
from effdense.engine.config_kinds import check_kind, check_priority
from effdense.engine.config_lines import Fault
from effdense.engine.config_tables import EXTRA, FILLED_IN, SUPPLIED
from effdense.engine.config_values import check_arguments
from effdense.errors import ConfigError, did_you_mean


def check_typed(node: Mapping[str, Any], registry: Registry, default: str | None, where: str, section: str) -> None:
    """A dict with ``type=``.

    Args:
        default: the type where the dict names none. section: which of ``EXTRA`` its keys may hold, too.

    Raises: Fault.
    """
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
        known = "" if "Did you mean" in str(error) else advice(f"{where}.type")
        raise Fault(f"{where}.type", f"{error}{known}") from None
    if registry is reg.OPTIM_WRAPPERS and not issubclass(target, reg.resolve(registry, default, where)):
        raise Fault(
            f"{where}.type",
            f"{where}.type must be {default} or one of your own that inherits from it, got {type_name!r}; mixed "
            f"precision is {where}.dtype='auto'.",
        )
    allowed = _arguments(target)
    if allowed is not None:
        check_keys(node, allowed | {"type"} | EXTRA.get(section, frozenset()), where)
    lacking = [name for name in _required(target) if name not in node]
    if lacking:
        raise Fault(where, f"{where} ({type_name}) needs {', '.join(lacking)}.")
    check_arguments({"type": type_name, **node}, target, where)
    if registry is reg.HOOKS:
        check_priority(node, where)
        if type(node.get("interval")) is int and node["interval"] < 1:
            raise Fault(f"{where}.interval", f"{where}.interval must be at least 1, got {node['interval']}.")
    if registry is reg.PARAM_SCHEDULERS and "convert_to_iter_based" in node:
        path = f"{where}.convert_to_iter_based"
        check_kind(node["convert_to_iter_based"], bool, path, path)


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


def check_keys(section: Mapping[str, Any], allowed: frozenset[str] | set[str], where: str) -> None:
    """Raise Fault for a key that is not among those allowed, with the nearest."""
    for key in section:
        if key == "_delete_":
            raise Fault(
                f"{where}.{key}", f"{where}.{key}: no base of the config has {where}, so there is nothing to delete."
            )
        if key not in allowed:
            path = f"{where}.{key}"
            near = did_you_mean(str(key), {*allowed, "_delete_"}) + advice(path)
            known = f" Known here: {', '.join(sorted(allowed - {'self'}))}." if allowed else " It takes none."
            raise Fault(path, f"unknown key {path}.{near}{known}")


def dicts(node: Any, where: str, or_list: bool = False) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The dict itself, or every dict of a list, with its dotted path.

    Raises: Fault for anything else but None.
    """
    if isinstance(node, Mapping):
        yield where, node
    elif or_list and isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            if not isinstance(item, Mapping):
                raise Fault(f"{where}.{i}", f"{where}.{i} must be a dict(type=...), got {item!r}.")
            yield f"{where}.{i}", item
    elif node is not None:
        raise Fault(where, f"{where} must be {'a list of ' if or_list else ''}dict(type=...), got {node!r}.")
