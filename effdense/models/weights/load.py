"""Load weights with proof: the source's layout is recognised, every key is accounted for, failure changes nothing.

Layouts known here: our own checkpoints (training or plain state dict), effdet's EfficientDet (same key names as ours;
alone or inside its train and predict benches), and timm's EfficientNet (full model or ``features_only``), into an
encoder or into the backbone of a detector.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdense.errors import WeightsError

# timm's ImageNet head: nothing in a dense-prediction model reads these.
_CLASSIFIER_PREFIXES = ("conv_head.", "bn2.", "classifier.")
# Wrappers that training frameworks leave in front of every key.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
# effdet's benches keep their anchors beside the model; they are computed, not learnt.
_BENCH_ANCHORS = "anchors.boxes"
# Parts of a network. A source with more in them than the model has was made for another architecture, even if all that
# is needed fits: EfficientDet-D0 holds every tensor that Lite0 asks for.
_NETWORK_PREFIXES = ("conv_stem.", "bn1.", "blocks.", "backbone.", "fpn.", "class_net.", "box_net.")
_STATE_DICT_ENTRIES = ("state_dict", "state_dict_ema", "model", "model_state_dict")


@dataclass
class LoadReport:
    """What ``load_weights`` did, as lists of the model's (or, for ``unexpected`` and ``unused``, the source's) keys.

    Attributes:
        layout: what the source was recognised as.
        loaded: parameters and buffers copied.
        missing: keys of the model that the source should have had and had not.
        unexpected: keys of the source that nothing in the model answers to.
        remade: prediction layers whose shape follows another number of classes; left at their initialisation.
        unused: keys known to belong to parts that this model does not have (classification head, unbuilt late stages).
    """

    layout: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.remade)
        parts = [f"loaded {len(self.loaded)}/{total} tensors ({self.layout})"]
        for name in ("remade", "missing", "unexpected", "unused"):
            keys = getattr(self, name)
            if keys:
                more = f", ... {len(keys) - 3} more" if len(keys) > 3 else ""
                parts.append(f"{name} {len(keys)}: {', '.join(keys[:3])}{more}")
        return "; ".join(parts)


def read_checkpoint(path: str | os.PathLike[str], *, map_location: str | torch.device = "cpu") -> Any:
    """Read a ``.pth``/``.pt``/``.ckpt`` or ``.safetensors`` file without running code from it.

    Raises: WeightsError for a missing, empty, truncated or foreign file, and for a pickle that holds anything but
        tensors and plain containers (it is refused, nothing in it runs).
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(
            f"no weight file at {file.absolute()}; check the path (a run's checkpoints lie in its work_dir)."
        )
    if file.stat().st_size == 0:
        raise WeightsError(f"{file} is empty (0 bytes): the copy or the save was cut off.")
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(str(file), device=str(map_location))
        except Exception as error:  # safetensors raises its own Rust-side exception type
            raise WeightsError(f"{file} is not a readable safetensors file: {error}.") from error
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # damaged bytes lead the unpickler to KeyError, IndexError, struct.error and others
        raise WeightsError(_why_unreadable(file, error)) from error


def _why_unreadable(file: Path, error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's weights_only unpickler names what it will not import
    if refused:
        return (
            f"{file} holds Python objects besides tensors and plain containers ({refused[1]}), which could run code "
            "when loaded; it was refused and nothing in it ran. If you trust its origin, load it where it was made and "
            "save only its state_dict."
        )
    reason = (str(error).splitlines() or [""])[0][:200].rstrip(".")
    if not isinstance(error, (RuntimeError, EOFError, OSError)):  # the unpickler met bytes that torch.save never writes
        reason = "it was not written by torch.save, or it is damaged"
    return f"{file} cannot be read as a torch checkpoint (truncated or another format?): {reason}."


def read_state_dict(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by name from a path, a checkpoint dict or a state dict, wrapper prefixes removed.

    Raises: WeightsError for another type of source, and for one without tensors.
    """
    if not isinstance(source, (str, os.PathLike, Mapping)):
        raise WeightsError(f"expected a path or a state dict (name -> tensor), got {type(source).__name__}.")
    content = source if isinstance(source, Mapping) else read_checkpoint(source)
    for entry in _STATE_DICT_ENTRIES:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"expected a state dict (name -> tensor), got {type(content).__name__}.")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"the source holds no tensors; its keys are {sorted(map(str, content))[:8]}.")
    return _unwrap(state)


def _unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove what wrappers put before every key, in any order and as often as they were nested."""
    while state:
        state = {key: value for key, value in state.items() if key != _BENCH_ANCHORS}
        prefix = next((p for p in _WRAPPER_PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any]) -> LoadReport:
    """Copy weights into ``model``, all or nothing.

    Args:
        model: an encoder or a detector.
        source: path (.pth, .safetensors), checkpoint dict or state dict; our layout, effdet's, or timm's EfficientNet.

    Returns: a ``LoadReport``; print it for one line. A class net for another number of classes is ``remade``.
    Raises: WeightsError when the source is unreadable, belongs to another architecture or size, or lacks tensors the
        model needs; the model is left untouched.
    """
    state = read_state_dict(source)
    own = model.state_dict()
    if any(value.is_meta for value in own.values()):
        raise WeightsError(
            "the model lies on the meta device and can hold no weights; model.to_empty(device='cpu') first."
        )
    is_detector = any(key.startswith("class_net.") for key in own)
    prefix = ""
    if is_detector and not any(key.startswith(("backbone.", "fpn.", "class_net.")) for key in state):
        prefix, layout = "backbone.", "timm encoder into backbone"
    elif is_detector:
        layout = "effdense/effdet detector"
    elif any(key.startswith("backbone.") for key in state):
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
        layout = "backbone of a detector"
    else:
        layout = "timm encoder"
    report = LoadReport(layout)
    wanted = {key: value for key, value in own.items() if key.startswith(prefix)}
    last_stage = _last_stage(own)

    copies: dict[str, Tensor] = {}
    wrong: list[str] = []
    for source_key, value in state.items():
        key = prefix + source_key
        if key not in wanted:
            late = _stage(source_key) is not None and _stage(source_key) > last_stage  # type: ignore[operator]
            unused = late or (not key.startswith(("class_net.", "box_net.", "fpn.")) and _is_classifier(source_key))
            (report.unused if unused else report.unexpected).append(source_key)
        elif value.shape != wanted[key].shape:
            if key.startswith("class_net.predict.conv_pw."):
                report.remade.append(key)
            else:
                wrong.append(f"{key}: file {tuple(value.shape)}, model {tuple(wanted[key].shape)}")
        else:
            copies[key] = value
    report.loaded = list(copies)
    report.missing = [key for key in wanted if key not in copies and key not in report.remade]
    # Optional bookkeeping that some exporters drop.
    report.missing = [key for key in report.missing if not key.endswith("num_batches_tracked")]
    _refuse_misfit(model, report, wrong)
    with torch.no_grad():
        for key, value in copies.items():
            own[key].copy_(value)
    return report


def _refuse_misfit(model: nn.Module, report: LoadReport, wrong: list[str]) -> None:
    name = getattr(getattr(model, "config", None), "name", getattr(model, "name", type(model).__name__))
    if wrong:
        raise WeightsError(
            f"these weights are of another architecture or size than {name}: {len(wrong)} tensors differ in shape, "
            f"first {'; '.join(wrong[:3])}. Nothing was loaded; build the model that the weights belong to."
        )
    if report.missing:
        raise WeightsError(
            f"these weights lack {len(report.missing)} tensors that {name} needs ({', '.join(report.missing[:3])}, "
            f"...); {len(report.loaded)} would fit, {len(report.unexpected)} are unknown "
            f"({', '.join(report.unexpected[:3]) or 'none'}). Nothing was loaded."
        )
    foreign = [key for key in report.unexpected if key.startswith(_NETWORK_PREFIXES)]
    if foreign:
        raise WeightsError(
            f"these weights are of another architecture than {name}: it has no place for {len(foreign)} of their "
            f"tensors ({', '.join(foreign[:3])}, ...). Nothing was loaded; build the model that the weights belong to."
        )


def _is_classifier(key: str) -> bool:
    return key.removeprefix("backbone.").startswith(_CLASSIFIER_PREFIXES)


def _stage(key: str) -> int | None:
    """Stage index of a ``[backbone.]blocks.S...`` key."""
    parts = key.removeprefix("backbone.").split(".")
    return int(parts[1]) if len(parts) > 1 and parts[0] == "blocks" and parts[1].isdigit() else None


def _last_stage(own: Mapping[str, Tensor]) -> int:
    return max((stage for key in own if (stage := _stage(key)) is not None), default=-1)
