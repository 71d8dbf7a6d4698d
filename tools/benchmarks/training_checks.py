"""Checks of ``bench_training_gpu.py``: equal to the CPU, no waiting for the device, the batch of ``"auto"``."""

from __future__ import annotations

import copy
import gc
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import bench_detector
from training_parts import DTYPES, BareLoop, Finished, run_engine

import effdense

CLASSES = 90
# Of a float32 pass, relative: losses, and the difference of all gradients over their norm. Weights are random, and
# BatchNorm over few pixels at the coarsest level multiplies roundings, so gradients agree to three digits.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-2
SYNCHRONISING = (
    "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense",
    "aten::nonzero", "Memcpy DtoH",
)  # fmt: skip


def padded(mine: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, G, 4), labels (B, G) and valid (B, G) of images with equally many boxes."""
    boxes, labels = (torch.stack([one[key] for one in mine]) for key in ("boxes", "labels"))
    return boxes, labels, torch.ones_like(labels, dtype=torch.bool)


def synchronise(device: str) -> None:
    """Wait until the device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


def free() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def equal(options: Any, batch: int = 2) -> dict[str, Any]:
    """Losses and gradients of one batch on the device in float32, against float64 on the CPU."""
    torch.manual_seed(0)
    network = effdense.create_detector(f"efficientdet_{options.model}", CLASSES, drop_path_rate=0.0).train()
    images = torch.randn(batch, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    _, mine = bench_detector.targets(batch, options.size, CLASSES, torch.device("cpu"))
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = []
    for device, dtype in (("cpu", torch.float64), (options.device, torch.float32)):
        one = copy.deepcopy(network).to(device, dtype).to(memory_format=torch.channels_last)
        boxes, labels, valid = (value.to(device) for value in padded(mine))
        losses = one.padded_loss(images.to(device, dtype), boxes, labels, valid)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        gradients = torch.cat([p.grad.double().cpu().flatten() for p in one.parameters() if p.grad is not None])
        found.append(({name: value.item() for name, value in losses.items()}, gradients))
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    (right, right_gradients), (got, got_gradients) = found
    loss_difference = max(abs(got[name] - value) / abs(value) for name, value in right.items())
    difference = float((got_gradients - right_gradients).norm() / right_gradients.norm())
    return {
        "losses": {"cpu_float64": right, f"{options.device}_float32": got},
        "loss_difference": loss_difference,
        "gradient_difference": difference,
        "tolerances": [LOSS_TOLERANCE, GRADIENT_TOLERANCE],
        "passed": loss_difference <= LOSS_TOLERANCE and difference <= GRADIENT_TOLERANCE,
    }


def _in_fused_kernel(event: Any) -> bool:
    """Fused optimizers of the CPU read their own counters, from its memory; those of a GPU do not."""
    while event is not None:
        if event.name.startswith("aten::_fused_"):
            return True
        event = event.cpu_parent
    return False


def sync(options: Any, batch: int) -> dict[str, Any]:
    """What waits for the device in the engine's iterations between two logging intervals."""
    interval = 4 if options.quick else 10
    found: Counter[str] = Counter()
    state: dict[str, Any] = {"count": 0, "profiled": 0, "error": ""}
    activities = [torch.profiler.ProfilerActivity.CPU]
    if options.device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities)

    def begin(runner: Any) -> None:
        if options.device == "cpu":  # as on a GPU: a look every interval, answers stay on the device
            guard = next(hook for hook in runner.hooks if type(hook).__name__ == "GuardHook")
            start = guard.before_train

            def before_train(runner: Any) -> None:
                start(runner)
                guard.guard.may_read, guard._every = False, interval

            guard.before_train = before_train

    def after(runner: Any) -> None:
        state["count"] += 1
        count = state["count"]
        # Iteration 2 * interval has just been logged: the next interval - 1 are between intervals.
        if count == 2 * interval:
            synchronise(options.device)
            profiler.start()
        elif count == 3 * interval - 1:
            profiler.stop()  # waits for the device, outside what is counted
            state["profiled"] = interval - 1
            for event in profiler.events():
                name = next((name for name in SYNCHRONISING if event.name.startswith(name)), None)
                if name is not None and not (options.device == "cpu" and _in_fused_kernel(event)):
                    found[name] += 1
        elif count == 4 * interval and options.device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        elif count == 5 * interval - 1:
            if options.device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            raise Finished

    try:
        run_engine(
            begin, after, model=f"efficientdet_{options.model}", size=options.size, batch=batch, dtype=options.dtype,
            interval=interval, iterations=6 * interval,
        )  # fmt: skip
    except Exception as error:  # of the debug mode, as the engine tells it
        state["error"] = f"{type(error).__name__}: {error}"
    finally:
        if options.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    # Starting and stopping the profiler waits for the device: twice, whatever the number of iterations.
    per_iteration = {name: found[name] / max(1, state["profiled"]) for name in SYNCHRONISING}
    allowed = {"cudaDeviceSynchronize": 2}
    return {
        "iterations": state["profiled"],
        "events": dict(found),
        "per_iteration": per_iteration,
        "sync_debug_mode": "not on a CPU" if options.device == "cpu" else state["error"] or "passed",
        "passed": not state["error"] and state["profiled"] > 0
        and all(found[name] <= allowed.get(name, 0) for name in SYNCHRONISING),
    }  # fmt: skip


def auto(options: Any) -> dict[str, Any]:
    """What ``batch_size="auto"`` takes, and how far a plain loop gets."""
    chosen: dict[str, int] = {}
    most = 8 if options.quick else 512
    loops: list[BareLoop] = []

    def begin(runner: Any) -> None:
        chosen["auto"] = runner.train_dataloader.batch_size
        network, wrapper = runner.shell.network, runner.optim_wrapper
        loops.append(
            BareLoop(
                network, runner.shell.mean, runner.shell.std, wrapper.optimizer, dtype=DTYPES[options.dtype], interval=1
            )
        )
        raise Finished

    run_engine(
        begin, lambda runner: None, model=f"efficientdet_{options.model}", size=options.size, batch=most, distinct=1,
        dtype=options.dtype, more='train_dataloader["batch_size"] = "auto"\n',
    )  # fmt: skip

    def fits(batch: int) -> bool:
        free()
        _, mine = bench_detector.targets(batch, options.size, CLASSES, torch.device("cpu"))
        boxes, _, valid = padded(mine)
        inputs = torch.zeros(batch, 3, options.size, options.size, dtype=torch.uint8)
        try:
            for _ in range(2):
                labels = torch.zeros(valid.shape, dtype=torch.int64)
                loops[0].step({"inputs": inputs, "boxes": boxes, "labels": labels, "valid": valid})
        except torch.OutOfMemoryError:
            loops[0].optimizer.zero_grad(set_to_none=True)
            return False
        return True

    low, high = 1, most + 1  # fits, does not (or is not of interest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    share = chosen["auto"] / low
    return {"auto": chosen["auto"], "by_hand": low, "highest": most, "share": share, "passed": 0.7 <= share <= 1.0}
