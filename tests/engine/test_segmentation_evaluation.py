"""Segmentors evaluated through the engine: truths that travel, windows, pictures of any size, exact sums over ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import effdense
from effdense.data import ClassMap
from effdense.data.checks.mask_check import read_index_image
from effdense.data.generated.shapes import write_shapes
from effdense.engine import checkpoint as files
from effdense.engine.models.segmentation import SegmentationModel
from effdense.engine.run import test as evaluate
from effdense.engine.run import train
from effdense.engine.segmentation_metric import SegmentationMetric
from effdense.errors import ConfigError, DataError, ShapeError
from effdense.evaluation.segmentation_scores import mean_names
from tests.engine.conftest import ROOT, read_log
from tests.engine.test_distributed import TOOLS, environment, pair, shell

SPLITS = {"train": 8, "val": 9}
CONFIG = """
_base_ = [{runtime!r}, {schedule!r}]
image_size = (48, 64)
model = dict(type="SegmentationModel", name="efficientunet_lite0", decoder_channels=(32, 24, 16, 8, 8),
             inference=dict(mode="slide", stride=(40, 40), flip=True))
_files = dict(type="ShapesSegmentation", splits={splits!r}, image_size=(64, 96), max_objects=4)
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**_files, split="train", transforms=[
    dict(type="ScaleJitterCrop", scale=(0.8, 1.25))]))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**_files, split="val", transforms=[]))
val_evaluator = dict(type="SegmentationMetric", classwise=True, boundary=True)
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(pictures=None)
"""


@dataclass(frozen=True)
class Trained:
    data: Path
    config: Path
    work_dir: Path

    @property
    def best(self) -> str:
        return str(self.work_dir / "best.pth")

    def scored(self, folder: Path, **options: Any) -> Any:
        return evaluate(self.config, self.best, work_dir=str(folder / "test"), **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One epoch of a tiny model whose config slides windows over pictures of original size."""
    folder = tmp_path_factory.mktemp("sliding")
    write_shapes(folder / "shapes", splits=SPLITS, image_size=(64, 96), max_objects=4)
    base = ROOT / "configs" / "_base_"
    runtime, schedule = str(base / "default_runtime.py"), str(base / "schedules" / "adamw_short.py")
    (folder / "tiny.py").write_text(CONFIG.format(runtime=runtime, schedule=schedule, splits=SPLITS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDENSE_DATA", str(folder))
        yield Trained(folder, folder / "tiny.py", train(folder / "tiny.py", work_dir=str(folder / "run")))


@pytest.fixture(autouse=True)
def data(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDENSE_DATA", str(trained.data))


# -- the metric --------------------------------------------------------------------------------------------------------


def bound(names: tuple[str, ...] = ("a", "b", "c"), **options: Any) -> SegmentationMetric:
    """A metric whose dataset has no mask files to read."""
    metric = SegmentationMetric(**options)
    metric.bind_dataset(SimpleNamespace(records=SimpleNamespace(class_map=ClassMap(names, tuple(range(len(names)))))))
    return metric


def samples(*masks: Any, first: int = 0) -> list[dict[str, Any]]:
    made = [torch.tensor(mask, dtype=torch.uint8) for mask in masks]
    return [{"index": first + i, "path": f"{first + i}.png", "mask": mask} for i, mask in enumerate(made)]


def test_by_hand_with_truths_from_the_batch() -> None:
    metric = bound(classwise=True)
    truths = [torch.tensor([[0, 0, 1]], dtype=torch.uint8), torch.tensor([[1], [255]], dtype=torch.uint8)]
    metric.process({"truths": truths[:1]}, samples([[0, 1, 1]]))
    metric.process({"truths": truths[1:]}, samples([[0], [2]], first=1))
    found = metric.evaluate(2)
    assert found["seg/IoU_a"] == 1 / 3 and found["seg/IoU_b"] == 1 / 3 and np.isnan(found["seg/IoU_c"])
    assert found["seg/mIoU"] == 1 / 3 and found["seg/pixel_accuracy"] == 0.5
    assert list(found) == metric.names() and metric.scores is not None and metric.scores.absent == ("c",)
    metric.process({"truths": truths[:1]}, samples([[0, 0, 1]]))  # the next epoch starts from nothing
    assert metric.evaluate(1)["seg/mIoU"] == 1.0


def test_names_with_boundaries() -> None:
    metric = bound(boundary=True, classwise=True)
    metric.process({"truths": [torch.zeros(3, 3, dtype=torch.uint8)]}, samples(np.zeros((3, 3))))
    found = metric.evaluate(1)
    assert list(found) == metric.names() and metric.names()[: len(mean_names(True))] == [
        f"seg/{n}" for n in mean_names(True)
    ]
    assert found["seg/boundary_mIoU"] == found["seg/boundary_IoU_a"] == 1.0


def test_without_truths_the_mask_files_are_read() -> None:
    metric = bound()
    metric.dataset.load_mask = lambda index: np.full((2, 2), index, np.uint8)
    metric.process({}, samples([[1, 1], [1, 0]], first=1))
    assert metric.evaluate.__self__ is metric and int(metric._counts.sum()) == 4  # type: ignore[union-attr]
    metric.results[0]["index"] = 0
    assert metric.evaluate(1)["seg/pixel_accuracy"] == 0.75


def test_faults_of_the_metric() -> None:
    with pytest.raises(ConfigError, match="not bound to a split"):
        SegmentationMetric().process({}, [])
    with pytest.raises(ConfigError, match="boundary_ratio is a share"):
        SegmentationMetric(boundary=True, boundary_ratio=2)
    metric = bound()
    with pytest.raises(ShapeError, match=r"0\.png: .* \(1, 2\) and target torch.uint8 \(2, 2\)"):
        metric.process({"truths": [torch.zeros(2, 2, dtype=torch.uint8)]}, samples([[0, 0]]))
    metric.process({"truths": [torch.tensor([[0, 7]], dtype=torch.uint8)]}, samples([[0, 0]]))
    with pytest.raises(DataError, match=r"1 evaluated pixels hold a class that is none of the 3 \(a, b, c\)"):
        metric.evaluate(1)
    with pytest.raises(DataError, match="got 0"):
        bound().evaluate(1)


# -- the model ---------------------------------------------------------------------------------------------------------


def batch_of(shell_model: SegmentationModel, sizes: list[tuple[int, int]], seed: int = 0) -> dict[str, Any]:
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(sizes), 3, height, width), dtype=torch.uint8, generator=generator)
    batch: dict[str, Any] = {"inputs": pixels, "masks": torch.zeros(len(sizes), height, width, dtype=torch.uint8)}
    batch |= {"indices": torch.arange(len(sizes)), "paths": [f"{i}.png" for i in range(len(sizes))]}
    batch |= {"original_sizes": torch.tensor(sizes), "input_sizes": torch.tensor(sizes)}
    return {**batch, "matrices": torch.eye(3, dtype=torch.float64).expand(len(sizes), 3, 3)}


@pytest.mark.parametrize("inference", [{}, {"mode": "slide"}, {"flip": True}])
def test_a_pictures_prediction_does_not_depend_on_the_batch(inference: dict[str, Any]) -> None:
    """Padding that the batch adds is cut off before the network, not after."""
    torch.manual_seed(0)
    model = SegmentationModel("efficientunet_lite0", 3, image_size=(40, 40), inference=inference).eval()
    sizes = [(50, 60), (33, 70), (50, 60), (20, 20)]
    given = batch_of(model, sizes)
    together = model.val_step(given)
    assert [r["index"] for r in together] == [0, 1, 2, 3] and [tuple(r["mask"].shape) for r in together] == sizes
    for i, (height, width) in enumerate(sizes):
        alone = {k: v[i : i + 1] for k, v in given.items()}
        alone["inputs"], alone["masks"] = alone["inputs"][:, :, :height, :width], alone["masks"][:, :height, :width]
        (single,) = model.val_step(alone)
        assert float((single["mask"] == together[i]["mask"]).float().mean()) > 0.999


def test_a_binary_segmentor_predicts_0_and_1() -> None:
    torch.manual_seed(0)
    model = SegmentationModel("efficientunet_lite0", 1, image_size=(40, 40)).eval()
    (result,) = model.val_step(batch_of(model, [(40, 56)]))
    with torch.no_grad():
        logit = model.network(model.data_preprocessor(batch_of(model, [(40, 56)]))["inputs"])[0, 0]
    assert torch.equal(result["mask"], (logit > 0).to(torch.uint8)) and set(result["mask"].unique().tolist()) == {0, 1}
    metric = bound(("background", "object"))
    metric.process({"truths": [torch.ones(40, 56, dtype=torch.uint8)]}, [result])
    share = float((logit > 0).float().mean())
    assert metric.evaluate(1)["seg/pixel_accuracy"] == pytest.approx(share)


def test_inference_options_of_a_config_are_checked() -> None:
    assert "inference" in SegmentationModel.config_arguments()
    with pytest.raises(ConfigError, match=r"no option 'strides'\. Did you mean 'stride'"):
        SegmentationModel("efficientunet_lite0", 3, inference={"mode": "slide", "strides": 3})
    model = SegmentationModel("efficientunet_lite0", 3, inference={"mode": "slide", "window": [64, 64]})
    assert "inference" not in model.build_arguments and model.inference.window == (64, 64)


# -- a run -------------------------------------------------------------------------------------------------------------


def test_the_checkpoint_knows_how_pictures_are_looked_at(trained: Trained) -> None:
    meta = files.load(trained.work_dir / "best.pth")["meta"]
    assert meta["inference"] == {"mode": "slide", "stride": [40, 40], "flip": True} and meta["letterbox"] is None
    assert effdense.load(trained.work_dir).inference.to_dict() == meta["inference"]


def test_load_predicts_what_is_scored(trained: Trained, tmp_path: Path) -> None:
    scores = trained.scored(tmp_path, out=str(tmp_path / "out"))
    masks = sorted((tmp_path / "out").glob("*.png"))
    pictures = sorted((trained.data / "shapes" / "val").glob("*.jpg"))
    model = effdense.load(trained.work_dir, device="cpu")
    for picture, mask in zip(pictures, masks, strict=True):
        assert np.mean(model(str(picture)).mask.numpy() == read_index_image(mask)) > 0.999
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert report == json.loads(json.dumps(scores.report())) and report["num_images"] == SPLITS["val"]
    assert np.array(report["confusion"]).sum() == sum(read_index_image(mask).size for mask in masks)


def test_the_score_is_that_of_the_training_log(trained: Trained, tmp_path: Path) -> None:
    logged = next(line for line in read_log(trained.work_dir) if "seg/mIoU" in line)
    scores = trained.scored(tmp_path)
    assert {f"seg/{name}": value for name, value in scores.to_dict().items()}.items() <= logged.items()
    assert "seg/boundary_mIoU" in logged and "BIoU" in scores.table()


def test_batches_of_any_size_score_the_same(trained: Trained, tmp_path: Path) -> None:
    """Pictures of nine sizes, at original size: one by one, and padded to the largest of four."""
    one, four = (trained.scored(tmp_path, options={"val_dataloader.batch_size": size}) for size in (1, 4))
    assert one.num_images == four.num_images == SPLITS["val"]
    assert np.abs(one.confusion - four.confusion).sum() <= 1e-3 * one.confusion.sum()


def test_whole_pictures_and_letterboxes_score_too(trained: Trained, tmp_path: Path) -> None:
    counted = trained.scored(tmp_path).confusion.sum()
    whole = trained.scored(tmp_path, inference={"mode": "whole"})
    transforms = [{"type": "ResizePad", "size": (40, 40)}]
    options = {"val_dataloader.dataset.transforms": transforms, "model.inference": {"mode": "whole", "stride": None}}
    boxed = trained.scored(tmp_path, options=options)
    assert counted == whole.confusion.sum() == boxed.confusion.sum()  # each at the size of the masks
    boxed_then_slid = trained.scored(tmp_path, options=options, inference={"mode": "slide"})
    assert boxed_then_slid.confusion.sum() == counted
    assert not np.array_equal(boxed_then_slid.confusion, boxed.confusion)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.inference": {"mode": "slid"}}, "Did you mean 'slide'"),
        ({"model.inference.windw": 64}, "no option 'windw'. Did you mean 'window'"),
        ({"model.inference.stride": 65}, r"stride \(65, 65\) is larger than the window \(48, 64\)"),
        ({"val_dataloader.dataset.transforms": [{"type": "ResizePad"}]}, "shrunk to 48x64, so there is one window"),
        ({"val_evaluator.boundry": True}, "Did you mean 'boundary'"),
    ],
)
def test_what_cannot_work_is_said_before_training(
    trained: Trained, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(trained.config, work_dir=str(tmp_path / "run"), options=options)
    assert not (tmp_path / "run").exists()


def test_options_are_for_segmentors(trained: Trained, tmp_path: Path) -> None:
    config = ROOT / "configs" / "effdet_b0_shapes.py"
    with pytest.raises(ConfigError, match="for segmentors, this is a detection model"):
        evaluate(config, trained.best, work_dir=str(tmp_path / "run"), inference={"flip": True})


RANK = """
import sys, torch
from effdense.engine.distributed import init_distributed, rank_and_world
from tests.engine.test_segmentation_evaluation import counted
init_distributed("pytorch")
rank, world = rank_and_world()
torch.save(counted(range(5)[rank::world]), sys.argv[1] + f"/{rank}.pth")
"""


def counted(indices: Any) -> dict[str, Any]:
    """Score some of five pictures of fixed random classes, beside whatever other ranks do."""
    metric = bound(boundary=True, classwise=True)
    for index in indices:
        generator = torch.Generator().manual_seed(index)
        mask, truth = torch.randint(0, 3, (2, 40 + index, 50), dtype=torch.uint8, generator=generator)
        truth[:5] = 255
        metric.process({"truths": [truth]}, samples(mask.tolist(), first=index))
    found = metric.evaluate(5)
    assert metric.scores is not None and metric.scores.confusion is not None
    return {**found, "confusion": metric.scores.confusion.tolist()}


def test_two_ranks_count_exactly_like_one(trained: Trained, tmp_path: Path) -> None:
    """Over gloo, three pictures and two."""
    for code, _, errors in pair(RANK, str(tmp_path), data=trained.data):
        assert code == 0, errors
    expected = counted(range(5))
    assert torch.load(tmp_path / "0.pth") == torch.load(tmp_path / "1.pth") == expected
    assert sum(map(sum, expected["confusion"])) == sum((35 + i) * 50 for i in range(5))


@pytest.mark.slow
def test_two_processes_score_like_one(trained: Trained, tmp_path: Path) -> None:
    """9 pictures in batches of 4, 4 and 1: counts, boundaries and every mask are equal."""

    def arguments(name: str) -> list[str]:
        return ["--work-dir", str(tmp_path / name), "--out", str(tmp_path / name / "out")]

    two = shell("dist_test.sh", str(trained.config), trained.best, "2", *arguments("two"), data=trained.data)
    assert two.returncode == 0, two.stderr
    command = [sys.executable, str(TOOLS / "test.py"), str(trained.config), trained.best, *arguments("one")]
    one = subprocess.run(
        command, env=environment(trained.data), capture_output=True, text=True, timeout=120, check=False
    )
    assert one.returncode == 0, one.stderr
    found = [sorted((tmp_path / name / "out").iterdir()) for name in ("one", "two")]
    assert [path.name for path in found[0]] == [path.name for path in found[1]] and len(found[0]) == SPLITS["val"] + 1
    for a, b in zip(*found, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    lines = [next(line for line in read_log(tmp_path / name) if "seg/mIoU" in line) for name in ("one", "two")]
    scores = [{key: value for key, value in line.items() if key.startswith("seg/")} for line in lines]
    assert str(scores[0]) == str(scores[1])  # nan is equal to nan as text
