"""The scripts that search scaling constants and write the model table."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from effdense.models.scaling_search import PUBLISHED, measure_candidates

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    """A file of tools/ as a module, without running its main."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_the_rows_that_would_be_written() -> None:
    table = script("make_model_table")
    page = (ROOT / "docs" / "model_table.md").read_text(encoding="utf-8")
    # Source numbers depend on what stands above a row, so they are left out of the comparison.
    lines = {re.sub(r" \[\d+\]", "", line) for line in page.splitlines()}
    for name in (
        "efficientnet_b0",
        "efficientnet_b4",
        "efficientnet_lite0",
        "efficientnetv2_b0",
        "efficientnetv2_rw_t",
    ):
        assert re.sub(r" \[\d+\]", "", table.encoder_row(name, table.Footnotes())) in lines
    for name in ("efficientdet_d0", "efficientdet_lite0", "efficientdet_v2b0"):
        assert re.sub(r" \[\d+\]", "", table.detector_row(name, table.Footnotes())) in lines


def test_the_page_has_every_encoder_and_detector_and_explains_every_star() -> None:
    from effdense.models.detection import detector_names
    from effdense.models.encoders import encoder_names

    page = (ROOT / "docs" / "model_table.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| efficient")}
    assert sorted(rows) == sorted([*encoder_names(), *detector_names()])
    explained = set(re.findall(r"`(efficient\w+)`", page.partition("## Exceptions")[2]))
    assert {name for name, line in rows.items() if "%*" in line} == explained
    used = {int(number) for line in rows.values() for number in re.findall(r"\[(\d+)\]", line)}
    listed = [int(number) for number in re.findall(r"^(\d+)\. ", page.partition("## Sources")[2], re.MULTILINE)]
    assert listed == list(range(1, max(used) + 1))


@pytest.mark.slow
def test_the_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("make_model_table").main(["--check"]) == 0
    assert "is current" in capsys.readouterr().out


def test_an_outdated_page_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = script("make_model_table")
    monkeypatch.setattr(table, "make_page", lambda: "new\n")
    page = tmp_path / "page.md"
    assert table.main(["--check", "--out", str(page)]) == 1
    assert table.main(["--out", str(page)]) == 0 and page.read_text() == "new\n"
    assert table.main(["--check", "--out", str(page)]) == 0
    page.write_text("old\n")
    assert table.main(["--check", "--out", str(page)]) == 1 and page.read_text() == "old\n"
    assert "page.md is not current" in capsys.readouterr().out


def test_the_search_prints_and_writes_its_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search, out = script("scaling_search"), tmp_path / "search.json"
    assert search.main(["--step", "0.1", "--tolerance", "0.05", "--base", "efficientnet_lite", "--json", str(out)]) == 0
    text, found = capsys.readouterr().out, json.loads(out.read_text())
    # 1.15 is not on a grid of 0.1, and 1.92 not within 0.05 of 2: both are said, the constants measured all the same.
    assert "the published constants: product 1.920, outside the tolerance" in text
    assert found["published_is_on_the_grid"] is False
    assert (found["published"]["alpha"], found["published"]["beta"], found["published"]["gamma"]) == PUBLISHED
    assert len(found["candidates"]) == text.split("all candidates, best first")[1].split("\n\n")[0].count("\n") - 1
    assert found["best"] == found["candidates"][0]
    assert all(abs(one["product"] - 2) <= 0.05 for one in found["candidates"] if one != found["published"])


def test_a_bad_grid_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("scaling_search").main(["--step", "0"]) == 2
    assert capsys.readouterr().err.startswith("ConfigError: step must lie in")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--proxy-steps", "-1"], "--proxy-steps must be at least 0, got -1"),
        (["--top", "0"], "--top must be at least 1, got 0"),
        (["--json", "absent/search.json"], "there is no folder absent"),
    ],
)
def test_bad_options_are_one_line_before_the_search(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("scaling_search").main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err and not out


def test_proxy_pictures_and_a_training_of_two_steps() -> None:
    search = script("scaling_search")
    images, labels = search.shape_pictures(20, seed=3)
    assert images.shape == (20, 3, 96, 96) and images.min() >= -1 and images.max() <= 1
    assert set(labels.tolist()) <= set(range(5)) and len(set(labels.tolist())) > 2
    again, _ = search.shape_pictures(20, seed=3)
    assert torch.equal(images, again)
    candidate = measure_candidates([(1.0, 1.0, 1.4)])[0]
    assert 0 <= search.train_proxy(candidate, "efficientnet", steps=2) <= 1
