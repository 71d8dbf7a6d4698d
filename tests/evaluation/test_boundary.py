"""Boundary IoU: bands by hand, an independent numpy reference class by class, what ignored pixels do."""

import numpy as np
import pytest
import torch

from effdense.errors import ConfigError, ShapeError
from effdense.evaluation import boundary
from effdense.evaluation.boundary import band_width, boundary_band, boundary_counts, check_ratio
from effdense.evaluation.segmentation_scores import SegmentationScores


def eroded(mask, width):
    """A binary mask after ``width`` erosions by 3 x 3, zeros beyond the picture, as the paper's code does it."""
    for _ in range(width):
        padded = np.pad(mask, 1)
        shifted = [padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
        mask = np.logical_and.reduce(shifted)
    return mask


def reference(prediction, target, classes, ratio):
    width = max(1, round(ratio * (target.shape[0] ** 2 + target.shape[1] ** 2) ** 0.5))
    counted = target != 255
    rows = []
    for k in range(classes):
        bands = [m & ~eroded(m, width) for m in ((prediction == k) & counted, target == k)]
        rows.append((int((bands[0] & bands[1]).sum()), int((bands[0] | bands[1]).sum())))
    return np.array(rows).T.tolist()


def blobs(seed, classes, shape=(40, 60), ignored=0.1):
    """Maps with regions some pixels wide, and a prediction that is off by a few."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, classes, (shape[0] // 8 + 1, shape[1] // 8 + 1)).astype(np.uint8)
    target = np.repeat(np.repeat(coarse, 8, 0), 8, 1)[: shape[0], : shape[1]].copy()
    prediction = np.roll(target, generator.integers(-3, 4, 2), (0, 1))
    noise = generator.random(shape) < 0.02
    prediction[noise] = generator.integers(0, classes, int(noise.sum()))
    top, left = (int(generator.integers(0, side // 2 + 1)) for side in shape)
    target[top : top + int(shape[0] * ignored), left : left + 12] = 255
    return prediction, target


def test_a_band_by_hand():
    labels = torch.zeros(7, 9, dtype=torch.uint8)
    labels[:, 5:] = 1
    expected = torch.ones(7, 9, dtype=torch.bool)
    expected[1:-1, 1:4] = expected[1:-1, 6:8] = False  # a step away from the border and from the other class
    assert torch.equal(boundary_band(labels, 1), expected)
    assert boundary_band(labels, 4).all()
    assert band_width(1024, 2048) == 46 and band_width(4, 4) == 1


def test_counts_by_hand():
    """A border moved by two pixels, bands one wide: at columns 4 | 5 and 2 | 3 they meet at the frame alone."""
    target = torch.zeros(6, 8, dtype=torch.uint8)
    target[:, 5:] = 1
    prediction = torch.zeros(6, 8, dtype=torch.uint8)
    prediction[:, 3:] = 1
    both, union = boundary_counts(prediction, target, 2, ratio=0.1).tolist()
    # Class 0: frame of columns 0-4 (18 px) and of 0-2 (14 px); in both: column 0 and rows 0, 5 of columns 1, 2.
    assert (both[0], union[0]) == (6 + 4, 18 + 14 - 10)
    assert (
        boundary_counts(target, target, 2, ratio=0.1)[0].tolist()
        == boundary_counts(target, target, 2, ratio=0.1)[1].tolist()
    )


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.07, 1.0])
@pytest.mark.parametrize(
    ("classes", "shape"), [(1, (9, 9)), (2, (40, 60)), (7, (33, 70)), (254, (24, 24)), (3, (1, 1))]
)
def test_numpy_reference(ratio, classes, shape):
    prediction, target = blobs(classes, classes, shape)
    given = torch.from_numpy(prediction), torch.from_numpy(target)
    assert boundary_counts(*given, classes, ratio=ratio).tolist() == reference(prediction, target, classes, ratio)
    turned = given[0].T, given[1].T
    assert torch.equal(boundary_counts(*turned, classes, ratio=ratio), boundary_counts(*given, classes, ratio=ratio))


@pytest.mark.parametrize("width", [1, 3, 40])
def test_the_devices_way_is_the_cpus(width):
    """Pooling of half floats, run here on the CPU, against OpenCV's morphology; the border is added to both."""
    labels = torch.from_numpy(blobs(width, 200)[1])
    pooled = boundary._differs_nearby(labels, width)
    inside = slice(width, -width)
    assert torch.equal(pooled[inside, inside], boundary_band(labels, width)[inside, inside])
    assert boundary_band(labels, width)[pooled].all()


def test_a_perfect_prediction_scores_one_whatever_is_ignored():
    for seed in range(5):
        _, target = blobs(seed, 4)
        filled = target.copy()
        filled[target == 255] = 2  # predictions have a class there too
        both, union = boundary_counts(torch.from_numpy(filled), torch.from_numpy(target), 4)
        assert torch.equal(both, union) and int(union.sum()) > 0


def test_what_is_predicted_where_the_truth_is_ignored_does_not_matter():
    prediction, target = blobs(1, 4)
    other = prediction.copy()
    other[target == 255] = np.random.default_rng(0).integers(0, 4, int((target == 255).sum()))
    first, second = (boundary_counts(torch.from_numpy(p), torch.from_numpy(target), 4) for p in (prediction, other))
    assert torch.equal(first, second)


def test_all_ignored_and_nothing_at_all():
    nothing = boundary_counts(torch.zeros(5, 5, dtype=torch.uint8), torch.full((5, 5), 255, dtype=torch.uint8), 3)
    assert nothing.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert boundary_counts(torch.zeros(0, 5, dtype=torch.uint8), torch.zeros(0, 5, dtype=torch.uint8), 2).sum() == 0
    scores = SegmentationScores.from_confusion(np.zeros((3, 3), np.int64), list("abc"), boundary=nothing)
    assert np.isnan(scores.boundary_mIoU)


def test_wrong_use():
    labels = torch.zeros(4, 4, dtype=torch.uint8)
    with pytest.raises(ShapeError, match=r"two \(H, W\) uint8 maps"):
        boundary_counts(labels[None], labels[None], 2)
    with pytest.raises(ShapeError, match="uint8 maps"):
        boundary_counts(labels.long(), labels, 2)
    with pytest.raises(ShapeError, match="at most 254 classes"):
        boundary_counts(labels, labels, 255)
    for ratio in (0, -0.1, 1.5, "2%", True):
        with pytest.raises(ConfigError, match="boundary_ratio is a share"):
            check_ratio(ratio)
    assert boundary.RATIO == 0.02
