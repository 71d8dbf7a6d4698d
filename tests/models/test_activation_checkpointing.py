"""Activation checkpointing: the numbers of a network that keeps everything, from less memory."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import effdense
from effdense.errors import ConfigError
from effdense.models.activation_checkpointing import call, keep_statistics, set_activation_checkpointing
from effdense.models.batch_norm import set_batch_norm_training
from effdense.models.freezing import freeze_stages, keep_in_eval

SMALL: dict[str, Any] = {"image_size": 64, "fpn_cells": 1, "head_repeats": 1, "max_level": 6, "drop_path_rate": 0.5}


def detector(name: str) -> nn.Module:
    return effdense.create_detector(name, 3, **SMALL)


def segmentor(name: str, **options: Any) -> nn.Module:
    return effdense.create_segmentor(name, 3, image_size=64, drop_path_rate=0.5, dropout=0.2, **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "d0": lambda: detector("efficientdet_d0"),
    "lite0": lambda: detector("efficientdet_lite0"),
    "v2b0": lambda: detector("efficientdet_v2b0"),
    "unet": lambda: segmentor("efficientunet_b0"),
    "unet early": lambda: segmentor("efficientunet_b0", stem_feature=True, early_stride_16=True),
    "bifpnseg": lambda: segmentor("bifpnseg_lite0", decoder_options={"channels": 16, "cells": 2, "head_channels": 16}),
    "classifier": lambda: effdense.create_classifier("efficientnet_b0", 3, drop_path_rate=0.5),
}


def losses(network: Any) -> Tensor:
    """Of two fixed pictures with a target each."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 64, generator=generator).contiguous(memory_format=torch.channels_last)
    if hasattr(network, "backbone"):
        boxes, labels = torch.tensor([[[4.0, 8.0, 40.0, 40.0]]]).repeat(2, 1, 1), torch.tensor([[1], [2]])
        parts = network.padded_loss(images, boxes, labels, labels > 0)
    elif hasattr(network, "encoder"):
        parts = network.loss(images, torch.randint(0, 3, (2, 64, 64), generator=generator))
    else:
        parts = network.loss(images, torch.tensor([0, 2]))
    return torch.stack([value for key, value in parts.items() if "loss" in key]).sum()


def pair(kind: str, where: bool | str = True) -> tuple[Any, Any]:
    """The same network twice: plain, and marked."""
    torch.manual_seed(0)
    plain = NETWORKS[kind]().to(memory_format=torch.channels_last)
    marked = copy.deepcopy(plain)
    assert set_activation_checkpointing(marked, where) > 16  # type: ignore[arg-type]
    return plain, marked


def train(network: nn.Module, steps: int = 2, accumulate: int = 1, **autocast: Any) -> list[Tensor]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    torch.manual_seed(7)
    seen = []
    for step in range(steps * accumulate):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(autocast)):
            loss = losses(network)
        loss.backward()
        seen.append(loss.detach())
        if (step + 1) % accumulate == 0 and step + 1 < steps * accumulate:  # leaves the last gradients
            optimizer.step()
            optimizer.zero_grad()
    return [*seen, torch.get_rng_state()]


def assert_same(plain: Any, marked: Any) -> None:
    """Weights, gradients, running statistics and counters, to the bit."""
    for (name, one), other in zip(plain.state_dict().items(), marked.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    for (name, one), two in zip(plain.named_parameters(), marked.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        assert one.grad is None or torch.equal(one.grad, two.grad), name


# -- the same numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_two_steps_to_the_bit(kind: str) -> None:
    """Stochastic depth on: losses, weights, gradients, statistics, counters and the random stream."""
    plain, marked = pair(kind)
    for one, two in zip(train(plain), train(marked), strict=True):
        assert torch.equal(one, two)
    assert_same(plain, marked)
    first = next(p for p in marked.parameters() if p.requires_grad)
    assert first.grad is not None and first.grad.abs().max() > 0
    assert {int(v) for k, v in marked.state_dict().items() if k.endswith("batches_tracked")} <= {0, 2}


def test_bfloat16_and_accumulation() -> None:
    plain, marked = pair("d0", "encoder")
    for one, two in zip(train(plain, 1, 2, bf16=True), train(marked, 1, 2, bf16=True), strict=True):
        assert torch.equal(one, two)
    assert_same(plain, marked)


def test_frozen_stages_and_statistics() -> None:
    """Frozen stages have nothing to compute again; frozen statistics stay, the blocks around them are repeated."""
    plain, marked = pair("lite0")
    for network in (plain, marked):
        frozen = freeze_stages(network, 2)
        frozen += [m for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        network.train()
        keep_in_eval(frozen)
    before = {k: v.clone() for k, v in marked.backbone.state_dict().items() if "running" in k or "tracked" in k}
    train(plain), train(marked)
    assert_same(plain, marked)
    assert all(torch.equal(value, marked.backbone.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_repetition_is_not_counted(momentum: float | None) -> None:
    """By hand: two batches of means 1 and 3; the average is 2 or, with momentum .1, 0 -> .1 -> .39."""
    norm = nn.BatchNorm1d(1, momentum=momentum)
    for mean in (1.0, 3.0):
        batch = torch.tensor([[mean - 1], [mean + 1]])
        norm(batch)
        with keep_statistics([norm]):
            norm(batch)
    assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 2
    assert norm.running_mean.item() == pytest.approx(2.0 if momentum is None else 0.39)
    assert all(buffer is norm._buffers[name] for name, buffer in norm.named_buffers())


def test_statistics_come_back_after_an_error() -> None:
    norm = nn.BatchNorm1d(1)
    mean = norm.running_mean
    with pytest.raises(ZeroDivisionError), keep_statistics([norm]):
        raise ZeroDivisionError
    assert norm.running_mean is mean


# -- less memory -------------------------------------------------------------------------------------------------------


def kept_bytes(network: nn.Module) -> int:
    """What autograd keeps for the backward pass, each storage once, weights not counted."""
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = losses(network)  # as long as it is here, so is what was kept
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(("kind", "share"), [("d0", 0.4), ("unet", 0.4), ("classifier", 0.15), ("bifpnseg", 0.4)])
def test_memory_falls(kind: str, share: float) -> None:
    plain, marked = pair(kind, "encoder")
    everything, encoder = kept_bytes(plain), kept_bytes(marked)
    set_activation_checkpointing(marked, True)
    most = kept_bytes(marked)
    assert encoder < share * everything, (encoder / everything, most / everything)
    assert most < encoder or kind == "classifier"


# -- nothing else changes ----------------------------------------------------------------------------------------------


def test_marks_are_in_no_state_and_in_copies() -> None:
    plain, marked = pair("lite0")
    assert list(plain.state_dict()) == list(marked.state_dict())
    average = copy.deepcopy(marked).eval()
    again = pickle.loads(pickle.dumps(marked))
    assert all(m.checkpointed for m in (average.backbone, again.backbone, again.fpn.cell[0], again.box_net))
    # A copy runs its own layers.
    nn.init.zeros_(average.backbone.blocks[0][0].conv_pw.weight)
    for one, two in zip(train(plain), train(marked), strict=True):
        assert torch.equal(one, two)
    assert set_activation_checkpointing(marked, False) == 0 and not marked.backbone.checkpointed


def test_no_effect_without_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation, no_grad, torch.func, tracing and export run the network as it is."""
    _, marked = pair("classifier")

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("checkpointed")

    monkeypatch.setattr("effdense.models.activation_checkpointing.checkpoint", never)
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(AssertionError, match="checkpointed"):
        marked(images)
    with torch.no_grad():
        marked(images)
    marked.eval()
    marked(images)
    marked.train()
    stage, x = marked.blocks[1], torch.randn(2, 16, 8, 8)
    stage.eval()
    stage(x)
    stage.train()
    set_batch_norm_training(stage, False)  # torch.func refuses to count batches
    torch.func.vjp(lambda x: call(stage[0], x), x)
    torch.jit.trace(stage[1], torch.randn(2, 24, 4, 4), check_trace=False)


def test_export_of_a_marked_network() -> None:
    _, marked = pair("lite0")
    program = torch.export.export(marked.backbone.eval(), (torch.randn(1, 3, 64, 64),))
    assert not any("checkpoint" in str(node.target) for node in program.graph.nodes)


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"False, True or 'encoder', got 'encodr'.*Did you mean 'encoder'"):
        set_activation_checkpointing(nn.Module(), "encodr")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got 1"):
        set_activation_checkpointing(nn.Module(), 1)  # type: ignore[arg-type]
