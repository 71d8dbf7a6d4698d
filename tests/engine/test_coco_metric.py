"""The metric shell: exactly one result per image or an error, and the numbers of evaluate_coco."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from effdense.data import ClassMap, DetectionRecords
from effdense.data.records import PackedStrings
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


def test_more_numbers_where_they_are_asked_for(truth: Path, tmp_path: Path) -> None:
    built = metric(truth, curves=True, voc=True, report=str(tmp_path / "out" / "scores.json"))
    numbers = scored(built, RESULTS)
    assert [name.removeprefix("coco/") for name in numbers][-3:] == ["F1", "F1_score", "voc_AP50"]
    assert built.names() == list(numbers)
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["scores"]["AP"] == numbers["coco/AP"] and content["best"]["f1"] == numbers["coco/F1"]
    assert content["voc"]["mean"] == numbers["coco/voc_AP50"]
    assert content["classes"]["dog"]["instances"] == 2 and content["classes"]["dog"]["best"]["recall"] == 1.0
    assert content["confusion"]["classes"] == ["cat", "dog", "background"]
    assert content["confusion"]["score_threshold"] == numbers["coco/F1_score"]
    table = built.scores.table()  # type: ignore[union-attr]
    assert table.splitlines()[0].split()[-4:] == ["P", "R", "F1", "at"]
    assert "best F1 " in table and "VOC AP50: " in table


def test_nothing_more_is_worked_out_in_training(truth: Path) -> None:
    built = metric(truth)
    numbers = scored(built, RESULTS)
    assert built.names() == list(numbers) and len(numbers) == 12
    assert built.scores is not None and built.scores.curves is None and built.scores.confusion is None


@pytest.mark.parametrize("backend", ["pycocotools", "arrays", "auto"])
def test_backends_agree(truth: Path, backend: str) -> None:
    built = metric(truth, backend=backend, curves=True)
    assert scored(built, RESULTS) == pytest.approx(scored(metric(truth, curves=True), RESULTS), abs=1e-12)


def test_a_backend_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"backend is 'pycoco'.*Did you mean 'pycocotools'"):
        CocoMetric(backend="pycoco")


def test_batches_and_half_precision_make_no_difference(truth: Path) -> None:
    one, many = metric(truth), metric(truth)
    for result in RESULTS:
        one.process(None, [{**result, "boxes": result["boxes"].half(), "scores": result["scores"].half()}])
    many.process(
        None, [{**r, "boxes": r["boxes"].half().double(), "scores": r["scores"].half().double()} for r in RESULTS]
    )
    assert one.evaluate(3) == many.evaluate(3)


def test_labels_and_lengths_that_do_not_fit_are_refused(truth: Path) -> None:
    with pytest.raises(DataError, match=r"1 labels are none of the 2 classes 0\.\.1, first \[-1\]"):
        scored(metric(truth), [sample(0, [[0, 0, 1, 1]], [0.5], [-1]), *RESULTS[1:]])
    with pytest.raises(DataError, match=r"boxes, scores and labels of an image differ in number"):
        metric(truth).process(None, [sample(0, [[0, 0, 1, 1]], [0.5, 0.4], [0])])


def records_of(path: Path, **changes: Any) -> Any:
    """What a dataset of the truth file holds."""
    boxes = np.array([[10, 10, 50, 50], [60, 60, 80, 80], [0, 0, 50, 30]], np.float32)
    columns = {
        "class_map": CLASSES,
        "image_dir": Path(),
        "names": PackedStrings(["1.jpg", "2.jpg", "3.jpg"]),
        "image_ids": np.array([10, 20, 30]),
        "sizes": np.full((3, 2), 100, np.int32),
        "offsets": np.array([0, 2, 3, 3]),
        "boxes": boxes,
        "labels": np.array([0, 1, 1], np.int32),
        "is_crowd": np.zeros(3, bool),
        "annotation_ids": np.arange(3),
        "areas": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        "annotation_file": path,
    }
    return SimpleNamespace(records=DetectionRecords(**{**columns, **changes}))


def test_the_truth_is_the_file_of_a_coco_split_and_else_its_records(truth: Path, tmp_path: Path) -> None:
    """The file says 40.25 px wide, as no record would: only where it is read does the box have that width."""
    content = json.loads(truth.read_text())
    content["annotations"][0]["bbox"][2] = 40.25
    truth.write_text(json.dumps(content))

    def width(dataset: Any) -> float:
        built = CocoMetric()
        built.bind_dataset(dataset)
        assert built.truth is not None and len(built.truth) == 3
        return float(built.truth.xywh[0, 2])

    assert width(records_of(truth)) == 40.25
    assert width(records_of(tmp_path / "data.yaml")) == 40.0
    assert width(records_of(None)) == 40.0  # type: ignore[arg-type]
    mapped = ClassMap(("animal", "dog"), (3, 7))
    assert width(records_of(truth, class_map=mapped)) == 40.0, "classes were renamed"
    assert width(records_of(truth, image_ids=np.array([10, 20, 99]))) == 40.0, "images the file does not list"
    truth.write_text("{")
    assert width(records_of(truth)) == 40.0


def test_records_score_as_their_file_does(truth: Path) -> None:
    from_file, from_records = CocoMetric(), CocoMetric()
    from_file.bind_dataset(records_of(truth))
    from_records.bind_dataset(records_of(None))  # type: ignore[arg-type]
    assert scored(from_file, RESULTS) == scored(from_records, RESULTS)
