"""Export to timm's layout: names, what the file states, and files that stay whole. timm itself: tests/oracles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effdense.errors import WeightsError
from effdense.models.classification import create_classifier
from effdense.models.detection import create_detector
from effdense.models.encoders import create_encoder
from effdense.models.weights import load_weights, save_timm, to_timm
from effdense.models.weights.export import convert_file, timm_arguments

TOOL = Path(__file__).parents[3] / "tools" / "convert_weights.py"


def test_the_encoder_of_any_model_is_exported() -> None:
    encoder = create_encoder("efficientnet_lite0", out_strides=(8, 16, 32))
    detector = create_detector("efficientdet_lite0", 2, padding="symmetric")
    assert to_timm(encoder).keys() == encoder.state_dict().keys() == to_timm(detector).keys()
    assert "classifier.weight" in to_timm(create_classifier("efficientnet_lite0", 2))
    assert timm_arguments(encoder)[0] == "tf_efficientnet_lite0"
    assert timm_arguments(detector)[0] == "efficientnet_lite0"
    exported = to_timm(encoder)["conv_stem.weight"]
    exported.zero_()
    assert encoder.conv_stem.weight.any()  # a copy


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("efficientnet_b0", {"padding": "symmetric", "bn_eps": 1e-3}, ("efficientnet_b0", {"bn_eps": 1e-3})),
        ("efficientnetv2_b0", {}, ("tf_efficientnetv2_b0", {})),
        (
            "efficientnetv2_b0", {"padding": "symmetric"},
            ("tf_efficientnetv2_b0", {"pad_type": "", "bn_eps": 1e-5}),
        ),
        ("efficientnetv2_rw_t", {"padding": "symmetric"}, ("efficientnetv2_rw_t", {})),
        ("efficientnetv2_rw_t", {}, ("efficientnetv2_rw_t", {"pad_type": "same", "bn_eps": 1e-3})),
    ],
)  # fmt: skip
def test_the_arguments_build_the_same_network_in_timm(name: str, options: Any, expected: tuple[str, Any]) -> None:
    encoder = create_encoder(name, **options).eval()
    assert timm_arguments(encoder) == expected
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(expected[0], features_only=True, **expected[1]).eval()
    theirs.load_state_dict(to_timm(encoder), strict=True)
    # In float64: with weights as drawn, V2-RW lets the last bits of float32 grow to 1e-4 in its 60 layers.
    encoder, theirs = encoder.double(), theirs.double()
    images = torch.randn(1, 3, 65, 48, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for got, want in zip(encoder(images), theirs(images), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "padding"), [("efficientnet_phi-3", "same"), ("efficientnet_b0", "same_static")])
def test_what_timm_does_not_have(name: str, padding: str) -> None:
    with pytest.raises(WeightsError, match=r"timm has no (model of the scale|padding)"):
        timm_arguments(create_encoder(name, out_strides=(2,), padding=padding))


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
    assert "timm.create_model('efficientnet_b0')" in done.stdout
    model = create_classifier("efficientnet_b0", 7)
    assert load_weights(model, tmp_path / "ours.safetensors").loaded == list(model.state_dict())
    assert (model.padding, model.bn_eps) == ("symmetric", 1e-5)

    failed = subprocess.run([*command, "--model", "efficientnet_b1"], capture_output=True, text=True)
    assert failed.returncode == 1 and "They look like efficientnet_b0" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_convention_that_nobody_said_is_not_stated(tmp_path: Path) -> None:
    state = create_encoder("efficientnet_b0", padding="symmetric").state_dict()
    torch.save(state, tmp_path / "timm.pth")
    _, phrase = convert_file(tmp_path / "timm.pth", tmp_path / "unknown.safetensors")
    assert "padding unknown" in phrase
    model = create_encoder("efficientnet_b0", padding="symmetric")
    report = load_weights(model, tmp_path / "unknown.safetensors")
    assert model.padding == "symmetric" and "does not say its padding" in str(report)

    _, phrase = convert_file(tmp_path / "timm.pth", tmp_path / "known.safetensors", padding="symmetric")
    assert phrase.endswith("padding symmetric, BN eps 1e-05; timm.create_model('efficientnet_b0')")
    model = create_encoder("efficientnet_b0")
    assert "does not say" not in str(load_weights(model, tmp_path / "known.safetensors"))
    assert model.padding == "symmetric"


def test_a_source_is_not_overwritten_by_its_own_conversion(tmp_path: Path) -> None:
    path = tmp_path / "b0.pth"
    torch.save(create_encoder("efficientnet_b0").state_dict(), path)
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="is the source itself"):
        convert_file(path, tmp_path / "." / "b0.pth")
    assert path.read_bytes() == before
