"""The metric shell: exactly one result per image or an error, and the numbers of evaluate_coco."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from effdense.data import ClassMap
from effdense.engine.metrics import CocoMetric
from effdense.errors import ConfigError, DataError
from effdense.evaluation import evaluate_coco

CLASSES = ClassMap(("cat", "dog"), (3, 7))
TRUTH = {
    "images": [{"id": 10 * i, "width": 100, "height": 100, "file_name": f"{i}.jpg"} for i in range(1, 4)],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 5, "name": "bird"}],
    "annotations": [
        {"id": 0, "image_id": 10, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
        {"id": 1, "image_id": 10, "category_id": 7, "bbox": [60, 60, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 2, "image_id": 20, "category_id": 7, "bbox": [0, 0, 50, 30], "area": 1500, "iscrowd": 0},
        {"id": 3, "image_id": 30, "category_id": 5, "bbox": [0, 0, 50, 30], "area": 1500, "iscrowd": 0},
    ],
}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(TRUTH))
    return path


def sample(index: int, boxes: list[list[float]] = (), scores: list[float] = (), labels: list[int] = ()) -> Any:  # type: ignore[assignment]
    """What the model shell hands over for one image; boxes xyxy px."""
    return {
        "index": index,
        "image_id": 10 * (index + 1),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


RESULTS = [
    sample(0, [[10, 10, 50, 50], [60, 60, 80, 82]], [0.9, 0.8], [0, 1]),
    sample(1, [[0, 0, 50, 30], [5, 5, 20, 20]], [0.7, 0.95], [1, 0]),
    sample(2),
]


def metric(truth: Path, **options: Any) -> CocoMetric:
    built = CocoMetric(**options)
    built.bind(truth, CLASSES, [10, 20, 30])
    return built


def scored(built: CocoMetric, results: list[Any], size: int = 3) -> dict[str, float]:
    for result in results:
        built.process(None, [result])
    return built.evaluate(size)


def test_a_perfect_detector_scores_one(truth: Path) -> None:
    """Also on the annotation with id 0, which pycocotools alone would count as missed."""
    results = [
        sample(0, [[10, 10, 50, 50], [60, 60, 80, 80]], [0.9, 0.8], [0, 1]),
        sample(1, [[0, 0, 50, 30]], [0.7], [1]),
        sample(2),
    ]
    assert scored(metric(truth), results)["coco/AP"] == pytest.approx(1.0)


def test_numbers_are_those_of_evaluate_coco_on_the_dump(truth: Path, tmp_path: Path) -> None:
    dump = tmp_path / "out" / "results.json"
    built = metric(truth, dump=str(dump), classwise=True)
    numbers = scored(built, RESULTS)
    detections = json.loads(dump.read_text())
    assert detections[1] == {
        "image_id": 10,
        "category_id": 7,
        "bbox": [60.0, 60.0, 20.0, 22.0],
        "score": pytest.approx(0.8),
    }
    known = {**TRUTH, "categories": TRUTH["categories"][:2], "annotations": TRUTH["annotations"][:3]}
    expected = evaluate_coco(known, detections)
    assert built.scores == expected
    assert {key.removeprefix("coco/"): value for key, value in numbers.items() if "_" not in key} == expected.to_dict()
    assert numbers["coco/AP_cat"] == expected.per_class_ap["cat"] < 1.0
    assert 0 < expected.AP < 1


def test_the_order_of_arrival_does_not_matter(truth: Path) -> None:
    assert scored(metric(truth), RESULTS[::-1]) == scored(metric(truth), RESULTS)


def test_results_are_not_carried_over(truth: Path) -> None:
    built = metric(truth)
    first = scored(built, RESULTS)
    assert scored(built, RESULTS) == first


def test_boxes_handed_over_are_left_alone(truth: Path) -> None:
    result = sample(0, [[10, 10, 50, 50]], [0.9], [0])
    metric(truth).process(None, [result])
    assert result["boxes"].tolist() == [[10, 10, 50, 50]]


@pytest.mark.parametrize(
    ("results", "size", "message"),
    [
        (RESULTS[:2], 3, r"3 samples, got 2 \(1 missing, first \[2\]; 0 doubled"),
        ([*RESULTS, RESULTS[1]], 3, r"3 samples, got 4 \(0 missing, .*; 1 doubled, first \[1\]"),
        ([RESULTS[0], RESULTS[0], RESULTS[2]], 3, r"got 3 \(1 missing, first \[1\]; 1 doubled, first \[0\]"),
        (RESULTS, 2, "2 samples, got 3"),
        ([], 3, r"got 0 \(3 missing, first \[0, 1, 2\]"),
    ],
)
def test_each_image_counts_exactly_once(truth: Path, results: list[Any], size: int, message: str) -> None:
    built = metric(truth)
    with pytest.raises(DataError, match=message):
        scored(built, results, size)
    assert scored(built, RESULTS)["coco/AP"] > 0  # the failed attempt leaves nothing behind


def test_a_subset_of_the_images(truth: Path) -> None:
    """Only image 20 is scored; what lies on the others is neither found nor missed."""
    built = CocoMetric()
    built.bind(truth, CLASSES, [20])
    result = {**sample(1, [[0, 0, 50, 30]], [0.7], [1]), "index": 0}
    assert scored(built, [result], size=1)["coco/AP"] == pytest.approx(1.0)


def test_a_subset_of_the_classes(truth: Path) -> None:
    """A model that only knows dogs is not blamed for cats and birds."""
    built = CocoMetric(classwise=True)
    built.bind(truth, ClassMap(("dog",), (7,)), [10, 20, 30])
    results = [
        sample(0, [[60, 60, 80, 80]], [0.8], [0]),
        sample(1, [[0, 0, 50, 30]], [0.7], [0]),
        sample(2),
    ]
    numbers = scored(built, results)
    assert numbers["coco/AP"] == pytest.approx(1.0)
    assert [key for key in numbers if "AP_" in key] == ["coco/AP_dog"]


def test_numbers_that_are_not_finite_are_refused(truth: Path) -> None:
    with pytest.raises(DataError, match="score"):
        scored(metric(truth), [sample(0, [[0, 0, 1, 1]], [float("nan")], [0]), *RESULTS[1:]])


def test_a_metric_must_know_what_it_scores() -> None:
    with pytest.raises(ConfigError, match="not bound"):
        CocoMetric().process(None, [sample(0)])
