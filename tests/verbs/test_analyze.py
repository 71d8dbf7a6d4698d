"""``effdense analyze`` through its front door: on result files, on runs, and on what users get wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from effdense.cli import main
from effdense.data.generated.shapes import write_shapes
from effdense.evaluation import evaluate_coco
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.error_types import ERRORS, tide_errors
from tests.engine.conftest import write_tiny_config

REAL_DATA = os.environ.get("EFFDENSE_DATA")  # before the run below sets it to its own


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_shapes(root / "shapes", splits={"train": 8, "val": 8}, image_size=(64, 96), seed=0, max_objects=4)
    return root


@pytest.fixture(scope="module")
def files(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Annotation file, image folder, and detections that are right, shifted, misnamed or on nothing."""
    annotations = data / "shapes" / "annotations" / "instances_val.json"
    content, generator, found = json.loads(annotations.read_text()), np.random.default_rng(0), []
    ids = [category["id"] for category in content["categories"]]
    for index, one in enumerate(content["annotations"]):
        x, y, w, h = one["bbox"]
        shift = (0.02, 0.4, 0.02)[index % 3]
        name = one["category_id"] if index % 4 else ids[0]
        box = [x + shift * w, y, w, h]
        found.append(
            {"image_id": one["image_id"], "category_id": name, "bbox": box, "score": float(generator.random())}
        )
    for image in content["images"]:
        found.append({"image_id": image["id"], "category_id": ids[1], "bbox": [1, 1, 8, 8], "score": 0.3})
    predictions = tmp_path_factory.mktemp("said") / "found.json"
    predictions.write_text(json.dumps(found))
    return annotations, data / "shapes" / "val", predictions


def analyze(*arguments: Any) -> int:
    return main(["analyze", *map(str, arguments)])


def test_result_file(files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, images, predictions = files
    code = analyze(
        "--annotations", annotations, "--predictions", predictions, "--images", images, "--out", tmp_path / "r",
        "--gallery", 3,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert code == 0
    numbers = json.loads((tmp_path / "r" / "metrics.json").read_text())
    scores = evaluate_coco(annotations, json.loads(predictions.read_text()))
    assert numbers["scores"] == scores.to_dict() and 0 < scores.AP < 1
    truth = Truth.from_coco(annotations)
    errors = tide_errors(truth, Found.of(predictions, truth))
    assert numbers["error_types"]["cost"] == errors.cost
    assert sum(errors.counts.values()) > 0 and errors.table() in said
    assert "AP50  average precision" in said and f"report: {tmp_path / 'r' / 'report.html'}" in said
    assert 0 < numbers["threshold"] < 1 and len(numbers["worst"]) == 3
    assert numbers["worst"] == sorted(numbers["worst"], key=lambda one: -one["lost"])
    text = (tmp_path / "r" / "report.html").read_text()
    pictures = sorted(path.name for path in (tmp_path / "r" / "pictures").iterdir())
    assert text.count("data:image/") == len(pictures) == len(numbers["pictures"])
    assert sum(name.startswith("worst_") for name in pictures) == 3
    worst = cv2.imread(str(tmp_path / "r" / "pictures" / next(n for n in pictures if n.startswith("worst_01"))))
    assert worst is not None and worst.std() > 10
    for section in ("Error types", "Classes", "Taken for each other", "Recall by size", "Worst pictures"):
        assert section in text
    assert "http" not in text.replace("http-equiv", "") and "<script" not in text
    assert all(name in text for name in ERRORS)


def test_the_folder_beside_the_predictions_is_the_default(files: tuple[Path, Path, Path]) -> None:
    annotations, _, predictions = files
    for _ in range(2):  # the second replaces the first
        assert analyze("--annotations", annotations, "--predictions", predictions, "--gallery", 1) == 0
    text = (predictions.parent / "found_analysis" / "report.html").read_text()
    assert "no picture folder was given (--images DIR)" in text and "Pictures that could not be read" in text


def test_pictures_that_are_missing_and_names_that_are_nasty(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    annotations, _, predictions = files
    content = json.loads(annotations.read_text())
    for image in content["images"]:
        image["file_name"] = '../<b>&"x".jpg' if image["id"] % 2 else "<i>none</i>.jpg"
    content["categories"][0]["name"] = "<script>alert(1)</script>"
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "pictures").mkdir()
    arguments = ("--annotations", tmp_path / "a.json", "--predictions", predictions, "--out", tmp_path / "r")
    assert analyze(*arguments, "--images", tmp_path / "pictures") == 0
    text = (tmp_path / "r" / "report.html").read_text()
    assert "<script" not in text and "<b>" not in text and "<i>" not in text
    assert "must stay inside the image folder" in text and "the file does not exist" in text
    assert not list(tmp_path.parent.glob("*.jpg"))


def test_no_detections(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    annotations, images, _ = files
    (tmp_path / "none.json").write_text("[]")
    arguments = ("--annotations", annotations, "--predictions", tmp_path / "none.json", "--images", images)
    assert analyze(*arguments, "--gallery", 1) == 0
    numbers = json.loads((tmp_path / "none_analysis" / "metrics.json").read_text())
    assert numbers["scores"]["AP"] == 0 and numbers["error_types"]["cost"]["Miss"] == 100
    assert "There is not one detection" in (tmp_path / "none_analysis" / "report.html").read_text()


def test_no_ground_truth(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    annotations, images, predictions = files
    content = {**json.loads(annotations.read_text()), "annotations": []}
    (tmp_path / "a.json").write_text(json.dumps(content))
    arguments = ("--annotations", tmp_path / "a.json", "--predictions", predictions, "--images", images)
    assert analyze(*arguments, "--out", tmp_path / "r", "--gallery", 1) == 0
    assert "nothing to score" in (tmp_path / "r" / "report.html").read_text()


def test_boxes_in_the_wrong_order_are_named(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations, _, predictions = files
    found = json.loads(predictions.read_text())
    for one in found:
        x, y, w, h = one["bbox"]
        one["bbox"] = [x, y, x + w, y + h]
    (tmp_path / "p.json").write_text(json.dumps(found))
    assert analyze("--annotations", annotations, "--predictions", tmp_path / "p.json", "--gallery", 0) == 0
    assert "The boxes look like x1, y1, x2, y2" in capsys.readouterr().out
    assert "The boxes look like x1, y1, x2, y2" in (tmp_path / "p_analysis" / "report.html").read_text()


def test_masks(tmp_path: Path) -> None:
    def octagon(x: float) -> list[list[float]]:
        return [[x + 2, 0, x + 8, 0, x + 10, 2, x + 10, 8, x + 8, 10, x + 2, 10, x, 8, x, 2]]

    from pycocotools import mask

    run = mask.merge(mask.frPyObjects(octagon(1), 40, 40))
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 40}],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [
            {
                "id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 92, "iscrowd": 0,
                "segmentation": octagon(0),
            }
        ],
    }  # fmt: skip
    found = {
        "image_id": 1, "category_id": 3, "score": 0.5, "bbox": [20, 20, 5, 5],
        "segmentation": {"size": run["size"], "counts": run["counts"].decode()},
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "p.json").write_text(json.dumps([found]))
    arguments = ("--annotations", tmp_path / "a.json", "--predictions", tmp_path / "p.json")
    assert analyze(*arguments, "--iou-type", "segm", "--out", tmp_path / "m", "--gallery", 0) == 0
    assert analyze(*arguments, "--out", tmp_path / "b", "--gallery", 0) == 0
    masks, boxes = (json.loads((tmp_path / name / "metrics.json").read_text())["scores"]["AP50"] for name in "mb")
    assert masks == pytest.approx(1) and boxes == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "takes the folder of a run, or --annotations JSON and --predictions JSON"),
        (["nowhere", "--predictions", "x.json"], "not both"),
        (["nowhere"], "no run folder at"),
        (["--predictions", "x.json"], "--annotations JSON is missing"),
        (["--annotations", "x.json"], "--predictions JSON is missing"),
        (["--annotations", "nowhere.json", "--predictions", "x.json"], "No annotation file at"),
        (["--annotations", "x.json", "--predictions", "x.json", "--config", "c.py"], "--config is for a run"),
        (["nowhere", "--images", "x"], "--images is for detections that are there already"),
        (["nowhere", "--iou-type", "segm"], "give boxes"),
        (["nowhere", "--gallery", "-1"], "--gallery must be at least 0"),
    ],
)
def test_what_cannot_be(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyze(*arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_id": 77}, "category_id values that the ground truth does not know"),
        ({"image_id": 12345}, "image_id values that the ground truth does not know"),
        ({"score": float("nan")}, "score is NaN or infinite"),
    ],
)
def test_predictions_that_do_not_fit(
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    words: str,
) -> None:
    annotations, _, predictions = files
    found = json.loads(predictions.read_text())
    found[0] |= change
    (tmp_path / "p.json").write_text(json.dumps(found))
    assert analyze("--annotations", annotations, "--predictions", tmp_path / "p.json") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "p_analysis").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--iou", "0.05"], "--iou must be above 0.1"),
        (["--score-threshold", "30"], "--score-threshold must be in 0..1"),
        (["--images", "nowhere"], "--images: there is no folder at"),
    ],
)
def test_options_that_cannot_be(
    files: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    arguments = ("--annotations", files[0], "--predictions", files[2], "--out", tmp_path / "r")
    assert analyze(*arguments, *options) == 2
    assert words in capsys.readouterr().err


def test_a_folder_of_other_files_is_left_alone(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert analyze("--annotations", files[0], "--predictions", files[2], "--out", tmp_path) == 2
    assert "none is written over" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One short epoch of a small detector."""
    from effdense.engine.run import train

    folder = tmp_path_factory.mktemp("run")
    more = 'train_cfg = dict(max_epochs=1, val_interval=1)\ntrain_dataloader["num_workers"] = 0\n'
    config = write_tiny_config(folder, "tiny", more + 'default_hooks["pictures"] = None\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDENSE_DATA", str(data))
        yield train(config, work_dir=str(folder / "run"))


def test_run_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from effdense.engine.checkpoint import load

    before = sorted(path.name for path in run.iterdir())
    assert analyze(run, "--gallery", 2) == 0
    said = capsys.readouterr().out
    report = run / "analysis_val"
    assert f"report: {report / 'report.html'}" in said and "error types at IoU 0.5" in said
    numbers = json.loads((report / "metrics.json").read_text())
    logged = load(run / "best.pth")["meta"]["metrics"]
    assert numbers["scores"] == {key.removeprefix("coco/"): value for key, value in logged.items()}
    assert numbers["images"] == 8 and len(numbers["worst"]) == 2
    assert "best.pth (epoch 1" in numbers["facts"]["checkpoint"]
    assert sorted(path.name for path in run.iterdir()) == sorted([*before, "analysis_val"])
    problems = "Pictures that could not be read"
    assert problems not in (report / "report.html").read_text()
    # Again, and of another split with another batch size.
    options = ("--split", "train", "--cfg-options", "val_dataloader.batch_size=3")
    assert analyze(run / "best.pth", "--gallery", 1, *options) == 0
    assert json.loads((run / "analysis_train" / "metrics.json").read_text())["facts"]["split"] == "train, 8 images"


def test_run_folders_that_lack_something(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = next(run.glob("*.py"))
    assert analyze(tmp_path) == 2
    assert "holds no config (*.py)" in capsys.readouterr().err
    (tmp_path / "tiny.py").write_text(config.read_text())
    assert analyze(tmp_path) == 2
    assert "neither best.pth nor an epoch_N.pth" in capsys.readouterr().err
    (tmp_path / "other.py").write_text("")
    assert analyze(tmp_path) == 2
    assert "2 configs (other.py, tiny.py)" in capsys.readouterr().err
    assert analyze(tmp_path / "tiny.py") == 2
    assert "is a config; analyze takes the folder of a run" in capsys.readouterr().err
    assert analyze(run, "--split", "test") == 2
    assert "test_dataloader" in capsys.readouterr().err
    (tmp_path / "other.py").unlink()
    (tmp_path / "best.pth").write_bytes(b"damaged")
    assert analyze(tmp_path) == 2
    assert "best.pth" in capsys.readouterr().err
    assert not (tmp_path / "analysis_val").exists()


@pytest.mark.skipif(REAL_DATA is None, reason="EFFDENSE_DATA is not set: real pictures are not at hand")
def test_real_pictures(tmp_path: Path) -> None:
    """The truth of the blood cells given back as detections is perfect, and its pictures are found."""
    root = Path(str(REAL_DATA)) / "bccd"
    if not root.is_dir():
        pytest.skip("no bccd below EFFDENSE_DATA")
    annotations = root / "annotations" / "instances_val.json"
    found = [
        {**{key: one[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9}
        for one in json.loads(annotations.read_text())["annotations"]
    ]
    (tmp_path / "p.json").write_text(json.dumps(found[1:]))
    arguments = ("--annotations", annotations, "--predictions", tmp_path / "p.json", "--images", root / "images")
    assert analyze(*arguments) == 0
    numbers = json.loads((tmp_path / "p_analysis" / "metrics.json").read_text())
    assert numbers["error_types"]["counts"]["Miss"] == 1 and len(numbers["worst"]) == 1
    assert numbers["worst"][0]["lost"] == 1
    assert "could not be read" not in (tmp_path / "p_analysis" / "report.html").read_text()
