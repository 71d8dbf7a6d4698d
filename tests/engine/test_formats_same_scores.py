"""The same pictures written in four formats give the same records and, through the engine, the same twelve numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdense.data.readers.formats import detect, read_split
from effdense.engine.run import test as evaluate
from effdense.engine.run import train
from effdense.evaluation.coco_scores import SUMMARY
from tests.engine.conftest import write_tiny_config

NAMES = ("disc", "box", "bar")
COLORS = ((230, 60, 40), (40, 200, 70), (50, 70, 240))
FORMATS = ("coco", "yolo", "voc", "masks")


def write_sets(root: Path) -> None:
    """Two splits of pictures with whole-number boxes that do not overlap, each format by its own few lines."""
    generator = np.random.default_rng(5)
    for split, count in (("train", 16), ("val", 9)):
        images, annotations = [], []
        for number in range(count):
            width, height = (96, 64) if number % 2 else (64, 80)
            pixels = np.full((height, width, 3), 30 + 10 * number, np.uint8)
            mask = np.zeros((height, width), np.uint8)
            boxes = []
            for x0, y0 in ((2, 2), (width // 2 + 2, 2), (2, height // 2 + 2))[: 1 + number % 3]:
                x, y = x0 + int(generator.integers(4)), y0 + int(generator.integers(4))
                w, h, label = *map(int, generator.integers(18, 26, 2)), int(generator.integers(3))
                pixels[y : y + h, x : x + w] = COLORS[label]
                mask[y : y + h, x : x + w] = label + 1
                boxes.append((label, x, y, w, h))
            name = f"{split}{number:02d}"
            places = {"coco": split, "yolo": f"images/{split}", "voc": "JPEGImages", "masks": f"images/{split}"}
            for format, place in places.items():
                (root / format / place).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / format / place / f"{name}.png")
            images.append({"id": number + 1, "file_name": f"{name}.png", "width": width, "height": height})
            lines, objects = [], []
            for label, x, y, w, h in boxes:
                entry = {"bbox": [x, y, w, h], "area": w * h, "category_id": label + 1, "image_id": number + 1}
                annotations.append({"id": len(annotations) + 1, **entry})
                shares = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                lines.append(" ".join([str(label), *map(repr, shares)]) + "\n")
                corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w, y + h))
                inner = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
                objects.append(f"<object><name>{NAMES[label]}</name><bndbox>{inner}</bndbox></object>")
            size = f"<size><width>{width}</width><height>{height}</height></size>"
            xml = f"<annotation><filename>{name}.png</filename>{size}{''.join(objects)}</annotation>"
            for path, text in (
                (root / "yolo" / "labels" / split / f"{name}.txt", "".join(lines)),
                (root / "voc" / "Annotations" / f"{name}.xml", xml),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            (root / "masks" / "masks" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / "masks" / "masks" / split / f"{name}.png")
            with (root / "voc" / f"{split}.txt").open("a") as stream:
                stream.write(f"{name}\n")
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        (root / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (root / "yolo" / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {list(NAMES)}\n")
    (root / "voc" / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (root / "masks" / "classes.json").write_text(json.dumps({"classes": ["background", *NAMES]}))


def content(root: Path, format: str, split: str) -> list[object]:
    """What records hold, objects of a picture in one order: a mask does not say which came first."""
    records, report = read_split(detect(root / format), split)
    assert report.findings == []
    rows: list[object] = [records.class_map.names]
    for record in (records[i] for i in range(len(records))):
        order = np.lexsort(record.boxes.T)
        rows.append((record.path.name, record.width, record.height, record.areas[order].tolist()))
        rows.append((record.boxes[order].tobytes(), record.labels[order].tolist()))
    return rows


def config(folder: Path, format: str) -> Path:
    data = {"type": "DetectionData", "root": format}
    return write_tiny_config(
        folder,
        format,
        f"""
train_dataloader.update(num_workers=0, dataset=dict(**{data}, split="train", transforms=[dict(type="ResizePad")]))
val_dataloader.update(dataset=dict(**{data}, split="val", transforms=[dict(type="ResizePad")]))
train_cfg = dict(max_epochs=3, val_interval=3)
""",
    )


def test_four_formats_are_the_same_records_and_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sets(tmp_path)
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path))
    for split in ("train", "val"):
        first = content(tmp_path, "coco", split)
        for format in FORMATS[1:]:
            assert content(tmp_path, format, split) == first

    run = train(config(tmp_path, "coco"), work_dir=str(tmp_path / "run"))
    checkpoint = run / "epoch_3.pth"
    scores = {
        format: evaluate(config(tmp_path, format), str(checkpoint), work_dir=str(tmp_path / f"test_{format}"))
        for format in FORMATS
    }
    assert scores["coco"].AP50 > 0, "a detector that finds nothing would compare zeros"
    for format in FORMATS[1:]:
        for number, _ in SUMMARY:
            assert getattr(scores[format], number) == getattr(scores["coco"], number), (format, number)
        assert scores[format].per_class_ap == scores["coco"].per_class_ap
