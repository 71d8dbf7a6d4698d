"""Does a pretrained encoder help? The same config from random and from given encoder weights, several seeds each.

    EFFDENSE_DATA=DIR python tools/benchmarks/transfer.py configs/effdet_b0_bccd.py --weights ENCODER.pth \
        --metric coco/AP --out tools/benchmarks/results/transfer_bccd.json \
        --cfg-options image_size=256 train_cfg.max_epochs=6

Runs alternate (random, pretrained, random, ...), each in a process of its own; every run ends with a validation. The
JSON grows by one run at a time, so a cut-off measurement can go on: runs that it holds already are not repeated.
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


def last_value(work_dir: Path, metric: str) -> float:
    """The metric of the last validation of a run."""
    values = []
    for file in work_dir.rglob("scalars.json"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if metric in entry:
                values.append(float(entry[metric]))
    if not values:
        raise SystemExit(f"no {metric} in the logs of {work_dir}")
    return values[-1]


def run_once(config: str, options: list[str], weights: str | None, seed: int, metric: str) -> dict[str, Any]:
    """Train once and return the score with its wall time."""
    with tempfile.TemporaryDirectory() as work_dir:
        settings = [*options, f"randomness.seed={seed}"]
        if weights is not None:
            settings.append(f"model.encoder_weights={weights}")
        start = time.monotonic()
        command = [sys.executable, "tools/train.py", config, "--work-dir", work_dir, "--cfg-options", *settings]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return {
            "start": "random" if weights is None else "pretrained",
            "seed": seed,
            "score": last_value(Path(work_dir), metric),
            "seconds": round(time.monotonic() - start, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--weights", required=True, help="encoder weights to compare with random ones")
    parser.add_argument("--metric", required=True, help="name in the run's log, for example coco/AP")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="for both starts")
    arguments = parser.parse_args()

    import torch

    settings = {
        "config": arguments.config,
        "weights": Path(arguments.weights).name,
        "metric": arguments.metric,
        "options": arguments.cfg_options,
    }
    report: dict[str, Any] = {
        **settings,
        "machine": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()})",
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        },
        "runs": [],
    }
    if arguments.out.is_file():
        before = json.loads(arguments.out.read_text())
        if {key: before.get(key) for key in settings} != settings:
            raise SystemExit(f"{arguments.out} holds a measurement with other settings; choose another file.")
        report = before
    done = {(run["start"], run["seed"]) for run in report["runs"]}
    for seed in arguments.seeds:
        for start, weights in (("random", None), ("pretrained", arguments.weights)):
            if (start, seed) in done:
                continue
            run = run_once(arguments.config, arguments.cfg_options, weights, seed, arguments.metric)
            report["runs"].append(run)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")
            print(run, flush=True)
    for start in ("random", "pretrained"):
        scores = [run["score"] for run in report["runs"] if run["start"] == start]
        spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        print(f"{start:<11} {arguments.metric} {statistics.mean(scores):.4f} +- {spread:.4f} (n={len(scores)})")


if __name__ == "__main__":
    main()
