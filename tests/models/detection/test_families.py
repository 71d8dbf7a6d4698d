"""The detector table against the published one, and what an option may be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import effdense
from effdense.errors import ConfigError
from effdense.models.detection import EfficientDet, EfficientDetConfig, detector_config, detector_names
from effdense.models.detection.families import adapted_options

# EfficientDet table 1, automl hparams_config.py: encoder, input px, BiFPN width and cells, head layers, anchor scale.
PUBLISHED = {
    "d0": ("b0", 512, 64, 3, 3, 4), "d1": ("b1", 640, 88, 4, 3, 4), "d2": ("b2", 768, 112, 5, 3, 4),
    "d3": ("b3", 896, 160, 6, 4, 4), "d4": ("b4", 1024, 224, 7, 4, 4), "d5": ("b5", 1280, 288, 7, 4, 4),
    "d6": ("b6", 1280, 384, 8, 5, 4), "d7": ("b6", 1536, 384, 8, 5, 5), "d7x": ("b7", 1536, 384, 8, 5, 4),
    "lite0": ("lite0", 320, 64, 3, 3, 3), "lite1": ("lite1", 384, 88, 4, 3, 3), "lite2": ("lite2", 448, 112, 5, 3, 3),
    "lite3": ("lite3", 512, 160, 6, 4, 4), "lite3x": ("lite3", 640, 200, 6, 4, 3),
    "lite4": ("lite4", 640, 224, 7, 4, 4),
}  # fmt: skip


@pytest.mark.parametrize("level", PUBLISHED)
def test_rows_are_the_published_ones(level: str) -> None:
    row = detector_config(f"efficientdet_{level}")
    numbers = (row.image_size, row.fpn_channels, row.fpn_cells, row.head_repeats, row.anchor_scale)
    assert (row.encoder.removeprefix("efficientnet_"), *numbers) == PUBLISHED[level]


def test_what_sets_the_branches_of_the_family_apart() -> None:
    rows = {name.removeprefix("efficientdet_"): detector_config(name) for name in detector_names()}
    assert {name for name, row in rows.items() if row.fusion == "sum"} == {
        "d6", "d7", "d7x", "lite0", "lite1", "lite2", "lite3", "lite3x", "lite4", "v2xl",
    }  # fmt: skip
    assert {name for name, row in rows.items() if row.max_level != 7} == {"d7x"}
    lite = {name: row for name, row in rows.items() if name.startswith("lite")}
    assert len(lite) == 6
    for name, row in rows.items():
        assert (row.activation, row.mean == (127 / 255,) * 3, row.std == (128 / 255,) * 3) == (
            ("relu6", True, True) if name in lite else ("silu", False, False)
        )


def test_defaults_are_the_papers() -> None:
    row = detector_config("efficientdet_d0")
    assert (row.focal_alpha, row.focal_gamma, row.huber_delta, row.box_loss_weight) == (0.25, 1.5, 0.1, 50.0)
    assert (row.positive_iou, row.negative_iou, row.num_anchors, row.num_levels) == (0.5, 0.5, 9, 5)
    assert (row.max_candidates, row.max_detections, row.nms, row.nms_iou) == (5000, 100, "hard", 0.5)


@pytest.mark.parametrize("name", detector_names())
def test_every_name_builds(name: str) -> None:
    with torch.device("meta"):
        detector = effdense.create_detector(name, 3)
        output = detector.eval()(torch.zeros(1, 3, 128, 192))
    row = detector_config(name)
    assert detector.config is row or detector.config == row
    expected = [((128 >> level) or 1, -(-192 // 2**level)) for level in range(3, row.max_level + 1)]
    assert [tuple(level.shape[-2:]) for level in output.class_logits] == expected
    assert all(level.shape[1] == 9 * 3 for level in output.class_logits)
    assert all(level.shape[1] == 9 * 4 for level in output.box_deltas)


def test_v2_names_put_a_v2_encoder_under_the_bifpn() -> None:
    names = [name for name in detector_names() if "_v2" in name]
    assert len(names) == 8
    assert all(detector_config(name).encoder.startswith("efficientnetv2_") for name in names)


def test_effdets_v2_rows() -> None:
    tiny, small = detector_config("efficientdetv2_dt"), detector_config("efficientdetv2_ds")
    assert (tiny.encoder, tiny.image_size, tiny.fpn_channels, tiny.fpn_cells, tiny.head_repeats) == (
        "efficientnetv2_rw_t", 768, 128, 5, 3,
    )  # fmt: skip
    assert (small.encoder, small.image_size, small.fpn_channels, small.fpn_cells, small.head_repeats) == (
        "efficientnetv2_rw_s", 1024, 256, 7, 4,
    )  # fmt: skip
    for row in (tiny, small):
        assert (row.padding, row.encoder_convention, row.redundant_bias) == ("symmetric", "symmetric", False)
        assert (row.upsample, row.downsample) == ("bilinear", "bilinear")
        assert [round(w / h, 9) for w, h in row.aspect_ratios] == [1, 2, 0.5]
        assert all(w * h == pytest.approx(1) for w, h in row.aspect_ratios)


@pytest.mark.parametrize(
    ("options", "convention"),
    [
        ({}, "same"),
        ({"padding": "symmetric"}, "symmetric"),
        ({"padding": "same_zero"}, "same"),
        ({"encoder_padding": "symmetric"}, "symmetric"),
        ({"padding": "symmetric", "encoder_padding": "same"}, "same"),
    ],
)
def test_the_encoder_follows_the_pyramid_unless_told(options: dict[str, Any], convention: str) -> None:
    assert detector_config("efficientdet_d0").override(**options).encoder_convention == convention


@pytest.mark.parametrize(("padding", "encoder_padding", "eps"), [
    ("same", "same", 1e-3), ("same", "symmetric", 1e-5), ("same", "same_static", 2e-4), ("same", "symmetric", 1e-3),
    ("symmetric", "symmetric", 1e-5), ("symmetric", "same", 1e-5), ("same_zero", "same", 1e-3),
    ("same_zero", "symmetric", 1e-3),
])  # fmt: skip
@pytest.mark.parametrize("built", [{}, {"padding": "symmetric"}, {"encoder_padding": "symmetric"}])
def test_adapted_options_rebuild_what_they_describe(
    padding: str, encoder_padding: str, eps: float, built: dict[str, Any]
) -> None:
    config = detector_config("efficientdet_d0").override(fpn_cells=1, head_repeats=1, max_level=5, **built)
    options = adapted_options(config, padding=padding, encoder_padding=encoder_padding, encoder_bn_eps=eps)
    with torch.device("meta"):
        detector = EfficientDet(config.override(**options), 3)
    assert (detector.fpn.padding, detector.backbone.padding, detector.backbone.bn_eps) == (
        padding,
        encoder_padding,
        eps,
    )
    assert detector.weight_options == {}


def test_adapted_options_say_no_more_than_needed() -> None:
    config = detector_config("efficientdet_d0")
    native = {"padding": "symmetric", "encoder_padding": "symmetric", "encoder_bn_eps": 1e-5}
    assert adapted_options(config, **native) == {"padding": "symmetric"}
    assert adapted_options(config.override(padding="symmetric"), **native) == {}
    assert adapted_options(config, padding="same", encoder_padding="symmetric", encoder_bn_eps=1e-5) == {
        "encoder_padding": "symmetric"
    }


def test_an_override_is_a_changed_copy() -> None:
    row = detector_config("efficientdet_d0")
    changed = row.override(image_size=(384, 640), nms="soft")
    assert changed.size_hw == (384, 640) and changed.nms == "soft"
    assert row.size_hw == (512, 512) and row.nms == "hard"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fpn_chanels": 64}, "no option 'fpn_chanels'.* Did you mean 'fpn_channels'"),
        ({"min_level": 6}, "min_level 6 is coarser"),
        ({"min_level": 0}, "1 <= min_level"),
        ({"min_level": 5, "max_level": 5}, r"min_level < max_level .* got 5\.\.5"),
        ({"image_size": 0}, "image_size must be .* got 0"),
        ({"image_size": (512,)}, r"got \(512,\)"),
        ({"image_size": 512.0}, r"got 512\.0"),
        ({"nms": "fast"}, r"\('hard', 'soft'\), got 'fast'"),
        ({"padding": "valid"}, "padding must be .* got 'valid'"),
        ({"encoder_padding": "valid"}, "padding is 'valid'"),
        ({"upsample": "cubic"}, r"upsample must be one of \('nearest', 'bilinear'\), got 'cubic'"),
        ({"downsample": "mean"}, r"downsample must be one of \('max', 'bilinear'\), got 'mean'"),
        ({"positive_iou": 0.4}, r"negative_iou 0\.5 must not exceed positive_iou 0\.4"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
        ({"fpn_cells": 0}, "fpn_cells must be at least 1"),
        ({"aspect_ratios": ((1.0,),)}, "aspect_ratios must be .* pairs"),
        ({"aspect_ratios": ()}, "aspect_ratios must be .* pairs"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        detector_config("efficientdet_d0").override(**options)


def test_a_config_made_by_hand_is_checked_too() -> None:
    row: EfficientDetConfig = detector_config("efficientdet_d0")
    with pytest.raises(ConfigError, match="nms"):
        dataclasses.replace(row, nms="none")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown detector 'efficientdet_d9'.* Did you mean 'efficientdet_d"):
        detector_config("efficientdet_d9")
