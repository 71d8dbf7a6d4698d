"""Wall 1: only effdense/engine imports mmengine, and every other room works without it. See CONTRIBUTING.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "effdense"
# cli and its verbs are the doors to engine; they import it when a command needs it.
BEYOND_THE_WALL = {"engine", "cli", "verbs"}


def rooms() -> list[str]:
    """Every package and module directly under effdense that must work without mmengine."""
    names = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    names += [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    return sorted(set(names) - BEYOND_THE_WALL)


def modules_after(statement: str) -> set[str]:
    """Top-level modules loaded after a statement in a fresh interpreter."""
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{statement!r} fails:\n{result.stderr}"
    return set(result.stdout.split())


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import statement and every importlib/__import__ call with a literal name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in ("__import__", "import_module", "importlib.import_module") and isinstance(
                node.args[0].value, str
            ):
                yield node.lineno, node.args[0].value


def offenders(files: list[Path], module: str) -> list[str]:
    found = []
    for path in files:
        for line, name in imports_of(path):
            if name == module or name.startswith(module + "."):
                found.append(f"{path.relative_to(ROOT)}:{line}")
    return found


def test_the_rooms_are_found() -> None:
    assert {"data", "errors", "evaluation", "models", "results", "visualize"} <= set(rooms())


@pytest.mark.parametrize("room", rooms())
def test_a_room_leaves_mmengine_out(room: str) -> None:
    assert "mmengine" not in modules_after(f"import effdense.{room}")


def test_importing_effdense_is_light() -> None:
    heavy = {"mmengine", "torch", "numpy", "cv2", "matplotlib"} & modules_after("import effdense")
    assert not heavy


def test_only_engine_imports_mmengine() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if "engine" not in path.relative_to(PACKAGE).parts]
    files += [path for folder in ("tools", "configs") for path in (ROOT / folder).rglob("*.py")]
    assert offenders(files, "mmengine") == []


def test_no_room_imports_engine() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).with_suffix("").parts[0] in rooms()]
    assert len(files) > 20
    assert offenders(files, "effdense.engine") == []


def test_the_search_sees_every_form_of_import(tmp_path: Path) -> None:
    """A search that finds nothing must be able to find something."""
    path = tmp_path / "sample.py"
    path.write_text(
        "import mmengine.runner as r\nfrom mmengine import Config\ndef f():\n    import mmengine\n"
        "import importlib\nimportlib.import_module('mmengine.hooks')\nimport mmengineering\n"
    )
    lines = [line for line, name in imports_of(path) if name == "mmengine" or name.startswith("mmengine.")]
    assert sorted(lines) == [1, 2, 4, 6]
