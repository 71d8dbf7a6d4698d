"""Which model weights belong to, from the shapes of tensors in our names; no model is built.

    >>> encoder_names_of(create_encoder("efficientnet_b3").state_dict())
    ['efficientnet_b3']

A network cut off after some stages can belong to several members, and D6 and D7 share all shapes: answers are lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from torch import Tensor

from effdense.models.encoders.families import StageSpec, encoder_config, encoder_names
from effdense.models.encoders.scaling import scale_encoder

_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")
# The convolution that ends a block and the one with the spatial kernel, by kind; the order tells the kinds apart.
_CONVS = {
    "fused_mbconv": ("conv_pwl.weight", "conv_exp.weight"),
    "mbconv": ("conv_pwl.weight", "conv_dw.weight"),
    "depthwise_separable": ("conv_pw.weight", "conv_dw.weight"),
    "conv": ("conv.weight", "conv.weight"),
}


class Stage(NamedTuple):
    """What tensors tell about a stage."""

    block: str
    channels: int
    repeats: int
    kernel: int
    squeeze_excite: bool


def encoder_names_of(state: Mapping[str, Tensor]) -> list[str]:
    """Published encoders that a state dict in encoder names (``conv_stem.weight`` ...) has the shapes of."""
    stem, stages = state.get("conv_stem.weight"), _stages(state)
    if stem is None or stem.ndim != 4 or not stages:
        return []
    found = []
    for name in encoder_names():
        channels, rows = _signature(name)
        if channels == stem.shape[0] and rows[: len(stages)] == stages:
            found.append(name)
    return found


def detector_names_of(state: Mapping[str, Tensor]) -> list[str]:
    """Published detectors that a state dict in detector names has the encoder, pyramid and heads of."""
    from effdense.models.detection.families import CONFIGS

    encoders = encoder_names_of(part_of(state, "backbone."))
    width = state.get("fpn.cell.0.fnode.0.after_combine.conv.conv_pw.weight")
    if width is None or width.ndim != 4:
        return []
    cells, nodes = _count(state, r"fpn\.cell\.(\d+)\."), _count(state, r"fpn\.cell\.0\.fnode\.(\d+)\.")
    shape = (width.shape[0], cells, nodes // 2 + 1, _count(state, r"class_net\.conv_rep\.(\d+)\."))
    weighted = any(key.endswith("edge_weights") for key in state)
    return [
        config.name
        for config in CONFIGS.values()
        if config.encoder in encoders
        and shape == (config.fpn_channels, config.fpn_cells, config.num_levels, config.head_repeats)
        and weighted == (config.fusion != "sum")
    ]


def describe(state: Mapping[str, Tensor], model: str = "", kind: str = "encoder") -> str:
    """A sentence for error messages: what to build for these weights; "" where nothing published has their shapes.

    Args:
        model: name of the model that refused them. Weights that look like just this one are damaged.
        kind: "encoder", "classifier", "detector" or "segmentor": what the caller wants to build.
    """
    detectors = detector_names_of(state)
    if detectors:
        return _advice("They look", detectors, detectors, model, "detector")
    for prefix in ("backbone.", "encoder.", ""):
        names = encoder_names_of(part_of(state, prefix))
        if names:
            fitting = [name for name, encoder in _built_over(kind) if encoder in names] or names
            return _advice(f"Their {prefix[:-1]} looks" if prefix else "They look", names, fitting, model, kind)
    return ""


def _advice(subject: str, names: list[str], fitting: list[str], model: str, kind: str) -> str:
    if model in fitting:
        return f" {subject} like {_either(names)} all the same: the file is damaged, or its options differ."
    arguments = f"{fitting[0]!r}" if kind in ("encoder", "classifier") else f"{fitting[0]!r}, ..."
    return f" {subject} like {_either(names)}: create_{kind}({arguments})."


def _built_over(kind: str) -> list[tuple[str, str]]:
    """(name, encoder) of every published model of a kind."""
    if kind == "detector":
        from effdense.models.detection.families import CONFIGS as DETECTORS

        return [(config.name, config.encoder) for config in DETECTORS.values()]
    if kind == "segmentor":
        from effdense.models.segmentation.families import CONFIGS as SEGMENTORS

        return [(config.name, config.encoder) for config in SEGMENTORS.values()]
    return [(name, name) for name in encoder_names()]


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, which is removed; all of them for ""."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@cache
def _signature(name: str) -> tuple[int, list[Stage]]:
    scaled = scale_encoder(encoder_config(name))
    return scaled.stem_channels, [_stage_of(row) for row in scaled.stages]


def _stage_of(row: StageSpec) -> Stage:
    return Stage(row.block, row.channels, row.repeats, row.kernel, row.se_ratio > 0)


def _stages(state: Mapping[str, Tensor]) -> list[Stage]:
    first: dict[int, dict[str, Tensor]] = {}
    repeats: dict[int, int] = {}
    for key, value in state.items():
        if match := _BLOCK.match(key):
            stage, block = int(match[1]), int(match[2])
            repeats[stage] = max(repeats.get(stage, 0), block + 1)
            if block == 0:
                first.setdefault(stage, {})[match[3]] = value
    if sorted(first) != list(range(len(repeats))):
        return []
    found = [_stage_from(first[stage], repeats[stage]) for stage in range(len(repeats))]
    return [] if None in found else [stage for stage in found if stage is not None]


def _stage_from(block: Mapping[str, Tensor], repeats: int) -> Stage | None:
    for kind, (last, spatial) in _CONVS.items():
        if last in block and spatial in block and block[last].ndim == block[spatial].ndim == 4:
            excite = "se.conv_reduce.weight" in block
            return Stage(kind, block[last].shape[0], repeats, block[spatial].shape[-1], excite)
    return None


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number that `pattern` finds in a key."""
    return 1 + max((int(match[1]) for key in state if (match := re.match(pattern, key))), default=-1)


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
