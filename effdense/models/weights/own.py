"""Our own checkpoints: names are ours, and the meta says the convention and the class names.

A plain state dict of ours says neither; it is read as the foreign layout that shares its names: timm's (``timm.py``),
effdet's (``effdet.py``), smp's (``smp.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from effdense.errors import EffdenseError
from effdense.models.encoders.padding import BN_EPS, check_padding
from effdense.models.weights.layout import Converted, Kind

_LAYOUT = "effdense checkpoint"


def kind_of(state: Mapping[str, Tensor]) -> Kind:
    """The kind of model that our names belong to."""
    if any(key.startswith(("backbone.", "class_net.")) for key in state):
        return "detector"
    return "segmentor" if any(key.startswith("encoder.") for key in state) else "encoder"


def convert_checkpoint(state: dict[str, Tensor], meta: Mapping[str, Any]) -> Converted:
    """A checkpoint of ours with what its meta says about the model that it was written from."""
    kind = kind_of(state)
    classes = meta.get("classes")
    names = tuple(map(str, classes)) if isinstance(classes, (list, tuple)) and classes else None
    arguments = meta.get("model")
    try:
        padding, bn_eps, neck = _convention(kind, arguments if isinstance(arguments, Mapping) else {})
    except (EffdenseError, TypeError, ValueError):  # a meta that describes no model of ours says nothing
        return Converted(_LAYOUT, kind, state, class_names=names)
    return Converted(_LAYOUT, kind, state, padding=padding, bn_eps=bn_eps, neck_padding=neck, class_names=names)


def _convention(kind: Kind, arguments: Mapping[str, Any]) -> tuple[str | None, float | None, str | None]:
    """Encoder padding, encoder epsilon and neck padding that ``create_*(**arguments)`` builds."""
    if "name" not in arguments:
        return None, None, None
    neck = None
    if kind == "encoder":
        padding, bn_eps = arguments.get("padding", "same"), arguments.get("bn_eps")
    else:
        given = {k: arguments[k] for k in ("padding", "encoder_padding", "encoder_bn_eps") if k in arguments}
        if kind == "detector":
            from effdense.models.detection.families import detector_config

            config = detector_config(arguments["name"]).override(**given)
            padding, neck = config.encoder_convention, config.padding
        else:
            padding = given.get("encoder_padding") or given.get("padding", "same")
        bn_eps = given.get("encoder_bn_eps")
    eps = BN_EPS[check_padding(padding)] if bn_eps is None else float(bn_eps)
    if not 0 < eps < 1:
        raise ValueError(f"an epsilon of {eps} was never trained with")
    return padding, eps, neck
