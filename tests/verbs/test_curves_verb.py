"""``effdense curves``: one run into its folder, several into a file, and folders that are none."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from effdense.cli import main


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two run folders of the same name in different places."""
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for k, folder in enumerate(folders):
        folder.mkdir(parents=True)
        rows = [f'{{"epoch": {e}, "iter": {9 * e}, "coco/AP": {0.1 * e + k}}}' for e in (1, 2)]
        (folder / "metrics.jsonl").write_text("\n".join(['{"epoch": 1, "iter": 5, "loss": 1.0, "lr": 0.1}', *rows]))
    return [str(folder) for folder in folders]


def test_one_run(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", runs[0]]) == 0
    assert "run: best coco/AP 0.2000 at epoch 2" in capsys.readouterr().out
    assert cv2.imread(str(Path(runs[0], "pictures", "curves.png"))).std() > 5


def test_several_runs(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "both.png"
    assert main(["curves", *runs, "--out", str(out), "--lowest"]) == 0
    said = capsys.readouterr().out
    assert "a/run: best coco/AP 0.1000 at epoch 1" in said and "b/run: best coco/AP 1.1000" in said
    assert cv2.imread(str(out)).std() > 5


def test_what_cannot_be_drawn(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        ([str(tmp_path)], "holds no metrics.jsonl"),
        ([str(tmp_path / "c")], "no run folder at"),
        ([runs[0], "--metric", "coco/AQ"], "Did you mean 'coco/AP'"),
        ([runs[0], "--out", "curves.jpg"], "--out is a .png file"),
        ([runs[0], "--out", str(Path(runs[0], "metrics.jsonl", "a.png"))], "cannot be written to"),
    ):
        assert main(["curves", *arguments]) == 2
        assert said in capsys.readouterr().err
