"""State dicts of every layout with keys lost, renamed or misshapen: a load, or a WeightsError that changes nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdense.errors import WeightsError
from effdense.models.detection import create_detector
from effdense.models.encoders import create_encoder
from effdense.models.segmentation import create_segmentor
from effdense.models.weights import load_weights

State = dict[str, Tensor]


def _torchvision() -> State:
    return pytest.importorskip("torchvision").models.efficientnet_b0(num_classes=2).state_dict()


def _smp() -> State:
    smp = pytest.importorskip("segmentation_models_pytorch")
    return smp.Unet("efficientnet-b0", encoder_weights=None).state_dict()


def _efficientnet_pytorch() -> State:
    return {k.removeprefix("encoder."): v for k, v in _smp().items() if k.startswith("encoder.")}


def _effdet() -> State:
    effdet = pytest.importorskip("effdet")
    config = effdet.get_efficientdet_config("efficientdet_d0")
    config.num_classes, config.fpn_cell_repeats, config.box_class_repeats = 2, 1, 1
    return effdet.EfficientDet(config, pretrained_backbone=False).state_dict()


def _own() -> State:
    return create_encoder("efficientnet_b0").state_dict()


def _odd(value: Tensor, generator: random.Random) -> Tensor:
    shapes: list[tuple[int, ...]] = [
        (),
        (0,),
        (1,),
        (3, 2),
        (*value.shape, 1),
        value.shape[1:],
        tuple(value.shape[::-1]),
    ]
    return torch.zeros(generator.choice(shapes))


def _damage(state: State, generator: random.Random) -> State:
    damaged = dict(state)
    for _ in range(generator.choice((1, 1, 2, 30))):
        key = generator.choice(list(damaged))
        what = generator.randrange(4)
        if what == 0:
            del damaged[key]
        elif what == 1:
            damaged[key] = _odd(damaged[key], generator)
        elif what == 2:
            parts = key.split(".")
            parts[generator.randrange(len(parts))] = generator.choice(("x", "0", "99", "", "block"))
            damaged[".".join(parts)] = damaged.pop(key)
        else:
            kind = generator.choice(("conv_stem.weight", "features.0.0.weight", "_conv_stem.weight", "class_net.x"))
            damaged[kind] = damaged[key]
    if generator.random() < 0.1:  # nothing but the first tensors
        damaged = dict(list(damaged.items())[: generator.randrange(1, 6)])
    return damaged


@pytest.mark.parametrize("source", [_torchvision, _efficientnet_pytorch, _smp, _effdet, _own])
def test_damage_never_ends_in_another_error_or_half_a_load(source: Any) -> None:
    state, generator = source(), random.Random(0)
    models: list[nn.Module] = [
        create_encoder("efficientnet_b0", out_strides=(2, 4)),
        create_detector("efficientdet_d0", 2, fpn_cells=1, head_repeats=1),
        create_segmentor("efficientunet_b0", 2),
    ]
    refused = 0
    for round_ in range(45):
        model = models[round_ % 3]
        before = {key: value.clone() for key, value in model.state_dict().items()}
        eps = {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
        try:
            load_weights(model, _damage(state, generator))
        except WeightsError:
            refused += 1
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
            assert {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == eps
    assert refused > 10


@pytest.mark.parametrize("source", [_torchvision, _efficientnet_pytorch, _smp, _effdet])
def test_a_scalar_in_any_place_is_refused(source: Any) -> None:
    state = source()
    model = create_detector("efficientdet_d0", 3, fpn_cells=1, head_repeats=1)
    decisive = ("stem", "predict", "_project_conv", "fnode.0", "features.0.0", "features.1.0.block.0.0")
    for key in [key for key in state if any(part in key for part in decisive)][:12]:
        if state[key].ndim:
            with pytest.raises(WeightsError):
                load_weights(model, {**state, key: torch.zeros(())})
