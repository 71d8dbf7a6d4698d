"""Segmentation losses: numbers by hand, all-ignore batches, gradients, one logit as two classes, no device wait."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from effdense.errors import ConfigError, ShapeError
from effdense.models.segmentation.losses import (
    cross_entropy,
    dice_loss,
    focal_loss,
    lovasz_loss,
    ohem_cross_entropy,
    pixels_of,
    segmentation_loss,
)
from effdense.models.segmentation.lovasz import jaccard_steps, lovasz_softmax

TERMS = {"ce": cross_entropy, "dice": dice_loss, "focal": focal_loss, "lovasz": lovasz_loss, "ohem": ohem_cross_entropy}
EVERY = {f"{name}_weight": 1.0 for name in TERMS}


def case(classes=4, ignored=0.3, seed=0):
    """Logits, of one class for the binary case, and masks with all classes and holes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 7, 9, generator=generator)
    masks = torch.randint(0, max(2, classes), (2, 7, 9), generator=generator)
    masks[torch.rand(2, 7, 9, generator=generator) < ignored] = 255
    return logits, masks


def only(name, **options):
    """Options that leave one term."""
    return {"ce_weight": 0.0, f"{name}_weight": 1.0, **options}


# Pixel 1: probabilities 3/4, 1/4, true 0; pixel 2: 1/2, 1/2, true 1; pixel 3 ignored.
HAND = torch.tensor([[[[math.log(3.0), 0.0, 50.0]], [[0.0, 0.0, -50.0]]]]), torch.tensor([[[0, 1, 255]]])


def test_cross_entropy_by_hand():
    pixels = pixels_of(*HAND)
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert cross_entropy(pixels).item() == pytest.approx(expected, abs=1e-6)
    weighted = (1 * math.log(4 / 3) + 3 * math.log(2)) / 4
    assert cross_entropy(pixels, torch.tensor([1.0, 3.0])).item() == pytest.approx(weighted, abs=1e-6)


def test_dice_by_hand():
    # Class 0: overlap 3/4, predicted 3/4 + 1/2, true 1. Class 1: overlap 1/2, predicted 1/4 + 1/2, true 1.
    scores = (2 * 0.75 + 1) / (1.25 + 1 + 1), (2 * 0.5 + 1) / (0.75 + 1 + 1)
    assert dice_loss(pixels_of(*HAND)).item() == pytest.approx(1 - sum(scores) / 2, abs=1e-6)


def test_focal_by_hand():
    expected = (0.25**2 * math.log(4 / 3) + 0.5**2 * math.log(2)) / 2
    assert focal_loss(pixels_of(*HAND)).item() == pytest.approx(expected, abs=1e-6)
    weighted = (1 * 0.25 * math.log(4 / 3) + 3 * 0.5 * math.log(2)) / 4
    ours = focal_loss(pixels_of(*HAND), torch.tensor([1.0, 3.0]), gamma=1.0)
    assert ours.item() == pytest.approx(weighted, abs=1e-6)


def test_ohem_by_hand():
    pixels = pixels_of(*HAND)
    assert ohem_cross_entropy(pixels, threshold=0.6, min_kept=0.0).item() == pytest.approx(math.log(2), abs=1e-6)
    # Nothing is below .3, so the hardest half of two pixels is one; of the whole, both; without a least share, none.
    assert ohem_cross_entropy(pixels, threshold=0.3, min_kept=0.5).item() == pytest.approx(math.log(2), abs=1e-6)
    both = (math.log(4 / 3) + math.log(2)) / 2
    assert ohem_cross_entropy(pixels, threshold=0.3, min_kept=1.0).item() == pytest.approx(both, abs=1e-6)
    assert ohem_cross_entropy(pixels, threshold=0.3, min_kept=0.0).item() == 0.0
    assert ohem_cross_entropy(pixels, threshold=0.0, min_kept=0.0).item() == 0.0


def test_lovasz_by_hand():
    # Either class: errors 1/4 (pixel 1) and 1/2 (pixel 2). Class 0 has pixel 1: the first wrong pixel is a false one,
    # Jaccard loss 1 - 1/2; then the only true one too, 1. Class 1 has pixel 2: 1 at once.
    expected = ((0.5 * 0.5 + 0.25 * 0.5) + 0.5 * 1.0) / 2
    assert lovasz_loss(pixels_of(*HAND)).item() == pytest.approx(expected, abs=1e-6)


def test_lovasz_hinge_by_hand():
    # Errors 1 - z s: 1 - 2 -> -1 cut to 0 (object), 1 + .5 (background), 1 - .5 (object); the last pixel is ignored.
    logits, masks = torch.tensor([[[[2.0, 0.5, 0.5, 9.0]]]]), torch.tensor([[[1, 0, 1, 255]]])
    # Steps: background first, 1 - 2/3; an object then, 1 - 1/3.
    expected = 1.5 * (1 / 3) + 0.5 * (1 / 3)
    assert lovasz_loss(pixels_of(logits, masks)).item() == pytest.approx(expected, abs=1e-6)
    # Without an object the largest false alarm is the loss.
    none = torch.tensor([[[0, 0, 0, 255]]])
    assert lovasz_loss(pixels_of(logits, none)).item() == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize("foreground", [0, 1, 40, 200])
def test_jaccard_steps_are_those_of_the_definition(foreground):
    """Float64 NumPy: Jaccard loss of the i worst pixels turned wrong, minus that of the i - 1 worst."""
    generator = np.random.default_rng(foreground)
    errors = generator.random(200)
    truth = np.zeros(200, bool)
    truth[generator.permutation(200)[:foreground]] = True
    order = np.argsort(-errors)
    expected, before = np.zeros(200), 0.0
    for i in range(200):
        prediction = truth.copy()
        prediction[order[: i + 1]] ^= True
        union = (prediction | truth).sum()
        loss = 1 - (prediction & truth).sum() / union
        expected[order[i]], before = loss - before, loss
    steps = jaccard_steps(torch.from_numpy(errors), torch.from_numpy(truth))
    np.testing.assert_allclose(steps.numpy(), expected, atol=1e-12)


def test_jaccard_steps_of_a_million_pixels_keep_their_digits():
    """Differences of float32 ratios would be 0 or 6e-8 here."""
    errors = torch.linspace(1.0, 0.0, 1_000_001)
    foreground = torch.zeros(1_000_001, dtype=torch.bool)
    foreground[-1] = True
    steps = jaccard_steps(errors, foreground)
    assert steps[1000].item() == pytest.approx(1 / (1002 * 1001), rel=1e-5)
    assert steps.double().sum().item() == pytest.approx(1.0, rel=1e-5)


def test_dice_and_lovasz_leave_absent_classes_out():
    logits = torch.zeros(1, 5, 4, 4)
    logits[:, 2] = 50.0
    pixels = pixels_of(logits, torch.full((1, 4, 4), 2))
    assert dice_loss(pixels).item() == pytest.approx(0.0, abs=1e-6)
    assert lovasz_loss(pixels).item() == pytest.approx(0.0, abs=1e-6)


# -- ignored pixels ----------------------------------------------------------------------------------------------------

COMBINATIONS = [
    names for count in (1, 2, len(TERMS)) for names in itertools.combinations(TERMS, count)
]  # each alone, each pair, all


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_an_all_ignore_batch_gives_zero_and_zero_gradients(names, classes, weighted):
    logits, masks = case(classes)
    logits.requires_grad_()
    options = {f"{name}_weight": 0.7 for name in names}
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0])[: max(2, classes)] if weighted else None
    losses = segmentation_loss(
        logits,
        torch.full_like(masks, 255),
        label_smoothing=0.1,
        class_weights=weights,
        **{"ce_weight": 0.0, **options},
    )
    losses["loss_seg"].backward()
    assert all(value.item() == 0.0 for value in losses.values())
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("name", TERMS)
def test_ignored_pixels_count_for_nothing(name, classes):
    """Other logits there change neither loss nor gradients, and have none."""
    logits, masks = case(classes)
    ignored = (masks == 255)[:, None]
    other = torch.where(ignored, 30.0 * torch.randn(logits.shape), logits)
    results = []
    for given in (logits, other):
        given = given.clone().requires_grad_()
        loss = segmentation_loss(given, masks, **only(name, label_smoothing=0.1))["loss_seg"]
        loss.backward()
        results.append((loss.detach(), given.grad))
        assert (given.grad[ignored.expand_as(given)] == 0).all() and (given.grad != 0).any()
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("ignore_index", [255, -100, 77])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_any_ignore_index(ignore_index, dtype):
    """A byte mask cannot hold -100, which must not wrap around to 156 either."""
    logits, masks = case(ignored=0.0)
    masks = masks.to(dtype)
    expected = segmentation_loss(logits, masks, **EVERY)["loss_seg"]
    assert segmentation_loss(logits, masks, ignore_index=ignore_index, **EVERY)["loss_seg"] == expected
    if ignore_index >= 0:
        masks[0] = ignore_index
        half = segmentation_loss(logits, masks, ignore_index=ignore_index, **EVERY)["loss_seg"]
        alone = segmentation_loss(logits[1:], masks[1:], **EVERY)["loss_seg"]
        torch.testing.assert_close(half, alone)


# -- precision, gradients, memory --------------------------------------------------------------------------------------


def test_weights_add_up_and_the_terms_are_logged():
    logits, masks = case()
    pixels = pixels_of(logits, masks)
    weights = {"ce": 0.5, "dice": 2.0, "focal": 3.0, "lovasz": 0.25, "ohem": 1.5}
    losses = segmentation_loss(logits.requires_grad_(), masks, **{f"{k}_weight": v for k, v in weights.items()})
    expected = sum(weight * TERMS[name](pixels).item() for name, weight in weights.items())
    assert losses["loss_seg"].item() == pytest.approx(expected, rel=1e-5)
    assert set(losses) == {"loss_seg", *TERMS} and losses["loss_seg"].requires_grad
    for name in TERMS:
        assert losses[name].item() == pytest.approx(TERMS[name](pixels).item()) and not losses[name].requires_grad
    assert set(segmentation_loss(logits, masks)) == {"loss_seg"}


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_finite_differences(name, classes):
    """In float64; of Lovász between the places where two errors change order, where it has no single gradient."""
    logits, masks = case(classes, seed=3)
    masks[masks == 255] = 200
    weights = torch.linspace(0.5, 2.0, max(2, classes), dtype=torch.float64)
    options = {"class_weights": weights} if name in ("ce", "focal", "ohem") else {}

    def loss(given):
        return TERMS[name](pixels_of(given, masks, ignore_index=200), **options)

    assert torch.autograd.gradcheck(loss, logits.double().requires_grad_())


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_byte_masks_and_half_logits(dtype, classes):
    """Losses are float32 and the same under autocast, gradients come back in the type of the logits."""
    logits, masks = case(classes)
    half = logits.to(dtype).requires_grad_()
    expected = segmentation_loss(half.float(), masks, **EVERY)["loss_seg"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = segmentation_loss(half, masks.to(torch.uint8), **EVERY)["loss_seg"]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == expected.item()
    assert half.grad.dtype == dtype and half.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_pixels_have_finite_gradients(gamma):
    """Probability 1 and 0 of the true class, in float32 exactly."""
    logits = torch.tensor([[[[200.0, -200.0]], [[-200.0, 200.0]]]], requires_grad=True)
    losses = segmentation_loss(logits, torch.tensor([[[0, 0]]]), focal_gamma=gamma, **EVERY)
    losses["loss_seg"].backward()
    assert losses["loss_seg"].isfinite() and logits.grad.isfinite().all() and (logits.grad[..., 1] != 0).all()


@pytest.mark.parametrize("classes", [1, 4])
def test_memory_format_changes_nothing(classes):
    logits, masks = case(classes)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = logits.clone(memory_format=memory_format).requires_grad_()
        loss = segmentation_loss(given, masks, label_smoothing=0.1, **EVERY)["loss_seg"]
        loss.backward()
        assert given.grad.is_contiguous(memory_format=memory_format)
        results.append((loss.detach(), given.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("classes", [1, 4])
def test_one_graph_without_breaks(classes):
    logits, masks = case(classes)
    options = {**EVERY, "lovasz_weight": 0.0, "label_smoothing": 0.1}
    compiled = torch.compile(segmentation_loss, fullgraph=True, backend="aot_eager")
    results = []
    for function in (segmentation_loss, compiled):
        given = logits.clone().requires_grad_()
        loss = function(given, masks, **options)["loss_seg"]
        loss.backward()
        results.append((loss.detach(), given.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("classes", [1, 4])
def test_no_term_looks_at_values(classes):
    """Tensors without values: reading one, or choosing pixels by a mask, would raise."""
    logits, masks = (tensor.to("meta") for tensor in case(classes))
    logits.requires_grad_()
    pixels = pixels_of(logits, masks)
    weights = torch.empty(max(2, classes), device="meta")
    for name, term in TERMS.items():
        term(pixels, **({} if name in ("dice", "lovasz") else {"class_weights": weights})).backward(retain_graph=True)
    assert logits.grad.shape == logits.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("classes", [1, 4])
def test_a_gpu_is_not_waited_for_and_agrees(classes):
    logits, masks = case(classes)
    expected = segmentation_loss(logits, masks, **EVERY)["loss_seg"]
    given, there = logits.cuda().requires_grad_(), masks.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = segmentation_loss(given, there, **EVERY)["loss_seg"]
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.detach().cpu(), expected, rtol=1e-4, atol=1e-5)


# -- outside oracles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0, 0.1])])
def test_cross_entropy_is_torchs(smoothing, weights):
    logits, masks = case()
    ours = cross_entropy(pixels_of(logits, masks), weights, smoothing)
    theirs = F.cross_entropy(logits, masks, weights, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_logit_is_torchs_binary_cross_entropy(smoothing):
    """Weights 1 and 3 are a pos_weight of 3, but for the mean, which is the weighted one."""
    logits, masks = case(classes=1)
    counted = masks != 255
    target = masks[counted].float()
    soft = target * (1 - smoothing) + smoothing / 2
    z = logits[:, 0][counted]
    theirs = F.binary_cross_entropy_with_logits(z, soft)
    torch.testing.assert_close(cross_entropy(pixels_of(logits, masks), None, smoothing), theirs)
    if not smoothing:
        summed = F.binary_cross_entropy_with_logits(z, target, pos_weight=torch.tensor(3.0), reduction="sum")
        ours = cross_entropy(pixels_of(logits, masks), torch.tensor([1.0, 3.0]))
        torch.testing.assert_close(ours, summed / (1 + 2 * target).sum())


@pytest.mark.parametrize("name", ["ce", "focal", "ohem"])
def test_one_logit_is_two_classes(name):
    logits, masks = case(classes=1)
    two = torch.cat((torch.zeros_like(logits), logits), 1)
    options = only(name, class_weights=torch.tensor([0.5, 2.0]), ohem_min_kept=0.3, ohem_threshold=0.4)
    torch.testing.assert_close(segmentation_loss(logits, masks, **options), segmentation_loss(two, masks, **options))


def test_one_logit_scores_the_object_alone():
    """Dice of class 1 of two; a batch without an object has none to score."""
    logits, masks = case(classes=1)
    counted, probability = masks != 255, logits[:, 0].sigmoid()
    overlap = probability[masks == 1].sum()
    expected = 1 - (2 * overlap + 1) / (probability[counted].sum() + (masks == 1).sum() + 1)
    torch.testing.assert_close(dice_loss(pixels_of(logits, masks)), expected)
    assert dice_loss(pixels_of(logits, torch.zeros_like(masks))).item() == 0.0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("threshold", [0.05, 0.5, 1.0])
def test_ohem_against_sorting(threshold, share):
    """NumPy in float64 over the counted pixels: below the threshold, or among the hardest."""
    logits, masks = case(seed=5)
    counted = (masks != 255).numpy()
    z = logits.double().permute(0, 2, 3, 1).numpy()[counted]
    surprise = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), masks.numpy()[counted]]
    order = np.sort(surprise)[::-1]
    kept = max(math.ceil(share * len(z)), int((np.exp(-surprise) < threshold).sum()))
    expected = order[:kept].mean() if kept else 0.0
    ours = ohem_cross_entropy(pixels_of(logits, masks), threshold=threshold, min_kept=share)
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_dice_of_many_pixels_keeps_its_digits():
    """A quarter of a million pixels against float64."""
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(1, 3, 512, 512, generator=generator), torch.zeros(1, 512, 512, dtype=torch.long)
    masks[0, :100] = 1
    exact = dice_loss(pixels_of(logits.double(), masks)).item()
    assert dice_loss(pixels_of(logits, masks)).item() == pytest.approx(exact, abs=1e-6)


def test_lovasz_of_one_class_is_the_iou_of_hard_predictions():
    """At probabilities of 0 and 1 the extension is the set function: 1 - IoU of each class, averaged."""
    generator = torch.Generator().manual_seed(0)
    truth, found = torch.randint(0, 3, (2, 500), generator=generator)
    loss = lovasz_softmax(F.one_hot(found, 3).float(), truth, torch.ones(500, dtype=torch.bool))
    ious = [((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in range(3)]
    torch.testing.assert_close(loss, 1 - torch.stack(ious).mean())


# -- wrong use ---------------------------------------------------------------------------------------------------------


def test_wrong_masks():
    logits, masks = case()
    with pytest.raises(ShapeError, match=r"\(2, 7, 9\)"):
        segmentation_loss(logits, masks[:, :3])
    with pytest.raises(ShapeError, match="float32"):
        segmentation_loss(logits, masks.float())
    masks[0, 0, 0] = 9
    with pytest.raises(ShapeError, match=r"\[9\].*0\.\.3"):
        segmentation_loss(logits, masks)


def test_a_binary_mask_of_two_objects_is_refused():
    logits, masks = case(classes=1)
    segmentation_loss(logits, masks)
    segmentation_loss(logits, masks == 1)
    masks[0, 0, 0] = 2
    with pytest.raises(ShapeError, match=r"\[2\].*0\.\.1"):
        segmentation_loss(logits, masks)


def test_wrong_weights():
    logits, masks = case()
    with pytest.raises(ShapeError, match=r"each of the 4 classes, got shape \(3,\)"):
        segmentation_loss(logits, masks, class_weights=torch.ones(3))
    with pytest.raises(ShapeError, match="background, object"):
        segmentation_loss(*case(classes=1), class_weights=torch.ones(1))
    with pytest.raises(ConfigError, match="every weight is 0"):
        segmentation_loss(logits, masks, ce_weight=0.0)


def test_masks_of_every_integer_type():
    logits, masks = case(ignored=0.0)
    expected = segmentation_loss(logits, masks)["loss_seg"]
    for kind in (torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32):
        assert torch.equal(segmentation_loss(logits, masks.to(kind))["loss_seg"], expected), kind


def test_class_weights_that_are_no_tensor():
    logits, masks = case()
    with pytest.raises(ShapeError, match=r"must be a tensor .* got \[1.0, 1.0, 1.0, 1.0\]"):
        segmentation_loss(logits, masks, class_weights=[1.0] * 4)
