"""Classifier and loss: numbers by hand, the published head, schedules, bad input. timm is asked in tests/oracles."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from effdense.errors import ConfigError, ShapeError
from effdense.models.classification import create_classifier, pixel_statistics, soft_target_cross_entropy
from effdense.models.drop_path import set_drop_path_rate
from effdense.models.encoders import create_encoder


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_cross_entropy_by_hand() -> None:
    """Two classes with logits (0, ln 3): probabilities 1/4 and 3/4."""
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    got = soft_target_cross_entropy(logits, torch.tensor([0, 1]))
    assert got.item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    mixed = soft_target_cross_entropy(logits[:1], torch.tensor([[0.25, 0.75]]))
    assert mixed.item() == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    # Smoothing of 0.2 over two classes turns (1, 0) into (0.9, 0.1).
    smoothed = soft_target_cross_entropy(logits[:1], torch.tensor([0]), label_smoothing=0.2)
    assert smoothed.item() == pytest.approx(0.9 * math.log(4) + 0.1 * math.log(4 / 3))


def test_hard_and_soft_targets_agree_and_torch_with_them() -> None:
    logits, labels = images(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    for smoothing in (0.0, 0.1):
        want = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(soft_target_cross_entropy(logits, labels, smoothing), want)
        torch.testing.assert_close(soft_target_cross_entropy(logits, F.one_hot(labels, 5).float(), smoothing), want)
    half = soft_target_cross_entropy(logits.bfloat16(), labels)
    assert half.dtype == torch.float32


def test_ignored_pictures_weigh_nothing() -> None:
    logits, labels = images(4, 3), torch.tensor([2, -1, 0, -1])
    rows = torch.zeros(4, 3)
    rows[0, 2] = rows[2, 0] = 1.0
    want = F.cross_entropy(logits[[0, 2]], labels[[0, 2]], label_smoothing=0.1)
    torch.testing.assert_close(soft_target_cross_entropy(logits, labels, 0.1), want)
    torch.testing.assert_close(soft_target_cross_entropy(logits, rows, 0.1), want)
    for nothing in (torch.full((4,), -1), torch.zeros(4, 3)):
        leaf = logits.clone().requires_grad_()
        loss = soft_target_cross_entropy(leaf, nothing, 0.1)
        loss.backward()
        assert loss.item() == 0.0 and leaf.grad is not None and (leaf.grad == 0).all()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), r"expected targets \(4,\)"),
        (torch.zeros(4), "torch.float32"),
        (torch.zeros(4, 2), r"\(4, 3\) float"),
        (torch.zeros(4, dtype=torch.bool), "torch.bool"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: torch.Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        soft_target_cross_entropy(images(4, 3), targets)


def test_published_head() -> None:
    """Widths of the 1x1 convolution: 1280 grows with V1's width coefficient, and stays in Lite and V2-S."""
    widths = {
        "efficientnet_b0": 1280,
        "efficientnet_b3": 1536,
        "efficientnet_lite4": 1280,
        "efficientnetv2_s": 1280,
        "efficientnetv2_b2": 1408,
    }
    for name, width in widths.items():
        with torch.device("meta"):
            classifier = create_classifier(name)
        assert classifier.conv_head.out_channels == classifier.classifier.in_features == width
        assert classifier.classifier.out_features == 1000
    with torch.device("meta"):  # 5.3 M: arXiv 1905.11946 Table 2
        assert sum(p.numel() for p in create_classifier("efficientnet_b0").parameters()) == 5_288_548


def test_initial_head_is_googles() -> None:
    torch.manual_seed(0)
    for num_classes, counted in ((2500, 2500), (5, 1000)):  # a small head starts no wider than ImageNet's
        classifier = create_classifier("efficientnet_b0", num_classes)
        weight, bound = classifier.classifier.weight, 1 / math.sqrt(counted)
        assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert (classifier.classifier.bias == 0).all()
    assert classifier.conv_head.weight.std().item() == pytest.approx(math.sqrt(2 / 1280), rel=0.01)


def test_attributes_and_shapes() -> None:
    classifier = create_classifier("efficientnet_b0", 7, in_channels=4, padding="symmetric").eval()
    assert (classifier.name, classifier.num_classes, classifier.in_channels) == ("efficientnet_b0", 7, 4)
    assert (classifier.padding, classifier.bn_eps, classifier.config.dropout) == ("symmetric", 1e-5, 0.2)
    assert len(classifier.mean) == len(classifier.std) == 4
    with torch.no_grad():
        assert classifier.forward_features(images(2, 4, 65, 33)).shape == (2, 1280, 3, 2)
        assert classifier(images(2, 4, 65, 33)).shape == (2, 7)


def test_encoder_weights_fit_under_the_same_names() -> None:
    encoder, classifier = create_encoder("efficientnet_lite0").eval(), create_classifier("efficientnet_lite0", 3).eval()
    missing, unexpected = classifier.load_state_dict(encoder.state_dict(), strict=False)
    assert not unexpected and {key.split(".")[0] for key in missing} == {"conv_head", "bn2", "classifier"}
    with torch.no_grad():
        x = classifier.blocks(classifier.act1(classifier.bn1(classifier.conv_stem(images(1, 3, 64, 64)))))
        torch.testing.assert_close(x, encoder(images(1, 3, 64, 64))[-1], rtol=0, atol=0)


def test_pixel_statistics_per_family() -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    half = ((0.5,) * 3, (0.5,) * 3)
    assert pixel_statistics("efficientnet_b0") == pixel_statistics("efficientnetv2_b0") == imagenet
    assert pixel_statistics("efficientnetv2_s") == half
    assert pixel_statistics("efficientnetv2_s", "symmetric") == imagenet
    assert pixel_statistics("efficientnet_lite0") == ((127 / 255,) * 3, (128 / 255,) * 3)


def test_convention_can_be_changed() -> None:
    """A "same" network switched over is the "symmetric" network: odd input sizes would show any layer left behind."""
    torch.manual_seed(0)
    switched = create_classifier("efficientnetv2_s", 5).eval()
    symmetric = create_classifier("efficientnetv2_s", 5, padding="symmetric").eval()
    symmetric.load_state_dict(switched.state_dict())
    with torch.no_grad():
        before = switched(images(1, 3, 64, 64))
        switched.set_convention(padding="symmetric", bn_eps=1e-5)
        torch.testing.assert_close(switched(images(1, 3, 64, 64)), symmetric(images(1, 3, 64, 64)), rtol=0, atol=0)
        assert (before - switched(images(1, 3, 64, 64))).abs().max() > 1e-4
    assert (switched.padding, switched.bn_eps, switched.bn2.eps) == ("symmetric", 1e-5, 1e-5)
    assert (switched.mean, switched.std) == (symmetric.mean, symmetric.std)
    switched.mean = (0.1, 0.2, 0.3)
    switched.set_convention(padding="same")
    assert switched.mean == (0.1, 0.2, 0.3)  # chosen by hand: kept


def test_schedules_change_dropout_and_stochastic_depth() -> None:
    classifier = create_classifier("efficientnet_b1", 3, drop_path_rate=0.2, dropout=0.1)
    published = [block.drop_path.rate for stage in classifier.blocks for block in stage]
    classifier.set_drop_path(0.4)
    doubled = [block.drop_path.rate for stage in classifier.blocks for block in stage]
    assert doubled == pytest.approx([2 * rate for rate in published])
    classifier.set_dropout(0.35)
    assert classifier.dropout.p == 0.35
    for change in (classifier.set_dropout, classifier.set_drop_path):
        with pytest.raises(ConfigError, match=r"\[0, 1\)"):
            change(1.0)
    assert classifier.dropout.p == 0.35
    assert [block.drop_path.rate for stage in classifier.blocks for block in stage] == doubled


def test_stochastic_depth_of_a_network_without_its_late_stages() -> None:
    """Rates follow the full network: the late stages of a stride-8 encoder are not built."""
    built = create_encoder("efficientnet_b0", out_strides=(4, 8), drop_path_rate=0.3)
    changed = create_encoder("efficientnet_b0", out_strides=(4, 8))
    set_drop_path_rate(torch.nn.ModuleDict({"backbone": changed}), 0.3)
    rates = [[b.drop_path.rate for stage in encoder.blocks for b in stage] for encoder in (built, changed)]
    assert rates[0] == pytest.approx(rates[1]) and rates[0][1] == pytest.approx(0.3 / 16)
    with pytest.raises(ConfigError, match="holds no encoder"):
        set_drop_path_rate(torch.nn.Linear(2, 2), 0.1)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    classifier = create_classifier("efficientnet_b0", 5, dropout=0.5)
    classifier.eval()
    with torch.no_grad():
        quiet = classifier(images(2, 3, 32, 32))
        classifier.dropout.train()
        assert (classifier(images(2, 3, 32, 32)) - quiet).abs().max() > 0.05 * quiet.abs().max()


def test_loss_trains_every_parameter() -> None:
    torch.manual_seed(0)
    classifier = create_classifier("efficientnet_lite0", 3)
    loss = classifier.loss(images(2, 3, 64, 64), torch.tensor([0, 2]), label_smoothing=0.1)
    assert list(loss) == ["loss"]
    loss["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in classifier.parameters())


def test_probabilities_leave_the_mode_alone() -> None:
    classifier = create_classifier("efficientnet_b0", 4).train()
    classifier.bn1.eval()
    before = {name: module.training for name, module in classifier.named_modules()}
    statistics = classifier.bn2.running_mean.clone()
    got = classifier.probabilities(images(2, 3, 32, 32))
    torch.testing.assert_close(got.sum(1), torch.ones(2))
    assert {name: module.training for name, module in classifier.named_modules()} == before
    assert torch.equal(statistics, classifier.bn2.running_mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes of classifier efficientnet_b0"),
        ({"num_classes": True}, "got True"),
        ({"dropout": 1.0}, r"dropout .* must lie in \[0, 1\), got 1.0"),
        ({"padding": "valid"}, "padding is 'valid'"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
    ],
)
def test_wrong_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_classifier("efficientnet_b0", **options)  # type: ignore[arg-type]


def test_wrong_names_and_images() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'efficientnet_b0'"):
        create_classifier("eficientnet_b0")
    classifier = create_classifier("efficientnet_b0", 3).eval()
    for wrong in (torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ShapeError, match="expected normalised float images"):
            classifier(wrong)
    for label in (3, -2):
        with pytest.raises(ShapeError, match=f"got a label {label}"):
            classifier.loss(images(1, 3, 32, 32), torch.tensor([label]))
