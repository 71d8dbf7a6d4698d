"""What every foreign layout becomes before anything is copied: tensors in our names, and what they were made for.

A layout is a module with two functions: ``recognise(state) -> bool`` looks at key names only, ``convert(state) ->
Converted`` renames. ``load.py`` asks the modules in turn and does the rest: which part goes where, shapes, report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Kind = Literal["encoder", "detector", "segmentor"]


@dataclass(frozen=True)
class Converted:
    """Weights of any origin in effdense's names.

    Attributes:
        layout: what they were recognised as, for the report, e.g. "torchvision".
        kind: "encoder" (``conv_stem.``, ``bn1.``, ``blocks.``, and ``conv_head.``, ``bn2.``, ``classifier.`` where the
            source has an ImageNet head), "detector" (``backbone.``, ``fpn.``, ``class_net.``, ``box_net.``) or
            "segmentor" (``encoder.``, ``decoder.``, ``segmentation_head.``).
        state: tensors by our names.
        padding: padding convention that the encoder was trained with ("same", "same_static", "symmetric"), None where
            the source cannot say.
        bn_eps: BatchNorm epsilon of the encoder, None where the source cannot say.
        neck_padding: the same convention for the pyramid of a detector.
        zeros: names that the source leaves out because they are zero by construction (biases in front of a BatchNorm).
        options: ``EfficientDetConfig`` fields whose value the weights presuppose (for example ``upsample``); a model
            that differs in one is refused with a sentence that names it.
        class_names: names of the classes in the order of the source's prediction rows, None where unknown.
        notes: sentences for the report.
    """

    layout: str
    kind: Kind
    state: dict[str, Tensor]
    padding: str | None = None
    bn_eps: float | None = None
    neck_padding: str | None = None
    zeros: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
