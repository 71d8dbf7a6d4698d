"""mmengine shell around the scores of boxes: arrays in, gathered over ranks as arrays, scored once on rank 0."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from numpy.typing import NDArray

from effdense.data import ClassMap
from effdense.engine.complete import require_complete, write_json
from effdense.engine.distributed import gather_objects, on_main_then_all
from effdense.engine.registry import METRICS
from effdense.errors import ConfigError, DataError
from effdense.evaluation import CocoScores, Found, Truth, evaluate_coco
from effdense.evaluation.coco_ap import choose_backend
from effdense.evaluation.coco_dump import write_results
from effdense.evaluation.coco_scores import SUMMARY
from effdense.evaluation.coco_truth import chosen_images, for_classes, truth_of_split
from effdense.evaluation.curves import Curves, curves_of
from effdense.evaluation.detection_confusion import DetectionConfusion, detection_confusion
from effdense.evaluation.voc_ap import voc_ap


@METRICS.register_module()
class CocoMetric(BaseMetric):
    """COCO average precision of boxes.

    Args:
        backend: ``auto`` (``arrays``, this package's own), ``faster`` (faster-coco-eval) or ``pycocotools``, the
            reference; all give the same numbers.
        dump: write all detections as COCO result JSON to this path.
        classwise: also report AP of each class.
        curves: also report the best F1 and the score threshold that gives it.
        voc: also report the AP50 of PASCAL VOC 2010.
        score_threshold: of the confusion matrix in ``report``; None takes that of the best F1.
        report: write every number, curves and the confusion matrix as JSON to this path.

    Exactly one entry per sample is required over all ranks: a missing or doubled one is an error, not a wrong number.
    The engine sets the truth from the split that is evaluated: the annotation file itself for a split of one COCO file
    (float64, nothing clipped), else its records.
    """

    default_prefix = "coco"

    def __init__(
        self,
        *,
        backend: str = "auto",
        dump: str | None = None,
        classwise: bool = False,
        curves: bool = False,
        voc: bool = False,
        score_threshold: float | None = None,
        report: str | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(prefix=prefix)
        choose_backend(backend)
        self.results: list[dict[str, Any]] = []
        self.backend = backend
        self.dump = dump
        self.classwise = classwise
        self.curves = curves
        self.voc = voc
        self.score_threshold = score_threshold
        self.report = report
        self.truth: Truth | None = None
        self.class_map: ClassMap | None = None
        self.image_ids: list[int] = []
        self.scores: CocoScores | None = None

    def bind(self, annotation_file: Path, class_map: ClassMap, image_ids: Iterable[int]) -> None:
        """Say what is evaluated: annotation JSON, the classes of it that the model knows, and the images scored."""
        self._bind(for_classes(Truth.from_coco(annotation_file), class_map), class_map, image_ids)

    def bind_dataset(self, dataset: Any) -> None:
        """Score against the annotation file that a dataset was read from, or its records where there is no one file."""
        records = dataset.records
        truth, refused = truth_of_split(records)
        if refused:
            print_log(f"scoring against the records, not the file: {refused}", "current", logging.WARNING)
        self._bind(truth, records.class_map, records.image_ids)

    def _bind(self, truth: Truth, class_map: ClassMap, image_ids: Iterable[int]) -> None:
        self.image_ids = [int(i) for i in image_ids]
        # Once, not in each validation: the images and annotations that count.
        self.truth = truth.on(chosen_images(truth, self.image_ids))
        self.class_map = class_map

    def names(self) -> list[str]:
        """What ``evaluate`` will report, the one that tells most first."""
        assert self.class_map is not None
        more = [*(["F1", "F1_score"] if self.curves else []), *(["voc_AP50"] if self.voc else [])]
        classes = [f"AP_{name}" for name in self.class_map.names] if self.classwise else []
        return [f"{self.prefix}/{name}" for name in [*(name for name, _ in SUMMARY), *more, *classes]]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the detections of a batch as arrays.

        Args:
            data_samples: ``index``, ``image_id``, ``boxes`` (n, 4) xyxy px of the original image, ``scores`` (n,) and
                ``labels`` (n,) of each image, on any device.
        """
        if self.class_map is None:
            raise ConfigError("CocoMetric was not bound to a split; run it through effdense.engine.")
        if not data_samples:
            return
        boxes, scores, labels = ([sample[key] for sample in data_samples] for key in ("boxes", "scores", "labels"))
        counts = [len(part) for part in boxes]
        if counts != [len(part) for part in scores] or counts != [len(part) for part in labels]:
            raise DataError("CocoMetric: boxes, scores and labels of an image differ in number.")
        self.results.append(
            {
                "index": np.array([int(sample["index"]) for sample in data_samples], np.int64),
                "image": np.array([int(sample["image_id"]) for sample in data_samples], np.int64),
                "count": np.array(counts, np.int64),
                "boxes": _to_numpy(torch.cat([part.reshape(-1, 4) for part in boxes])),
                "scores": _to_numpy(torch.cat(scores)),
                "labels": torch.cat(labels).cpu().numpy().astype(np.int64),
            }
        )

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather, check that each of ``size`` samples came exactly once, and score on rank 0."""
        results, self.results = self.results, []
        parts = gather_objects(_joined(results))
        entries = _joined(parts)
        require_complete(entries["index"].tolist(), size)
        complete: list[CocoScores] = []

        def score() -> tuple[dict[str, float], CocoScores]:
            metrics, scores = self._score(entries)
            complete.append(scores)
            # The other ranks get the numbers, not the arrays behind them.
            return metrics, dataclasses.replace(scores, arrays=None, matches=None, curves=None, confusion=None)

        metrics, self.scores = on_main_then_all(score)
        if complete:
            self.scores = complete[0]
        return {f"{self.prefix}/{name}": value for name, value in metrics.items()}

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return self._score(_joined(results))[0]

    def found(self, entries: dict[str, NDArray[Any]]) -> Found:
        """Joined arrays as columns, in the order of the samples."""
        assert self.class_map is not None
        order = np.argsort(entries["index"], kind="stable")
        starts = np.cumsum(entries["count"]) - entries["count"]
        counts = entries["count"][order]
        rows = np.arange(counts.sum()) + np.repeat(starts[order] - (np.cumsum(counts) - counts), counts)
        labels = entries["labels"][rows]
        wrong = labels[(labels < 0) | (labels >= len(self.class_map))]
        if len(wrong):
            raise DataError(
                f"detections: {len(wrong)} labels are none of the {len(self.class_map)} classes 0.."
                f"{len(self.class_map) - 1}, first {wrong[:5].tolist()}."
            )
        boxes = entries["boxes"][rows].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return Found(
            image=np.repeat(entries["image"][order], counts),
            category=np.array(self.class_map.category_ids, np.int64)[labels],
            xywh=boxes,
            score=entries["scores"][rows].astype(np.float64),
        )

    def _score(self, entries: dict[str, NDArray[Any]]) -> tuple[dict[str, float], CocoScores]:
        truth, found = self.truth, self.found(entries)
        assert truth is not None and self.class_map is not None
        scores = evaluate_coco(truth, found, backend=self.backend)
        if self.dump is not None:
            write_results(self.dump, found)
        metrics = scores.to_dict()
        if self.curves or self.report is not None:
            curves = curves_of(truth, found) if scores.matches is None else Curves.of(scores.matches)
            scores = dataclasses.replace(scores, curves=curves)
        if self.curves and scores.curves is not None:
            best = scores.curves.best()
            metrics |= {"F1": best.f1, "F1_score": best.score}
        if self.voc:
            scores = dataclasses.replace(scores, voc=voc_ap(truth, found))
            assert scores.voc is not None
            metrics["voc_AP50"] = scores.voc.mean
        if self.report is not None:
            scores = dataclasses.replace(scores, confusion=self._confusion(truth, found, scores))
            write_json(self.report, scores.report())
        if self.classwise:
            metrics |= {f"AP_{name}": value for name, value in scores.per_class_ap.items()}
        return metrics, scores

    def _confusion(self, truth: Truth, found: Found, scores: CocoScores) -> DetectionConfusion:
        assert scores.curves is not None
        threshold = self.score_threshold
        if threshold is None:
            best = scores.curves.best()
            threshold = best.score if best.score >= 0 else 0.0
        return detection_confusion(truth, found, score_threshold=threshold)


def _to_numpy(values: torch.Tensor) -> NDArray[Any]:
    """float32, or float64 where it is that; half precision becomes float32, which holds it exactly."""
    values = values.detach()
    return (values if values.dtype == torch.float64 else values.float()).cpu().numpy()


def _joined(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """One dict of arrays from those of batches or ranks."""
    empty: dict[str, NDArray[Any]] = {
        **{key: np.zeros(0, np.int64) for key in ("index", "image", "count", "labels")},
        "boxes": np.zeros((0, 4), np.float32),
        "scores": np.zeros(0, np.float32),
    }
    return {key: np.concatenate([none, *(part[key] for part in parts)]) for key, none in empty.items()}
