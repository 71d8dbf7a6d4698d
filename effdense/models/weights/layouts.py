"""The list of layouts, asked in turn: a source of any of them in, tensors in our names out."""

from __future__ import annotations

from dataclasses import replace

from effdense.errors import WeightsError
from effdense.models.weights import effdet, lukemelas, own, smp, timm, torchvision, zylo117
from effdense.models.weights.layout import Converted
from effdense.models.weights.read import Source

# Detectors and segmentors first: what is inside them is an encoder's.
_LAYOUTS = (effdet, zylo117, smp, torchvision, lukemelas, timm)


def convert_source(source: Source) -> Converted:
    """Recognise by key names alone and rename.

    Raises: WeightsError for keys of no known layout.
    """
    converted = _convert(source)
    # What the file or the name of the source states goes before what names of tensors can tell.
    return replace(
        converted,
        padding=source.padding or converted.padding,
        bn_eps=source.bn_eps or converted.bn_eps,
        notes=converted.notes + source.notes,
    )


def _convert(source: Source) -> Converted:
    if source.meta:
        return own.convert_checkpoint(source.state, source.meta)
    for layout in _LAYOUTS:
        if layout.recognise(source.state):
            try:
                return layout.convert(source.state)
            except (IndexError, TypeError, ValueError) as error:  # conversions look at shapes that no such file has
                raise WeightsError(
                    f"these tensors have the names of the layout {layout.__name__.rpartition('.')[2]}, but not its "
                    f"shapes ({error}); the file is damaged or was edited. Nothing was loaded."
                ) from error
    if any(key.startswith(("backbone.conv_stem.", "blocks.", "encoder.blocks.")) for key in source.state):
        return Converted("effdense", own.kind_of(source.state), source.state)
    raise WeightsError(
        f"these {len(source.state)} tensors are of no layout that effdense knows (keys: "
        f"{', '.join(sorted(source.state)[:4]) or 'none'} ...). It reads EfficientNets of timm, torchvision, "
        "efficientnet-pytorch and segmentation-models-pytorch, EfficientDets of effdet and zylo117, and its own files. "
        "Nothing was loaded."
    )
