"""Every classifier against timm's network of the same name: same keys in the same order, same logits.

timm's `tf_` networks are TensorFlow SAME with BN eps 1e-3, the others symmetric with 1e-5. Weights, BN statistics and
biases are random, so nothing can agree by being trivial. The large networks are marked slow; their keys and shapes are
still compared in the fast run, without memory.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effdense.models.classification import create_classifier, pixel_statistics
from effdense.models.encoders import encoder_names

timm = pytest.importorskip("timm")

CLASSES = 17
SIZE = (96, 77)  # oblong, and odd in one side
HEAVY = {f"efficientnet_{size}" for size in ("b6", "b7", "b8", "l2")} | {
    f"efficientnetv2_{size}" for size in ("m", "l", "xl", "rw_m")
}
TWINS = [
    (name, padding, twin)
    for name in encoder_names()
    for padding, twin in (("same", f"tf_{name}"), ("symmetric", name))
    if timm.is_model(twin)
]
MEMBERS = [
    pytest.param(*twin, marks=[pytest.mark.slow] if twin[0] in HEAVY else [], id=f"{twin[0]}-{twin[1]}")
    for twin in TWINS
]


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Give batch norms and biases values that a trained network might have; convolutions are random already."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.uniform_(0.7, 1.3, generator=generator)
            module.bias.normal_(0.0, 0.2, generator=generator)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.normal_(0.0, 0.5, generator=generator)


@pytest.mark.parametrize(("name", "padding", "twin"), MEMBERS)
def test_logits_equal_timms(name: str, padding: str, twin: str) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = timm.create_model(twin, num_classes=CLASSES).eval()
    _randomise(reference, generator)
    classifier = create_classifier(name, CLASSES, padding=padding).eval()
    classifier.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(2, 3, *SIZE, generator=generator)
    with torch.inference_mode():
        logits, expected = classifier(images), reference(images)
        features, expected_features = classifier.forward_features(images), reference.forward_features(images)
    for got, want in ((logits, expected), (features, expected_features)):
        assert got.shape == want.shape
        error, scale = (got - want).abs().max().item(), want.abs().max().item()
        assert scale > 0
        assert error <= 1e-5 * scale, f"{error} of {scale}"


def test_every_size_has_a_twin() -> None:
    """Names that timm does not have would be left out above without a word."""
    assert {name for name, _, _ in TWINS} == set(encoder_names())
    without_native = {name for name in encoder_names() if not timm.is_model(name)}
    assert without_native == {f"efficientnetv2_b{i}" for i in range(4)}


@pytest.mark.parametrize(("name", "padding", "twin"), TWINS)
def test_keys_and_shapes_equal_timms(name: str, padding: str, twin: str) -> None:
    with torch.device("meta"):
        ours = create_classifier(name, CLASSES, padding=padding).state_dict()
        theirs = timm.create_model(twin, num_classes=CLASSES).state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [(key, value.shape) for key, value in theirs.items()]


def test_ours_loads_into_timm() -> None:
    classifier = create_classifier("efficientnet_b0", CLASSES).eval()
    _randomise(classifier, torch.Generator().manual_seed(1))
    reference = timm.create_model("tf_efficientnet_b0", num_classes=CLASSES).eval()
    reference.load_state_dict(classifier.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(classifier(images), reference(images), rtol=1e-5, atol=1e-5)


def test_pixel_statistics_are_those_of_googles_weights() -> None:
    """timm's cfgs of the ImageNet-1k releases; Lite's 127/255 and 128/255 are Google's own, timm rounds them to 0.5."""
    tags = {"efficientnet_b8": "ra_in1k", "efficientnet_l2": "ns_jft_in1k", "efficientnetv2_xl": "in21k_ft_in1k"}
    for name, _, twin in TWINS:
        if not twin.startswith("tf_"):
            continue
        tag = tags.get(name, "aa_in1k" if name in ("efficientnet_b6", "efficientnet_b7") else "in1k")
        cfg = timm.models.get_pretrained_cfg(f"{twin}.{tag}")
        mean, std = pixel_statistics(name)
        assert mean == pytest.approx(cfg.mean, abs=0.003), name
        assert std == pytest.approx(cfg.std, abs=0.003), name
