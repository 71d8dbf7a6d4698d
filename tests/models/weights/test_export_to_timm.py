"""Export to timm's layout: names, what the file states, and files that stay whole. timm itself: tests/oracles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from effdense.errors import WeightsError
from effdense.models.classification import create_classifier
from effdense.models.detection import create_detector
from effdense.models.encoders import create_encoder
from effdense.models.weights import load_weights, save_timm, to_timm
from effdense.models.weights.export import timm_name

TOOL = Path(__file__).parents[3] / "tools" / "convert_weights.py"


def test_the_encoder_of_any_model_is_exported() -> None:
    encoder = create_encoder("efficientnet_lite0", out_strides=(8, 16, 32))
    detector = create_detector("efficientdet_lite0", 2, padding="symmetric")
    assert to_timm(encoder).keys() == encoder.state_dict().keys() == to_timm(detector).keys()
    assert "classifier.weight" in to_timm(create_classifier("efficientnet_lite0", 2))
    assert timm_name(encoder) == "tf_efficientnet_lite0" and timm_name(detector) == "efficientnet_lite0"
    exported = to_timm(encoder)["conv_stem.weight"]
    exported.zero_()
    assert encoder.conv_stem.weight.any()  # a copy


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_file_states_its_convention(tmp_path: Path, suffix: str) -> None:
    source = create_encoder("efficientnet_b0", out_strides=(2, 4), padding="same_static", bn_eps=1e-4)
    path = save_timm(source, tmp_path / f"b0{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == [f"b0{suffix}"]
    model = create_encoder("efficientnet_b0", out_strides=(2, 4))
    report = load_weights(model, path)
    assert report.adapted == ["padding same -> same_static", "BN eps 0.001 -> 0.0001"] and not report.notes
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values()))


def test_a_statement_that_says_nonsense_is_ignored(tmp_path: Path) -> None:
    state = create_encoder("efficientnet_b0", out_strides=(2,)).state_dict()
    for stated in ({"padding": "wide", "bn_eps": -1.0}, {"padding": 3, "bn_eps": "x"}, "text", [1], {"bn_eps": 0.0}):
        torch.save({"state_dict": state, "effdense_weights": stated}, tmp_path / "w.pth")
        model = create_encoder("efficientnet_b0", out_strides=(2,))
        assert not load_weights(model, tmp_path / "w.pth").adapted
        assert (model.padding, model.bn_eps) == ("same", 1e-3)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    encoder = create_encoder("efficientnet_b0", out_strides=(2,))
    with pytest.raises(WeightsError, match=r"must end in \.safetensors or \.pth"):
        save_timm(encoder, tmp_path / "w.onnx")
    with pytest.raises(WeightsError, match="there is no folder"):
        save_timm(encoder, tmp_path / "absent" / "w.pth")
    with pytest.raises(WeightsError, match="Linear has no encoder"):
        to_timm(nn.Linear(1, 1))
    assert not list(tmp_path.iterdir())


def test_the_tool_converts_and_reports(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.save(torchvision.models.efficientnet_b0(num_classes=7).state_dict(), tmp_path / "theirs.pth")
    command = [sys.executable, str(TOOL), str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "torchvision efficientnet_b0" in done.stdout and "padding same -> symmetric" in done.stdout
    model = create_classifier("efficientnet_b0", 7)
    assert load_weights(model, tmp_path / "ours.safetensors").loaded == list(model.state_dict())
    assert (model.padding, model.bn_eps) == ("symmetric", 1e-5)

    failed = subprocess.run([*command, "--model", "efficientnet_b1"], capture_output=True, text=True)
    assert failed.returncode == 1 and "They look like efficientnet_b0" in failed.stderr
    assert "Traceback" not in failed.stderr
