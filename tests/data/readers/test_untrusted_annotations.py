"""Annotation files that nobody wrote in good order: each fault is one typed finding or error, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdense.data import DataReport, DetectionRecords, read_coco
from effdense.data.checks.dataset_check import CheckOptions, check_dataset
from effdense.data.checks.repair import repair_coco
from effdense.data.checks.source_check import read_source
from effdense.data.readers.formats import detect, read_split
from effdense.errors import DataError

Change = Callable[[dict[str, Any]], object]


def scene() -> dict[str, Any]:
    boxes = [(1, 4, 6, 20, 14), (1, 40, 8, 10, 30), (2, 12, 5, 30, 22)]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in (1, 2)],
        "annotations": [
            {"id": 10 + k, "image_id": i, "category_id": 1 + k % 2, "bbox": [x, y, w, h], "area": w * h}
            for k, (i, x, y, w, h) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def read(folder: Path, change: Change, *, segments: bool = False) -> tuple[DetectionRecords, DataReport]:
    content = scene()
    change(content)
    (folder / "train.json").write_text(json.dumps(content))
    return read_coco(folder / "train.json", folder, segments=segments)


def first(section: str, **values: Any) -> Change:
    return lambda content: content[section][0].update(values)


IMAGE_IDS = (("images", "id"), ("annotations", "image_id"))
ONE_FINDING: dict[str, tuple[Change, str, str]] = {
    "id of 100 bits": (first("annotations", id=10**30), "bad-annotation-id", "annotations[0] (id 1000"),
    "id as text": (first("annotations", id="10"), "bad-annotation-id", "(id '10' is text) in 1.png"),
    "image id of 100 bits": (
        lambda content: [e.update({k: 10**30}) for s, k in IMAGE_IDS for e in content[s] if e[k] == 1],
        "bad-image-entry",
        "images[0] (id 1000",
    ),
    "width beyond 32 bits": (first("images", width=10**12), "bad-image-entry", "width 1000000000000"),
    "width as text": (first("images", width="80"), "bad-image-entry", "width '80' is text"),
    "NUL in a name": (first("images", file_name="a\0.png"), "bad-image-entry", "a\\x00.png"),
    "half a surrogate": (first("images", file_name="a\ud800.png"), "bad-image-entry", "ud800"),
    "a name of 5,000 letters": (first("images", file_name="a" * 5000), "bad-image-entry", "images[0] (id 1, 'aaa"),
    "area of 400 digits": (first("annotations", area=10**400), "bad-area", "annotation 10 (area 1000"),
    "negative area": (first("annotations", area=-3), "bad-area", "annotation 10 (area -3) in 1.png"),
    "area NaN": (first("annotations", area=float("nan")), "bad-area", "annotation 10 (area nan)"),
    "iscrowd 2": (first("annotations", iscrowd=2), "bad-iscrowd", "annotation 10 (iscrowd 2) in 1.png"),
    "category id as text": (first("annotations", category_id="1"), "unknown-category-id", "'1' is text"),
    "blank class name": (first("categories", name=" "), "bad-category", "id 1, name ' '"),
    "class name that is no text": (first("categories", name="\ud800"), "bad-category", "id 1"),
}


@pytest.mark.parametrize("case", ONE_FINDING)
def test_a_field_of_the_wrong_kind_is_one_error_with_its_place(tmp_path: Path, case: str) -> None:
    change, code, place = ONE_FINDING[case]
    _, report = read(tmp_path, change)
    assert [(finding.code, finding.count) for finding in report.errors] == [(code, 1)]
    assert place in report.errors[0].examples[0]


def test_image_ids_as_text_are_said_once_and_not_again_by_their_annotations(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for entry in [*content["images"], *content["annotations"]]:
            key = "image_id" if "image_id" in entry else "id"
            entry[key] = f"u-{entry[key]}"

    _, report = read(tmp_path, change)
    assert [finding.code for finding in report.errors] == ["bad-image-entry", "empty-split"]


def test_crowd_marks_as_text_mean_what_evaluation_takes_them_for(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["iscrowd"], content["annotations"][1]["iscrowd"] = "0", "1"

    records, report = read(tmp_path, change)
    assert records.is_crowd.tolist() == [False, True, False] and not report.errors


def test_annotations_without_id_are_numbered_behind_the_largest(tmp_path: Path) -> None:
    records, report = read(tmp_path, lambda content: [content["annotations"][k].pop("id") for k in (0, 2)])
    assert records.annotation_ids.tolist() == [12, 11, 13] and not report.errors
    (finding,) = report.warnings
    assert finding.code == "missing-annotation-id" and finding.examples[0] == "annotations[0] in 1.png"


def test_an_outline_of_absurd_numbers_is_reported_and_its_box_kept(tmp_path: Path) -> None:
    records, report = read(tmp_path, first("annotations", segmentation=[[10**400] * 6]), segments=True)
    assert len(records.boxes) == 3 and [finding.code for finding in report.warnings] == ["bad-segmentation"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": [' + "9" * 5000 + "]}", "\ufeff", "null"])
def test_json_that_breaks_parsers_is_a_data_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=r"train\.json"):
        read_coco(tmp_path / "train.json", tmp_path)
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "classes.json").write_text(text)
    Image.new("L", (4, 4)).save(tmp_path / "masks" / "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match=r"classes\.json"):
        read_split(detect(tmp_path, format="masks"), "all")


def test_repair_mends_or_takes_out_every_one_of_them() -> None:
    for case, (change, code, _) in ONE_FINDING.items():
        content = scene()
        change(content)
        if code == "bad-category":  # class names are for people to decide
            continue
        repaired, done = repair_coco(content, {})
        assert sum(done.values()) >= 1, case
        assert all(0 <= entry["area"] < 1e9 for entry in repaired["annotations"]), case
        assert all(0 < image["width"] <= 1_000_000 for image in repaired["images"]), case


def yolo(root: Path, labels: str, *, extra: str = "") -> Path:
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (100, 80)).save(root / "images/train/a.png")
    (root / "labels/train/a.txt").write_text(labels)
    (root / "data.yaml").write_text(f"train: images/train\nnames: [cat, dog]\n{extra}")
    return root


def test_a_yolo_box_written_as_corners_is_named_as_such(tmp_path: Path) -> None:
    good = "".join(f"0 0.{k} 0.{y} 0.1 0.1\n" for k in range(2, 9) for y in (2, 7))
    _, report = read_split(yolo(tmp_path, f"{good}1 0.6 0.5 0.95 0.9\n0 0.9 0.5 0.4 0.2\n"), "train")
    found = {finding.code: finding.examples for finding in report.warnings}
    assert found["xyxy-bbox"] == ("labels/train/a.txt:15 (centre and size 60, 40, 95, 72 in 100x80)",)
    assert found["bbox-clipped"] == ("labels/train/a.txt:16 (centre and size 90, 40, 40, 16 in 100x80)",)


def test_a_class_number_of_thousands_of_digits_is_a_finding(tmp_path: Path) -> None:
    _, report = read_split(yolo(tmp_path, "9" * 5000 + " 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.2 0.2\n"), "train")
    assert [finding.code for finding in report.errors] == ["non-finite-bbox"]


def test_a_class_count_that_would_fill_memory_is_refused(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.1 0.1\n")
    (root / "data.yaml").write_text("train: images/train\nnc: 1000000000\n")
    with pytest.raises(DataError, match="from 1 to 100,000"):
        detect(root / "data.yaml")


def test_a_list_line_longer_than_any_path_is_a_missing_picture(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.1 0.1\n")
    (root / "train.txt").write_text("images/train/a.png\n" + "b" * 6000 + ".png\n")
    (root / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    records, report = read_split(root / "data.yaml", "train")
    assert len(records) == 1 and [finding.code for finding in report.errors] == ["missing-image"]


def test_links_that_lead_back_up_are_not_walked_in_circles(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.1 0.1\n")
    (root / "images/train/again").symlink_to(root / "images", target_is_directory=True)
    records, _ = read_split(root, "train")
    assert [records.names[i] for i in range(len(records))] == ["a.png"]


def test_a_split_without_pictures_is_called_empty_in_every_format(tmp_path: Path) -> None:
    root = yolo(tmp_path / "yolo", "0 0.5 0.5 0.1 0.1\n", extra="val: images/val\n")
    (root / "images/val").mkdir()
    masks = tmp_path / "masks"
    for folder in ("images", "masks"):
        for split in ("train", "val"):
            (masks / folder / split).mkdir(parents=True)
        Image.new("L", (8, 8)).save(masks / folder / "train" / "a.png")
    (masks / "classes.json").write_text('{"classes": ["soil", "crop"]}')
    for place in (root, masks):
        _, splits = read_source(place)
        assert {s.name: [f.code for f in s.report.errors] for s in splits}["val"] == ["empty-split"]


def test_a_binary_mask_among_several_classes_is_a_warning(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number, values in enumerate(([0, 1, 2], [0, 255], [0, 2, 255])):
        Image.new("RGB", (8, 6), (40 * number, 9, 9)).save(tmp_path / "images" / f"{number}.png")
        mask = np.array([values * 8] * 6, np.uint8)[:, :8]
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    (tmp_path / "classes.json").write_text('{"classes": ["soil", "crop", "weed"]}')
    source, splits = read_source(tmp_path, format="masks")
    report = check_dataset(str(source.root), source.format, splits, CheckOptions(workers=1))
    found = [f for _, f in report.findings if f.code == "binary-mask"]
    assert [(f.severity, f.count) for f in found] == [("warning", 1)] and found[0].examples[0].startswith("1.png")


def test_an_exif_rotation_that_keeps_the_size_is_unclear(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    content = scene()
    for image in content["images"]:
        picture = Image.new("RGB", (80, 60), (image["id"] * 90, 5, 5))
        exif = picture.getexif()
        exif[0x112] = 3 if image["id"] == 1 else 1
        image["file_name"] = f"{image['id']}.jpg"
        picture.save(tmp_path / "train" / image["file_name"], exif=exif)
    (tmp_path / "train.json").write_text(json.dumps(content))
    source, splits = read_source(tmp_path)
    report = check_dataset(str(source.root), source.format, splits, CheckOptions(workers=1))
    unclear = [f for _, f in report.findings if f.code.startswith("exif")]
    assert [(f.code, f.severity, f.examples) for f in unclear] == [("exif-unclear", "warning", ("1.jpg (image id 1)",))]


def test_the_folder_of_xml_files_alone_finds_the_pictures_beside_it(tmp_path: Path) -> None:
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "JPEGImages" / "a.png")
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    size = "<size><width>20</width><height>10</height></size>"
    text = f"<annotation><filename>a.png</filename>{size}<object><name>cat</name>{box}</object></annotation>"
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    records, report = read_split(detect(tmp_path / "Annotations"), "all")
    assert records.path(0).is_file() and records.boxes.tolist() == [[2, 3, 9, 8]] and not report.findings
