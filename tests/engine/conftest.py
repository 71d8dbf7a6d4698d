"""A data set of 37 generated pictures, a detector small enough for a CPU, and one three-epoch run that many tests read.

The pictures are 64-96 px, so an epoch takes about a second; nobody expects the detector to find anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mmengine
import pytest
import torch

from effdense.data.generated.shapes import write_shapes
from effdense.engine.environment import mmengine_distribution
from effdense.engine.run import train

ROOT = Path(__file__).parents[2]
SPLITS = {"train": 24, "val": 13}

TINY = """
_base_ = [{runtime!r}, {schedule!r}]
image_size = 64
model = dict(type="DetectionModel", name="efficientdet_lite0", fpn_cells=1, head_repeats=1, max_level=6,
             anchor_scale=3.0, bn_momentum=0.1, encoder_bn_momentum=0.1, drop_path_rate=0.2)
train_dataloader = dict(batch_size=4, num_workers=2, persistent_workers=False, dataset=dict(
    type="CocoDetection", root="shapes", ann_file="annotations/instances_train.json", image_dir="train",
    transforms=[dict(type="ScaleJitterCrop", scale=(0.8, 1.25)), dict(type="HorizontalFlip", prob=0.5)]))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(
    type="CocoDetection", root="shapes", ann_file="annotations/instances_val.json", image_dir="val",
    transforms=[dict(type="ResizePad")]))
val_evaluator = dict(type="CocoMetric")
train_cfg = dict(max_epochs=3, val_interval=1)
default_hooks = dict(runtime_info=dict(interval=1), logger=dict(interval=1), ema=dict(decay=0.98),
                     checkpoint=dict(max_keep=0), pictures=dict(enable=False))
"""
DRAWN = 'default_hooks["pictures"]["enable"] = True\n'  # as by default; it takes a second


def pytest_report_header() -> str:
    return f"mmengine: {mmengine_distribution()} in {Path(mmengine.__file__).parent}; torch {torch.__version__}"


def pytest_sessionstart() -> None:
    """`make test-engines` says which mmengine is meant; testing another by mistake would say nothing."""
    meant = os.environ.get("EFFDENSE_TEST_MMENGINE")
    if meant and meant.replace("==", " ") != mmengine_distribution():
        raise pytest.UsageError(f"{meant} was to be tested, and {mmengine.__file__} is of {mmengine_distribution()}")


def child_environment(**more: str) -> dict[str, str]:
    """Variables of a program that a test starts: it imports this checkout, and the mmengine that the test imports,
    which `make test-engines` puts into PYTHONPATH.
    """
    folders = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders)), **more}


class WriteConfig(Protocol):
    def __call__(self, name: str = ..., more: str = ...) -> Path: ...


def write_tiny_config(folder: Path, name: str = "tiny", more: str = "") -> Path:
    """A config file like the shipped ones; ``more`` is Python appended to it."""
    base = ROOT / "configs" / "_base_"
    text = TINY.format(runtime=str(base / "default_runtime.py"), schedule=str(base / "schedules" / "adamw_short.py"))
    path = folder / f"{name}.py"
    path.write_text(text + more)
    return path


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_shapes(root / "shapes", splits=SPLITS, image_size=(64, 96), seed=0, max_objects=4)
    return root


@pytest.fixture
def data(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root, set in the environment."""
    monkeypatch.setenv("EFFDENSE_DATA", str(data_root))
    return data_root


@pytest.fixture
def tiny_config(data: Path, tmp_path: Path) -> WriteConfig:
    """Writes a config file into the test's folder; EFFDENSE_DATA is set."""

    def write(name: str = "tiny", more: str = "") -> Path:
        return write_tiny_config(tmp_path, name, more)

    return write


def read_log(work_dir: Path) -> list[dict[str, Any]]:
    """Scalars of the newest start in a work dir, at full precision: one dict per training line and per validation."""
    newest = max(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for line in newest.read_text().splitlines()]


def validations(work_dir: Path) -> list[dict[str, float]]:
    """The 12 numbers of each validation of the newest start, without their prefix."""
    lines = [line for line in read_log(work_dir) if "coco/AP" in line]
    return [{key.removeprefix("coco/"): value for key, value in line.items() if "coco/" in key} for line in lines]


@dataclass(frozen=True)
class Run:
    """A finished run: its config, its folder, and the scores it logged, one dict per epoch."""

    config: Path
    work_dir: Path
    scores: list[dict[str, float]]


@pytest.fixture(scope="session")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Three epochs without interruption; every ``epoch_N.pth`` is kept. Read it, do not write into it."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_tiny_config(folder, "straight", DRAWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDENSE_DATA", str(data_root))
        work_dir = train(config, work_dir=str(folder / "run"))
    yield Run(config, work_dir, validations(work_dir))
