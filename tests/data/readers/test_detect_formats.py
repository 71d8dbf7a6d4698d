"""detect: what a file or folder is, its splits, and messages where that is unclear."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdense.data.readers.formats import (
    FORMATS,
    detect,
    read_classification_split,
    read_segmentation_split,
    read_split,
)
from effdense.errors import ConfigError, DataError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20)).save(path)


def coco(path: Path, names: tuple[str, ...] = ("a.jpg",)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name, "width": 30, "height": 20} for i, name in enumerate(names)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12} for i in range(len(names))]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}))


def yolo(root: Path) -> None:
    picture(root / "images/train/a.jpg")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [cat]\n")


def voc(root: Path) -> None:
    picture(root / "JPEGImages/a.jpg")
    (root / "Annotations").mkdir()
    corners = "<xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax>"
    size = "<size><width>30</width><height>20</height></size>"
    cat = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    (root / "Annotations/a.xml").write_text(f"<annotation>{size}{cat}</annotation>")


def masks(root: Path) -> None:
    picture(root / "images/val/a.jpg")
    (root / "masks/val").mkdir(parents=True)
    Image.fromarray(np.ones((20, 30), np.uint8)).save(root / "masks/val/a.png")
    (root / "classes.json").write_text('{"classes": ["background", "cat"]}')


def test_each_format_is_found(tmp_path: Path) -> None:
    coco(tmp_path / "coco/annotations/instances_train2017.json")
    picture(tmp_path / "coco/train2017/a.jpg")
    yolo(tmp_path / "yolo")
    voc(tmp_path / "voc")
    masks(tmp_path / "masks")
    picture(tmp_path / "folder/train/cat/a.jpg")
    picture(tmp_path / "folder/train/dog/a.jpg")
    splits = {"coco": "train", "yolo": "train", "voc": "all", "masks": "val", "folder": "train"}
    for format in FORMATS:
        source = detect(tmp_path / format)
        assert (source.format, source.splits, source.root) == (format, (splits[format],), tmp_path / format)
        assert detect(tmp_path / format, format=format) == source
        if format != "folder":
            records, _ = read_split(source, splits[format])
            assert len(records) == 1 and records.path(0).is_file()
    assert len(read_segmentation_split(tmp_path / "masks", "val")[0]) == 1
    assert len(read_classification_split(tmp_path / "folder", "train")[0]) == 2
    with pytest.raises(DataError, match="no boxes"):
        read_split(tmp_path / "folder", "train")
    with pytest.raises(ConfigError, match="no option 'difficult'"):
        read_split(tmp_path / "yolo", "train", difficult="drop")
    with pytest.raises(ConfigError, match="has not all of the options"):
        read_split(tmp_path / "masks", "val", difficult="drop")


def test_files_are_found_by_what_they_are(tmp_path: Path) -> None:
    yolo(tmp_path)
    coco(tmp_path / "annotations/instances_val.json")
    (tmp_path / "val.txt").write_text("images/train/a.jpg\n")
    assert detect(tmp_path / "data.yaml").format == "yolo"
    assert detect(tmp_path / "annotations/instances_val.json").splits == ("val",)
    assert detect(tmp_path / "val.txt").splits == ("val",)
    with pytest.raises(DataError, match=r"a file ending in \.md"):
        (tmp_path / "notes.md").write_text("x")
        detect(tmp_path / "notes.md")


def test_two_formats_in_one_folder(tmp_path: Path) -> None:
    yolo(tmp_path)
    coco(tmp_path / "annotations/instances_train.json")
    with pytest.raises(DataError) as caught:
        detect(tmp_path)
    for words in ("coco and yolo", 'format="coco" or format="yolo"', "--from coco or --from yolo"):
        assert words in str(caught.value)
    assert detect(tmp_path, format="coco").format == "coco"
    assert read_split(detect(tmp_path, format="yolo"), "train")[0].class_map.category_ids == (0,)


def test_nothing_recognised_says_what_was_looked_for(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    with pytest.raises(DataError) as caught:
        detect(tmp_path)
    for words in (
        "a folder with a.jpg",
        "annotations/instances_train2017.json",
        "data.yaml",
        "*.xml",
        "masks",
        "CLASS",
    ):
        assert words in str(caught.value)
    with pytest.raises(DataError, match="There is no data set at"):
        detect(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="Did you mean 'yolo'"):
        detect(tmp_path, format="yolov")


def test_relative_paths_start_here_or_at_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yolo(tmp_path / "sets/pets")
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    assert detect("pets").root == detect("sets/pets").root == tmp_path / "sets/pets"


def test_names_of_splits(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        coco(tmp_path / name / "_annotations.coco.json")
        picture(tmp_path / name / "a.jpg")
    source = detect(tmp_path)
    assert source.splits == ("train", "val", "test")
    records, report = read_split(source, "validation")
    assert report.errors == [] and records.image_dir == tmp_path / "valid"


def test_lists_that_repeat_pictures_are_not_splits_of_their_own(tmp_path: Path) -> None:
    for name in ("train", "train_mini", "val"):
        coco(tmp_path / f"annotations/instances_{name}.json")
    picture(tmp_path / "images/a.jpg")
    source = detect(tmp_path)
    assert source.splits == ("train", "val")
    assert len(read_split(source, "train_mini")[0]) == 1


def test_pictures_of_coco_sets_are_found_where_most_are(tmp_path: Path) -> None:
    coco(tmp_path / "annotations/instances_val.json", ("a.jpg", "b.jpg", "c.jpg"))
    picture(tmp_path / "images/a.jpg")
    for name in "ab":
        picture(tmp_path / f"val2017/{name}.jpg")
    assert read_split(tmp_path, "val")[0].image_dir == tmp_path / "val2017"
    coco(tmp_path / "annotations/instances_val.json", ("x.jpg",))
    _, report = read_split(tmp_path, "val")
    (finding,) = [f for f in report.errors if f.code == "no-image-folder"]
    assert str(tmp_path / "val2017") in finding.message and str(tmp_path / "images") in finding.message


def test_segments_of_coco_are_read_when_asked_for(tmp_path: Path) -> None:
    coco(tmp_path / "labels.json", ("a.jpg", "b.jpg", "c.jpg"))
    content = json.loads((tmp_path / "labels.json").read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 4, 2, 4, 6]]
    content["annotations"][1]["segmentation"] = [[1, 2, 4]]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    picture(tmp_path / "a.jpg")
    records, report = read_split(tmp_path, "all", segments=True)
    assert records.segments is not None and records.segments[0] is not None
    assert records.segments[0].polygons[0].tolist() == [[1, 2], [4, 2], [4, 6]]
    assert records.segments[1] is None and records.segments[2] is None
    bad = next(f for f in report.findings if f.code == "bad-segmentation")
    assert bad.severity == "warning" and bad.count == 1 and bad.examples[0].startswith("annotation 1 in b.jpg (")
    assert read_split(tmp_path, "all")[0].segments is None


def test_a_voc_folder_with_both_kinds_of_annotation_must_be_chosen(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "SegmentationClass").mkdir()
    Image.fromarray(np.ones((20, 30), np.uint8)).save(tmp_path / "SegmentationClass/a.png")
    with pytest.raises(DataError, match="voc and masks"):
        detect(tmp_path)
