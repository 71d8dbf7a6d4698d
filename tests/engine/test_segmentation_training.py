"""A segmentor trained with everything at once: combined loss, photometric jitter, capped crops, polynomial schedule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from effdense.data.generated.shapes import write_shapes
from effdense.data.transforms.photometric import PhotometricJitter
from effdense.engine import checkpoint as files
from effdense.engine.models import ClassificationModel, DetectionModel, Normalize, SegmentationModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.run import train
from effdense.errors import ConfigError
from tests.engine.conftest import ROOT, read_log
from tests.engine.test_run import assert_same_state

TERMS = ("ce", "dice", "focal", "lovasz", "ohem")
LOSS = {f"{name}_weight": weight for name, weight in zip(TERMS, (1.0, 1.0, 0.5, 0.5, 0.25), strict=True)}
TINY: dict[str, Any] = {"image_size": 64, "decoder_channels": (16, 16, 8, 8, 8)}

CONFIG = """
_base_ = [{runtime!r}, {schedule!r}]
image_size = (64, 64)
model = dict(type="SegmentationModel", name="efficientunet_lite0", decoder_channels=(16, 16, 8, 8, 8),
             photometric=dict(prob=0.8, hue=10), label_smoothing=0.05, **{loss!r})
_files = dict(type="ShapesSegmentation", splits=dict(train=12, val=4), image_size=(64, 96), max_objects=4)
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**_files, split="train", transforms=[
    dict(type="ScaleJitterCrop", scale=(0.5, 2.0), class_ratio_cap=0.75), dict(type="HorizontalFlip"),
    dict(type="VerticalFlip", prob=0.2)]))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**_files, split="val",
                      transforms=[dict(type="ResizePad")]))
val_evaluator = dict(type="SegmentationMetric")
train_cfg = dict(max_epochs=2, val_interval=1)
auto_scale_lr = dict(enable=False)
default_hooks = dict(runtime_info=dict(interval=1), logger=dict(interval=1), ema=dict(decay=0.9),
                     checkpoint=dict(max_keep=0), pictures=None)
"""


def shell(num_classes: int = 3, **options: Any) -> SegmentationModel:
    torch.manual_seed(0)
    model = SegmentationModel("efficientunet_lite0", num_classes, **{**TINY, **options})
    model.load_starting_weights()
    return model


def batch(classes: int = 3, count: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return {
        "inputs": pixels.contiguous(memory_format=torch.channels_last),
        "masks": torch.randint(0, classes, (count, 64, 64), generator=generator, dtype=torch.uint8),
        "paths": ["x"] * count,
    }


# -- a run -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two epochs of three steps."""
    folder = tmp_path_factory.mktemp("combined")
    base = ROOT / "configs" / "_base_"
    names = {"runtime": str(base / "default_runtime.py"), "schedule": str(base / "schedules" / "sgd_poly.py")}
    (folder / "all.py").write_text(CONFIG.format(loss=LOSS, **names))
    write_shapes(folder / "shapes", splits={"train": 12, "val": 4}, image_size=(64, 96), max_objects=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDENSE_DATA", str(folder))
        yield folder, train(folder / "all.py", work_dir=str(folder / "run"))


def test_it_trains_and_logs_every_term(run: tuple[Path, Path]) -> None:
    lines = [line for line in read_log(run[1]) if "loss" in line]
    assert len(lines) == 6
    for line in lines:
        assert math.isfinite(line["loss"]) and line["loss"] == pytest.approx(line["loss_seg"])
        assert all(math.isfinite(line[name]) and line[name] > 0 for name in TERMS)
    # mmengine averages what is called a loss over the last ten lines, so only the first is the sum of its terms.
    terms = sum(LOSS[f"{name}_weight"] * lines[0][name] for name in TERMS)
    assert lines[0]["loss"] == pytest.approx(terms, rel=1e-4)
    assert lines[-1]["lr"] < lines[3]["lr"]


def test_a_resume_draws_the_same_colours(run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, work_dir = run
    files.save_atomically(files.load(work_dir / "epoch_1.pth"), tmp_path / "epoch_1.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDENSE_DATA", str(folder))
        train(folder / "all.py", work_dir=str(tmp_path), resume=True)
    assert_same_state(work_dir / "epoch_2.pth", tmp_path / "epoch_2.pth", best=False)


# -- one step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_batch_of_nothing_but_ignored_pixels_moves_no_weight(dtype: str | None) -> None:
    """Zero loss and, without weight decay, the weights of before; BatchNorm's statistics do follow the pictures."""
    model = shell(photometric={}, **LOSS).train()
    before = {name: value.clone() for name, value in model.network.named_parameters()}
    wrapper = EffOptimWrapper(
        torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9), dtype=dtype, clip_grad={"max_norm": 1.0}
    )
    given = batch() | {"masks": torch.full((2, 64, 64), 255, dtype=torch.uint8)}
    for _ in range(2):
        logged = model.train_step(given, wrapper)
        assert all(value.item() == 0.0 for value in logged.values()) and {"loss", *TERMS} <= set(logged)
    assert wrapper.updates == 2
    assert all(torch.equal(value, before[name]) for name, value in model.network.named_parameters())


def test_a_step_with_one_logit() -> None:
    """Binary: every term, weights for background and object."""
    model = shell(1, class_weights=(0.5, 2.0), **LOSS).train()
    wrapper = EffOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    losses = [model.train_step(batch(2), wrapper)["loss"].item() for _ in range(4)]
    assert all(math.isfinite(loss) for loss in losses) and losses[-1] < losses[0]


# -- photometric jitter ------------------------------------------------------------------------------------------------


def test_jitter_comes_before_normalising_and_only_in_training() -> None:
    given = batch()
    normalise = Normalize((0.5,) * 3, (0.25,) * 3, photometric={"prob": 1.0})
    plain = Normalize((0.5,) * 3, (0.25,) * 3)
    torch.manual_seed(3)
    out = normalise(given, training=True)
    torch.manual_seed(3)
    colours = PhotometricJitter(prob=1.0)(given["inputs"].float())
    torch.testing.assert_close(out["inputs"], (colours - 127.5) / 63.75)
    assert out["inputs"].is_contiguous(memory_format=torch.channels_last) and out["masks"] is given["masks"]
    assert given["inputs"].dtype == torch.uint8
    for call in ({}, {"training": False}):
        assert torch.equal(normalise(given, **call)["inputs"], plain(given)["inputs"])
    assert torch.equal(plain(given, training=True)["inputs"], plain(given)["inputs"])


@pytest.mark.parametrize("channels_last", [True, False])
def test_jitter_keeps_the_memory_format(channels_last: bool) -> None:
    """And autocast, which a training step runs under, rounds no colours."""
    model = shell(channels_last=channels_last, photometric={"prob": 1.0})
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    expected = model.data_preprocessor(batch(), True)["inputs"]
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        inputs = model.data_preprocessor(batch(), True)["inputs"]
    assert inputs.is_contiguous(memory_format=wanted) and torch.equal(inputs, expected)


@pytest.mark.parametrize(
    "build",
    [
        lambda **options: DetectionModel("efficientdet_lite0", 2, image_size=64, fpn_cells=1, **options),
        lambda **options: ClassificationModel("efficientnet_lite0", 2, image_size=64, **options),
        lambda **options: shell(**options),
    ],
)
def test_every_task_takes_it(build: Any) -> None:
    model = build(photometric={"hue": 5})
    assert model.data_preprocessor.jitter.hue == 5.0 and build().data_preprocessor.jitter is None
    assert "photometric" in type(model).config_arguments() and "photometric" not in model.build_arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photometric": {"brigthness": 0.1}}, "model.photometric.brigthness.*Did you mean 'brightness'"),
        ({"photometric": {"brightness": 32}}, "share of the full range"),
        ({"photometric": True}, r"dict\(...\).*got True"),
        ({"photometric": {}, "in_channels": 1, "mean": (0.5,), "std": (0.5,)}, "needs RGB.*1 channels"),
    ],
)
def test_wrong_jitter(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shell(**options)
