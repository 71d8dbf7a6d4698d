"""The generated set: it reads without a finding, masks agree with boxes, and making it twice or longer is safe."""

import json
import logging
import multiprocessing
import os

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from effdense.data.checks.check import check_images
from effdense.data.generated.shape_pictures import SHAPE_CATEGORIES, draw_picture
from effdense.data.generated.shapes import shapes_root, write_shapes
from effdense.data.image_io import read_image
from effdense.data.readers.coco import read_coco
from effdense.errors import ConfigError, DataError

SMALL = {"splits": {"train": 30, "val": 6}, "image_size": (96, 160)}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", **SMALL)


def test_the_set_is_a_clean_coco_set(shapes):
    for split, count in SMALL["splits"].items():
        records, report = read_coco(shapes / f"annotations/instances_{split}.json", shapes / split, training=True)
        assert len(records) == count
        assert report.errors == [] and {f.code for f in report.warnings} <= {"empty-image", "class-without-objects"}
        assert check_images(records, decode="all").findings == []
        assert records.class_map.category_ids == tuple(SHAPE_CATEGORIES) == (1, 2, 4, 7, 9)
        assert (records.sizes >= 96).all() and (records.sizes <= 160).all()


def test_boxes_masks_and_label_maps_tell_the_same(shapes):
    content = json.loads((shapes / "annotations/instances_train.json").read_text())
    classes = json.loads((shapes / "semantic/classes.json").read_text())["classes"]
    names = {c["id"]: c["name"] for c in content["categories"]}
    for image in content["images"]:
        semantic = cv2.imread(str(shapes / f"semantic/train/{image['file_name'][:-4]}.png"), cv2.IMREAD_UNCHANGED)
        assert semantic.shape == (image["height"], image["width"]) and semantic.dtype == np.uint8
        expected = np.zeros_like(semantic)
        for a in content["annotations"]:
            if a["image_id"] == image["id"]:
                mask = rle.decode(a["segmentation"]).astype(bool)
                assert a["bbox"] == rle.toBbox(a["segmentation"]).tolist()
                assert a["area"] == mask.sum() > 0
                assert (expected[mask] == 0).all()  # visible masks do not overlap
                expected[mask] = classes.index(names[a["category_id"]])
        np.testing.assert_array_equal(semantic, expected)


def test_objects_stand_out_from_the_ground():
    for i in range(20):
        picture = draw_picture((128, 160), 4, np.random.default_rng(i))
        ground = ~picture.masks.any(0)
        for mask in picture.masks:
            near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ground
            if near.sum() > 20:
                distance = np.linalg.norm(picture.image[mask].mean(0) - picture.image[near].mean(0))
                assert distance > 35


def test_hidden_shapes_keep_a_visible_part():
    for i in range(30):
        picture = draw_picture((100, 100), 6, np.random.default_rng(i))
        assert all(mask.sum() >= 0.4 * 60 for mask in picture.masks)


def test_a_picture_does_not_depend_on_how_many_follow(shapes, tmp_path):
    longer = write_shapes(tmp_path / "longer", splits={"train": 4}, image_size=(96, 160))
    for i in range(1, 5):
        ours, theirs = (root / f"train/{i:06d}.jpg" for root in (shapes, longer))
        assert ours.read_bytes() == theirs.read_bytes()
    first, other = (read_image(shapes / f"{s}/000001.jpg") for s in ("train", "val"))
    assert first.shape != other.shape or (first != other).any()
    reseeded = write_shapes(tmp_path / "reseeded", splits={"train": 1}, image_size=(96, 160), seed=1)
    assert (reseeded / "train/000001.jpg").read_bytes() != (shapes / "train/000001.jpg").read_bytes()


def test_made_once(shapes):
    file = shapes / "train/000001.jpg"
    before = file.stat().st_mtime_ns
    assert write_shapes(shapes, **SMALL) == shapes
    assert file.stat().st_mtime_ns == before
    assert [p for p in shapes.parent.iterdir() if p != shapes] == []  # nothing left of the making


def test_other_parameters_need_overwrite(tmp_path):
    root = write_shapes(tmp_path / "s", splits={"train": 2}, image_size=64)
    with pytest.raises(DataError, match="overwrite=True"):
        write_shapes(root, splits={"train": 3}, image_size=64)
    write_shapes(root, splits={"train": 3}, image_size=64, overwrite=True)
    assert len(list((root / "train").iterdir())) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(DataError, match="left alone"):
        write_shapes(tmp_path, splits={"train": 1}, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years"


def _make(root, done):
    write_shapes(root, splits={"train": 8}, image_size=64)
    done.put(len(list((root / "train").iterdir())))


def test_processes_that_race_end_with_one_set(tmp_path):
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    processes = [context.Process(target=_make, args=(tmp_path / "s", done)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [done.get(timeout=60) for _ in processes] == [8, 8, 8]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_root_is_under_the_data_root_or_in_the_cache(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path / "new" / "data"))
    assert shapes_root() == tmp_path / "new" / "data" / "shapes"
    assert not (tmp_path / "new").exists()  # asking makes nothing
    monkeypatch.setenv("EFFDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *a, **k: False)
    with caplog.at_level(logging.INFO, logger="effdense"):
        assert shapes_root("toy") == tmp_path / "cache" / "toy"
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("options", [{"image_size": 8}, {"seed": -1}, {"max_objects": 0}, {"splits": {}}])
def test_wrong_arguments(tmp_path, options):
    with pytest.raises(ConfigError):
        write_shapes(tmp_path / "s", **options)
