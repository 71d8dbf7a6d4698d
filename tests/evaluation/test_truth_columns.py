"""Ground truth as columns: what a file says, what records say, and where they are the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effdense.data.records import ClassMap, DetectionRecords, ImageRecord
from effdense.data.segments import Segment
from effdense.errors import DataError
from effdense.evaluation import Found, Truth, evaluate_coco
from effdense.evaluation.coco_truth import truth_of_split

RING = [10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 20, "width": 100, "height": 80, "file_name": "b.jpg"},
        {"id": 5, "width": 100, "height": 80, "file_name": "a.jpg"},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 0, "image_id": 20, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {
            "id": 0,
            "image_id": 5,
            "category_id": 3,
            "bbox": [10, 10, 40, 40],
            "area": 1600,
            "iscrowd": 1,
            "segmentation": [RING],
        },
    ],
}


def image(number: int, name: str, box: list[float], label: int, segments: Any = None) -> ImageRecord:
    boxes = np.array([box], np.float32)
    return ImageRecord(
        image_id=number,
        path=Path(name),
        width=100,
        height=80,
        boxes=boxes,
        labels=np.array([label]),
        is_crowd=np.array([label == 0]),
        annotation_ids=np.array([1]),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        segments=segments,
    )


def records(*, segments: bool = False, ids: tuple[int, int] = (20, 5)) -> DetectionRecords:
    outlines = [(Segment((np.array(RING, np.float32).reshape(-1, 2),)),)] if segments else [None]
    small = (Segment((np.array([[1, 2], [4, 2], [4, 6], [1, 6]], np.float32),)),) if segments else None
    images = [image(ids[0], "b.jpg", [1, 2, 4, 6], 1, small), image(ids[1], "a.jpg", [10, 10, 50, 50], 0, outlines[0])]
    return DetectionRecords.from_images(images, ClassMap(("cat", "dog"), (3, 7)))


def test_a_file_as_columns() -> None:
    truth = Truth.from_coco(CONTENT)
    assert truth.image_ids.tolist() == [5, 20] and truth.file_names == ("a.jpg", "b.jpg")
    assert truth.category_ids.tolist() == [3, 7] and truth.class_names == ("cat", "dog")
    assert truth.image.tolist() == [20, 5] and truth.category.tolist() == [7, 3]
    assert truth.area.tolist() == [12.0, 1600.0] and truth.is_crowd.tolist() == [False, True]
    assert truth.xywh.tolist() == [[1, 2, 3, 4], [10, 10, 40, 40]] and truth.rle is None


def test_records_say_the_same() -> None:
    file, own = Truth.from_coco(CONTENT), Truth.from_records(records())
    for name in ("image_ids", "category_ids", "image", "category", "xywh", "area", "is_crowd"):
        np.testing.assert_array_equal(getattr(own, name), getattr(file, name))
        assert getattr(own, name).dtype == getattr(file, name).dtype
    assert own.class_names == file.class_names and own.file_names == file.file_names


def test_a_part_of_the_classes_and_of_the_images() -> None:
    truth = Truth.from_coco(CONTENT, category_ids=[7])
    assert truth.class_names == ("dog",) and len(truth) == 1 and len(truth.image_ids) == 2
    part = Truth.from_coco(CONTENT).on(np.array([5]))
    assert part.image.tolist() == [5] and part.file_names == ("a.jpg",) and part.class_names == ("cat", "dog")
    with pytest.raises(DataError, match=r"category_ids: 1 of 1 have category_id .*: 4"):
        Truth.from_coco(CONTENT, category_ids=[4])


def test_outlines_of_records_are_the_masks_of_the_file() -> None:
    own = records(segments=True)
    truth = Truth.from_records(own, masks=True)
    assert truth.rle is not None
    detections = [
        {"image_id": int(i), "category_id": int(c), "score": 0.9, "segmentation": runs}
        for i, c, runs in zip(truth.image, truth.category, truth.rle, strict=True)
    ]
    assert evaluate_coco(own, detections, iou_type="segm").AP == pytest.approx(1.0)
    content = {**CONTENT, "annotations": CONTENT["annotations"][1:]}
    assert Truth.from_coco(content, masks=True).rle == [truth.rle[1]]


def test_records_score_like_their_columns() -> None:
    found = Found.of([{"image_id": 20, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}])
    assert evaluate_coco(records(), found) == evaluate_coco(CONTENT, found)


def test_records_that_cannot_be_scored_are_named() -> None:
    with pytest.raises(DataError, match=r"hold no outlines; read the split with segments=True"):
        Truth.from_records(records(), masks=True)
    with pytest.raises(DataError, match=r"images share the id 5; each must have its own"):
        Truth.from_records(records(ids=(5, 5)))
    own = records(segments=True)
    lost = DetectionRecords.from_images(
        [own[0], image(9, "c.jpg", [1, 1, 5, 5], 1, (None,))], ClassMap(("cat", "dog"), (3, 7))
    )
    with pytest.raises(DataError, match=r"object 1 has no outline"):
        Truth.from_records(lost, masks=True)


def test_a_split_is_scored_against_its_file_unless_that_says_something_else(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 5, "file_name": "a.jpg"}, {"id": 20, "file_name": "b.jpg"}],
        "categories": [{"id": i, "name": name} for i, name in ((3, "cat"), (7, "dog"))],
        "annotations": [{"image_id": 5, "category_id": 3, "bbox": [0.1, 0.2, 30.3, 4.4]}],
    }
    file = tmp_path / "val.json"
    split = dataclasses.replace(records(), annotation_file=file)
    file.write_text(json.dumps(content))
    truth, refused = truth_of_split(split)
    assert (truth.xywh.tolist(), refused) == ([[0.1, 0.2, 30.3, 4.4]], "")

    content["categories"][0]["name"] = "renamed"
    file.write_text(json.dumps(content))
    truth, refused = truth_of_split(split)
    assert (len(truth), truth.class_names, refused) == (len(split.labels), ("cat", "dog"), "")

    file.write_text("{}")
    truth, refused = truth_of_split(split)
    assert len(truth) == len(split.labels)
    assert "'images' is missing" in refused
