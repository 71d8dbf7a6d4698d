"""What the engine costs beside a bare PyTorch loop: same detector, batches, optimizer and moving average, in one run.

    python tools/benchmarks/bench_engine.py [--model efficientdet_d0] [--size 512] [--batch 8] [--rounds 5] [--chunk 1]
                                            [--hollow] [--dtype bfloat16] [--growth 100000] [--json out.json]

The engine's side is ``effdense train`` on a config with the shipped hooks (all but pictures): guard, moving average,
timer, console, ``metrics.jsonl``, scalars, schedule, checkpoint. A hook at the very end of an iteration runs
``--chunk`` steps of the bare loop (``BareLoop`` in ``training_parts.py``) on the same batches, held in memory, after
every ``--chunk`` of the engine's; a round is one chunk of each, after one that is not counted. Printed are the medians
with their spread, and those of the differences round by round. On the CPU the clock is CPU time of the process, else
wall time after synchronising.

2 % of a large step is far more than a step may cost on a GPU. ``--hollow`` makes the figure that counts resolvable:
every weight and statistic keeps one element and the loss is their sum, so what is left is the work per iteration and
per tensor (of D0's 460 weights and 216 statistics). ``--hook-iterations N`` then times each hook by itself.
``--growth N`` runs N iterations of the whole engine around a step that does nothing and compares early ones with the
last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_parts import DTYPES, BareLoop, Finished, command_of, machine, run_engine, spread

HOOK_ITERATIONS = 200


def clock_of(device: torch.device) -> Callable[[], float]:
    """CPU time, or wall time once the device is done."""
    if device.type == "cpu":
        return time.process_time

    def after_device() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return after_device


def hollow(network: Any) -> None:
    """Keep one element of each tensor, and make the loss their sum."""
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.flatten()[:1].clone()
    type(network).padded_loss = _sum_of_weights


def _sum_of_weights(self: Any, *_: Any, with_positives: bool = False, **__: Any) -> dict[str, torch.Tensor]:
    total = torch.cat(list(self.parameters())).sum()
    losses = {"loss_cls": total * 1e-3, "loss_box": total * 1e-4}
    return {**losses, "positives": torch.ones((), device=total.device)} if with_positives else losses


class Alternation:
    """Chunks of the engine and of the bare loop in turn, then the engine's hooks one by one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.seconds: dict[str, list[float]] = {"engine": [], "bare": []}
        self.hooks: dict[str, list[float]] = defaultdict(list)
        self.count = 0

    def begin(self, runner: Any) -> None:
        network = runner.shell.network
        if self.options.hollow:
            hollow(network)
        self.bare = BareLoop(
            network, runner.shell.mean, runner.shell.std, runner.optim_wrapper.optimizer,
            dtype=DTYPES[self.options.dtype], interval=self.options.interval,
        )  # fmt: skip
        self.batches = runner.train_loop.dataloader.held
        self.now = clock_of(self.bare.device)
        self.start = 0.0

    def after(self, runner: Any) -> None:
        """One chunk of the engine ends here every ``chunk`` iterations."""
        self.count += 1
        chunk, rounds = self.options.chunk, self.options.rounds
        if self.count % chunk:
            return
        end = self.now()
        done = self.count // chunk
        if done > 1 + rounds:
            if self.count >= (1 + rounds) * chunk + self.options.hook_iterations:
                raise Finished
            return
        before_bare = self.now()
        for i in range(self.count - chunk, self.count):
            self.bare.step(self.batches[i % len(self.batches)])
        after_bare = self.now()
        if done > 1:  # the first round warms both up
            self.seconds["engine"].append((end - self.start) / chunk)
            self.seconds["bare"].append((after_bare - before_bare) / chunk)
        if done == 1 + rounds:
            if not self.options.hook_iterations:
                raise Finished
            self._time_hooks(runner)
        self.start = self.now()

    def _time_hooks(self, runner: Any) -> None:
        """From here on each hook is timed at each point of an iteration: time of the host's thread."""
        seconds, now = self.hooks, time.thread_time

        def call_hook(name: str, **kwargs: Any) -> None:
            for hook in runner._hooks:
                method = getattr(hook, name, None)
                if method is None:
                    continue
                start = now()
                try:
                    method(runner, **kwargs)
                finally:
                    seconds[f"{type(hook).__name__}.{name}"].append(now() - start)

        runner.call_hook = call_hook

    def results(self) -> dict[str, Any]:
        engine, bare = self.seconds["engine"], self.seconds["bare"]
        difference = [a - b for a, b in zip(engine, bare, strict=True)]
        found = {
            "engine_ms": spread(engine),
            "bare_ms": spread(bare),
            "difference_ms": spread(difference),
            "difference_percent": spread([d / b for d, b in zip(difference, bare, strict=True)], 100),
        }
        if self.hooks:
            # Medians leave out logging iterations, means do not: an interval's work is spread over its iterations.
            named = {
                name: {"median_ms": 1e3 * statistics.median(v), "mean_ms": 1e3 * statistics.fmean(v)}
                for name, v in self.hooks.items()
                if not name.startswith("BenchmarkHook") and name.endswith("train_iter")
            }
            found["hooks"] = dict(sorted(named.items(), key=lambda item: -item[1]["mean_ms"]))
            for kind in ("median_ms", "mean_ms"):
                found[f"hooks_{kind}"] = sum(row[kind] for row in named.values())
        return found


def growth(options: argparse.Namespace) -> dict[str, Any]:
    """ms per iteration of the whole engine around a step of nothing, early and late in a long run."""
    part = max(1, min(5000, options.growth // 4))
    times: list[float] = []
    held: dict[str, int] = {}

    def begin(runner: Any) -> None:
        values = {name: torch.tensor(float(i + 1)) for i, name in enumerate(("loss", "loss_cls", "loss_box"))}

        def train_step(data: Any, optim_wrapper: Any) -> dict[str, torch.Tensor]:
            optim_wrapper._inner_count += 1
            optim_wrapper.last_grad_norm = torch.tensor(1.0)
            return dict(values)

        runner.shell.train_step = train_step

    def after(runner: Any) -> None:
        times.append(time.process_time())
        if len(times) > options.growth:
            held["history"] = max(len(h.data[0]) for h in runner.message_hub.log_scalars.values())
            raise Finished

    run_engine(
        begin, after, size=64, batch=1, distinct=1, interval=options.interval, iterations=options.growth + 10,
        model="efficientdet_lite0", model_options={"fpn_cells": 1, "head_repeats": 1, "max_level": 6},
    )  # fmt: skip
    skip = part  # histories fill up to their limit first
    first, last = times[skip + part] - times[skip], times[-1] - times[-1 - part]
    return {
        "iterations": options.growth,
        "first_ms": 1e3 * first / part,
        "last_ms": 1e3 * last / part,
        "of_each": part,
        "values_kept": held["history"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientdet_d0")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=1, help="steps of each side in a round")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--optimizer", choices=("AdamW", "SGD"), default="AdamW", help="AdamW is the fused one")
    parser.add_argument("--interval", type=int, default=50, help="iterations between log lines")
    parser.add_argument("--hollow", action="store_true", help="tensors of one element: the work per iteration alone")
    parser.add_argument("--hook-iterations", type=int, default=0, help="time each hook by itself, afterwards")
    parser.add_argument("--growth", type=int, default=0, help="iterations around a step of nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="of the machine, for the JSON: shared, idle")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {"command": command_of(sys.argv[1:]), "note": options.note}
    if options.growth:
        results["growth"] = growth(options)
        print("{iterations} iterations: {first_ms:.3f} ms early, {last_ms:.3f} ms late".format(**results["growth"]))
    else:
        both = Alternation(options)
        iterations = (2 + options.rounds) * options.chunk + options.hook_iterations + 10
        run_engine(
            both.begin, both.after, model=options.model, size=options.size, batch=options.batch, dtype=options.dtype,
            optimizer=options.optimizer, interval=options.interval, iterations=iterations,
        )  # fmt: skip
        results |= both.results()
        for name in ("engine_ms", "bare_ms", "difference_ms", "difference_percent"):
            print("{:20} {median:10.3f}  ({min:.3f} to {max:.3f})".format(name, **results[name]))
        for name, row in results.get("hooks", {}).items():
            print(f"  {name:40} median {row['median_ms']:.4f} ms, mean {row['mean_ms']:.4f} ms")
        if "hooks" in results:
            print(f"  all hooks: median {results['hooks_median_ms']:.3f} ms, mean {results['hooks_mean_ms']:.3f} ms")
    results["machine"] = machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
