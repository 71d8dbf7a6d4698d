"""Real annotation files, where EFFDENSE_DATA has them: known counts, clean pictures, and the odd ones handled."""

import json

import numpy as np
import pytest

from effdense.data.checks.check import check_images
from effdense.data.dataset import DetectionDataset
from effdense.data.paths import data_root
from effdense.data.readers.coco import read_coco
from effdense.data.transforms.geometry import ResizePad


def open_split(name, split, **options):
    if not (data_root() / name / "annotations").is_dir():
        pytest.skip(f"{name} is not under {data_root()}: set EFFDENSE_DATA to a folder that has it")
    return read_coco(f"{name}/annotations/instances_{split}.json", f"{name}/images", **options)


@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)])
def test_blood_cells(split, images, boxes):
    records, report = open_split("bccd", split, training=True)
    assert (len(records), len(records.boxes)) == (images, boxes)
    assert report.errors == []
    assert {f.code for f in report.warnings} <= {"bbox-clipped", "duplicate-bbox"}
    assert records.class_map.names == ("RBC", "WBC", "Platelets")
    assert check_images(records, decode=5).findings == []


@pytest.mark.parametrize(("split", "boxes", "empty"), [("train", 929, 2), ("val", 898, 0)])
def test_coco_sample(split, boxes, empty):
    records, report = open_split("coco128", split)
    assert (len(records), len(records.boxes), len(records.class_map)) == (128, boxes, 80)
    assert report.errors == []
    counts = {f.code: f.count for f in report.warnings}
    assert counts.get("empty-image", 0) == empty
    assert records.class_map.label(90) == 79  # toothbrush, the last of 80 with ids up to 90
    assert check_images(records, decode="all").findings == []


def test_grey_pictures_come_as_rgb():
    for split, image_id in (("train", 86), ("val", 7888)):
        records, _ = open_split("coco128", split)
        index = records.image_ids.tolist().index(image_id)
        image = DetectionDataset(records, [ResizePad(256)], training=True)[index]["image"]
        assert image.shape == (256, 256, 3)
        shown = image[:200, :200]
        assert (shown == shown[..., :1]).all() and np.ptp(shown) > 100


def test_crowds_of_the_mask_files_are_flagged():
    records, report = open_split("coco128", "val_masks100")
    assert records.annotation_file is not None
    raw = json.loads(records.annotation_file.read_text())["annotations"]
    crowds = {a["id"] for a in raw if a["iscrowd"]}
    assert crowds == set(records.annotation_ids[records.is_crowd].tolist())
    assert {f.code: f.count for f in report.warnings}.get("crowd", 0) == len(crowds)
