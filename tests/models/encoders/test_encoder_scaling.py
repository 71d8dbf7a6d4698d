"""Rounding rules of compound scaling, by hand."""

from __future__ import annotations

import pytest

from effdense.errors import ConfigError
from effdense.models.encoders.families import StageSpec, encoder_config
from effdense.models.encoders.scaling import round_channels, round_repeats, scale_encoder, scale_stages


@pytest.mark.parametrize(
    ("channels", "multiplier", "expected"),
    [
        (32, 1.0, 32),
        (40, 1.2, 48),  # 48 exactly
        (24, 1.1, 24),  # 26.4 -> nearest multiple of 8 is 24, which keeps 91 %
        (16, 1.2, 24),  # 19.2 -> 16 would keep only 83 %, so one step up
        (12, 1.0, 16),  # halves go up
        (1, 1.0, 8),  # never under the divisor
        (1280, 1.1, 1408),
    ],
)
def test_channels_round_to_multiples_of_eight(channels: int, multiplier: float, expected: int) -> None:
    assert round_channels(channels, multiplier) == expected


def test_without_the_guard_a_width_may_lose_more_than_a_tenth() -> None:
    assert round_channels(16, 1.2, round_limit=0.0) == 16
    assert round_channels(16, 1.2, divisor=4) == 20
    assert round_channels(16, 0.1, minimum=16) == 16


def test_repeats_round_up() -> None:
    assert [round_repeats(r, 1.4) for r in (1, 2, 3, 4)] == [2, 3, 5, 6]
    assert round_repeats(5, 1.2) == 6
    assert round_repeats(3, 0.1) == 1


@pytest.mark.parametrize("multiplier", [0.0, -1.0, float("nan")])
def test_coefficients_must_be_positive(multiplier: float) -> None:
    with pytest.raises(ConfigError, match="width coefficient"):
        round_channels(32, multiplier)
    with pytest.raises(ConfigError, match="depth coefficient"):
        round_repeats(2, multiplier)


def test_any_coefficients_scale_any_table() -> None:
    stages = (
        StageSpec("conv", 3, 1, 1, 16, 1),
        StageSpec("mbconv", 5, 2, 6, 40, 2),
        StageSpec("mbconv", 3, 1, 6, 80, 1),
    )
    scaled = scale_stages(stages, width=0.5, depth=2.5)
    assert [(s.channels, s.repeats) for s in scaled] == [(8, 3), (24, 5), (40, 3)]
    assert [(s.block, s.kernel, s.stride) for s in scaled] == [(s.block, s.kernel, s.stride) for s in stages]
    fixed = scale_stages(stages, width=0.5, depth=2.5, fixed_ends=True)
    assert [(s.channels, s.repeats) for s in fixed] == [(8, 1), (24, 5), (40, 1)]


def test_b3_scales_to_its_published_form() -> None:
    scaled = scale_encoder(encoder_config("efficientnet_b3"))
    assert (scaled.stem_channels, scaled.head_channels) == (40, 1536)
    assert [s.channels for s in scaled.stages] == [24, 32, 48, 96, 136, 232, 384]
    assert [s.repeats for s in scaled.stages] == [2, 3, 3, 5, 5, 6, 2]


def test_lite_keeps_stem_head_and_the_depth_of_its_ends() -> None:
    scaled = scale_encoder(encoder_config("efficientnet_lite3"))
    assert (scaled.stem_channels, scaled.head_channels) == (32, 1280)
    assert [s.channels for s in scaled.stages] == [24, 32, 48, 96, 136, 232, 384]
    assert [s.repeats for s in scaled.stages] == [1, 3, 3, 5, 5, 6, 1]


def test_v2_base_rounds_to_nearest() -> None:
    scaled = scale_encoder(encoder_config("efficientnetv2_b3"))
    assert [s.channels for s in scaled.stages] == [16, 40, 56, 112, 136, 232]
    assert [s.repeats for s in scaled.stages] == [2, 3, 3, 5, 7, 12]
    assert scaled.head_channels == 1536
