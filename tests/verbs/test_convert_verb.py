"""effdense convert: what it prints, what it writes, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from effdense.cli import main
from effdense.data.readers.formats import read_split


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two splits of one picture with two objects, one of them with an outline."""
    for split in ("train", "val"):
        (tmp_path / "set" / split).mkdir(parents=True)
        Image.new("RGB", (60, 40)).save(tmp_path / "set" / split / f"{split}.jpg")
        entry = {"image_id": 1, "iscrowd": 0, "area": 100}
        ring = [[5, 5, 15, 5, 15, 15, 5, 15]]
        content = {
            "images": [{"id": 1, "file_name": f"{split}.jpg", "width": 60, "height": 40}],
            "annotations": [
                {**entry, "id": 1, "category_id": 2, "bbox": [5, 5, 10, 10], "segmentation": ring},
                {**entry, "id": 2, "category_id": 4, "bbox": [30, 10, 10, 10]},
            ],
            "categories": [{"id": 2, "name": "cat"}, {"id": 4, "name": "dog"}],
        }
        (tmp_path / "set" / f"{split}.json").write_text(json.dumps(content))
    return tmp_path / "set"


def test_convert_says_what_it_wrote_and_how_to_train(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "out"
    assert main(["convert", str(root), "--to", "yolo", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{root} (coco) -> {out} (yolo)" in printed
    assert "train: 1 images, 2 boxes, 2 classes, 1 pictures hard-linked; 1 outlines left out" in printed
    assert "val: 1 images" in printed and 'type="YoloDetection"' in printed
    assert read_split(out, "train")[0].boxes.tolist() == [[5, 5, 15, 15], [30, 10, 40, 20]]


def test_options_reach_the_conversion(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "out"
    options = ["--split", "val", "--classes", "cat", "--copy", "--polygons", "--from", "coco"]
    assert main(["convert", str(root), "--to", "yolo", "--out", str(out), *options]) == 0
    assert "1 copied; nothing lost" in capsys.readouterr().out
    assert (out / "labels/val/val.txt").read_text().split()[0] == "0"
    assert len((out / "labels/val/val.txt").read_text().split()) == 9
    assert not (out / "labels/train").exists()
    assert main(["convert", str(root), "--to", "masks", "--out", str(root.parent / "m")]) == 0
    again = ["convert", str(root.parent / "m"), "--to", "coco", "--out", str(root.parent / "c"), "--background", ""]
    assert main([*again, "--no-images"]) == 0
    printed = capsys.readouterr().out
    assert "3 classes, no pictures written" in printed and "put them where" in printed


def test_errors_are_one_paragraph_and_exit_code_2(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "out"
    (root / "train/train.jpg").unlink()
    assert main(["convert", str(root), "--to", "voc", "--out", str(out)]) == 2
    printed = capsys.readouterr().err
    assert "[missing-image] 1x" in printed and "train: train.jpg" in printed and not out.exists()
    assert main(["convert", str(root), "--to", "voc", "--out", str(out), "--split", "val"]) == 0
    assert main(["convert", str(root), "--to", "voc", "--out", str(out), "--split", "val"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", str(root), "--to", "voc", "--out", str(out), "--classes", " , "]) == 2
    assert main(["convert", str(root), "--to", "tfrecord", "--out", str(out)]) == 2
    assert "must be one of coco, yolo, voc, masks" in capsys.readouterr().err
