"""The text of a config file and of its bases, judged before it is run: mmengine names neither the file nor the line of
a slip in it, and takes a misspelt ``_base_`` for a variable.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType

from effdense.engine.config_lines import base_names
from effdense.errors import ConfigError, did_you_mean

_VARIABLE = re.compile(r"\{\{\s*\$[^}\n]*\}\}")
_LOOKED_AT = 2000  # files of a folder among which a misspelt base is looked for


def check_source(file: Path, above: tuple[Path, ...] = ()) -> None:
    """Raise ConfigError for text that is no UTF-8 or no Python, a key that a ``{...}`` holds twice, and a ``_base_``
    that is misspelt, missing or among its own bases; file and line are named.

    Args:
        above: the files that lead here, the config itself first.
    """
    tree = _parsed(file)
    assigned = list(_assignments(tree))
    bases = next((value for name, value in reversed(assigned) if name == "_base_"), None)
    for name, value in assigned:
        if bases is None and did_you_mean(name, {"_base_"}) and _names_configs(value):
            raise ConfigError(f"{file}, line {value.lineno}: unknown key {name!r}. Did you mean '_base_'?")
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            _check_twice(file, node)
        elif isinstance(node, ast.With) and any("read_base" in ast.dump(item) for item in node.items):
            raise ConfigError(
                f"{file}, line {node.lineno}: read_base() belongs to mmengine's lazy configs, which are not read here; "
                "write _base_ = ['base.py'] and type='Name' in quotes."
            )
    if bases is None:
        return
    for one in base_names(bases):
        place = f"{file}, line {one.lineno}: _base_"
        if not isinstance(one, ast.Constant) and not isinstance(one, ast.JoinedStr):
            continue  # computed: mmengine says what it thinks of it
        if not isinstance(one, ast.Constant) or not isinstance(one.value, str):
            raise ConfigError(f"{place} must be the path of a config as plain text, or a list of them.")
        if "::" in one.value:
            continue  # of another package, which mmengine looks up
        path = file.parent / one.value
        if not path.is_file():
            raise ConfigError(f"{place} {one.value!r}: no such file beside {file.name}.{_near(file, one.value)}")
        chain = [*above, file]
        if path.resolve() in [passed.resolve() for passed in chain]:
            said = " -> ".join(str(passed) for passed in [*chain, path])
            raise ConfigError(f"{place} leads back to a file that it came from: {said}.")
        check_source(path, tuple(chain))


def explain(file: Path, error: Exception) -> str:
    """An error that came while a config was run, with the line of the config that it came from."""
    place, names = str(file), set()
    for path, line, known in _frames(error.__traceback__):
        if path.suffix == ".py" and path.is_file() and path.resolve() in _files(file):
            place, names = f"{path}, line {line}", known
    near = ""
    if isinstance(error, NameError) and getattr(error, "name", None):
        near = did_you_mean(str(error.name), names)
        near = f".{near}" if near else ""
    return f"{place}: the config cannot be loaded: {type(error).__name__}: {error}{near}"


def _parsed(file: Path) -> ast.Module:
    content = file.read_bytes()
    if content.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(
            f"{file} begins with a byte order mark, which Python configs cannot have; save it as 'UTF-8 without BOM'."
        )
    try:
        # {{$NAME:default}} is mmengine's: an environment variable, which it writes into the text.
        tree = ast.parse(_VARIABLE.sub("None", content.decode("utf-8")), str(file))
        compile(tree, str(file), "exec")  # which finds what the parser lets through, such as a repeated keyword
        return tree
    except UnicodeDecodeError as error:
        place = f"{file}, line {content[: error.start].count(bytes([10])) + 1}"
        raise ConfigError(f"{place}: the text is not UTF-8 ({error.reason}); save it as UTF-8.") from error
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte, before Python 3.12
        line = getattr(error, "lineno", None)
        said = getattr(error, "msg", None) or str(error)
        raise ConfigError(f"{file}{f', line {line}' if line else ''}: this is not Python: {said}.") from error


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            yield from ((target.id, statement.value) for target in statement.targets if isinstance(target, ast.Name))


def _names_configs(value: ast.expr) -> bool:
    names = base_names(value)
    texts = [one.value for one in names if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return bool(texts) and len(texts) == len(names) and all(text.endswith(".py") for text in texts)


def _check_twice(file: Path, node: ast.Dict) -> None:
    seen: dict[object, int] = {}
    for key in node.keys:
        if isinstance(key, ast.Constant):
            if key.value in seen:
                raise ConfigError(
                    f"{file}, line {key.lineno}: the key {key.value!r} is in the same dict in line {seen[key.value]}; "
                    "only the last would count."
                )
            seen[key.value] = key.lineno


def _near(file: Path, name: str) -> str:
    folder = (file.parent / name).parent
    where = folder if folder.is_dir() else file.parent
    files = islice(where.rglob("*.py") if where == file.parent else where.glob("*.py"), _LOOKED_AT)
    prefix = Path(name).parent if where == folder else Path()
    return did_you_mean(name, {(prefix / path.relative_to(where)).as_posix() for path in files} - {file.name})


def _frames(traceback: TracebackType | None) -> Iterator[tuple[Path, int, set[str]]]:
    while traceback is not None:
        frame = traceback.tb_frame
        yield Path(frame.f_code.co_filename), traceback.tb_lineno, {*frame.f_globals, *frame.f_locals}
        traceback = traceback.tb_next


def _files(file: Path) -> set[Path]:
    """The file and its bases; they have passed :func:`check_source`."""
    found = {file.resolve()}
    for name, value in _assignments(_parsed(file)):
        for one in base_names(value) if name == "_base_" else ():
            path = file.parent / str(getattr(one, "value", ""))
            if path.is_file():
                found |= _files(path)
    return found
