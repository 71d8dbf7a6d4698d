"""Repair: by hand on a few entries, then a set with every fault that it mends passes the check without them."""

import json
import math

import numpy as np
import pytest

from effdense.data.checks.check import keeping_examples
from effdense.data.checks.dataset_check import check_dataset
from effdense.data.checks.repair import repair_coco
from effdense.data.checks.repair_dataset import claim_repair, repair_dataset
from effdense.data.checks.source_check import read_source
from effdense.data.image_io import ImageFault, ImageHeader
from effdense.errors import ConfigError
from tests.data import planted_sets as sets


def content(*boxes, **more):
    """One picture of 100 x 80 and its boxes; the area is width x height as written."""
    annotations = [
        {
            "id": 7 + k,
            "image_id": 1,
            "category_id": 3,
            "bbox": box,
            "area": box[2] * box[-1],
            "iscrowd": 0,
            "score": 0.5,
        }
        for k, box in enumerate(boxes)
    ]
    images = [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80, "license": 2}]
    return {"info": {"year": 2026}, "images": images, "annotations": annotations,
            "categories": [{"id": 3, "name": "cat"}], **more}  # fmt: skip


def changed(old, looks=None):
    new, done = repair_coco(old, looks or {})
    return [a["bbox"] for a in new["annotations"]], {key: n for key, n in done.items() if n}


def test_a_good_file_stays_field_by_field():
    old = content([1, 2, 30, 40], [5.25, 6, 7, 8])
    text = json.dumps(old)
    new, done = repair_coco(old, {"a.jpg": ImageHeader("JPEG", (80, 100), 1)})
    assert new == old and not +done
    assert json.dumps(old) == text


def test_boxes_by_hand():
    assert changed(content([90, 60, 20, 30], [1, 1, 5, 5])) == ([[90, 60, 10, 20], [1, 1, 5, 5]], {"clipped": 1})
    assert changed(content([1, 1, 0, 5], [100, 1, 5, 5], [1, 1, 5, 5], [1, 1, 5, 5])) == (
        [[1, 1, 5, 5]],
        {"degenerate": 1, "outside": 1, "duplicate": 1},
    )
    assert changed(content([0.5, 0.25, 0.1, 0.5], [1, 1, 5, 5])) == ([[50, 20, 10, 40], [1, 1, 5, 5]], {"pixels": 1})
    old = content([10, 20, 30, 50], [1, 1, 5, 5])
    old["annotations"][0]["area"] = 20 * 30
    assert changed(old) == ([[10, 20, 20, 30], [1, 1, 5, 5]], {"corners": 1})
    assert changed(content([1, math.nan, 5, 5], [1, 2, 3], [1, 1, 5, 5])) == ([[1, 1, 5, 5]], {"bad-annotation": 2})


def test_a_clipped_mask_area_is_left_and_a_box_area_follows():
    old = content([90, 60, 20, 30], [80, 60, 30, 10])
    old["annotations"][1]["area"] = 123.5
    new, _ = repair_coco(old, {})
    assert [a["area"] for a in new["annotations"]] == [200, 123.5]
    assert [a["score"] for a in new["annotations"]] == [0.5, 0.5]


def test_pictures_and_ids_by_hand():
    old = content([1, 1, 5, 5], [2, 2, 5, 5])
    old["images"] += [{"id": 2, "file_name": "lost.jpg", "width": 9, "height": 9}]
    old["annotations"] += [
        {**old["annotations"][0], "image_id": 2, "id": 30},
        {**old["annotations"][0], "bbox": [3, 3, 4, 4]},
    ]
    looks = {"lost.jpg": ImageFault("missing-image", "."), "a.jpg": ImageHeader("JPEG", (60, 90), 1)}
    new, done = repair_coco(old, looks)
    assert new["images"] == [{"id": 1, "file_name": "a.jpg", "width": 90, "height": 60, "license": 2}]
    assert [a["id"] for a in new["annotations"]] == [7, 8, 9]
    assert +done == {"lost-image": 1, "image-size": 1, "of-lost-image": 1, "annotation-id": 1}


def test_all_boxes_swapped():
    boxes = [[60, 10, 8, 20], [70, 5, 9, 30], [50, 30, 20, 10]]  # as x, y, w, h within 100 x 80
    old = content(*([y, x, h, w] for x, y, w, h in boxes))
    old["images"][0].update(width=100, height=40)
    new, done = changed(old)
    assert new == boxes and done == {"swapped": 3}


MENDED = [
    "missing", "empty", "web page", "cut JPEG", "too large", "no width", "outside", "clipped", "NaN", "three numbers",
    "corners by area", "corners beyond", "fractions", "doubled", "image unknown", "category unknown",
    "annotation id twice", "no area", "other size", "image id twice", "not listed",
]  # fmt: skip


def check(root):
    with keeping_examples(1000):
        source, splits = read_source(root)
        return source, splits, check_dataset(str(root), source.format, splits)


def test_a_repaired_set_passes_the_check(tmp_path):
    root = sets.write_coco(tmp_path / "coco")
    faults = sets.coco_faults()
    for name in MENDED:
        faults[name][0](root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    source, splits, report = check(root)
    assert {c for name in MENDED for _, c, _, _ in faults[name][1]} <= {f.code for _, f in report.findings}
    lines = repair_dataset(tmp_path / "out", source.format, splits, report.pictures)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    text = "\n".join(lines)
    assert "5 images without a readable picture file taken out" in text
    assert "2 boxes written as x1, y1, x2, y2 turned into" in text
    _, again, clean = check(tmp_path / "out")
    assert [f.code for _, f in clean.findings if f.severity != "note"] == []
    assert {f.code for _, f in clean.findings} <= {"few-instances"}
    records = again[0].records
    row = records.annotation_ids.tolist().index(1130)
    np.testing.assert_array_equal(records.boxes[row], [10, 5, 30, 25])


@pytest.mark.parametrize("format", ["yolo", "voc"])
def test_yolo_and_voc_are_written_anew(tmp_path, format):
    from effdense.data.writing.convert import write_dataset

    source, splits = read_source(sets.write_coco(tmp_path / "coco"))
    for split in splits:
        write_dataset(split.records, tmp_path / format, format, split=split.name)
    (train,) = [p for p in (tmp_path / format).rglob("03.jpg") if "train" in p.as_posix() or format == "voc"][:1]
    data = train.read_bytes()
    train.unlink()  # it may be a link to the picture of the set that it was written from
    train.write_bytes(data[: len(data) // 2])
    source, splits, report = check(tmp_path / format)
    assert [f.code for _, f in report.findings if f.severity == "error"] == ["truncated-image"]
    lines = repair_dataset(tmp_path / "out", source.format, splits, report.pictures)
    assert "1 images without a readable picture file taken out" in "\n".join(lines)
    _, again, clean = check(tmp_path / "out")
    assert clean.count("error") == clean.count("warning") == 0
    assert sorted(len(split.records) for split in again) == [6, 29]


def test_what_cannot_be_repaired(tmp_path):
    with pytest.raises(ConfigError, match="make the masks again"):
        claim_repair(tmp_path / "out", "masks", [])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="new or empty folder"):
        claim_repair(tmp_path / "used", "coco", [])
