"""The comparisons with smp: equal networks where they must be, equal budgets, tables by hand."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("segmentation_models_pytorch")
SCRIPTS = Path(__file__).parents[2] / "tools" / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def camvid() -> ModuleType:
    return script("camvid_against_smp")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script("bench_segmentor")


@pytest.fixture
def small_camvid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four training and two validation pictures, left half class 0, right half class 1."""
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path))
    root = tmp_path / "camvid"
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    mask = np.zeros((40, 56), np.uint8)
    mask[:, 28:] = 1
    for i in range(6):
        picture = np.random.default_rng(i).integers(0, 256, (40, 56, 3), np.uint8)
        picture[:, 28:] //= 3
        cv2.imwrite(str(root / "images" / f"{i}.png"), picture)
        cv2.imwrite(str(root / "masks" / f"{i}.png"), mask)
    (root / "splits" / "train.txt").write_text("0\n1\n2\n3\n")
    (root / "splits" / "val.txt").write_text("4\n5\n")
    (root / "classes.json").write_text(json.dumps({"classes": ["dark", "bright"]}))
    return tmp_path


def test_both_encoders_compute_the_same(camvid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert camvid.encoder_difference(3, "random", (64, 96)) < 1e-5
    fill = camvid.fill_peer_encoder

    def spoilt(peer: Any, ours: nn.Module) -> None:
        fill(peer, ours)
        peer.encoder._blocks[3]._bn1.bias.data[0] += 1.0

    monkeypatch.setattr(camvid, "fill_peer_encoder", spoilt)
    assert camvid.encoder_difference(3, "random", (64, 96)) > 1e-3  # and a difference is seen


def test_equal_schedules_and_groups(camvid: Any) -> None:
    """Warm-up of 10 steps from .05, then half a cosine over all 100."""
    factors = [camvid.lr_factor(step, 10, 100) for step in (0, 5, 10, 50, 100, 120)]
    assert factors == pytest.approx([0.05, 0.525, 0.5 * (1 + np.cos(0.1 * np.pi)), 0.5, 0.0, 0.0])
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, plain = camvid.optimiser(network, 1e-3, 0.01).param_groups
    assert [p.ndim for p in decayed["params"]] == [4] and decayed["weight_decay"] == 0.01
    assert [p.ndim for p in plain["params"]] == [1, 1, 1] and plain["weight_decay"] == 0.0


def test_summary_by_hand(camvid: Any) -> None:
    rows = [("effdense", 0, 0.4), ("effdense", 1, 0.5), ("smp", 0, 0.3), ("smp", 1, 0.5)]
    runs = [
        {"model": m, "seed": s, "mIoU": score, "pixel_accuracy": 0.9, "ms_per_iteration": 10.0} for m, s, score in rows
    ]
    lines = camvid.summary(runs).splitlines()
    assert re.search(r"effdense +2 +0\.4500 \+- 0\.0707 +- +0\.9000", lines[1])
    assert re.search(r"smp +2 +0\.4000 \+- 0\.1414", lines[2])
    assert lines[3].endswith("+0.1000, +0.0000")


def test_a_comparison_from_end_to_end(
    camvid: Any, small_camvid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # of this process, also for the tests to come
    out = small_camvid / "out.json"
    arguments = ["x", "--size", "64", "64", "--batch", "2", "--epochs", "1", "--workers", "0", "--threads", "1"]
    arguments += ["--device", "cpu", "--recalibrate", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "0"])
    camvid.main()
    report = json.loads(out.read_text())
    assert [(one["model"], one["seed"], one["iterations"]) for one in report["runs"]] == [
        ("effdense", 0, 2),
        ("smp", 0, 2),
    ]
    assert all(0 <= one[key] <= 1 for one in report["runs"] for key in ("mIoU", "mIoU_recalibrated", "pixel_accuracy"))
    assert report["batch_norm_momentum"]["effdense"]["encoder"] == [0.1]
    assert "effdense - smp, mIoU seed by seed" in capsys.readouterr().out
    # It goes on where it stopped, and the order of the two changes with the seed.
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "0", "1"])
    camvid.main()
    again = json.loads(out.read_text())["runs"]
    assert again[:2] == report["runs"] and [(one["model"], one["seed"]) for one in again[2:]] == [
        ("smp", 1),
        ("effdense", 1),
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--lr", "0.1"])
    with pytest.raises(SystemExit, match="other settings"):
        camvid.main()


def test_timed_networks_are_the_same_network(bench: Any) -> None:
    networks = bench.build(0, 64, 2, 5, torch.device("cpu"))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    inputs = dict.fromkeys(networks, images)
    assert list(networks) == [bench.NCHW, bench.LAST, bench.OURS]
    assert bench.largest_difference(networks, inputs) < 1e-4
    with torch.no_grad():
        logits = networks[bench.OURS](images)
    assert logits.std() > 0.1  # values that did not die out
    networks[bench.OURS].segmentation_head[0].bias.data[0] += logits.abs().max()
    assert bench.largest_difference(networks, inputs) > 0.1


def test_ratios_are_taken_round_by_round(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of 4 and 2, then 12 and 3 units: 2 and 4 times faster, though the medians say 8 / 2.5."""
    clock = {"now": 0.0}
    lengths = {"slow": iter([9.0, 4.0, 12.0]), bench.OURS: iter([9.0, 2.0, 3.0])}

    def task(name: str) -> Any:
        def run() -> None:
            clock["now"] += next(lengths[name])

        return run

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock["now"])
    rows = bench.measure({name: task(name) for name in lengths}, 2, torch.device("cpu"), cpu_time=False)
    assert (rows["slow"]["faster_min"], rows["slow"]["faster"], rows["slow"]["faster_max"]) == (2.0, 3.0, 4.0)
    assert rows["slow"]["median_ms"] == 8000.0 and rows[bench.OURS]["faster"] == 1.0
