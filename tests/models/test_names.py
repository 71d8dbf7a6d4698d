"""The public face by name: listing models, building them, and the help a wrong name gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import effdense
from effdense.errors import ConfigError, WeightsError


def test_patterns_are_the_shells() -> None:
    assert effdense.list_models("efficientdet_d[01]") == ["efficientdet_d0", "efficientdet_d1"]
    assert effdense.list_models("efficientdet_lite?") == [f"efficientdet_lite{i}" for i in range(5)]
    assert effdense.list_models("efficientdet_d7*") == ["efficientdet_d7", "efficientdet_d7x"]
    assert effdense.list_models("EfficientDet*") == effdense.list_models("d0") == []


def test_every_name_is_listed_once() -> None:
    names = effdense.list_models()
    assert len(names) == len(set(names))
    assert {"efficientnet_b0", "efficientnet_lite4", "efficientnetv2_s", "efficientdet_d0", "efficientdet_v2s"} <= set(
        names
    )
    assert effdense.list_models("efficientdet*") == [name for name in names if name.startswith("efficientdet")]


@pytest.mark.parametrize("name", effdense.list_models("efficientnet*"))
def test_every_listed_encoder_can_be_built(name: str) -> None:
    with torch.device("meta"):
        encoder = effdense.create_encoder(name)
    assert encoder.strides == (2, 4, 8, 16, 32) and len(encoder.channels) == 5


def test_the_documented_face_answers() -> None:
    encoder = effdense.create_encoder("efficientnet_b3", in_channels=3, out_strides=(2, 4, 8, 16, 32), padding="same")
    assert (encoder.channels, encoder.strides) == ((24, 32, 48, 136, 384), (2, 4, 8, 16, 32))
    detector: nn.Module = effdense.create_detector("efficientdet_d0", num_classes=80, weights=None)
    # The published count is for 90 classes; each class costs 9 anchors 64 weights and a bias.
    assert sum(p.numel() for p in detector.parameters()) == 3_880_067 - (90 - 80) * 9 * (64 + 1)


@pytest.mark.parametrize(
    ("build", "name", "message"),
    [
        (effdense.create_encoder, "efficientnet_b33", "'efficientnet_b3"),
        (effdense.create_detector, "efficentdet_d0", "unknown detector .* Did you mean 'efficientdet_d0'"),
        (effdense.create_detector, "efficientnet_b0", "unknown detector 'efficientnet_b0'"),
        (effdense.create_detector, None, "unknown detector None"),
    ],
)
def test_a_wrong_name_gets_the_nearest(build: Any, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name)


@pytest.mark.parametrize("num_classes", [0, -1, 80.0, "80", True, None])
def test_a_number_of_classes_is_a_whole_number(num_classes: Any) -> None:
    with pytest.raises(ConfigError, match="num_classes must be a whole number of at least 1, got"):
        effdense.create_detector("efficientdet_d0", num_classes)


def test_a_wrong_option_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no option 'imagesize'.* Did you mean 'image_size'"):
        effdense.create_detector("efficientdet_d0", 3, imagesize=640)


def test_weights_that_do_not_exist_are_an_error_of_their_own() -> None:
    with pytest.raises(WeightsError, match=r"no weight file at .*nowhere\.pth"):
        effdense.create_detector("efficientdet_d0", 3, weights="nowhere.pth")


def test_attributes_that_are_not_part_of_the_face() -> None:
    assert set(effdense.__all__) <= set(dir(effdense))
    assert all(hasattr(effdense, name) for name in effdense.__all__)
    with pytest.raises(AttributeError, match="no attribute 'create_detecter'"):
        effdense.create_detecter  # noqa: B018


def test_segmentors_are_listed() -> None:
    names = effdense.list_models("efficientunet*")
    assert {"efficientunet_b0", "efficientunet_b7", "efficientunet_v2s", "efficientunet_lite4"} <= set(names)
    assert set(names) <= set(effdense.list_models())
