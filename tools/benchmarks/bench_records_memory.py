"""Memory of a million boxes in forked loader workers: our flat arrays against the dicts of pycocotools' COCO class.

Run:      python tools/benchmarks/bench_records_memory.py [--images 100000] [--boxes 1000000] [--workers 4]
Prints:   for each kind, what the parent holds and what each worker adds of its own (USS) and its share of all (PSS),
          after it has read every image's annotations in random order. Linux only (reads /proc/self/smaps_rollup).

The first row is a process that holds nothing and workers that read nothing: what the interpreter and its imports cost.
What a reader has freed is handed back to the system before anything is measured.

A worker starts with the parent's pages. Python objects are counted by reference, and the count lies beside the object:
reading one writes to its page, which is then copied. Arrays have one object for millions of numbers.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MB = 1e6


def memory() -> dict[str, float]:
    """USS, PSS and RSS of this process in MB. USS: pages no other process has; PSS: its share of all pages."""
    sizes: dict[str, float] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        sizes[name.rstrip(":")] = float(value) * 1024 / MB
    return {"uss": sizes["Private_Clean"] + sizes["Private_Dirty"], "pss": sizes["Pss"], "rss": sizes["Rss"]}


def in_workers(count: int, read: Callable[[int], Any], images: int) -> list[dict[str, float]]:
    """Fork, let each worker read every image in an order of its own, and ask for its memory before and after.

    All workers are alive while they are measured, or the share of those that are left would grow.
    """
    pipes, pids = [], []
    barrier_in, barrier_out = os.pipe()
    for worker in range(count):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            before = memory()
            order = list(range(images))
            random.Random(worker).shuffle(order)
            for index in order:
                read(index)
            del order
            gc.collect()
            os.write(writing, b"1")  # done reading; the parent waits for all
            os.read(barrier_in, 1)
            after = memory()
            own = {f"{key} grown": after[key] - before[key] for key in ("uss",)}
            os.write(writing, json.dumps(after | own).encode())
            os.read(barrier_in, 1)
            os._exit(0)
        pipes.append(reading)
        pids.append(pid)
    for pipe in pipes:
        os.read(pipe, 1)
    os.write(barrier_out, b"1" * count)
    found = [json.loads(os.read(pipe, 4096)) for pipe in pipes]
    os.write(barrier_out, b"1" * count)
    for pid in pids:
        os.waitpid(pid, 0)
    return found


def make_content(images: int, boxes: int) -> dict[str, list[dict[str, Any]]]:
    """A COCO file of ``images`` pictures with ``boxes`` boxes spread evenly."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 300, (boxes, 2)).round(2).tolist()
    sides = rng.uniform(10, 300, (boxes, 2)).round(2).tolist()
    labels = rng.integers(1, 81, boxes).tolist()
    return {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 640} for i in range(images)],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, 81)],
        "annotations": [
            {
                "id": n + 1,
                "image_id": n * images // boxes,
                "category_id": labels[n],
                "bbox": corners[n] + sides[n],
                "area": sides[n][0] * sides[n][1],
                "iscrowd": 0,
            }
            for n in range(boxes)
        ],
    }


def flat(file: Path, folder: Path) -> tuple[Any, Callable[[int], Any]]:
    """Ours."""
    from effdense.data import read_coco

    records, _ = read_coco(file, folder)
    return records, lambda index: records[index]


def dicts(file: Path, folder: Path) -> tuple[Any, Callable[[int], Any]]:
    """pycocotools' index of dicts, read as torchvision's CocoDetection does."""
    from pycocotools.coco import COCO

    coco = COCO(str(file))
    ids = sorted(coco.imgs)

    def read(index: int) -> Any:
        image = coco.loadImgs(ids[index])[0]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=ids[index]))
        return image["file_name"], [(one["bbox"], one["category_id"]) for one in annotations]

    return coco, read


def nothing(file: Path, folder: Path) -> tuple[Any, Callable[[int], Any]]:
    """The same process without annotations."""
    return None, lambda index: index


KINDS = {"nothing": nothing, "effdense DetectionRecords": flat, "pycocotools COCO (dicts)": dicts}


def measure(kind: str, file: Path, images: int, workers: int) -> dict[str, float]:
    """Memory of one kind, in a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        import pycocotools.coco

        import effdense.data  # noqa: F401 - both imported by every kind, so that they cancel out

        assert pycocotools.coco
        empty = memory()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - pycocotools prints
        held, read = KINDS[kind](file, file.parent)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        parent = memory()["uss"] - empty["uss"]
        found = in_workers(workers, read, images)
        result = {
            "parent": parent,
            "uss": max(one["uss"] for one in found),
            "grown": max(one["uss grown"] for one in found),
            "pss": max(one["pss"] for one in found),
            "arrays": getattr(held, "nbytes", 0) / MB,
        }
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return dict(json.loads(os.read(reader, 4096)))


def main() -> None:
    """Write an annotation file, read it both ways, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "instances.json")
        file.write_text(json.dumps(make_content(options.images, options.boxes)))
        print(f"{options.boxes} boxes, {options.images} images, {options.workers} forked workers; MB")
        print(f"{'':28}{'parent':>9}{'worker USS grown':>19}{'worker USS':>13}{'worker PSS':>13}")
        for kind in KINDS:
            row = measure(kind, file, options.images, options.workers)
            print(f"{kind:28}{row['parent']:9.0f}{row['grown']:19.1f}{row['uss']:13.1f}{row['pss']:13.1f}", flush=True)
            if row["arrays"]:
                print(f"  of which arrays{row['arrays']:21.0f}")


if __name__ == "__main__":
    main()
