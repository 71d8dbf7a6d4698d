"""torchvision's ``efficientnet_b0..b7`` and ``efficientnet_v2_s/m/l``: numbered layers become named ones.

``features.0`` is the stem, ``features.S.I.block.J`` layer J of block I in stage S - 1, the last of ``features`` the
head's 1x1 convolution; in every ConvBnAct ``.0`` is the convolution and ``.1`` the BatchNorm. Padding is symmetric. BN
eps is 1e-5 in B0..B4, 1e-3 in B5..B7 and V2. Source: torchvision models/efficientnet.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from effdense.models.weights.identify import encoder_names_of
from effdense.models.weights.layout import Converted

_EPS_OF_TORCH = frozenset(f"efficientnet_b{size}" for size in range(5))
_BLOCK_KEY = re.compile(r"features\.(\d+)\.(\d+)\.block\.(\d+)\.(.+)")
# Convolution and BatchNorm of each layer in a block, by the number of layers; SE is told from its fc1 and fc2.
_LAYERS = {
    1: (("conv", "bn1"),),
    2: (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    3: (("conv_dw", "bn1"), ("se", ""), ("conv_pw", "bn2")),
    4: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("se", ""), ("conv_pwl", "bn3")),
}
_SE = {"fc1": "conv_reduce", "fc2": "conv_expand"}
_HEAD = {"0": "conv_head", "1": "bn2"}
_STEM = {"0": "conv_stem", "1": "bn1"}


def recognise(state: Mapping[str, Tensor]) -> bool:
    return "features.0.0.weight" in state and any(_BLOCK_KEY.match(key) for key in state)


def convert(state: dict[str, Tensor]) -> Converted:
    layers: dict[tuple[int, int], int] = {}
    for key in state:
        if match := _BLOCK_KEY.match(key):
            place = int(match[1]), int(match[2])
            layers[place] = max(layers.get(place, 0), int(match[3]) + 1)
    head = 1 + max(stage for stage, _ in layers)
    renamed = {_rename(key, layers, head): value for key, value in state.items()}
    names = encoder_names_of(renamed)
    bn_eps = None if not names else 1e-5 if set(names) <= _EPS_OF_TORCH else 1e-3
    return Converted("torchvision", "encoder", renamed, padding="symmetric", bn_eps=bn_eps)


def _rename(key: str, layers: Mapping[tuple[int, int], int], head: int) -> str:
    """Our name, or the key itself where it is none of torchvision's."""
    if match := _BLOCK_KEY.match(key):
        stage, block, layer, rest = int(match[1]), int(match[2]), int(match[3]), match[4]
        names = _LAYERS.get(layers[stage, block], ())
        if layer >= len(names):
            return key
        conv, bn = names[layer]
        first, _, last = rest.partition(".")
        part = f"se.{_SE.get(first, first)}" if conv == "se" else {"0": conv, "1": bn}.get(first, first)
        return f"blocks.{stage - 1}.{block}.{part}.{last}"
    parts = key.split(".")
    if parts[:2] == ["classifier", "1"]:
        return f"classifier.{parts[-1]}"
    if parts[0] == "features" and len(parts) == 4:
        part = {"0": _STEM, str(head): _HEAD}.get(parts[1], {}).get(parts[2])
        return key if part is None else f"{part}.{parts[3]}"
    return key
