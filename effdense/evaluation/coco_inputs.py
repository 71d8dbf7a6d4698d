"""What a COCO evaluation takes, checked and turned into columns: detections here, ground truth in ``coco_truth``.

Whole columns are converted at once; entries are looked at one by one only to name the one that does not fit. Every
refusal names the place, what came, what was expected and what to do, with the first few offenders.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.errors import DataError
from effdense.evaluation.columns import Found, Truth

SHOWN = 5


def read_found(
    detections: Found | Sequence[Mapping[str, Any]] | NDArray[Any] | str | Path, *, masks: bool = False
) -> Found:
    """Detections as columns; see :meth:`Found.of`."""
    if isinstance(detections, (str, Path)):
        detections = _load_results(Path(detections))
    if isinstance(detections, Found):
        found = detections
        lengths = {name: len(getattr(found, name)) for name in ("image", "category", "xywh", "score")}
        if len(set(lengths.values())) > 1 or found.xywh.shape != (len(found), 4):
            raise DataError(f"detections: the columns disagree: {lengths}, xywh {found.xywh.shape}; expected (n, 4).")
        if masks and found.rle is None:
            raise DataError("detections: 'segm' needs run lengths, Found.rle is None; pass one per detection.")
    elif isinstance(detections, np.ndarray):
        found = _from_array(detections, masks)
    elif isinstance(detections, Mapping) or not isinstance(detections, Sequence) or isinstance(detections, str):
        raise DataError(
            f"detections are a {type(detections).__name__}; expected a list of COCO result dicts, an (n, 7) array, "
            "Found columns, or the path of a result JSON."
        )
    else:
        found = _from_dicts(detections, masks)
    _require_finite("score", found.score)
    _require_finite("bbox", found.xywh)
    return found


def check_known(found: Found, truth: Truth) -> None:
    """Raise DataError unless all ids of ``found`` are in ``truth``: others would score 0 in silence."""
    require_known("detections", "image_id", found.image, truth.image_ids, f" The annotation file is {truth.name}.")
    pairs = list(zip(truth.category_ids.tolist(), truth.class_names, strict=True))
    names = ", ".join(f"{number} {name}" for number, name in pairs[:SHOWN]) + (", ..." if len(pairs) > SHOWN else "")
    hint = (
        f" {truth.name} has {len(pairs)}: {names}. Detections carry its category ids, "
        "not labels 0..K-1; map label to id first (ClassMap.category_ids[label])."
    )
    require_known("detections", "category_id", found.category, truth.category_ids, hint)


def require_known(where: str, key: str, values: NDArray[np.int64], known: NDArray[np.int64], hint: str) -> None:
    """Raise DataError where ``values`` are not all in the ascending ``known``."""
    at = np.searchsorted(known, values)
    strange = np.ones(len(values), bool) if not len(known) else known[np.minimum(at, len(known) - 1)] != values
    if strange.any():
        raise DataError(
            f"{where}: {int(strange.sum())} of {len(values)} have {key} values that the ground truth does not know: "
            f"{first(np.unique(values[strange]).tolist())}.{hint}"
        )


def id_column(items: Sequence[Mapping[str, Any]], key: str, where: str) -> NDArray[np.int64]:
    """``item[key]`` of all as int64; ids as text or fractions would match nothing and are refused by name."""
    values = [item.get(key) for item in items]
    try:
        column = np.array(values)
    except (ValueError, TypeError, RuntimeError):
        column = np.zeros(0, object)
    if column.shape == (len(values),) and column.dtype.kind == "i":
        return column.astype(np.int64)
    return np.array([index(value, f"{where}[{i}]['{key}']") for i, value in enumerate(values)], np.int64)


def index(value: Any, place: str) -> int:
    """A whole number of 64 bits (int, numpy or 0-d tensor)."""
    try:
        number = operator.index(value)
    except TypeError:
        raise DataError(f"{place} is {value!r}; expected a whole number.") from None
    if not -(2**63) <= number < 2**63:
        raise DataError(f"{place} is {value!r}; expected a whole number of at most 64 bits.")
    return number


def box_column(values: Sequence[Any], place: Any) -> NDArray[np.float64]:
    """(n, 4) float64; ``place(i)`` names an entry that is not four numbers."""
    column = _numbers(values)
    if column.shape == (len(values), 4):
        return column
    return np.array([_box(value, place(i)) for i, value in enumerate(values)], np.float64).reshape(-1, 4)


def first(values: Sequence[Any]) -> str:
    """The first few, for a message."""
    return ", ".join(repr(value) for value in values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")


def _numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """As float64; an empty array where they are not all numbers (text is none, whatever it spells)."""
    try:
        column = np.array(values)
    except (TypeError, ValueError, RuntimeError):
        return np.zeros(0)
    return column.astype(np.float64) if column.dtype.kind in "iuf" else np.zeros(0)


def _box(value: Any, place: str) -> list[float]:
    try:
        box = [] if isinstance(value, str) else [_number(number) for number in value]
    except (TypeError, ValueError):
        box = []
    if len(box) != 4:
        raise DataError(f"{place}: bbox is {value!r}; expected four numbers x, y, w, h in px.")
    return box


def _load_results(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"No result file at {path.absolute()}; expected a COCO result JSON.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path.absolute()} cannot be read as COCO result JSON: {error}") from error
    if not isinstance(content, list):
        raise DataError(
            f"{path.absolute()} holds a JSON {type(content).__name__}; expected a list of results "
            "(image_id, category_id, bbox, score), as tools/test.py --out writes it."
        )
    return content


def _from_array(detections: NDArray[Any], masks: bool) -> Found:
    if masks:
        raise DataError("detections: an array holds boxes only; pass dicts with 'segmentation' to compare masks.")
    if detections.ndim != 2 or detections.shape[1] != 7:
        raise DataError(
            f"detections: the array has shape {detections.shape}; "
            "expected (n, 7): image_id, x, y, w, h, score, category_id."
        )
    try:
        rows = detections.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"detections: the array holds {detections.dtype}, not numbers: {error}") from None
    ids = rows[:, [0, 6]]
    wrong = np.flatnonzero((~np.isfinite(ids) | (ids != np.round(ids))).any(axis=1))
    if wrong.size:
        raise DataError(
            f"detections: ids of {wrong.size} rows are not whole numbers, first rows {first(wrong.tolist())}."
        )
    whole = ids.astype(np.int64)
    return Found(image=whole[:, 0], category=whole[:, 1], xywh=rows[:, 1:5].copy(), score=rows[:, 5].copy())


def _from_dicts(detections: Sequence[Mapping[str, Any]], masks: bool) -> Found:
    shape_key = "segmentation" if masks else "bbox"
    for i, detection in enumerate(detections):
        if not isinstance(detection, Mapping):
            raise DataError(f"detections[{i}] is {detection!r}; expected a COCO result dict.")
        for key in ("image_id", "category_id", "score", shape_key):
            if key not in detection:
                raise DataError(f"detections[{i}]: key {key!r} is missing; it has {sorted(detection)}.")
    image = id_column(detections, "image_id", "detections")
    category = id_column(detections, "category_id", "detections")
    score = _numbers([detection["score"] for detection in detections])
    if score.shape != (len(detections),):
        score = np.array([_score(d["score"], f"detections[{i}]") for i, d in enumerate(detections)], np.float64)
    if not masks:
        boxes = box_column([detection["bbox"] for detection in detections], lambda i: f"detections[{i}]")
        return Found(image, category, boxes, score)
    from effdense.data import run_lengths

    rle = [detection["segmentation"] for detection in detections]
    run_lengths.require_masks(rle, lambda i: f"detections[{i}]")
    return Found(image, category, run_lengths.boxes(rle), score, rle)


def _score(value: Any, place: str) -> float:
    try:
        return _number(value)
    except (TypeError, ValueError):
        raise DataError(f"{place}: score is {value!r}; expected a number.") from None


def _number(value: Any) -> float:
    if isinstance(value, (str, bytes)):
        raise TypeError("text")
    return float(value)


def _require_finite(what: str, numbers: NDArray[np.float64]) -> None:
    finite = np.isfinite(numbers)
    wrong = np.flatnonzero(~(finite if finite.ndim == 1 else finite.all(axis=1)))
    if wrong.size:
        raise DataError(
            f"detections: {what} is NaN or infinite in {wrong.size} of {len(numbers)}, first at index "
            f"{first(wrong.tolist())}; the model has diverged or its half-precision output overflowed."
        )
