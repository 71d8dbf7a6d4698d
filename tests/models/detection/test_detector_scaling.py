"""Detectors of any phi: the paper's rule by hand, the published levels exactly, and networks that run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import effdense
from effdense.errors import ConfigError
from effdense.models.detection import detector_config
from effdense.models.detection.efficientdet import EfficientDet
from effdense.models.detection.scaling import scaled_detector_config, scaled_detector_config_from
from effdense.models.encoders import encoder_config
from effdense.models.encoders.scaling import scaled_encoder_config


def test_between_two_levels_by_hand() -> None:
    # 64 * 1.35^3.5 = 183.0 -> 184; 3 + 3.5 -> 7; 3 + floor(3.5 / 3) = 4; 512 + 448 = 960 -> 1024, halves up.
    row = scaled_detector_config("efficientdet_phi3.5")
    assert row is not None
    assert (row.fpn_channels, row.fpn_cells, row.head_repeats, row.image_size) == (184, 7, 4, 1024)
    # Half-way between B3 (1.2, 1.4, 300) and B4 (1.4, 1.8, 380).
    encoder = encoder_config(row.encoder)
    assert (encoder.width, encoder.depth, encoder.resolution) == (1.3, 1.6, 340)


def test_below_the_smallest_level() -> None:
    row = scaled_detector_config("efficientdet_phi-1")
    assert row is not None
    assert (row.encoder, row.fpn_channels, row.fpn_cells, row.head_repeats, row.image_size) == (
        "efficientnet_phi-1", 48, 2, 2, 384,
    )  # fmt: skip


@pytest.mark.parametrize("phi", range(8))
def test_whole_phi_are_the_published_levels(phi: int) -> None:
    for name in (f"efficientdet_phi{phi}", f"efficientdet_phi{phi}.0"):
        row = scaled_detector_config(name)
        assert row == dataclasses.replace(detector_config(f"efficientdet_d{phi}"), name=name)


@pytest.mark.parametrize("phi", range(5))
def test_whole_lite_phi_are_the_published_levels(phi: int) -> None:
    row = scaled_detector_config(f"efficientdet_lite_phi{phi}")
    assert row is not None and row.name == f"efficientdet_lite_phi{phi}"
    assert dataclasses.replace(row, name="") == dataclasses.replace(detector_config(f"efficientdet_lite{phi}"), name="")


def test_from_d6_to_d7_only_the_image_grows() -> None:
    d6, row = detector_config("efficientdet_d6"), scaled_detector_config("efficientdet_phi6.5")
    assert row is not None and row.image_size == 1408
    assert dataclasses.replace(row, name=d6.name, image_size=1280) == d6


def test_lite_stays_lite() -> None:
    row = scaled_detector_config("efficientdet_lite_phi1.5")
    assert row is not None
    assert (row.activation, row.fusion, row.image_size, row.anchor_scale) == ("relu6", "sum", 448, 3.0)
    assert row.encoder == "efficientnet_lite_w1.05_d1.15_r252"


@pytest.mark.parametrize("name", ["efficientdet_phi0.5", "efficientdet_lite_phi-1.5"])
def test_the_coarsest_level_divides_the_image_and_the_network_runs(name: str) -> None:
    config = scaled_detector_config(name)
    assert config is not None and config.size_hw[0] % 64 == 0
    detector = EfficientDet(config, 2).eval()
    with torch.no_grad():
        output = detector(torch.randn(1, 3, 128, 96, generator=torch.Generator().manual_seed(0)))
    assert tuple(output.class_logits[0].shape) == (1, 9 * 2, 16, 12)
    assert all(bool(level.isfinite().all()) for level in (*output.class_logits, *output.box_deltas))


def test_create_detector_takes_such_names() -> None:
    with torch.device("meta"):
        detector = effdense.create_detector("efficientdet_phi3.5", 3)
    assert detector.config.name == "efficientdet_phi3.5"
    assert detector.backbone.name == "efficientnet_w1.3_d1.6_r340"


def test_an_encoder_of_ones_own_under_the_matching_pyramid() -> None:
    encoder = scaled_encoder_config("efficientnetv2", phi=1, alpha=1.1, beta=1.0, gamma=1.3).name
    config = scaled_detector_config_from(1.5, encoder=encoder, image_size=128)
    plain = scaled_detector_config_from(1.5)
    assert (config.encoder, config.image_size) == (encoder, 128)
    assert dataclasses.replace(config, encoder=plain.encoder, image_size=plain.image_size) == plain
    detector = EfficientDet(config, 1).eval()
    with torch.no_grad():
        assert len(detector(torch.zeros(1, 3, 128, 128)).box_deltas) == 5
    lite = scaled_detector_config_from(2, lite=True)
    assert lite.name == "efficientdet_lite_phi2" and lite.fpn_channels == 112


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdet_lite0", "efficientnet_phi1", "", None])
def test_other_names_are_not_ours(name: str) -> None:
    assert scaled_detector_config(name) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientdet_phi", "no name of a scaled detector; write efficientdet_phi3.5"),
        ("efficientdet_phi3.5x", "no name of a scaled detector"),
        ("efficientdet_phi7.5", r"phi must lie in -2\.\.7, got 7\.5"),
        ("efficientdet_phi-3", r"phi must lie in -2\.\.7, got -3"),
        ("efficientdet_lite_phi4.1", r"phi must lie in -2\.\.4"),
    ],
)
def test_malformed_names_say_the_form(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scaled_detector_config(name)
    with pytest.raises(ConfigError, match="No encoder is called 'efficientnet_b77'"):
        scaled_detector_config_from(1, encoder="efficientnet_b77")
