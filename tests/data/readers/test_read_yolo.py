"""read_yolo: a set by hand, each layout, then each fault planted alone gives its one finding with file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdense.data.readers.class_lists import read_class_list
from effdense.data.readers.yolo import read_yolo
from effdense.data.records import ClassMap
from effdense.errors import ConfigError, DataError

NAMES = "names: [cat, dog, cow]\n"


def picture(path: Path, size: tuple[int, int] = (100, 80), orientation: int = 1) -> Path:
    """A picture of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (90, 120, 30)).save(path, **({"exif": exif} if orientation != 1 else {}))
    return path


def label(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pictures of 100x80, each with one box of every class, and a val picture."""
    for split, names in (("train", "abc"), ("val", "d")):
        for name in names:
            picture(tmp_path / "images" / split / f"{name}.jpg")
            lines = [f"{k} {0.2 + 0.2 * k} 0.5 0.1 0.25" for k in range(3)]
            label(tmp_path / "labels" / split / f"{name}.txt", *lines)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\n" + NAMES)
    return tmp_path


def codes(report):
    return [f.code for f in report.findings]


def test_clean_set_by_hand(root: Path) -> None:
    picture(root / "images/train/b.jpg", (80, 100), orientation=6)  # seen as 100 wide and 80 high
    records, report = read_yolo(root, "train", training=True)
    assert report.findings == []
    assert [records.names[i] for i in range(3)] == ["a.jpg", "b.jpg", "c.jpg"]
    assert records.image_dir == root / "images" / "train" and records.annotation_file == root / "data.yaml"
    assert records.class_map == ClassMap(("cat", "dog", "cow"), (0, 1, 2))
    assert records.sizes.tolist() == [[80, 100]] * 3
    # cx 0.2 of 100 px is 20, width 10: 15..25; cy 0.5 of 80 px is 40, height 20: 30..50.
    np.testing.assert_allclose(records[1].boxes, [[15, 30, 25, 50], [35, 30, 45, 50], [55, 30, 65, 50]], rtol=1e-6)
    assert records[1].labels.tolist() == [0, 1, 2]
    np.testing.assert_allclose(records[1].areas, [200, 200, 200], rtol=1e-5)
    assert records.annotation_ids.tolist() == list(range(1, 10))


def test_outlines_have_the_bounds_and_area_of_their_polygon(root: Path) -> None:
    label(root / "labels/train/a.txt", "1 0.1 0.1 0.5 0.1 0.1 0.6")  # a triangle of 40 x 40 px
    records, report = read_yolo(root, "train", segments=True)
    assert report.findings == []
    np.testing.assert_allclose(records[0].boxes, [[10, 8, 50, 48]], rtol=1e-6)
    assert records[0].areas.tolist() == [800]
    assert records[0].segments is not None and records[0].segments[0] is not None
    np.testing.assert_allclose(records[0].segments[0].polygons[0], [[10, 8], [50, 8], [10, 48]], rtol=1e-6)
    assert records[1].segments == (None, None, None)


def test_classes_are_chosen_by_name_and_must_be_those_of_the_other_split(root: Path) -> None:
    records, _ = read_yolo(root, "train", classes=["dog"])
    assert records.class_map == ClassMap(("dog",), (1,)) and len(records.boxes) == 3
    with pytest.raises(ConfigError, match="Did you mean 'dog'"):
        read_yolo(root, "train", classes=["dogg"])
    with pytest.raises(DataError, match="differ from the class map"):
        read_yolo(root, "val", class_map=ClassMap(("cat", "dog"), (0, 1)))


FAULTS = {
    "label-columns": "0 0.5 0.5 0.1",
    "label-not-a-number": "cat 0.5 0.5 0.1 0.1",
    "prediction-line": "0 0.5 0.5 0.1 0.1 0.93",
    "non-finite-bbox": "0 nan 0.5 0.1 0.1",
    "not-normalised": "0 50 40 10 10",
    "negative-class": "-1 0.5 0.5 0.1 0.1",
    "class-out-of-range": "3 0.5 0.5 0.1 0.1",
    "class-not-whole": "0.5 0.5 0.5 0.1 0.1",
    "float-class": "1.0 0.5 0.5 0.1 0.1",
    "degenerate-bbox": "0 0.5 0.5 0 0.1",
    "duplicate-bbox": "0 0.2 0.5 0.1 0.25",
    "bbox-clipped": "0 0.98 0.5 0.1 0.1",
}


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_in_a_line_is_named_with_file_and_line(root: Path, code: str) -> None:
    file = root / "labels/train/b.txt"
    file.write_text(file.read_text() + FAULTS[code] + "\n")
    records, report = read_yolo(root, "train")
    (finding,) = report.findings
    assert finding.code == code and finding.count == 1
    assert finding.examples[0].startswith("labels/train/b.txt:4")
    warned = code in ("float-class", "degenerate-bbox", "duplicate-bbox", "bbox-clipped")
    assert finding.severity == ("warning" if warned else "error")
    kept = code in ("float-class", "duplicate-bbox", "bbox-clipped")
    assert len(records.boxes) == 9 + kept


def test_a_box_a_little_over_the_edge_is_cut_without_a_word(root: Path) -> None:
    label(root / "labels/train/a.txt", "0 0.95 0.5 0.1000001 0.25", "1 0.2 0.5 0.1 0.25", "2 0.6 0.5 0.1 0.25")
    records, report = read_yolo(root, "train")
    assert report.findings == [] and records[0].boxes[0, 2] == 100


def test_pictures_and_labels_without_partner(root: Path) -> None:
    (root / "labels/train/a.txt").unlink()
    label(root / "labels/train/b.txt")
    label(root / "labels/train/ghost.txt", "0 0.5 0.5 0.1 0.1")
    label(root / "labels/train/classes.txt", "cat")  # LabelImg leaves it there
    records, report = read_yolo(root, "train")
    assert {f.code: f.examples for f in report.findings} == {
        "missing-label": ("images/train/a.jpg",),
        "orphan-label": ("labels/train/ghost.txt",),
        "empty-image": ("b.jpg",),
    }
    assert len(records) == 3 and np.diff(records.offsets).tolist() == [0, 0, 3]
    assert report.errors == []
    kept, _ = read_yolo(root, "train", keep_empty=False)
    assert [kept.names[i] for i in range(len(kept))] == ["c.jpg"]


def test_no_label_file_at_all_is_an_error_that_says_where_they_are_looked_for(root: Path) -> None:
    (root / "labels").rename(root / "Labels")
    _, report = read_yolo(root, "train")
    (finding, *_) = report.errors
    assert finding.code == "no-labels" and "images/train" in finding.message and finding.count == 3


def test_broken_pictures_are_left_out_and_named(root: Path) -> None:
    (root / "images/train/a.jpg").write_bytes(b"")
    (root / "images/train/b.jpg").write_bytes(b"<html>")
    records, report = read_yolo(root, "train")
    assert codes(report) == ["empty-file", "not-an-image"] and len(report.errors) == 2
    assert [records.names[i] for i in range(len(records))] == ["c.jpg"]


def test_a_label_file_that_is_no_text(root: Path) -> None:
    (root / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00\x80")
    _, report = read_yolo(root, "train")
    assert [f.code for f in report.errors] == ["unreadable-label"]
    assert "labels/train/a.txt" in report.errors[0].examples[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat, no]\ntrain: images/train\n", 'quotes around it: "no"'),
        ("names: [cat, cat]\ntrain: images/train\n", "repeat"),
        ("names: {cat: 0}\ntrain: images/train\n", "numbered from 0"),
        ("names: [cat]\nnc: many\ntrain: images/train\n", "nc must be"),
        ("names: [cat]\ntrain: 5\n", "train must be a folder"),
        ("names: [cat]\n", "path, train, val and names"),
        ("names: [cat\ntrain: x\n", "not valid YAML"),
        ("- a\n- b\n", "no mapping"),
        ("names: []\ntrain: images/train\n", "names is empty"),
    ],
)
def test_a_yaml_that_cannot_be_used(root: Path, text: str, message: str) -> None:
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_yolo(root / "data.yaml", "train")


def test_yaml_is_read_by_the_safe_loader(root: Path) -> None:
    (root / "data.yaml").write_text("train: !!python/object/apply:os.getcwd []\n" + NAMES)
    with pytest.raises(DataError, match="not valid YAML"):
        read_yolo(root / "data.yaml", "train")


def test_names_as_a_dict_with_gaps_keep_their_numbers(root: Path) -> None:
    (root / "data.yaml").write_text("train: images/train\nnames: {0: cat, 2: cow}\n")
    records, report = read_yolo(root, "train")
    assert records.class_map == ClassMap(("cat", "cow"), (0, 2))
    assert codes(report) == ["class-out-of-range", "class-gaps"] or set(codes(report)) == {
        "class-out-of-range",
        "class-gaps",
    }
    assert records[0].labels.tolist() == [0, 1]


def test_nc_against_names(root: Path) -> None:
    (root / "data.yaml").write_text("train: images/train\nnc: 2\n" + NAMES)
    _, report = read_yolo(root, "train")
    assert [(f.severity, f.code) for f in report.findings] == [("error", "class-count")]


def test_folders_that_are_not_there_are_all_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDENSE_DATA", str(root / "sets"))
    (root / "data.yaml").write_text("path: ../pets\ntrain: pictures/train\n" + NAMES)
    with pytest.raises(DataError) as caught:
        read_yolo(root, "train")
    for place in (root.parent / "pets/pictures/train", root / "pictures/train"):
        assert str(place) in str(caught.value)
    assert str(root / "pets") in str(caught.value)


def test_path_is_found_beside_the_yaml_above_it_and_under_the_data_folder(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_yolo(root, "train")[0].boxes
    monkeypatch.setenv("EFFDENSE_DATA", str(root.parent))
    elsewhere = tmp_path_factory.mktemp("configs") / "pets.yaml"
    for path in (root.name, str(root)):
        elsewhere.write_text(f"path: {path}\ntrain: images/train\n" + NAMES)
        np.testing.assert_array_equal(read_yolo(elsewhere, "train")[0].boxes, expected)
    (root / "data.yaml").write_text("train: ../images/train\n" + NAMES)  # as Roboflow writes
    np.testing.assert_array_equal(read_yolo(root, "train")[0].boxes, expected)


def test_list_files_and_lists_of_folders(root: Path) -> None:
    lines = ["./images/train/c.jpg", "images/train/a.jpg", str(root / "images/val/d.jpg"), "data/images/train/b.jpg"]
    (root / "some.txt").write_text("\n".join([*lines, "images/train/zz.jpg", "images/train/a.jpg"]))
    (root / "data.yaml").write_text("train: [some.txt]\nval: [images/val, images/train]\n" + NAMES)
    records, report = read_yolo(root, "train")
    assert [records.names[i] for i in range(len(records))] == ["train/a.jpg", "train/b.jpg", "train/c.jpg", "val/d.jpg"]
    assert {f.code: f.examples for f in report.findings} == {
        "missing-image": ("some.txt:5 (images/train/zz.jpg)",),
        "repeated-name": ("images/train/a.jpg",),
    }
    both, report = read_yolo(root, "val")
    assert len(both) == 4 and report.findings == [] and both.image_dir == root / "images"


def test_bare_folders_take_their_names_from_a_list_or_numbers(root: Path) -> None:
    (root / "data.yaml").unlink()
    records, report = read_yolo(root, "val")
    assert records.class_map.names == ("0", "1", "2") and codes(report) == ["no-names"]
    (root / "classes.txt").write_text("cat\ndog\ncow\n")
    assert read_yolo(root, "val")[0].class_map.names == ("cat", "dog", "cow")


def test_numbers_are_counted_over_all_splits(root: Path) -> None:
    (root / "data.yaml").unlink()
    label(root / "labels/val/d.txt", "7 0.5 0.5 0.1 0.1")
    assert len(read_yolo(root, "train")[0].class_map) == len(read_yolo(root, "val")[0].class_map) == 8


def test_darknet_as_cvat_writes_it(tmp_path: Path) -> None:
    picture(tmp_path / "obj_train_data/a.jpg")
    label(tmp_path / "obj_train_data/a.txt", "1 0.5 0.5 0.2 0.5")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.jpg\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    records, report = read_yolo(tmp_path, "train")
    assert report.errors == [] and records.class_map.names == ("cat", "dog")
    np.testing.assert_allclose(records[0].boxes, [[40, 20, 60, 60]])


def test_flat_folder_with_labels_beside_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    label(tmp_path / "a.txt", "0 0.5 0.5 0.2 0.5")
    label(tmp_path / "classes.txt", "cat")
    records, report = read_yolo(tmp_path, "all")
    assert report.findings == [] and len(records.boxes) == 1
    with pytest.raises(DataError, match='split="all"'):
        read_yolo(tmp_path, "train")


def test_keypoint_sets_are_read_by_their_boxes(root: Path) -> None:
    (root / "data.yaml").write_text("train: images/train\nkpt_shape: [2, 3]\n" + NAMES)
    for name in "abc":
        label(root / f"labels/train/{name}.txt", "0 0.2 0.5 0.1 0.25 0.1 0.1 2 0.2 0.2 1")
    records, report = read_yolo(root, "train")
    assert report.errors == [] and len(records.boxes) == 3


@pytest.mark.parametrize(
    ("name", "text", "names", "ids"),
    [
        ("classes.txt", "\ufeffcat\ndog\n\n", ("cat", "dog"), None),
        ("labels.txt", "0 cat\n1 hot dog\n", ("cat", "hot dog"), (0, 1)),
        ("labelmap.txt", "# label:color\nbackground:0,0,0::\ncat:1,2,3::\n", ("cat",), None),
        ("label_map.pbtxt", "item {\n id: 2\n name: 'dog'\n}\nitem { id: 1 name: \"cat\" }", ("cat", "dog"), (1, 2)),
        ("classes.json", '{"classes": ["a", "b"], "category_ids": [3, 9]}', ("a", "b"), (3, 9)),
    ],
)
def test_class_lists(tmp_path: Path, name: str, text: str, names: tuple[str, ...], ids: tuple[int, ...] | None) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_class_list(tmp_path / name)
    assert (found.names, found.ids) == (names, ids)


def test_class_lists_that_cannot_be_used(tmp_path: Path) -> None:
    for text, message in (("cat\ncat\n", "more than once"), ("\n", "no name"), ("caf\xe9", "UTF-8")):
        (tmp_path / "classes.txt").write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match=message):
            read_class_list(tmp_path / "classes.txt")
