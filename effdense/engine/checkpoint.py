"""Checkpoint files: our own versioned plain dict, written atomically, readable with ``weights_only=True`` and without
mmengine.

Layout (``format`` "effdense/1"):
    state_dict: the weights that were validated (the moving average where there is one), in the network's own names
    train_state_dict: the weights being optimised, where they differ from the above
    meta: JSON-plain: model and its arguments, classes, category ids, mean/std, image size, epoch, iter, metrics,
        versions
    progress: best score so far and its epoch
    optimizer, param_schedulers, rng (of each process), history (logged scalars): what resuming needs; not in best.pth
    local_buffers: BatchNorm statistics of each process, in files written inside an epoch by several
Beside it lies ``validations.json``: best score and early stopping as they were after each validation.
"""

from __future__ import annotations

import json
import os
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdense.errors import RunError, WeightsError
from effdense.models.weights.load import read_checkpoint

FORMAT = "effdense/1"
POINTER = "last_checkpoint"
VALIDATIONS = "validations.json"


def plain(value: Any) -> Any:
    """``value`` with nothing but tensors and builtin containers and scalars, so that ``weights_only=True`` reads it
    back.

    Raises: TypeError naming the type that has no plain form.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        # torch cannot hold every unsigned type; 64 signed bits hold uint32 RNG keys.
        return torch.from_numpy(
            value.astype(np.int64) if value.dtype.kind == "u" and value.dtype != np.uint8 else value
        )
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [plain(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, bool) or value is None:
        return value
    for kind in (str, int, float):  # subclasses (torch's version string) become the builtin
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, os.PathLike):
        return str(value)
    raise TypeError(f"a checkpoint holds tensors and plain data only, not {type(value).__name__}")


def rng_state() -> dict[str, Any]:
    """State of the Python, NumPy and torch generators of this process."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(legacy=False), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return plain(state)


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Inverse of ``rng_state``."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = {**state["numpy"], "state": dict(state["numpy"]["state"])}
    numpy_state["state"]["key"] = numpy_state["state"]["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def save_atomically(content: Any, path: Path) -> None:
    """Write beside, flush to disk, read back, rename: at any moment ``path`` is the old file or the whole new one.

    Raises: RunError when the file cannot be written (a full disk, a folder that is gone) or does not read back.
    """
    temporary = path.with_name(f".{path.name}.tmp.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        damaged = damaged_part(temporary)
        if damaged is not None:
            raise RunError(f"{path} was written but does not read back ({damaged}): the disk may be failing.")
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch's writer says a full disk as a RuntimeError of its own, with the OSError only in its text.
        torchs = isinstance(error, RuntimeError) and not isinstance(error, RunError) and "write" in str(error).lower()
        if isinstance(error, OSError) or torchs:
            raise RunError(f"{path} could not be written ({_reason(error, path.parent)}). {_WHAT_IS_LEFT}") from error
        raise
    _sync_folder(path.parent)


_WHAT_IS_LEFT = "The checkpoints before it are whole: free some space and go on with --resume."


def _reason(error: BaseException, folder: Path) -> str:
    """What went wrong, and how much room is left."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    try:
        usage = os.statvfs(folder)
    except (OSError, AttributeError):
        return text
    return f"{text}; {usage.f_bavail * usage.f_frsize / 2**20:.0f} MiB free in {folder}"


def damaged_part(path: Path) -> str | None:
    """What of a checkpoint file does not fit its checksums (CRC-32 of each tensor's bytes); None where all does."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except Exception as error:  # zipfile raises a dozen kinds for bytes that make no sense
        return f"{type(error).__name__}: {error}"
    return None if part is None else f"the checksum of {part} is wrong"


def write_pointer(folder: Path, checkpoint: Path) -> None:
    """Make ``folder/last_checkpoint`` name ``checkpoint``, relative to the folder so that a moved run still resumes."""
    temporary = folder / f".{POINTER}.tmp.{os.getpid()}"
    temporary.write_text(os.path.relpath(checkpoint, folder))
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, folder / POINTER)
    _sync_folder(folder)


def written_checkpoints(folder: Path) -> list[Path]:
    """Files of a run that resuming could start from, latest first, readable or not."""
    written = [*folder.glob("epoch_*.pth"), *folder.glob("iter_*.pth")]
    return sorted(written, key=lambda p: p.stat().st_mtime, reverse=True)


def find_last(folder: Path, *, since: float = 0.0) -> Path | None:
    """The newest checkpoint that can be read: what the pointer names, else the latest ``epoch_N.pth`` or
    ``iter_N.pth``; None if there is none.

    Args:
        since: seconds since the epoch; files last written before are of an earlier run and left aside.
    """
    candidates: list[Path] = []
    pointer = folder / POINTER
    if pointer.is_file():
        text = pointer.read_text().strip()
        if text:
            candidates.append(folder / text)
    for candidate in [*candidates, *written_checkpoints(folder)]:
        if candidate.is_file() and candidate.stat().st_mtime >= since:
            try:
                load(candidate)
            except WeightsError:
                continue
            return candidate
    return None


def read_validations(folder: Path) -> dict[str, Any]:
    """What was so far after each validation, by epoch; empty where nothing (readable) is written down."""
    try:
        content = json.loads((folder / VALIDATIONS).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def note_validation(folder: Path, epoch: int, progress: Mapping[str, Any]) -> None:
    """Write down what is so far after the validation of an epoch, atomically."""
    content = {key: value for key, value in read_validations(folder).items() if int(key) < epoch}
    temporary = folder / f".{VALIDATIONS}.tmp.{os.getpid()}"
    with open(temporary, "w") as file:
        json.dump({**content, str(epoch): plain(progress)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / VALIDATIONS)
    _sync_folder(folder)


def require(path: str | os.PathLike[str], asked_by: str) -> None:
    """Raise WeightsError if there is no file: a typing slip is found before any data are read."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(f"{asked_by}: no weight file at {file.absolute()}; a run's checkpoints lie in its work dir.")


def remove_stale(folder: Path) -> None:
    """Delete what a killed save left behind."""
    for file in folder.glob(".*.tmp.*"):
        file.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU.

    Raises: WeightsError when the file is missing, damaged, holds code, or is no effdense checkpoint.
    """
    content = read_checkpoint(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise WeightsError(
            f"{path} is no effdense checkpoint (format {found!r}, expected {FORMAT!r}). Plain weights can start a "
            f"run as --cfg-options load_from=PATH."
        )
    damaged = damaged_part(Path(path))  # torch does not look at the checksums
    if damaged is not None:
        raise WeightsError(f"{path} is damaged ({damaged}); go on from the checkpoint before it.")
    return content


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
