"""mmengine shell around the scores of class maps: pixels are counted where the masks are and read once at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from effdense.data.image_io import write_bytes_atomically, write_png
from effdense.engine.distributed import gather_objects
from effdense.engine.metrics import evaluated
from effdense.engine.registry import METRICS
from effdense.errors import ConfigError, DataError, ShapeError
from effdense.evaluation.boundary import RATIO, boundary_counts, check_ratio
from effdense.evaluation.confusion import count_pairs
from effdense.evaluation.segmentation_scores import SegmentationScores, mean_names


@METRICS.register_module()
class SegmentationMetric(BaseMetric):
    """Mean intersection over union and its relatives, of class maps at the original size.

    Args:
        dump: write every prediction as a PNG of class indices into this folder, and all scores as ``scores.json``.
        classwise: also report the IoU of each class (and its Boundary IoU).
        boundary: also report the Boundary IoU.
        boundary_ratio: width of its band as a share of the image diagonal.

    Exactly one entry per sample is required over all ranks. Pixel counts are whole numbers, so any number of ranks and
    any batch size give the same scores. The engine sets the dataset that is evaluated.
    """

    default_prefix = "seg"

    def __init__(
        self,
        *,
        dump: str | None = None,
        classwise: bool = False,
        boundary: bool = False,
        boundary_ratio: float = RATIO,
        prefix: str | None = None,
    ) -> None:
        super().__init__(prefix=prefix)
        self.results: list[dict[str, Any]] = []
        self.dump = dump
        self.classwise = classwise
        self.boundary = boundary
        self.boundary_ratio = check_ratio(boundary_ratio)
        self.dataset: Any = None
        # Summed as it comes: a matrix per image would be 360 MB for 2000 images of 150 classes.
        self._counts: Tensor | None = None
        self.scores: SegmentationScores | None = None

    def bind_dataset(self, dataset: Any) -> None:
        """Say what is evaluated."""
        self.dataset = dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the bound dataset."""
        if self.dataset is None:
            raise ConfigError("SegmentationMetric was not bound to a split; run it through effdense.engine.")
        return tuple(self.dataset.records.class_map.names)

    def names(self) -> list[str]:
        """What ``evaluate`` will report, the one that tells most first."""
        kinds = ["IoU", *(["boundary_IoU"] if self.boundary else [])] if self.classwise else []
        classes = [f"{kind}_{name}" for kind in kinds for name in self.class_names]
        return [f"{self.prefix}/{name}" for name in [*mean_names(self.boundary), *classes]]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Args:
            data_batch: its ``truths`` are read; without them the dataset's mask files are.
            data_samples: ``index``, ``path`` and ``mask`` (H, W) uint8 of each image, on any device.
        """
        classes = len(self.class_names)
        given = data_batch.get("truths") if isinstance(data_batch, Mapping) else None
        truths = given or [torch.as_tensor(self.dataset.load_mask(sample["index"])) for sample in data_samples]
        for sample, truth in zip(data_samples, truths, strict=True):
            mask, truth = sample["mask"], truth.to(sample["mask"].device, non_blocking=True)
            try:
                counts = count_pairs(mask, truth, classes)
                if self.boundary:
                    bands = boundary_counts(mask, truth, classes, ratio=self.boundary_ratio)
                    counts = torch.cat((counts, bands.flatten()))
            except ShapeError as error:
                raise ShapeError(f"{sample['path']}: {error}") from None
            self._counts = counts if self._counts is None else self._counts + counts
            self.results.append({"index": sample["index"]})
            if self.dump is not None:
                path = Path(self.dump) / f"{sample['index']:05d}_{Path(sample['path']).stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_png(path, mask.cpu().numpy())

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather, check that each of ``size`` samples came exactly once, and score on rank 0."""
        own, self._counts = None if self._counts is None else self._counts.cpu(), None

        def score(entries: Sequence[dict[str, Any]]) -> tuple[dict[str, float], SegmentationScores]:
            return self._score([part for part in parts if part is not None], len(entries))

        parts = gather_objects(own)
        return evaluated(self, size, score)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return self._score([] if self._counts is None else [self._counts.cpu()], len(results))[0]

    def _score(self, parts: Sequence[Tensor], num_images: int) -> tuple[dict[str, float], SegmentationScores]:
        """The scores of the counts of all ranks."""
        names = self.class_names
        cells, bands = len(names) ** 2, 2 * len(names) * self.boundary
        counts = torch.zeros(cells + 1 + bands, dtype=torch.int64)
        for part in parts:
            counts += part
        if wrong := int(counts[cells]):
            raise DataError(
                f"{wrong} evaluated pixels hold a class that is none of the {len(names)} ({', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}), in the predictions or in the masks; check_masks finds those."
            )
        scores = SegmentationScores.from_confusion(
            counts[:cells].view(len(names), len(names)),
            names,
            boundary=counts[cells + 1 :].view(2, len(names)) if self.boundary else None,
            num_images=num_images,
        )
        metrics = scores.to_dict()
        if self.classwise:
            metrics |= {f"IoU_{name}": value for name, value in scores.per_class_iou.items()}
            metrics |= {f"boundary_IoU_{name}": value for name, value in scores.per_class_boundary_iou.items()}
        if self.dump is not None:
            Path(self.dump).mkdir(parents=True, exist_ok=True)
            content = json.dumps(scores.report(), ensure_ascii=False)
            write_bytes_atomically(Path(self.dump) / "scores.json", content.encode())
        return metrics, scores
