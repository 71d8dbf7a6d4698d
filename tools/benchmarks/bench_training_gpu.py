"""Training on a GPU: images a second beside effdet, equal results to the CPU, and no waiting for the device.

    python tools/benchmarks/bench_training_gpu.py [--batch 32] [--dtype bfloat16] [--rounds 15] [--json out.json]
    python tools/benchmarks/bench_training_gpu.py --device cpu --size 64 --batch 2 --quick    # the same code, to try it

Needs one CUDA GPU (of a batch of 64 of D0 at 512 px autograd keeps 21 GiB in bfloat16) and effdet for the comparison.
Nothing new is begun after ``--minutes`` (6, so that it ends within about 8 while graphs compile); the JSON file is
written anew after each part. Exit code 2 where there is no GPU, 1 where a check or a contender fails or is left out.
Parts (``--parts``, default all):

- ``speed``: forward, loss, backward, gradient norm, fused AdamW of effdet's ``DetBenchTrain`` (NCHW as users run it,
  and channels_last) and of ours as the engine trains it (``DetectionModel``): eager, compiled and with CUDA graphs, the
  latter two by ``model.compile``. All steps go through ``EffOptimWrapper``; same pictures and boxes, already normalised
  and on the device; alternated, synchronised around each chunk of steps. Memory is the most that each makes torch
  reserve in a step, beside what the others hold. First and last loss of the warm-up are kept: ours start alike.
- ``equal``: losses and gradients of one batch in float32 without TF32, against float64 on the CPU.
- ``sync``: the whole engine with guard, moving average and logs: what waits for the device between logging
  intervals, by torch.profiler, and then with ``torch.cuda.set_sync_debug_mode("error")``.
- ``auto``: the batch that ``train_dataloader.batch_size="auto"`` takes, beside the largest that a plain loop can train.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import bench_detector
from training_checks import CLASSES, auto, equal, free, padded, sync, synchronise
from training_parts import command_of, machine, spread

from effdense.engine.models import DetectionModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.training_step import losses_of

PARTS = ("speed", "equal", "sync", "auto")
LATE = "no time was left for it; give it a run of its own, or more --minutes"


class Contender:
    """A network, its optimizer, and one training step on a fixed batch.

    Args: loss: of no arguments.
    """

    def __init__(self, network: nn.Module, loss: Callable[[], Tensor], options: Any) -> None:
        self.network, self.loss = network, loss
        self.wrapper = EffOptimWrapper(
            torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True),
            dtype=None if options.dtype == "float32" else options.dtype,
            clip_grad={"max_norm": 10.0},
        )
        self.wrapper.device = options.device  # which may be the CPU of a machine with a GPU

    def step(self) -> Tensor:
        """Forward, loss, backward, gradient norm, optimizer; the loss, on the device."""
        with self.wrapper.optim_context(self.network):
            loss = self.loss()
        self.wrapper.update_params(loss)
        return loss.detach()


def contenders(options: Any, batch: int) -> dict[str, Callable[[], Contender]]:
    """Builders, so that one can be measured by itself. Ours start from the same weights, as do effdet's."""
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, options.size, options.size, generator=generator).to(device)
    last = images.contiguous(memory_format=torch.channels_last)
    theirs, mine = bench_detector.targets(batch, options.size, CLASSES, device)
    boxes, labels, valid = padded(mine)
    inputs = {"inputs": last, "boxes": boxes, "labels": labels, "valid": valid}

    def effdet(memory_format: torch.memory_format) -> Contender:
        bench, _, network, _ = bench_detector.build(options.model, options.size, CLASSES, device)
        network.to(memory_format=memory_format)
        pictures = images if memory_format is torch.contiguous_format else last
        return Contender(bench.train(), lambda: bench(pictures, theirs)["loss"], options)

    def ours(compile: Any = None) -> Contender:
        torch.manual_seed(0)
        name = f"efficientdet_{options.model}"
        shell = DetectionModel(name, CLASSES, image_size=options.size, drop_path_rate=0.0, compile=compile)
        shell = shell.to(device).train()
        return Contender(shell, lambda: losses_of(shell, shell, inputs)[0], options)

    found: dict[str, Callable[[], Contender]] = {"effdense eager": ours}
    if not options.quick or options.compile:
        found["effdense compiled"] = lambda: ours(True)
        if device.type == "cuda":
            found["effdense graphs"] = lambda: ours({"mode": "reduce-overhead"})
    if effdet_version() is None:
        print("effdet is not installed (pip install effdet): ours alone.")
        return found
    return {
        "effdet": lambda: effdet(torch.contiguous_format),
        "effdet channels_last": lambda: effdet(torch.channels_last),
        **found,
    }


def effdet_version() -> str | None:
    """The version of effdet, None where it is not installed."""
    try:
        return importlib.metadata.version("effdet")
    except importlib.metadata.PackageNotFoundError:
        return None


def said(error: Exception) -> str:
    """The first line of an error, without what it holds."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def warmed_up(build: Callable[[], Contender], options: Any, row: dict[str, Any]) -> Contender:
    """A contender after its first steps; what they took, and the memory of one more, go into ``row``."""
    free()
    on_gpu = options.device == "cuda"
    before = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) if on_gpu else (0, 0)
    start = time.perf_counter()
    one = build()
    first = last = one.step()
    for _ in range(options.warm_up):
        last = one.step()
    synchronise(options.device)
    row["warm_up_s"] = time.perf_counter() - start
    row["losses"] = [first.item(), last.item()]
    if on_gpu:
        # Reserved, from an empty cache: the pools of CUDA graphs are in it, trials of cuDNN and the compiler are not.
        free()
        for _ in range(2):
            one.step()
        synchronise(options.device)
        row["peak_bytes"] = torch.cuda.max_memory_reserved() - before[1]
        row["peak_allocated_bytes"] = torch.cuda.max_memory_allocated() - before[0]
        free()
    return one


def timed(one: Contender, options: Any) -> float:
    """Seconds of a step, over a chunk of them."""
    synchronise(options.device)
    start = time.perf_counter()
    for _ in range(options.chunk):
        one.step()
    synchronise(options.device)
    return (time.perf_counter() - start) / options.chunk


def speed(options: Any, batch: int, deadline: float) -> dict[str, Any]:
    """Milliseconds a step, images a second and peak memory of each contender; of one that fails, its error."""
    torch._dynamo.reset()
    builders = contenders(options, batch)
    rows: dict[str, dict[str, Any]] = {name: {} for name in builders}
    made: dict[str, Contender] = {}
    for name, build in builders.items():
        if time.monotonic() > deadline:
            rows[name]["error"] = LATE
            continue
        try:
            made[name] = warmed_up(build, options, rows[name])
        except Exception as error:  # the others are still worth measuring
            rows[name]["error"] = said(error)
        if name in made:
            print(f"batch {batch}: {name} is ready after {rows[name]['warm_up_s']:.0f} s", flush=True)
    free()
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for number in range(options.rounds):
        names = list(made)
        if not names or (number >= 2 and time.monotonic() > deadline):
            break
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            try:
                seconds[name].append(timed(made[name], options))
            except Exception as error:
                rows[name]["error"] = said(error)
                del made[name], seconds[name]
    for name, values in seconds.items():
        reference = next(iter(seconds))
        rows[name]["step_ms"] = spread(values)
        rows[name]["images_per_second"] = spread([batch / value for value in values], 1.0)
        rows[name]["against"] = reference
        rows[name]["ratio"] = spread([f / v for f, v in zip(seconds[reference], values, strict=True)], 1.0)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", default="d0")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunk", type=int, default=10, help="steps of each in a round")
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=6.0, help="after which nothing new is begun")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="2 rounds of a step, nothing compiled: tries the script")
    parser.add_argument("--compile", action="store_true", help="compile with --quick, too")
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "bench_training_gpu.py needs one CUDA GPU that torch can see (torch.cuda.is_available() is False); "
            "--device cpu --size 64 --batch 2 --quick tries the script without one.",
            file=sys.stderr,
        )
        return 2
    if options.quick:
        options.rounds, options.chunk, options.warm_up = 2, 1, 1
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.backends.cudnn.benchmark = True
    deadline = time.monotonic() + 60 * options.minutes
    results: dict[str, Any] = {
        "machine": machine(torch.device(options.device)),
        "effdet": effdet_version(),
        "command": command_of(sys.argv[1:] if arguments is None else arguments),
    }
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "equal": partial(equal, options),
        "sync": partial(sync, options, min(options.batch)),
        "auto": partial(auto, options),
    }
    for part in (one for one in PARTS if one in options.parts):
        if part == "speed":
            results[part] = {}
            for batch in options.batch:
                results[part][str(batch)] = attempted(partial(speed, options, batch, deadline), deadline)
                write(results, options.json)
        else:
            results[part] = attempted(work[part], deadline)
        write(results, options.json)
    report(results)
    measured = [row for rows in results.get("speed", {}).values() for row in rows.values()]
    passed = all(results[part].get("passed") for part in work if part in results)
    return 0 if passed and not any(isinstance(row, str) or "error" in row for row in measured) else 1


def attempted(work: Callable[[], dict[str, Any]], deadline: float) -> dict[str, Any]:
    """What a part found, or why there is nothing."""
    if time.monotonic() > deadline:
        return {"error": LATE}
    try:
        return work()
    except Exception as error:  # what the other parts find is to be kept
        return {"error": said(error)}
    finally:
        free()


def write(results: dict[str, Any], path: str | None) -> None:
    """The JSON file, as far as it goes."""
    if path:
        Path(path).write_text(json.dumps(results, indent=1))


def report(results: dict[str, Any]) -> None:
    """What a person wants to see of it."""
    for batch, rows in results.get("speed", {}).items():
        for name, row in rows.items():
            if name == "error" or "error" in row:
                print(f"batch {batch:>3}  {name:22} {row if name == 'error' else row['error']}")
                continue
            rate, peak = row["images_per_second"], row.get("peak_bytes")
            memory = "" if peak is None else f"  {peak / 2**30:.2f} GiB"
            print(
                f"batch {batch:>3}  {name:22} {rate['median']:8.1f} images/s ({rate['min']:.1f} to {rate['max']:.1f})  "
                f"x{row['ratio']['median']:.2f}{memory}"
            )
    for part in ("equal", "sync", "auto"):
        if part in results:
            passed = "passed" if results[part].get("passed") else "FAILED"
            print(f"{part}: {passed}: " + json.dumps({k: v for k, v in results[part].items() if k != "passed"}))


if __name__ == "__main__":
    sys.exit(main())
