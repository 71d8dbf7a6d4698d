"""Prediction layers under another set of classes: which rows of the source belong to which rows of the model.

A row is one class; in a detector's class net each anchor of a cell has its own copy, anchor-major: row a * K + k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from effdense.errors import ConfigError


@dataclass(frozen=True)
class ClassLayer:
    """The layer whose outputs are classes. Attributes: module name; anchors per cell (1 outside detectors)."""

    name: str
    anchors: int = 1

    @property
    def keys(self) -> tuple[str, str]:
        return f"{self.name}.weight", f"{self.name}.bias"


@dataclass
class Rows:
    """Outcome for the class layer.

    Attributes:
        copies: tensors to copy whole, by the model's keys; empty where the layer is left alone.
        remade: keys that keep rows of their initialisation.
        names: classes whose rows were found by name.
        text: what happened, for the report; "" for an ordinary copy.
    """

    copies: dict[str, Tensor] = field(default_factory=dict)
    remade: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    text: str = ""


def class_layer_of(model: nn.Module) -> ClassLayer | None:
    """The class layer of a detector, segmentor or classifier; None for an encoder."""
    own = model.state_dict()
    if "class_net.predict.conv_pw.weight" in own:
        config = getattr(model, "config", None)
        return ClassLayer("class_net.predict.conv_pw", getattr(config, "num_anchors", 9))
    for name in ("segmentation_head.0", "classifier"):
        if f"{name}.weight" in own:
            return ClassLayer(name)
    return None


def match_rows(
    layer: ClassLayer,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    source_names: Sequence[str] | None,
    model_names: Sequence[str] | None,
) -> Rows | None:
    """Decide about the class layer; None where it is copied (or refused) like any other.

    Args:
        state, own: tensors of the source and of the model, by the same keys.
        source_names, model_names: class names in the order of rows; without both, rows of another number of classes
            cannot be told apart and all of them are re-made.
    """
    weight = layer.keys[0]
    if weight not in state or weight not in own or state[weight].shape[1:] != own[weight].shape[1:]:
        return None
    if any(key in state and state[key].shape[:1] != state[weight].shape[:1] for key in layer.keys):
        return None
    old, new = len(state[weight]) // layer.anchors, len(own[weight]) // layer.anchors
    if len(state[weight]) % layer.anchors:
        return None
    if source_names is not None and len(source_names) != old:
        source_names = None
    known = source_names is not None and model_names is not None
    if old == new and (not known or list(source_names or ()) == list(model_names or ())):
        return None
    shared = _shared(source_names or (), model_names or ()) if known else []
    return _copy_rows(layer, state, own, shared, old, new)


def _shared(source_names: Sequence[str], model_names: Sequence[str]) -> list[tuple[int, int, str]]:
    """(source row, model row, name) of every class that both know."""
    places = {name: index for index, name in reversed(list(enumerate(source_names)))}
    return [(places[name], row, name) for row, name in enumerate(model_names) if name in places]


def _copy_rows(
    layer: ClassLayer,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    shared: list[tuple[int, int, str]],
    old: int,
    new: int,
) -> Rows:
    keys = [key for key in layer.keys if key in own and key in state]
    rows = Rows(names=[name for _, _, name in shared])
    offsets = torch.arange(layer.anchors)[:, None]
    source_rows = (offsets * old + torch.tensor([row for row, _, _ in shared], dtype=torch.long)).flatten()
    model_rows = (offsets * new + torch.tensor([row for _, row, _ in shared], dtype=torch.long)).flatten()
    if shared:
        for key in keys:
            values = own[key].detach().clone()
            values[model_rows.to(values.device)] = state[key][source_rows.to(state[key].device)].to(values)
            rows.copies[key] = values
    if len(shared) == new:
        rows.text = f"{layer.name} ordered by class name ({old} -> {new} classes)"
        return rows
    rows.remade = keys
    listed = ", ".join(rows.names[:8]) + (f", ... {len(rows.names) - 8} more" if len(rows.names) > 8 else "")
    count = f"{len(shared)} row{'s' * (len(shared) > 1)} copied by name: {listed}" if shared else "no rows copied"
    short = layer.name.removesuffix(".conv_pw").removesuffix(".0")
    rows.text = f"{short} ({old} -> {new} classes; {count})"
    return rows


def names_of_rows(model: nn.Module, names: Sequence[str] | None) -> Sequence[str] | None:
    """Class names in the order of the prediction's rows; None for one logit, which stands for two classes."""
    return None if _is_binary(model) else names


def _is_binary(model: nn.Module) -> bool:
    """Whether a segmentor tells two classes, background and object, by one logit."""
    return getattr(model, "num_classes", None) == 1 and hasattr(model, "segmentation_head")


def check_class_names(model: nn.Module, names: Sequence[str] | None) -> None:
    """Raise ConfigError where the names given for the model are not one per class."""
    count = 2 if _is_binary(model) else getattr(model, "num_classes", None)
    if names is None or count is None:
        return
    if isinstance(names, str) or len(names) != count:
        raise ConfigError(
            f"class_names must name the {count} classes of the model in the order of its labels, got "
            f"{names!r}." if isinstance(names, str) else
            f"class_names must name the {count} classes of the model in the order of its labels, got {len(names)}."
        )  # fmt: skip
