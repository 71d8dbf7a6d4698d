"""mmengine shells around ``effdense.evaluation``: gather over ranks, account for every sample, compute once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from effdense.engine.coco_metric import CocoMetric
from effdense.engine.complete import evaluated, gather_complete, write_json
from effdense.engine.registry import METRICS
from effdense.evaluation.top_k import TopKScores, correct_at

__all__ = ["CocoMetric", "TopKMetric", "evaluated", "gather_complete"]


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
            write_json(
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
