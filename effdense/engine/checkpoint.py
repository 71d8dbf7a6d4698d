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
import re
import zipfile
from collections.abc import Callable, Mapping
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
_OURS = re.compile(r"(epoch|iter)_(\d+)\.pth")  # and nothing else: epoch_3_copy.pth is the user's
_FOLDER = 0x10  # bit of a zip entry's external attributes (APPNOTE 4.4.15, MS-DOS)


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
            # torch reads nothing for an entry that is marked so, and leaves its tensor to whatever was in memory.
            folders = [entry.filename for entry in archive.infolist() if entry.external_attr & _FOLDER]
    except Exception as error:  # zipfile raises a dozen kinds for bytes that make no sense
        return f"{type(error).__name__}: {error}"
    if folders:
        return f"{folders[0]} is marked as a folder"
    return None if part is None else f"the checksum of {part} is wrong"


def write_pointer(folder: Path, checkpoint: Path) -> None:
    """Make ``folder/last_checkpoint`` name ``checkpoint``, relative to the folder so that a moved run still resumes."""
    temporary = folder / f".{POINTER}.tmp.{os.getpid()}"
    temporary.write_text(os.path.relpath(checkpoint, folder))
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, folder / POINTER)
    _sync_folder(folder)


def numbered(folder: Path, kind: str) -> list[tuple[int, Path]]:
    """Number and path of each ``<kind>_N.pth`` in a folder, by number. kind: ``epoch`` or ``iter``."""
    named = [(_OURS.fullmatch(path.name), path) for path in folder.glob(f"{kind}_*.pth") if path.is_file()]
    return sorted((int(match[2]), path) for match, path in named if match is not None)


def written_checkpoints(folder: Path) -> list[Path]:
    """Files of a run that resuming could start from, latest first, readable or not."""
    written = [path for kind in ("epoch", "iter") for _, path in numbered(folder, kind)]
    return sorted(written, key=lambda p: p.stat().st_mtime, reverse=True)


def pointed_at(folder: Path) -> Path | None:
    """The file that ``last_checkpoint`` names; None where it names none that is there."""
    try:
        text = (folder / POINTER).read_text(errors="replace").strip()
        return folder / text if text and (folder / text).is_file() else None
    except (OSError, ValueError):  # no pointer, or bytes that are no name of a file: a machine's crash leaves anything
        return None


def find_last(folder: Path, *, since: float = 0.0, report: Callable[[str], Any] | None = None) -> Path | None:
    """The newest checkpoint that can be read: what the pointer names, else the latest ``epoch_N.pth`` or
    ``iter_N.pth``; None if there is none.

    Args:
        since: seconds since the epoch; files last written before are of an earlier run and left aside.
        report: is told of each file that was passed over because it cannot be read.
    """
    passed_over: list[Path] = []
    for candidate in [pointed_at(folder), *written_checkpoints(folder)]:
        if candidate is not None and candidate.stat().st_mtime >= since:
            try:
                load(candidate)
            except WeightsError as error:
                if report is not None and candidate not in passed_over:
                    report(f"passed over: {error}")
                passed_over.append(candidate)
                continue
            return candidate
    return None


def read_validations(folder: Path) -> dict[str, Any]:
    """What was so far after each validation, by epoch; empty where nothing (readable) is written down."""
    try:
        content = json.loads((folder / VALIDATIONS).read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in content.items() if k.isdigit()} if isinstance(content, dict) else {}


def note_validation(folder: Path, epoch: int, progress: Mapping[str, Any]) -> None:
    """Write down what is so far after the validation of an epoch, atomically."""
    content = {key: value for key, value in read_validations(folder).items() if int(key) < epoch}
    _write_validations(folder, {**content, str(epoch): plain(progress)})


def forget_validations(folder: Path, after: int) -> dict[str, Any]:
    """Leave out the validations of later epochs and return them: they are of a run that this one takes the place of,
    and its own epochs of the same numbers are not validated by them.
    """
    content = read_validations(folder)
    later = {key: value for key, value in content.items() if int(key) > after}
    if later:
        _write_validations(folder, {key: value for key, value in content.items() if key not in later})
    return later


def _write_validations(folder: Path, content: Mapping[str, Any]) -> None:
    temporary = folder / f".{VALIDATIONS}.tmp.{os.getpid()}"
    with open(temporary, "w") as file:
        json.dump(content, file)
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
