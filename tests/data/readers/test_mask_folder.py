"""Mask folders: pairs by name, class files, and every fault of names, files and values found with its likely fix."""

import json
import os
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from effdense.data.checks.mask_check import check_masks
from effdense.data.generated.shapes import write_shapes
from effdense.data.image_io import write_jpeg, write_png
from effdense.data.readers.mask_folder import read_mask_folder
from effdense.data.records import ClassMap
from effdense.errors import ConfigError, DataError

CLASSES = ["sky", "road", "car"]


@pytest.fixture
def folder(tmp_path):
    """Pictures a, b, c of 6x8 px; mask values 0, 1, 2 and 255."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in "cab":
        write_jpeg(tmp_path / "images" / f"{name}.jpg", np.full((6, 8, 3), 90, np.uint8))
        write_png(tmp_path / "masks" / f"{name}.png", grid())
    return tmp_path


def grid():
    mask = np.zeros((6, 8), np.uint8)
    mask[:, 2:4], mask[:, 4:6], mask[:, 6:] = 1, 2, 255
    return mask


def read(folder, **options):
    return read_mask_folder(folder / "images", folder / "masks", **{"classes": CLASSES, **options})


def codes(report):
    return [finding.code for finding in report.findings]


def test_pairs_by_name(folder):
    records, report = read(folder)
    assert [path.name for path in records.image_paths] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [path.name for path in records.mask_paths] == ["a.png", "b.png", "c.png"]
    assert records.class_map == ClassMap(("sky", "road", "car"), (0, 1, 2))
    assert records.source == folder / "images" and records.size(0) == (6, 8)
    assert records[2].path == folder / "images" / "c.jpg" and not report.findings


def test_split_file_decides_which_and_in_what_order(folder):
    (folder / "val.txt").write_text("c\n\nimages/a.jpg\r\nc\n")
    records, report = read(folder, split_file=folder / "val.txt")
    assert [path.stem for path in records.image_paths] == ["c", "a"]
    assert records.source == folder / "val.txt" and codes(report) == ["repeated-name"]


def test_class_file(folder):
    file = folder / "classes.json"
    file.write_text(json.dumps({"classes": CLASSES, "ignore_index": 255, "pixels": {}}))
    assert read(folder, classes=file)[0].class_map.names == tuple(CLASSES)
    file.write_text(json.dumps({"classes": CLASSES, "values": [1, 2, 7], "ignore_index": 0}))
    records, _ = read(folder, classes=str(file), ignore_index=0)
    assert records.class_map.category_ids == (1, 2, 7) and records.ignore_index == 0


def test_subset_and_pickle(folder):
    records = read(folder)[0].subset([2, 0])
    again = pickle.loads(pickle.dumps(records))
    assert [path.stem for path in again.mask_paths] == ["c", "a"] and len(again) == 2


def test_pictures_without_mask_are_named_and_left_out(folder):
    (folder / "masks" / "b.png").rename(folder / "masks" / "b_label.png")
    records, report = read(folder)
    assert [path.stem for path in records.image_paths] == ["a", "c"]
    assert codes(report) == ["unused-mask", "missing-mask"]
    with pytest.raises(DataError, match=r"1x: .*'b_label\.png': rename.*b\.jpg"):
        report.raise_for_errors()


def test_split_names_without_files(folder):
    (folder / "val.txt").write_text("a\nx\ny\n")
    (folder / "masks" / "a.png").unlink()
    records, report = read(folder, split_file=folder / "val.txt")
    assert len(records) == 0 and codes(report) == ["missing-image", "missing-mask"]
    assert report.findings[0].examples == ("x", "y") and report.findings[1].count == 1


def test_two_pictures_of_one_name(folder):
    write_png(folder / "images" / "a.png", np.zeros((6, 8, 3), np.uint8))
    _, report = read(folder)
    assert codes(report) == ["double-name"] and report.findings[0].examples == ("a.jpg and a.png",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": []}, "list of names"),
        ({"classes": ["a", "a"]}, "unique"),
        ({"classes": "nowhere.json"}, "class file"),
        ({"split_file": "nowhere.txt"}, "split file"),
        ({"ignore_index": 1}, "ignore_index 1"),
        ({"class_map": ClassMap(("a", "b", "c"), (0, 1, 2))}, "not those that the model has"),
    ],
)
def test_what_cannot_be_read_at_all(folder, options, message):
    with pytest.raises(DataError, match=message):
        read(folder, **options)


def test_empty_split_and_empty_folders(folder):
    (folder / "val.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"val\.txt: the split is empty; the file has no names"):
        read(folder, split_file=folder / "val.txt")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file in .*empty ends in .*\.jpg"):
        read_mask_folder(folder / "empty", folder / "masks", classes=CLASSES)
    with pytest.raises(DataError, match="the mask folder"):
        read_mask_folder(folder / "images", folder / "maks", classes=CLASSES)


def test_good_masks_have_no_findings(folder):
    assert not check_masks(read(folder)[0]).findings


def test_values_outside_the_classes_with_counts(folder):
    mask = grid()
    mask[0, 0], mask[1, :3] = 9, 4
    write_png(folder / "masks" / "b.png", mask)
    report = check_masks(read(folder)[0])
    assert codes(report) == ["mask-values"] and report.errors[0].examples == ("b.png (4: 3 px, 9: 1 px)",)
    assert "classes with values 0..2, and 255" in report.errors[0].message


def test_masks_counted_from_one(folder):
    for name in "abc":
        write_png(folder / "masks" / f"{name}.png", np.minimum(grid(), 2) + 1)
    report = check_masks(read(folder)[0])
    assert codes(report) == ["mask-values"] and "counted from 1" in report.errors[0].message


def test_binary_masks_in_which_the_object_would_be_ignored(folder):
    for name in "abc":
        write_png(folder / "masks" / f"{name}.png", np.where(grid() == 1, 255, 0).astype(np.uint8))
    report = check_masks(read(folder)[0])
    assert codes(report) == ["binary-mask"] and "Write 1 in place of 255" in report.errors[0].message
    other = check_masks(read(folder, ignore_index=254)[0])
    assert codes(other) == ["mask-values"] and "write 1 in place of 255" in other.errors[0].message


def test_kinds_of_mask_files(folder):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "masks" / "a.png")
    cv2.imwrite(str(folder / "masks" / "b.png"), grid().astype(np.uint16))
    palette = Image.fromarray(grid(), mode="P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(folder / "masks" / "c.png")
    report = check_masks(read(folder)[0])
    assert codes(report) == ["mask-kind"] and report.errors[0].count == 2
    first, second = report.errors[0].examples
    assert "a.png is RGB (colour-coded" in first and "b.png is I;16 (16-bit" in second


def test_size_of_the_mask(folder):
    write_png(folder / "masks" / "b.png", np.zeros((6, 9), np.uint8))
    report = check_masks(read(folder)[0])
    assert report.errors[0].examples == ("b.png is 9x6, the picture 8x6 (width x height)",)


def test_broken_files(folder):
    whole = (folder / "masks" / "a.png").read_bytes()
    (folder / "masks" / "a.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images" / "b.jpg").write_bytes(b"")
    assert codes(check_masks(read(folder)[0])) == ["unreadable-image", "unreadable-mask"]


def test_all_ignored_and_absent_are_warnings(folder):
    write_png(folder / "masks" / "a.png", np.full((6, 8), 255, np.uint8))
    for name in "bc":
        write_png(folder / "masks" / f"{name}.png", np.ones((6, 8), np.uint8))
    report = check_masks(read(folder)[0])
    assert codes(report) == ["all-ignored", "absent-class"] and not report.errors
    assert report.findings[1].examples == ("sky", "car")


def test_decode_limits_the_pixels_looked_at(folder):
    write_png(folder / "masks" / "b.png", np.full((6, 8), 77, np.uint8))
    records = read(folder)[0]
    assert not check_masks(records, decode=0).findings
    assert not check_masks(records, decode=2).findings  # the first and the last
    assert codes(check_masks(records, decode=3)) == ["mask-values"]
    with pytest.raises(ConfigError, match="decode"):
        check_masks(records, decode=-1)


def test_the_generated_set_reads(tmp_path):
    root = write_shapes(tmp_path / "shapes", splits={"train": 6}, image_size=64)
    records, report = read_mask_folder(
        root / "train", root / "semantic" / "train", classes=root / "semantic" / "classes.json"
    )
    assert len(records) == 6 and records.class_map.names[0] == "background" and not report.findings
    assert not check_masks(records).errors


@pytest.mark.skipif("EFFDENSE_DATA" not in os.environ, reason="EFFDENSE_DATA is not set: no real data")
def test_camvid():
    parts = "camvid/images", "camvid/masks"
    try:
        splits = [
            read_mask_folder(*parts, classes="camvid/classes.json", split_file=f"camvid/splits/{name}.txt")
            for name in ("train", "val", "test")
        ]
    except DataError as error:
        pytest.skip(f"no CamVid: {error}")
    assert [len(records) for records, _ in splits] == [367, 101, 233]
    assert all(not report.findings for _, report in splits)
    assert not check_masks(splits[1][0]).findings
