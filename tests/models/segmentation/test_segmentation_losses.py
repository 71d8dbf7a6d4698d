"""Segmentation losses: numbers by hand, all-ignore batches, torch's own cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F

from effdense.errors import ShapeError
from effdense.models.segmentation.losses import cross_entropy, dice_loss, segmentation_loss


def case(classes=4, ignored=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 7, 9, generator=generator)
    masks = torch.randint(0, classes, (2, 7, 9), generator=generator)
    masks[torch.rand(2, 7, 9, generator=generator) < ignored] = 255
    return logits, masks


def test_cross_entropy_by_hand():
    # Pixel 1: probabilities 3/4, 1/4, true 0; pixel 2: 1/2, 1/2, true 1; pixel 3 ignored.
    logits = torch.tensor([[[[math.log(3.0), 0.0, 50.0]], [[0.0, 0.0, -50.0]]]])
    masks = torch.tensor([[[0, 1, 255]]])
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert cross_entropy(logits, masks).item() == pytest.approx(expected, abs=1e-6)
    weighted = (1 * math.log(4 / 3) + 3 * math.log(2)) / 4
    assert cross_entropy(logits, masks, class_weights=torch.tensor([1.0, 3.0])).item() == pytest.approx(
        weighted, abs=1e-6
    )


def test_dice_by_hand():
    # Class 0: overlap 3/4, predicted 3/4 + 1/2, true 1. Class 1: overlap 1/2, predicted 1/4 + 1/2, true 1.
    logits = torch.tensor([[[[math.log(3.0), 0.0, 50.0]], [[0.0, 0.0, -50.0]]]])
    masks = torch.tensor([[[0, 1, 255]]])
    scores = (2 * 0.75 + 1) / (1.25 + 1 + 1), (2 * 0.5 + 1) / (0.75 + 1 + 1)
    assert dice_loss(logits, masks).item() == pytest.approx(1 - sum(scores) / 2, abs=1e-6)


def test_dice_leaves_absent_classes_out():
    logits = torch.zeros(1, 5, 4, 4)
    logits[:, 2] = 50.0
    assert dice_loss(logits, torch.full((1, 4, 4), 2)).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"class_weights": torch.tensor([0.5, 2.0, 0.0, 1.0])}, {"dice_weight": 1.0}])
def test_an_all_ignore_batch_gives_zero_and_zero_gradients(options):
    logits, masks = case()
    logits.requires_grad_()
    loss = segmentation_loss(logits, torch.full_like(masks, 255), label_smoothing=0.1, **options)["loss_seg"]
    loss.backward()
    assert loss.item() == 0.0
    assert (logits.grad == 0).all()


def test_ignored_pixels_get_no_gradient():
    logits, masks = case()
    logits.requires_grad_()
    segmentation_loss(logits, masks, dice_weight=1.0)["loss_seg"].backward()
    ignored = (masks == 255)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all() and (logits.grad[~ignored] != 0).any()


def test_weights_add_up():
    logits, masks = case()
    both = segmentation_loss(logits, masks, ce_weight=0.5, dice_weight=2.0)["loss_seg"]
    assert both.item() == pytest.approx(0.5 * cross_entropy(logits, masks).item() + 2 * dice_loss(logits, masks).item())


def test_uint8_masks_and_half_logits():
    logits, masks = case()
    loss = segmentation_loss(logits.bfloat16(), masks.to(torch.uint8), dice_weight=1.0)["loss_seg"]
    expected = segmentation_loss(logits.bfloat16().float(), masks, dice_weight=1.0)["loss_seg"]
    assert loss.dtype == torch.float32 and loss.item() == expected.item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0, 0.1])])
def test_cross_entropy_is_torchs(smoothing, weights):
    logits, masks = case()
    ours = cross_entropy(logits, masks, class_weights=weights, label_smoothing=smoothing)
    theirs = F.cross_entropy(logits, masks, weights, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_wrong_masks():
    logits, masks = case()
    with pytest.raises(ShapeError, match=r"\(2, 7, 9\)"):
        segmentation_loss(logits, masks[:, :3])
    with pytest.raises(ShapeError, match="float32"):
        segmentation_loss(logits, masks.float())
    masks[0, 0, 0] = 9
    with pytest.raises(ShapeError, match=r"\[9\].*0\.\.3"):
        segmentation_loss(logits, masks)
