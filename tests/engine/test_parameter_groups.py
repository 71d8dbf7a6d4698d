"""Which parameters are trained how, by name; and fused steps, chosen by trying."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from effdense.engine.finite import StepGuard
from effdense.engine.fused import keep_implementation, start_momentum, with_fused
from effdense.engine.models import ClassificationModel, DetectionModel, SegmentationModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.parameter_groups import QuietOptimWrapperConstructor
from effdense.errors import ConfigError

NAN = float("nan")


class OtherSyncBatchNorm(nn.SyncBatchNorm):
    """As projects have them: a subclass under a name of its own."""


def detector() -> Any:
    return DetectionModel("efficientdet_d0", 2, image_size=64, fpn_cells=1, head_repeats=1)


def segmentor() -> Any:
    return SegmentationModel("efficientunet_b0", 3, image_size=64)


def pyramid_segmentor() -> Any:
    return SegmentationModel("bifpnseg_b0", 3, image_size=64)


def classifier() -> Any:
    return ClassificationModel("efficientnet_b0", 3, image_size=64)


def synchronised() -> Any:
    shell = detector()
    shell.network = nn.SyncBatchNorm.convert_sync_batchnorm(shell.network)
    for module in shell.network.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = OtherSyncBatchNorm
    return shell


def wrapper_for(shell: Any, optimizer: dict[str, Any], **paramwise: Any) -> EffOptimWrapper:
    constructor = QuietOptimWrapperConstructor(
        {"type": "EffOptimWrapper", "optimizer": {"lr": 0.1, **optimizer}}, paramwise_cfg=paramwise or None
    )
    with DefaultScope.overwrite_default_scope("effdense"):
        return constructor(shell)


def decay_by_name(shell: Any, **paramwise: Any) -> dict[str, float]:
    groups = wrapper_for(shell, {"type": "SGD", "weight_decay": 0.5}, **paramwise).optimizer.param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == sum(len(group["params"]) for group in groups)
    return {name: decay[id(p)] for name, p in shell.network.named_parameters()}


@pytest.mark.parametrize("make", [detector, segmentor, pyramid_segmentor, classifier, synchronised])
def test_one_switch_takes_norms_biases_and_fusion_out(make: Any) -> None:
    """What decays is exactly the weights of convolutions and linear layers, as in automl."""
    shell = make()
    kernels = {f"{name}.weight" for name, m in shell.network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    decay = decay_by_name(shell, flat_decay_mult=0.0)
    assert {name for name, value in decay.items() if value == 0.5} == kernels
    assert set(decay.values()) == {0.0, 0.5}
    norms = [name for name, m in shell.network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(decay[f"{name}.{part}"] == 0.0 for name in norms for part in ("weight", "bias"))


def test_norm_and_bias_alone_leave_the_fusion_weights() -> None:
    """mmengine's two keys; ``flat_decay_mult`` is the one that reaches all three."""
    decay = decay_by_name(detector(), norm_decay_mult=0.0, bias_decay_mult=0.0)
    flat = decay_by_name(detector(), flat_decay_mult=0.0)
    differ = {name for name in decay if decay[name] != flat[name]}
    assert differ and all(name.endswith("edge_weights") for name in differ)


def test_without_a_word_everything_decays() -> None:
    assert set(decay_by_name(classifier()).values()) == {0.5}


# -- fused steps -------------------------------------------------------------------------------------------------------


# Older releases cannot hold Adagrad's fused step back (2.11 still), and so it is not chosen.
_ADAGRAD = torch.optim.Adagrad([nn.Parameter(torch.zeros(1))], fused=True)
HELD_BACK = True if getattr(_ADAGRAD, "_step_supports_amp_scaling", False) else None


@pytest.mark.parametrize(
    ("options", "fused"),
    [
        ({"type": "SGD", "momentum": 0.9}, True),
        ({"type": "AdamW"}, True),
        ({"type": "Adam"}, True),
        ({"type": "Adagrad"}, HELD_BACK),
        ({"type": "AdamW", "fused": False}, False),
        ({"type": "AdamW", "fused": None}, None),
        ({"type": "AdamW", "foreach": True}, None),
        ({"type": "SGD", "momentum": 0.9, "dampening": 0.5}, None),
        ({"type": "RMSprop"}, "none"),
        ({"type": "NAdam"}, "none"),
    ],
)
def test_where_torch_has_it_and_the_config_says_nothing(options: dict[str, Any], fused: Any) -> None:
    groups = wrapper_for(classifier(), options, flat_decay_mult=0.0).optimizer.param_groups
    assert {group.get("fused", "none") for group in groups} == {fused}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fused=True: RMSprop has no fused step\. Remove it"):
        wrapper_for(classifier(), {"type": "RMSprop", "fused": True})
    with pytest.raises(ConfigError, match="must be True, False or None, got 'yes'"):
        wrapper_for(classifier(), {"type": "AdamW", "fused": "yes"})


def test_where_the_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by trying, as on a device whose kernels torch lacks."""

    class Picky(torch.optim.SGD):
        def __init__(self, *args: Any, fused: bool | None = None, **options: Any) -> None:
            if fused:
                raise RuntimeError("`fused=True` requires all the params to be on supported devices")
            super().__init__(*args, **options)

    weights = [nn.Parameter(torch.zeros(2))]
    assert with_fused({"lr": 0.1}, Picky, weights) == {"lr": 0.1}
    with pytest.raises(ConfigError, match=r"Picky has no fused step for float32 on cpu .*supported devices"):
        with_fused({"lr": 0.1, "fused": True}, Picky, weights)


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("options", [{"type": "SGD", "momentum": 0.9, "nesterov": True}, {"type": "AdamW"}])
def test_a_first_step_held_back_leaves_nothing(options: dict[str, Any], dtype: str | None) -> None:
    """torch's fused SGD makes its momentum from uninitialised memory in the first step, held back or not."""

    def run(losses: list[float]) -> tuple[EffOptimWrapper, list[float]]:
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        wrapper = wrapper_for(model, options) if dtype is None else _half(model, options)
        wrapper.guard = None if dtype else StepGuard(stop=False, may_read=False)
        for factor in losses:
            if wrapper.guard is not None:
                wrapper.guard.begin()
            wrapper.update_params(model(torch.tensor([[factor]])).sum())
        return wrapper, [model.weight.item(), *(s.item() for s in _state(wrapper))]

    torch.empty(1000).fill_(NAN)  # what memory may hold
    held, found = run([NAN, 0.5, 0.25])
    _, expected = run([0.5, 0.25])
    assert found == pytest.approx(expected, rel=1e-3 if dtype else 0)
    assert all(group["fused"] for group in held.optimizer.param_groups)


def _half(model: nn.Module, options: dict[str, Any]) -> EffOptimWrapper:
    built = wrapper_for(model, options)
    return EffOptimWrapper(built.optimizer, dtype="float16")


def _state(wrapper: EffOptimWrapper) -> list[torch.Tensor]:
    return [
        value
        for state in wrapper.optimizer.state.values()
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and key != "step"
    ]


def test_momentum_from_zero_is_torchs_first_step() -> None:
    weights = [nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2)]
    optimizers = [torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01, fused=True) for w in weights]
    start_momentum(optimizers[0])
    for step in range(3):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.linspace(0, 1, 7) * (step + 1)
            optimizer.step()
    assert torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("options", [{"type": "SGD", "momentum": 0.9}, {"type": "AdamW"}])
def test_a_resumed_run_is_the_run(options: dict[str, Any]) -> None:
    """To the bit; and a state that was saved without fused steps goes on with them."""

    def steps(model: nn.Module, wrapper: EffOptimWrapper, numbers: range) -> None:
        for number in numbers:
            wrapper.update_params(model(torch.full((1, 3), 0.1 * number)).square().sum())

    model = nn.Linear(3, 2)
    wrapper = wrapper_for(model, options)
    steps(model, wrapper, range(1, 4))
    other = copy.deepcopy(model)
    resumed = wrapper_for(other, options)
    resumed.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    steps(model, wrapper, range(4, 7))
    steps(other, resumed, range(4, 7))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))

    plain = wrapper_for(other, {**options, "fused": False})
    steps(other, plain, range(1, 3))
    resumed.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert all(group["fused"] for group in resumed.optimizer.param_groups)
    steps(other, resumed, range(3, 5))
    assert all(torch.isfinite(p).all() for p in other.parameters())


def test_momentum_of_a_run_whose_steps_were_all_held_back() -> None:
    """Its checkpoint has none, and a fused step would make it from memory that holds anything."""
    wrapper = wrapper_for(classifier(), {"type": "SGD", "lr": 0.1, "momentum": 0.9})
    state = wrapper.state_dict()
    wrapper.load_state_dict({**state, "state": {}})
    assert all(not wrapper.optimizer.state[p]["momentum_buffer"].any() for p in wrapper.param_groups[0]["params"])


def test_an_optimizer_that_computes_the_loss_itself() -> None:
    with pytest.raises(ConfigError, match=r"LBFGS computes the loss .*several times a step.*AdamW"):
        wrapper_for(classifier(), {"type": "LBFGS"})


def test_states_of_other_groups_are_for_torch_to_refuse() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    state = {"param_groups": [{"fused": True}, {"fused": True}], "state": {}}
    assert keep_implementation(state, optimizer) == state
