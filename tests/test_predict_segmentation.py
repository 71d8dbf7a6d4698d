"""Segmentors behind ``effdense.load``: what the network is fed in each mode, options, binary models, flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import effdense
from effdense.cli import main
from effdense.errors import ConfigError, WeightsError
from effdense.models.segmentation.inference import TTA_SCALES, InferenceOptions

OPTIONS = {"image_size": [64, 96], "decoder_channels": [32, 24, 16, 8, 8]}


def write_checkpoint(path: Path, classes: int = 3, **meta: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {key: tuple(value) for key, value in OPTIONS.items()}
        network = effdense.create_segmentor("efficientunet_lite0", classes, **options)
    names = ["road", "sky", "car"][: max(2, classes)]
    content = {
        "task": "segmentation",
        "model": {"name": "efficientunet_lite0", "num_classes": classes, **OPTIONS},
        "classes": names,
        "category_ids": list(range(len(names))),
        **meta,
    }
    torch.save({"format": "effdense/1", "state_dict": network.state_dict(), "meta": content}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.pth")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def fed(model: Any, source: Any, **options: Any) -> tuple[list[tuple[int, ...]], Any]:
    """Shapes that the network was given, and the result."""
    seen: list[tuple[int, ...]] = []
    handle = model.model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    try:
        return seen, model(source, **options)
    finally:
        handle.remove()


def test_whole_pictures_are_letterboxed_as_trained(checkpoint: Path) -> None:
    model = effdense.load(checkpoint, device="cpu")
    seen, results = fed(model, [picture(120, 200), picture(30, 30)])
    assert seen == [(2, 3, 64, 96)] and [tuple(r.mask.shape) for r in results] == [(120, 200), (30, 30)]


def test_windows_slide_over_the_original(checkpoint: Path) -> None:
    model = effdense.load(checkpoint, device="cpu")
    seen, result = fed(model, picture(120, 200), mode="slide")
    assert sum(shape[0] for shape in seen) == 3 * 3 and {shape[2:] for shape in seen} == {(64, 96)}
    assert result.mask.shape == (120, 200)
    seen, results = fed(model, [picture(100, 64), picture(40, 50)], mode="slide", window=64, stride=(36, 64))
    assert seen == [(1, 3, 64, 64)] * 2 + [(1, 3, 40, 50)] and [tuple(r.mask.shape) for r in results] == [
        (100, 64),
        (40, 50),
    ]


def test_a_small_picture_in_one_window_is_the_network_on_that_picture(checkpoint: Path) -> None:
    model = effdense.load(checkpoint, device="cpu")
    pixels = picture(50, 70)
    config = model.model.config
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (config.mean, config.std))
    with torch.no_grad():
        expected = model.model((torch.from_numpy(pixels)[None].permute(0, 3, 1, 2) - mean) / std)[0].argmax(0)
    assert torch.equal(model(pixels, mode="slide").mask, expected.to(torch.uint8))


def test_scales_and_flip(checkpoint: Path) -> None:
    model = effdense.load(checkpoint, device="cpu")
    seen, _ = fed(model, picture(64, 96), scales=(0.5, 1.0), flip=True)
    assert seen == [(1, 3, 32, 48)] * 2 + [(1, 3, 64, 96)] * 2
    seen, _ = fed(model, picture(64, 96))  # the options were of that call
    assert seen == [(1, 3, 64, 96)]


def test_the_checkpoint_says_how(tmp_path: Path) -> None:
    options = {"mode": "slide", "window": [48, 48], "flip": True}
    model = effdense.load(write_checkpoint(tmp_path / "a.pth", inference=options, letterbox=None), device="cpu")
    assert model.inference == InferenceOptions("slide", window=(48, 48), flip=True)
    seen, _ = fed(model, picture(48, 80))
    assert seen == [(1, 3, 48, 48)] * 4
    assert fed(model, picture(48, 80), mode="whole", flip=False)[0] == [(1, 3, 48, 80)]  # evaluated at original size


def test_another_letterbox_than_the_training_size(tmp_path: Path) -> None:
    model = effdense.load(write_checkpoint(tmp_path / "a.pth", letterbox=[32, 128]), device="cpu")
    seen, result = fed(model, picture(40, 50))
    assert seen == [(1, 3, 32, 128)] and result.mask.shape == (40, 50)


def test_binary(tmp_path: Path) -> None:
    model = effdense.load(write_checkpoint(tmp_path / "a.pth", classes=1), device="cpu")
    for options in ({}, {"mode": "slide"}, {"flip": True}):
        result = model(picture(100, 120), **options)
        assert result.class_names == ("road", "sky") and set(result.mask.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modus": "slide"}, "no option 'modus'. Did you mean 'mode'"),
        ({"window": 64}, "window means something with mode='slide' only"),
        ({"mode": "slide", "stride": 900}, r"stride \(900, 900\) is larger than the window \(64, 96\)"),
    ],
)
def test_options_that_cannot_be_used(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        effdense.load(checkpoint, device="cpu")(picture(70, 100), **options)


def test_a_checkpoint_with_odd_options_is_named(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, WeightsError), match="no option 'glide'"):
        effdense.load(write_checkpoint(tmp_path / "a.pth", inference={"glide": 1}), device="cpu")


def test_flags(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    Image.fromarray(picture(50, 60)).save(tmp_path / "a.png")
    seen: list[dict[str, Any]] = []
    override = InferenceOptions.override
    monkeypatch.setattr(InferenceOptions, "override", lambda self, **o: seen.append(o) or override(self, **o))
    command = ["predict", str(checkpoint), str(tmp_path / "a.png")]
    assert main([*command, "--slide", "--window", "32,48", "--stride", "24"]) == 0
    assert seen[-1] == {"mode": "slide", "window": (32, 48), "stride": 24}
    assert main([*command, "--tta"]) == 0
    assert seen[-1] == {"scales": TTA_SCALES, "flip": True}
    assert main(command) == 0 and seen[-1] == {}
    capsys.readouterr()
    assert main([*command, "--window", "32"]) == 2
    assert "window means something with mode='slide' only" in capsys.readouterr().err
    assert main([*command, "--slide", "--stride", "a"]) == 2
    assert "--stride is px or HEIGHT,WIDTH" in capsys.readouterr().err


def test_flags_are_for_segmentors(tmp_path: Path, capsys: Any) -> None:
    network = effdense.create_classifier("efficientnet_lite0", 2)
    meta = {"task": "classification", "model": {"name": "efficientnet_lite0", "num_classes": 2}, "classes": ["a", "b"]}
    meta |= {"category_ids": [0, 1], "image_size": [32, 32]}
    torch.save({"format": "effdense/1", "state_dict": network.state_dict(), "meta": meta}, tmp_path / "c.pth")
    assert main(["predict", str(tmp_path / "c.pth"), "x.png", "--tta"]) == 2
    assert "--tta are for segmentors, this is a classification model" in capsys.readouterr().err
