"""Our encoders and classifiers back to timm: tensors by the names that timm's own model takes with ``strict=True``.

An encoder gives what ``timm.create_model(NAME, features_only=True)`` holds, a classifier the full model; which of
timm's names has the right convention is said by ``timm_name``.
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


def timm_name(model: nn.Module) -> str:
    """Name of timm's model with the encoder's shapes and convention, ``tf_...`` for TensorFlow SAME.

    Raises: WeightsError for a scale that timm does not have.
    """
    encoder = _encoder(model)
    if encoder.name not in encoder_names():
        raise WeightsError(f"timm has no model of the scale of {encoder.name}; to_timm gives the tensors all the same.")
    return encoder.name if encoder.padding == "symmetric" else f"tf_{encoder.name}"


def save_timm(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write ``to_timm(model)`` to a .safetensors or .pth file that states name, padding and BN epsilon.

    ``effdense.load_weights`` reads the statement back; timm reads the tensors (``load_checkpoint``).

    Returns: the path written.
    Raises: WeightsError for another ending, or a folder that does not exist.
    """
    file = Path(path).expanduser()
    if not file.parent.is_dir():
        raise WeightsError(f"there is no folder {file.parent}; make it first.")
    encoder, state = _encoder(model), to_timm(model)
    stated = {"name": encoder.name, "padding": encoder.padding, "bn_eps": encoder.bn1.eps}
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
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, model: str | None = None
) -> tuple[LoadReport, str]:
    """Read the encoder of any source and write it in timm's layout, with its ImageNet head where it has one.

    Args:
        source, out: as in ``load_weights`` and ``save_timm``.
        model: encoder name; None to infer it from the shapes.

    Returns: what was loaded, and a phrase with the name and convention of what was written.
    Raises: WeightsError for a source that cannot be read, or that no published encoder has the shapes of.
    """
    # Here, not on top: building models is not needed to write one.
    from effdense.models.classification import create_classifier
    from effdense.models.encoders import create_encoder
    from effdense.models.weights.load import load_opened, open_source

    opened = open_source(source)
    converted = convert_source(opened)
    state = part_of(converted.state, ENCODER_PREFIX[converted.kind])
    names = [model] if model is not None else encoder_names_of(state)
    if len(names) != 1:
        raise WeightsError(
            f"{source} has the shapes of {', '.join(names) or 'no published encoder'}; say which with --model NAME."
        )
    channels = state["conv_stem.weight"].shape[1] if "conv_stem.weight" in state else 3
    network: Any
    if "classifier.weight" in state and "conv_head.weight" in state:
        network = create_classifier(names[0], len(state["classifier.weight"]), in_channels=channels)
    else:
        network = create_encoder(names[0], in_channels=channels)
    report = load_opened(network, opened)
    save_timm(network, out)
    return report, f"{names[0]}, padding {network.padding}, BN eps {network.bn1.eps:g}"


def _encoder(model: nn.Module) -> Any:
    encoder = getattr(model, "backbone", getattr(model, "encoder", model))
    if not hasattr(encoder, "conv_stem") or not hasattr(encoder, "padding"):
        raise WeightsError(f"{type(model).__name__} has no encoder of effdense to export.")
    return encoder
