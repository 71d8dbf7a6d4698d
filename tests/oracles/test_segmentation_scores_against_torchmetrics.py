"""Confusion matrix, IoU, Dice, accuracy and precision against torchmetrics, on random and adversarial maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from effdense.evaluation.segmentation_scores import SegmentationScores, confusion_matrix

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
)


def maps(kind: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(classes)
    target = generator.integers(0, classes, (40, 50)).astype(np.uint8)
    prediction = np.where(generator.random(target.shape) < 0.7, target, generator.integers(0, classes, target.shape))
    if kind == "absent":  # neither in truth nor in prediction
        prediction[prediction == 1], target[target == 1] = 0, 0
    elif kind == "never predicted":
        prediction[prediction == 1] = 0
    elif kind == "never true":
        target[target == 1] = 0
    elif kind == "one class":
        prediction[:], target[:] = 0, 0
    elif kind == "one pixel":
        target[:] = 255
        target[3, 4] = 1
    elif kind == "all wrong":
        prediction = (target + 1) % classes
    if kind != "all wrong":
        target[generator.random(target.shape) < 0.1] = 255
    return prediction.astype(np.uint8), target


@pytest.mark.parametrize("classes", [2, 11, 150])
@pytest.mark.parametrize(
    "kind", ["random", "absent", "never predicted", "never true", "one class", "one pixel", "all wrong"]
)
def test_torchmetrics(kind: str, classes: int) -> None:
    prediction, target = maps(kind, classes)
    given = torch.from_numpy(prediction).long(), torch.from_numpy(target).long()
    options = {"num_classes": classes, "ignore_index": 255}
    matrix = confusion_matrix(prediction, target, classes)
    assert torch.equal(matrix, MulticlassConfusionMatrix(**options)(*given))
    names = [str(k) for k in range(classes)]
    scores = SegmentationScores.from_confusion(matrix, names)
    for metric, found in (
        (MulticlassJaccardIndex, scores.per_class_iou),
        (MulticlassF1Score, scores.per_class_dice),
        (MulticlassAccuracy, scores.per_class_accuracy),
        (MulticlassPrecision, scores.per_class_precision),
    ):
        theirs = metric(**options, average=None)(*given).tolist()
        for name, score, expected in zip(names, found.values(), theirs, strict=True):
            # torchmetrics says 0 where there is nothing to divide by.
            assert score == pytest.approx(expected, abs=1e-6) or (math.isnan(score) and expected == 0), (metric, name)
    # Its mean leaves out classes that are neither true nor predicted, as ours does.
    assert scores.mIoU == pytest.approx(MulticlassJaccardIndex(**options)(*given).item(), rel=1e-5)
    assert scores.pixel_accuracy == pytest.approx(
        MulticlassAccuracy(**options, average="micro")(*given).item(), rel=1e-6
    )
    weighted = MulticlassJaccardIndex(**options, average="weighted")(*given).item()
    assert scores.fwIoU == pytest.approx(weighted, rel=1e-5)
