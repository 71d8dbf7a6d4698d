"""The detection loss: terms by hand, a dense float64 focal loss as oracle, and what must hold at the edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effdense.models.detection.assignment import BACKGROUND, IGNORE
from effdense.models.detection.losses import detection_loss, focal_loss_sum, huber_loss_sum


def focal(logit: float, label: int, **options: Any) -> float:
    logits = torch.full((1, 1, 1), logit)
    return focal_loss_sum(logits, torch.tensor([[label]]), torch.tensor([[False]]), **options).item()


def test_focal_loss_of_an_undecided_logit() -> None:
    # p = 1/2: alpha_t * (1/2)^1.5 * ln 2
    assert focal(0.0, 0) == pytest.approx(0.25 * 0.5**1.5 * math.log(2), rel=1e-6)
    assert focal(0.0, -1) == pytest.approx(0.75 * 0.5**1.5 * math.log(2), rel=1e-6)


def test_focal_loss_with_smoothing_moves_the_target_after_the_modulating_factor() -> None:
    logit, smoothing = math.log(3.0), 0.2  # p = 3/4; targets .9 and .1
    positive = 0.25 * 0.25**1.5 * -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    negative = 0.75 * 0.75**1.5 * -(0.1 * math.log(0.75) + 0.9 * math.log(0.25))
    assert focal(logit, 0, smoothing=smoothing) == pytest.approx(positive, rel=1e-5)
    assert focal(logit, -1, smoothing=smoothing) == pytest.approx(negative, rel=1e-5)


def dense_focal(
    logits: Tensor, labels: Tensor, ignored: Tensor, alpha: float, gamma: float, smoothing: float
) -> Tensor:
    """RetinaNet equation 5 over a one-hot target, in float64."""
    logits = logits.double()
    target = F.one_hot(labels.clamp(min=0), logits.shape[-1]).double() * (labels >= 0)[..., None]
    probability = logits.sigmoid()
    true_probability = target * probability + (1 - target) * (1 - probability)
    weight = (target * alpha + (1 - target) * (1 - alpha)) * (1 - true_probability) ** gamma
    smooth = target * (1 - smoothing) + 0.5 * smoothing
    cross_entropy = -(smooth * F.logsigmoid(logits) + (1 - smooth) * F.logsigmoid(-logits))
    return (weight * cross_entropy * ~ignored[..., None]).sum()


@pytest.mark.parametrize(
    ("alpha", "gamma", "smoothing"), [(0.25, 1.5, 0.0), (0.25, 1.5, 0.1), (0.25, 2.0, 0.0), (0.5, 0.0, 0.3)]
)
def test_focal_loss_and_gradient_equal_the_dense_one(alpha: float, gamma: float, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2, 60, 7, generator=generator)).requires_grad_()
    labels = torch.randint(-1, 7, (2, 60), generator=generator)
    ignored = torch.rand(2, 60, generator=generator) < 0.2
    value = focal_loss_sum(logits, labels, ignored, alpha=alpha, gamma=gamma, smoothing=smoothing)
    (gradient,) = torch.autograd.grad(value, logits)
    expected = dense_focal(logits, labels, ignored, alpha, gamma, smoothing)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    # At a true class the gradient is a difference of two, of up to 15 each: 10 units in the last place of those.
    torch.testing.assert_close(gradient, expected_gradient.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("label", [-1, 0])
@pytest.mark.parametrize("logit", [-200.0, -90.0, 90.0, 200.0])
def test_extreme_logits_keep_loss_and_gradient_finite(logit: float, label: int, smoothing: float) -> None:
    logits = torch.full((1, 1, 1), logit, requires_grad=True)
    labels, ignored = torch.tensor([[label]]), torch.tensor([[False]])
    value = focal_loss_sum(logits, labels, ignored, smoothing=smoothing)
    value.backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    # float64 has no digits left for 1 - p beyond 36, so the reference is the limit: weight 1 or 0, linear.
    wrong = (logit > 0) == (label < 0)
    slope = (1 - smoothing / 2) * abs(logit) if wrong else 0.0
    expected = (0.25 if label == 0 else 0.75) * slope
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-20)


def test_ignored_rows_give_neither_loss_nor_gradient() -> None:
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    value = focal_loss_sum(logits, torch.tensor([[1, -1]]), torch.tensor([[True, False]]))
    value.backward()
    assert value.item() == pytest.approx(3 * 0.75 * 0.5**1.5 * math.log(2), rel=1e-6)
    assert logits.grad is not None
    assert (logits.grad[0, 0] == 0).all() and (logits.grad[0, 1] != 0).all()


def test_huber_by_hand() -> None:
    error = torch.tensor([0.05, -0.05, 1.0, -3.0])
    mask = torch.tensor([True, True, True, False])
    # quadratic .5 * .05^2 twice; linear .1 * (1 - .05); masked
    assert huber_loss_sum(error, torch.zeros(4), mask).item() == pytest.approx(2 * 0.00125 + 0.095, rel=1e-6)


def one_anchor(matches: int, delta: float = 0.0, **options: Any) -> dict[str, Tensor]:
    """One 10 x 10 anchor, one class, logit 0, deltas ``delta``; the ground truth is 20 x 10 with the same corner."""
    return detection_loss(
        [torch.zeros(1, 1, 1, 1)],
        [torch.full((1, 4, 1, 1), delta)],
        torch.tensor([[0.0, 0, 10, 10]]),
        torch.tensor([[matches]]),
        torch.tensor([[[0.0, 0, 20, 10]]]),
        torch.tensor([[0]]),
        num_anchors=1,
        **options,
    )


def test_loss_of_one_anchor_by_hand() -> None:
    losses = one_anchor(0)
    # Targets (ty, tx, th, tw) = (0, 1/2, 0, ln 2): the zeros do not count. One positive, so both are divided by 1 + 1.
    huber = 0.1 * (0.5 - 0.05) + 0.1 * (math.log(2) - 0.05)
    assert losses["loss_box"].item() == pytest.approx(50 * huber / (4 * 2), rel=1e-5)
    assert losses["loss_cls"].item() == pytest.approx(0.25 * 0.5**1.5 * math.log(2) / 2, rel=1e-5)


def test_deltas_whose_target_is_exactly_zero_do_not_count() -> None:
    huber = 0.1 * (1 - 0.5 - 0.05) + 0.1 * (1 - math.log(2) - 0.05)  # tx and tw; ty and th are off by 1 for free
    assert one_anchor(0, delta=1.0)["loss_box"].item() == pytest.approx(50 * huber / (4 * 2), rel=1e-5)


def test_the_normalizer_can_be_given() -> None:
    own, given = one_anchor(0), one_anchor(0, normalizer=torch.tensor(8.0))
    for name in own:
        assert given[name].item() == pytest.approx(own[name].item() * 2 / 8, rel=1e-6)


def test_background_and_ignored_anchors_have_no_box_loss() -> None:
    background, ignored = one_anchor(BACKGROUND), one_anchor(IGNORE)
    assert background["loss_box"].item() == 0.0 and ignored["loss_box"].item() == 0.0
    assert background["loss_cls"].item() == pytest.approx(0.75 * 0.5**1.5 * math.log(2), rel=1e-5)  # divided by 0 + 1
    assert ignored["loss_cls"].item() == 0.0


def random_case(batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Two levels, 2 anchors a cell, 3 classes, 4 ground truths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    count = 2 * (4 * 6 + 2 * 3)
    corner = torch.rand(count, 2, generator=generator) * 40
    truth = torch.rand(batch, 4, 2, generator=generator) * 40
    return {
        "class_logits": [draw(batch, 6, 4, 6), draw(batch, 6, 2, 3)],
        "box_deltas": [draw(batch, 8, 4, 6), draw(batch, 8, 2, 3)],
        "anchors": torch.cat((corner, corner + 10), 1),
        "matches": torch.randint(-2, 4, (batch, count), generator=generator),
        "boxes": torch.cat((truth, truth + 5), 2),
        "labels": torch.randint(0, 3, (batch, 4), generator=generator),
        "num_anchors": 2,
    }


def test_a_batch_is_the_sum_of_its_images() -> None:
    case = random_case(3)
    normalizer = torch.tensor(10.0)
    together = detection_loss(**case, normalizer=normalizer)
    single = []
    for i in range(3):
        part = {name: case[name][i : i + 1] for name in ("matches", "boxes", "labels")}
        part |= {name: [level[i : i + 1] for level in case[name]] for name in ("class_logits", "box_deltas")}
        single.append(detection_loss(**{**case, **part}, normalizer=normalizer))
    for name, value in together.items():
        assert value.item() == pytest.approx(sum(losses[name].item() for losses in single), rel=1e-5)


def test_memory_format_does_not_matter() -> None:
    case = random_case(2)
    plain = detection_loss(**case)
    for name in ("class_logits", "box_deltas"):
        case[name] = [level.contiguous(memory_format=torch.channels_last) for level in case[name]]
    for name, value in detection_loss(**case).items():
        assert value.item() == pytest.approx(plain[name].item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_summed_in_float32(dtype: torch.dtype) -> None:
    half = random_case(2, dtype=dtype)
    full = {**half, "class_logits": [level.float() for level in half["class_logits"]]}
    full["box_deltas"] = [level.float() for level in half["box_deltas"]]
    expected = detection_loss(**full)
    for name, value in detection_loss(**half).items():
        assert value.dtype == torch.float32
        assert value.item() == expected[name].item()


def test_images_without_ground_truths_teach_background_only() -> None:
    case = random_case(2)
    case |= {"matches": torch.full_like(case["matches"], BACKGROUND), "boxes": torch.zeros(2, 0, 4)}
    case["labels"] = torch.zeros(2, 0, dtype=torch.int64)
    outputs = [level.requires_grad_() for level in (*case["class_logits"], *case["box_deltas"])]
    losses = detection_loss(**case)
    assert losses["loss_box"].item() == 0.0 and losses["loss_cls"].item() > 0.0
    sum(losses.values(), torch.zeros(())).backward()
    assert all(level.grad is not None and torch.isfinite(level.grad).all() for level in outputs)
    assert all(bool((level.grad == 0).all()) for level in case["box_deltas"])
