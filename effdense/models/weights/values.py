"""The values in tensors: which can become those of a model, and which no good training leaves behind."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from effdense.errors import WeightsError


def prepared(key: str, value: Tensor, target: Tensor) -> Tensor:
    """`value` as the model holds it: made before the first copy, so that what cannot be cast changes nothing."""
    if value.layout is not torch.strided or value.is_quantized:
        form = "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
        raise WeightsError(
            f"{key} is a {form} tensor, expected an ordinary dense one. Nothing was loaded; convert the tensors where "
            "they were made (.to_dense(), .dequantize())."
        )
    if target.is_floating_point() and not value.is_floating_point():
        raise WeightsError(
            f"{key} holds {str(value.dtype).removeprefix('torch.')} values, expected floating-point weights. Nothing "
            "was loaded; integer weights of a quantized network have to be turned back into floats with their scales."
        )
    try:
        return value.detach().to(device=target.device, dtype=target.dtype)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0][:160].rstrip(".")
        raise WeightsError(f"{key} cannot be copied from the source ({reason}). Nothing was loaded.") from error


def unusable_values(tensors: Mapping[str, Tensor]) -> list[str]:
    """Sentences on values that no training that went well leaves behind; they are loaded, but never in silence."""
    notes = []
    broken = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    negative = [key for key, value in tensors.items() if key.endswith("running_var") and bool((value < 0).any())]
    for keys, what in ((broken, "values that are not finite (NaN or infinite)"), (negative, "negative variances")):
        if keys:
            more = f", ... {len(keys) - 3} more" if len(keys) > 3 else ""
            notes.append(f"WARNING: {what} in {len(keys)} of the tensors loaded: {', '.join(keys[:3])}{more}")
    return notes
