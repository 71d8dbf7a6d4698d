"""Segmentation scores: a matrix by hand, sums over batches, a numpy reference on random and adversarial maps."""

import json
import math

import numpy as np
import pytest
import torch

from effdense.errors import ShapeError
from effdense.evaluation.segmentation_scores import ConfusedPair, SegmentationScores, confusion_matrix, mean_names


def test_by_hand():
    target = torch.tensor([[0, 0, 1, 1], [1, 2, 255, 255]])
    prediction = torch.tensor([[0, 1, 1, 1], [0, 2, 2, 0]])
    matrix = confusion_matrix(prediction, target, 4)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    scores = SegmentationScores.from_confusion(matrix, ["a", "b", "c", "d"], num_images=2)
    assert scores.per_class_iou["a"] == pytest.approx(1 / 3) and scores.per_class_iou["b"] == pytest.approx(2 / 4)
    assert scores.per_class_dice["b"] == pytest.approx(4 / 6) and scores.per_class_accuracy["a"] == pytest.approx(1 / 2)
    assert math.isnan(scores.per_class_iou["d"]) and scores.absent == ("d",)
    assert scores.mIoU == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)
    assert scores.mDice == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert scores.pixel_accuracy == pytest.approx(4 / 6)
    assert scores.mean_accuracy == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert scores.per_class_pixels == {"a": 2, "b": 3, "c": 1, "d": 0}


def test_a_class_that_is_predicted_but_nowhere_true_counts_as_zero():
    matrix = confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    scores = SegmentationScores.from_confusion(matrix, ["a", "b"])
    assert scores.per_class_iou == {"a": 0.5, "b": 0.0} and scores.mIoU == 0.25 and not scores.absent
    assert math.isnan(scores.per_class_accuracy["b"]) and scores.mean_accuracy == 0.5


def test_nothing_to_score():
    matrix = confusion_matrix(torch.zeros(3, dtype=torch.uint8), torch.full((3,), 255, dtype=torch.uint8), 2)
    scores = SegmentationScores.from_confusion(matrix, ["a", "b"])
    assert all(math.isnan(score) for score in scores.to_dict().values()) and not scores.has_ground_truth
    assert "nothing to score" in scores.table()


def test_table_says_what_is_left_out():
    scores = SegmentationScores.from_confusion(np.diag([5, 3, 0]), ["road", "sky", "car"], num_images=2)
    table = scores.table()
    assert "2 images, 8 counted pixels" in table and "1 of 3 classes" in table and "means: car" in table
    assert [line.split() for line in table.splitlines()[1:4]] == [
        ["road", "5", "1.000", "1.000", "1.000"],
        ["sky", "3", "1.000", "1.000", "1.000"],
        ["car", "0", "-", "-", "-"],
    ]
    assert "most confused" not in table
    assert scores.to_dict() == dict.fromkeys(mean_names(False), 1.0)


def test_what_is_derived_by_hand():
    """Truth a: 6 px (4 right), b: 2 px (1 right), c: none; the band of c is in neither map."""
    counts = np.array([[4, 2, 0], [1, 1, 0], [0, 0, 0]])
    bands = np.array([[2, 0, 0], [4, 3, 0]])
    scores = SegmentationScores.from_confusion(counts, ["a", "b", "c"], boundary=bands, num_images=1)
    assert scores.fwIoU == pytest.approx((6 * 4 / 7 + 2 * 1 / 4) / 8)
    assert scores.per_class_precision["a"] == pytest.approx(4 / 5) and scores.per_class_precision["b"] == 1 / 3
    assert scores.mean_precision == pytest.approx((4 / 5 + 1 / 3) / 2) and math.isnan(scores.per_class_precision["c"])
    assert scores.per_class_boundary_iou["a"] == 0.5 and scores.boundary_mIoU == 0.25
    assert math.isnan(scores.per_class_boundary_iou["c"]) and list(scores.to_dict()) == list(mean_names(True))
    np.testing.assert_allclose(scores.normalised()[:2], [[4 / 6, 2 / 6, 0], [1 / 2, 1 / 2, 0]])
    assert np.isnan(scores.normalised()[2]).all()
    assert scores.most_confused() == [ConfusedPair("a", "b", 2, 2 / 6), ConfusedPair("b", "a", 1, 1 / 2)]
    assert scores.most_confused(1) == [ConfusedPair("a", "b", 2, 2 / 6)]
    lines = scores.table().splitlines()
    assert lines[0].split() == ["class", "pixels", "IoU", "Dice", "Acc", "BIoU"]
    assert lines[1].split() == ["a", "6", "0.571", "0.727", "0.667", "0.500"]
    assert lines[3].split() == ["c", "0", "-", "-", "-", "-"]
    assert "a   33.3 % taken for b" in lines and any(line.startswith("mBIoU ") for line in lines)


def test_the_report_is_complete_and_plain_json():
    counts = np.array([[4, 2, 0], [1, 1, 0], [0, 0, 0]])
    report = json.loads(
        json.dumps(SegmentationScores.from_confusion(counts, ["a", "b", "c"]).report(), allow_nan=False)
    )
    assert report["confusion"] == counts.tolist() and report["absent"] == ["c"] and report["num_images"] == 0
    assert set(report) == {*mean_names(False), "num_images", "absent", "classes", "confusion"}
    assert report["classes"]["c"] == {"pixels": 0, "iou": None, "dice": None, "accuracy": None, "precision": None}
    assert report["classes"]["b"]["iou"] == 0.25 and "boundary_iou" not in report["classes"]["b"]


def test_scores_without_a_matrix_say_so():
    with pytest.raises(ShapeError, match="from_confusion"):
        SegmentationScores(0.5, 0.5, 0.5, 0.5).normalised()
    with pytest.raises(ShapeError, match=r"boundary counts \(2, 2\), got \(2, 3\)"):
        SegmentationScores.from_confusion(np.eye(2, dtype=np.int64), ["a", "b"], boundary=np.ones((2, 3), np.int64))


def random_maps(seed, classes, shape=(3, 20, 30)):
    generator = np.random.default_rng(seed)
    target = generator.integers(0, classes, shape).astype(np.uint8)
    target[generator.random(shape) < 0.2] = 255
    return generator.integers(0, classes, shape).astype(np.uint8), target


def test_parts_add_up_to_the_whole():
    prediction, target = random_maps(0, 7)
    whole = confusion_matrix(prediction, target, 7)
    assert torch.equal(whole, sum(confusion_matrix(p, t, 7) for p, t in zip(prediction, target)))
    assert int(whole.sum()) == int((target != 255).sum())


@pytest.mark.parametrize("classes", [2, 11, 150, 254])
def test_numpy_reference(classes):
    prediction, target = random_maps(classes, classes)
    if classes == 11:
        prediction[prediction == 4], target[target == 4] = 3, 255  # class 4 absent
        target[target == 5] = 6  # class 5 predicted, never true
    ious, dices, accuracies = [], [], []
    valid = target != 255
    for k in range(classes):
        p, t = (prediction == k) & valid, target == k
        union, both = (p | t).sum(), (p & t).sum()
        ious.append(both / union if union else np.nan)
        dices.append(2 * both / (p.sum() + t.sum()) if union else np.nan)
        accuracies.append(both / t.sum() if t.any() else np.nan)
    for kind in (np.uint8, np.int64):
        matrix = confusion_matrix(prediction.astype(kind), torch.from_numpy(target.astype(kind)), classes)
        scores = SegmentationScores.from_confusion(matrix, [str(k) for k in range(classes)])
        np.testing.assert_allclose(list(scores.per_class_iou.values()), ious, rtol=1e-12)
        np.testing.assert_allclose(list(scores.per_class_dice.values()), dices, rtol=1e-12)
        np.testing.assert_allclose(list(scores.per_class_accuracy.values()), accuracies, rtol=1e-12)
        assert scores.mIoU == pytest.approx(np.nanmean(ious), rel=1e-12)
        assert scores.pixel_accuracy == pytest.approx((prediction == target)[valid].mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([0, 3], [0, 0], "prediction holds 3"),
        ([0, 0], [0, 9], "target holds 9.*255"),
        ([0, 0], [-1, 0], "target holds -1"),
        ([0, 0, 0], [0, 0], "one shape"),
        ([0.0, 1.0], [0, 1], "integer maps"),
    ],
)
def test_wrong_maps(prediction, target, message):
    with pytest.raises(ShapeError, match=message):
        confusion_matrix(torch.tensor(prediction), torch.tensor(target), 3)


def test_wrong_matrix():
    with pytest.raises(ShapeError, match="2 class names"):
        SegmentationScores.from_confusion(np.zeros((3, 3), np.int64), ["a", "b"])
