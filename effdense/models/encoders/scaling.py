"""Compound scaling: how width and depth coefficients become whole channels and blocks.

The rules work for any coefficients, not only the published ones:

    >>> round_channels(40, 1.2), round_repeats(3, 1.4)
    (48, 5)

Sources: EfficientNet (arXiv 1905.11946) section 3.3; `round_filters` and `round_repeats` in tensorflow/tpu
models/official/efficientnet/efficientnet_model.py; EfficientNetV2 drops the 0.9 guard (google/automl
efficientnetv2/effnetv2_model.py `round_filters`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from effdense.errors import ConfigError
from effdense.models.encoders.families import EncoderConfig, StageSpec


@dataclass(frozen=True)
class ScaledEncoder:
    """An encoder in the numbers that are built: real channels and repeats in every row."""

    stem_channels: int
    stages: tuple[StageSpec, ...]
    head_channels: int


def round_channels(
    channels: float, multiplier: float = 1.0, *, divisor: int = 8, round_limit: float = 0.9, minimum: int | None = None
) -> int:
    """Scale a width and round it to the nearest multiple of `divisor`, halves up.

    Args:
        channels: unscaled width.
        multiplier: width coefficient, above 0.
        divisor: the result is a multiple of it.
        round_limit: where rounding down would leave less than this share of the scaled width, go one divisor up.
            0.9 for V1 and Lite, 0 for the V2 base networks.
        minimum: smallest result; `divisor` when None.

    Raises:
        ConfigError: the scaled width or the divisor is not positive.
    """
    scaled = channels * multiplier
    if not (scaled > 0 and divisor > 0):
        raise ConfigError(
            f"round_channels needs a positive width and divisor, got channels={channels}, multiplier={multiplier}, "
            f"divisor={divisor}. Check the width coefficient."
        )
    rounded = max(minimum or divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * scaled else rounded


def round_repeats(repeats: int, multiplier: float = 1.0) -> int:
    """Scale a block count and round up, so that a stage never loses its last block.

    Raises:
        ConfigError: the scaled count is not positive.
    """
    scaled = repeats * multiplier
    if not scaled > 0:
        raise ConfigError(
            f"round_repeats needs a positive count, got repeats={repeats}, multiplier={multiplier}. "
            "Check the depth coefficient."
        )
    return math.ceil(scaled)


def scale_stages(
    stages: Sequence[StageSpec],
    *,
    width: float,
    depth: float,
    round_limit: float = 0.9,
    fixed_ends: bool = False,
) -> tuple[StageSpec, ...]:
    """Return the rows with `channels` and `repeats` scaled; everything else is kept.

    Args:
        fixed_ends: leave the repeats (not the channels) of the first and the last stage alone, as Lite does.
    """
    ends = (0, len(stages) - 1) if fixed_ends else ()
    return tuple(
        replace(
            stage,
            channels=round_channels(stage.channels, width, round_limit=round_limit),
            repeats=stage.repeats if index in ends else round_repeats(stage.repeats, depth),
        )
        for index, stage in enumerate(stages)
    )


def scale_encoder(config: EncoderConfig) -> ScaledEncoder:
    """Apply a config's own coefficients to its stem, stages and head."""
    ends_width = 1.0 if config.fixed_ends else config.width
    return ScaledEncoder(
        stem_channels=round_channels(config.stem_channels, ends_width, round_limit=config.round_limit),
        stages=scale_stages(
            config.stages,
            width=config.width,
            depth=config.depth,
            round_limit=config.round_limit,
            fixed_ends=config.fixed_ends,
        ),
        head_channels=round_channels(config.head_channels, ends_width, round_limit=config.round_limit),
    )
