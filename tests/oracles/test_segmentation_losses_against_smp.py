"""Our loss terms equal segmentation-models-pytorch's wherever the two define the same thing.

They differ on purpose in the mean over classes (ours leaves out classes that no mask holds, smp counts them as 0) and
in the focal loss of several classes (ours over softmax probabilities, smp's class ``FocalLoss`` one against the rest).
"""

from __future__ import annotations

import pytest
import torch
from segmentation_models_pytorch import losses as smp
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from torch import Tensor

from effdense.models.segmentation.losses import (
    Pixels,
    cross_entropy,
    dice_loss,
    focal_loss,
    lovasz_loss,
    pixels_of,
)

IGNORE = 255
SEEDS = range(5)
LOVASZ_ATOL = 2.0**-23  # smp works in float32 and takes its steps as differences of ratios of up to 1


def case(classes: int, seed: int) -> tuple[Tensor, Tensor, Pixels]:
    """Logits in either memory format, masks that hold every class, and our view of both."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, classes, 11, 13, generator=generator, dtype=torch.float64)
    masks = torch.randint(0, max(2, classes), (3, 11, 13), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = IGNORE
    if seed % 2:
        logits = logits.contiguous(memory_format=torch.channels_last)
    logits.requires_grad_()
    return logits, masks, pixels_of(logits, masks, IGNORE)


def assert_equal(ours: Tensor, theirs: Tensor, logits: Tensor, atol: float = 1e-12) -> None:
    """Value and gradient, in float64."""
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-9, atol=10 * atol)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_dice(classes: int, seed: int) -> None:
    """smp adds its smoothing to half of the sums."""
    logits, masks, pixels = case(classes, seed)
    mode = "binary" if classes == 1 else "multiclass"
    theirs = smp.DiceLoss(mode, smooth=0.5, ignore_index=IGNORE)(logits, masks)
    assert_equal(dice_loss(pixels), theirs, logits)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_lovasz(classes: int, seed: int) -> None:
    logits, masks, pixels = case(classes, seed)
    mode = "binary" if classes == 1 else "multiclass"
    theirs = smp.LovaszLoss(mode, ignore_index=IGNORE)(logits.float(), masks)
    assert_equal(lovasz_loss(pixels), theirs, logits, LOVASZ_ATOL)


def test_lovasz_with_absent_classes_and_none_of_the_object() -> None:
    logits, masks, _ = case(7, 0)
    masks[(masks == 2) | (masks == 5)] = IGNORE
    theirs = smp.LovaszLoss("multiclass", ignore_index=IGNORE)(logits.float(), masks)
    assert_equal(lovasz_loss(pixels_of(logits, masks)), theirs, logits, LOVASZ_ATOL)
    logits, masks, _ = case(1, 0)
    masks[masks == 1] = 0
    theirs = smp.LovaszLoss("binary", ignore_index=IGNORE)(logits.float(), masks)
    assert_equal(lovasz_loss(pixels_of(logits, masks)), theirs, logits, LOVASZ_ATOL)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize("classes", [1, 5])
def test_focal(classes: int, gamma: float) -> None:
    logits, masks, pixels = case(classes, 1)
    if classes == 1:
        theirs = smp.FocalLoss("binary", gamma=gamma, ignore_index=IGNORE)(logits, masks)
    else:
        counted = masks != IGNORE
        chosen = logits.permute(0, 2, 3, 1)[counted]
        theirs = softmax_focal_loss_with_logits(chosen, masks[counted], gamma=gamma)
    assert_equal(focal_loss(pixels, gamma=gamma), theirs, logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_cross_entropy(smoothing: float) -> None:
    """smp's mean counts ignored pixels, its sum does not."""
    logits, masks, pixels = case(6, 2)
    summed = smp.SoftCrossEntropyLoss("sum", smooth_factor=smoothing, ignore_index=IGNORE)(logits, masks)
    assert_equal(cross_entropy(pixels, None, smoothing), summed / (masks != IGNORE).sum(), logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_binary_cross_entropy(smoothing: float) -> None:
    """smp moves the whole share to the other class, we spread it over both."""
    logits, masks, pixels = case(1, 2)
    term = smp.SoftBCEWithLogitsLoss(ignore_index=IGNORE, reduction="sum", smooth_factor=smoothing / 2)
    summed = term(logits[:, 0], masks.double())
    assert_equal(cross_entropy(pixels, None, smoothing), summed / (masks != IGNORE).sum(), logits)
