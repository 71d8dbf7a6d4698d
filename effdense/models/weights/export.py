"""Our encoders and classifiers back to timm: tensors by the names that timm's own model takes with ``strict=True``.

An encoder gives what ``timm.create_model(NAME, features_only=True)`` holds, a classifier the full model; which of
timm's names and options have the right convention is said by ``timm_arguments``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdense.errors import WeightsError
from effdense.models.encoders.families import encoder_names
from effdense.models.encoders.padding import BN_EPS
from effdense.models.weights.fitting import ENCODER_PREFIX
from effdense.models.weights.identify import encoder_names_of, part_of
from effdense.models.weights.layouts import convert_source
from effdense.models.weights.read import EXPORT_ENTRY
from effdense.models.weights.report import LoadReport


def to_timm(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the encoder in timm's names, on the CPU; with its ImageNet head where `model` is a classifier.

    Args:
        model: an encoder or classifier, or a detector or segmentor, whose encoder is taken.

    Raises: WeightsError for a model without an encoder of ours.
    """
    state = _encoder(model).state_dict()
    return {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}


def timm_arguments(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Name and options for ``timm.create_model`` that give the encoder's shapes and convention.

    ``tf_`` names mean TensorFlow SAME and eps 1e-3, the others symmetric and 1e-5; V2-B0..B3 exist as ``tf_`` only and
    the RW networks without (timm models/efficientnet.py), and options make up for what a name does not say.

    Raises: WeightsError for a scale, or a padding (same_static), that timm does not have.
    """
    encoder = _encoder(model)
    name, padding = encoder.name, encoder.padding
    if name not in encoder_names():
        raise WeightsError(f"timm has no model of the scale of {name}; to_timm gives the tensors all the same.")
    if padding not in ("same", "symmetric"):
        raise WeightsError(f"timm has no padding {padding!r}; to_timm gives the tensors all the same.")
    google = "_rw_" not in name and (padding == "same" or name.startswith("efficientnetv2_b"))
    options: dict[str, Any] = {}
    if google != (padding == "same"):
        options["pad_type"] = "same" if padding == "same" else ""
    if encoder.bn1.eps != BN_EPS["same" if google else "symmetric"]:
        options["bn_eps"] = encoder.bn1.eps
    return f"tf_{name}" if google else name, options


def save_timm(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write ``to_timm(model)`` to a .safetensors or .pth file that states name, padding and BN epsilon.

    ``effdense.load_weights`` reads the statement back; timm reads the tensors (``load_checkpoint``).

    Returns: the path written.
    Raises: WeightsError for another ending, or a folder that does not exist.
    """
    encoder = _encoder(model)
    return _write(to_timm(model), path, {"name": encoder.name, "padding": encoder.padding, "bn_eps": encoder.bn1.eps})


def _write(state: dict[str, Tensor], path: str | os.PathLike[str], stated: dict[str, Any]) -> Path:
    """Write the tensors and what is `stated` about them; a file that is there is replaced at the end or not at all."""
    file = Path(path).expanduser()
    if not file.parent.is_dir():
        raise WeightsError(f"there is no folder {file.parent}; make it first.")
    temporary = file.with_name(f".{file.name}.tmp.{os.getpid()}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, temporary, metadata={"format": "pt", EXPORT_ENTRY: json.dumps(stated)})
        elif file.suffix in (".pth", ".pt", ".bin"):
            torch.save({"state_dict": state, EXPORT_ENTRY: stated}, temporary)
        else:
            raise WeightsError(f"{file} must end in .safetensors or .pth.")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def convert_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str | None = None,
    padding: str | None = None,
) -> tuple[LoadReport, str]:
    """Read the encoder of any source and write it in timm's layout, with its ImageNet head where it has one.

    Args:
        source, out: as in ``load_weights`` and ``save_timm``.
        model: encoder name; None to infer it from the shapes.
        padding: of a source that cannot say its own (timm's without its name). Where neither says it, the file written
            states none either, so that loading it goes on asking.

    Returns: what was loaded, and a phrase with the name and convention of what was written and the call that gives
        timm's model of them.
    Raises: WeightsError for a source that cannot be read, or that no published encoder has the shapes of.
    """
    # Here, not on top: building models is not needed to write one.
    from effdense.models.classification import create_classifier
    from effdense.models.encoders import create_encoder
    from effdense.models.weights.load import load_opened, open_source

    if Path(source).expanduser().exists() and Path(source).expanduser().resolve() == Path(out).expanduser().resolve():
        raise WeightsError(f"{out} is the source itself and would be overwritten; write to another file.")
    opened = open_source(source)
    converted = convert_source(opened)
    state = part_of(converted.state, ENCODER_PREFIX[converted.kind])
    names = [model] if model is not None else encoder_names_of(state)
    if len(names) != 1:
        raise WeightsError(
            f"{source} has the shapes of {', '.join(names) or 'no published encoder'}; say which with --model NAME."
        )
    channels = state["conv_stem.weight"].shape[1] if "conv_stem.weight" in state else 3
    options: dict[str, Any] = {"in_channels": channels, "padding": padding or "same"}
    network: Any
    if "classifier.weight" in state and "conv_head.weight" in state:
        network = create_classifier(names[0], len(state["classifier.weight"]), **options)
    else:
        network = create_encoder(names[0], **options)
    report = load_opened(network, opened)
    if converted.padding is None and padding is None:
        _write(to_timm(network), out, {"name": network.name})
        return report, f"{names[0]}, padding unknown and not stated in the file (--padding same or symmetric says it)"
    save_timm(network, out)
    return report, f"{names[0]}, padding {network.padding}, BN eps {network.bn1.eps:g}; {_timm_call(network)}"


def _timm_call(network: nn.Module) -> str:
    try:
        name, options = timm_arguments(network)
    except WeightsError as error:
        return str(error).partition(";")[0]
    return f"timm.create_model({', '.join([repr(name), *(f'{key}={value!r}' for key, value in options.items())])})"


def _encoder(model: nn.Module) -> Any:
    encoder = getattr(model, "backbone", getattr(model, "encoder", model))
    if not hasattr(encoder, "conv_stem") or not hasattr(encoder, "padding"):
        raise WeightsError(f"{type(model).__name__} has no encoder of effdense to export.")
    return encoder
