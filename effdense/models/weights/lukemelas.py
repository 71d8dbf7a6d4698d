"""lukemelas' efficientnet-pytorch, also inside segmentation-models-pytorch: flat ``_blocks.N`` become stages.

BN eps 1e-3; TensorFlow SAME with the amounts fixed for the model's published image size, which is what ``from_name``
and ``from_pretrained`` build. Source: efficientnet_pytorch 0.7.1 model.py and utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from effdense.models.weights.layout import Converted

PADDING, BN_EPS = "same_static", 1e-3
_BLOCK_KEY = re.compile(r"_blocks\.(\d+)\.([^.]+)\.(.+)")
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
# Blocks with an expansion (MBConv) and without (depthwise-separable).
_EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3", **_SE,
}  # fmt: skip
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_SE}


def recognise(state: Mapping[str, Tensor]) -> bool:
    return "_conv_stem.weight" in state


def convert(state: dict[str, Tensor]) -> Converted:
    return Converted("efficientnet-pytorch", "encoder", rename(state), padding=PADDING, bn_eps=BN_EPS)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for theirs; a key that is none of theirs is kept."""
    stages = _stage_of_block(state)
    return {_rename(key, state, stages): value for key, value in state.items()}


def _stage_of_block(state: Mapping[str, Tensor]) -> dict[int, tuple[int, int]]:
    """(stage, index in it) of each flat block: in V1 every stage, and nothing else, changes the output channels."""
    widths = {
        int(match[1]): len(value) if value.ndim else 0
        for key, value in state.items()
        if (match := _BLOCK_KEY.match(key)) and match[2] == "_project_conv"
    }
    places: dict[int, tuple[int, int]] = {}
    stage, index, width = -1, 0, None
    for block in sorted(widths):
        stage, index = (stage, index + 1) if widths[block] == width else (stage + 1, 0)
        width = widths[block]
        places[block] = (stage, index)
    return places


def _rename(key: str, state: Mapping[str, Tensor], stages: Mapping[int, tuple[int, int]]) -> str:
    if match := _BLOCK_KEY.match(key):
        block, module, rest = int(match[1]), match[2], match[3]
        names = _EXPANDED if f"_blocks.{block}._expand_conv.weight" in state else _PLAIN
        if block not in stages or module not in names:
            return key
        stage, index = stages[block]
        return f"blocks.{stage}.{index}.{names[module]}.{rest}"
    module, _, rest = key.partition(".")
    return f"{_OUTSIDE[module]}.{rest}" if module in _OUTSIDE else key
