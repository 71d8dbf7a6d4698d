"""What the training benchmarks share: a real run of the engine on generated pictures, and the bare loop beside it."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import platform
import shlex
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdense.data.generated.shapes import write_shapes
from effdense.engine.hooks.ema import Hook
from effdense.engine.registry import HOOKS
from effdense.engine.run import train

CONFIGS = Path(__file__).parents[2] / "configs" / "_base_"
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCHEDULES = {"AdamW": "adamw_short.py", "SGD": "effdet_300e.py"}

CONFIG = """
_base_ = [{runtime!r}, {schedule!r}]
image_size = {size}
model = dict(type="DetectionModel", name={model!r}, **{model_options!r})
train_dataloader = dict(batch_size={batch}, num_workers=0, dataset=dict(
    type="CocoDetection", root="shapes", ann_file="annotations/instances_train.json", image_dir="train",
    transforms=[dict(type="ScaleJitterCrop", scale=(0.8, 1.25)), dict(type="HorizontalFlip", prob=0.5)]))
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(
    type="CocoDetection", root="shapes", ann_file="annotations/instances_val.json", image_dir="val",
    transforms=[dict(type="ResizePad")]))
val_evaluator = dict(type="CocoMetric")
train_cfg = dict(max_epochs=1, val_interval=1)
optim_wrapper = dict(dtype={dtype!r})
default_hooks = dict(pictures=None, {hooks})
custom_hooks = [dict(type="BenchmarkHook")]
"""


class Finished(BaseException):
    """Ends a run once everything is measured; not an Exception, so that nothing on the way handles it."""


class HeldBatches:
    """Batches of the run's own loader, held in memory and given again and again.

    Args: loader: of the run. distinct: batches to hold. length: iterations of an epoch.
    """

    def __init__(self, loader: Any, distinct: int, length: int) -> None:
        self._loader, self._length = loader, length
        self.held = [batch for batch, _ in zip(loader, range(distinct), strict=False)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return (self.held[i % len(self.held)] for i in range(self._length))


@HOOKS.register_module(force=True)
class BenchmarkHook(Hook):
    """Hands the run to a benchmark: ``begin(runner)`` before it starts, ``after(runner)`` after each iteration."""

    priority = "LOWEST"
    begin: Callable[[Any], None]
    after: Callable[[Any], None]
    distinct, length = 2, 1000

    def before_run(self, runner: Any) -> None:
        loop = runner.train_loop
        loop.dataloader = HeldBatches(loop.dataloader, self.distinct, self.length)
        loop._max_iters = loop._max_epochs * len(loop.dataloader)
        type(self).begin(runner)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        type(self).after(runner)


def run_engine(
    begin: Callable[[Any], None],
    after: Callable[[Any], None],
    *,
    model: str = "efficientdet_d0",
    size: int = 512,
    batch: int = 8,
    dtype: str = "float32",
    optimizer: str = "AdamW",
    interval: int = 50,
    iterations: int = 1000,
    distinct: int = 2,
    model_options: Mapping[str, Any] | None = None,
    more: str = "",
) -> str:
    """``effdense train`` on a config with the shipped hooks (all but pictures), until ``after`` raises ``Finished``.

    Args:
        iterations: length of the epoch, more than will be run. distinct: batches that are held in memory.
        more: Python appended to the config.

    Returns: what the run wrote to the console.
    """
    BenchmarkHook.begin, BenchmarkHook.after = staticmethod(begin), staticmethod(after)  # type: ignore[assignment]
    BenchmarkHook.distinct, BenchmarkHook.length = distinct, iterations
    hooks = f"runtime_info=dict(interval={interval}), logger=dict(interval={interval}), guard=dict(interval={interval})"
    said = io.StringIO()
    before = os.environ.get("EFFDENSE_DATA")
    with tempfile.TemporaryDirectory() as folder:
        write_shapes(Path(folder, "shapes"), splits={"train": batch * distinct, "val": 1}, image_size=(64, 96))
        path = Path(folder, "benchmark.py")
        path.write_text(
            CONFIG.format(
                runtime=str(CONFIGS / "default_runtime.py"),
                schedule=str(CONFIGS / "schedules" / SCHEDULES[optimizer]),
                size=size,
                model=model,
                model_options=dict(model_options or {}),
                batch=batch,
                dtype=None if dtype == "float32" else dtype,
                hooks=hooks,
            )
            + more
        )
        os.environ["EFFDENSE_DATA"] = folder
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(Finished):
                train(path, work_dir=str(Path(folder, "run")))
        finally:
            os.environ.pop("EFFDENSE_DATA")
            if before is not None:
                os.environ["EFFDENSE_DATA"] = before
    return said.getvalue()


class BareLoop:
    """A training loop as one writes it by hand, with what is needed and nothing else.

    Per step: to the device, normalise, losses (under autocast), backward, gradient norm clipped, optimizer step,
    gradients dropped, learning rate of a cosine, moving average of weights and statistics in one fused call on lists
    made once; the loss is read every ``interval`` steps. What the engine does beyond it: watches for what is not finite
    (weights, statistics, random streams, batches kept for replay), logs every value, times, takes signals, and saves.

    Args:
        network: a detector; it is copied. mean, std: per channel, of pictures in 0..1.
        optimizer: whose class, groups and options are copied.
        clip: largest gradient norm.
    """

    def __init__(
        self,
        network: Any,
        mean: Sequence[float],
        std: Sequence[float],
        optimizer: torch.optim.Optimizer,
        *,
        clip: float = 10.0,
        decay: float = 0.9998,
        dtype: torch.dtype | None = None,
        interval: int = 50,
    ) -> None:
        self.network = copy.deepcopy(network).train()
        self.device = next(network.parameters()).device
        twin = dict(zip(network.parameters(), self.network.parameters(), strict=True))
        groups = [{**group, "params": [twin[p] for p in group["params"]]} for group in optimizer.param_groups]
        self.optimizer = type(optimizer)(groups)  # groups carry every option
        self.parameters = [p for group in groups for p in group["params"]]
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / 100_000)))
        )
        self.mean, self.std = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1) * 255 for values in (mean, std)
        )
        self.clip, self.decay, self.dtype, self.interval, self.steps = clip, decay, dtype, interval, 0
        average = copy.deepcopy(self.network).requires_grad_(False)
        self._average, self._states = _floats(average), _floats(self.network)
        self.last_loss = math.nan

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Forward pass of a collated batch."""
        moved = {k: batch[k].to(self.device, non_blocking=True) for k in ("inputs", "boxes", "labels", "valid")}
        inputs = moved.pop("inputs").float().contiguous(memory_format=torch.channels_last)
        inputs = (inputs - self.mean) / self.std
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            return dict(self.network.padded_loss(inputs, **moved))

    def step(self, batch: Mapping[str, Any]) -> None:
        """One training step."""
        loss = torch.stack(list(self.losses(batch).values())).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._states, 1.0 - self.decay)
        self.steps += 1
        if self.steps % self.interval == 0:
            self.last_loss = loss.item()


def _floats(network: nn.Module) -> list[Tensor]:
    return [value for value in network.state_dict().values() if value.is_floating_point()]


def spread(values: Sequence[float], scale: float = 1e3) -> dict[str, float]:
    """Median, least and largest, in ms where the values are seconds."""
    return {
        "median": scale * statistics.median(values),
        "min": scale * min(values),
        "max": scale * max(values),
    }


def command_of(arguments: Sequence[str]) -> str:
    """Options of a benchmark but for ``--json PATH``, which says where, not what."""
    kept = [a for i, a in enumerate(arguments) if a != "--json" and (i == 0 or arguments[i - 1] != "--json")]
    return shlex.join(kept)


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure was measured on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    described: dict[str, Any] = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        described |= {
            "gpu": torch.cuda.get_device_name(device),
            "gpu_memory_bytes": torch.cuda.get_device_properties(device).total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return described
