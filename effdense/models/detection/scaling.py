"""Compound scaling of whole detectors: a phi in, an ``EfficientDetConfig`` out, also between the published D-levels.

    >>> row = scaled_detector_config("efficientdet_phi3.5")
    >>> row.encoder, row.image_size, row.fpn_channels, row.fpn_cells, row.head_repeats
    ('efficientnet_w1.3_d1.6_r340', 1024, 184, 7, 4)

Whole phi are the published levels (``efficientdet_phi3`` is D3 under another name). Elsewhere the paper's rules hold.
The published widths and cells were adjusted by hand (D4 has 224 channels where the rule says 212, D5 to D7 one or two
cells less), so phi 3.9 and 4.1 may lie a little beside the line through D4.

Sources: EfficientDet (arXiv 1911.09070) section 4 and table 1; Lite: automl efficientdet/hparams_config.py.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from effdense.errors import ConfigError
from effdense.models.detection.families import CONFIGS, EfficientDetConfig
from effdense.models.encoders import encoder_config
from effdense.models.encoders.scaling import scaled_encoder_config

MIN_PHI = -2.0  # one BiFPN cell is left
_NAME = re.compile(r"efficientdet_(?P<lite>lite_)?phi(?P<phi>-?\d+(?:\.\d+)?)")
_FORM = "efficientdet_phi3.5 or efficientdet_lite_phi1.5"


@dataclass(frozen=True)
class _Family:
    """The published levels 0, 1, ... of one family, and by how many px the input grows with each."""

    levels: tuple[str, ...]
    encoder: str
    resolution_step: int


_D = _Family(tuple(f"efficientdet_d{i}" for i in range(8)), "efficientnet", 128)
_LITE = _Family(tuple(f"efficientdet_lite{i}" for i in range(5)), "efficientnet_lite", 64)


def scaled_detector_config(name: str) -> EfficientDetConfig | None:
    """The config of ``efficientdet_phi3.5`` or ``efficientdet_lite_phi1.5``; None where the name has no such form.

    Raises: ConfigError for a malformed or out-of-range phi.
    """
    if not isinstance(name, str) or not re.match(r"efficientdet_(lite_)?phi", name):
        return None
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"{name!r} is no name of a scaled detector; write {_FORM}.")
    return _at(_LITE if match["lite"] else _D, float(match["phi"]), name)


def scaled_detector_config_from(
    phi: float, *, encoder: str | None = None, image_size: int | None = None, lite: bool = False
) -> EfficientDetConfig:
    """The BiFPN, heads and input of a phi under an encoder of one's own.

    Args:
        phi: -2..7, or ..4 for Lite.
        encoder: name of any encoder, for example of ``scaled_encoder_config`` with other coefficients; default the one
            that belongs to phi.
        image_size: px of a square input; default the one that belongs to phi.

    The same detector by name: ``create_detector("efficientdet_phi3.5", encoder=..., image_size=...)``.
    """
    family = _LITE if lite else _D
    row = _at(family, phi, f"efficientdet_{'lite_' if lite else ''}phi{phi:.4f}".rstrip("0").rstrip("."))
    if encoder is not None:
        row = row.override(encoder=encoder_config(encoder).name)
    return row if image_size is None else row.override(image_size=image_size)


def _at(family: _Family, phi: float, name: str) -> EfficientDetConfig:
    """The row at phi.

    Rounding between levels: channels 64 * 1.35^phi to the nearest multiple of 8; cells 3 + phi to the nearest whole,
    halves up; head layers 3 + floor(phi / 3), at least 1; resolution to the nearest multiple of 128 px (Lite: 64), so
    that the coarsest level divides it. Anchors, fusion and the like are those of the level below.
    """
    top = len(family.levels) - 1
    if not MIN_PHI <= phi <= top:
        raise ConfigError(f"{name}: phi must lie in {MIN_PHI:g}..{top}, got {phi:g}; write {_FORM}.")
    base = CONFIGS[family.levels[max(0, math.floor(phi))]]
    if phi == math.floor(phi) and phi >= 0:
        return replace(base, name=name)
    first = CONFIGS[family.levels[0]].size_hw[0]
    step = family.resolution_step
    between_d6_and_d7 = family is _D and phi > 6  # D7 is D6's network on larger images
    return replace(
        base,
        name=name,
        encoder=base.encoder if between_d6_and_d7 else _encoder(family, phi),
        image_size=_nearest(first + step * phi, step),
        fpn_channels=base.fpn_channels if between_d6_and_d7 else _nearest(64 * 1.35**phi, 8),
        fpn_cells=base.fpn_cells if between_d6_and_d7 else _nearest(3 + phi, 1),
        head_repeats=base.head_repeats if between_d6_and_d7 else max(1, 3 + math.floor(phi / 3)),
    )


def _encoder(family: _Family, phi: float) -> str:
    """Half-way between the encoders of the levels around phi; below level 0, by the encoder's own compound rule.

    Not ``efficientnet_phi3.5``: the published B3 and B4 belong to phi 2 and 3.5 of the encoder's rule (see
    ``compound_coefficients``), so its phi runs ahead of the detector's.
    """
    if phi < 0:
        return scaled_encoder_config(family.encoder, phi=phi).name
    low = encoder_config(CONFIGS[family.levels[math.floor(phi)]].encoder)
    high = encoder_config(CONFIGS[family.levels[math.floor(phi) + 1]].encoder)
    share = phi - math.floor(phi)
    return scaled_encoder_config(
        family.encoder,
        width=low.width + share * (high.width - low.width),
        depth=low.depth + share * (high.depth - low.depth),
        resolution=_nearest(low.resolution + share * (high.resolution - low.resolution), 4),
    ).name


def _nearest(value: float, step: int) -> int:
    """The nearest multiple of ``step``, halves up."""
    return math.floor(value / step + 0.5) * step
