"""EfficientDet against effdet 0.4.1: one training step and one inference, alternated in one run.

    python tools/benchmarks/bench_detector.py [--model d0] [--size 512] [--batch 4] [--repeats 5] [--threads 1]
                                              [--json out.json]

Both sides hold the same weights and see the same batch. Each round runs every contender once in rotating order; printed
are the median CPU time (GPU: wall time after synchronising), its spread (min to max), and the median of the per-round
ratios to effdet. On a shared machine CPU time with one thread is the figure to trust.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

import effdense


def build(model: str, size: int, classes: int, device: torch.device) -> tuple[Any, Any, Any, Any]:
    """(effdet training bench, effdet prediction bench, effdet's network, ours), with equal weights."""
    warnings.simplefilter("ignore")
    import effdet
    from effdet.bench import DetBenchPredict, DetBenchTrain

    config = effdet.get_efficientdet_config(f"tf_efficientdet_{model}")
    config.image_size = (size, size)
    config.num_classes = classes
    config.backbone_args = {**config.backbone_args, "drop_path_rate": 0.0}
    torch.manual_seed(0)
    network = effdet.EfficientDet(config, pretrained_backbone=False).to(device)
    ours = effdense.create_detector(f"efficientdet_{model}", classes, drop_path_rate=0.0)
    effdense.load_weights(ours, network.state_dict())
    ours = ours.to(device, memory_format=torch.channels_last)
    return DetBenchTrain(network).to(device), DetBenchPredict(network).to(device), network, ours


def targets(batch: int, size: int, classes: int, device: torch.device) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Seven boxes an image (COCO's mean) in effdet's form and in ours."""
    generator = torch.Generator().manual_seed(1)
    sides = (torch.rand(batch, 7, 2, generator=generator) * 0.4 + 0.05) * size
    corner = torch.rand(batch, 7, 2, generator=generator) * (size - sides)
    boxes = torch.cat((corner, corner + sides), -1).to(device)
    labels = torch.randint(0, classes, (batch, 7), generator=generator).to(device)
    theirs = {
        "bbox": boxes[..., [1, 0, 3, 2]],
        "cls": labels.float() + 1,
        "img_scale": torch.ones(batch, device=device),
        "img_size": torch.full((batch, 2), float(size), device=device),
    }
    return theirs, [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)]


def measure(contenders: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, dict[str, Any]]:
    """Alternate the contenders; the first is the reference of the ratios."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    names = list(contenders)
    for name in names:
        contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(repeats):
        shift = round_number % len(names)
        for name in names[shift:] + names[:shift]:
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = clock()
            contenders[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(clock() - start)
    reference = seconds[names[0]]
    return {
        name: {
            "median_ms": 1e3 * statistics.median(values),
            "min_ms": 1e3 * min(values),
            "max_ms": 1e3 * max(values),
            "ratio": statistics.median(v / r for v, r in zip(values, reference, strict=True)),
        }
        for name, values in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="d0")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, default=90)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_bench, predict_bench, network, ours = build(options.model, options.size, options.classes, device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 3, options.size, options.size, generator=generator).to(device)
    fast_images = images.contiguous(memory_format=torch.channels_last)
    theirs, mine = targets(options.batch, options.size, options.classes, device)

    def effdet_step() -> None:
        train_bench.train()
        network.zero_grad(set_to_none=True)
        train_bench(images, theirs)["loss"].backward()

    def our_step() -> None:
        ours.train()
        ours.zero_grad(set_to_none=True)
        sum(ours.loss(fast_images, mine).values()).backward()

    def effdet_predict() -> None:
        predict_bench.eval()
        with torch.inference_mode():
            predict_bench(images[:1], {k: v[:1] for k, v in theirs.items() if k.startswith("img")})

    def our_predict() -> None:
        ours.eval()
        with torch.inference_mode():
            ours.predict(fast_images[:1])

    results = {
        "machine": torch.cuda.get_device_name()
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "torch": str(torch.__version__),
        **{key: getattr(options, key) for key in ("model", "size", "batch", "classes", "repeats", "threads")},
        "train_step": measure({"effdet": effdet_step, "effdense": our_step}, options.repeats, device),
        "inference_batch_1": measure({"effdet": effdet_predict, "effdense": our_predict}, options.repeats, device),
    }
    for task in ("train_step", "inference_batch_1"):
        for name, row in results[task].items():
            print(
                f"{task:18} {name:9} {row['median_ms']:9.1f} ms  ({row['min_ms']:.1f} to {row['max_ms']:.1f})"
                f"  x{row['ratio']:.2f}"
            )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
