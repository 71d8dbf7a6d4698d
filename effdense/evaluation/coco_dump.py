"""Detections out as COCO result JSON: streamed, atomic, and every number as exact as it was.

Floats are written with the fewest digits that give the same float64 back, so evaluating the file gives the same numbers
to the last digit, ties in score included. Rounding would save half of the bytes and break ties differently.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from effdense.errors import DataError
from effdense.evaluation.columns import Found

_ROWS_AT_A_TIME = 10_000


def write_results(path: str | Path, found: Found) -> Path:
    """Write ``[{"image_id": ..., "category_id": ..., "bbox": [x, y, w, h], "score": ...}, ...]``, in the order given;
    run lengths, where there are any, as "segmentation". Readers see the old file or the whole new one.

    Raises: DataError for numbers that JSON cannot hold (NaN, infinite).
    """
    if not (np.isfinite(found.xywh).all() and np.isfinite(found.score).all()):
        raise DataError(f"{path}: a box or score is NaN or infinite, which no result JSON can hold.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with partial.open("w", encoding="ascii") as file:
            file.write("[")
            for number, text in enumerate(_pieces(found)):
                file.write(", " + text if number else text)
            file.write("]")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _pieces(found: Found) -> Iterator[str]:
    for start in range(0, len(found), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        columns = zip(
            found.image[part].tolist(),
            found.category[part].tolist(),
            found.xywh[part].tolist(),
            found.score[part].tolist(),
        )
        rows = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in columns]
        if found.rle is not None:
            for row, runs in zip(rows, found.rle[part]):
                counts = runs["counts"]
                text = counts.decode("ascii") if isinstance(counts, bytes) else counts
                row["segmentation"] = {"size": list(runs["size"]), "counts": text}
        yield json.dumps(rows)[1:-1]
