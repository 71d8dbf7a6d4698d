"""What the repository promises about itself: nothing private in it, and no page that names what does not exist."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Written in pieces, so that this file does not contain what it looks for.
FORBIDDEN = {
    "a package registry": "|".join(
        re.escape(host)
        for host in ("pypi" + ".org", "python" + "hosted.org", "download." + "pytorch.org", "anaconda" + ".org")
    ),
    "a package index option": "(?:extra-)?index" + "[-_]url|trusted" + "[-_]host|find" + "-links",
    "an absolute path of one machine": r"(?<![\w.~$}/-])/(?:wo" + r"rk|home|root|Users|mnt)/\w",
    "a folder outside the repository": r"(?<![\w.-])sha" + "red/",
}


@cache
def tracked_files() -> tuple[Path, ...]:
    """Every file that is or would be committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, f"{what} is named in:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a package registry", "https://pypi" + ".org/simple"),
        ("a package index option", "pip install --extra-index" + "-url x"),
        ("an absolute path of one machine", "cd /ho" + "me/someone"),
        ("a folder outside the repository", "EFFDENSE_DATA=../sha" + "red/data"),
    ],
)
def test_the_search_finds_what_it_looks_for(what: str, text: str) -> None:
    assert re.search(FORBIDDEN[what], text)


@pytest.mark.parametrize("text", ["--work-dir work_dirs/run", "self.share" + "d/2", "https://a.b/home/x"])
def test_the_search_leaves_ordinary_text_alone(text: str) -> None:
    assert not any(re.search(pattern, text) for pattern in FORBIDDEN.values())


def test_no_large_or_generated_file_is_tracked() -> None:
    large = [str(path.relative_to(ROOT)) for path in tracked_files() if path.stat().st_size > 1_000_000]
    generated = [p for p in tracked_files() if p.suffix in {".pyc", ".pth", ".onnx", ".safetensors"}]
    assert large == [] and generated == []


def test_data_code_is_tracked_and_data_is_not() -> None:
    """`/data/` in .gitignore is anchored: effdense/data and tests/data are code."""
    names = {path.relative_to(ROOT).as_posix() for path in tracked_files()}
    assert any(name.startswith("effdense/data/") for name in names)
    assert not any(name.startswith(("data/", "work_dirs/", ".venv/", "site/")) for name in names)


def test_changelog_has_an_unreleased_section() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert "## [Unreleased]" in lines
    entries = lines[lines.index("## [Unreleased]") + 1 :]
    assert any(line.startswith("- ") for line in entries)


def test_licence_is_the_whole_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    """Configs and scripts by their path, and relative links."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])((?:configs|tools)/[\w/.-]+\.(?:py|sh))", text))
    missing = sorted(name for name in named if not (ROOT / name).is_file())
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
            missing.append(target)
    assert missing == []


def test_every_page_has_its_place_in_the_navigation() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = re.findall(r"[\w/.-]+\.md", str(navigation))
    assert len(listed) == len(set(listed))
    assert set(listed) == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_test_files_have_unique_names() -> None:
    """With pytest's importlib mode two files of one name would shadow each other in tools that look modules up."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
