"""read_coco: a clean file by hand and against pycocotools, then each fault planted alone gives its one finding."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO

from effdense.data.checks.check import DataReport
from effdense.data.readers.coco import read_coco
from effdense.data.records import ClassMap
from effdense.errors import ConfigError, DataError


def clean_content():
    """Four pictures of 100x80, three objects each; ids 2, 5, 9 in an order that is not theirs."""
    categories = [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 9, "name": "cow"}]
    images = [{"id": 10 + i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in range(4)]
    annotations = []
    for i in range(4):
        for k, category in enumerate((2, 5, 9)):
            box = [10.0 * k + i, 5, 20, 30]
            annotation = {"id": 100 + 3 * i + k, "image_id": 10 + i, "category_id": category, "bbox": box}
            annotations.append({**annotation, "area": 500.0, "iscrowd": 0})
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def read(tmp_path):
    def run(content, **options):
        file = tmp_path / "instances.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_coco(file, tmp_path, **options)

    return run


def codes(findings):
    return [f.code for f in findings]


def test_clean_file_by_hand(read, tmp_path):
    records, report = read(clean_content(), training=True)
    assert report.findings == []
    report.raise_for_errors()
    assert records.class_map == ClassMap(("cat", "dog", "cow"), (2, 5, 9))
    third = records[2]
    assert (third.image_id, third.path, third.width, third.height) == (12, tmp_path / "2.jpg", 100, 80)
    np.testing.assert_array_equal(third.boxes, [[2, 5, 22, 35], [12, 5, 32, 35], [22, 5, 42, 35]])
    assert third.labels.tolist() == [0, 1, 2]
    assert third.annotation_ids.tolist() == [106, 107, 108]
    assert third.areas.tolist() == [500, 500, 500]
    assert records.annotation_file == tmp_path / "instances.json"


def test_agrees_with_pycocotools_whatever_the_order_of_entries(read, tmp_path):
    content = clean_content()
    content["annotations"][4]["iscrowd"] = 1
    shuffle = np.random.default_rng(0).permutation(12)
    content["annotations"] = [content["annotations"][i] for i in shuffle]
    records, _ = read(content)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "instances.json"))
    assert records.image_ids.tolist() == coco.getImgIds()
    for i in range(len(records)):
        record = records[i]
        theirs = coco.imgToAnns[record.image_id]
        assert record.annotation_ids.tolist() == [a["id"] for a in theirs]
        assert [records.class_map.category_ids[k] for k in record.labels] == [a["category_id"] for a in theirs]
        assert record.is_crowd.tolist() == [bool(a["iscrowd"]) for a in theirs]
        boxes = np.array([a["bbox"] for a in theirs])
        np.testing.assert_array_equal(record.boxes, np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))


def plant(change):
    content = clean_content()
    change(content)
    return content


def set_box(position, box):
    return lambda c: c["annotations"][position].update(bbox=box)


def write_as_xyxy(content):
    for entry in content["annotations"]:
        entry["bbox"] = [60, 40, 80, 70]


ERRORS = {
    "annotation without bbox": (
        lambda c: c["annotations"][1].pop("bbox"),
        "missing-key",
        r"annotations\[1\] \(id 101\) lacks bbox",
    ),
    "image without width": (lambda c: c["images"][3].pop("width"), "missing-key", r"images\[3\] \(id 13\) lacks width"),
    "image of size 0": (lambda c: c["images"][3].update(width=0), "bad-image-entry", r"images\[3\]"),
    "image id is text": (
        lambda c: c["images"].append({**c["images"][0], "id": "x"}),
        "bad-image-entry",
        r"images\[4\]",
    ),
    "path leaves the folder": (
        lambda c: c["images"][0].update(file_name="../secret/0.jpg"),
        "unsafe-path",
        r"\.\./secret/0\.jpg",
    ),
    "path is absolute": (lambda c: c["images"][0].update(file_name="/etc/0.jpg"), "unsafe-path", "/etc/0.jpg"),
    "path names a drive": (lambda c: c["images"][0].update(file_name="C:\\0.jpg"), "unsafe-path", "C:"),
    "image id twice": (lambda c: c["images"].append({**c["images"][0]}), "duplicate-image-id", r"10 \(0\.jpg\)"),
    "category id twice": (
        lambda c: c["categories"].append({"id": 5, "name": "fox"}),
        "duplicate-category",
        "id 5",
    ),
    "category name twice": (
        lambda c: c["categories"].append({"id": 7, "name": "cat"}),
        "duplicate-category",
        "name 'cat'",
    ),
    "category without name": (
        lambda c: c["categories"].append({"id": 7, "name": None}),
        "bad-category",
        "7",
    ),
    "annotation id is text": (lambda c: c["annotations"][0].update(id="x"), "bad-annotation-id", r"annotations\[0\]"),
    "unknown category": (
        lambda c: c["annotations"][0].update(category_id=3),
        "unknown-category-id",
        r"annotation 100 \(category_id 3\)",
    ),
    "unknown image": (
        lambda c: c["annotations"][0].update(image_id=3),
        "unknown-image-id",
        r"annotation 100 \(image_id 3\)",
    ),
    "box of three numbers": (set_box(0, [1, 2, 3]), "bad-bbox", r"annotation 100 \(bbox \[1, 2, 3\]\)"),
    "box of text": (set_box(0, [1, 2, 3, "4"]), "bad-bbox", "annotation 100"),
    "NaN box": (set_box(0, [1, 2, math.nan, 4]), "non-finite-bbox", "annotation 100"),
    "infinite box": (set_box(0, [1, 2, math.inf, 4]), "non-finite-bbox", "annotation 100"),
    "xyxy written as xywh": (write_as_xyxy, "boxes-beyond-image", "x1, y1, x2, y2 written where COCO means"),
    "no image": (lambda c: c.update(images=[], annotations=[]), "empty-split", "no usable image"),
    "no object": (lambda c: c.update(annotations=[]), "no-objects", "no usable object"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_planted_error_is_the_only_one_and_names_its_place(read, fault):
    change, code, place = ERRORS[fault]
    records, report = read(plant(change), training=True)
    assert codes(report.errors) == [code]
    assert report.warnings == [] or code == "boxes-beyond-image"  # all boxes alike there, hence doubled ones too
    with pytest.raises(DataError, match=place):
        report.raise_for_errors()
    assert np.isfinite(records.boxes).all()


WARNINGS = {
    "zero width": (
        set_box(0, [1, 2, 0, 4]),
        "degenerate-bbox",
        11,
        "annotation 100 in 0.jpg (bbox 1, 2, 0, 4 in 100x80)",
    ),
    "negative height": (
        set_box(0, [1, 20, 5, -4]),
        "degenerate-bbox",
        11,
        "annotation 100 in 0.jpg (bbox 1, 20, 5, -4 in 100x80)",
    ),
    "outside": (
        set_box(0, [100, 2, 5, 4]),
        "bbox-outside",
        11,
        "annotation 100 in 0.jpg (bbox 100, 2, 5, 4 in 100x80)",
    ),
    "beyond the border": (
        set_box(0, [90, 60, 13, 30]),
        "bbox-clipped",
        12,
        "annotation 100 in 0.jpg (bbox 90, 60, 13, 30 in 100x80)",
    ),
    "annotation id twice": (
        lambda c: c["annotations"][1].update(id=100),
        "duplicate-annotation-id",
        12,
        "annotation 100 in 0.jpg",
    ),
    "crowd": (
        lambda c: c["annotations"].append({**c["annotations"][0], "id": 7, "iscrowd": 1, "bbox": [0, 0, 9, 9]}),
        "crowd",
        13,
        "annotation 7 in 0.jpg",
    ),
    "doubled box": (
        lambda c: c["annotations"].append({**c["annotations"][0], "id": 7}),
        "duplicate-bbox",
        13,
        "annotation 7 in 0.jpg",
    ),
    "picture without object": (
        lambda c: c["images"].append({"id": 1, "file_name": "e.jpg", "width": 9, "height": 9}),
        "empty-image",
        12,
        "e.jpg",
    ),
    "class without object": (
        lambda c: c["categories"].append({"id": 1, "name": "fox"}),
        "class-without-objects",
        12,
        "fox",
    ),
    "no area": (lambda c: c["annotations"][0].pop("area"), "missing-area", 12, "annotation 100 in 0.jpg"),
}


@pytest.mark.parametrize("fault", WARNINGS)
def test_planted_warning_is_counted_named_and_handled(read, fault):
    change, code, boxes_left, place = WARNINGS[fault]
    records, report = read(plant(change), training=True)
    assert report.errors == []
    assert codes(report.warnings) == [code]
    assert report.warnings[0].count == 1
    assert report.warnings[0].examples == (place,)
    assert len(records.boxes) == boxes_left
    assert (records.boxes >= 0).all() and (records.boxes <= [100, 80, 100, 80]).all()


def test_clipped_box_and_borrowed_area_by_hand(read):
    records, _ = read(plant(set_box(0, [90, 60, 13, 30])))
    assert records[0].boxes[0].tolist() == [90, 60, 100, 80]
    records, _ = read(plant(lambda c: c["annotations"][0].pop("area")))
    assert records[0].areas.tolist() == [600, 500, 500]


def test_an_overhang_of_one_pixel_is_no_news(read):
    records, report = read(plant(set_box(0, [80, 60, 20.9, 20.5])))
    assert report.findings == []
    assert records[0].boxes[0].tolist() == [80, 60, 100, 80]


def test_annotation_id_zero_is_fine(read):
    _, report = read(plant(lambda c: c["annotations"][0].update(id=0)))
    assert report.findings == []


def test_what_refers_to_a_refused_image_has_no_finding_of_its_own(read):
    records, report = read(plant(lambda c: c["images"][0].update(height=-1)))
    assert codes(report.findings) == ["bad-image-entry"]
    assert len(records) == 3 and len(records.boxes) == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "not valid JSON"),
        ("[]", "results file"),
        ({"images": [], "annotations": []}, r"\['categories'\] are missing"),
        ({"images": [], "annotations": {}, "categories": []}, r"\['annotations'\] are missing or not lists"),
        ({"images": [], "annotations": [], "categories": []}, "no usable entry"),
    ],
)
def test_what_is_no_coco_file_stops_at_once(read, content, message):
    with pytest.raises(DataError, match=message):
        read(content)


def test_missing_file_and_folder_stop_at_once(tmp_path):
    with pytest.raises(DataError, match="COCO annotation file"):
        read_coco(tmp_path / "none.json", tmp_path)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="image folder"):
        read_coco(tmp_path / "a.json", tmp_path / "none")


def test_classes_select_by_name_and_keep_the_order_of_ids(read):
    records, report = read(clean_content(), classes=["cow", "cat"])
    assert records.class_map == ClassMap(("cat", "cow"), (2, 9))
    assert records[0].labels.tolist() == [0, 1]
    assert report.findings == []
    with pytest.raises(ConfigError, match="Did you mean 'cow'"):
        read(clean_content(), classes=["cov"])


def test_class_map_of_the_training_split_must_agree(read):
    wanted = ClassMap(("cat", "dog", "cow"), (2, 5, 9))
    assert read(clean_content(), class_map=wanted)[0].class_map == wanted
    with pytest.raises(DataError) as caught:
        read(clean_content(), class_map=ClassMap(("cat", "hound", "cow", "fox"), (2, 5, 9, 11)))
    text = str(caught.value)
    assert "id 5: here 'dog', expected 'hound'" in text
    assert "id 11: here 'absent', expected 'fox'" in text
    assert "in 2 place(s)" in text


def test_keep_empty_false_leaves_out_pictures_with_crowds_only_too(read):
    content = clean_content()
    content["annotations"] = content["annotations"][:4]
    content["annotations"][3]["iscrowd"] = 1
    records, report = read(content, keep_empty=False)
    assert records.image_ids.tolist() == [10]
    assert {f.code: f.count for f in report.warnings}["empty-image"] == 3


def test_several_errors_come_in_one_exception(read):
    content = clean_content()
    content["annotations"][0]["bbox"] = [1]
    content["annotations"][4]["category_id"] = 77
    content["annotations"][8]["category_id"] = 78
    _, report = read(content)
    with pytest.raises(DataError) as caught:
        report.raise_for_errors()
    text = str(caught.value)
    assert "2 error(s)" in text and "[bad-bbox] 1x" in text and "[unknown-category-id] 2x" in text
    assert report.summary().splitlines()[-1] == "2 errors, 0 warnings"


def test_reports_merge():
    first, second = DataReport("a.json"), DataReport("b.json")
    first.add("error", "x", "an error.", ["here"])
    second.add("warning", "y", "a warning.", range(7))
    second.add("warning", "z", "nothing.", [])
    both = first.merge(second)
    assert codes(both.findings) == ["x", "y"]
    assert both.source == "a.json, b.json"
    assert both.warnings[0].count == 7 and both.warnings[0].examples == ("0", "1", "2", "3", "4")
    assert both.to_dict()["findings"][0]["code"] == "x"
