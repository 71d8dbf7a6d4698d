"""BiFPN: which node reads what, the fusion formulas, and resampling at any size."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdense.errors import ConfigError, ShapeError
from effdense.models.encoders.padding import same_padding
from effdense.models.necks import BiFPN, bifpn_topology
from effdense.models.necks.bifpn import Fusion
from effdense.models.necks.resample import Resample, downsample_max


def nodes(num_levels: int) -> list[tuple[int, tuple[int, ...]]]:
    return [(node.level, node.inputs) for node in bifpn_topology(num_levels)]


def test_topology_of_p3_to_p7() -> None:
    # Entries 0..4 are P3..P7; top-down P6 P5 P4 P3 append 5..8; bottom-up P4 P5 P6 P7. automl fpn_configs.py.
    assert nodes(5) == [
        (3, (3, 4)), (2, (2, 5)), (1, (1, 6)), (0, (0, 7)),
        (1, (1, 7, 8)), (2, (2, 6, 9)), (3, (3, 5, 10)), (4, (4, 11)),
    ]  # fmt: skip


def test_topology_of_p3_to_p8() -> None:
    assert nodes(6) == [
        (4, (4, 5)), (3, (3, 6)), (2, (2, 7)), (1, (1, 8)), (0, (0, 9)),
        (1, (1, 9, 10)), (2, (2, 8, 11)), (3, (3, 7, 12)), (4, (4, 6, 13)), (5, (5, 14)),
    ]  # fmt: skip


@pytest.mark.parametrize("num_levels", range(2, 9))
def test_topology_of_any_height(num_levels: int) -> None:
    found = nodes(num_levels)
    top_down, bottom_up = found[: num_levels - 1], found[num_levels - 1 :]
    assert [level for level, _ in top_down] == list(range(num_levels - 2, -1, -1))
    assert [level for level, _ in bottom_up] == list(range(1, num_levels))
    assert all(max(inputs) < num_levels + index for index, (_, inputs) in enumerate(found))  # only what exists already
    # The middle levels see their raw input, their top-down node and the finer level; the ends have no middle node.
    assert [len(inputs) for _, inputs in bottom_up] == [3] * (num_levels - 2) + [2]
    # Each node reads its own level and one neighbour, and its entries are numbered in order of execution.
    level_of = [*range(num_levels), *(level for level, _ in found)]
    for level, inputs in found:
        assert level_of[inputs[0]] == level and abs(level_of[inputs[-1]] - level) == 1


def test_one_level_is_no_pyramid() -> None:
    with pytest.raises(ConfigError, match="at least 2 levels, got 1"):
        bifpn_topology(1)


@pytest.mark.parametrize("size", list(product((1, 2, 3, 4, 7, 8), repeat=2)))
def test_same_max_pool_is_tensorflows(size: tuple[int, int]) -> None:
    image = (
        torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0)) - 5
    )  # below 0, where 0-padding would show
    (top, bottom), (left, right) = (same_padding(side, 3, 2) for side in size)
    padded = F.pad(image, (left, right, top, bottom), value=-math.inf)
    expected = padded.unfold(2, 3, 2).unfold(3, 3, 2).amax((-2, -1))
    assert torch.equal(downsample_max(image), expected)
    assert expected.shape[-2:] == ((size[0] + 1) // 2, (size[1] + 1) // 2)
    assert torch.equal(downsample_max(image, "symmetric"), F.max_pool2d(image, 3, stride=2, padding=1))


def test_max_pool_alignments_differ_on_even_sides() -> None:
    row = torch.tensor([4.0, 1.0, 2.0, 3.0]).reshape(1, 1, 1, 4)
    assert downsample_max(row).flatten().tolist() == [4.0, 3.0]  # windows [4 1 2], [2 3]
    assert downsample_max(row, "symmetric").flatten().tolist() == [4.0, 3.0]  # windows [4 1], [1 2 3]
    row = torch.tensor([1.0, 2.0, 4.0, 3.0]).reshape(1, 1, 1, 4)
    assert downsample_max(row).flatten().tolist() == [4.0, 4.0]
    assert downsample_max(row, "symmetric").flatten().tolist() == [2.0, 4.0]


@pytest.mark.parametrize("size", list(product((1, 2, 3, 4, 7, 8), repeat=2)))
def test_padding_of_same_zero_takes_part_in_the_maximum(size: tuple[int, int]) -> None:
    image = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))
    (top, bottom), (left, right) = (same_padding(side, 3, 2) for side in size)
    expected = F.pad(image, (left, right, top, bottom)).unfold(2, 3, 2).unfold(3, 3, 2).amax((-2, -1))
    assert torch.equal(downsample_max(image, "same_zero"), expected)
    assert torch.equal(downsample_max(image.abs(), "same_zero"), downsample_max(image.abs(), "same"))


def test_max_pool_of_same_zero_by_hand() -> None:
    row = torch.tensor([-4.0, -1.0, -2.0, -3.0]).reshape(1, 1, 1, 4)
    assert downsample_max(row, "same").flatten().tolist() == [-1.0, -2.0]
    assert downsample_max(row.expand(1, 1, 4, 4), "same_zero")[0, 0, 0].tolist() == [
        -1.0,
        0.0,
    ]  # [-2 -3 0] at the right


def fusion(kind: str, weights: list[float], inputs: tuple[int, ...] = (0, 1)) -> Fusion:
    module = Fusion(inputs, [Resample(None) for _ in inputs], kind)
    if kind != "sum":
        with torch.no_grad():
            module.edge_weights.copy_(torch.tensor(weights))
    return module


def constant(value: float) -> Tensor:
    return torch.full((1, 1, 2, 2), value)


def test_fast_normalised_fusion_by_hand() -> None:
    module = fusion("fastattn", [1.0, 3.0])
    fused = module([constant(10.0), constant(20.0)], (2, 2))
    torch.testing.assert_close(fused, constant((1 * 10 + 3 * 20) / (4 + 1e-4)))


def test_a_negative_weight_switches_its_input_off() -> None:
    module = fusion("fastattn", [2.0, -1.0])
    torch.testing.assert_close(module([constant(10.0), constant(20.0)], (2, 2)), constant(2 * 10 / (2 + 1e-4)))
    dead = fusion("fastattn", [-1.0, -1.0])
    assert torch.equal(dead([constant(10.0), constant(20.0)], (2, 2)), constant(0.0))  # not 0 / 0


def test_softmax_fusion_by_hand() -> None:
    module = fusion("softmax", [0.0, math.log(3.0)])  # weights 1/4 and 3/4
    torch.testing.assert_close(module([constant(10.0), constant(20.0)], (2, 2)), constant(17.5))


def test_sum_fusion_has_no_parameters() -> None:
    module = fusion("sum", [])
    assert not list(module.parameters()) and module.weights() is None
    assert torch.equal(module([constant(10.0), constant(20.0)], (2, 2)), constant(30.0))


def test_fusion_leaves_its_inputs_alone() -> None:
    first, second = constant(1.0), constant(2.0)
    fusion("sum", [])([first, second], (2, 2))
    assert torch.equal(first, constant(1.0)) and torch.equal(second, constant(2.0))


@pytest.mark.parametrize("padding", ["same", "symmetric", "same_zero"])
@pytest.mark.parametrize("downsample", ["max", "bilinear"])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    ("source", "target"), [((4, 6), (8, 11)), ((8, 11), (4, 6)), ((4, 6), (4, 6)), ((1, 2), (1, 4))]
)
def test_scaling_before_a_resize_equals_scaling_after(
    source: tuple[int, int], target: tuple[int, int], upsample: str, downsample: str, padding: str
) -> None:
    image = torch.randn(2, 3, *source, generator=torch.Generator().manual_seed(1))
    resample = Resample(None, padding=padding, upsample=upsample, downsample=downsample)
    plain, weighted = resample(image, target), resample(image, target, torch.tensor(0.3))
    assert plain.shape[-2:] == target
    torch.testing.assert_close(weighted, 0.3 * plain)


def test_upsampling_by_hand() -> None:
    row = torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2)
    nearest, bilinear = Resample(None), Resample(None, upsample="bilinear")
    assert nearest(row, (1, 4)).flatten().tolist() == [0.0, 0.0, 4.0, 4.0]
    assert bilinear(row, (1, 4)).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]  # pixel centres at 1/4 and 3/4


def test_bilinear_downsampling_by_hand() -> None:
    resample = Resample(None, downsample="bilinear")
    row = torch.tensor([0.0, 4.0, 1.0, 3.0]).reshape(1, 1, 1, 4)
    assert resample(row.expand(1, 1, 2, 4), (1, 2)).flatten().tolist() == [2.0, 2.0]  # an even side: means of 2x2
    row = torch.tensor([0.0, 6.0, 12.0]).reshape(1, 1, 1, 3)
    assert resample(row.expand(1, 1, 3, 3), (2, 2))[0, 0, 0].tolist() == [1.5, 10.5]  # centres at 1/4 and 3/4 of 3 px


def test_padding_is_switched_everywhere_in_place() -> None:
    neck = BiFPN((8, 12, 20), 16, 5, 2).eval()
    other = BiFPN((8, 12, 20), 16, 5, 2, padding="symmetric").eval()
    other.load_state_dict(neck.state_dict())
    maps = pyramid((16, 16))
    assert not torch.equal(neck(maps)[-1], other(maps)[-1])
    neck.set_padding("symmetric")
    assert neck.padding == "symmetric"
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(neck(maps), other(maps), strict=True))
    with pytest.raises(ConfigError, match=r"padding must be one of .* got 'valid'"):
        neck.set_padding("valid")
    assert neck.padding == "symmetric"


def pyramid(size: tuple[int, int], widths: tuple[int, ...] = (8, 12, 20), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for width in widths:
        maps.append(torch.randn(2, width, *size, generator=generator))
        size = (size[0] + 1) // 2, (size[1] + 1) // 2
    return maps


@pytest.mark.parametrize("padding", ["same", "symmetric", "same_zero"])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("downsample", ["max", "bilinear"])
@pytest.mark.parametrize("size", [(16, 16), (29, 40), (5, 3), (1, 1)])
def test_any_size_gives_levels_halved_and_rounded_up(
    size: tuple[int, int], upsample: str, downsample: str, padding: str
) -> None:
    neck = BiFPN((8, 12, 20), 16, 5, 2, upsample=upsample, downsample=downsample, padding=padding).eval()
    levels = neck(pyramid(size))
    for level in levels:
        assert level.shape == (2, 16, *size)
        size = (size[0] + 1) // 2, (size[1] + 1) // 2
    assert len(levels) == 5


@pytest.mark.parametrize("num_levels", [2, 3])
def test_a_pyramid_of_encoder_levels_alone(num_levels: int) -> None:
    neck = BiFPN((8, 12, 20)[:num_levels], 16, num_levels, 1).eval()
    assert not neck.resample
    assert len(neck(pyramid((8, 8))[:num_levels])) == num_levels


def test_a_level_read_twice_has_a_projection_for_each_reader() -> None:
    neck = BiFPN((8, 12, 20), 16, 5, 2)
    first, second = neck.cell
    projections = {  # node -> the inputs it projects; automl efficientdet_keras.py FNode
        index: [key for key, resample in node.combine.resample.items() if resample.has_conv]
        for index, node in enumerate(first.fnode)
    }
    # P5 and P4 enter top-down (nodes 1, 2), P3 once (node 3), and P4, P5 again bottom-up (nodes 4, 5).
    assert projections == {0: [], 1: ["2"], 2: ["1"], 3: ["0"], 4: ["1"], 5: ["2"], 6: [], 7: []}
    assert not any(r.has_conv for node in second.fnode for r in node.combine.resample.values())
    assert [resample.has_conv for resample in neck.resample.values()] == [True, False]  # P6 projects, P7 only pools


def test_a_cell_with_identity_convolutions_is_arithmetic() -> None:
    """Two levels of constants, every convolution the identity: the numbers can be followed by hand."""
    neck = BiFPN((1, 1), 1, 2, 1, fusion="sum", act="relu", redundant_bias=False, bn=lambda _: nn.Identity())
    for block in neck.cell[0].fnode:
        nn.init.zeros_(block.after_combine.conv.conv_dw.weight)
        with torch.no_grad():
            block.after_combine.conv.conv_dw.weight[0, 0, 1, 1] = 1.0
        nn.init.ones_(block.after_combine.conv.conv_pw.weight)
    fine, coarse = neck([torch.full((1, 1, 4, 4), 3.0), torch.full((1, 1, 2, 2), -5.0)])
    assert torch.equal(fine, torch.zeros(1, 1, 4, 4))  # relu(3 - 5): the activation comes before the convolution
    assert torch.equal(coarse, torch.zeros(1, 1, 2, 2))  # relu(-5 + 0)
    fine, coarse = neck([torch.full((1, 1, 4, 4), 3.0), torch.full((1, 1, 2, 2), 5.0)])
    assert torch.equal(fine, torch.full((1, 1, 4, 4), 8.0)) and torch.equal(coarse, torch.full((1, 1, 2, 2), 13.0))


def test_every_fusion_weight_receives_a_gradient() -> None:
    neck = BiFPN((8, 12, 20), 16, 5, 2)
    generator = torch.Generator().manual_seed(2)
    loss = sum((level * torch.randn(level.shape, generator=generator)).sum() for level in neck(pyramid((16, 16))))
    loss.backward()
    weights = {name: p for name, p in neck.named_parameters() if name.endswith("edge_weights")}
    assert len(weights) == 2 * 8
    for name, weight in weights.items():
        assert weight.grad is not None and bool((weight.grad != 0).all()), name


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((8,), 16, 5, 1), {"fusion": "attention"}, "fusion must be one of .* got 'attention'"),
        (((8,), 16, 5, 1), {"upsample": "cubic"}, "upsample must be .* got 'cubic'"),
        (((8,), 16, 5, 1), {"downsample": "mean"}, "downsample must be .* got 'mean'"),
        (((8,), 16, 5, 1), {"padding": "valid"}, "padding must be .* got 'valid'"),
        (((8,), 16, 5, 0), {}, "at least 1 cell, got 0"),
        (((8, 8, 8), 16, 2, 1), {}, "between 1 and 2 encoder features, got 3"),
        (((8,), 16, 5, 1), {"act": "gelu"}, "activation must be one of .* got 'gelu'"),
    ],
)
def test_what_cannot_be_built_is_named(arguments: tuple, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BiFPN(*arguments, **options)


def test_a_missing_level_is_named() -> None:
    with pytest.raises(ShapeError, match="expected 3 feature maps, fine to coarse, got 2"):
        BiFPN((8, 12, 20), 16, 5, 1)(pyramid((16, 16))[:2])
