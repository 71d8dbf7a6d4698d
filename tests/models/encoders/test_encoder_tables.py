"""The published tables: names, sizes, and the parameter counts that follow from them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from effdense.errors import ConfigError
from effdense.models.encoders import create_encoder, encoder_config, encoder_names
from effdense.models.encoders.scaling import scale_encoder

# Millions of parameters of the 1000-class ImageNet networks, to the printed digit.
# Source: timm results CSVs (weights converted from Google's releases); B8 from AdvProp, L2 from Noisy Student.
PUBLISHED_MILLIONS = {
    "efficientnet_b0": 5.29,
    "efficientnet_b1": 7.79,
    "efficientnet_b2": 9.11,
    "efficientnet_b3": 12.23,
    "efficientnet_b4": 19.34,
    "efficientnet_b5": 30.39,
    "efficientnet_b6": 43.04,
    "efficientnet_b7": 66.35,
    "efficientnet_b8": 87.41,
    "efficientnet_l2": 480.31,
    "efficientnet_lite0": 4.65,
    "efficientnet_lite1": 5.42,
    "efficientnet_lite2": 6.09,
    "efficientnet_lite3": 8.20,
    "efficientnet_lite4": 13.01,
    "efficientnetv2_b0": 7.14,
    "efficientnetv2_b1": 8.14,
    "efficientnetv2_b2": 10.10,
    "efficientnetv2_b3": 14.36,
    "efficientnetv2_s": 21.46,
    "efficientnetv2_m": 54.14,
    "efficientnetv2_l": 118.52,
    "efficientnetv2_xl": 208.12,
    "efficientnetv2_rw_t": 13.65,
    "efficientnetv2_rw_s": 23.94,
    "efficientnetv2_rw_m": 53.24,
}


def test_every_family_is_there() -> None:
    assert sorted(encoder_names()) == sorted(PUBLISHED_MILLIONS)
    assert all(encoder_config(name).name == name for name in encoder_names())


@pytest.mark.parametrize("name", sorted(PUBLISHED_MILLIONS))
def test_parameter_count_is_the_published_one(name: str) -> None:
    with torch.device("meta"):  # counts need no memory
        encoder = create_encoder(name)
    last, head = encoder.channels[-1], scale_encoder(encoder.config).head_channels
    classifier = last * head + 2 * head + head * 1000 + 1000  # 1x1 convolution, its BN, linear layer
    total = sum(p.numel() for p in encoder.parameters()) + classifier
    assert round(total / 1e6, 2) == PUBLISHED_MILLIONS[name]


def test_b0_encoder_to_the_last_parameter() -> None:
    # 5,288,548 of the B0 classifier less head convolution and BN (412,160) and classifier (1,281,000).
    assert sum(p.numel() for p in create_encoder("efficientnet_b0").parameters()) == 3_595_388


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("efficientnet_b0", (16, 24, 40, 112, 320)),
        ("efficientnet_b3", (24, 32, 48, 136, 384)),
        ("efficientnet_b7", (32, 48, 80, 224, 640)),
        ("efficientnet_lite4", (24, 32, 56, 160, 448)),
        ("efficientnetv2_b0", (16, 32, 48, 112, 192)),
        ("efficientnetv2_s", (24, 48, 64, 160, 256)),
        ("efficientnetv2_m", (24, 48, 80, 176, 512)),
        ("efficientnetv2_rw_t", (24, 40, 48, 128, 208)),
        ("efficientnetv2_rw_s", (24, 48, 64, 160, 272)),
    ],
)
def test_feature_channels(name: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        encoder = create_encoder(name)
    assert (encoder.channels, encoder.strides) == (channels, (2, 4, 8, 16, 32))


def test_input_sizes_and_dropout_are_the_published_ones() -> None:
    b4, v2_b3 = encoder_config("efficientnet_b4"), encoder_config("efficientnetv2_b3")
    assert (b4.train_resolution, b4.resolution, b4.dropout) == (380, 380, 0.4)
    assert (v2_b3.train_resolution, v2_b3.resolution, v2_b3.dropout) == (240, 300, 0.3)


def test_a_table_row_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoder_config("efficientnet_b0").width = 2.0  # type: ignore[misc]


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"'efficientnet-b3'\. Did you mean .*'efficientnet_b3'"):
        encoder_config("efficientnet-b3")
