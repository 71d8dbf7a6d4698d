"""Why an AP may be next to 0 although the model is fine: boxes in another order, category ids shifted by one.

Each usual mistake is undone and the AP looked at again; one that helps much is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.error_types import ErrorTypes, tide_errors

_LOW_AP, _GAIN = 10.0, 3.0  # AP points under which to look, and how many times better it must become


def usual_mistakes(truth: Truth, found: Found, errors: ErrorTypes) -> list[str]:
    """Sentences about mistakes whose undoing multiplies a low AP; most often there is none."""
    if not len(found) or not errors.num_instances or not errors.ap < _LOW_AP or errors.iou_type != "bbox":
        return []
    said = []
    for words, undone in _undone(truth, found):
        ap = tide_errors(truth, undone, positive=errors.positive, background=errors.background).ap
        if ap > _LOW_AP and ap > _GAIN * errors.ap:
            said.append(f"{words} (AP at IoU {errors.positive:g} would be {ap:.1f} points instead of {errors.ap:.1f}).")
    return said


def _undone(truth: Truth, found: Found) -> Iterator[tuple[str, Found]]:
    x, y, w, h = found.xywh.T
    corners = np.stack([x, y, w - x, h - y], 1)
    if (corners[:, 2:] >= 0).mean() > 0.9:
        yield "The boxes look like x1, y1, x2, y2; COCO results are x, y, width, height", replace(found, xywh=corners)
    centres = np.stack([x - w / 2, y - h / 2, w, h], 1)
    yield (
        "The boxes look like centre x, centre y, width, height; COCO results start at the corner",
        replace(found, xywh=centres),
    )
    yield (
        "The boxes look like y, x, height, width; COCO results are x, y, width, height",
        replace(found, xywh=np.stack([y, x, h, w], 1)),
    )
    at = np.searchsorted(truth.category_ids, found.category)
    for step, words in ((1, "one too low"), (-1, "one too high")):
        moved = at + step
        inside = (moved >= 0) & (moved < len(truth.category_ids))
        if len(truth.category_ids) > 1 and inside.any():
            kept = found.take(inside)
            yield (
                f"The category ids look {words} in the order of the annotation file; results carry its ids, not labels",
                replace(kept, category=truth.category_ids[moved[inside]]),
            )
