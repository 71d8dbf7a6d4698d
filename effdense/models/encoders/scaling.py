"""Compound scaling: how width and depth coefficients become whole channels and blocks.

The rules work for any coefficients, not only the published ones:

    >>> round_channels(40, 1.2), round_repeats(3, 1.4)
    (48, 5)
    >>> scale_encoder(scaled_encoder_config("efficientnet", width=1.2, depth=1.4, resolution=300)).stages[2].channels
    48

An encoder of any scale has a name, since checkpoints store names: ``efficientnet_phi2.5`` follows the paper's compound
rule, ``efficientnet_w1.3_d1.7_r320`` spells width, depth and resolution out; ``efficientnet_lite_...`` and
``efficientnetv2_...`` (over the rows of V2-B0) likewise.

Sources: EfficientNet (arXiv 1905.11946) section 3.3; `round_filters` and `round_repeats` in tensorflow/tpu
models/official/efficientnet/efficientnet_model.py; EfficientNetV2 drops the 0.9 guard (google/automl
efficientnetv2/effnetv2_model.py `round_filters`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from effdense.errors import ConfigError
from effdense.models.encoders.families import EncoderConfig, StageSpec, encoder_config

# family: the member whose rows are scaled; its own coefficients are all 1
SCALABLE = {
    "efficientnet": "efficientnet_b0",
    "efficientnet_lite": "efficientnet_lite0",
    "efficientnetv2": "efficientnetv2_b0",
}
# EfficientNet section 3.3: found by a grid search on B0 under alpha * beta^2 * gamma^2 = 2.
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
BASE_RESOLUTION = 224
RESOLUTION_STEP = 4  # every published evaluation size is a multiple of 4, and of nothing larger
PHI_RANGE = (-6.0, 10.0)
_WIDTH_RANGE, _DEPTH_RANGE, _RESOLUTION_RANGE = (0.1, 8.0), (0.1, 12.0), (32, 2048)
_NUMBER = r"\d+(?:\.\d+)?"
_SCALED = re.compile(rf"phi(?P<phi>-?{_NUMBER})|w(?P<width>{_NUMBER})_d(?P<depth>{_NUMBER})_r(?P<resolution>\d+)")
_FORMS = "FAMILY_phi2.5 or FAMILY_w1.3_d1.7_r320 with FAMILY one of " + ", ".join(SCALABLE)


@dataclass(frozen=True)
class CompoundScale:
    """What one phi stands for: factors on depth and width (unrounded) and the input side in px."""

    depth: float
    width: float
    resolution: int


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


def compound_coefficients(
    phi: float,
    *,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    base_resolution: int = BASE_RESOLUTION,
) -> CompoundScale:
    """The paper's rule: depth alpha^phi, width beta^phi, resolution base * gamma^phi (EfficientNet eq. 3).

    With alpha * beta^2 * gamma^2 = 2, each step of phi doubles the multiply-adds. Resolution is rounded to the nearest
    multiple of 4. Depth and width stay exact here: `round_repeats` and `round_channels` round them row by row.

    The published B1..B7 are not at phi = 1..7: their table was rounded by hand and follows phi of about 0.5, 1, 2, 3.5,
    5, 6, 7 (width 2.0 of B7 is phi 7.3, its depth 3.1 is phi 6.2; docs/scaling.md has the comparison).

    >>> compound_coefficients(0), compound_coefficients(1)
    (CompoundScale(depth=1.0, width=1.0, resolution=224), CompoundScale(depth=1.2, width=1.1, resolution=256))

    Raises:
        ConfigError: phi outside -6..10, or a coefficient that is not positive.
    """
    if not PHI_RANGE[0] <= phi <= PHI_RANGE[1]:
        raise ConfigError(f"phi must lie in {PHI_RANGE[0]:g}..{PHI_RANGE[1]:g}, got {phi!r}; 0 is the base network.")
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma), ("base_resolution", base_resolution)):
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} must be a positive number, got {value!r}; the paper has 1.2, 1.1, 1.15 and 224.")
    side = base_resolution * gamma**phi
    return CompoundScale(alpha**phi, beta**phi, max(RESOLUTION_STEP, round(side / RESOLUTION_STEP) * RESOLUTION_STEP))


def scaled_encoder_config(
    base: str,
    *,
    phi: float | None = None,
    width: float | None = None,
    depth: float | None = None,
    resolution: int | None = None,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
) -> EncoderConfig:
    """A config of any scale, whose name rebuilds it: ``create_encoder(scaled_encoder_config(...).name)``.

    Args:
        base: "efficientnet", "efficientnet_lite" or "efficientnetv2".
        phi: compound coefficient; the rest follows from alpha, beta, gamma unless it is given too.
        width, depth, resolution: factors and px; 1, 1 and 224 where neither they nor phi say otherwise. Factors are
            kept to four decimals, those that the name holds.
        alpha, beta, gamma: other coefficients than the paper's, for example those that `tools/scaling_search.py` finds.

    Raises:
        ConfigError: an unknown base, or a scale outside the range that can be built.
    """
    if base not in SCALABLE:
        raise ConfigError(f"base must be one of {', '.join(SCALABLE)}, got {base!r}.")
    explicit = (width, depth, resolution) != (None, None, None) or (alpha, beta, gamma) != (ALPHA, BETA, GAMMA)
    if phi is not None and not explicit:
        return encoder_config(f"{base}_phi{_decimal(phi)}")
    scale = compound_coefficients(0.0 if phi is None else phi, alpha=alpha, beta=beta, gamma=gamma)
    width = scale.width if width is None else width
    depth = scale.depth if depth is None else depth
    resolution = scale.resolution if resolution is None else resolution
    return encoder_config(f"{base}_w{_decimal(width)}_d{_decimal(depth)}_r{resolution}")


def _decimal(value: float) -> str:
    """Four decimals at most, never an exponent: what a name can hold and `float` reads back."""
    return f"{value:.4f}".rstrip("0").rstrip(".") if math.isfinite(value) else str(value)


def parse_scaled_name(name: str) -> EncoderConfig | None:
    """The config that a name of arbitrary scale stands for; None where the name has no such form.

    Raises:
        ConfigError: the form is meant, but malformed or out of range.
    """
    family, separator, rest = name.partition("_lite_") if "_lite_" in name else name.partition("_")
    family += "_lite" if separator == "_lite_" else ""
    if family not in SCALABLE or not re.match(r"phi|w[\d.+-]", rest):
        return None
    match = _SCALED.fullmatch(rest)
    if match is None:
        raise ConfigError(f"{name!r} is no name of a scaled encoder; write {_FORMS}.")
    if match["phi"] is not None:
        scale = compound_coefficients(float(match["phi"]))
    else:
        scale = CompoundScale(float(match["depth"]), float(match["width"]), int(match["resolution"]))
    for what, value, (low, high) in (
        ("width", scale.width, _WIDTH_RANGE),
        ("depth", scale.depth, _DEPTH_RANGE),
        ("resolution", scale.resolution, _RESOLUTION_RANGE),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name!r} has {what} {value:g}, expected {low:g}..{high:g}; write {_FORMS}.")
    return _scaled(encoder_config(SCALABLE[family]), name, scale)


def _scaled(base: EncoderConfig, name: str, scale: CompoundScale) -> EncoderConfig:
    """`base` at another scale.

    V2 trains on smaller images than it is evaluated on: 0.8 of the side, but not below 192, which is what the published
    V2-B0..B3 do. Dropout grows with width as in the V1 table, to which 0.2 + 0.05 log_1.1(width) comes within 0.05.
    """
    train = scale.resolution
    if base.train_resolution < base.resolution:
        smaller = round(0.8 * scale.resolution / RESOLUTION_STEP) * RESOLUTION_STEP
        train = min(scale.resolution, max(base.train_resolution, smaller))
    dropout = round(min(0.5, max(0.2, 0.2 + 0.05 * math.log(scale.width, BETA))), 2)
    return replace(
        base,
        name=name,
        width=scale.width,
        depth=scale.depth,
        train_resolution=train,
        resolution=scale.resolution,
        dropout=dropout,
    )
