"""Detections as COCO result JSON: the text json would write, every digit kept, never half a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from effdense.errors import DataError
from effdense.evaluation import Found, evaluate_coco, write_results
from tests.evaluation.test_coco_backends import hard_set, segm_set


def test_scoring_the_file_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effdense.evaluation.coco_dump._ROWS_AT_A_TIME", 7)
    truth, detections = hard_set(0)
    rng = np.random.default_rng(0)
    for detection in detections:  # numbers that come from float32, as a model's do
        detection["bbox"] = (np.array(detection["bbox"], np.float32) + np.float32(rng.random())).astype(float).tolist()
        detection["score"] = float(np.float32(detection["score"] / 3))
    path = write_results(tmp_path / "new" / "results.json", Found.of(detections))
    assert json.loads(path.read_text()) == detections
    assert path.read_text() == json.dumps(
        [{key: d[key] for key in ("image_id", "category_id", "bbox", "score")} for d in detections]
    )
    assert evaluate_coco(truth, path) == evaluate_coco(truth, detections)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"], "nothing half written is left"


def test_masks_go_out_as_run_lengths(tmp_path: Path) -> None:
    truth, detections = segm_set(0)
    path = write_results(tmp_path / "masks.json", Found.of(detections, masks=True))
    content = json.loads(path.read_text())
    assert (coco_mask.decode(content[3]["segmentation"]) == coco_mask.decode(detections[3]["segmentation"])).all()
    expected = evaluate_coco(truth, detections, iou_type="segm")
    assert evaluate_coco(truth, path, iou_type="segm") == expected


def test_nothing_found_is_an_empty_list(tmp_path: Path) -> None:
    assert json.loads(write_results(tmp_path / "none.json", Found.of([])).read_text()) == []


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[]")
    one = np.array([1])
    with pytest.raises(DataError, match=r"results.json: a box or score is NaN"):
        write_results(path, Found(one, one, np.array([[0, 0, 1, np.inf]]), np.array([0.5])))
    assert path.read_text() == "[]"


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "holds a JSON dict; expected a list of results"), ("[", "cannot be read as COCO result JSON")],
)
def test_files_that_are_no_results(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Found.of(path)
    with pytest.raises(DataError, match=r"No result file at .*nowhere.json"):
        Found.of(tmp_path / "nowhere.json")
