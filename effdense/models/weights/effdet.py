"""effdet's EfficientDet: state dicts of ``tf_efficientdet_*``, native ``efficientdet_*`` and ``efficientdetv2_*``.

Our names are effdet's; what differs between its models is read off the keys, as in effdet/config/model_config.py:

    biases in front of BatchNorms   tf_* and native d4, d5 have them; native d0-d3 and v2 do not and pad symmetrically
    ``bn_rep.L.R.weight``           level-first heads of v2 (ours, tf_* and d0-d5 say ``bn_rep.R.L.bn.weight``)
    level-first over a V2 backbone  bilinear resampling and anchors of equal area

What keys cannot tell is said in the notes. Our own plain state dicts have the first form and come through unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from effdense.errors import WeightsError
from effdense.models.detection.families import EQUAL_AREA_RATIOS, detector_config
from effdense.models.weights.coco_names import COCO_90
from effdense.models.weights.identify import detector_names_of
from effdense.models.weights.layout import Converted

# Convolutions that a BatchNorm follows; the predictions' own biases are no part of this.
_NORMED = re.compile(
    r"fpn\..+\.conv\.conv\.weight|fpn\..+\.after_combine\.conv\.conv_pw\.weight"
    r"|(?:class|box)_net\.conv_rep\.\d+\.conv_pw\.weight"
)
_LEVEL_FIRST = re.compile(r"^(class_net|box_net)\.bn_rep\.(\d+)\.(\d+)\.(\w+)$")
_NODE = re.compile(r"fpn\.cell\.0\.fnode\.(\d+)\.")
_WIDTHS_OF_D4_D5 = (224, 288)
_STEM_OF_B4_B5 = 48
_NATIVE = (
    "No biases in front of BatchNorms: taken for effdet's native (not tf_) weights, whose encoder and pools pad "
    "symmetrically; weights of one's own training say their convention only in a checkpoint."
)
_GOOGLE_OR_NATIVE = (
    "Keys and shapes fit effdet's tf_efficientdet_d4/d5 and its native efficientdet_d4/d5 alike; paddings stay as the "
    "detector was built. For the native ones build it with encoder_padding='symmetric'."
)


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of effdet's ``EfficientDet`` (and so, up to details, of ours)."""
    parts = {key.split(".", 1)[0] for key in state}
    return {"fpn", "class_net", "box_net"} <= parts and any(key.startswith("fpn.cell.0.fnode.") for key in state)


def convert(state: Mapping[str, Tensor]) -> Converted:
    """Rename, and say what the weights presuppose.

    Raises: WeightsError for effdet's networks with another pyramid or with dense head convolutions.
    """
    _refuse_other_networks(state)
    renamed = {_LEVEL_FIRST.sub(r"\1.bn_rep.\3.\2.bn.\4", key): value for key, value in state.items()}
    level_first = renamed.keys() != state.keys()
    normed = [key for key in renamed if _NORMED.fullmatch(key)]
    biases = [key.removesuffix("weight") + "bias" for key in normed]
    v1 = "backbone.blocks.0.0.conv_dw.weight" in state
    class_names = _class_names(state)
    twins = notes_of_twins(renamed)
    if any(bias in state for bias in biases):
        return Converted(
            "effdense/effdet detector", "detector", renamed, class_names=class_names,
            notes=_notes_of_google(state) + twins,
        )  # fmt: skip
    # A repeat-first V2 network without biases is one of ours: effdet saves its own level-first.
    symmetric = v1 or level_first
    lite = v1 and not any(".se." in key for key in state)
    return Converted(
        "effdet detector (native)",
        "detector",
        renamed,
        padding="symmetric" if symmetric else None,
        bn_eps=1e-5 if symmetric else None,  # timm's default for its own, not tf_, networks
        neck_padding=("same" if lite else "symmetric") if symmetric else None,
        zeros=frozenset(biases),
        options=_options_of_v2() if level_first and not v1 else {},
        class_names=class_names,
        notes=((_NATIVE,) if symmetric and not level_first else ()) + twins,
    )


def _options_of_v2() -> dict[str, object]:
    return {"upsample": "bilinear", "downsample": "bilinear", "aspect_ratios": EQUAL_AREA_RATIOS}


def _notes_of_google(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """effdet's native d4 and d5 have every key and shape of tf_d4 and tf_d5, but an encoder padded symmetrically."""
    stem, width = state.get("backbone.conv_stem.weight"), state.get("class_net.predict.conv_dw.weight")
    if stem is None or width is None or len(stem) != _STEM_OF_B4_B5 or len(width) not in _WIDTHS_OF_D4_D5:
        return ()
    if "backbone.blocks.0.0.se.conv_reduce.weight" not in state:  # Lite4
        return ()
    return (_GOOGLE_OR_NATIVE,)


def notes_of_twins(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A note where detectors of other anchors have the same shapes, as D6 and D7 do."""
    names = detector_names_of(state)
    if len({detector_config(name).anchor_scale for name in names}) < 2:
        return ()
    scales = " and ".join(f"{detector_config(name).anchor_scale:g} in {name}" for name in names)
    return (
        f"{' and '.join(names)} have the same shapes and other anchors (scale {scales}): load into the one trained",
    )


def _class_names(state: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """COCO's, where there is a row for each of its 90 ids; four box rows make one anchor."""
    classes, boxes = state.get("class_net.predict.conv_pw.weight"), state.get("box_net.predict.conv_pw.weight")
    if classes is None or boxes is None or len(classes) * 4 != len(boxes) * len(COCO_90):
        return None
    return COCO_90


def _refuse_other_networks(state: Mapping[str, Tensor]) -> None:
    if any(re.fullmatch(r"(?:class|box)_net\.(?:predict|conv_rep\.0)\.conv\.weight", key) for key in state):
        raise WeightsError(
            "these are effdet weights of a network with dense head convolutions (resdet50, cspresdet50, "
            "efficientdet_es and the like); effdense builds separable ones. Nothing was loaded."
        )
    nodes = 1 + max(int(match[1]) for key in state if (match := _NODE.match(key)))
    norms = {
        tuple(map(int, match)) for key in state for match in re.findall(r"^class_net\.bn_rep\.(\d+)\.(\d+)\.", key)
    }
    if not norms:
        return
    sides = {1 + max(side) for side in zip(*norms, strict=True)}  # repeats and levels, in either order
    if nodes not in {2 * (side - 1) for side in sides}:
        raise WeightsError(
            f"these are effdet weights of another pyramid than BiFPN: {nodes} fusion nodes a cell, where BiFPN has two "
            "for each level but one (efficientdet_q0, q1, q2 and cspdarkdet53m are quad-FPN, cspresdext50pan is PAN). "
            "Nothing was loaded; effdense builds BiFPN only."
        )
