"""Compound scaling by name: the rule by hand, names that rebuild what they name, and networks that run."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from effdense.errors import ConfigError
from effdense.models.encoders import create_encoder, encoder_config, encoder_names
from effdense.models.encoders.scaling import (
    SCALABLE,
    CompoundScale,
    compound_coefficients,
    scale_encoder,
    scaled_encoder_config,
)


def test_the_rule_by_hand() -> None:
    # 1.2^2 = 1.44, 1.1^2 = 1.21, 224 * 1.15^2 = 296.24, whose nearest multiple of 4 is 296.
    scale = compound_coefficients(2)
    assert (scale.depth, scale.width) == (pytest.approx(1.44), pytest.approx(1.21))
    assert scale.resolution == 296
    assert compound_coefficients(0) == CompoundScale(1.0, 1.0, 224)
    # phi 1: 16, 24, 40, 80, 112, 192, 320 channels x 1.1 = 17.6, 26.4, 44, 88, 123.2, 211.2, 352; repeats x 1.2 go up.
    scaled = scale_encoder(encoder_config("efficientnet_phi1"))
    assert [stage.channels for stage in scaled.stages] == [16, 24, 48, 88, 120, 208, 352]
    assert [stage.repeats for stage in scaled.stages] == [2, 3, 3, 4, 4, 5, 2]


def test_custom_coefficients() -> None:
    assert compound_coefficients(3, alpha=1.5, beta=1.0, gamma=1.0, base_resolution=96) == CompoundScale(3.375, 1.0, 96)
    config = scaled_encoder_config("efficientnet", phi=2, alpha=1.3, beta=1.05, gamma=1.1)
    assert (config.depth, config.width, config.resolution) == (1.69, 1.1025, 272)
    assert config.name == "efficientnet_w1.1025_d1.69_r272"


@pytest.mark.parametrize("family", SCALABLE)
def test_phi_0_is_the_base_network(family: str) -> None:
    base, scaled = encoder_config(SCALABLE[family]), encoder_config(f"{family}_phi0")
    assert scale_encoder(base) == scale_encoder(scaled)
    assert (base.train_resolution, base.resolution, base.dropout, base.activation) == (
        scaled.train_resolution, scaled.resolution, scaled.dropout, scaled.activation,
    )  # fmt: skip


@pytest.mark.parametrize("name", [f"efficientnet_b{i}" for i in range(8)] + ["efficientnetv2_b1", "efficientnetv2_b3"])
def test_published_coefficients_by_name_build_the_published_network(name: str) -> None:
    row = encoder_config(name)
    family = name.partition("_")[0]
    again = encoder_config(f"{family}_w{row.width:g}_d{row.depth:g}_r{row.resolution}")
    assert scale_encoder(again) == scale_encoder(row)
    assert (again.train_resolution, again.resolution) == (row.train_resolution, row.resolution)
    assert abs(again.dropout - row.dropout) <= 0.0501


def test_where_the_published_table_leaves_the_rule() -> None:
    """The phi that each published number would have: depth and width lag behind the resolution."""
    b7 = encoder_config("efficientnet_b7")
    by_depth, by_width = math.log(b7.depth, 1.2), math.log(b7.width, 1.1)
    by_resolution = math.log(b7.resolution / 224, 1.15)
    assert [round(phi, 1) for phi in (by_depth, by_width, by_resolution)] == [6.2, 7.3, 7.0]


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_phi2.5",
        "efficientnet_phi-1.25",
        "efficientnet_lite_phi1",
        "efficientnetv2_phi1.5",
        "efficientnet_w1.3_d1.7_r320",
        "efficientnet_lite_w0.5_d1_r96",
        "efficientnetv2_w0.75_d0.5_r128",
    ],
)
def test_a_name_rebuilds_what_it_names_and_runs(name: str) -> None:
    config = encoder_config(name)
    assert config.name == name and encoder_config(config.name) == config
    encoder = create_encoder(name, drop_path_rate=0.1).eval()
    assert encoder.name == name
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, 65, 96, generator=torch.Generator().manual_seed(0)))
    shapes = [(1, c, math.ceil(65 / s), 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)]
    assert [tuple(feature.shape) for feature in features] == shapes
    assert all(bool(feature.isfinite().all()) for feature in features)


@pytest.mark.parametrize("base", SCALABLE)
def test_a_scaled_config_has_a_name_that_rebuilds_it(base: str) -> None:
    for options in (
        {"phi": 1.75},
        {"phi": -2},
        {"width": 1.23456, "depth": 0.9, "resolution": 250},
        {"phi": 1, "resolution": 512},
        {"phi": 2.2, "alpha": 1.31, "beta": 1.07, "gamma": 1.12},
        {},
    ):
        config = scaled_encoder_config(base, **options)  # type: ignore[arg-type]
        assert encoder_config(config.name) == config
    assert scaled_encoder_config(base, phi=1.75).name == f"{base}_phi1.75"
    assert scaled_encoder_config(base, width=1.23456).width == 1.2346


def test_stages_grow_with_phi() -> None:
    for family in SCALABLE:
        sizes = []
        for phi in range(-6, 11):
            stages = scale_encoder(encoder_config(f"{family}_phi{phi}")).stages
            sizes.append(([stage.channels for stage in stages], [stage.repeats for stage in stages]))
        for (channels, repeats), (more_channels, more_repeats) in itertools.pairwise(sizes):
            assert all(few <= many for few, many in zip(channels + repeats, more_channels + more_repeats, strict=True))
        assert sizes[0] != sizes[6] != sizes[-1]


def test_v2_trains_on_smaller_images_than_it_is_evaluated_on() -> None:
    sizes = [encoder_config(f"efficientnetv2_w1_d1_r{side}") for side in (160, 224, 240, 260, 300, 400)]
    assert [config.train_resolution for config in sizes] == [160, 192, 192, 208, 240, 320]


def test_lists_hold_published_names_only() -> None:
    assert not any("phi" in name or "_w" in name for name in encoder_names())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_phi", "write FAMILY_phi2.5 or FAMILY_w1.3_d1.7_r320"),
        ("efficientnet_phi1e3", "no name of a scaled encoder"),
        ("efficientnet_phi2,5", "no name of a scaled encoder"),
        ("efficientnet_w1.3", "no name of a scaled encoder"),
        ("efficientnet_lite_w1_d1_r22.4", "no name of a scaled encoder"),
        ("efficientnet_d1.3_w1_r224", "No encoder is called"),
        ("efficientnet_phi11", r"phi must lie in -6\.\.10, got 11"),
        ("efficientnet_w0_d1_r224", r"width 0, expected 0\.1\.\.8"),
        ("efficientnetv2_w1_d99_r224", r"depth 99, expected 0\.1\.\.12"),
        ("efficientnet_w1_d1_r16", r"resolution 16, expected 32\.\.2048"),
    ],
)
def test_a_malformed_name_says_the_form(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder_config(name)


def test_bad_scales_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="base must be one of efficientnet, "):
        scaled_encoder_config("resnet", phi=1)
    with pytest.raises(ConfigError, match="alpha must be a positive number, got 0"):
        compound_coefficients(1, alpha=0)
    with pytest.raises(ConfigError, match="gamma must be a positive number, got nan"):
        scaled_encoder_config("efficientnet", phi=1, gamma=float("nan"))
    with pytest.raises(ConfigError, match="phi must lie in"):
        compound_coefficients(float("nan"))
    for options in ({"width": -1.0}, {"depth": float("inf")}, {"phi": float("inf")}):
        with pytest.raises(ConfigError):
            scaled_encoder_config("efficientnet", **options)  # type: ignore[arg-type]
