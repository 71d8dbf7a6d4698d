"""Top-k accuracy: four pictures by hand, parts that add up, ties and NaN, and a count by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from effdense.errors import ShapeError
from effdense.evaluation.top_k import TopKScores, correct_at

NAMES = ("cat", "dog", "fox")


def test_four_pictures_by_hand() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [3.0, 2.0, 1.0], [0.0, 0.0, 9.0]])
    labels = torch.tensor([0, 2, 2, 2])
    assert correct_at(logits, labels, ks=(1, 2, 3)).tolist() == [
        [True, True, True],
        [False, True, True],
        [False, False, True],
        [True, True, True],
    ]
    scores = TopKScores.from_arrays(correct_at(logits, labels), labels, NAMES)
    assert (scores.top1, scores.top5, scores.num_images) == (0.5, 1.0, 4)
    assert scores.per_class["cat"] == 1.0 and scores.per_class["fox"] == pytest.approx(1 / 3)
    assert math.isnan(scores.per_class["dog"])  # no picture of it
    assert scores.mean_class_accuracy == pytest.approx((1 + 1 / 3) / 2)
    assert scores.per_class_images == {"cat": 1, "dog": 0, "fox": 3}


def test_more_than_all_classes_is_all_of_them() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert correct_at(logits, labels, ks=(5, 100)).all()


def test_unlabelled_pictures_are_not_scored() -> None:
    logits, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, -1])
    correct = correct_at(logits, labels, ks=(1, 2))
    assert correct.tolist() == [[True, True], [False, False]]
    scores = TopKScores.from_arrays(correct, labels, ("a", "b"))
    assert (scores.top1, scores.num_images, scores.num_ignored) == (1.0, 1, 1)
    assert "1 images, 1 without label" in scores.table()


def test_nothing_to_score_is_nan_and_said() -> None:
    for count in (0, 2):
        scores = TopKScores.from_arrays(np.zeros((count, 2), bool), np.full(count, -1), NAMES)
        assert all(math.isnan(value) for value in scores.to_dict().values())
        assert "there is nothing to score" in scores.table()


def test_a_network_that_breaks_down_is_never_right() -> None:
    labels = torch.tensor([0, 1, 2])
    assert not correct_at(torch.full((3, 3), math.nan), labels).any()
    assert correct_at(torch.tensor([[1.0, math.nan, 0.0]]), torch.tensor([0]), ks=(1,)).all()


def test_a_constant_answer_is_right_for_one_class_only() -> None:
    """Ties must not count for everyone."""
    assert correct_at(torch.zeros(3, 3), torch.tensor([0, 1, 2]), ks=(1,)).sum() == 1


def test_parts_add_up_to_the_whole() -> None:
    """Counting batches on their own, in any order, gives what one batch gives."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(64, 10, generator=generator), torch.randint(-1, 10, (64,), generator=generator)
    names = [str(i) for i in range(10)]
    whole = TopKScores.from_arrays(correct_at(logits, labels), labels, names)
    order = torch.randperm(64, generator=generator)
    parts = torch.cat([correct_at(logits[i], labels[i]) for i in order.split(7)])
    assert TopKScores.from_arrays(parts.numpy(), labels[order].numpy(), names) == whole
    scored = [(row.argsort(descending=True).tolist(), int(label)) for row, label in zip(logits, labels) if label >= 0]
    assert whole.top1 == pytest.approx(np.mean([ranking[0] == label for ranking, label in scored]))
    assert whole.top5 == pytest.approx(np.mean([label in ranking[:5] for ranking, label in scored]))
    probabilities = correct_at(logits.softmax(1), labels)
    assert torch.equal(probabilities, correct_at(logits, labels))


def test_table() -> None:
    labels = np.array([0, 0, 2])
    scores = TopKScores.from_arrays(np.array([[1, 1], [0, 1], [1, 1]], bool), labels, NAMES)
    lines = scores.table().splitlines()
    assert lines[0].split() == ["class", "images", "top-1"]
    assert lines[1].split() == ["cat", "2", "0.500"] and lines[2].split() == ["dog", "0", "-"]
    assert lines[-3:] == [
        "top-1 accuracy               0.667",
        "top-5 accuracy               1.000",
        "mean of the classes' top-1   0.750",
    ]
    short = scores.table(rows=1).splitlines()
    assert short[1].split()[0] == "cat" and "2 classes" in short[2]
    assert scores.to_dict().keys() == {"top1", "top5", "mean_class_accuracy"}


@pytest.mark.parametrize(
    ("logits", "labels", "ks"),
    [
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), (1,)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.long), (1,)),
        (torch.zeros(2, 3), torch.zeros(2), (1,)),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), (0,)),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), ()),
    ],
)
def test_shapes_that_do_not_fit(logits: torch.Tensor, labels: torch.Tensor, ks: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="correct_at"):
        correct_at(logits, labels, ks)


def test_arrays_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 2\) and \(2,\)"):
        TopKScores.from_arrays(np.zeros((3, 2), bool), np.zeros(2, int), NAMES)
    with pytest.raises(ShapeError, match="label 3 has no name"):
        TopKScores.from_arrays(np.zeros((1, 2), bool), np.array([3]), NAMES)
