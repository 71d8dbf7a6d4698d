"""Files and checkpoint dicts in, tensors by name out, without ever running code from a file.

``read_source`` also keeps what stands beside the tensors: the meta of our checkpoints, and the convention that files
written by ``save_timm`` state.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from effdense.errors import WeightsError
from effdense.models.encoders.padding import Padding

# Wrappers that training frameworks leave in front of every key.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
# effdet's benches keep their anchors beside the model; they are computed, not learnt.
_BENCH_ANCHORS = "anchors.boxes"
_STATE_DICT_ENTRIES = ("state_dict", "state_dict_ema", "model", "model_state_dict")
# Entry of a .pth file, or of a safetensors header as JSON, with the name, padding and bn_eps of exported weights.
EXPORT_ENTRY = "effdense_weights"


@dataclass(frozen=True)
class Source:
    """Tensors by the source's own names, and what came with them.

    Attributes:
        state: tensors by name, wrapper prefixes removed.
        meta: ``meta`` of a checkpoint of ours, else empty.
        padding, bn_eps: convention of the encoder where the file or its name states it.
        notes: sentences for the report.
    """

    state: dict[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)
    padding: str | None = None
    bn_eps: float | None = None
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | os.PathLike[str], *, map_location: str | torch.device = "cpu") -> Any:
    """Read a ``.pth``/``.pt``/``.bin``/``.ckpt`` or ``.safetensors`` file without running code from it.

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
    return read_source(source).state


def read_source(source: str | os.PathLike[str] | Mapping[str, Any]) -> Source:
    """As ``read_state_dict``, with what stands beside the tensors."""
    if not isinstance(source, (str, os.PathLike, Mapping)):
        raise WeightsError(f"expected a path or a state dict (name -> tensor), got {type(source).__name__}.")
    content = source if isinstance(source, Mapping) else read_checkpoint(source)
    exported: Any = content.get(EXPORT_ENTRY) if isinstance(content, Mapping) else None
    if not isinstance(source, Mapping) and Path(source).suffix == ".safetensors":
        exported = _safetensors_header(Path(source).expanduser())
    meta: Any = {}
    if isinstance(content, Mapping) and str(content.get("format", "")).startswith("effdense/"):
        meta = content.get("meta")
    for entry in _STATE_DICT_ENTRIES:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"expected a state dict (name -> tensor), got {type(content).__name__}.")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"the source holds no tensors; its keys are {sorted(map(str, content))[:8]}.")
    padding, bn_eps = _stated_convention(exported)
    return Source(unwrap(state), meta if isinstance(meta, Mapping) else {}, padding, bn_eps)


def _safetensors_header(file: Path) -> Any:
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as opened:
        text = (opened.metadata() or {}).get(EXPORT_ENTRY, "{}")
    try:
        return json.loads(text)
    except ValueError:  # foreign text under our key: no statement
        return {}


def _stated_convention(exported: Any) -> tuple[str | None, float | None]:
    """Padding and epsilon of an exported file, None where they are absent or make no sense."""
    stated = exported if isinstance(exported, Mapping) else {}
    padding, bn_eps = stated.get("padding"), stated.get("bn_eps")
    return (
        padding if padding in get_args(Padding) else None,
        bn_eps if isinstance(bn_eps, float) and 0 < bn_eps < 1 else None,
    )


def unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove what wrappers put before every key, in any order and as often as they were nested."""
    while state:
        state = {key: value for key, value in state.items() if key != _BENCH_ANCHORS}
        prefix = next((p for p in _WRAPPER_PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
