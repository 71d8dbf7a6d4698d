"""Data sets of the four formats in configs: read by name, checked, the class map of training held for validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdense.data.writing.convert import convert_dataset
from effdense.engine.datasets import build_split
from effdense.errors import ConfigError, DataError


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same three pictures in four formats, under EFFDENSE_DATA."""
    root = tmp_path / "coco"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        images, boxes = [], []
        for i in range(3):
            Image.new("RGB", (60, 40)).save(root / split / f"{i}.jpg")
            images.append({"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40})
            for k in range(2):
                box = {"bbox": [5 + 20 * k, 4 + i, 10, 12], "area": 120, "category_id": k + 1}
                boxes.append({"id": len(boxes), "image_id": i, **box})
        content = {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    for format in ("yolo", "voc", "masks"):
        convert_dataset(root, tmp_path / format, format)
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path))
    return tmp_path


def config(**dataset: Any) -> dict[str, Any]:
    section = {"dataset": {"transforms": [{"type": "ResizePad"}], **dataset}}
    other = {"dataset": {**section["dataset"], "split": "val"}}
    return {"image_size": 64, "train_dataloader": section, "val_dataloader": other}


DATASETS = [
    {"type": "YoloDetection", "root": "yolo"},
    {"type": "YoloDetection", "data": "yolo/data.yaml"},
    {"type": "VocDetection", "root": "voc", "difficult": "ignore"},
    {"type": "MaskObjects", "root": "masks", "background": "background"},
    *({"type": "DetectionData", "root": name} for name in ("coco", "yolo", "voc", "masks")),
]


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda d: "-".join(map(str, d.values())).replace("/", "."))
def test_every_data_set_is_read_and_gives_the_same_samples(sets: Path, dataset: dict[str, Any]) -> None:
    cfg = config(split="train", segments=True, **dataset)
    train = build_split(cfg, "train", seed=0)
    val = build_split(cfg, "val", seed=0, class_map=train.records.class_map)
    assert train.report.errors == val.report.errors == [] and len(val.records) == 3
    assert train.records.class_map.category_ids == (1, 2) and train.records.segments is not None
    np.testing.assert_array_equal(train.records[2].boxes, [[5, 6, 15, 18], [25, 6, 35, 18]])
    assert train.dataset[0]["boxes"].shape == (2, 4)


def test_another_class_map_is_refused(sets: Path) -> None:
    cfg = config(type="DetectionData", root="yolo", split="train")
    train = build_split(cfg, "train", seed=0)
    yaml = sets / "yolo/data.yaml"
    yaml.write_text(yaml.read_text().replace("1: b", "1: c"))
    with pytest.raises(DataError, match="differ from the class map"):
        build_split(cfg, "val", seed=0, class_map=train.records.class_map)


def test_arguments_that_do_not_fit(sets: Path) -> None:
    with pytest.raises(ConfigError, match=r"either root= .* or data="):
        build_split(config(type="YoloDetection", split="train"), "train", seed=0)
    with pytest.raises(DataError, match="EFFDENSE_DATA"):
        build_split(config(type="DetectionData", root="nowhere", split="train"), "train", seed=0)
    with pytest.raises(ConfigError, match="format must be one of"):
        build_split(config(type="DetectionData", root="yolo", format="yolov5x", split="train"), "train", seed=0)
