"""mmengine shells around ``effdense.evaluation``: gather over ranks, account for every sample, compute once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from effdense.data import ClassMap
from effdense.data.image_io import write_bytes_atomically
from effdense.engine.distributed import gather_objects, on_main_then_all
from effdense.engine.registry import METRICS
from effdense.errors import ConfigError, DataError
from effdense.evaluation import CocoScores, evaluate_coco
from effdense.evaluation.coco_scores import SUMMARY
from effdense.evaluation.top_k import TopKScores, correct_at


def gather_complete(results: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """The entries of all ranks in sample order.

    Raises: DataError unless each of ``size`` samples came exactly once (key ``index``).
    """
    parts = gather_objects(results)
    entries = sorted((entry for part in parts for entry in part), key=lambda entry: entry["index"])
    found = [entry["index"] for entry in entries]
    if found != list(range(size)):
        doubled = sorted({i for i in found if found.count(i) > 1}) if len(found) > len(set(found)) else []
        missing = sorted(set(range(size)) - set(found))
        raise DataError(
            f"evaluation needs one result for each of {size} samples, got {len(found)} "
            f"({len(missing)} missing, first {missing[:3]}; {len(doubled)} doubled, first {doubled[:3]})."
        )
    return entries


def evaluated(metric: Any, size: int, score: Callable[[list[dict[str, Any]]], tuple[dict[str, float], Any]]) -> Any:
    """Score what a metric has seen on all ranks: ``{"prefix/name": value}`` on each; ``metric.scores`` is set.

    Args:
        metric: has ``results`` (emptied), ``scores`` and ``prefix``. size: samples that must have come once each.
        score: entries of all ranks to (numbers by name, scores), run on rank 0.

    Raises: DataError for samples that are missing or doubled.
    """
    results, metric.results = metric.results, []
    entries = gather_complete(results, size)
    metrics, metric.scores = on_main_then_all(lambda: score(entries))
    return {f"{metric.prefix}/{name}": value for name, value in metrics.items()}


@METRICS.register_module()
class CocoMetric(BaseMetric):
    """COCO average precision of boxes.

    Args:
        backend: ``pycocotools`` (the reference) or ``faster``.
        dump: write all detections as COCO result JSON to this path.
        classwise: also report AP of each class.

    Exactly one entry per sample is required over all ranks: a missing or doubled one is an error, not a wrong number.
    The engine sets ``annotation_file`` and ``class_map`` from the split that is evaluated.
    """

    default_prefix = "coco"

    def __init__(
        self,
        *,
        backend: str = "pycocotools",
        dump: str | None = None,
        classwise: bool = False,
        prefix: str | None = None,
    ) -> None:
        super().__init__(prefix=prefix)
        self.results: list[dict[str, Any]] = []
        self.backend = backend
        self.dump = dump
        self.classwise = classwise
        self.ground_truth: dict[str, Any] | None = None
        self.class_map: ClassMap | None = None
        self.image_ids: list[int] = []
        self.scores: CocoScores | None = None

    def bind(self, annotation_file: Path, class_map: ClassMap, image_ids: Iterable[int]) -> None:
        """Say what is evaluated: annotation JSON, the classes of it that the model knows, and the images scored."""
        content = json.loads(Path(annotation_file).read_text())
        known = set(class_map.category_ids)
        self.ground_truth = {
            "images": content["images"],
            "categories": [c for c in content["categories"] if c["id"] in known],
            "annotations": [a for a in content["annotations"] if a["category_id"] in known],
        }
        self.class_map = class_map
        self.image_ids = [int(i) for i in image_ids]

    def bind_dataset(self, dataset: Any) -> None:
        """Score against the annotation file that a dataset was read from."""
        records = dataset.records
        assert records.annotation_file is not None
        self.bind(records.annotation_file, records.class_map, records.image_ids)

    def names(self) -> list[str]:
        """What ``evaluate`` will report, the one that tells most first."""
        assert self.class_map is not None
        classes = [f"AP_{name}" for name in self.class_map.names] if self.classwise else []
        return [f"{self.prefix}/{name}" for name in [*(name for name, _ in SUMMARY), *classes]]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        if self.class_map is None:
            raise ConfigError("CocoMetric was not bound to a split; run it through effdense.engine.")
        for sample in data_samples:
            boxes = sample["boxes"].double()
            boxes[:, 2:] -= boxes[:, :2]
            self.results.append(
                {
                    "index": int(sample["index"]),
                    "image_id": int(sample["image_id"]),
                    "boxes": boxes.tolist(),
                    "scores": sample["scores"].double().tolist(),
                    "labels": sample["labels"].tolist(),
                }
            )

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather, check that each of ``size`` samples came exactly once, and score on rank 0."""
        return evaluated(self, size, self._score)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return self._score(results)[0]

    def _score(self, entries: Sequence[dict[str, Any]]) -> tuple[dict[str, float], CocoScores]:
        assert self.class_map is not None and self.ground_truth is not None
        categories = self.class_map.category_ids
        detections = [
            {"image_id": entry["image_id"], "category_id": categories[label], "bbox": box, "score": score}
            for entry in entries
            for box, score, label in zip(entry["boxes"], entry["scores"], entry["labels"], strict=True)
        ]
        if self.dump is not None:
            _write_json(self.dump, detections)
        scores = evaluate_coco(self.ground_truth, detections, image_ids=self.image_ids, backend=self.backend)
        metrics = scores.to_dict()
        if self.classwise:
            metrics |= {f"AP_{name}": value for name, value in scores.per_class_ap.items()}
        return metrics, scores


@METRICS.register_module()
class TopKMetric(BaseMetric):
    """Top-1 and top-5 accuracy, as fractions of the pictures.

    Args:
        dump: write path, label and the five best classes of every picture as JSON to this path.
        classwise: also report the accuracy of each class.

    Exactly one entry per sample is required over all ranks. The engine sets the classes from the split.
    """

    default_prefix = "cls"

    def __init__(self, *, dump: str | None = None, classwise: bool = False, prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        self.results: list[dict[str, Any]] = []
        self.dump = dump
        self.classwise = classwise
        self.class_names: tuple[str, ...] = ()
        self.scores: TopKScores | None = None

    def bind_dataset(self, dataset: Any) -> None:
        """Say what is evaluated."""
        self.class_names = tuple(dataset.records.class_map.names)

    def names(self) -> list[str]:
        """What ``evaluate`` will report, the one that tells most first."""
        classes = [f"top1_{name}" for name in self.class_names] if self.classwise else []
        return [f"{self.prefix}/{name}" for name in ["top1", "top5", "mean_class_accuracy", *classes]]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        probabilities = torch.stack([sample["probabilities"] for sample in data_samples])
        labels = torch.tensor([sample["label"] for sample in data_samples])
        correct = correct_at(probabilities, labels)
        best = probabilities.topk(min(5, probabilities.shape[1]))
        for i, sample in enumerate(data_samples):
            entry = {"index": sample["index"], "label": sample["label"], "correct": correct[i].tolist()}
            if self.dump is not None:
                names = [self.class_names[k] for k in best.indices[i].tolist()]
                entry |= {"path": sample["path"], "best": dict(zip(names, best.values[i].tolist(), strict=True))}
            self.results.append(entry)

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather, check that each of ``size`` samples came exactly once, and score on rank 0."""
        return evaluated(self, size, self._score)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return self._score(results)[0]

    def _score(self, entries: Sequence[dict[str, Any]]) -> tuple[dict[str, float], TopKScores]:
        if self.dump is not None:
            _write_json(
                self.dump,
                [
                    {"path": e["path"], "label": self.class_names[e["label"]], "probabilities": e["best"]}
                    for e in entries
                ],
            )
        scores = TopKScores.from_arrays(
            torch.tensor([entry["correct"] for entry in entries]),
            torch.tensor([entry["label"] for entry in entries]),
            self.class_names,
        )
        metrics = scores.to_dict()
        if self.classwise:
            metrics |= {f"top1_{name}": value for name, value in scores.per_class.items()}
        return metrics, scores


def _write_json(path: str, content: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(Path(path), json.dumps(content).encode())
