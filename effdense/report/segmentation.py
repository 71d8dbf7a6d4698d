"""The report of a segmentor: scores of the classes, which are taken for each other, and its worst pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from effdense.errors import DataError
from effdense.evaluation.segmentation_scores import SegmentationScores
from effdense.report.document import (
    Block,
    Document,
    Gallery,
    Paragraph,
    Picture,
    Section,
    Table,
    chart,
    file_part,
    number,
    photo,
)
from effdense.visualize import class_legend, draw_errors, draw_mask, error_legend, side_by_side, wrong_share
from effdense.visualize.charts import confusion_chart, share_chart
from effdense.visualize.gallery import placeholder
from effdense.visualize.palette import Palette, background_labels

_CELL = 360  # px of each of the three pictures of a panel


@dataclass(frozen=True, eq=False)
class MaskedImage:
    """One evaluated picture: how to call it, and how to get its pixels (each raises DataError)."""

    name: str
    image: Callable[[], np.ndarray]  # uint8 (H, W, 3) RGB
    truth: Callable[[], np.ndarray]  # (H, W) classes, 255 = ignore
    prediction: Callable[[], np.ndarray]  # (H, W) classes


def segmentation_report(
    title: str,
    facts: Sequence[tuple[str, str]],
    scores: SegmentationScores,
    images: Sequence[MaskedImage],
    *,
    palette: Palette | None = None,
    gallery: int = 24,
) -> tuple[Document, dict[str, Any]]:
    """The document, and its numbers as plain JSON.

    Args: images: all that were evaluated; ranked by their share of wrong pixels, worst first.
    """
    names = tuple(scores.per_class_iou)
    shares, problems = _shares(images)
    order = sorted(range(len(images)), key=lambda i: (-shares[i] if not math.isnan(shares[i]) else 1.0, i))
    worst = [i for i in order if shares[i] > 0][:gallery]
    best = [i for i in reversed(order) if not math.isnan(shares[i]) and i not in worst][: min(4, gallery)]
    sections = [
        Section("Scores", _score_blocks(scores)),
        Section("Classes", [_class_table(scores), _class_chart(scores)]),
        Section("Taken for each other", _confusion_blocks(scores, names)),
    ]
    style = (names, palette)
    for heading, rows, prefix in (("Worst pictures", worst, "worst"), ("Best pictures", best, "best")):
        panels = [_panel(f"{prefix}_{k:02d}", images[i], shares[i], style, problems) for k, i in enumerate(rows, 1)]
        blocks: list[Block] = [
            Paragraph(
                "Ranked by the share of counted pixels that are wrong. Truth, prediction, and where it is wrong.",
                "note",
            )
        ]
        sections.append(Section(heading, [*blocks, Gallery(panels)] if panels else [Paragraph("None to show.")]))
    if problems:
        sections.append(_problems(problems))
    numbers = {
        "task": "segmentation",
        **scores.report(),
        "worst": [{"file": images[i].name, "wrong_share": shares[i]} for i in worst],
    }
    return Document(title, facts, sections), numbers


def _shares(images: Sequence[MaskedImage]) -> tuple[list[float], list[str]]:
    shares, problems = [], []
    for image in images:
        try:
            shares.append(wrong_share(image.truth(), image.prediction()))
        except DataError as error:
            shares.append(math.nan)
            problems.append(str(error))
    return shares, problems


def _problems(problems: Sequence[str]) -> Section:
    lines = list(dict.fromkeys(problems))
    return Section("Pictures that could not be read", [Paragraph(line, "warning") for line in lines[:20]])


def _score_blocks(scores: SegmentationScores) -> list[Block]:
    words = {
        "mIoU": "mean intersection over union of the classes",
        "mDice": "mean Dice coefficient of the classes",
        "pixel_accuracy": "share of the counted pixels that are right",
        "mean_accuracy": "mean accuracy (recall) of the classes",
        "mean_precision": "mean precision of the classes",
        "fwIoU": "IoU weighted by true pixels",
        "boundary_mIoU": "mean IoU along the boundaries",
    }
    rows = [[name, number(value), words.get(name, "")] for name, value in scores.to_dict().items()]
    blocks: list[Block] = [Table(["score", "value", "what it is"], rows, text_columns=frozenset({0, 2}))]
    if not scores.has_ground_truth:
        blocks.append(Paragraph("No pixel of this split counts: there is nothing to score.", "warning"))
    if scores.absent:
        blocks.append(
            Paragraph(
                f"Left out of the means, as neither truth nor prediction has them: {', '.join(scores.absent)}.",
                "note",
            )
        )
    pairs = scores.most_confused(1) if scores.confusion is not None else []
    seen = [name for name, value in scores.per_class_iou.items() if not math.isnan(value)]
    if seen:
        low = min(seen, key=lambda name: scores.per_class_iou[name])
        text = f"The weakest class is {low} with an IoU of {number(scores.per_class_iou[low])}."
        if pairs:
            text += (
                f" Most pixels are lost where {pairs[0].truth} is taken for {pairs[0].prediction}: "
                f"{pairs[0].pixels}, {100 * pairs[0].share:.1f} % of the true {pairs[0].truth}."
            )
        blocks.append(Paragraph(text, "key"))
    return blocks


def _class_table(scores: SegmentationScores) -> Table:
    pixels = max(sum(scores.per_class_pixels.values()), 1)
    columns = ["class", "pixels", "share", "IoU", "Dice", "accuracy", "precision"]
    columns += ["boundary IoU"] if scores.per_class_boundary_iou else []
    rows = []
    for name in scores.per_class_iou:
        count = scores.per_class_pixels.get(name, 0)
        row = [name, f"{count}", f"{100 * count / pixels:.2f} %", number(scores.per_class_iou[name])]
        row += [
            number(values.get(name))
            for values in (scores.per_class_dice, scores.per_class_accuracy, scores.per_class_precision)
        ]
        row += [number(scores.per_class_boundary_iou[name])] if scores.per_class_boundary_iou else []
        rows.append(row)
    return Table(columns, rows)


def _class_chart(scores: SegmentationScores) -> Picture:
    ranked = sorted(scores.per_class_iou.items(), key=lambda item: (math.isnan(item[1]), item[1]))
    image = share_chart([name for name, _ in ranked], [value for _, value in ranked], xlabel="IoU, weakest class first")
    return chart("class_iou", image, "IoU of every class")


def _confusion_blocks(scores: SegmentationScores, names: Sequence[str]) -> list[Block]:
    if scores.confusion is None:
        return [Paragraph("The scores keep no confusion matrix.")]
    image = confusion_chart(scores.confusion, names, names, row_title="truth", column_title="prediction")
    rows = [
        [pair.truth, pair.prediction, f"{pair.pixels}", f"{100 * pair.share:.1f} %"]
        for pair in scores.most_confused(15)
    ]
    table = Table(["truth", "taken for", "pixels", "of the true class"], rows, text_columns=frozenset({0, 1}))
    return [
        chart("confusion", image, "confusion matrix, shares of the true pixels of each class", wide=True),
        *([table] if rows else []),
    ]


def _panel(
    name: str,
    image: MaskedImage,
    share: float,
    style: tuple[Sequence[str], Palette | None],
    problems: list[str],
) -> Picture:
    caption = f"{image.name}: {100 * share:.1f} % wrong"
    file = f"{name}_{file_part(Path(image.name).stem)}"
    try:
        truth, prediction = image.truth(), image.prediction()
        try:
            picture = image.image()
        except DataError as error:
            problems.append(str(error))
            picture = placeholder(["picture missing"], truth.shape[1], truth.shape[0])
        return photo(
            file, _drawn(picture, truth, prediction, *style), f"truth, prediction, errors of {image.name}", caption
        )
    except DataError as error:
        problems.append(str(error))
        return photo(file, placeholder(["picture missing", str(error)]), f"missing: {image.name}", caption)


def _drawn(
    picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray, names: Sequence[str], palette: Palette | None
) -> np.ndarray:
    scale = min(3.0, _CELL / picture.shape[1])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    true, said = (cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) for mask in (truth, prediction))
    background = background_labels(names, palette)
    counts = np.bincount(np.concatenate([true.ravel(), said.ravel()]), minlength=256)
    shown = {label: int(counts[label]) for label in np.flatnonzero(counts[:255]).tolist()}
    legend = [
        *class_legend(names, shown, palette=palette, unpainted=background | (set(range(len(names))) - set(shown))),
        *error_legend(background),
    ]
    return side_by_side(
        draw_mask(small, true, names, palette=palette),
        draw_mask(small, said, names, palette=palette),
        draw_errors(small, true, said, background=background),
        legend=legend,
    )
