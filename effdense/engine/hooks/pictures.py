"""Pictures of a run: what the model was fed, and truth beside prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook

from effdense.data import read_image
from effdense.engine.distributed import rank_and_world
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError, DataError
from effdense.visualize import contact_sheet, draw_boxes, save_picture, side_by_side


@HOOKS.register_module()
class PicturesHook(Hook):
    """Write ``pictures/train_batch.jpg`` once and ``pictures/val_predictions.jpg`` after every validation.

    Args:
        num_images: validation images on the sheet, spread over the split.
        score_threshold: predictions below it are not drawn.
        each_dir: also write one truth-beside-prediction picture per image into this folder (``tools/test.py
            --show-dir``).
        enable: False draws no sheets.

    The sheets show what rank 0 saw; ``each_dir`` gets the pictures of every rank.
    """

    priority = "LOW"

    def __init__(
        self, num_images: int = 12, score_threshold: float = 0.3, each_dir: str | None = None, enable: bool = True
    ) -> None:
        if num_images < 1:
            raise ConfigError(f"PicturesHook.num_images must be at least 1, got {num_images}.")
        self.num_images = num_images
        self.score_threshold = score_threshold
        self.each_dir = each_dir
        self.draws_sheets = enable and rank_and_world()[0] == 0
        self._pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._train_drawn = False

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if not self.draws_sheets or self._train_drawn or data_batch is None:
            return
        self._train_drawn = True
        names = runner.metadata["classes"]
        pictures = []
        for image, boxes, labels, valid in zip(
            data_batch["inputs"][:16], data_batch["boxes"], data_batch["labels"], data_batch["valid"], strict=False
        ):
            canvas = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            pictures.append(draw_boxes(canvas, boxes[valid], labels[valid], class_names=names))
        sheet = contact_sheet(
            pictures,
            columns=4,
            heading="first training batch, as the model sees it",
            legend=_legend(names),
            cell_width=320,
        )
        save_picture(sheet, self._folder(runner) / "train_batch.jpg")

    def before_val_epoch(self, runner: Any) -> None:
        self._pairs = {}

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not self.draws_sheets and self.each_dir is None:
            return
        dataset = runner.val_dataloader.dataset
        step = max(1, len(dataset) // self.num_images)
        names = runner.metadata["classes"]
        for output in outputs or ():
            index = output["index"]
            on_sheet = self.draws_sheets and index % step == 0 and len(self._pairs) < self.num_images
            if not on_sheet and self.each_dir is None:
                continue
            record = dataset.records[index]
            try:
                image = read_image(record.path, expected_size=(record.height, record.width))
            except DataError:
                continue  # the loader has already reported it
            keep = output["scores"] >= self.score_threshold
            truth = draw_boxes(image, record.boxes, record.labels, class_names=names)
            predicted = draw_boxes(
                image, output["boxes"][keep], output["labels"][keep], output["scores"][keep], class_names=names
            )
            if on_sheet:
                self._pairs[index] = (truth, predicted)
            if self.each_dir is not None:
                save_picture(
                    side_by_side(truth, predicted), Path(self.each_dir) / f"{index:05d}_{record.path.stem}.jpg"
                )

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        if not self._pairs:
            return
        names = runner.metadata["classes"]
        pictures = [picture for index in sorted(self._pairs) for picture in self._pairs[index]]
        captions = ["truth", f"prediction (score >= {self.score_threshold})"] * len(self._pairs)
        sheet = contact_sheet(
            pictures, columns=4, captions=captions, heading="validation", legend=_legend(names), cell_width=400
        )
        path = self._folder(runner) / "val_predictions.jpg"
        save_picture(sheet, path)
        runner.logger.info(f"pictures: {path}")

    def _folder(self, runner: Any) -> Path:
        folder = Path(runner.work_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _legend(names: Any) -> list[str] | None:
    """Class names for the sheet's legend, unless there are too many to read."""
    return list(names) if len(names) <= 20 else None
