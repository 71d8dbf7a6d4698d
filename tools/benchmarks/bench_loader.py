"""Loading detection samples on one core: decode, scale jitter .1-2 with a crop to 512 px, flip, collate; and the peers.

    EFFDENSE_DATA=DIR python tools/benchmarks/bench_loader.py [--rounds 7] [--json OUT] [--profile]

Each round runs all pipes in rotating order on the same COCO pictures (``coco128``, train and val), in one process on
one core; CPU time (user + system) per picture. The unit is ``cv2.imdecode`` of the same files from memory. Peers that
are not installed are left out. Ours and effdet hand uint8 batches to the device and normalise there; albumentations and
torchvision are measured so as well ("uint8"), and as their tutorials use them, with float pictures normalised in the
loader. Pipes differ in detail: PIL antialiases and effdet mixes bilinear and bicubic; albumentations and torchvision
resize the whole picture before they crop; ours cuts first, shrinks by halves while decoding and is linear from there.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib.util
import json
import os
import platform
import pstats
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from effdense.data import DetectionDataset, HorizontalFlip, SampleIndex, ScaleJitterCrop, collate_detection, read_coco
from effdense.data.records import DetectionRecords

SIZE, BATCH = 512, 16
Pipe = Callable[[int], Any]  # run one epoch, given its number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--profile", action="store_true", help="also print where our pipe's time goes")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    random.seed(0)
    torch.manual_seed(0)
    splits = [read_coco(f"coco128/annotations/instances_{name}.json", "coco128/images")[0] for name in ("train", "val")]
    count = sum(len(split) for split in splits)
    pipes = {"decode": decode(splits), "effdense": effdense(splits)}
    for package, peer in (("effdet", effdet), ("albumentations", albumentations), ("torchvision", torchvision)):
        if importlib.util.find_spec(package):
            pipes |= peer(splits)
    times: dict[str, list[float]] = {name: [] for name in pipes}
    names = list(pipes)
    for pipe in pipes.values():
        pipe(0)
    for round_number in range(arguments.rounds):
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            start = time.process_time()
            pipes[name](round_number)
            times[name].append((time.process_time() - start) / count * 1e3)
    print(f"{count} pictures, batch {BATCH}, {SIZE} px, one core, {arguments.rounds} rounds; CPU ms per picture")
    figures = {name: _figures(times, name) for name in names}
    for name, row in figures.items():
        print(
            f"{name:<22}{row['ms']:6.2f} ms  {row['ratio']:5.2f}x decode ({row['low']:.2f} to {row['high']:.2f}), "
            f"effdense is {row['ours']:.2f}x as fast"
        )
    if arguments.profile:
        _profile(pipes["effdense"], count)
    if arguments.json:
        setup = {
            "machine": platform.processor() or platform.machine(), "opencv": cv2.__version__,
            "torch": torch.__version__, "pictures": count, "rounds": arguments.rounds,
        }  # fmt: skip
        arguments.json.write_text(json.dumps({**setup, "rows": figures, "ms": times}, indent=1) + "\n")


def _figures(times: dict[str, list[float]], name: str) -> dict[str, float]:
    ratios = [mine / base for mine, base in zip(times[name], times["decode"], strict=True)]
    ours = [mine / us for mine, us in zip(times[name], times["effdense"], strict=True)]
    return {
        "ms": statistics.median(times[name]), "ratio": statistics.median(ratios), "low": min(ratios),
        "high": max(ratios), "ours": statistics.median(ours),
    }  # fmt: skip


# Functions of the profile, by the words of docs/benchmarks.md.
_STAGES = {
    "decode": ("<imdecode>",), "resize": ("<resize>",), "mirror": ("<flip>",), "BGR to RGB": ("<cvtColor>",),
    "read the file": ("'read' of '_io.BufferedReader'", "io.open", "'__exit__' of '_io"),
}  # fmt: skip


def _profile(pipe: Pipe, count: int, repeats: int = 3) -> None:
    """Own time of the functions that are written in C; what is left of the untraced time is Python and copying."""
    start = time.process_time()
    for epoch in range(repeats):
        pipe(epoch)
    total = (time.process_time() - start) / count / repeats * 1e3
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    for epoch in range(repeats):
        pipe(epoch)
    profiler.disable()
    rows = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    rest = total
    print(f"where effdense's {total:.2f} ms go")
    for stage, names in _STAGES.items():
        own = sum(row[2] for (_, _, name), row in rows.items() if any(part in name for part in names))
        rest -= own / count / repeats * 1e3
        print(f"  {stage:<34}{own / count / repeats * 1e3:6.2f} ms")
    print(f"  {'header, records, boxes, fill, collate':<34}{rest:6.2f} ms")


def decode(splits: list[DetectionRecords]) -> Pipe:
    """The unit: the bytes are in memory already."""
    contents = [np.frombuffer(split.path(i).read_bytes(), np.uint8) for split in splits for i in range(len(split))]

    def run(epoch: int) -> None:
        for content in contents:
            cv2.imdecode(content, cv2.IMREAD_COLOR)

    return run


def effdense(splits: list[DetectionRecords]) -> Pipe:
    transforms = [ScaleJitterCrop(SIZE, scale=(0.1, 2.0)), HorizontalFlip(0.5)]
    sets = [DetectionDataset(split, transforms, training=True) for split in splits]

    def run(epoch: int) -> None:
        for dataset in sets:
            for start in range(0, len(dataset), BATCH):
                rows = range(start, min(start + BATCH, len(dataset)))
                collate_detection(dataset.__getitems__([SampleIndex(row, 0, epoch) for row in rows]))

    return run


def _truth(split: DetectionRecords, index: int) -> tuple[str, np.ndarray, np.ndarray]:
    record = split[index]
    keep = ~record.is_crowd
    return str(record.path), record.boxes[keep], record.labels[keep]


def effdet(splits: list[DetectionRecords]) -> dict[str, Pipe]:
    """rwightman/efficientdet-pytorch: PIL, its training transforms without erasing, its fast collate (uint8)."""
    import effdet.data.loader as loader
    import effdet.data.transforms as transforms
    from PIL import Image

    chain = transforms.Compose(
        [
            transforms.RandomFlip(horizontal=True, prob=0.5),
            transforms.RandomResizePad(SIZE, fill_color=(124, 116, 104)),
            transforms.ImageToNumpy(),
        ]
    )
    collate = loader.DetectionFastCollate()

    def sample(split: DetectionRecords, index: int) -> Any:
        path, boxes, labels = _truth(split, index)
        image = Image.open(path).convert("RGB")
        target = {"bbox": boxes[:, [1, 0, 3, 2]].copy(), "cls": labels + 1, "img_size": image.size}
        return chain(image, target)

    return {"effdet": _batches(splits, sample, collate)}


def albumentations(splits: list[DetectionRecords]) -> dict[str, Pipe]:
    """Resize, pad, crop and flip; with ``Normalize`` behind it or not."""
    return {
        "albumentations uint8": _albumentations(splits, normalize=False),
        "albumentations float": _albumentations(splits, normalize=True),
    }


def _albumentations(splits: list[DetectionRecords], *, normalize: bool) -> Pipe:
    import albumentations as A

    steps = [
        A.LongestMaxSize(SIZE),
        A.RandomScale((-0.9, 1.0), p=1.0),
        A.PadIfNeeded(SIZE, SIZE, position="top_left", fill=(124, 116, 104)),
        A.RandomCrop(SIZE, SIZE),
        A.HorizontalFlip(p=0.5),
    ]
    boxes = A.BboxParams(format="pascal_voc", label_fields=["labels"], min_width=1, min_height=1, clip=True)
    chain = A.Compose(steps + [A.Normalize()] * normalize, bbox_params=boxes)

    def sample(split: DetectionRecords, index: int) -> Any:
        path, boxes, labels = _truth(split, index)
        image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        return chain(image=image, bboxes=boxes, labels=labels)

    def collate(samples: list[Any]) -> Any:
        return torch.from_numpy(np.stack([s["image"] for s in samples])), [s["bboxes"] for s in samples]

    return _batches(splits, sample, collate)


def torchvision(splits: list[DetectionRecords]) -> dict[str, Pipe]:
    """torchvision's transforms.v2 on uint8 tensors, with ``ToDtype`` and ``Normalize`` behind them or not."""
    return {
        "torchvision uint8": _torchvision(splits, normalize=False),
        "torchvision float": _torchvision(splits, normalize=True),
    }


def _torchvision(splits: list[DetectionRecords], *, normalize: bool) -> Pipe:
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    steps = [
        v2.ScaleJitter((SIZE, SIZE), scale_range=(0.1, 2.0), antialias=True),
        v2.RandomCrop((SIZE, SIZE), pad_if_needed=True, fill=(124, 116, 104)),
        v2.RandomHorizontalFlip(0.5),
        v2.SanitizeBoundingBoxes(min_size=1),
    ]
    floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    chain = v2.Compose(steps + floats * normalize)

    def sample(split: DetectionRecords, index: int) -> Any:
        path, boxes, labels = _truth(split, index)
        image = tv_tensors.Image(decode_image(path, ImageReadMode.RGB))
        size = (image.shape[-2], image.shape[-1])
        target = {
            "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(boxes.copy()), format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(labels),
        }
        return chain(image, target)

    def collate(samples: list[Any]) -> Any:
        return torch.stack([image for image, _ in samples]), [target for _, target in samples]

    return _batches(splits, sample, collate)


def _batches(splits: list[DetectionRecords], sample: Callable[..., Any], collate: Callable[..., Any]) -> Pipe:
    def run(epoch: int) -> None:
        for split in splits:
            for start in range(0, len(split), BATCH):
                collate([sample(split, i) for i in range(start, min(start + BATCH, len(split)))])

    return run


if __name__ == "__main__":
    main()
