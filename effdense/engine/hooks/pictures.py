"""Pictures of a run: its labels, what the network was fed, truth beside prediction, and curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook

from effdense.engine.distributed import rank_and_world
from effdense.engine.drawing import Drawn, Style, draw_batch, draw_output
from effdense.engine.hooks.input_watch import InputWatch, SeenBatch
from effdense.engine.hooks.run_charts import CurveDrawer, draw_train_labels
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError, DataError
from effdense.visualize import contact_sheet, save_picture, side_by_side

_SHEETS = {"segmentation": (6, 320)}  # columns and px of a cell: truth, prediction and errors of two images in a row
_SHEET = (4, 400)
_BATCHES, _BATCH_IMAGES = 3, 16  # training batches that are drawn, and images of each at most


@HOOKS.register_module()
class PicturesHook(Hook):
    """Write into the ``pictures`` folder of the work dir what a person wants to see of a run.

    ``labels.png`` when training begins: amounts per class, of boxes also their shapes and places.
    ``train_batch_0.jpg`` to ``_2.jpg``: the first batches of this start, as the network was fed them.
    ``val_predictions.jpg`` after every validation: truth beside prediction.
    ``curves.png`` after validations and when the run ends, however it does: losses, scores, learning rate.

    Args:
        num_images: validation images on the sheet, spread over the split.
        score_threshold: predictions below it are not drawn.
        each_dir: also write one page per image into this folder (``tools/test.py --show-dir``): truth beside
            prediction, of a segmentor also where it is wrong, and the legend.
        enable: False draws none of the four.

    They show what rank 0 saw; ``each_dir`` gets the pictures of every rank. A picture of the four that cannot be drawn
    or written is a line in the log, never the end of a run. The first batches are read from the device together, once;
    nothing else waits for it.
    """

    priority = 80  # after the rows of metrics.jsonl (LOW, 70), before checkpoints (VERY_LOW, 90)

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
        self._watch: InputWatch | None = None
        self._curves: CurveDrawer | None = None
        self._failed: set[str] = set()

    # -- training ------------------------------------------------------------------------------------------------------

    def before_train(self, runner: Any) -> None:
        if not self.draws_sheets:
            return
        self._curves = CurveDrawer()
        with self._tried(runner, "labels.png") as path:
            if runner.iter == 0 or not path.is_file():  # a run that is resumed has them
                draw_train_labels(runner.train_dataloader.dataset.records, path)
        with self._tried(runner, "train_batch_0.jpg"):
            self._watch = InputWatch(runner.shell, batches=_BATCHES, images=_BATCH_IMAGES)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self._watch is not None:
            self._watch.begin(runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self._watch is None:
            return
        self._watch.end()
        if self._watch.is_done or batch_idx + 1 == len(runner.train_dataloader):
            self._draw_batches(runner)

    def close(self, runner: Any) -> None:
        """Draw what is left to be drawn; the runner says so when training ends, by an error or a signal, too."""
        if self._watch is not None:
            self._draw_batches(runner)
        if self._curves is not None:
            with self._tried(runner, "curves.png") as path:
                self._curves.draw(runner, path, now=True)

    def _draw_batches(self, runner: Any) -> None:
        watch, self._watch = self._watch, None
        assert watch is not None
        watch.close()
        for number, seen in enumerate(watch.seen):
            with self._tried(runner, f"train_batch_{number}.jpg") as path:
                save_picture(_batch_sheet(runner, seen), path)
        if watch.error is not None:
            self._warn(runner, "train_batch_0.jpg", watch.error)

    # -- validation ----------------------------------------------------------------------------------------------------

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
            if self.draws_sheets and index % step == 0 and len(self._drawn) < self.num_images:
                with self._tried(runner, "val_predictions.jpg"), suppress(DataError):  # the loader has reported it
                    self._drawn[index] = draw_output(style, dataset, output, self.score_threshold)
            if self.each_dir is None:
                continue
            with suppress(DataError):
                drawn = self._drawn.get(index) or draw_output(style, dataset, output, self.score_threshold)
                name = f"{index:05d}_{Path(_path_of(dataset, index)).stem}.jpg"
                save_picture(_page(drawn, style), Path(self.each_dir) / name)

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        if self._drawn:
            with self._tried(runner, "val_predictions.jpg") as path:
                save_picture(_validation_sheet(_style(runner), [self._drawn[i] for i in sorted(self._drawn)]), path)
                runner.logger.info(f"pictures: {path}")
        if self._curves is not None:
            with self._tried(runner, "curves.png") as path:
                self._curves.draw(runner, path)

    @contextmanager
    def _tried(self, runner: Any, name: str) -> Iterator[Path]:
        """The path of a picture; what goes wrong with it is said once."""
        try:
            yield Path(runner.work_dir) / "pictures" / name
        except Exception as error:  # whatever data and disks hold in store: training is worth more
            self._warn(runner, name, error)

    def _warn(self, runner: Any, name: str, error: Exception) -> None:
        if name not in self._failed:
            self._failed.add(name)
            what = " ".join(f"{type(error).__name__}: {error}".split())
            runner.logger.warning(f"pictures/{name} cannot be drawn: {what}. The run goes on without it.")


def _batch_sheet(runner: Any, seen: SeenBatch) -> np.ndarray:
    style = _style(runner)
    drawn = list(draw_batch(style, seen.to_host(), _BATCH_IMAGES))
    pictures = [one for image in drawn for one in image.pictures]
    epoch, batch = divmod(seen.iteration, len(runner.train_dataloader))
    height, width = seen.size
    shown = f"{len(drawn)} of {seen.images} images" if len(drawn) < seen.images else f"{seen.images} images"
    return contact_sheet(
        [picture for picture, _ in pictures],
        columns=4,
        captions=[caption for _, caption in pictures] if any(caption for _, caption in pictures) else None,
        heading=f"training, epoch {epoch + 1}, batch {batch + 1}: {shown}, {height}x{width} px (height x width)",
        legend=style.legend(_counts(drawn)),
        cell_width=320,
    )


def _validation_sheet(style: Style, drawn: list[Drawn]) -> np.ndarray:
    pictures = [one for image in drawn for one in image.pictures]
    columns, cell_width = _SHEETS.get(style.task, _SHEET)
    return contact_sheet(
        [picture for picture, _ in pictures],
        columns=columns,
        captions=[caption for _, caption in pictures],
        heading="validation",
        legend=style.legend(_counts(drawn), errors=True),
        cell_width=cell_width,
    )


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
