"""The six error types and their costs against tidecv 1.0.1, on random sets with everything that tells them apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.error_types import ERRORS, SPECIAL, tide_errors

tidecv = pytest.importorskip("tidecv", reason="tidecv is in the test extra")

SIDE = 160


def polygon(box: list[float]) -> list[float]:
    """An octagon inside a box, so that masks differ from boxes."""
    x, y, w, h = box
    a, b = w / 4, h / 4
    points = [(a, 0), (w - a, 0), (w, b), (w, h - b), (w - a, h), (a, h), (0, h - b), (0, b)]
    return [coordinate for px, py in points for coordinate in (x + px, y + py)]


def jittered(generator: np.random.Generator, box: list[float], amount: float) -> list[float]:
    x, y, w, h = box
    moved = np.array([x, y, w, h]) + generator.normal(0, amount, 4) * np.array([w, h, w, h])
    left, top = np.clip(moved[:2], 0, SIDE - 8)
    width, height = np.clip(moved[2:], 4, [SIDE - left, SIDE - top])
    return [float(left), float(top), float(width), float(height)]


def random_set(seed: int, images: int, classes: int, *, ties: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations (crowds, empty pictures, rare and empty classes) and detections (right, shifted, misnamed, doubled,
    on nothing, inside crowds, more than 100 on one picture)."""
    generator = np.random.default_rng(seed)
    ids = [3 * k + 1 for k in range(classes)]
    pictures, annotations, detections = [], [], []
    for image in range(1, images + 1):
        pictures.append({"id": image, "file_name": f"{image}.jpg", "width": SIDE, "height": SIDE})
        objects = 0 if generator.random() < 0.15 else int(generator.integers(1, 9))
        chosen: list[tuple[list[float], int, int]] = []
        for _ in range(objects):
            w, h = generator.uniform(8, 70, 2)
            box = [float(generator.uniform(0, SIDE - w)), float(generator.uniform(0, SIDE - h)), float(w), float(h)]
            # The last two classes are never annotated: one is detected, one is not.
            chosen.append((box, ids[int(generator.integers(0, max(1, classes - 2)))], int(generator.random() < 0.1)))
        for box, category, crowd in chosen:
            segment: Any = [polygon(box)]
            if crowd:
                segment = coco_mask.merge(coco_mask.frPyObjects(segment, SIDE, SIDE))
                segment = {"size": segment["size"], "counts": segment["counts"].decode()}
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box,
                    "area": box[2] * box[3], "iscrowd": crowd, "segmentation": segment,
                }
            )  # fmt: skip
        found: list[tuple[list[float], int]] = []
        for box, category, _ in chosen:
            fate = generator.random()
            if fate < 0.15:
                continue
            for _ in range(int(generator.choice([1, 1, 1, 2, 3]))):
                amount = float(generator.choice([0.02, 0.08, 0.25]))
                name = category if generator.random() < 0.75 else int(generator.choice(ids[:-1]))
                found.append((jittered(generator, box, amount), name))
        for _ in range(int(generator.integers(0, 4)) if image % 17 else 130):
            w, h = generator.uniform(5, 60, 2)
            box = [float(generator.uniform(0, SIDE - w)), float(generator.uniform(0, SIDE - h)), float(w), float(h)]
            found.append((box, int(generator.choice(ids[:-1]))))
        for box, category in found:
            score = float(generator.uniform(0.3, 1) if len(detections) % 3 else generator.uniform(0, 0.7))
            rle = coco_mask.merge(coco_mask.frPyObjects([polygon(box)], SIDE, SIDE))
            detections.append(
                {
                    "image_id": image, "category_id": category, "bbox": box,
                    "score": round(score, 1) if ties else score,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )  # fmt: skip
    categories = [{"id": category, "name": f"class {category}"} for category in ids]
    return {"images": pictures, "annotations": annotations, "categories": categories}, detections


def rle_of(segment: Any) -> Any:
    """As tidecv reads it: polygons are filled and joined, run lengths stay."""
    if isinstance(segment, dict):
        return segment
    return coco_mask.merge(coco_mask.frPyObjects(segment, SIDE, SIDE))


def columns(content: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[Truth, Found]:
    objects = content["annotations"]
    truth = Truth(
        name="random set",
        image_ids=np.array([image["id"] for image in content["images"]], np.int64),
        category_ids=np.array([category["id"] for category in content["categories"]], np.int64),
        class_names=tuple(category["name"] for category in content["categories"]),
        image=np.array([a["image_id"] for a in objects], np.int64),
        category=np.array([a["category_id"] for a in objects], np.int64),
        xywh=np.array([a["bbox"] for a in objects], np.float64).reshape(-1, 4),
        area=np.array([a["area"] for a in objects], np.float64),
        is_crowd=np.array([bool(a["iscrowd"]) for a in objects]),
        rle=[rle_of(a["segmentation"]) for a in objects],
    )
    found = Found(
        image=np.array([d["image_id"] for d in detections], np.int64),
        category=np.array([d["category_id"] for d in detections], np.int64),
        xywh=np.array([d["bbox"] for d in detections], np.float64).reshape(-1, 4),
        score=np.array([d["score"] for d in detections], np.float64),
        rle=[rle_of(d["segmentation"]) for d in detections],
    )
    return truth, found


def theirs(folder: Path, content: dict[str, Any], detections: list[dict[str, Any]], mode: str) -> tuple[Any, Any]:
    """A run of tidecv on the same files, and its costs by name."""
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "found.json").write_text(json.dumps(detections))
    tide = tidecv.TIDE()
    truth, found = (
        tidecv.datasets.COCO(str(folder / "truth.json")),
        tidecv.datasets.COCOResult(str(folder / "found.json")),
    )
    run = tide.evaluate(truth, found, mode=getattr(tidecv.TIDE, mode), name="it")
    every = tide.get_all_errors()
    return run, {**every["main"]["it"], **every["special"]["it"]}


@pytest.mark.parametrize("mode", ["BOX", "MASK"])
@pytest.mark.parametrize(
    ("seed", "images", "classes", "ties"), [(0, 60, 5, False), (1, 90, 20, False), (2, 40, 3, True), (3, 12, 80, True)]
)
def test_costs_and_counts(tmp_path: Path, seed: int, images: int, classes: int, ties: bool, mode: str) -> None:
    content, detections = random_set(seed, images, classes, ties=ties)
    run, costs = theirs(tmp_path, content, detections, mode)
    iou_type = {"BOX": "bbox", "MASK": "segm"}[mode]
    ours = tide_errors(tmp_path / "truth.json", tmp_path / "found.json", iou_type=iou_type)
    assert ours.ap == pytest.approx(run.ap, abs=1e-9)
    for name in ERRORS:
        assert ours.cost[name] == pytest.approx(costs[name], abs=1e-9), name
    for name in SPECIAL:
        assert ours.special[name] == pytest.approx(costs[name], abs=1e-9), name
    # tidecv counts detections that a crowd excuses among the errors.
    counted = {error.short_name: count for error, count in run.count_errors().items()}
    assert {name: ours.counts[name] + ours.excused[name] for name in ERRORS} == counted
    # The sets are no easy ones: every type occurs, and most of them cost something.
    assert min(ours.counts.values()) > 0 and ours.ap > 1
    assert sum(cost > 0.1 for cost in ours.cost.values()) >= 3 and sum(ours.excused.values()) > 0
    # Every false positive has exactly one type, every ground truth one state.
    false = int(ours.matching.is_false.sum())
    assert sum(ours.counts[name] for name in ERRORS[:-1]) == false
    assert ours.num_found + false + int((ours.matching.excused).sum()) == ours.num_detections


def test_pictures_in_another_order(tmp_path: Path) -> None:
    """Equal scores are decided by the order of the pictures; tidecv's is that of the file."""
    content, detections = random_set(5, 30, 4, ties=True)
    content["images"] = content["images"][::-1]
    truth, found = columns({**content, "images": content["images"][::-1]}, detections)
    order = [image["id"] for image in content["images"]]
    run, costs = theirs(tmp_path, content, detections, "BOX")
    ours = tide_errors(truth, found, image_order=order)
    assert ours.ap == pytest.approx(run.ap, abs=1e-9)
    assert {**ours.cost, **ours.special} == pytest.approx(costs, abs=1e-9)
    assert tide_errors(truth, found).ap != pytest.approx(run.ap, abs=1e-6)


def test_other_thresholds(tmp_path: Path) -> None:
    content, detections = random_set(6, 30, 4, ties=False)
    truth, found = columns(content, detections)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(detections))
    tide = tidecv.TIDE(pos_threshold=0.75, background_threshold=0.2)
    run = tide.evaluate(
        tidecv.datasets.COCO(str(tmp_path / "truth.json")), tidecv.datasets.COCOResult(str(tmp_path / "found.json"))
    )
    ours = tide_errors(truth, replace(found, rle=None), positive=0.75, background=0.2)
    assert ours.ap == pytest.approx(run.ap, abs=1e-9)
    name = next(iter(tide.get_all_errors()["main"]))
    assert ours.cost == pytest.approx(tide.get_all_errors()["main"][name], abs=1e-9)
