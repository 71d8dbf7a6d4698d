"""``effdense debug replay``: what it says of a batch, and its exit codes, on evidence files made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effdense.cli import main
from effdense.engine import checkpoint as files
from effdense.engine.evidence import FORMAT, random_streams
from effdense.engine.models import DetectionModel

MODEL = {"name": "efficientdet_lite0", "image_size": 64, "fpn_cells": 1, "head_repeats": 1, "max_level": 6}


@pytest.fixture
def evidence(tmp_path: Path) -> Any:
    """Writes a file of a batch of two pictures; ``change`` may spoil it."""

    def write(change: Any = None) -> str:
        torch.manual_seed(0)
        shell = DetectionModel(num_classes=2, **MODEL)
        content: dict[str, Any] = {
            "format": FORMAT,
            "meta": {"classes": ["a", "b"], "mean": shell.mean, "std": shell.std, "model": {}},
            "model": {"type": "DetectionModel", **MODEL},
            "iteration": 7, "epoch": 1, "batch_idx": 2, "seed": 0, "rank": 0,
            "values": {"loss": float("nan")}, "loss_scale": None, "dtype": None, "parts": 1,
            "batch": {
                "inputs": torch.full((2, 3, 64, 64), 9, dtype=torch.uint8),
                "boxes": torch.tensor([[[4.0, 4.0, 40.0, 40.0]], [[8.0, 8.0, 50.0, 60.0]]]),
                "labels": torch.tensor([[1], [0]]), "valid": torch.tensor([[True], [True]]),
                "paths": ["first.jpg", "second.jpg"],
            },
            "random": random_streams(), "settings": {}, "evaluating": [], "mixer": {},
            "state_dict": shell.network.state_dict(),
        }  # fmt: skip
        if change is not None:
            change(content)
        files.save_atomically(files.plain(content), tmp_path / "iter_7.pth")
        return str(tmp_path / "iter_7.pth")

    return write


def spoil_weight(content: dict[str, Any]) -> None:
    content["state_dict"] = {k: v.clone() for k, v in content["state_dict"].items()}
    name = next(key for key in content["state_dict"] if "bifpn" in key or "fpn" in key)
    content["state_dict"][name].fill_(float("nan"))


def test_what_does_not_happen_again(evidence: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["debug", "replay", evidence(), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "iteration 7 (epoch 2, batch 3), float32" in shown and "second.jpg" in shown
    assert "inputs           9 to 9" in shown and "boxes            4 to 60" in shown
    assert "it does not happen again" in shown and "first output" not in shown


def test_in_bfloat16_and_in_halves(evidence: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Of four pictures: one alone is 1 px at the coarsest level, which BatchNorm cannot train on."""

    def change(content: dict[str, Any]) -> None:
        twice = {key: value * 2 if isinstance(value, list) else value.repeat(2, *[1] * (value.dim() - 1))
                 for key, value in content["batch"].items()}  # fmt: skip
        content.update(dtype="bfloat16", parts=2, batch=twice)

    path = evidence(change)
    assert main(["debug", "replay", path, "--device", "cpu"]) == 0
    assert "bfloat16" in capsys.readouterr().out


def test_where_it_begins(evidence: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["debug", "replay", evidence(spoil_weight), "--device", "cpu"]) == 1
    shown = capsys.readouterr().out
    assert "it happens again" in shown and "the weights themselves are not finite" in shown
    first = shown.split("first output that is not finite: ")[1]
    assert "fpn" in first.splitlines()[0]


def test_targets_that_are_not_finite_are_named(evidence: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["batch"]["boxes"][1, 0, 2] = float("inf")

    main(["debug", "replay", evidence(spoil), "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "not finite: boxes of second.jpg" in shown and "1 not finite" in shown


def test_weights_of_another_model(evidence: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = evidence(lambda content: content["model"].update(fpn_cells=2))
    assert main(["debug", "replay", path, "--device", "cpu"]) == 2
    assert "do not fit the model" in capsys.readouterr().err
