"""What each way of reading pictures costs: files, shards, RAM cache, decoded RAM cache, disk cache; on one core.

    EFFDENSE_DATA=DIR python tools/benchmarks/bench_stores.py coco128/annotations/instances_train.json coco128/images

The stores take turns, so that a busy machine is unfair to none; the caches are filled before. The kernel's page cache
is warm: what a slow disk or network adds is not in these figures, and is what the caches are for. Columns: milliseconds
of CPU time and of wall time per picture, medians over the repeats, and the median of the ratios of CPU time to files in
the same turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import torch

from effdense.data import DetectionDataset, collate_detection, read_coco, read_image
from effdense.data.sampler import SampleIndex
from effdense.data.storage.picture_cache import FileStore, paths_of, plan_store
from effdense.data.storage.shard_writer import write_shards
from effdense.data.storage.sharded import read_shards
from effdense.data.transforms.geometry import HorizontalFlip, ScaleJitterCrop

BATCH = 16


def work(kind: str, records: Any, store: Any, dataset: Any, epoch: int) -> None:
    """One pass over the split: read the bytes, decode them whole, or make training batches."""
    if kind == "read":
        for i in range(len(records)):
            store.read(i, records.path(i))
    elif kind == "decode":
        for i in range(len(records)):
            path = records.path(i)
            read_image(path, data=store.read(i, path))
    else:
        for start in range(0, len(records), BATCH):
            stop = min(start + BATCH, len(records))
            collate_detection(dataset.__getitems__([SampleIndex(i, 0, epoch) for i in range(start, stop)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations")
    parser.add_argument("images")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    records, _ = read_coco(options.annotations, options.images)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(records, Path(folder) / "shards", split="train", shuffle=None)
        sharded, _ = read_shards(str(Path(folder) / "shards"), "train")
        plans: dict[str, tuple[Any, Any]] = {
            "files": (records, FileStore()),
            "shards": (sharded, _store(sharded, None)),
            "RAM cache": (records, _store(records, "ram")),
            "RAM cache, decoded": (records, _store(records, {"type": "ram", "decoded": True})),
            "disk cache": (records, _store(records, {"type": "disk", "dir": str(Path(folder) / "cache")})),
        }
        size = sum(path.stat().st_size for path in paths_of(records))
        print(f"{len(records)} pictures, {size / 1e6:.1f} MB, {options.repeats} repeats, page cache warm")
        transforms = [ScaleJitterCrop((512, 512)), HorizontalFlip()]
        datasets = {
            name: DetectionDataset(rows, transforms, training=True, store=store)
            for name, (rows, store) in plans.items()
        }
        for kind in ("read", "decode", "batch"):
            cpu, wall = _alternated(kind, plans, datasets, options.repeats)
            for name in plans:
                ratio = statistics.median(a / b for a, b in zip(cpu[name], cpu["files"], strict=True))
                print(
                    f"{kind:7} {name:20} {statistics.median(cpu[name]):7.3f} ms CPU "
                    f"{statistics.median(wall[name]):7.3f} ms wall  x {ratio:.2f}"
                )
    return 0


def _store(records: Any, option: Any) -> Any:
    plan = plan_store(records, option)
    assert plan is not None
    return plan.store


def _alternated(
    kind: str, plans: dict[str, tuple[Any, Any]], datasets: dict[str, Any], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """CPU and wall milliseconds per picture of each repeat; the first pass fills caches and is not counted."""
    cpu: dict[str, list[float]] = {name: [] for name in plans}
    wall: dict[str, list[float]] = {name: [] for name in plans}
    for repeat in range(-1, repeats):
        for name, (records, store) in plans.items():
            start, began = time.process_time(), time.perf_counter()
            work(kind, records, store, datasets[name], epoch=max(0, repeat))
            if repeat >= 0:
                cpu[name].append(1e3 * (time.process_time() - start) / len(records))
                wall[name].append(1e3 * (time.perf_counter() - began) / len(records))
    return cpu, wall


if __name__ == "__main__":
    sys.exit(main())
