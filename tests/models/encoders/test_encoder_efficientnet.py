"""The encoder as a whole: shapes, subsets of strides, options, errors, gradients, export."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdense.errors import ConfigError, ShapeError
from effdense.models.encoders import EfficientNetEncoder, create_encoder
from effdense.models.encoders.blocks import StochasticDepth


def _images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("padding", ["same", "same_static", "symmetric"])
@pytest.mark.parametrize("size", [(64, 96), (33, 17), (1, 1), (2, 65)])
def test_feature_sides_are_ceilings_at_any_size(size: tuple[int, int], padding: str) -> None:
    encoder = create_encoder("efficientnet_b0", padding=padding).eval()
    features = encoder(_images(2, 3, *size))
    expected = [(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(encoder.channels, encoder.strides)]
    assert [tuple(feature.shape) for feature in features] == expected
    assert all(feature.isfinite().all() for feature in features)


@pytest.mark.parametrize("channels", [1, 5])
def test_images_may_have_other_channels(channels: int) -> None:
    encoder = create_encoder("efficientnetv2_b0", in_channels=channels).eval()
    assert encoder.conv_stem.weight.shape == (32, channels, 3, 3)
    assert encoder(_images(1, channels, 32, 32))[-1].shape == (1, 192, 1, 1)


def test_a_subset_of_strides_builds_no_stage_beyond_it() -> None:
    full = create_encoder("efficientnet_b0").eval()
    part = create_encoder("efficientnet_b0", out_strides=[8, 16]).eval()
    assert (part.strides, part.channels) == ((8, 16), (40, 112))
    assert len(part.blocks) == 5
    part.load_state_dict({name: full.state_dict()[name] for name in part.state_dict()})
    images = _images(1, 3, 64, 64)
    for got, expected in zip(part(images), full(images)[2:4], strict=True):
        assert torch.equal(got, expected)


def test_one_image_alone_equals_one_of_a_batch() -> None:
    encoder = create_encoder("efficientnet_lite0").double().eval()  # float32 sums differ with the batch's blocking
    images = _images(3, 3, 48, 40).double()
    for whole, single in zip(encoder(images), encoder(images[1:2]), strict=True):
        torch.testing.assert_close(whole[1:2], single)


def test_the_padding_conventions_differ_at_even_sizes_only() -> None:
    same = create_encoder("efficientnet_b0", bn_eps=1e-3).eval()
    symmetric = create_encoder("efficientnet_b0", padding="symmetric", bn_eps=1e-3).eval()
    symmetric.load_state_dict(same.state_dict())
    odd = _images(1, 3, 65, 33)  # 65 -> 33 -> 17 -> 9 -> 5 -> 3 and 33 -> ... -> 2: odd before every stride
    for a, b in zip(same(odd), symmetric(odd), strict=True):
        torch.testing.assert_close(a, b)
    even = _images(1, 3, 64, 32)
    assert not torch.allclose(same(even)[0], symmetric(even)[0])


def test_fixed_amounts_are_those_of_the_published_resolution() -> None:
    # B1 is made for 240 px: 240, 120, 60, 30 are even, the last stride sees 15. Sides of 64 are even all the way.
    same, static = (create_encoder("efficientnet_b1", padding=padding).eval() for padding in ("same", "same_static"))
    static.load_state_dict(same.state_dict())
    images = _images(1, 3, 64, 64)
    *early, last = zip(same(images), static(images), strict=True)
    assert all(torch.equal(a, b) for a, b in early) and not torch.allclose(*last)
    native = _images(1, 3, 240, 240)
    assert all(torch.equal(a, b) for a, b in zip(same(native), static(native), strict=True))


def test_the_convention_can_change_after_construction() -> None:
    encoder = create_encoder("efficientnetv2_b0", padding="same").eval()
    born = create_encoder("efficientnetv2_b0", padding="symmetric").eval()
    born.load_state_dict(encoder.state_dict())
    encoder.set_convention(padding="symmetric", bn_eps=1e-5)
    assert (encoder.padding, encoder.bn_eps) == (born.padding, born.bn_eps) == ("symmetric", 1e-5)
    images = _images(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(encoder(images), born(images), strict=True))
    with pytest.raises(ConfigError, match="'valid', expected"):
        encoder.set_convention(padding="valid", bn_eps=1e-3)
    assert (encoder.padding, encoder.bn_eps, encoder.bn1.eps) == ("symmetric", 1e-5, 1e-5)


def _batch_norms(encoder: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]


def test_batch_norm_follows_the_convention_unless_told() -> None:
    def options(**arguments: Any) -> set[tuple[float, float | None]]:
        encoder = create_encoder("efficientnet_lite0", out_strides=(4,), **arguments)
        return {(bn.eps, bn.momentum) for bn in _batch_norms(encoder)}

    assert options() == {(1e-3, 0.1)}
    assert options(padding="symmetric") == {(1e-5, 0.1)}
    assert options(padding="symmetric", bn_eps=1e-4, bn_momentum=0.01) == {(1e-4, 0.01)}


def test_activation_follows_the_family_unless_told() -> None:
    def kinds(**arguments: Any) -> set[type[nn.Module]]:
        encoder = create_encoder(out_strides=(4,), **arguments)
        return {
            nn.SiLU if isinstance(m, nn.SiLU) else type(m)
            for name, m in encoder.named_modules()
            if name.rpartition(".")[2].startswith("act")
        }

    assert kinds(name="efficientnet_b0") == {nn.SiLU}
    assert kinds(name="efficientnet_lite0") == {nn.ReLU6}
    assert kinds(name="efficientnet_b0", act="relu6") == {nn.ReLU6}


def _rates(encoder: EfficientNetEncoder) -> list[float]:
    return [module.rate for module in encoder.modules() if isinstance(module, StochasticDepth)]


def test_stochastic_depth_rises_linearly_over_the_full_network() -> None:
    rates = _rates(create_encoder("efficientnet_b0", drop_path_rate=0.2))  # 1+2+2+3+3+4+1 blocks
    assert rates == pytest.approx([0.2 * i / 16 for i in range(16)])
    assert _rates(create_encoder("efficientnet_b0", out_strides=(8,), drop_path_rate=0.2)) == rates[:5]


def test_stochastic_depth_acts_in_training_only() -> None:
    encoder = create_encoder("efficientnet_b0", out_strides=(32,), drop_path_rate=0.5).double()
    for bn in _batch_norms(encoder):
        bn.eval()  # only the random branches remain
    images = _images(1, 3, 32, 32).double().expand(16, 3, 32, 32)
    torch.manual_seed(0)
    (noisy,) = encoder(images)
    assert len(noisy.flatten(1).unique(dim=0)) > 1
    (calm,) = encoder.eval()(images)
    torch.testing.assert_close(calm, calm[:1].expand_as(calm))


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0", "efficientnetv2_b0"])
def test_gradients_reach_every_parameter_and_are_finite(name: str) -> None:
    encoder = create_encoder(name, drop_path_rate=0.2)
    torch.manual_seed(0)
    sum(feature.square().mean() for feature in encoder(_images(4, 3, 64, 64))).backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


def test_initial_weights_have_googles_spread() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("efficientnet_b3")
    for name, conv in encoder.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        fan_out = conv.kernel_size[0] ** 2 * conv.out_channels / conv.groups
        count = conv.weight.numel()
        # The sample deviation of n normal draws has a relative error of 1 / sqrt(2 n).
        assert abs(conv.weight.std().item() / math.sqrt(2 / fan_out) - 1) < 5 / math.sqrt(2 * count), name
        assert conv.bias is None or not conv.bias.any()
    assert all((bn.weight == 1).all() and (bn.bias == 0).all() for bn in _batch_norms(encoder))


def test_channels_last_reaches_every_feature() -> None:
    encoder = create_encoder("efficientnet_b0").eval().to(memory_format=torch.channels_last)
    images = _images(2, 3, 64, 62).contiguous(memory_format=torch.channels_last)
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in encoder(images))


def test_weights_may_be_given_at_birth() -> None:
    source = create_encoder("efficientnet_lite0")
    copy = create_encoder("efficientnet_lite0", weights=source.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), copy.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "efficientnet_b9"}, "efficientnet_b9.*Did you mean"),
        ({"in_channels": 0}, "in_channels.*at least 1, got 0"),
        ({"in_channels": 2.0}, r"in_channels.*got 2\.0"),
        ({"out_strides": ()}, "out_strides.*non-empty"),
        ({"out_strides": (8, 4)}, r"ascending.*got \(8, 4\)"),
        ({"out_strides": (8, 8)}, "ascending"),
        ({"out_strides": (8, 64)}, "choice from"),
        ({"out_strides": 8}, "got 8"),
        ({"padding": "valid"}, "'valid', expected 'same'"),
        ({"drop_path_rate": 1.0}, r"\[0, 1\), got 1\.0"),
        ({"act": "swish"}, "activation must be one of .*'silu'.*'swish'"),
    ],
)
def test_arguments_that_cannot_work_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_encoder(**{"name": "efficientnet_b0", **arguments})


def test_images_that_do_not_fit_are_named() -> None:
    encoder = create_encoder("efficientnet_b0", out_strides=(2,))
    with pytest.raises(ShapeError, match=r"\(B, 3, H, W\), got shape \(1, 4, 32, 32\)"):
        encoder(torch.zeros(1, 4, 32, 32))
    with pytest.raises(ShapeError, match=r"got shape \(3, 32, 32\)"):
        encoder(torch.zeros(3, 32, 32))
    with pytest.raises(ShapeError, match=r"float.*torch\.uint8"):
        encoder(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def _assert_same_features(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_export_at_a_fixed_size() -> None:
    encoder = create_encoder("efficientnet_b0").eval()
    images = _images(1, 3, 65, 64)
    with torch.no_grad():
        exported = torch.export.export(encoder, (images,))
        _assert_same_features(exported.module()(images), encoder(images))


@pytest.mark.parametrize("padding", ["same", "same_static", "symmetric"])
def test_export_with_free_batch_and_sides_in_steps_of_32(padding: str) -> None:
    encoder = create_encoder("efficientnet_b0", padding=padding, out_strides=(8, 16, 32)).eval()
    height, width = torch.export.Dim("h", min=2, max=64), torch.export.Dim("w", min=2, max=64)
    free = {0: torch.export.Dim("batch", min=1, max=64), 2: 32 * height, 3: 32 * width}
    with torch.no_grad():
        exported = torch.export.export(encoder, (_images(2, 3, 96, 128),), dynamic_shapes=(free,))
        images = _images(3, 3, 128, 64)
        _assert_same_features(exported.module()(images), encoder(images))


def test_compile_sees_one_graph() -> None:
    encoder = create_encoder("efficientnetv2_b0", out_strides=(4, 8)).eval()
    images = _images(1, 3, 64, 63)
    with torch.no_grad():
        _assert_same_features(torch.compile(encoder, backend="eager", fullgraph=True)(images), encoder(images))
