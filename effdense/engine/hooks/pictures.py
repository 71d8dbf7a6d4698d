"""Pictures of a run: what the model was fed, and truth beside prediction."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook

from effdense.engine.distributed import rank_and_world
from effdense.engine.drawing import Drawn, Style, draw_batch, draw_output
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError, DataError
from effdense.visualize import contact_sheet, save_picture, side_by_side

_SHEETS = {"segmentation": (6, 320)}  # columns and px of a cell: truth, prediction and errors of two images in a row
_SHEET = (4, 400)


@HOOKS.register_module()
class PicturesHook(Hook):
    """Write ``pictures/train_batch.jpg`` once and ``pictures/val_predictions.jpg`` after every validation.

    Args:
        num_images: validation images on the sheet, spread over the split.
        score_threshold: predictions below it are not drawn.
        each_dir: also write one page per image into this folder (``tools/test.py --show-dir``): truth beside
            prediction, of a segmentor also where it is wrong, and the legend.
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
        self._drawn: dict[int, Drawn] = {}
        self._train_drawn = False

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if not self.draws_sheets or self._train_drawn or data_batch is None:
            return
        self._train_drawn = True
        style = _style(runner)
        drawn = list(draw_batch(style, data_batch, 16))
        pictures = [one for image in drawn for one in image.pictures]
        sheet = contact_sheet(
            [picture for picture, _ in pictures],
            columns=4,
            captions=[caption for _, caption in pictures] if any(caption for _, caption in pictures) else None,
            heading="first training batch, as the model sees it" + _still_to_come(runner, style.task),
            legend=style.legend(_counts(drawn)),
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
        style = _style(runner)
        for output in outputs or ():
            index = output["index"]
            on_sheet = self.draws_sheets and index % step == 0 and len(self._drawn) < self.num_images
            if not on_sheet and self.each_dir is None:
                continue
            try:
                drawn = draw_output(style, dataset, output, self.score_threshold)
            except DataError:
                continue  # the loader has already reported it
            if on_sheet:
                self._drawn[index] = drawn
            if self.each_dir is not None:
                name = f"{index:05d}_{Path(_path_of(dataset, index)).stem}.jpg"
                save_picture(_page(drawn, style), Path(self.each_dir) / name)

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        if not self._drawn:
            return
        style = _style(runner)
        drawn = [self._drawn[index] for index in sorted(self._drawn)]
        pictures = [one for image in drawn for one in image.pictures]
        columns, cell_width = _SHEETS.get(style.task, _SHEET)
        sheet = contact_sheet(
            [picture for picture, _ in pictures],
            columns=columns,
            captions=[caption for _, caption in pictures],
            heading="validation",
            legend=style.legend(_counts(drawn), errors=True),
            cell_width=cell_width,
        )
        path = self._folder(runner) / "val_predictions.jpg"
        save_picture(sheet, path)
        runner.logger.info(f"pictures: {path}")

    def _folder(self, runner: Any) -> Path:
        folder = Path(runner.work_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _still_to_come(runner: Any, task: str) -> str:
    """What happens to a batch on the device, after it was drawn."""
    preprocessor = getattr(runner.shell, "data_preprocessor", None)
    steps = ["photometric jitter"] if getattr(preprocessor, "jitter", None) is not None else []
    steps += ["mixup and CutMix"] if task == "classification" else []
    return f" before {' and '.join(steps)}" if steps else ""


def _style(runner: Any) -> Style:
    task = runner.shell.task
    palette = runner.metadata.get("palette") if task == "segmentation" else None
    return Style(task, runner.metadata["classes"], palette)


def _counts(drawn: list[Drawn]) -> Counter[int]:
    return sum((image.counts for image in drawn), Counter())


def _page(drawn: Drawn, style: Style) -> np.ndarray:
    """The pictures of one output, at their own size."""
    pictures, titles = [picture for picture, _ in drawn.pictures], [caption for _, caption in drawn.pictures]
    if len(pictures) == 1:
        return contact_sheet(pictures, 1, captions=titles, cell_width=pictures[0].shape[1])
    legend = style.legend(drawn.counts, errors=True) if style.task == "segmentation" else None
    return side_by_side(*pictures, titles=titles, legend=legend)


def _path_of(dataset: Any, index: int) -> Path:
    records = dataset.records
    return Path(records.path(index)) if hasattr(records, "path") else Path(records[index].path)
