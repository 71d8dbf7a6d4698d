"""Pixels counted by class: by hand, every path against numpy, values out of range, counts beyond float32."""

import cv2
import numpy as np
import pytest
import torch

from effdense.errors import ShapeError
from effdense.evaluation import confusion
from effdense.evaluation.confusion import confusion_matrix, count_pairs, joint_histogram


def reference(prediction, target, classes, ignore_index=255):
    """One cell at a time."""
    counted = target != ignore_index
    return [[int(((target == t) & (prediction == p) & counted).sum()) for p in range(classes)] for t in range(classes)]


def maps(seed, classes, shape, ignored=0.2):
    generator = np.random.default_rng(seed)
    target = generator.integers(0, classes, shape).astype(np.uint8)
    target[generator.random(shape) < ignored] = 255
    return generator.integers(0, classes, shape).astype(np.uint8), target


def test_by_hand():
    prediction, target = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 0, 1, 255, 255])
    assert confusion_matrix(prediction, target, 2).tolist() == [[1, 1], [0, 1]]
    assert count_pairs(prediction, target, 2).tolist() == [1, 1, 0, 1, 0]
    assert count_pairs(torch.tensor([5, 0, 0]), torch.tensor([255, 9, 0]), 2).tolist() == [1, 0, 0, 0, 2]


CASES = {
    "ordinary": maps(0, 5, (40, 30)),
    "all ignored": (np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)),
    "one pixel": (np.array([[3]], np.uint8), np.array([[1]], np.uint8)),
    "nothing": (np.zeros((0, 5), np.uint8), np.zeros((0, 5), np.uint8)),
    "one class": (np.zeros((9, 7), np.uint8), np.zeros((9, 7), np.uint8)),
    "flipped view": tuple(m[::-1, ::-2] for m in maps(1, 5, (33, 21))),
    "transposed view": tuple(m.T for m in maps(2, 5, (33, 21))),
    "three axes": maps(3, 5, (2, 6, 7)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ignore_index", [255, 3, -1, 200])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_every_type_and_shape_counts_like_numpy(case, ignore_index, kind):
    prediction, target = (m.astype(kind) for m in CASES[case])
    target = np.where(target == 255, ignore_index if ignore_index >= 0 or kind != np.uint8 else 0, target).astype(kind)
    found = confusion_matrix(prediction, target, 5, ignore_index)
    assert found.dtype == torch.int64 and found.tolist() == reference(prediction, target, 5, ignore_index)
    if 0 not in target.strides:
        given = [torch.from_numpy(np.ascontiguousarray(m)) for m in (prediction, target)]
        assert torch.equal(confusion_matrix(*given, 5, ignore_index), found)


@pytest.mark.parametrize("classes", [1, 2, 150, 254, 255, 256])
def test_the_two_ways_of_counting_agree(classes):
    """The histogram of bytes and the scatter that other devices use."""
    prediction, target = (torch.from_numpy(m) for m in maps(classes, classes, (64, 50)))
    if classes == 256:
        target[target == 255] = 254
    ignore = -1 if classes == 256 else 255
    scattered = confusion._scattered(prediction.flatten(), target.flatten(), classes, ignore)
    assert torch.equal(count_pairs(prediction, target, classes, ignore), scattered)


def test_the_two_ways_agree_on_wrong_values():
    generator = np.random.default_rng(0)
    prediction, target = (torch.from_numpy(generator.integers(0, 256, (50, 40)).astype(np.uint8)) for _ in range(2))
    for ignore in (255, 2, -1, 100):
        scattered = confusion._scattered(prediction.flatten(), target.flatten(), 7, ignore)
        assert torch.equal(count_pairs(prediction, target, 7, ignore), scattered) and scattered[-1] > 0


def test_counts_beyond_the_reach_of_float32(monkeypatch):
    """2^24 + 1 equal pixels in one call would come back as 2^24."""
    assert confusion._MOST_PIXELS == 2**24 and float(np.float32(2**24) + np.float32(1)) == 2**24
    big = np.zeros(2**24 + 1, np.uint8)
    assert int(joint_histogram(big, big)[0, 0]) == 2**24 + 1
    monkeypatch.setattr(confusion, "_MOST_PIXELS", 7)
    prediction, target = maps(4, 6, (11, 13))
    assert confusion_matrix(prediction, target, 6).tolist() == reference(prediction, target, 6)


def test_threads_of_opencv_change_nothing():
    prediction, target = maps(5, 19, (300, 500))
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = joint_histogram(prediction, target)
        cv2.setNumThreads(4)
        assert np.array_equal(joint_histogram(prediction, target), one)
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([0, 3], [0, 0], "prediction holds 3; expected are classes 0..2"),
        ([0, 3], [0, 255], "prediction holds 3"),  # a model's own fault, wherever it is
        ([0, 0], [0, 9], r"target holds 9.* or 255 \(ignore\)"),
    ],
)
def test_values_that_are_no_class(kind, prediction, target, message):
    with pytest.raises(ShapeError, match=message):
        confusion_matrix(torch.tensor(prediction, dtype=kind), torch.tensor(target, dtype=kind), 3)


def test_values_beyond_32_bits_do_not_wrap_round():
    with pytest.raises(ShapeError, match=f"prediction holds {2**32 + 1}"):
        confusion_matrix(torch.tensor([2**32 + 1]), torch.tensor([0]), 3)
    with pytest.raises(ShapeError, match=f"target holds {-(2**40)}"):
        confusion_matrix(torch.tensor([1]), torch.tensor([-(2**40)]), 3)
