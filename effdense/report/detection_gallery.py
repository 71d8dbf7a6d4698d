"""Panels of single pictures for the report of a detector: truth beside detections, every box coloured by its fate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.error_matching import CLS, CORRECT, CROWD, ERRORS, ErrorMatching
from effdense.evaluation.worst_images import ImageRanking
from effdense.report.document import Block, Gallery, Paragraph, Picture, Section, file_part, photo
from effdense.report.images import Loader, blank, loaded_or_placeholder
from effdense.visualize.gallery import Mark, detection_panel, gallery_legend
from effdense.visualize.legend import with_legend

_HALF = 440  # px of each of the two halves of a panel
_MOST_FALSE = 15  # boxes drawn on a panel, the surest; under more the picture is not seen


@dataclass(frozen=True, eq=False)
class PanelSource:
    """What panels are drawn from; rows of images are those of ``truth.image_ids``."""

    truth: Truth
    found: Found
    matching: ErrorMatching
    ranking: ImageRanking
    threshold: float
    load: Loader
    names: Sequence[str]


def detection_gallery(
    title: str, prefix: str, rows: Sequence[int], source: PanelSource, problems: list[str]
) -> Section:
    """A section with one panel for each image; pictures that cannot be read add a line to ``problems``."""
    if not rows:
        return Section(title, [Paragraph("None to show.")])
    note = (
        f"Left the truth, right the detections with a score of {source.threshold:.2f} or more: green right, red false "
        "with its error type, orange missed, grey crowds and what they excuse. "
    )
    if prefix == "worst":
        note += "Ranked by the sum of the scores of the false detections and one for every missed object."
    blocks: list[Block] = [Paragraph(note, "note")]
    panels = [_panel(f"{prefix}_{k:02d}", row, source, problems) for k, row in enumerate(rows, 1)]
    return Section(title, [*blocks, Gallery(panels)])


def _panel(name: str, row: int, source: PanelSource, problems: list[str]) -> Picture:
    ranking, called = source.ranking, source.names[row]
    truth, said = _truth_marks(row, source), _said_marks(row, source)
    image = loaded_or_placeholder(source.load, row, problems)
    if image is None:
        ends = np.array([mark.box[2:] for mark in [*truth, *said]]).reshape(-1, 2)
        width, height = np.clip(ends.max(0, initial=320), 120, 2000).astype(int).tolist() if len(ends) else (320, 240)
        image = blank((height, width), called)
    drawn = with_legend(detection_panel(image, truth, said, width=_HALF), gallery_legend())
    caption = (
        f"{called}: lost {ranking.lost[row]:.2f}, {ranking.false[row]} false, {ranking.missed[row]} missed, "
        f"{ranking.right[row]} right"
    )
    if ranking.false[row] > _MOST_FALSE:
        caption += f" (drawn: the {_MOST_FALSE} surest false ones)"
    return photo(f"{name}_{file_part(Path(called).stem)}", drawn, f"truth and detections of {called}", caption)


def _truth_marks(row: int, source: PanelSource) -> list[Mark]:
    truth, state = source.truth, source.matching.state
    marks = []
    for i in np.flatnonzero(truth.image == truth.image_ids[row]).tolist():
        crowd = state[i] == CROWD
        fate = "excused" if crowd else "right" if source.ranking.taken[i] else "missed"
        name = truth.class_names[source.matching.truth_class[i]]
        marks.append(Mark(_corners(truth.xywh[i]), f"{name} (crowd)" if crowd else name, fate))
    return marks


def _said_marks(row: int, source: PanelSource) -> list[Mark]:
    """Missed objects, then detections, weakest first, so that the surest are on top."""
    truth, found, matching = source.truth, source.found, source.matching
    names = truth.class_names
    marks = [mark for mark in _truth_marks(row, source) if mark.fate == "missed"]
    rows = np.flatnonzero(source.ranking.shown & (found.image == truth.image_ids[row]))
    rows = rows[np.argsort(found.score[rows], kind="stable")]
    hidden = set(rows[matching.is_false[rows]][:-_MOST_FALSE].tolist())
    for i in rows.tolist():
        if i in hidden:
            continue
        kind, said = int(matching.kind[i]), f"{names[matching.detection_class[i]]} {found.score[i]:.2f}"
        fate = "right" if kind == CORRECT else "excused" if matching.excused[i] else "wrong"
        if fate == "wrong":
            said = f"{ERRORS[kind - 1]}: {said}"
            said += f" (is {names[matching.truth_class[matching.partner[i]]]})" if kind == CLS else ""
        marks.append(Mark(_corners(found.xywh[i]), said, fate))
    return marks


def _corners(xywh: np.ndarray) -> tuple[float, float, float, float]:
    x, y, w, h = xywh.tolist()
    return x, y, x + w, y + h
