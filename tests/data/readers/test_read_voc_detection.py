"""read_voc_detection: boxes by hand, each layout, then each fault planted alone gives its one finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdense.data.checks.check import check_images
from effdense.data.readers.voc_detection import read_voc_detection
from effdense.data.records import ClassMap
from effdense.errors import ConfigError, DataError

CAT = "<object><name>cat</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>30</xmax><ymax>50</ymax></bndbox></object>"
DOG = CAT.replace("cat", "dog").replace("10", "40").replace("30", "55.5")


def xml(*objects: str, name: str = "a.jpg", size: str = "<width>100</width><height>80</height>", head: str = "") -> str:
    return f"<annotation>{head}<filename>{name}</filename><size>{size}</size>{''.join(objects)}</annotation>"


def put(path: Path, content: str | None = None, size: tuple[int, int] = (100, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        Image.new("RGB", size).save(path)
    else:
        path.write_text(content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abc":
        put(tmp_path / f"JPEGImages/{name}.jpg")
        put(tmp_path / f"Annotations/{name}.xml", xml(CAT, DOG, name=f"{name}.jpg"))
    put(tmp_path / "ImageSets/Main/train.txt", "b\na\n")
    put(tmp_path / "ImageSets/Main/val.txt", "c  1\n")
    put(tmp_path / "ImageSets/Main/trainval.txt", "a\nb\nc\n")
    put(tmp_path / "ImageSets/Main/cat_train.txt", "a 1\nb -1\n")
    return tmp_path


def test_devkit_by_hand(root: Path) -> None:
    records, report = read_voc_detection(root, "train", training=True)
    assert report.findings == []
    assert records.class_map == ClassMap(("cat", "dog"), (1, 2))
    assert [records.names[i] for i in range(2)] == ["a.jpg", "b.jpg"] and records.image_dir == root / "JPEGImages"
    np.testing.assert_array_equal(records[0].boxes, [[10, 20, 30, 50], [40, 20, 55.5, 50]])
    assert records[0].labels.tolist() == [0, 1] and records[0].areas.tolist() == [600, 465]
    assert records.sizes.tolist() == [[80, 100]] * 2 and check_images(records).findings == []
    assert len(read_voc_detection(root, "val")[0]) == 1
    assert len(read_voc_detection(root, "trainval")[0]) == 3
    with pytest.raises(DataError, match="has no split 'test'; it has 'train', 'val', 'trainval'"):
        read_voc_detection(root, "test")


def test_files_of_the_challenge_count_from_one(root: Path) -> None:
    head = "<source><database>The VOC2007 Database</database></source>"
    for name in "ab":
        put(root / f"Annotations/{name}.xml", xml(CAT, DOG, head=head))
    records, report = read_voc_detection(root, "train")
    assert [(f.severity, f.code, f.count) for f in report.findings if f.code == "one-based"] == [
        ("note", "one-based", 2)
    ]
    np.testing.assert_array_equal(records[0].boxes[0], [9, 19, 30, 50])
    assert read_voc_detection(root, "train", one_based=False)[0][0].boxes[0].tolist() == [10, 20, 30, 50]
    assert read_voc_detection(root, "val", one_based=True)[0][0].boxes[0].tolist() == [9, 19, 30, 50]


@pytest.mark.parametrize(("choice", "boxes", "crowds"), [("keep", 2, 0), ("ignore", 2, 1), ("drop", 1, 0)])
def test_difficult_objects(root: Path, choice: str, boxes: int, crowds: int) -> None:
    put(root / "Annotations/c.xml", xml(CAT.replace("</name>", "</name><difficult>1</difficult>"), DOG, name="c.jpg"))
    records, report = read_voc_detection(root, "val", difficult=choice)
    assert len(records.boxes) == boxes and int(records.is_crowd.sum()) == crowds
    note = next(f for f in report.findings if f.code == "difficult")
    assert note.severity == "note" and note.examples == ("c.xml object 1 (cat)",)
    with pytest.raises(ConfigError, match="difficult must be one of"):
        read_voc_detection(root, "val", difficult="maybe")


def test_classes_come_from_all_splits_a_list_or_the_caller(root: Path) -> None:
    put(root / "Annotations/c.xml", xml(CAT.replace("cat", "ant"), name="c.jpg"))
    assert read_voc_detection(root, "train")[0].class_map.names == ("ant", "cat", "dog")
    records, _ = read_voc_detection(root, "train", classes=["dog", "cat"])
    assert records.class_map == ClassMap(("dog", "cat"), (1, 2)) and records[0].labels.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="Did you mean 'dog'"):
        read_voc_detection(root, "train", classes=["dogs"])
    put(root / "classes.txt", "dog\ncat\n")
    records, report = read_voc_detection(root, "val")
    assert records.class_map.names == ("dog", "cat")
    unknown = next(f for f in report.errors if f.code == "unknown-class")
    assert unknown.examples[0].startswith("c.xml object 1 (ant)")
    assert read_voc_detection(root, "train", classes=["cat"])[0].class_map == ClassMap(("cat",), (2,))


def test_a_split_of_another_set_takes_the_class_map_it_is_given(root: Path) -> None:
    trained = ClassMap(("ant", "cat", "dog"), (1, 2, 3))
    records, _ = read_voc_detection(root, "val", class_map=trained)
    assert records.class_map == trained and records[0].labels.tolist() == [1, 2]
    _, report = read_voc_detection(root, "val", class_map=ClassMap(("cat",), (1,)))
    assert [f.code for f in report.errors] == ["unknown-class"]


FAULTS = {
    "missing-name": ("<name>cat</name>", "<name> </name>", "error"),
    "bad-bbox": ("<xmax>30</xmax>", "<xmax>thirty</xmax>", "error"),
    "non-finite-bbox": ("<xmax>30</xmax>", "<xmax>inf</xmax>", "error"),
    "degenerate-bbox": ("<xmax>30</xmax>", "<xmax>10</xmax>", "warning"),
    "bbox-outside": ("<xmin>10</xmin>", "<xmin>10</xmin>", "warning"),
    "bbox-clipped": ("<xmax>30</xmax>", "<xmax>103</xmax>", "warning"),
}


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_of_an_object_is_named_with_its_file(root: Path, code: str) -> None:
    old, new, severity = FAULTS[code]
    changed = CAT.replace(old, new)
    if code == "bbox-outside":
        changed = CAT.replace(">10<", ">110<").replace(">30<", ">130<")
    put(root / "Annotations/b.xml", xml(changed, DOG, name="b.jpg"))
    _, report = read_voc_detection(root, "train")
    assert [(f.severity, f.code, f.count) for f in report.findings] == [(severity, code, 1)]
    assert report.findings[0].examples[0].startswith("b.xml object 1")


def test_parts_and_boxes_without_numbers(root: Path) -> None:
    part = CAT.replace(
        "</object>", f"<part><name>head</name>{CAT[CAT.index('<bndbox>') : CAT.index('</object>')]}</part></object>"
    )
    put(root / "Annotations/c.xml", xml(part, "<object><name>dog</name><robndbox/></object>", name="c.jpg"))
    records, report = read_voc_detection(root, "val")
    assert len(records.boxes) == 1 and records.class_map.names == ("cat", "dog")
    assert [f.code for f in report.errors] == ["bad-bbox"] and "rotated" in report.errors[0].examples[0]


def test_fractions_are_not_taken_for_pixels(root: Path) -> None:
    fraction = CAT
    for old, new in ((">10<", ">0.1<"), (">20<", ">0.2<"), (">30<", ">0.3<"), (">50<", ">0.5<")):
        fraction = fraction.replace(old, new)
    put(root / "Annotations/c.xml", xml(fraction, DOG, name="c.jpg"))
    records, report = read_voc_detection(root, "val")
    assert [f.code for f in report.errors] == ["normalised-bbox"] and len(records.boxes) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<annotation><object>", "not valid XML"),
        ("", "empty"),
        ("<html></html>", "expected <annotation>"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "DOCTYPE"),
        ('<?xml version="1.0"?><!doctype annotation SYSTEM "file:///etc/passwd"><annotation/>', "DOCTYPE"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "encoding"),
    ],
)
def test_xml_that_cannot_or_must_not_be_read(root: Path, content: str, words: str) -> None:
    put(root / "Annotations/b.xml", content)
    records, report = read_voc_detection(root, "train")
    (finding,) = report.findings
    assert finding.code == "unreadable-annotation" and finding.severity == "error" and len(records) == 1
    assert finding.examples[0].startswith("Annotations/b.xml: ") and words in finding.examples[0]


def test_a_document_type_is_found_in_utf_16_too(root: Path) -> None:
    bomb = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a [<!ENTITY x "yyyy">]><annotation>&x;</annotation>'
    (root / "Annotations/b.xml").write_bytes(bomb.encode("utf-16"))
    _, report = read_voc_detection(root, "train")
    assert "DOCTYPE" in report.errors[0].examples[0]
    fine = '<?xml version="1.0" encoding="UTF-16"?>' + xml(CAT, DOG, name="b.jpg")
    (root / "Annotations/b.xml").write_bytes(fine.encode("utf-16"))
    assert read_voc_detection(root, "train")[1].findings == []


def test_lists_that_name_what_is_not_there(root: Path) -> None:
    put(root / "ImageSets/Main/train.txt", "a\nzz\n")
    _, report = read_voc_detection(root, "train")
    assert [(f.code, f.examples) for f in report.errors] == [("missing-annotation", ("Annotations/zz.xml",))]
    put(root / "ImageSets/Main/train.txt", "../../secret\n")
    with pytest.raises(DataError, match=r"train.txt:1: '../../secret' leads out"):
        read_voc_detection(root, "train")


def test_pictures_are_found_by_the_files_own_name_then_by_what_it_says(tmp_path: Path) -> None:
    put(tmp_path / "one.png")
    put(tmp_path / "one.xml", xml(CAT, name="C:\\pictures\\one.jpg"))
    put(tmp_path / "photo two.jpg")
    put(tmp_path / "two.xml", xml(CAT, name="folder/photo two.jpeg"))
    put(tmp_path / "three.jpg")
    put(tmp_path / "three.xml", xml(CAT, name="four.jpg"))
    records, report = read_voc_detection(tmp_path, "all")
    assert [records.names[i] for i in range(3)] == ["one.png", "three.jpg", "photo two.jpg"]
    assert [(f.code, f.count) for f in report.findings] == [("filename-differs", 1)]
    (tmp_path / "one.png").unlink()
    records, _ = read_voc_detection(tmp_path, "all")
    assert [f.code for f in check_images(records).errors] == ["missing-image"]


def test_sizes_come_from_the_picture_where_the_file_has_none(root: Path) -> None:
    put(root / "Annotations/c.xml", xml(CAT, DOG, name="c.jpg", size="<width>0</width><height>0</height>"))
    records, report = read_voc_detection(root, "val")
    assert records.sizes.tolist() == [[80, 100]]
    assert [(f.severity, f.code) for f in report.findings] == [("warning", "missing-size")]
    put(root / "Annotations/c.xml", xml(CAT, DOG, name="c.jpg", size="<width>200</width><height>80</height>"))
    assert [f.code for f in check_images(read_voc_detection(root, "val")[0]).errors] == ["size-mismatch"]


def test_roboflow_labelimg_and_two_folder_layouts(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        put(tmp_path / f"flat/{split}/a.jpg")
        put(tmp_path / f"flat/{split}/a.xml", xml(CAT))
    put(tmp_path / "two/images/a.jpg")
    put(tmp_path / "two/annotations/a.xml", xml(CAT))
    assert len(read_voc_detection(tmp_path / "flat", "val")[0].boxes) == 1
    assert len(read_voc_detection(tmp_path / "two", "all")[0].boxes) == 1
    assert len(read_voc_detection(tmp_path / "two/annotations/a.xml", "all")[0].boxes) == 1


def test_pictures_without_annotation_are_left_out_and_named(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    put(tmp_path / "b.jpg")
    put(tmp_path / "a.xml", xml(CAT))
    records, report = read_voc_detection(tmp_path, "all")
    assert len(records) == 1 and [(f.code, f.examples) for f in report.findings] == [("missing-annotation", ("b.jpg",))]


def test_names_in_two_spellings_are_pointed_out(root: Path) -> None:
    put(root / "Annotations/a.xml", xml(CAT.replace("cat", "Cat")))
    _, report = read_voc_detection(root, "train")
    assert [(f.code, f.examples) for f in report.findings] == [("similar-class-names", ("'Cat' and 'cat'",))]
