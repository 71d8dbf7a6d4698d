"""Three backends, one result: each of the twelve numbers and every cell of the arrays is pycocotools', run by hand."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effdense.errors import DataError, MissingExtra
from effdense.evaluation import CocoScores, Found, Truth, evaluate_coco

BACKENDS = [
    "arrays",
    pytest.param(
        "faster",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("faster_coco_eval") is None, reason="faster-coco-eval is not installed"
        ),
    ),
    "pycocotools",
]


def by_hand(truth: dict[str, Any], detections: list[dict[str, Any]], iou_type: str = "bbox") -> Any:
    """pycocotools as its demo runs it; annotation ids anew from 1, since it takes 0 for "unmatched"."""
    own = copy.deepcopy(truth)
    for number, annotation in enumerate(own["annotations"], start=1):
        annotation["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = own
        index.createIndex()
        found = COCO() if not detections else index.loadRes(copy.deepcopy(detections))
        if not detections:
            found.dataset = {**own, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(index, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def require_equal(scores: CocoScores, reference: Any) -> None:
    np.testing.assert_allclose(list(scores.to_dict().values()), reference.stats, rtol=0, atol=1e-12)
    assert scores.arrays is not None
    np.testing.assert_allclose(scores.arrays.precision, reference.eval["precision"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.arrays.recall, reference.eval["recall"], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(scores.arrays.score, reference.eval["scores"])


def hard_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everything at once: crowds, ties within and between images, classes without objects, without detections and
    without either, over 100 detections of an image and class, areas on the edges of the size ranges, boxes of no
    size, duplicates on both sides, detections on images without objects, ids in odd order with gaps, annotation ids 0
    and shared, overlaps of exactly 0.5 and 0.75.
    """
    rng = np.random.default_rng(seed)
    images = rng.permutation(np.array([0, 3, 7, 11, 500, 42, 41, 100_000, 9, 2**40]))
    categories = rng.permutation(np.array([2, 3, 5, 90, 1, 17]))  # 1: no object; 17: nothing at all; 90: no detection
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []

    def add(image: int, category: int, box: list[float], **extra: Any) -> None:
        number = len(annotations) // 3  # 0 and shared
        area = extra.pop("area", box[2] * box[3] * float(rng.uniform(0.3, 1)))
        base = {"id": number, "image_id": int(image), "category_id": int(category), "bbox": box}
        annotations.append({**base, "area": area, "iscrowd": int(rng.random() < 0.15), **extra})

    def find(image: int, category: int, box: list[float], score: float) -> None:
        detections.append({"image_id": int(image), "category_id": int(category), "bbox": box, "score": score})

    for image in images[:-3]:
        for _ in range(rng.integers(0, 14)):
            box = [*rng.integers(0, 60, 2).astype(float).tolist(), *rng.integers(0, 120, 2).astype(float).tolist()]
            category = int(rng.choice([2, 3, 5, 90]))
            add(image, category, box)
            if rng.random() < 0.3:
                add(image, category, box, area=float(rng.choice([32.0**2, 96.0**2, 1024.0001, 9215.9999, 0.0, 2e10])))
            for _ in range(rng.integers(0, 4)):
                moved = [float(v) for v in np.array(box) + rng.integers(-3, 4, 4) * (rng.random() < 0.7)]
                score = float(rng.choice([0.0, 0.25, 0.5, 0.5, 0.75, 1.0]))
                if category != 90:
                    find(image, category, [moved[0], moved[1], max(moved[2], 0.0), max(moved[3], 0.0)], score)
                    if rng.random() < 0.2:
                        find(image, category, box, score)
    image = images[0]
    for i in range(130):
        find(image, 2, [float(i % 60), float(i % 7), 40.0, 40.0], float(rng.integers(0, 9)) / 8)
        add(image, 2, [float(i % 50), float(i % 5), 40.0, 40.0], area=1600.0) if i < 40 else None
    for image in images:  # also images without objects, and a class without objects
        find(image, int(rng.choice([1, 2, 3])), [5.0, 5.0, 32.0, 32.0], 0.5)
    add(images[1], 3, [0.0, 0.0, 100.0, 100.0], iscrowd=0)
    find(images[1], 3, [0.0, 0.0, 100.0, 50.0], 0.9)
    find(images[1], 3, [0.0, 0.0, 100.0, 75.0], 0.9)
    truth = {
        "images": [{"id": int(i), "width": 640, "height": 480} for i in images],
        "categories": [{"id": int(c), "name": f"class {c}"} for c in categories],
        "annotations": [annotations[i] for i in rng.permutation(len(annotations))],
    }
    return truth, [detections[i] for i in rng.permutation(len(detections))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(6))
def test_a_hard_set_is_equal_in_every_cell(seed: int, backend: str) -> None:
    truth, detections = hard_set(seed)
    reference = by_hand(truth, detections)
    scores = evaluate_coco(truth, detections, backend=backend)
    require_equal(scores, reference)
    assert 0 < scores.AP < 1 and scores.num_crowd > 3
    for k, name in enumerate(scores.per_class):
        values = reference.eval["precision"][:, :, k, 1, 2]
        expected = values[values > -1].mean() if (values > -1).any() else -1
        assert scores.per_class[name]["APs"] == pytest.approx(expected, abs=1e-12)


def crowded_set(seed: int, crowd: float, images: int = 30) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Many overlapping objects and detections of two classes with free numbers."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": i, "width": 100, "height": 100} for i in range(images)],
        "categories": [{"id": c, "name": str(c)} for c in (1, 2)],
        "annotations": [],
    }
    detections = []
    for image in range(images):
        for number in range(int(rng.integers(0, 25))):
            box = [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(1, 110, 2).tolist()]
            entry = {"image_id": image, "category_id": int(rng.integers(1, 3)), "bbox": box}
            if rng.random() < 0.5:
                is_crowd = int(rng.random() < crowd)
                truth["annotations"].append({**entry, "id": number + 1, "area": box[2] * box[3], "iscrowd": is_crowd})
            moved = (np.array(box) + rng.normal(0, 2, 4)).clip(0).tolist()
            detections += [{**entry, "bbox": moved, "score": float(rng.random())} for _ in range(rng.integers(0, 6))]
    return truth, detections


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("seed", "crowd"), [(0, 0.0), (1, 0.3), (2, 1.0)])
def test_crowds_and_free_numbers_are_equal(seed: int, crowd: float, backend: str) -> None:
    truth, detections = crowded_set(seed, crowd)
    require_equal(evaluate_coco(truth, detections, backend=backend), by_hand(truth, detections))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["no detections", "no ground truth", "neither", "crowds only"])
def test_nothing_on_one_side_is_equal(case: str, backend: str) -> None:
    truth, detections = crowded_set(3, 1.0 if case == "crowds only" else 0.1, images=4)
    if case in ("no ground truth", "neither"):
        truth["annotations"] = []
    if case in ("no detections", "neither"):
        detections = []
    require_equal(evaluate_coco(truth, detections, backend=backend), by_hand(truth, detections))


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs are worked through in pieces that fit in memory; how small they are must not matter."""
    truth, detections = crowded_set(4, 0.2)
    whole = evaluate_coco(truth, detections)
    monkeypatch.setattr("effdense.evaluation.overlaps._PAIRS_AT_A_TIME", 5)
    monkeypatch.setattr("effdense.evaluation.matching._PAIRS_AT_A_TIME", 3)
    pieces = evaluate_coco(truth, detections)
    assert pieces == whole and whole.arrays is not None and pieces.arrays is not None
    np.testing.assert_array_equal(pieces.arrays.precision, whole.arrays.precision)


def segm_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Polygons of one and two rings, compressed and uncompressed run lengths; crowds; detections as run lengths."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": i, "width": 90, "height": 70} for i in (5, 2, 9)],
        "categories": [{"id": 4, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [],
    }
    detections: list[dict[str, Any]] = []
    for image in (5, 2, 9):
        for number in range(12):
            x, y, w, h = rng.uniform(0, 30), rng.uniform(0, 30), rng.uniform(4, 60), rng.uniform(4, 40)
            ring = [x, y, x + w, y, x + w, y + h, x, y + h]
            kind = number % 4
            pixels = np.zeros((70, 90), np.uint8, order="F")
            pixels[int(y) : int(y + h), int(x) : int(x + w)] = 1
            shape: Any = [ring]
            if kind == 1:
                shape = [ring, [0, 0, 9, 0, 9, 9]]
            elif kind == 2:
                shape = coco_mask.encode(pixels)
            elif kind == 3:
                runs = np.diff(np.flatnonzero(np.diff(pixels.ravel("F"), prepend=0, append=0)), prepend=0).tolist()
                shape = {"size": [70, 90], "counts": [*runs, 70 * 90 - sum(runs)]}
            entry = {"image_id": image, "category_id": int(rng.choice([2, 4]))}
            is_crowd = int(kind > 1 and rng.random() < 0.3)
            annotation = {**entry, "id": len(truth["annotations"]) + 1, "area": float(w * h), "iscrowd": is_crowd}
            truth["annotations"].append({**annotation, "bbox": [x, y, w, h], "segmentation": shape})
            for _ in range(rng.integers(0, 4)):
                shift = rng.integers(-4, 5, 2)
                moved = np.asfortranarray(np.roll(pixels, shift, (0, 1)))
                score = float(rng.integers(0, 8)) / 8
                detections.append({**entry, "score": score, "segmentation": coco_mask.encode(moved)})
    return truth, detections


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_masks_are_equal(seed: int, backend: str) -> None:
    truth, detections = segm_set(seed)
    scores = evaluate_coco(truth, detections, iou_type="segm", backend=backend)
    require_equal(scores, by_hand(truth, detections, "segm"))
    assert 0 < scores.AP < 1


def test_columns_arrays_dicts_and_records_agree() -> None:
    truth, detections = hard_set(7)
    expected = evaluate_coco(truth, detections)
    columns, found = Truth.from_coco(truth), Found.of(detections)
    assert evaluate_coco(columns, found) == expected
    rows = np.array([[d["image_id"], *d["bbox"], d["score"], d["category_id"]] for d in detections])
    assert evaluate_coco(columns, rows) == expected
    assert columns.class_names == ("class 1", "class 2", "class 3", "class 5", "class 17", "class 90")
    some = [3, 500]
    assert evaluate_coco(columns, found, image_ids=some) == evaluate_coco(truth, detections, image_ids=some)


def test_columns_that_do_not_fit_are_refused() -> None:
    truth = Truth.from_coco(crowded_set(0, 0.1)[0])
    one, box = np.array([1]), np.array([[0.0, 0.0, 5.0, 5.0]])
    with pytest.raises(DataError, match=r"the columns disagree: .*'score': 2"):
        evaluate_coco(truth, Found(one, one, box, np.array([0.5, 0.5])))
    with pytest.raises(DataError, match=r"category_id values .* does not know: 9"):
        evaluate_coco(truth, Found(one, np.array([9]), box, np.array([0.5])))
    with pytest.raises(DataError, match=r"score is NaN"):
        evaluate_coco(truth, Found(one, one, box, np.array([np.nan])))
    with pytest.raises(DataError, match=r"'segm' needs masks"):
        evaluate_coco(truth, Found(one, one, box, np.array([0.5])), iou_type="segm")
    with pytest.raises(DataError, match=r"ground truth is a int; expected"):
        evaluate_coco(3, [])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"detections are a dict; expected a list"):
        evaluate_coco(truth, {"annotations": []})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"detections\[1\] is 5; expected a COCO result dict"):
        evaluate_coco(truth, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}, 5])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"detections\[0\]: score is 'high'; expected a number"):
        evaluate_coco(truth, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": "high"}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"area": float("nan")}, r"annotations\[0\] \(id \d+\): area is nan; expected a finite number"),
        ({"area": "big"}, r"area is 'big'"),
        ({"iscrowd": "maybe"}, r"iscrowd is 'maybe'; expected 0 or 1"),
        ({"segmentation": [[1, 2]]}, r"segmentation cannot be read"),
        ({"segmentation": []}, r"segmentation is \[\]; expected polygons"),
        ({"segmentation": None}, r"'segmentation' and 'area' are needed"),
        ({"image_id": 2**70}, r"expected a whole number of at most 64 bits"),
        ({"image_id": 2.5}, r"annotations\[0\]\['image_id'\] is 2.5; expected a whole number"),
    ],
)
def test_ground_truth_that_cannot_be_scored_is_named(change: dict[str, Any], message: str) -> None:
    truth, _ = segm_set(0)
    truth["annotations"][0].update(change)
    with pytest.raises(DataError, match=message):
        Truth.from_coco(truth, masks=True)


def test_masks_need_the_size_of_their_image() -> None:
    truth, _ = segm_set(0)
    del truth["images"][0]["width"]
    with pytest.raises(DataError, match=r"masks need width and height of its image, found \(None, 70\)"):
        Truth.from_coco(truth, masks=True)


def test_a_backend_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    truth, detections = crowded_set(0, 0.1, images=2)
    with pytest.raises(MissingExtra, match="pip install faster-coco-eval"):
        evaluate_coco(truth, detections, backend="faster")
    assert evaluate_coco(truth, detections, backend="auto").backend == "arrays"


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_backend_says_its_name_and_prints_nothing(backend: str, capfd: pytest.CaptureFixture[str]) -> None:
    truth, detections = crowded_set(5, 0.1, images=3)
    scores = evaluate_coco(truth, detections, backend=backend)
    assert scores.backend == {"faster": "faster-coco-eval"}.get(backend, backend)
    assert capfd.readouterr() == ("", "")
