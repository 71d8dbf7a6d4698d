"""Reports of segmentors and classifiers from arrays: every section, and pictures that cannot be read."""

from __future__ import annotations

import json

import numpy as np

from effdense.errors import DataError
from effdense.evaluation.confusion import confusion_matrix
from effdense.evaluation.segmentation_scores import SegmentationScores
from effdense.evaluation.top_k import TopKScores
from effdense.report import render_html
from effdense.report.classification import Answer, classification_report
from effdense.report.segmentation import MaskedImage, segmentation_report

NAMES = ("background", "cat <b>", "dog")


def missing() -> np.ndarray:
    raise DataError("b.jpg: the file does not exist.")


def masks() -> tuple[list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(0)
    truths = [generator.integers(0, 3, (20, 30)).astype(np.uint8) for _ in range(3)]
    truths[0][:5] = 255
    said = [truth % 3 for truth in truths]
    said[1] = np.zeros_like(said[1])
    return truths, said


def test_segmentation() -> None:
    truths, said = masks()
    counts = sum(confusion_matrix(p, t, 3).numpy() for p, t in zip(said, truths, strict=True))
    scores = SegmentationScores.from_confusion(counts, NAMES, num_images=3)
    images = [
        MaskedImage(f"{name}.jpg", image, lambda t=t: t, lambda p=p: p)
        for name, image, t, p in zip(
            "abc", [lambda: np.zeros((20, 30, 3), np.uint8), missing, missing], truths, said, strict=True
        )
    ]
    document, numbers = segmentation_report("run", [("run", "x")], scores, images, gallery=5)
    assert [section.title for section in document.sections] == [
        "Scores", "Classes", "Taken for each other", "Worst pictures", "Best pictures",
        "Pictures that could not be read",
    ]  # fmt: skip
    assert [one["file"] for one in numbers["worst"]] == ["b.jpg"]
    assert numbers["worst"][0]["wrong_share"] == float((truths[1] != 0).mean())
    assert {picture.name for picture in document.pictures()} == {
        "class_iou.png", "confusion.png", "worst_01_b.jpg", "best_01_c.jpg", "best_02_a.jpg",
    }  # fmt: skip
    text = render_html(document)
    assert "b.jpg: the file does not exist." in text and "cat &lt;b&gt;" in text and "cat <b>" not in text


def test_segmentation_with_nothing_counted() -> None:
    scores = SegmentationScores.from_confusion(np.zeros((3, 3), np.int64), NAMES, num_images=1)
    empty = np.full((8, 8), 255, np.uint8)
    image = MaskedImage("a.jpg", missing, lambda: empty, lambda: empty * 0)
    document, numbers = segmentation_report("run", [], scores, [image])
    assert "nothing to score" in render_html(document) and numbers["mIoU"] is None


def test_classification() -> None:
    answers = [
        Answer("x/a.jpg", "cat", {"cat": 0.9, "dog": 0.1}),
        Answer("x/b.jpg", "cat", {"dog": 0.6, "cat": 0.4}),
        Answer("x/c.jpg", "dog", {"cat": 0.95, "dog": 0.05}),
    ]
    correct = np.array([[True, True], [False, True], [False, True]])
    scores = TopKScores.from_arrays(correct, np.array([0, 0, 1]), ("cat", "dog"))

    def load(path: str) -> np.ndarray:
        return missing() if path.endswith("b.jpg") else np.zeros((40, 50, 3), np.uint8)

    document, numbers = classification_report("run", [], scores, answers, load)
    assert [one["file"] for one in numbers["worst"]] == ["x/c.jpg", "x/b.jpg"]  # the surest mistake first
    assert np.asarray(numbers["confusion"]).tolist() == [[1, 1], [1, 0]]
    assert json.dumps(numbers["classes"]["dog"]) == '{"images": 1, "top1": 0.0}'
    text = render_html(document)
    assert "c.jpg: dog, taken for cat (0.95)" in text and "the file does not exist" in text
