"""Parts of the blocks: gate, stochastic depth, skip connection."""

from __future__ import annotations

import math

import torch
from torch import nn

from effdense.models.encoders.blocks import (
    ConvBnAct,
    FusedMBConv,
    LayerOptions,
    MBConv,
    SqueezeExcite,
    StochasticDepth,
    drop_path,
    make_stage,
)
from effdense.models.encoders.families import StageSpec

OPTIONS = LayerOptions(padding="same", activation="silu", bn_eps=1e-3, bn_momentum=0.1)


def test_gate_by_hand() -> None:
    gate = SqueezeExcite(2, 1, "relu")
    with torch.no_grad():
        gate.conv_reduce.weight.copy_(torch.tensor([1.0, 1.0]).reshape(1, 2, 1, 1))
        gate.conv_reduce.bias.fill_(-1.0)
        gate.conv_expand.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        gate.conv_expand.bias.zero_()
    image = torch.tensor([[1.0, 3.0], [2.0, 2.0]]).reshape(1, 2, 1, 2)  # channel means 2 and 2
    squeezed = 2.0 + 2.0 - 1.0
    factors = [1 / (1 + math.exp(-squeezed)), 1 / (1 + math.exp(squeezed))]
    expected = torch.tensor([[factors[0], 3 * factors[0]], [2 * factors[1], 2 * factors[1]]]).reshape(1, 2, 1, 2)
    torch.testing.assert_close(gate(image), expected)


def test_squeeze_width_counts_from_the_block_input() -> None:
    stage = make_stage(24, StageSpec("mbconv", 5, 2, 6, 40, 2, se_ratio=0.25), OPTIONS, (0.0, 0.0))
    first, second = stage
    assert isinstance(first, MBConv) and isinstance(second, MBConv)
    assert (first.se.conv_reduce.in_channels, first.se.conv_reduce.out_channels) == (144, 6)
    assert (second.se.conv_reduce.in_channels, second.se.conv_reduce.out_channels) == (240, 10)
    assert (first.has_skip, second.has_skip) == (False, True)
    assert (first.conv_dw.stride, second.conv_dw.stride) == ((2, 2), (1, 1))


def test_a_silent_branch_leaves_the_shortcut() -> None:
    image = torch.rand(2, 16, 5, 5, generator=torch.Generator().manual_seed(0))
    block = FusedMBConv(16, StageSpec("fused_mbconv", 3, 1, 4, 16, 1), 1, OPTIONS)
    nn.init.zeros_(block.bn2.weight)
    assert torch.equal(block(image), image)
    without_skip = ConvBnAct(16, StageSpec("conv", 3, 1, 1, 8, 1), 1, OPTIONS)
    nn.init.zeros_(without_skip.bn1.weight)
    assert torch.equal(without_skip(image), torch.zeros(2, 8, 5, 5))


def test_drop_path_keeps_the_mean_and_whole_samples() -> None:
    rate, count = 0.3, 20_000
    dropped = drop_path(torch.ones(count, 2, 1, 3), rate, torch.Generator().manual_seed(0)).flatten(1)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))  # a sample is dropped or kept as a whole
    kept = dropped[:, 0] > 0
    torch.testing.assert_close(dropped[kept], torch.full((int(kept.sum()), 6), 1 / 0.7))
    sigma = math.sqrt(rate * (1 - rate) / count)
    assert abs(kept.double().mean().item() - 0.7) < 4 * sigma
    assert abs(dropped.double().mean().item() - 1.0) < 4 * sigma / 0.7


def test_drop_path_repeats_with_its_generator_and_keeps_the_dtype() -> None:
    x = torch.ones(64, 1, dtype=torch.bfloat16)
    first, second = (drop_path(x, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.bfloat16


def test_stochastic_depth_sleeps_in_evaluation_and_at_rate_zero() -> None:
    x = torch.ones(64, 1)
    assert StochasticDepth(0.9).eval()(x) is x
    assert StochasticDepth(0.0).train()(x) is x
    assert not torch.equal(StochasticDepth(0.9).train()(x), x)
