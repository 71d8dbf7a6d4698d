"""What stands in a report folder after several checks: files of the newest only, and strangers untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdense.cli import main


def check(data: Path, out: Path, *more: str) -> set[str]:
    assert main(["check", str(data), "--out", str(out), "--workers", "1", *more]) == 0
    return {path.name for path in out.iterdir()}


def test_a_check_without_pictures_takes_away_those_before_and_later_checks_still_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        for place in ("images", "masks"):
            (tmp_path / "data" / place / split).mkdir(parents=True)
        pixels = np.random.default_rng(len(split)).integers(0, 255, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / split / "a.png")
        Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(tmp_path / "data" / "masks" / split / "a.png")
    (tmp_path / "data" / "classes.json").write_text('{"classes": ["soil", "crop"]}')
    out = tmp_path / "out"
    full = {"data_report.json", "labels_train.png", "labels_val.png", "labels_compared.png"}
    assert check(tmp_path / "data", out) == full
    (out / "labels_mine.png").write_text("not of a check")
    assert check(tmp_path / "data", out, "--no-pictures") == {"data_report.json", "labels_mine.png"}
    assert check(tmp_path / "data", out) == {*full, "labels_mine.png"}
    assert not any(ord(letter) < 32 and letter != "\n" for letter in capsys.readouterr().out)
