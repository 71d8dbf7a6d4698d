"""Load weights with proof: the source's layout is recognised, every key is accounted for, failure changes nothing.

Source -> tensors and what stands beside them (``read.py``, ``hub.py``) -> our names (``layouts.py``) -> places in the
model (``fitting.py``), class rows (``classes.py``), input channels (``channels.py``) -> checks -> copy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from effdense.errors import WeightsError
from effdense.models.weights.channels import adapt_channels
from effdense.models.weights.classes import check_class_names, class_layer_of, match_rows, names_of_rows
from effdense.models.weights.convention import plan_convention
from effdense.models.weights.fitting import (
    ENCODER_PREFIX,
    NETWORK_PREFIXES,
    Fitting,
    fit,
    kind_of_model,
    set_auxiliary_aside,
)
from effdense.models.weights.identify import describe, encoder_names_of, part_of
from effdense.models.weights.layout import Converted
from effdense.models.weights.layouts import convert_source
from effdense.models.weights.read import Source, read_checkpoint, read_source, read_state_dict
from effdense.models.weights.report import LoadReport
from effdense.models.weights.values import prepared, unusable_values

_COUNTER = "num_batches_tracked"  # bookkeeping of BatchNorm that some exporters drop

__all__ = ["LoadReport", "load_weights", "open_source", "read_checkpoint", "read_state_dict"]


def open_source(source: str | os.PathLike[str] | Mapping[str, Any]) -> Source:
    """Tensors and what stands beside them, from a path, a mapping, ``timm:NAME`` or ``hf:OWNER/NAME``.

    Raises: WeightsError for what cannot be read or fetched, MissingExtra where fetching needs a package.
    """
    if isinstance(source, str) and source.startswith(("timm:", "hf:")) and not Path(source).is_file():
        from effdense.models.weights import hub

        return hub.fetch(source)
    return read_source(source)


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    class_names: Sequence[str] | None = None,
    adapt: bool = True,
) -> LoadReport:
    """Copy weights into ``model``, all or nothing.

    Args:
        model: an encoder, classifier, detector or segmentor. A source of another kind fills its encoder.
        source: path (.pth, .safetensors), checkpoint dict, state dict, ``timm:NAME`` or
            ``hf:OWNER/NAME[@REVISION][:FILE][#sha256=HEX]``, in any layout that docs/weights.md lists.
        class_names: of the model, in the order of its labels. Where the source knows its own, prediction rows of equal
            names are copied.
        adapt: switch the encoder's padding and BN epsilon (and a pyramid's padding) to those that the weights were made
            for, and make the stem fit another number of input channels. False keeps the model's convention, says so in
            ``notes``, and refuses other channels.

    Returns: a ``LoadReport``; print it for one line.
    Raises: WeightsError when the source is unreadable, belongs to another architecture or size, or lacks tensors the
        model needs; ConfigError for ``class_names`` that are not one per class. The model is left untouched.
    """
    return load_opened(model, open_source(source), class_names=class_names, adapt=adapt)


def load_opened(
    model: nn.Module, source: Source, *, class_names: Sequence[str] | None = None, adapt: bool = True
) -> LoadReport:
    """``load_weights`` for a source that has been read already."""
    model = _unwrapped(model)
    check_class_names(model, class_names)
    own = model.state_dict()
    if any(value.is_meta for value in own.values()):
        raise WeightsError(
            "the model lies on the meta device and can hold no weights; model.to_empty(device='cpu') first."
        )
    converted = convert_source(source)
    fitting = fit(converted, own)
    prefix = ENCODER_PREFIX[kind_of_model(own)]
    report = LoadReport(
        converted.layout,
        model=_name_of(model),
        part="" if fitting.whole else prefix.removesuffix("."),
        total=len(own),
        unexpected=fitting.unexpected,
        unused=fitting.unused,
        notes=[*converted.notes, *fitting.notes],
    )
    # Options before shapes, which would complain about what an option has changed; but after them where the source is
    # of another size altogether, since no option mends that.
    options_first = fitting.whole and converted.kind != "detector" and _same_encoder(model, converted)
    if options_first:
        _check_options(model, converted)
    _adapt_stem(fitting, own, f"{prefix}conv_stem.weight", report, adapt)
    copies = _match(model, fitting, own, converted, names_of_rows(model, class_names), report)
    if fitting.whole and not options_first:
        _check_options(model, converted)
    switch = plan_convention(model, converted, whole=fitting.whole, adapt=adapt)
    ready = {key: prepared(key, value, own[key]) for key, value in copies.items()}

    with torch.no_grad():
        for key, value in ready.items():
            own[key].copy_(value)
    switch.apply()
    report.adapted += switch.adapted
    report.notes += [*switch.notes, *unusable_values(ready)]
    return report


def _match(
    model: nn.Module,
    fitting: Fitting,
    own: Mapping[str, Tensor],
    converted: Converted,
    class_names: Sequence[str] | None,
    report: LoadReport,
) -> dict[str, Tensor]:
    """The tensors to copy, by the model's keys; refuses a source that does not fit."""
    layer = class_layer_of(model) if fitting.whole else None
    rows = layer and match_rows(layer, fitting.state, own, converted.class_names, class_names)
    report.notes += set_auxiliary_aside(fitting, own, same_classes=not rows)
    copies: dict[str, Tensor] = {}
    wrong: list[str] = []
    for key, value in fitting.state.items():
        if rows and layer and key in layer.keys:
            continue
        if value.shape == own[key].shape:
            copies[key] = value
        else:
            wrong.append(f"{key}: file {tuple(value.shape)}, model {tuple(own[key].shape)}")
    if rows:
        report.remade, report.copied_rows = rows.remade, rows.names
        if rows.remade:
            report.remade_text = rows.text
        else:
            report.adapted.append(rows.text)
    filled = {*copies, *(rows.copies if rows else ()), *report.remade}
    missing = [key for key in fitting.wanted if key not in filled and not key.endswith(_COUNTER)]
    zeros = [key for key in missing if fitting.whole and key in converted.zeros]
    if zeros:
        report.adapted.append(f"{len(zeros)} biases that the source leaves out set to 0")
    report.missing = [key for key in missing if key not in set(zeros)]
    report.counters = [key for key in fitting.wanted if key not in filled and key.endswith(_COUNTER)]
    report.loaded = [key for key in own if key in copies or (rows and key in rows.copies and key not in rows.remade)]
    _refuse_misfit(report, wrong, converted, kind_of_model(own))
    copies.update({key: torch.zeros_like(own[key]) for key in zeros})
    copies.update(rows.copies if rows else {})
    return copies


def _refuse_misfit(report: LoadReport, wrong: list[str], converted: Converted, kind: str) -> None:
    name = report.model
    foreign = [key for key in report.unexpected if key.startswith(NETWORK_PREFIXES)]
    if report.notes and any(note.startswith("the source has another decoder") for note in report.notes):
        foreign = [key for key in foreign if key.startswith("encoder.")]
    if not (wrong or report.missing or foreign):
        return
    hint = describe(converted.state, name, kind)
    if wrong:
        raise WeightsError(
            f"these weights are of another architecture or size than {name}: {len(wrong)} tensors differ in shape, "
            f"first {'; '.join(wrong[:3])}. Nothing was loaded; build the model that the weights belong to.{hint}"
        )
    if report.missing:
        raise WeightsError(
            f"these weights lack {len(report.missing)} tensors that {name} needs ({', '.join(report.missing[:3])}, "
            f"...); {len(report.loaded)} would fit, {len(report.unexpected)} are unknown "
            f"({', '.join(report.unexpected[:3]) or 'none'}). Nothing was loaded.{hint}"
        )
    raise WeightsError(
        f"these weights are of another architecture than {name}: it has no place for {len(foreign)} of their tensors "
        f"({', '.join(foreign[:3])}, ...). Nothing was loaded; build the model that the weights belong to.{hint}"
    )


def _adapt_stem(fitting: Fitting, own: Mapping[str, Tensor], key: str, report: LoadReport, adapt: bool) -> None:
    """Make the stem's weight fit the model's input channels; other differences of shape are refused later."""
    given, wanted = fitting.state.get(key), own.get(key)
    if given is None or wanted is None or given.ndim != 4 or given.shape[1] == wanted.shape[1]:
        return
    made = adapt_channels(given, wanted.shape[1]) if adapt else None
    if made is None:
        raise WeightsError(
            f"{key} of these weights takes {given.shape[1]} input channels, the model has {wanted.shape[1]}"
            + (" and adapt=False. " if not adapt else "; only 1 and 3 can be adapted to other numbers. ")
            + f"Nothing was loaded; build the model with in_channels={given.shape[1]}."
        )
    fitting.state[key] = made[0]
    report.adapted.append(made[1])


def _check_options(model: nn.Module, converted: Converted) -> None:
    config = getattr(model, "config", None)
    differing = {
        key: value
        for key, value in converted.options.items()
        if hasattr(config, key) and _plain(getattr(config, key)) != _plain(value)
    }
    if differing:
        wanted = ", ".join(f"{key}={value!r}" for key, value in differing.items())
        present = ", ".join(f"{key}={getattr(config, key)!r}" for key in differing)
        raise WeightsError(
            f"these weights ({converted.layout}) were trained with {wanted}, the model has {present}. Nothing was "
            f"loaded; build it with create_{converted.kind}({_name_of(model)!r}, ..., {wanted})."
            + (describe(converted.state, _name_of(model), "detector") if converted.kind == "detector" else "")
        )


def _same_encoder(model: nn.Module, converted: Converted) -> bool:
    """Whether the source's encoder is the model's, as far as shapes of published ones tell."""
    names = encoder_names_of(part_of(converted.state, ENCODER_PREFIX[converted.kind]))
    return not names or getattr(getattr(model, "config", None), "encoder", None) in names


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile's or a data-parallel wrapper, which put a prefix before every key."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        model = cast(nn.Module, model._orig_mod if hasattr(model, "_orig_mod") else model.module)
    return model


def _name_of(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "name", getattr(model, "name", type(model).__name__)))
