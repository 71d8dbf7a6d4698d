"""Panels of a detector: of a wall of false boxes the surest are drawn, so that the picture is seen."""

from __future__ import annotations

import numpy as np

from effdense.evaluation import Found, Truth, rank_images, tide_errors
from effdense.report.detection_gallery import PanelSource, _said_marks, detection_gallery
from effdense.report.document import Gallery


def source(false: int) -> PanelSource:
    """One object found with score .3, and ``false`` boxes on nothing, from score .9 downwards."""
    truth = Truth.from_coco(
        {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}],
        }
    )
    boxes = [[0.0, 0, 10, 10], *([50.0 + i, 50, 5, 5] for i in range(false))]
    scores = [0.3, *(0.9 - i / 100 for i in range(false))]
    found = Found.of([{"image_id": 1, "category_id": 1, "bbox": b, "score": s} for b, s in zip(boxes, scores)], truth)
    matching = tide_errors(truth, found).matching
    ranking = rank_images(truth, found, matching, 0.1)
    return PanelSource(truth, found, matching, ranking, 0.1, lambda _: np.zeros((90, 90, 3), np.uint8), ["a.jpg"])


def test_the_surest_false_boxes_are_drawn_and_the_caption_says_so() -> None:
    for false, drawn in ((0, 0), (1, 1), (15, 15), (40, 15)):
        marks = _said_marks(0, source(false))
        wrong = [mark for mark in marks if mark.fate == "wrong"]
        assert len(wrong) == drawn
        assert [mark.fate for mark in marks].count("right") == 1
        if drawn:
            assert wrong[-1].text == "Bkg: cat 0.90"
        gallery = detection_gallery("Worst pictures", "worst", [0], source(false), []).blocks[1]
        assert isinstance(gallery, Gallery)
        assert f"{false} false" in gallery.pictures[0].caption
        assert ("drawn: the 15 surest" in gallery.pictures[0].caption) == (false > 15)
