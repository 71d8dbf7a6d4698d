"""Where in a config file, or in one of its bases, a key is written: file and line, for messages."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from effdense.errors import ConfigError


class Fault(ConfigError):
    """Something wrong at a dotted path of a config; whoever knows the file says it in front.

    Attributes: where: ``train_dataloader.dataset.root``.
    """

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.where = where


def place_of(file: Path, where: str) -> str:
    """``configs/a.py, line 12``, of a base ``configs/b.py, line 3 (a base of configs/a.py)``, else the file alone."""
    found = _find(file, where.split("."), ())
    if found is None:
        return str(file)
    path, line = found
    return f"{path}, line {line}" + ("" if path == file else f" (a base of {file})")


def _find(file: Path, parts: Sequence[str], seen: tuple[Path, ...]) -> tuple[Path, int] | None:
    """File and line of a dotted path; the file that has the last word is asked first."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    values: dict[str, ast.expr] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            values |= {t.id: statement.value for t in statement.targets if isinstance(t, ast.Name)}
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            values[statement.target.id] = statement.value
    if parts[0] in values:
        line = _line(values[parts[0]], parts[1:], values[parts[0]].lineno, values)
        if line is not None:
            return file, line
    for base in base_names(values.get("_base_")):
        if not isinstance(base, ast.Constant) or not isinstance(base.value, str):
            continue
        path = file.parent / base.value
        found = None if path in seen or len(seen) > 20 else _find(path, parts, (*seen, file))
        if found is not None:
            return found
    return None


def base_names(node: ast.expr | None) -> list[ast.expr]:
    """The expressions in ``_base_ = ...``: of a list its items; empty for None."""
    return [] if node is None else list(node.elts) if isinstance(node, (ast.List, ast.Tuple)) else [node]


def _line(node: ast.expr, parts: Sequence[str], line: int, values: dict[str, ast.expr], depth: int = 0) -> int | None:
    """Line of what ``parts`` lead to inside an expression of dict(...), {...}, [...] and names of the file."""
    if not parts:
        return line
    if depth > 20:
        return None
    if isinstance(node, ast.Name) and node.id in values:
        return _line(values[node.id], parts, line, values, depth + 1)
    if isinstance(node, (ast.List, ast.Tuple)):
        if not parts[0].isdigit() or int(parts[0]) >= len(node.elts):
            return None
        item = node.elts[int(parts[0])]
        return _line(item, parts[1:], item.lineno, values, depth + 1)
    items: list[tuple[str | None, ast.expr, int]] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        items = [(keyword.arg, keyword.value, keyword.lineno) for keyword in node.keywords]
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None or isinstance(key, ast.Constant):
                items.append((None if key is None else str(key.value), value, (key or value).lineno))
    for name, value, at in items:
        if name == parts[0]:
            return _line(value, parts[1:], at, values, depth + 1)
    for name, value, at in items:
        found = _line(value, parts, at, values, depth + 1) if name is None else None  # dict(**_files, ...)
        if found is not None:
            return found
    return None
