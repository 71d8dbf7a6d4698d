"""Compressed run lengths are checked before pycocotools is given them: some would make it loop for ever or grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from effdense.data import run_lengths
from effdense.data.segments import Segment
from effdense.errors import DataError
from effdense.evaluation import evaluate_coco

CORNERS = {"size": [4, 4], "counts": coco_mask.encode(np.asfortranarray(np.eye(4, dtype=np.uint8)))["counts"]}


def encoded(bitmap: np.ndarray) -> dict[str, Any]:
    runs = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}


def segm_set(segmentation: Any) -> dict[str, Any]:
    box = {"bbox": [1, 1, 10, 10], "area": 100}
    return {
        "images": [{"id": 1, "height": 50, "width": 50}],
        "categories": [{"id": 3, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, **box, "segmentation": segmentation}],
    }


def found(segmentation: Any, score: Any = 0.5) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 3, "score": score, "segmentation": segmentation}


def number_by_number(text: str) -> int:
    """Sum of the run lengths as rleFrString reads them, -1 where the text is none."""
    codes, counts, at = [ord(letter) - 48 for letter in text], [], 0
    while at < len(codes):
        value, digits, more = 0, 0, True
        while more:
            if at >= len(codes) or not 0 <= codes[at] <= 63:
                return -1
            value |= (codes[at] & 31) << (5 * digits)
            more, last = bool(codes[at] & 32), codes[at]
            at, digits = at + 1, digits + 1
        value -= (1 << (5 * digits)) if last & 16 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return sum(counts) if min(counts, default=0) >= 0 else -1


def test_totals_of_a_mask_by_hand() -> None:
    assert run_lengths._totals(["04", "", "0"]).tolist() == [4, 0, 0]
    assert run_lengths._totals([CORNERS["counts"]]).tolist() == [16]


def test_totals_equal_a_decoder_that_reads_number_by_number() -> None:
    generator = np.random.default_rng(0)
    texts = [encoded(generator.random((int(generator.integers(1, 90)), 7)) < 0.3)["counts"] for _ in range(200)]
    texts += ["".join(map(chr, generator.integers(47, 112, int(generator.integers(0, 12))))) for _ in range(1000)]
    expected = [number_by_number(text) for text in texts]
    assert sum(total >= 0 for total in expected) > 250
    assert run_lengths._totals(texts).tolist() == expected


def test_more_masks_than_pycocotools_counts_at_once() -> None:
    """pycocotools 2.0.11 raises OverflowError for the areas of 256 masks."""
    assert run_lengths.areas([CORNERS] * 600).tolist() == [4.0] * 600
    square = encoded(np.pad(np.ones((10, 10)), ((1, 39), (1, 39))))
    detections = [found(square, i / 1000) for i in range(600)]
    for backend in ("arrays", "pycocotools", "faster"):
        if backend == "faster":
            pytest.importorskip("faster_coco_eval")
        scores = evaluate_coco(segm_set([[1, 1, 11, 1, 11, 11, 1, 11]]), detections, iou_type="segm", backend=backend)
        assert scores.AP == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [50, 50], "counts": "0h0"}, r"detections\[0\]: the run lengths hold 24 px.*has 2500"),
        ({"size": [50, 50], "counts": "o" * 50}, "cannot be read"),
        ({"size": None, "counts": "0"}, r"size of the RLE is None; expected \[height, width\]"),
        ([[1, 1, 5, 1, 5, 5]], "expected compressed RLE"),
        (encoded(np.ones((40, 50))), r"\(40, 50\) stands beside ground truth of \(50, 50\)"),
    ],
)
def test_masks_that_would_hang_or_score_nothing_are_refused(segmentation: Any, message: str) -> None:
    truth = segm_set([[1, 1, 11, 1, 11, 11, 1, 11]])
    with pytest.raises(DataError, match=message):
        evaluate_coco(truth, [found(segmentation)], iou_type="segm")


@pytest.mark.parametrize(
    "ring", [[float("nan"), 1, 2, 2, 3, 3], [1e9, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3], [1, 1, 2, 2], ["a", 1, 2, 2, 3, 3]]
)
def test_polygons_that_would_fill_the_memory_are_refused(ring: list[Any]) -> None:
    with pytest.raises(DataError, match=r"annotations\[0\] \(id 1\): segmentation cannot be read"):
        evaluate_coco(segm_set([ring]), [], iou_type="segm")


def test_text_is_no_number(tmp_path: Path) -> None:
    truth = segm_set([])
    good = {"image_id": 1, "category_id": 3, "bbox": [1, 1, 10, 10], "score": 0.5}
    for change, message in (({"score": "0.5"}, "score is '0.5'"), ({"bbox": "1234"}, "bbox is '1234'")):
        with pytest.raises(DataError, match=message):
            evaluate_coco(truth, [{**good, **change}])
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 200_000)
    with pytest.raises(DataError, match="cannot be read as COCO result JSON"):
        evaluate_coco(truth, deep)
    marked = tmp_path / "marked.json"  # a byte order mark, as some editors write it
    marked.write_bytes(b"\xef\xbb\xbf[]")
    assert evaluate_coco(truth, marked).AP == 0


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 5], "counts": "a"},
        {"size": [4, 5], "counts": b"0P1"},
        {"size": [4, 5], "counts": [0, 400]},
        {"size": [4, 5], "counts": None},
        [[0, 0, 1e9, 0, 1e9, 1e9]],
    ],
)
def test_a_segment_that_would_fill_foreign_memory_is_refused(segmentation: Any) -> None:
    with pytest.raises(DataError, match=r"run lengths|px|compressed RLE"):
        Segment.from_coco(segmentation, (4, 5))
