"""zylo117's Yet-Another-EfficientDet-Pytorch: state dicts of ``EfficientDetBackbone``, D0 to D7x.

Facts used (its efficientdet/model.py, efficientnet/model.py, efficientnet/utils_extra.py), where R is a repeat and L a
level's index:

    backbone_net.model._blocks.N    lukemelas' EfficientNet with blocks in one row and every convolution under ``.conv``
    bifpn.C.conv4_up, conv4_down    separable convolution of the top-down and of the bottom-up node of P4
    bifpn.C.p4_w1, p4_w2            their fusion weights; D6 and up have them too but sum plainly
    bifpn.0.p4_down_channel[_2]     1x1 projection of P4 in front of the top-down [bottom-up] node; p5_to_p6 of P6
    regressor, classifier           conv_list.R shared by levels, bn_list.L.R, header

Rows of the predictions run scale, ratio, then class or (dy, dx, dh, dw), as ours. Convolutions pad like TensorFlow's,
but max pools take the padding for zeros ("same_zero").
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from effdense.models.weights import lukemelas
from effdense.models.weights.coco_names import COCO_90
from effdense.models.weights.effdet import notes_of_twins
from effdense.models.weights.layout import Converted

_NODE = re.compile(r"bifpn\.(\d+)\.conv(\d)_(up|down)\.(\w+?)(?:_conv\.conv)?\.(\w+)")
_EDGES = re.compile(r"bifpn\.(\d+)\.p(\d)_w([12])")
_LATERAL = re.compile(r"bifpn\.0\.(?:p(\d)_down_channel(_2)?|p5_to_p6)\.(0\.conv|1)\.(\w+)")
_HEAD = re.compile(r"(regressor|classifier)\.(?:conv_list\.(\d+)|header)\.(depthwise|pointwise)_conv\.conv\.(\w+)")
_HEAD_BN = re.compile(r"(regressor|classifier)\.bn_list\.(\d+)\.(\d+)\.(\w+)")

_HEADS = {"regressor": "box_net", "classifier": "class_net"}
_SEPARABLE = {"depthwise": "conv_dw", "pointwise": "conv_pw", "bn": "bn"}
_BACKBONE = "backbone_net.model."
_MIN_LEVEL = 3
_SUMMING_WIDTH = 384  # of D6, D7 and D7x, the ones built with attention=False (backbone.py)


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of zylo117's ``EfficientDetBackbone``."""
    return any(key.startswith("bifpn.0.conv") for key in state) and any(
        key.startswith(("regressor.conv_list.", "classifier.conv_list.", "backbone_net.model._")) for key in state
    )


def convert(state: Mapping[str, Tensor]) -> Converted:
    """Rename; keys of no known form keep their names, so that the report shows them."""
    top = 8 if any(".conv8_down." in key for key in state) else 7
    header = state.get("classifier.header.depthwise_conv.conv.weight")
    sums = header is not None and len(header) >= _SUMMING_WIDTH
    renamed = _backbone(state)
    dropped = 0
    for key, value in state.items():
        if key.startswith(_BACKBONE):
            continue
        if sums and _EDGES.fullmatch(key):
            dropped += 1
            continue
        renamed[_pyramid_name(key, top) or _head_name(key) or key] = value
    return Converted(
        "zylo117 EfficientDet",
        "detector",
        renamed,
        padding="same",
        bn_eps=1e-3,
        neck_padding="same_zero",
        class_names=_class_names(state),
        notes=_notes(dropped) + notes_of_twins(renamed),
    )


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder tensors in our names: lukemelas' once the padding module's ``.conv`` is out of the way."""
    plain = {
        key.removeprefix(_BACKBONE).replace(".conv.", "."): value
        for key, value in state.items()
        if key.startswith(_BACKBONE)
    }
    return {f"backbone.{key}": value for key, value in lukemelas.rename(plain).items()}


def _pyramid_name(key: str, top: int) -> str | None:
    """``top`` is the coarsest level: nodes run top - 1 .. 3 down and 4 .. top up."""

    def node(level: int, bottom_up: bool) -> int:
        return top - 1 - _MIN_LEVEL + level - _MIN_LEVEL if bottom_up else top - 1 - level

    if match := _NODE.fullmatch(key):
        fnode, part = node(int(match[2]), match[3] == "down"), _SEPARABLE.get(match[4])
        return None if part is None else f"fpn.cell.{match[1]}.fnode.{fnode}.after_combine.conv.{part}.{match[5]}"
    if match := _EDGES.fullmatch(key):
        return f"fpn.cell.{match[1]}.fnode.{node(int(match[2]), match[3] == '2')}.combine.edge_weights"
    if match := _LATERAL.fullmatch(key):
        part = "conv" if match[3] == "0.conv" else "bn"
        if match[1] is None:
            return f"fpn.resample.3.conv.{part}.{match[4]}"
        level = int(match[1])
        fnode = node(level, match[2] is not None)
        return f"fpn.cell.0.fnode.{fnode}.combine.resample.{level - _MIN_LEVEL}.conv.{part}.{match[4]}"
    return None


def _head_name(key: str) -> str | None:
    if match := _HEAD.fullmatch(key):
        layer = "predict" if match[2] is None else f"conv_rep.{match[2]}"
        return f"{_HEADS[match[1]]}.{layer}.{_SEPARABLE[match[3]]}.{match[4]}"
    if match := _HEAD_BN.fullmatch(key):
        return f"{_HEADS[match[1]]}.bn_rep.{match[3]}.{match[2]}.bn.{match[4]}"
    return None


def _class_names(state: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """COCO's for 90 classes; its own trainings number classes by the project's list, which no file holds."""
    classes = state.get("classifier.header.pointwise_conv.conv.weight")
    boxes = state.get("regressor.header.pointwise_conv.conv.weight")
    if classes is None or boxes is None or len(classes) * 4 != len(boxes) * len(COCO_90):
        return None
    return COCO_90


def _notes(dropped: int) -> tuple[str, ...]:
    return (f"Left out {dropped} fusion weights, which D6 and up carry but sum without.",) if dropped else ()
