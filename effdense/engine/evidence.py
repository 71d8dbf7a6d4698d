"""The file that a run leaves when a loss or gradient was not finite, and running its batch again.

``non_finite/iter_N.pth`` holds tensors and plain data only: the batch with the paths of its pictures, random streams as
they were before it, losses by name, the weights, and what builds the model again.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effdense.engine import checkpoint as files
from effdense.engine.distributed import rank_and_world
from effdense.engine.models.parts import over_parts, parts_of
from effdense.errors import WeightsError
from effdense.models.weights.load import read_checkpoint

FORMAT = "effdense-evidence/1"
# What a replay reads of a file.
_READ = (
    "meta", "model", "iteration", "epoch", "batch_idx", "seed", "rank", "values", "loss_scale", "dtype", "parts",
    "batch", "random", "settings", "evaluating", "mixer", "state_dict",
)  # fmt: skip
# What schedules change of a module between epochs: dropout, stochastic depth.
_STRENGTHS = ("p", "rate")


@dataclass
class Iteration:
    """One iteration as the guard remembers it; numbers may still be on the device."""

    number: int  # counted from 1 over all epochs
    epoch: int  # counted from 0, as the batch's place in it
    batch_idx: int
    random: dict[str, Any]
    batch: dict[str, Any] | None
    parts: int = 1
    scale: Tensor | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)
    norm: Tensor | None = None
    ends_step: bool = True


def random_streams() -> dict[str, Any]:
    """What ``checkpoint.set_rng_state`` takes, once made plain; some microseconds."""
    streams: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    streams["numpy"] = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is what others draw from
    if torch.cuda.is_available():
        streams["cuda"] = torch.cuda.get_rng_state()
    return streams


def non_finite_rows(batch: Mapping[str, Any]) -> list[str]:
    """``"boxes of PATH"`` for every picture whose targets or inputs are not finite."""
    paths = batch.get("paths") or []
    found = []
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == (len(paths),):
            rows = (~torch.isfinite(value.reshape(len(value), -1))).any(1)
            found += [f"{name} of {path}" for path, bad in zip(paths, rows.tolist(), strict=True) if bad]
    return found


def write_evidence(runner: Any, seen: Iteration, batch: Mapping[str, Any], values: Mapping[str, float]) -> Path:
    """Write ``non_finite/iter_N.pth`` of this process; returns the file."""
    shell, rank = runner.shell, rank_and_world()[0]
    network = shell.network
    settings = {
        name: {key: float(getattr(module, key)) for key in _STRENGTHS if isinstance(getattr(module, key, None), float)}
        for name, module in network.named_modules()
    }
    model = {key: value for key, value in dict(runner.cfg.model).items() if key not in ("weights", "encoder_weights")}
    content = {
        "format": FORMAT,
        "meta": runner.metadata,
        "model": {"image_size": list(shell.image_size), **model},
        "iteration": seen.number,
        "epoch": seen.epoch,
        "batch_idx": seen.batch_idx,
        "seed": runner.seed,
        "rank": rank,
        "values": dict(values),
        "loss_scale": None if seen.scale is None else float(seen.scale),
        "dtype": None if runner.optim_wrapper.dtype is None else str(runner.optim_wrapper.dtype).removeprefix("torch."),
        "parts": seen.parts,
        "batch": dict(batch),
        "random": seen.random,
        "settings": {name: value for name, value in settings.items() if value},
        "evaluating": [name for name, module in network.named_modules() if not module.training],
        "mixer": {k: float(getattr(shell.mixer, k)) for k in ("mixup", "cutmix")} if hasattr(shell, "mixer") else {},
        "state_dict": network.state_dict(),
    }
    folder = Path(runner.work_dir) / "non_finite"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"iter_{seen.number}{f'_rank{rank}' if rank else ''}.pth"
    files.save_atomically(files.plain(content), path)
    return path


def read_evidence(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read such a file; WeightsError for any other."""
    files.require(path, "FILE")
    content = read_checkpoint(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise WeightsError(
            f"{path} was not written by GuardHook (expected format {FORMAT!r}); it writes non_finite/iter_N.pth."
        )
    missing = [name for name in _READ if name not in content]
    if missing:
        raise WeightsError(f"{path} is incomplete: it has no {', '.join(missing)}. Take the file as the run wrote it.")
    return content


@dataclass
class Replay:
    """What running the batch again gave."""

    losses: dict[str, float]
    ranges: dict[str, tuple[float, float, int]]  # smallest and largest finite value, and how many are not finite
    first_module: str | None
    gradients: list[str]  # parameters whose gradient is not finite
    bad_weights: list[str]  # tensors of the weights that are not finite before anything runs

    @property
    def reproduced(self) -> bool:
        """Whether a loss or gradient was not finite again."""
        return bool(self.gradients) or not all(math.isfinite(value) for value in self.losses.values())


def value_range(values: Tensor) -> tuple[float, float, int]:
    """Smallest and largest finite value, and how many are not finite."""
    flat = values.detach().float().flatten()
    finite = flat[torch.isfinite(flat)]
    if len(finite) == 0:
        return math.nan, math.nan, len(flat)
    return float(finite.min()), float(finite.max()), len(flat) - len(finite)


@contextmanager
def _watched(network: nn.Module, found: list[str]) -> Iterator[None]:
    """Names of modules whose output is not finite, in the order in which they end."""

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs = output if isinstance(output, (list, tuple)) else (output,)
            tensors = [one for one in outputs if isinstance(one, Tensor) and one.is_floating_point()]
            if not all(bool(torch.isfinite(one).all()) for one in tensors):
                found.append(f"{name or 'the network'} ({type(module).__name__})")

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in network.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def replay(content: Mapping[str, Any], shell: Any, device: str) -> Replay:
    """Run the batch of an evidence file again, forward and backward.

    Args:
        shell: the model as it was built for training, without weights.
    """
    network = shell.network
    network.load_state_dict(content["state_dict"])
    shell.data_preprocessor.set_statistics(content["meta"]["mean"], content["meta"]["std"])
    shell.to(device).train()
    for name, module in network.named_modules():
        for key, value in content["settings"].get(name, {}).items():
            setattr(module, key, value)
        module.training = name not in set(content["evaluating"])
    for key, value in content["mixer"].items():
        setattr(shell.mixer, key, value)
    if shell.data_preprocessor.multi_scale is not None:
        chooser = shell.data_preprocessor.multi_scale
        chooser.seed, chooser.iteration = int(content["seed"]) - int(content["rank"]), content["iteration"] - 1
    batch = content["batch"]
    ranges = {k: value_range(v) for k, v in batch.items() if isinstance(v, Tensor) and v.numel() and v.dim() > 1}
    bad_weights = [k for k, v in content["state_dict"].items() if v.is_floating_point() and value_range(v)[2]]
    found: list[str] = []
    files.set_rng_state(content["random"])
    dtype = None if content["dtype"] is None else getattr(torch, content["dtype"])

    def backward(number: int, loss: Tensor, count: Tensor | None) -> None:
        (loss * (content["loss_scale"] or 1.0)).backward()

    with _watched(network, found):
        named = over_parts(
            shell,
            parts_of(batch, content["parts"]),
            lambda: torch.autocast(device.split(":")[0], dtype=dtype or torch.bfloat16, enabled=dtype is not None),
            backward,
        )
    losses = {name: float(value) for name, value in named.items()}
    gradients = [n for n, p in network.named_parameters() if p.grad is not None and value_range(p.grad)[2]]
    return Replay(losses, ranges, found[0] if found else None, gradients, bad_weights)
