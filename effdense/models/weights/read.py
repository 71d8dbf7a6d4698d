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
# Where checkpoints keep their tensors, the first that is there; averaged weights after the ones they are an average of.
_STATE_DICT_ENTRIES = (
    "state_dict", "state_dict_ema", "model", "model_state_dict", "model_ema", "ema", "ema_state_dict", "net", "network",
    "params", "weights",
)  # fmt: skip
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
    if file.is_dir():
        raise WeightsError(f"{file.absolute()} is a folder, expected a weight file, for example {file / 'best.pth'}.")
    if not file.is_file():
        raise WeightsError(
            f"no weight file at {file.absolute()}; check the path (a run's checkpoints lie in its work_dir)."
        )
    if file.stat().st_size == 0:
        raise WeightsError(f"{file} is empty (0 bytes): the copy or the save was cut off.")
    if _is_safetensors(file):
        from safetensors.torch import load_file

        try:
            return load_file(str(file), device=str(map_location))
        except Exception as error:  # safetensors raises its own Rust-side exception type
            raise WeightsError(f"{file} is not a readable safetensors file: {error}.") from error
    try:
        with open(file, "rb") as opened:  # given a path, torch would go by its ending
            return torch.load(opened, map_location=map_location, weights_only=True)
    except Exception as error:  # damaged bytes lead the unpickler to KeyError, IndexError, struct.error and others
        raise WeightsError(_why_unreadable(file, error)) from error


def _is_safetensors(file: Path) -> bool:
    """By its first bytes, since files get renamed: 8 of length, then a JSON header. A zip is torch's. Else by name."""
    with open(file, "rb") as opened:
        start = opened.read(9)
    return start[8:] == b"{" or (not start.startswith(b"PK") and file.suffix.lower() == ".safetensors")


def _why_unreadable(file: Path, error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's weights_only unpickler names what it will not import
    if refused:
        return (
            f"{file} holds Python objects besides tensors and plain containers ({refused[1]}), which could run code "
            "when loaded; it was refused and nothing in it ran. If you trust its origin, load it where it was made and "
            "save only its state_dict."
        )
    # torch's advice after the first sentence is long, and cut off it would end in the middle of a word.
    reason = (str(error).splitlines() or [""])[0].split(". ")[0][:200].rstrip(".")
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
    if isinstance(source, str) and re.match(r"\w+://", source):
        raise WeightsError(f"{source} is a web address; download the file first and give its path.")
    content = source if isinstance(source, Mapping) else read_checkpoint(source)
    exported: Any = content.get(EXPORT_ENTRY) if isinstance(content, Mapping) else None
    if not isinstance(source, Mapping) and _is_safetensors(Path(source).expanduser()):
        exported = _safetensors_header(Path(source).expanduser())
    meta: Any = {}
    if isinstance(content, Mapping) and str(content.get("format", "")).startswith("effdense/"):
        meta = content.get("meta")
    content, notes = innermost(content)
    if not isinstance(content, Mapping):
        raise WeightsError(f"expected a state dict (name -> tensor), got {type(content).__name__}.")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(
            f"the source holds no tensors; its keys are {sorted(map(str, content))[:8]}. Of a checkpoint of another "
            "form, pass the state dict in it: a mapping from names to torch tensors."
        )
    padding, bn_eps = _stated_convention(exported)
    return Source(unwrap(state), meta if isinstance(meta, Mapping) else {}, padding, bn_eps, notes)


def innermost(content: Any) -> tuple[Any, tuple[str, ...]]:
    """What lies in the entries that checkpoints keep tensors in, and a note where there was a choice.

    Tensors beside an entry do not stop the search: training loops store counters and schedules as tensors.
    """
    notes: tuple[str, ...] = ()
    while isinstance(content, Mapping):
        found = [entry for entry in _STATE_DICT_ENTRIES if isinstance(content.get(entry), Mapping)]
        if not found:
            break
        if len(found) > 1:
            notes += (f"took {found[0]!r} of the checkpoint; it also holds {', '.join(map(repr, found[1:]))}",)
        content = content[found[0]]
    return content, notes


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
