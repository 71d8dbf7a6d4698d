"""Segmentors and classifiers through the same engine: a score that the file reproduces, a resume that changes nothing,
what the tools write, and configs that mix tasks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import effdense
from effdense.data import read_image
from effdense.data.checks.mask_check import read_index_image
from effdense.data.generated.shapes import write_shapes
from effdense.data.generated.shapes_folder import write_shapes_folder
from effdense.engine import checkpoint as files
from effdense.engine.config import load_config
from effdense.engine.datasets import build_split
from effdense.engine.drawing import Style, draw_output
from effdense.engine.registry import METRICS, resolve
from effdense.engine.run import test as evaluate
from effdense.engine.run import train
from effdense.errors import ConfigError, DataError
from tests.engine.conftest import ROOT, read_log
from tests.engine.test_run import assert_same_state, log_text

SPLITS = {"train": 20, "val": 15}
HEAD = """
_base_ = [{runtime!r}, {schedule!r}]
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(runtime_info=dict(interval=1), logger=dict(interval=1), ema=dict(decay=0.9),
                     checkpoint=dict(max_keep=0), pictures=dict(num_images=3))
"""
SEGMENTATION = """
image_size = (64, 96)
model = dict(type="SegmentationModel", name="efficientunet_lite0", decoder_channels=(32, 24, 16, 8, 8), dropout=0.1)
_files = dict(type="ShapesSegmentation", splits={splits!r}, image_size=(64, 96), max_objects=4)
train_dataloader = dict(batch_size=5, num_workers=0, dataset=dict(**_files, split="train", transforms=[
    dict(type="ScaleJitterCrop", scale=(0.8, 1.25)), dict(type="HorizontalFlip"), dict(type="ColorJitter")]))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**_files, split="val",
                      transforms=[dict(type="ResizePad")]))
val_evaluator = dict(type="SegmentationMetric", classwise=True)
"""
CLASSIFICATION = """
image_size = 48
model = dict(type="ClassificationModel", name="efficientnet_lite0", mixup=0.2, cutmix=1.0, mix_prob=0.5, dropout=0.2)
_files = dict(type="ShapesFolder", splits={splits!r}, image_size=(48, 64))
train_dataloader = dict(batch_size=5, num_workers=2, dataset=dict(**_files, split="train", transforms=[
    dict(type="RandomResizedCrop", scale=(0.5, 1.0)), dict(type="HorizontalFlip"), dict(type="RandAugment"),
    dict(type="RandomErasing")]))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**_files, split="val",
                      transforms=[dict(type="CenterCrop", crop_fraction=0.9)]))
val_evaluator = dict(type="TopKMetric", classwise=True)
"""
TASKS = {"segmentation": (SEGMENTATION, "seg/mIoU"), "classification": (CLASSIFICATION, "cls/top1")}


@dataclass(frozen=True)
class Trained:
    task: str
    data: Path
    config: Path
    work_dir: Path
    best: str  # the metric


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("task_data")
    write_shapes(root / "shapes", splits=SPLITS, image_size=(64, 96), max_objects=4)
    write_shapes_folder(root / "shapes_folder", splits=SPLITS, image_size=(48, 64))
    return root


@pytest.fixture(scope="module", params=list(TASKS))
def trained(request: Any, sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two epochs of a tiny model of each task."""
    folder = tmp_path_factory.mktemp(request.param)
    text, best = TASKS[request.param]
    base = ROOT / "configs" / "_base_"
    head = HEAD.format(runtime=str(base / "default_runtime.py"), schedule=str(base / "schedules" / "adamw_short.py"))
    config = folder / "tiny.py"
    config.write_text(head + text.format(splits=SPLITS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDENSE_DATA", str(sets))
        yield Trained(request.param, sets, config, train(config, work_dir=str(folder / "run")), best)


@pytest.fixture
def again(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("EFFDENSE_DATA", str(trained.data))

    def score(checkpoint: str = "best.pth", **options: Any) -> Any:
        work_dir = str(trained.work_dir.parent / "test")
        return evaluate(trained.config, str(trained.work_dir / checkpoint), work_dir=work_dir, **options)

    return score


def test_a_file_reproduces_the_score_of_its_epoch(trained: Trained, again: Any) -> None:
    logged = [line for line in read_log(trained.work_dir) if trained.best in line]
    assert len(logged) == 2
    prefix = trained.best.split("/")[0]
    for epoch, line in enumerate(logged, start=1):
        scores = again(f"epoch_{epoch}.pth").to_dict()
        assert scores and {f"{prefix}/{key}": value for key, value in scores.items()}.items() <= line.items()


def test_resume_changes_nothing(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDENSE_DATA", str(trained.data))
    files.save_atomically(files.load(trained.work_dir / "epoch_1.pth"), tmp_path / "epoch_1.pth")
    train(trained.config, work_dir=str(tmp_path), resume=True)
    assert_same_state(trained.work_dir / "epoch_2.pth", tmp_path / "epoch_2.pth", best=False)


def test_the_table_and_the_pictures(trained: Trained, again: Any, tmp_path: Path) -> None:
    scores = again(show_dir=str(tmp_path))
    assert "star" in scores.table()
    drawn = sorted((trained.work_dir / "pictures").iterdir())
    names = ["curves.png", "labels.png", *(f"train_batch_{i}.jpg" for i in range(3)), "val_predictions.jpg"]
    assert [path.name for path in drawn] == names
    drawn += sorted(tmp_path.glob("*.jpg"))
    assert len(drawn) == len(names) + SPLITS["val"] and all(read_image(path).std() > 5 for path in drawn)


def test_what_out_writes(trained: Trained, again: Any, tmp_path: Path) -> None:
    """Predictions that score the same when they are read back."""
    scores = again(out=str(tmp_path / "out"))
    if trained.task == "classification":
        rows = json.loads((tmp_path / "out").read_text())
        right = sum(max(row["probabilities"], key=row["probabilities"].get) == row["label"] for row in rows)
        assert len(rows) == SPLITS["val"] and right / len(rows) == pytest.approx(scores.to_dict()["top1"])
    else:
        masks = sorted((tmp_path / "out").glob("*.png"))
        truth = sorted((trained.data / "shapes" / "semantic" / "val").glob("*.png"))
        equal = total = 0
        for ours, theirs in zip(masks, truth, strict=True):
            a, b = read_index_image(ours), read_index_image(theirs)
            equal, total = equal + int((a == b).sum()), total + a.size
        assert equal / total == pytest.approx(scores.to_dict()["pixel_accuracy"])


def test_load_opens_it_and_agrees_with_evaluation(trained: Trained, again: Any, tmp_path: Path) -> None:
    model = effdense.load(trained.work_dir)
    assert model.task == trained.task
    again(out=str(tmp_path / "out"))
    if trained.task == "classification":
        rows = json.loads((tmp_path / "out").read_text())
        results = model([row["path"] for row in rows])
        for result, row in zip(results, rows, strict=True):
            assert result.name == max(row["probabilities"], key=row["probabilities"].get)
            assert result.score == pytest.approx(max(row["probabilities"].values()), abs=1e-4)
    else:
        pictures = sorted((trained.data / "shapes" / "val").glob("*.jpg"))
        masks = sorted((tmp_path / "out").glob("*.png"))
        for picture, mask in zip(pictures, masks, strict=True):
            result = model(str(picture))
            assert np.mean(result.mask.numpy() == read_index_image(mask)) > 0.999
            assert sum(result.shares().values()) == pytest.approx(1.0)
    result.save(tmp_path / "drawn.jpg")
    assert read_image(tmp_path / "drawn.jpg").std() > 5 and json.loads(result.to_json())


def test_the_trained_encoder_starts_a_detector(trained: Trained) -> None:
    """Pretraining is for this."""
    detector = effdense.create_detector("efficientdet_lite0", 2, fpn_cells=1, head_repeats=1)
    report = effdense.load_weights(detector.backbone, trained.work_dir / "best.pth")
    state = files.load(trained.work_dir / "best.pth")["state_dict"]
    key = "blocks.6.0.conv_pwl.weight"
    source = state.get(key, state.get(f"encoder.{key}"))
    assert torch.equal(detector.backbone.state_dict()[key], source) and not report.missing


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val_evaluator.type": "CocoMetric"}, "model must be a"),
        ({"model.type": "DetectionModel", "model.name": "efficientdet_d0"}, "unknown key|must be a CocoMetric"),
        ({"model.name": "efficientdet_d0"}, "efficientdet_d0"),
        ({"model.frozen_stages": 9}, "frozen_stages must be"),
    ],
)
def test_tasks_that_do_not_match(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    monkeypatch.setenv("EFFDENSE_DATA", str(trained.data))
    with pytest.raises(ConfigError, match=said):
        train(trained.config, work_dir=str(tmp_path / "run"), options=options)
    assert not list(tmp_path.rglob("*.pth"))


def test_a_classifier_is_scored_where_a_class_has_no_pictures(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation while training can; so can the tool. The classes are the checkpoint's."""
    if trained.task != "classification":
        pytest.skip("mask folders list their classes in a file")
    text = trained.config.read_text() + (
        "val_dataloader['dataset'] = dict(type='ImageFolder', root='some', transforms=[dict(type='CenterCrop')])\n"
    )
    (tmp_path / "some.py").write_text(text)
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path))
    shutil.copytree(trained.data / "shapes_folder" / "val", tmp_path / "some")
    shutil.rmtree(tmp_path / "some" / "star")
    scores = evaluate(tmp_path / "some.py", str(trained.work_dir / "best.pth"), work_dir=str(tmp_path / "test"))
    assert scores.num_images == 12 and scores.per_class_images["star"] == 0
    (tmp_path / "some" / "cross").mkdir()
    with pytest.raises(DataError, match=r"unknown-class.*cross"):
        evaluate(tmp_path / "some.py", str(trained.work_dir / "best.pth"), work_dir=str(tmp_path / "test"))


def test_what_will_be_reported_is_known_before(trained: Trained) -> None:
    """The names that save_best may have, the main one first."""
    cfg = load_config(trained.config)
    metric = resolve(METRICS, cfg.val_evaluator.type, "")(classwise=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDENSE_DATA", str(trained.data))
        metric.bind_dataset(build_split(cfg, "val", seed=0).dataset)
    logged = next(line for line in read_log(trained.work_dir) if trained.best in line)
    assert metric.names()[0] == trained.best
    assert set(metric.names()) == {key for key in logged if key.startswith(trained.best.split("/")[0])}


def test_the_sheet_shows_a_classified_picture_once(trained: Trained) -> None:
    cfg = load_config(trained.config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDENSE_DATA", str(trained.data))
        dataset = build_split(cfg, "val", seed=0).dataset
    names = dataset.class_map.names
    image = dataset.load(0)["image"]
    if trained.task == "segmentation":
        output: dict[str, Any] = {"index": 0, "mask": torch.zeros(image.shape[:2], dtype=torch.uint8)}
        drawn = draw_output(Style("segmentation", names), dataset, output, 0.3)
        share = float((dataset.load_mask(0) != 0).mean())  # background everywhere
        assert [caption for _, caption in drawn.pictures] == [
            "truth",
            "prediction",
            f"errors: {100 * share:.1f} % wrong",
        ]
        np.testing.assert_array_equal(drawn.pictures[1][0], image)  # which pictures leave unpainted
        assert (
            drawn.counts[0] > image.shape[0] * image.shape[1] and sum(drawn.counts.values()) == 2 * image[..., 0].size
        )
        return
    label = int(dataset.records.labels[0])
    for best, said in ((label, "right"), (label + 1, "WRONG")):
        output = {"index": 0, "label": label, "probabilities": torch.eye(len(names))[best]}
        ((picture, caption),) = draw_output(Style("classification", names), dataset, output, 0.3).pictures
        assert caption == f"truth: {names[label]} - {said}"
        assert picture.shape[0] / picture.shape[1] > image.shape[0] / image.shape[1]  # the best classes stand below


def test_a_dataset_of_another_task(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDENSE_DATA", str(trained.data))
    other = {"type": "CocoDetection", "root": "shapes", "ann_file": "annotations/instances_train.json"}
    text = trained.config.read_text() + (
        f"for _loader in (train_dataloader, val_dataloader):\n"
        f"    _loader['dataset'] = dict(**{other!r}, image_dir='train',"
        f" transforms=[dict(type='ResizePad')])\n"
    )
    (tmp_path / "mixed.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"a {trained.task} model needs"):
        train(tmp_path / "mixed.py", work_dir=str(tmp_path / "run"))


def test_no_data(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped configs on an empty data root say what they expect and write nothing."""
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path / "nothing"))
    name = "effunet_b0_camvid" if trained.task == "segmentation" else "effnet_b0_imagenet"
    with pytest.raises(DataError, match="EFFDENSE_DATA"):
        train(ROOT / "configs" / f"{name}.py", work_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_regularisation_that_only_a_classifier_has(trained: Trained, tmp_path: Path, monkeypatch: Any) -> None:
    """Progressive learning of everything a task can take, three stages in three epochs."""
    monkeypatch.setenv("EFFDENSE_DATA", str(trained.data))
    more = "mixup=(0, 0.2), randaugment=(1, 5), " if trained.task == "classification" else ""
    text = trained.config.read_text() + (
        f"default_hooks['progressive'] = dict(type='ProgressiveLearningHook', stages=2, divisor=16, {more}"
        f"image_size=(32, 48), dropout=(0.0, 0.3), drop_path=(0.0, 0.1))\n"
    )
    (tmp_path / "grows.py").write_text(text)
    work_dir = train(tmp_path / "grows.py", work_dir=str(tmp_path / "run"))
    assert "epoch 1: stage 1/2, image_size 32x32" in log_text(work_dir)
    assert "epoch 2: stage 2/2, image_size 48x48" in log_text(work_dir) and "dropout 0.3" in log_text(work_dir)
