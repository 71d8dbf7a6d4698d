"""timm's EfficientNet, full or ``features_only``, whose names are ours: nothing is renamed.

The names say nothing about the convention: ``tf_`` models are TensorFlow SAME with BN eps 1e-3, all others symmetric
with 1e-5 (timm models/efficientnet.py). Only ``timm:NAME`` sources, and files written by ``save_timm``, know.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from effdense.models.weights.layout import Converted


def recognise(state: Mapping[str, Tensor]) -> bool:
    return "conv_stem.weight" in state


def convert(state: dict[str, Tensor]) -> Converted:
    return Converted("timm", "encoder", state)


def convention_of_name(name: str) -> tuple[str, float]:
    """Padding and BN epsilon of a timm model by its name, e.g. ``tf_efficientnet_b0.aa_in1k``."""
    return ("same", 1e-3) if name.startswith("tf_") else ("symmetric", 1e-5)
