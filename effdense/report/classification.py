"""The report of a classifier: accuracies, which classes are taken for which, and the surest mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effdense.evaluation.top_k import TopKScores
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
from effdense.report.images import loaded_or_placeholder
from effdense.visualize.charts import confusion_chart, share_chart
from effdense.visualize.gallery import placeholder
from effdense.visualize.picture import require_image
from effdense.visualize.ranking import draw_ranking
from effdense.visualize.sheet import contact_sheet

_MOST_BARS = 60


@dataclass(frozen=True)
class Answer:
    """What was said of one picture: its file, its class, the best classes with their probabilities, best first."""

    path: str
    truth: str
    best: Mapping[str, float]

    @property
    def said(self) -> str:
        """The best class."""
        return next(iter(self.best))

    @property
    def truth_share(self) -> float:
        """Probability of the true class, 0 where it is not among the best."""
        return self.best.get(self.truth, 0.0)


def classification_report(
    title: str,
    facts: Sequence[tuple[str, str]],
    scores: TopKScores,
    answers: Sequence[Answer],
    load: Callable[[str], np.ndarray],
    *,
    gallery: int = 24,
) -> tuple[Document, dict[str, Any]]:
    """The document, and its numbers as plain JSON.

    Args:
        answers: of all labelled pictures. Wrong ones are ranked by how much surer the model was of its answer than of
            the truth.
        load: path to uint8 (H, W, 3) RGB; raises DataError.
    """
    names = list(scores.per_class)
    at = {name: k for k, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), np.int64)
    for answer in answers:
        matrix[at[answer.truth], at[answer.said]] += 1
    wrong = sorted(
        (one for one in answers if one.said != one.truth),
        key=lambda one: (one.truth_share - one.best[one.said], one.path),
    )
    right = sorted((one for one in answers if one.said == one.truth), key=lambda one: (-one.truth_share, one.path))
    problems: list[str] = []
    sections = [
        Section("Scores", _score_blocks(scores, matrix, names)),
        Section("Classes", _class_blocks(scores, matrix)),
        Section("Taken for each other", _confusion_blocks(matrix, names)),
        _gallery("Worst pictures", "worst", wrong[:gallery], at, load, problems),
        _gallery("Surest right pictures", "best", right[: min(4, gallery)], at, load, problems),
    ]
    if problems:
        lines = [Paragraph(line, "warning") for line in dict.fromkeys(problems)]
        sections.append(Section("Pictures that could not be read", lines[:20]))
    numbers = {
        "task": "classification",
        "scores": scores.to_dict(),
        "images": scores.num_images,
        "classes": {
            name: {"images": scores.per_class_images.get(name, 0), "top1": scores.per_class[name]} for name in names
        },
        "confusion": matrix,
        "worst": [{"file": one.path, "truth": one.truth, "said": one.said} for one in wrong[:gallery]],
    }
    return Document(title, facts, sections), numbers


def _pairs(matrix: np.ndarray, names: Sequence[str], limit: int) -> list[tuple[str, str, int, float]]:
    off = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-off, axis=None, kind="stable")[:limit]
    cells = [divmod(int(cell), len(names)) for cell in order if off.flat[cell] > 0]
    return [(names[t], names[p], int(off[t, p]), float(off[t, p] / matrix[t].sum())) for t, p in cells]


def _score_blocks(scores: TopKScores, matrix: np.ndarray, names: Sequence[str]) -> list[Block]:
    rows = [
        ["top-1", number(scores.top1), "share of the pictures whose best class is the true one"],
        ["top-5", number(scores.top5), "share whose true class is among the five best"],
        ["mean class accuracy", number(scores.mean_class_accuracy), "mean of the classes' top-1"],
    ]
    blocks: list[Block] = [Table(["score", "value", "what it is"], rows, text_columns=frozenset({0, 2}))]
    if not scores.num_images:
        return [*blocks, Paragraph("No labelled picture: there is nothing to score.", "warning")]
    pairs = _pairs(matrix, names, 1)
    if pairs:
        truth, said, count, share = pairs[0]
        blocks.append(
            Paragraph(
                f"Most often {truth} is taken for {said}: {count} pictures, {100 * share:.1f} % of all {truth}. "
                "Look at the worst pictures first: wrong labels show there.",
                "key",
            )
        )
    return blocks


def _class_blocks(scores: TopKScores, matrix: np.ndarray) -> list[Block]:
    names = list(scores.per_class)
    said = matrix.sum(0)
    rows = [
        [
            name,
            f"{scores.per_class_images.get(name, 0)}",
            number(scores.per_class[name]),
            number(matrix[k, k] / said[k] if said[k] else math.nan),
        ]
        for k, name in enumerate(names)
    ]
    ranked = sorted(scores.per_class.items(), key=lambda item: (math.isnan(item[1]), item[1]))[:_MOST_BARS]
    heading = "top-1, weakest class first" + (f" ({_MOST_BARS} of {len(names)})" if len(names) > _MOST_BARS else "")
    image = share_chart([name for name, _ in ranked], [value for _, value in ranked], xlabel=heading)
    return [
        Table(["class", "pictures", "top-1 (recall)", "precision"], rows),
        chart("class_top1", image, "top-1 of every class"),
    ]


def _confusion_blocks(matrix: np.ndarray, names: Sequence[str]) -> list[Block]:
    blocks: list[Block] = []
    if len(names) <= 120:  # a picture of 1000 classes cannot be read; the table says what matters
        image = confusion_chart(matrix, names, names, row_title="truth", column_title="prediction")
        blocks.append(chart("confusion", image, "confusion matrix, shares of the pictures of each class", wide=True))
    rows = [[t, s, f"{count}", f"{100 * share:.1f} %"] for t, s, count, share in _pairs(matrix, names, 25)]
    if rows:
        blocks.append(
            Table(["truth", "taken for", "pictures", "of the true class"], rows, text_columns=frozenset({0, 1}))
        )
    return blocks or [Paragraph("Nothing is taken for anything else.")]


def _gallery(
    title: str,
    prefix: str,
    answers: Sequence[Answer],
    at: Mapping[str, int],
    load: Callable[[str], np.ndarray],
    problems: list[str],
) -> Section:
    pictures = [_panel(f"{prefix}_{k:02d}", one, at, load, problems) for k, one in enumerate(answers, 1)]
    note = Paragraph("Ranked by how much surer the model was of its answer than of the truth.", "note")
    if not pictures:
        return Section(title, [Paragraph("None to show.")])
    return Section(title, [note, Gallery(pictures)] if prefix == "worst" else [Gallery(pictures)])


def _panel(
    name: str, answer: Answer, at: Mapping[str, int], load: Callable[[str], np.ndarray], problems: list[str]
) -> Picture:
    image = loaded_or_placeholder(lambda _: load(answer.path), 0, problems)
    shown = placeholder(["picture missing"], 320, 200) if image is None else require_image(image, "a gallery")
    shown = contact_sheet([shown], 1, cell_width=320)
    best = list(answer.best.items())[:3]
    drawn = draw_ranking(shown, [label for label, _ in best], [p for _, p in best], [at[label] for label, _ in best])
    file = answer.path.replace("\\", "/").rsplit("/", 1)[-1]
    caption = f"{file}: {answer.truth}, taken for {answer.said} ({answer.best[answer.said]:.2f})"
    if answer.said == answer.truth:
        caption = f"{file}: {answer.truth} ({answer.truth_share:.2f})"
    return photo(f"{name}_{file_part(Path(file).stem)}", drawn, caption, caption)
