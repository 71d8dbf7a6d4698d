"""COCO evaluation of 5,000 images x 100 detections x 80 classes: this package against pycocotools and faster-coco-eval.

    OMP_NUM_THREADS=1 python tools/benchmarks/bench_coco_eval.py [--images 5000] [--repeats 3] [--json out.json]

Everyone starts from the same numbers: 500,000 detections and 36,000 ground truths, 1 % of them crowds. Ours takes the
columns, or an (n, 7) array and the content of the annotation file. The others are run as their users do: index of the
ground truth, ``loadRes`` of an (n, 7) array or of result dicts (made before the clock starts), evaluate, accumulate,
summarize. CPU time of one thread, alternated; the twelve numbers of all are compared. Memory is how far the resident
set of a process of its own grows during one run.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import gc
import io
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from effdense.evaluation import Found, Truth, evaluate_coco

SUMMARY_TOLERANCE = 1e-9


def make_columns(images: int, detections: int, classes: int, seed: int = 0) -> tuple[Truth, Found]:
    """A split like COCO val: 7.2 objects an image of 3 or so classes, and a detector that finds most of them.

    Six tenths of the detections are moved copies of objects (IoU .3 to 1), with their class nine times out of ten; the
    others are anywhere, of any class. Scores fall off towards 0 as a detector's do.
    """
    rng = np.random.default_rng(seed)
    objects = rng.poisson(7.2, images)
    total = int(objects.sum())
    image = np.repeat(np.arange(images), objects)
    palette = rng.integers(0, classes, (images, 3))
    category = palette[image, rng.integers(0, 3, total)]
    size = np.exp(rng.normal(4.2, 1.0, (total, 2))).clip(3, 500)
    xywh = np.column_stack([rng.uniform(0, 1, (total, 2)) * (640 - size).clip(0), size])
    truth = Truth(
        name="generated",
        image_ids=np.arange(images) * 7 + 1,
        category_ids=np.arange(classes) + 1 + np.arange(classes) // 10,
        class_names=tuple(f"class {k}" for k in range(classes)),
        image=image * 7 + 1,
        category=category + 1 + category // 10,
        xywh=xywh,
        area=xywh[:, 2] * xywh[:, 3] * rng.uniform(0.4, 1, total),
        is_crowd=rng.random(total) < 0.01,
    )
    first = np.cumsum(objects) - objects
    owner = np.repeat(np.arange(images), detections)
    near = (rng.random(len(owner)) < 0.6) & (objects[owner] > 0)
    source = np.where(near, first[owner] + (rng.random(len(owner)) * objects[owner]).astype(np.int64), 0)
    base = np.where(near[:, None], xywh[source], 0)
    moved = base[:, :2] + rng.normal(0, 0.12, (len(owner), 2)) * base[:, 2:]
    grown = base[:, 2:] * np.exp(rng.normal(0, 0.15, (len(owner), 2)))
    anywhere = np.column_stack([rng.uniform(0, 500, (len(owner), 2)), np.exp(rng.normal(4.2, 1.0, (len(owner), 2)))])
    boxes = np.where(near[:, None], np.column_stack([moved, grown]), anywhere)
    label = np.where(near & (rng.random(len(owner)) < 0.9), category[source], rng.integers(0, classes, len(owner)))
    found = Found(
        image=owner * 7 + 1,
        category=label + 1 + label // 10,
        xywh=boxes,
        score=np.where(near, rng.beta(1.2, 3, len(owner)), rng.beta(0.6, 8, len(owner)))
        .astype(np.float32)
        .astype(float),
    )
    return truth, found


def annotation_file(truth: Truth) -> dict[str, Any]:
    """The same ground truth as the content of a COCO annotation file."""
    rows = zip(truth.image.tolist(), truth.category.tolist(), truth.xywh.tolist(), truth.area.tolist(), truth.is_crowd)
    return {
        "images": [{"id": i, "width": 640, "height": 640} for i in truth.image_ids.tolist()],
        "categories": [{"id": i, "name": n} for i, n in zip(truth.category_ids.tolist(), truth.class_names)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": a, "iscrowd": int(crowd)}
            for n, (i, c, b, a, crowd) in enumerate(rows, start=1)
        ],
    }


def as_array(found: Found) -> np.ndarray:
    """(n, 7): image_id, x, y, w, h, score, category_id."""
    return np.column_stack([found.image, found.xywh, found.score, found.category]).astype(np.float64)


def result_dicts(found: Found) -> list[dict[str, Any]]:
    rows = zip(found.image.tolist(), found.category.tolist(), found.xywh.tolist(), found.score.tolist())
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]


def by_hand(package: str, truth: dict[str, Any], detections: Any) -> list[float]:
    """The twelve numbers as the package's own demo computes them."""
    if package == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = truth
        index.createIndex()
        evaluation = COCOeval(index, index.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:12]]


def measure(contenders: dict[str, Callable[[], Callable[[], Any]]], repeats: int) -> dict[str, dict[str, Any]]:
    """CPU seconds of each, alternated; a contender prepares its input before the clock starts."""
    results: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in contenders}
    for _ in range(repeats):
        for name, prepare in contenders.items():
            run = prepare()
            start = time.process_time()
            numbers = run()
            results[name]["seconds"].append(time.process_time() - start)
            results[name]["numbers"] = numbers
    return results


def _child(run: Callable[[], Any], results: Any) -> None:
    # After fork the peak of the child starts at what it has now.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    results.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def peak_mib(run: Callable[[], Any]) -> float:
    """How far the resident set grows during a run, in a forked process."""
    gc.collect()
    if sys.platform == "linux":  # pages that were freed but kept would hide what a run needs
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_child, args=(run, results))
    process.start()
    grown = float(results.get())
    process.join()
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-pycocotools", action="store_true", help="it takes a minute a run")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    truth, found = make_columns(options.images, options.detections, options.classes)
    content, rows = annotation_file(truth), as_array(found)
    dicts = result_dicts(found)

    def ours(backend: str) -> Callable[[], Callable[[], list[float]]]:
        return lambda: lambda: list(evaluate_coco(truth, found, backend=backend).to_dict().values())

    def theirs(package: str, kind: str) -> Callable[[], Callable[[], list[float]]]:
        def prepare() -> Callable[[], list[float]]:
            own_truth = copy.deepcopy(content)
            own = rows if kind == "array" else [dict(row) for row in dicts]
            return lambda: by_hand(package, own_truth, own)

        return prepare

    contenders = {
        "effdense arrays": ours("arrays"),
        "effdense arrays, from (n, 7) and JSON content": lambda: (
            lambda: list(evaluate_coco(content, rows, backend="arrays").to_dict().values())
        ),
        "effdense faster": ours("faster"),
        "faster-coco-eval, loadRes(dicts)": theirs("faster", "dicts"),
    }
    if not options.skip_pycocotools:
        contenders["pycocotools, loadRes(array)"] = theirs("pycocotools", "array")
        contenders["pycocotools, loadRes(dicts)"] = theirs("pycocotools", "dicts")
    small = make_columns(20, 20, 5)
    evaluate_coco(*small)  # imports and first calls
    results = measure(contenders, options.repeats)
    base = results[list(contenders)[-1]]
    print(
        f"{len(found)} detections, {len(truth)} ground truths, {int(truth.is_crowd.sum())} crowds; {platform.machine()}"
    )
    for name, result in results.items():
        apart = float(np.abs(np.array(result["numbers"]) - np.array(base["numbers"])).max())
        if apart > SUMMARY_TOLERANCE:
            raise SystemExit(f"{name}: a number differs by {apart}")
        seconds = statistics.median(result["seconds"])
        result |= {"median": seconds, "apart": apart, "faster": statistics.median(base["seconds"]) / seconds}
        if options.memory:
            result["peak_mib"] = peak_mib(contenders[name]())
        memory = f"  peak {result['peak_mib']:7.0f} MiB" if options.memory else ""
        spread = f"{min(result['seconds']):.2f} to {max(result['seconds']):.2f}"
        print(
            f"{name:48} {seconds:7.2f} s ({spread})  x{result['faster']:5.1f}  largest difference {apart:.1e}{memory}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
