"""EfficientUNet against smp.Unet with the same encoder: forward pass and training step, alternated in one run.

    python tools/benchmarks/bench_segmentor.py [--level 0] [--size 512] [--batch 1] [--repeats 9] [--threads 1]
                                               [--amp] [--json out.json]

Three contenders: ``smp.Unet("efficientnet-b0")`` as its users run it (NCHW), the same in channels_last, and ours, which
is always channels_last. All hold the same weights, with BatchNorm statistics measured on random pictures first, and
their logits are compared before anything is timed. The training step is forward, cross-entropy and backward, with each
model's own stochastic depth. Each round runs every contender once in rotating order; printed are the median CPU time
(GPU, or several threads: wall time), its spread (min to max), and, round by round, how many times faster ours is:
median and spread. On a shared machine CPU time with one thread is the figure to trust.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import effdense
from effdense.models.batch_norm import recalibrate_batch_norm
from effdense.models.costs import model_cost

OURS, NCHW, LAST = "effdense", "smp NCHW", "smp channels_last"
PARITY = 1e-4


def build(level: int, size: int, batch: int, classes: int, device: torch.device) -> dict[str, nn.Module]:
    """The contenders with equal weights, in the order that they are printed."""
    import segmentation_models_pytorch as smp

    def peer() -> Any:
        return smp.Unet(f"efficientnet-b{level}", encoder_weights=None, classes=classes)

    torch.manual_seed(0)
    theirs = peer()
    # Fresh statistics of 0 and 1 would let values die out on the way through, and outputs be equal for nothing.
    generator = torch.Generator().manual_seed(2)
    recalibrate_batch_norm(theirs, [torch.randn(max(2, batch), 3, size, size, generator=generator)])
    ours = effdense.create_segmentor(f"efficientunet_b{level}", classes)
    effdense.load_weights(ours, theirs.state_dict())
    fast = peer()
    fast.load_state_dict(theirs.state_dict())
    return {
        NCHW: theirs.to(device),
        LAST: fast.to(device, memory_format=torch.channels_last),
        OURS: ours.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
    }


def measure(
    contenders: dict[str, Callable[[], Any]], repeats: int, device: torch.device, *, cpu_time: bool
) -> dict[str, dict[str, Any]]:
    """Alternate the contenders; ``faster`` is the time of each, round by round, over that of ours."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if cpu_time else time.perf_counter()

    names = list(contenders)
    for name in names * (3 if device.type == "cuda" else 1):  # cuDNN picks its kernels
        contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(repeats):
        shift = round_number % len(names)
        for name in names[shift:] + names[:shift]:
            start = now()
            contenders[name]()
            seconds[name].append(now() - start)
    results = {}
    for name, values in seconds.items():
        ratios = [value / mine for value, mine in zip(values, seconds[OURS], strict=True)]
        results[name] = {
            "median_ms": 1e3 * statistics.median(values),
            "min_ms": 1e3 * min(values),
            "max_ms": 1e3 * max(values),
            "faster": statistics.median(ratios),
            "faster_min": min(ratios),
            "faster_max": max(ratios),
        }
    return results


def largest_difference(networks: dict[str, nn.Module], images: dict[str, Tensor]) -> float:
    """Of the logits in evaluation mode, relative to the largest logit."""
    with torch.no_grad():
        logits = {name: network.eval()(images[name]) for name, network in networks.items()}
    scale = logits[NCHW].abs().max()
    return max(float((other - logits[NCHW]).abs().max() / scale) for other in logits.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=int, default=0, choices=range(8), help="of the encoder, B0 to B7")
    parser.add_argument("--size", type=int, default=512, help="px of the square input, a multiple of 32 (smp's rule)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast for all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device(options.device)
    networks = build(options.level, options.size, options.batch, options.classes, device)
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    plain = torch.randn(shape, generator=generator).to(device)
    last = plain.contiguous(memory_format=torch.channels_last)
    images = {NCHW: plain, LAST: last, OURS: last}
    masks = torch.randint(0, options.classes, (options.batch, *shape[2:]), generator=generator).to(device)

    difference = largest_difference(networks, images)
    print(f"logits, equal weights: largest relative difference {difference:.1e}")
    # TensorFloat-32 convolutions of a GPU round to about three digits.
    if device.type == "cpu" and not difference <= PARITY:
        raise SystemExit(f"the logits differ by more than {PARITY:g}: these are not the same network.")
    macs = {name: model_cost(networks[name], options.size).macs for name in (NCHW, OURS)}
    print(", ".join(f"{name} {count / 1e9:.3f} GMACs" for name, count in macs.items()) + " per picture\n")

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.amp)

    def forward(name: str) -> Callable[[], None]:
        def run() -> None:
            networks[name].eval()
            with torch.no_grad(), autocast():
                networks[name](images[name])

        return run

    def train_step(name: str) -> Callable[[], None]:
        def run() -> None:
            network = networks[name].train()
            network.zero_grad(set_to_none=True)
            with autocast():
                loss = F.cross_entropy(network(images[name]), masks)
            loss.backward()

        return run

    cpu_time = device.type == "cpu" and options.threads == 1
    results: dict[str, Any] = {
        "machine": torch.cuda.get_device_name()
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "torch": str(torch.__version__),
        **{key: getattr(options, key) for key in ("level", "size", "batch", "classes", "repeats", "threads", "amp")},
        "clock": "CPU time" if cpu_time else "wall time",
        "largest_difference": difference,
        "macs": macs,
    }
    for task, step in (("forward", forward), ("train_step", train_step)):
        results[task] = measure({name: step(name) for name in networks}, options.repeats, device, cpu_time=cpu_time)
        for name, row in results[task].items():
            versus = "" if name == OURS else f"  ours is x{row['faster']:.2f} faster ({row['faster_min']:.2f} to "
            versus += "" if name == OURS else f"{row['faster_max']:.2f})"
            print(
                f"{task:10} {name:18} {row['median_ms']:9.1f} ms  ({row['min_ms']:.1f} to {row['max_ms']:.1f}){versus}"
            )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
