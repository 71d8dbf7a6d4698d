"""Pictures of a run: what the model was fed, and truth beside prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook

from effdense.engine.distributed import rank_and_world
from effdense.engine.drawing import draw_batch, draw_output
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError, DataError
from effdense.visualize import contact_sheet, save_picture, side_by_side


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
        self._drawn: dict[int, list[tuple[np.ndarray, str]]] = {}
        self._train_drawn = False

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if not self.draws_sheets or self._train_drawn or data_batch is None:
            return
        self._train_drawn = True
        names = runner.metadata["classes"]
        drawn = list(draw_batch(runner.shell.task, data_batch, names, 16))
        sheet = contact_sheet(
            [picture for picture, _ in drawn],
            columns=4,
            captions=[caption for _, caption in drawn] if any(caption for _, caption in drawn) else None,
            heading="first training batch, as the model sees it"
            + (" before mixup and CutMix" if runner.shell.task == "classification" else ""),
            legend=_legend(runner),
            cell_width=320,
        )
        save_picture(sheet, self._folder(runner) / "train_batch.jpg")

    def before_val_epoch(self, runner: Any) -> None:
        self._drawn = {}

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not self.draws_sheets and self.each_dir is None:
            return
        dataset = runner.val_dataloader.dataset
        step = max(1, len(dataset) // self.num_images)
        names = runner.metadata["classes"]
        for output in outputs or ():
            index = output["index"]
            on_sheet = self.draws_sheets and index % step == 0 and len(self._drawn) < self.num_images
            if not on_sheet and self.each_dir is None:
                continue
            try:
                drawn = draw_output(runner.shell.task, dataset, output, names, self.score_threshold)
            except DataError:
                continue  # the loader has already reported it
            if on_sheet:
                self._drawn[index] = drawn
            if self.each_dir is not None:
                name = f"{index:05d}_{Path(_path_of(dataset, index)).stem}.jpg"
                save_picture(_page(drawn), Path(self.each_dir) / name)

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        if not self._drawn:
            return
        drawn = [one for index in sorted(self._drawn) for one in self._drawn[index]]
        sheet = contact_sheet(
            [picture for picture, _ in drawn],
            columns=4,
            captions=[caption for _, caption in drawn],
            heading="validation",
            legend=_legend(runner),
            cell_width=400,
        )
        path = self._folder(runner) / "val_predictions.jpg"
        save_picture(sheet, path)
        runner.logger.info(f"pictures: {path}")

    def _folder(self, runner: Any) -> Path:
        folder = Path(runner.work_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _page(drawn: list[tuple[np.ndarray, str]]) -> np.ndarray:
    """The pictures of one output, at their own size."""
    if len(drawn) == 1:
        return contact_sheet([drawn[0][0]], 1, captions=[drawn[0][1]], cell_width=drawn[0][0].shape[1])
    (truth, said), (predicted, found) = drawn
    return side_by_side(truth, predicted, titles=(said, found))


def _legend(runner: Any) -> list[str] | None:
    """Class names for the colours of boxes and masks, unless there are too many to read."""
    names = runner.metadata["classes"]
    return list(names) if len(names) <= 20 and runner.shell.task != "classification" else None


def _path_of(dataset: Any, index: int) -> Path:
    records = dataset.records
    return Path(records.path(index)) if hasattr(records, "path") else Path(records[index].path)
