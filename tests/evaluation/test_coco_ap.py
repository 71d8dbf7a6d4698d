"""COCO average precision: by hand, against a hand-run pycocotools to the last digit, and every silent zero refused."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effdense.errors import ConfigError, DataError
from effdense.evaluation import CocoScores, evaluate_coco

# pycocotools divides by hits + false alarms + 2.2e-16, so its perfect precision may be one digit short of 1.
PERFECT = pytest.approx(1.0, abs=1e-12)
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def truth_of(boxes: list[list[float]], **extra: Any) -> dict[str, Any]:
    """Ground truth of one category (id 3) on image 1; boxes xywh."""
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 3, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **extra}
        for i, box in enumerate(boxes)
    ]
    images = [{"id": 1, "width": 640, "height": 480, "file_name": "1.jpg"}]
    return {"images": images, "categories": [{"id": 3, "name": "cat"}], "annotations": annotations}


def found(box: list[float], score: float, image: int = 1, category: int = 3) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def by_hand_run(
    truth: dict[str, Any], detections: list[dict[str, Any]], image_ids: list[int] | None = None
) -> list[float]:
    """The twelve numbers as pycocotools' own demo computes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = copy.deepcopy(truth)
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(copy.deepcopy(detections)), "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def random_set(seed: int, *, images: int = 12, categories: int = 4, crowd: float = 0.1, ties: bool = False):
    """Ground truth with crowds, empty images, a class without instances; detections jittered, missed and invented."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.arange(5, 5 + 3 * images, 3))
    truth: dict[str, Any] = {
        "images": [{"id": int(i), "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in ids],
        "categories": [{"id": int(2 * c + 1), "name": f"class {c}"} for c in rng.permutation(categories + 1)],
        "annotations": [],
    }
    detections: list[dict[str, Any]] = []
    for image in ids[:-2]:
        for _ in range(rng.integers(0, 9)):
            category = int(2 * rng.integers(0, categories) + 1)
            size = rng.uniform(5, 200, 2)
            box = [*rng.uniform(0, 400, 2).tolist(), *size.tolist()]
            is_crowd = int(rng.random() < crowd)
            number = len(truth["annotations"]) + 1
            annotation = {"id": number, "image_id": int(image), "category_id": category, "bbox": box}
            truth["annotations"].append({**annotation, "area": box[2] * box[3] * 0.8, "iscrowd": is_crowd})
            for _ in range(rng.integers(0, 4)):
                moved = (np.array(box) + rng.normal(0, 0.1, 4) * np.tile(size, 2)).clip(0.5).tolist()
                score = float(rng.integers(1, 5) / 4) if ties else float(rng.random())
                detections.append(found(moved, score, int(image), category))
    for image in rng.choice(ids, 30):
        box = rng.uniform(1, 200, 4).tolist()
        detections.append(found(box, float(rng.random()), int(image), int(2 * rng.integers(0, categories + 1) + 1)))
    return truth, detections


def test_half_of_the_objects_found_exactly() -> None:
    """Recall 0.5 at precision 1: 51 of COCO's 101 recall points (0, 0.01, ... 0.50) count 1, so AP = 51/101."""
    scores = evaluate_coco(truth_of([[10, 10, 50, 50], [300, 300, 50, 50]]), [found([10, 10, 50, 50], 0.9)])
    assert scores.AP == pytest.approx(51 / 101, abs=1e-12)
    assert scores.AP == scores.AP50 == scores.per_class_ap["cat"]
    assert scores.AR100 == 0.5
    assert (scores.APm, scores.APs) == (scores.AP, -1.0), "both are medium: 32^2 <= 2500 <= 96^2"


def test_overlap_of_0_6_counts_at_two_of_ten_thresholds() -> None:
    """IoU of [0,0,100,100] and [0,0,100,60] is 0.6: right at thresholds 0.50, 0.55 and 0.60."""
    scores = evaluate_coco(truth_of([[0, 0, 100, 100]]), [found([0, 0, 100, 60], 0.9)])
    assert scores.AP50 == PERFECT and scores.AP75 == 0.0
    assert scores.AP == pytest.approx(0.3, abs=1e-12)


def test_false_alarm_above_the_hit_halves_the_precision() -> None:
    scores = evaluate_coco(truth_of([[10, 10, 50, 50]]), [found([400, 10, 50, 50], 0.9), found([10, 10, 50, 50], 0.8)])
    assert scores.AP == pytest.approx(0.5, abs=1e-12)
    assert scores.AR1 == 0.0 and scores.AR10 == 1.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ties", [False, True])
def test_equal_to_a_hand_run_pycocotools(seed: int, ties: bool) -> None:
    truth, detections = random_set(seed, ties=ties)
    scores = evaluate_coco(truth, detections)
    assert list(scores.to_dict()) == NAMES
    assert list(scores.to_dict().values()) == by_hand_run(truth, detections)
    assert scores.num_crowd == sum(a["iscrowd"] for a in truth["annotations"])
    assert (
        scores.num_instances == sum(scores.per_class_instances.values()) == len(truth["annotations"]) - scores.num_crowd
    )
    assert scores.per_class_ap["class 4"] == -1.0, "a class without instances is not scored"
    scored = [ap for ap in scores.per_class_ap.values() if ap > -1]
    assert np.mean(scored) == pytest.approx(scores.AP, abs=1e-12)


def test_equal_on_more_than_a_hundred_detections_per_image() -> None:
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.uniform(0, 500, (130, 2)), rng.uniform(20, 90, (130, 2))]).tolist()
    detections = [found(box, float(rng.random())) for box in boxes * 2]
    scores = evaluate_coco(truth_of(boxes), detections)
    assert list(scores.to_dict().values()) == by_hand_run(truth_of(boxes), detections)
    assert scores.num_detections == 260 and scores.AR100 < 1


def test_array_path_and_subset_of_images_are_equal(tmp_path: Path) -> None:
    truth, detections = random_set(3)
    rows = [[d["image_id"], *d["bbox"], d["score"], d["category_id"]] for d in detections]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    assert evaluate_coco(path, np.array(rows)) == evaluate_coco(truth, detections)
    chosen = sorted(image["id"] for image in truth["images"])[::2]
    scores = evaluate_coco(truth, detections, image_ids=np.array(chosen))
    assert list(scores.to_dict().values()) == by_hand_run(truth, detections, chosen)
    assert scores.num_images == len(chosen)
    assert scores.num_detections == sum(d["image_id"] in chosen for d in detections)


def test_annotation_id_zero_and_shared_ids_count_as_found() -> None:
    """pycocotools takes id 0 for "unmatched" and keeps only the last of two equal ids; both are repaired here."""
    boxes: list[list[float]] = [[10, 10, 50, 50], [200, 200, 50, 50]]
    detections = [found(box, 0.9) for box in boxes]
    for ids in ([0, 1], [7, 7]):
        truth = truth_of(boxes)
        for annotation, number in zip(truth["annotations"], ids, strict=True):
            annotation["id"] = number
        before = copy.deepcopy(truth)
        assert evaluate_coco(truth, detections).AP == PERFECT
        assert by_hand_run(truth, detections)[0] < 1.0
        assert truth == before, "the caller's ground truth stays as it was"


def test_missing_iscrowd_and_area_have_their_defaults() -> None:
    truth = truth_of([[10, 10, 50, 50]])
    del truth["annotations"][0]["iscrowd"], truth["annotations"][0]["area"]
    assert evaluate_coco(truth, [found([10, 10, 50, 50], 0.9)]).APm == PERFECT


def test_crowd_excuses_detections_and_is_never_missed() -> None:
    truth = truth_of([[10, 10, 50, 50], [200, 200, 200, 200]])
    truth["annotations"][1]["iscrowd"] = 1
    inside = [found([210.0 + 30 * i, 210, 20, 20], 0.95) for i in range(4)]
    scores = evaluate_coco(truth, [found([10, 10, 50, 50], 0.9), *inside])
    assert scores.AP == PERFECT and (scores.num_instances, scores.num_crowd) == (1, 1)


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 7))])
def test_no_detections_score_zero(nothing) -> None:
    scores = evaluate_coco(truth_of([[10, 10, 50, 50]]), nothing)
    assert (scores.AP, scores.AP50, scores.AR100, scores.APm) == (0, 0, 0, 0)
    assert scores.APl == -1 and scores.has_ground_truth and scores.num_detections == 0


def test_no_ground_truth_is_minus_one_and_says_so() -> None:
    scores = evaluate_coco(truth_of([]), [found([10, 10, 50, 50], 0.9)])
    assert set(scores.to_dict().values()) == {-1.0}
    assert not scores.has_ground_truth
    assert "no ground truth" in scores.table()


def test_nothing_is_printed(capfd) -> None:
    evaluate_coco(truth_of([[10, 10, 50, 50]]), [found([10, 10, 50, 50], 0.9)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("detection", "message"),
    [
        ({**found([1, 1, 5, 5], 0.5), "category_id": 0}, r"1 of 1 have category_id .*: 0\..*has 1: 3 cat.*not labels"),
        ({**found([1, 1, 5, 5], 0.5), "image_id": 99}, r"image_id values that the ground truth does not know: 99"),
        (
            {**found([1, 1, 5, 5], 0.5), "image_id": "1"},
            r"detections\[0\]\['image_id'\] is '1'; expected a whole number",
        ),
        (found([1, 1, 5, 5], float("nan")), r"score is NaN or infinite in 1 of 1, first at index 0"),
        (found([1, 1, float("inf"), 5], 0.5), r"bbox is NaN or infinite"),
        (found([1, 1, 5], 0.5), r"detections\[0\]: bbox is \[1, 1, 5\]; expected four numbers"),
        ({"image_id": 1, "category_id": 3, "score": 0.5}, r"key 'bbox' is missing"),
    ],
)
def test_detections_that_would_score_zero_in_silence_are_refused(detection, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_coco(truth_of([[10, 10, 50, 50]]), [detection])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 6)), r"shape \(2, 6\); expected \(n, 7\)"),
        (np.array([[1, 1, 1, 5, 5, 0.5, 2.5]]), r"ids of 1 rows are not whole numbers"),
        (np.array([[np.nan, 1, 1, 5, 5, 0.5, 3]]), r"ids of 1 rows"),
        (np.array([[1, 1, 1, 5, 5, 0.5, 4]]), r"category_id .* does not know: 4"),
    ],
)
def test_arrays_that_cannot_be_read_are_refused(rows, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_coco(truth_of([[10, 10, 50, 50]]), rows)


def broken(change) -> dict[str, Any]:
    truth = truth_of([[10, 10, 50, 50]])
    change(truth)
    return truth


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("categories"), r"key 'categories' is missing"),
        (lambda t: t["categories"].append({"id": 3, "name": "dog"}), r"categories share the id 3"),
        (lambda t: t["categories"].append({"id": 4, "name": "cat"}), r"categories share the name 'cat'"),
        (lambda t: t["categories"].append(None), r"categories\[1\] is None; expected an object"),
        (lambda t: t["images"].clear(), r"no images"),
        (lambda t: t["annotations"][0].update(image_id=9), r"annotations: 1 of 1 have image_id .*: 9"),
        (lambda t: t["annotations"][0].update(category_id=9), r"annotations: 1 of 1 have category_id .*: 9"),
        (lambda t: t["annotations"][0].update(bbox=[1, 2]), r"annotations\[0\] \(id 1\): bbox is \[1, 2\]"),
        (lambda t: t["annotations"][0].update(bbox=[1, 2, float("nan"), 3]), r"every number must be finite"),
    ],
)
def test_broken_ground_truth_is_named(change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_coco(broken(change), [])


def test_files_options_and_image_ids_that_do_not_fit(tmp_path: Path) -> None:
    truth = truth_of([[10, 10, 50, 50]])
    with pytest.raises(DataError, match=r"No annotation file at .*nowhere.json"):
        evaluate_coco(tmp_path / "nowhere.json", [])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad.json cannot be read as COCO annotation JSON"):
        evaluate_coco(tmp_path / "bad.json", [])
    with pytest.raises(DataError, match=r"image_ids: 1 of 2 .*: 5"):
        evaluate_coco(truth, [], image_ids=[1, 5])
    with pytest.raises(DataError, match=r"image_ids is empty"):
        evaluate_coco(truth, [], image_ids=[])
    with pytest.raises(ConfigError, match=r"iou_type is 'keypoints'"):
        evaluate_coco(truth, [], iou_type="keypoints")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"backend is 'fastest'.*Did you mean 'faster'"):
        evaluate_coco(truth, [], backend="fastest")


def test_masks_are_compared_as_masks() -> None:
    """The lower half of a square as RLE: IoU 0.5 with the square, right at the threshold 0.50 only."""
    from pycocotools import mask

    truth = truth_of([[10, 10, 40, 40]], segmentation=[[10, 10, 50, 10, 50, 50, 10, 50]])
    half = np.zeros((480, 640), np.uint8, order="F")
    half[30:50, 10:50] = 1
    rle = mask.encode(half)
    scores = evaluate_coco(
        truth, [{"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": rle}], iou_type="segm"
    )
    assert scores.AP50 == PERFECT and scores.AP == pytest.approx(0.1, abs=1e-12) and scores.iou_type == "segm"
    polygon = {"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": [[10, 10, 50, 10, 50, 50]]}
    with pytest.raises(DataError, match=r"segmentation is a list; expected compressed RLE"):
        evaluate_coco(truth, [polygon], iou_type="segm")


def test_table_lists_classes_and_twelve_numbers() -> None:
    truth, detections = random_set(1)
    scores = evaluate_coco(truth, detections)
    lines = scores.table().splitlines()
    assert lines[0].split() == ["class", "instances", "AP", "AP50", "APs", "APm", "APl"]
    assert [line.split("  ")[0] for line in lines[1:6]] == [f"class {c}" for c in range(5)], "sorted by category id"
    assert lines[5].split()[-5:] == ["-"] * 5, "a class without instances shows no number"
    assert [line.split()[0] for line in lines[-12:]] == NAMES
    assert lines[-12].endswith(f"{scores.AP:.3f}")


def test_perfect_detections_of_a_real_file() -> None:
    root = os.environ.get("EFFDENSE_DATA")
    if not root or not (Path(root) / "coco128").is_dir():
        pytest.skip("EFFDENSE_DATA is not set or has no coco128")
    path = Path(root) / "coco128" / "annotations" / "instances_val.json"
    truth = json.loads(path.read_text())
    detections = [found(a["bbox"], 0.5, a["image_id"], a["category_id"]) for a in truth["annotations"]]
    scores = evaluate_coco(path, detections)
    assert isinstance(scores, CocoScores)
    assert scores.num_instances == 898
    assert list(scores.to_dict().values()) == by_hand_run(truth, detections)
    assert scores.AP > 0.99
