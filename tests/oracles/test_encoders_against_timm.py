"""Every encoder against timm's network of the same name: same keys, same shapes, same features.

timm's `tf_` networks are TensorFlow SAME with BN eps 1e-3, the others symmetric with 1e-5. Weights, BN statistics and
biases are random, so no level can agree by being trivial. The large networks are marked slow; their keys and shapes
are still compared in the fast run, without memory.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from effdense.models.encoders import create_encoder, encoder_names

timm = pytest.importorskip("timm")

# Even, even and oblong, odd in both.
SIZES = ((224, 224), (320, 256), (225, 319))
HEAVY = {f"efficientnet_{size}" for size in ("b6", "b7", "b8", "l2")} | {
    f"efficientnetv2_{size}" for size in ("l", "xl", "rw_m")
}
MEMBERS = [
    pytest.param(name, padding, marks=[pytest.mark.slow] if name in HEAVY else [], id=f"{name}-{padding}")
    for name in encoder_names()
    for padding in ("same", "symmetric")
]


def _timm_encoder(name: str, padding: str, **options: Any) -> nn.Module:
    wanted, other = (f"tf_{name}", name) if padding == "same" else (name, f"tf_{name}")
    if timm.is_model(wanted):
        return timm.create_model(wanted, features_only=True, **options)
    # The V2 base networks exist as tf_ only, the RW ones without it only.
    convention = {"pad_type": "same", "bn_eps": 1e-3} if padding == "same" else {"pad_type": "", "bn_eps": 1e-5}
    return timm.create_model(other, features_only=True, **convention, **options)


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Give batch norms and SE biases values that a trained network might have; convolutions are random already."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.uniform_(0.7, 1.3, generator=generator)
            module.bias.normal_(0.0, 0.2, generator=generator)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.normal_(0.0, 0.5, generator=generator)


@pytest.mark.parametrize(("name", "padding"), MEMBERS)
def test_features_equal_timms(name: str, padding: str) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = _timm_encoder(name, padding).eval()
    _randomise(reference, generator)
    encoder = create_encoder(name, padding=padding).eval()
    encoder.load_state_dict(reference.state_dict(), strict=True)
    assert encoder.channels == tuple(reference.feature_info.channels())
    assert encoder.strides == tuple(reference.feature_info.reduction())
    for size in SIZES:
        images = torch.randn(1, 3, *size, generator=generator)
        with torch.inference_mode():
            features, expected = encoder(images), reference(images)
        for got, want, stride in zip(features, expected, encoder.strides, strict=True):
            assert got.shape == want.shape
            error, scale = (got - want).abs().max().item(), want.abs().max().item()
            assert scale > 0
            assert error <= 1e-4 * scale, f"stride {stride} at {size}: {error} of {scale}"


@pytest.mark.parametrize("name", encoder_names())
def test_keys_and_shapes_equal_timms(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = create_encoder(name).state_dict(), _timm_encoder(name, "same").state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [(key, value.shape) for key, value in theirs.items()]


def test_stochastic_depth_rates_equal_timms() -> None:
    reference = _timm_encoder("efficientnet_b1", "same", drop_path_rate=0.2)
    encoder = create_encoder("efficientnet_b1", drop_path_rate=0.2)
    theirs = [getattr(block.drop_path, "drop_prob", 0.0) for stage in reference.blocks for block in stage]
    ours = [block.drop_path.rate for stage in encoder.blocks for block in stage]
    assert ours == pytest.approx(theirs)
    assert ours[-1] > 0.19


@pytest.mark.parametrize(
    ("detector", "name", "padding"),
    [("tf_efficientdet_d0", "efficientnet_b0", "same"), ("tf_efficientdet_lite0", "efficientnet_lite0", "same")],
)
def test_effdet_backbones_load_unrenamed(detector: str, name: str, padding: str) -> None:
    effdet = pytest.importorskip("effdet")
    backbone = effdet.create_model(detector, pretrained_backbone=False).backbone.eval()
    encoder = create_encoder(name, out_strides=(8, 16, 32), padding=padding).eval()
    encoder.load_state_dict(backbone.state_dict(), strict=True)
    images = torch.randn(1, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for got, want in zip(encoder(images), backbone(images), strict=True):
            torch.testing.assert_close(got, want, rtol=0.0, atol=1e-4 * want.abs().max().item())
