"""Padding and BatchNorm epsilon: what weights were made for against what the model has, and the switch to it.

Two steps, so that loading stays all or nothing: ``plan_convention`` only looks, ``Switch.apply`` changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from effdense.errors import WeightsError
from effdense.models.weights.layout import Converted


@dataclass
class Switch:
    """Changes to make, and what to say about them. Attributes: None or empty where nothing changes."""

    encoder: nn.Module
    model: nn.Module
    padding: str | None = None
    bn_eps: float | None = None
    neck_padding: str | None = None
    adapted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def apply(self) -> None:
        encoder: Any = self.encoder
        encoder.set_convention(padding=self.padding, bn_eps=self.bn_eps)
        if self.neck_padding is not None:
            model: Any = self.model
            model.set_padding(self.neck_padding)


def plan_convention(model: nn.Module, converted: Converted, *, whole: bool, adapt: bool) -> Switch:
    """Compare the source's convention with that of the model's encoder, and of its pyramid where it is filled too.

    Raises: WeightsError where the pyramid of the model cannot be switched.
    """
    encoder: Any = getattr(model, "backbone", getattr(model, "encoder", model))
    switch = Switch(encoder, model)
    padding, bn_eps = encoder.padding, encoder.bn1.eps
    if converted.padding is None and not (whole and converted.kind == "detector"):
        # Kept, not reset to what the model was built with: the source may be this very model, trained further.
        others = "timm's tf_ weights need 'same'" if padding == "symmetric" else "native timm weights need 'symmetric'"
        switch.notes.append(
            f"the source does not say its padding and BN eps: kept {padding} and {bn_eps:g} ({others}; build the model "
            "with that padding=)"
        )
    elif converted.padding is None and getattr(model, "weight_options", None):
        switch.notes.append(
            f"earlier weights switched this detector to {model.weight_options}; the source does not say its own "
            "convention, so that stays (for Google's weights build the detector anew)"
        )
    if converted.padding not in (None, padding):
        switch.padding = converted.padding
        _say(switch, adapt, "padding", padding, converted.padding)
    if converted.bn_eps not in (None, bn_eps):
        switch.bn_eps = converted.bn_eps
        _say(switch, adapt, "BN eps", bn_eps, converted.bn_eps)
    if whole and converted.neck_padding is not None:
        neck = getattr(getattr(model, "fpn", None), "padding", converted.neck_padding)
        if neck != converted.neck_padding:
            if adapt and not hasattr(model, "set_padding"):
                raise WeightsError(
                    f"these weights were trained with {converted.neck_padding!r} pools in the pyramid, the model has "
                    f"{neck!r}. Nothing was loaded; build it with padding={converted.neck_padding!r}."
                )
            switch.neck_padding = converted.neck_padding
            _say(switch, adapt, "pyramid padding", neck, converted.neck_padding)
    if not adapt:
        switch.padding = switch.bn_eps = switch.neck_padding = None
    return switch


def _say(switch: Switch, adapt: bool, what: str, old: Any, new: Any) -> None:
    old, new = (f"{value:g}" if isinstance(value, float) else value for value in (old, new))
    if adapt:
        switch.adapted.append(f"{what} {old} -> {new}")
    else:
        switch.notes.append(f"{what} stays {old}, the weights were made with {new} (adapt=False): features differ")
