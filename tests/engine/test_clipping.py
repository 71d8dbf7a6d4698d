"""Adaptive gradient clipping against timm's, by hand, and inside the optimizer wrapper."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from effdense.engine.clipping import PREDICTION_LAYERS, AdaptiveClipping, adaptive_clipping
from effdense.engine.config import load_config
from effdense.engine.finite import StepGuard
from effdense.engine.models import ClassificationModel, DetectionModel, SegmentationModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.parameter_groups import QuietOptimWrapperConstructor
from effdense.errors import ConfigError
from tests.engine.conftest import ROOT


def with_gradients(network: nn.Module, scale: float = 0.1) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = list(network.parameters())
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator) * scale
    return parameters


def test_units_by_hand() -> None:
    """Rows (3, 4) and (0, 0): lengths 5 and eps. A tenth of each is allowed: the first gradient, of length 1, is
    halved; the second, of .5, is cut to 1e-4; a bias is one unit.
    """
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    bias = nn.Parameter(torch.tensor([6.0, 8.0]))
    weight.grad, bias.grad = torch.tensor([[1.0, 0.0], [0.3, 0.4]]), torch.tensor([0.6, 0.8])
    norm = AdaptiveClipping(0.1, exclude=[])([weight, bias])
    assert norm.item() == pytest.approx((1 + 0.25 + 1) ** 0.5)
    torch.testing.assert_close(weight.grad, torch.tensor([[0.5, 0.0], [0.6e-4, 0.8e-4]]))
    torch.testing.assert_close(bias.grad, torch.tensor([0.6, 0.8]))  # 1 of 10: as it was


@pytest.mark.parametrize("options", [{}, {"clip_factor": 0.16, "eps": 1e-2}, {"norm_type": 1.0}])
def test_numbers_are_timms(options: dict[str, float]) -> None:
    agc = pytest.importorskip("timm.utils.agc")
    network = DetectionModel("efficientdet_d0", 2, image_size=64, fpn_cells=1, head_repeats=1).network
    expected = with_gradients(network)
    found = [nn.Parameter(p.detach().clone()) for p in expected]
    for mine, theirs in zip(found, expected, strict=True):
        mine.grad = theirs.grad.clone()
    before = [p.grad.clone() for p in expected]
    agc.adaptive_clip_grad(expected, **options)
    AdaptiveClipping(exclude=[], **options)(found)
    assert all(torch.equal(mine.grad, theirs.grad) for mine, theirs in zip(found, expected, strict=True))
    assert not all(torch.equal(mine.grad, old) for mine, old in zip(found, before, strict=True))


def test_short_gradients_stay_to_the_bit() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(4, 2))
    parameters = with_gradients(network, 1e-9)
    before = [p.grad.clone() for p in parameters]
    AdaptiveClipping(exclude=[])(parameters)
    assert all(torch.equal(p.grad, old) for p, old in zip(parameters, before, strict=True))


def test_what_is_not_finite_is_not_hidden() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.tensor([[float("inf"), 1.0], [1.0, 1.0]])
    assert not torch.isfinite(AdaptiveClipping(exclude=[])([weight]))


def built(shell: Any, clip: dict[str, Any], **more: Any) -> EffOptimWrapper:
    constructor = QuietOptimWrapperConstructor(
        {
            "type": "EffOptimWrapper",
            "optimizer": {"type": "SGD", "lr": 1.0},
            "clip_grad": {"type": "agc", **clip},
            **more,
        }
    )
    with DefaultScope.overwrite_default_scope("effdense"):
        return constructor(shell)


@pytest.mark.parametrize(
    ("shell", "left"),
    [
        (
            lambda: DetectionModel("efficientdet_lite0", 2, image_size=64, fpn_cells=1, head_repeats=1),
            {f"{net}.predict.{part}" for net in ("class_net", "box_net") for part in ("conv_dw.weight",)}
            | {f"{net}.predict.conv_pw.{part}" for net in ("class_net", "box_net") for part in ("weight", "bias")},
        ),
        (
            lambda: SegmentationModel("efficientunet_lite0", 2, image_size=64),
            {"segmentation_head.0.weight", "segmentation_head.0.bias"},
        ),
        (
            lambda: ClassificationModel("efficientnet_lite0", 2, image_size=64),
            {"classifier.weight", "classifier.bias"},
        ),
    ],
)
def test_prediction_layers_are_left_alone(shell: Any, left: set[str]) -> None:
    model = shell()
    clipping = built(model, {"clip_factor": 0.01}).adaptive_clipping
    assert clipping is not None and clipping.exclude == PREDICTION_LAYERS
    parameters = with_gradients(model.network, 100.0)
    before = {name: p.grad.clone() for name, p in model.network.named_parameters() if p.grad is not None}
    clipping(parameters)
    same = {n for n, p in model.network.named_parameters() if p.grad is not None and torch.equal(p.grad, before[n])}
    assert same == left


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    """Small and in float32, as our losses are, so that float16's first scale does not make it overflow."""
    return model(x).float().square().mean() * 1e-3


def step(model: nn.Module, wrapper: EffOptimWrapper, batches: list[Tensor]) -> None:
    for x in batches:
        with wrapper.optim_context(model):
            loss = loss_of(model, x)
        wrapper.update_params(loss)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body, self.classifier = nn.Linear(4, 6), nn.Linear(6, 2)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x))


INPUT = torch.linspace(-1.0, 1.0, 32).view(8, 4)


@pytest.mark.parametrize("more", [{}, {"dtype": "float16"}, {"accumulative_counts": 2}])
def test_a_step_is_one_with_clipped_gradients(more: dict[str, Any]) -> None:
    """Gradients of the whole window, unscaled; what is logged is their norm before."""
    model, plain = Toy(), Toy()
    wrapper = built(model, {"clip_factor": 0.001}, **more)
    wrapper.initialize_count_status(model, 0, 2)
    step(model, wrapper, [INPUT[:4], INPUT[4:]] if "accumulative_counts" in more else [INPUT])
    loss_of(plain, INPUT).backward()
    clipping = AdaptiveClipping(0.001)
    clipping.name(plain.named_parameters())
    norm = clipping(list(plain.parameters()))
    tolerance = 2e-2 if "dtype" in more else 1e-5
    assert wrapper.last_grad_norm is not None
    assert wrapper.last_grad_norm.item() == pytest.approx(norm.item(), rel=tolerance)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), (q - q.grad).detach(), rtol=tolerance, atol=1e-3 * tolerance)


def test_a_step_with_nan_is_held_back() -> None:
    model = Toy()
    wrapper = built(model, {})
    wrapper.guard = StepGuard(stop=False, may_read=True)
    before = copy.deepcopy(model.state_dict())
    wrapper.guard.begin()
    step(model, wrapper, [torch.full((1, 4), float("nan"))])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_factor": 0}, "clip_factor .* got 0"),
        ({"eps": "small"}, "eps .* 'small'"),
        ({"exclude": "classifier"}, "list of parts"),
        ({"max_norm": 10.0}, "no 'max_norm'"),
        ({"clip_facto": 0.1}, "Did you mean 'clip_factor'"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adaptive_clipping({"type": "agc", **options})


def test_a_part_that_no_name_has() -> None:
    with pytest.raises(ConfigError, match=r"no parameter's name has 'clasifier'.*'classifier'"):
        built(Toy(), {"exclude": ["clasifier"]})
    with pytest.raises(ConfigError, match="QuietOptimWrapperConstructor"):
        AdaptiveClipping()([nn.Parameter(torch.ones(1))])


def test_the_config_takes_it() -> None:
    shapes = ROOT / "configs" / "effdet_b0_shapes.py"
    options = {"optim_wrapper.clip_grad": {"type": "agc", "clip_factor": 0.02, "_delete_": True}}
    assert load_config(shapes, options).optim_wrapper.clip_grad.to_dict() == {"type": "agc", "clip_factor": 0.02}
