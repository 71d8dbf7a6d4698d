"""Progressive learning against a fixed size: score, training time and compute of two configs, several seeds each.

    python tools/benchmarks/progressive.py configs/effnet_small_shapes.py configs/effnet_small_shapes_progressive.py \
        --metric cls/top1 --out tools/benchmarks/results/progressive_shapes_cpu.json

Runs alternate (fixed, progressive, fixed, ...), each in a process of its own. Compute is counted in training pixels
relative to the fixed-size run, to which the multiply-adds of these networks are proportional; time is that of the whole
run, validation included. The JSON grows by one run at a time; runs that it holds already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def entries(work_dir: Path) -> list[dict[str, Any]]:
    """Every line of the run's scalars."""
    return [json.loads(line) for file in sorted(work_dir.rglob("scalars.json")) for line in file.open()]


def run_once(config: str, options: list[str], seed: int, metric: str) -> dict[str, Any]:
    """Train once: the metric of every validation, wall seconds, and the side of the training pictures by epoch."""
    with tempfile.TemporaryDirectory() as work_dir:
        command = [sys.executable, "tools/train.py", config, "--work-dir", work_dir]
        command += ["--cfg-options", *options, f"randomness.seed={seed}"]
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.monotonic() - start
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        lines = entries(Path(work_dir))
        return {
            "config": Path(config).stem,
            "seed": seed,
            "scores": [round(line[metric], 5) for line in lines if metric in line],
            "sides": [line["progressive/image_size"] for line in lines if "progressive/image_size" in line],
            "seconds": round(seconds, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixed", help="config of the fixed-size run")
    parser.add_argument("progressive", help="config of the progressive run")
    parser.add_argument("--metric", required=True, help="name in the run's log, for example cls/top1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="for both")
    arguments = parser.parse_args()

    import torch

    settings = {
        "fixed": arguments.fixed,
        "progressive": arguments.progressive,
        "metric": arguments.metric,
        "options": arguments.cfg_options,
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()})"
    machine = {"device": device, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}
    report: dict[str, Any] = {**settings, "machine": machine, "runs": []}
    if arguments.out.is_file():
        report = json.loads(arguments.out.read_text())
        if {key: report.get(key) for key in settings} != settings:
            raise SystemExit(f"{arguments.out} holds a measurement with other settings; choose another file.")
    done = {(run["config"], run["seed"]) for run in report["runs"]}
    for seed in arguments.seeds:
        for config in (arguments.fixed, arguments.progressive):
            if (Path(config).stem, seed) in done:
                continue
            run = run_once(config, arguments.cfg_options, seed, arguments.metric)
            report["runs"].append(run)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")
            print(run, flush=True)
    for config in (arguments.fixed, arguments.progressive):
        runs = [run for run in report["runs"] if run["config"] == Path(config).stem]
        scores = [run["scores"][-1] for run in runs]
        spread = f" +- {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
        sides = runs[0]["sides"]
        pixels = statistics.mean((side / sides[-1]) ** 2 for side in sides) if sides else 1.0
        seconds = statistics.median(run["seconds"] for run in runs)
        print(
            f"{Path(config).stem}: {arguments.metric} {statistics.mean(scores):.4f}{spread} (n={len(scores)}), "
            f"compute {pixels:.2f}, median {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
