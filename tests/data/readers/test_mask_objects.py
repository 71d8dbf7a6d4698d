"""read_mask_objects: components and instances by hand, background, layouts, faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdense.data.checks.check import check_images
from effdense.data.readers.mask_objects import read_mask_objects
from effdense.data.records import ClassMap
from effdense.errors import ConfigError, DataError


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def scene() -> np.ndarray:
    """20 x 30: a cat of two squares that touch at a corner, a second cat, a dog, an ignored strip."""
    mask = np.zeros((20, 30), np.uint8)
    mask[2:4, 3:5] = 1
    mask[4:6, 5:7] = 1  # diagonal neighbour: one object under 8-connectivity
    mask[10:15, 20:30] = 1
    mask[12:18, 2:4] = 2
    mask[0] = 255
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "images/train/a.jpg", np.zeros((20, 30, 3), np.uint8))
    put(tmp_path / "masks/train/a.png", scene())
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["background", "cat", "dog"]}))
    return tmp_path


def test_components_by_hand(root: Path) -> None:
    records, report = read_mask_objects(root, "train", segments=True)
    assert report.findings == []
    assert records.class_map == ClassMap(("cat", "dog"), (1, 2))
    record = records[0]
    np.testing.assert_array_equal(record.boxes, [[3, 2, 7, 6], [20, 10, 30, 15], [2, 12, 4, 18]])
    assert record.labels.tolist() == [0, 0, 1] and record.areas.tolist() == [8, 50, 12]
    assert records.names[0] == "a.jpg" and records.sizes.tolist() == [[20, 30]]
    assert record.segments is not None and record.segments[0] is not None
    np.testing.assert_array_equal(record.segments[0].bitmap((20, 30))[:8, :10], (scene() == 1)[:8, :10])
    assert check_images(records).findings == []
    assert read_mask_objects(root, "train")[0].segments is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_instances_join_parts_and_part_neighbours(root: Path, dtype: type) -> None:
    numbers = np.zeros((20, 30), dtype)
    numbers[2:6, 3:7] = (scene()[2:6, 3:7] == 1) * 5
    numbers[10:15, 20:25] = 5  # the same animal behind a pole
    numbers[10:15, 25:30] = 200 if dtype is np.uint8 else 60000
    numbers[12:18, 2:4] = 9
    put(root / "instances/train/a.png", numbers)
    records, report = read_mask_objects(root, "train", segments=True)
    assert report.findings == []
    np.testing.assert_array_equal(records[0].boxes, [[3, 2, 25, 15], [2, 12, 4, 18], [25, 10, 30, 15]])
    assert records[0].labels.tolist() == [0, 1, 0] and records[0].areas.tolist() == [33, 12, 25]


def test_instances_that_do_not_fit_the_classes(root: Path) -> None:
    numbers = np.zeros((20, 30), np.uint8)
    numbers[12:19, 2:5] = 1  # more than the dog: its pixels decide
    numbers[10:15, 20:30] = 2
    mask = scene()
    mask[10:15, 20:22] = 2  # a fifth of the second cat
    put(root / "masks/train/a.png", mask)
    numbers[8:9, 8:9] = 3  # nothing there
    put(root / "instances/train/a.png", numbers)
    records, report = read_mask_objects(root, "train")
    assert {f.code: f.examples for f in report.findings} == {
        "instance-without-class": ("a.png instance 3",),
        "mixed-instance": ("a.png instance 2",),
    }
    assert records[0].labels.tolist() == [1, 0]
    put(root / "instances/train/a.png", numbers[:10])
    assert [f.code for f in read_mask_objects(root, "train")[1].errors] == ["size-mismatch", "empty-split"]


def test_background_by_name_by_value_and_as_told(root: Path) -> None:
    (root / "classes.json").write_text(json.dumps({"classes": ["floor", "cat", "dog"]}))
    records, report = read_mask_objects(root, "train")
    assert records.class_map.names == ("cat", "dog")
    assert [(f.code, f.examples) for f in report.findings] == [("background-class", ("floor",))]
    records, report = read_mask_objects(root, "train", background=())
    assert records.class_map.names == ("floor", "cat", "dog") and report.findings == []
    records, report = read_mask_objects(root, "train", background=["floor", "dog"])
    assert records.class_map.names == ("cat",) and report.findings == []
    with pytest.raises(ConfigError, match="Did you mean 'floor'"):
        read_mask_objects(root, "train", background="flor")
    (root / "classes.json").write_text(json.dumps({"classes": ["cat", "dog"], "values": [1, 2]}))
    records, report = read_mask_objects(root, "train")  # 0 is nobody's
    assert records.class_map == ClassMap(("cat", "dog"), (1, 2)) and report.findings == []


def test_chosen_classes_and_values_that_are_none(root: Path) -> None:
    records, _ = read_mask_objects(root, "train", classes=["dog"])
    assert records.class_map == ClassMap(("dog",), (2,)) and records[0].labels.tolist() == [0]
    mask = scene()
    mask[19, :3] = 77
    put(root / "masks/train/a.png", mask)
    _, report = read_mask_objects(root, "train")
    assert [(f.severity, f.code, f.examples) for f in report.findings] == [
        ("error", "mask-values", ("a.png (77: 3 px)",))
    ]


def test_masks_that_cannot_be_read_are_left_out(root: Path) -> None:
    put(root / "images/train/b.jpg", np.zeros((20, 30, 3), np.uint8))
    (root / "masks/train/b.png").write_bytes((root / "masks/train/a.png").read_bytes()[:60])
    records, report = read_mask_objects(root, "train")
    assert len(records) == 1 and [f.code for f in report.errors] == ["unreadable-mask"]
    assert "b.png" in report.errors[0].examples[0]


def test_voc_objects(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 5:15] = 12  # dog
    objects = np.zeros((20, 30), np.uint8)
    objects[5:10, 5:10], objects[5:10, 10:15] = 1, 2
    mask[4], objects[4] = 255, 255
    put(tmp_path / "JPEGImages/a.jpg", np.zeros((20, 30, 3), np.uint8))
    put(tmp_path / "SegmentationClass/a.png", mask)
    put(tmp_path / "SegmentationObject/a.png", objects)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    records, report = read_mask_objects(tmp_path, "val")
    assert report.errors == [] and len(records.class_map) == 20
    np.testing.assert_array_equal(records[0].boxes, [[5, 5, 10, 10], [10, 5, 15, 10]])
    assert [records.class_map.names[k] for k in records[0].labels] == ["dog", "dog"]


def test_cityscapes_instances_and_groups(tmp_path: Path) -> None:
    labels = np.full((20, 30), 7, np.uint8)  # road
    numbers = np.full((20, 30), 7, np.uint16)
    labels[2:6, 2:8], numbers[2:6, 2:5], numbers[2:6, 5:8] = 26, 26000, 26001  # two cars
    labels[10:14, 10:20], numbers[10:14, 10:20] = 24, 24  # a group of people
    name = "city_000000_000001"
    put(tmp_path / f"leftImg8bit/train/city/{name}_leftImg8bit.png", np.zeros((20, 30, 3), np.uint8))
    put(tmp_path / f"gtFine/train/city/{name}_gtFine_labelIds.png", labels)
    put(tmp_path / f"gtFine/train/city/{name}_gtFine_instanceIds.png", numbers)
    records, report = read_mask_objects(tmp_path, "train")
    assert report.errors == []
    assert records.class_map.category_ids == (24, 25, 26, 27, 28, 31, 32, 33)
    np.testing.assert_array_equal(records[0].boxes, [[10, 10, 20, 14], [2, 2, 5, 6], [5, 2, 8, 6]])
    assert [records.class_map.names[k] for k in records[0].labels] == ["person", "car", "car"]
    assert records[0].is_crowd.tolist() == [True, False, False]


def test_other_layouts_and_names(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        put(tmp_path / f"{split}/images/a.jpg", np.zeros((20, 30, 3), np.uint8))
        put(tmp_path / f"{split}/masks/a_mask.png", np.where(scene() == 255, 0, scene()))
    with pytest.raises(DataError, match="has no split 'test'"):
        read_mask_objects(tmp_path, "test")
    records, report = read_mask_objects(tmp_path, "val", mask_suffix="_mask")
    assert {f.code for f in report.findings} == {"no-names", "background-class"}
    assert records.class_map == ClassMap(("1", "2"), (1, 2)) and len(records.boxes) == 3
    with pytest.raises(DataError, match="Expected a set of pictures and masks"):
        read_mask_objects(tmp_path / "train/images", "all")
