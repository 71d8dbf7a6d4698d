"""Parameters and multiply-adds: one layer by hand, a model left as it was, and every published figure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import effdense
from effdense.errors import ConfigError
from effdense.models.costs import build_model, model_cost
from effdense.models.published import PUBLISHED, agrees, printed_value, published

# Counted in half a second each, but there are many; the default run keeps B0-B7, V2-S/M/L, D0-D5 and Lite.
HEAVY = {"efficientnet_b8", "efficientnet_l2", "efficientnetv2_xl", "efficientnetv2_rw_m"}
HEAVY |= {"efficientdet_d6", "efficientdet_d7", "efficientdet_d7x", "efficientdetv2_ds"}
PARAMS_TOLERANCE, MACS_TOLERANCE = 0.005, 0.03


class TwoLayers(nn.Module):
    in_channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.linear = nn.Linear(4, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(images).mean((2, 3)))


def test_two_layers_by_hand() -> None:
    cost = model_cost(TwoLayers(), (8, 6))
    # Convolution: 4 x 3 outputs of 4 channels, each from 2 x 3 x 3 values. Linear: 5 outputs from 4 values.
    assert cost.macs == 4 * 3 * 4 * 18 + 5 * 4
    assert cost.params == 4 * 18 + 4 + 5 * 4 + 5
    assert (cost.flops, cost.image_size, cost.head_params) == (2 * cost.macs, (8, 6), 0)


def test_the_head_by_hand_is_the_classifiers() -> None:
    with torch.device("meta"):
        encoder, classifier = model_cost("efficientnet_b0"), model_cost(effdense.create_classifier("efficientnet_b0"))
    assert encoder.total_params == classifier.total_params == 5_288_548
    assert encoder.total_macs == classifier.total_macs == 385_814_752
    # 320 -> 1280 channels on 7 x 7 cells, then 1000 classes.
    assert encoder.head_macs == 49 * 320 * 1280 + 1280 * 1000
    assert encoder.head_params == 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000


def test_macs_follow_the_area_and_the_classes() -> None:
    small, large = model_cost("efficientdet_d0", 128), model_cost("efficientdet_d0", (256, 128))
    # All but squeeze-and-excitation, which sees one pixel whatever the image's size.
    squeeze = sum(
        p.numel()
        for key, p in build_model("efficientdet_d0").named_parameters()
        if key.endswith("weight") and ".se." in key
    )
    assert large.macs == 2 * small.macs - squeeze
    assert model_cost("efficientdet_d0", 128, 3).params == 3_880_067 - (90 - 3) * 9 * (64 + 1)
    assert model_cost("efficientnet_b0", 64, 10).total_params == 5_288_548 - 990 * 1281


def test_a_network_given_is_left_as_it_was() -> None:
    network = effdense.create_encoder("efficientnet_lite0").train()
    network.blocks[0].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    cost = model_cost(network, 64)
    assert cost == model_cost("efficientnet_lite0", 64)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) and not value.is_meta for key, value in network.state_dict().items())


def test_a_segmentor_has_costs_too() -> None:
    cost = model_cost("efficientunet_b0", 64, 5)
    assert cost.params == sum(p.numel() for p in build_model("efficientunet_b0", 5).parameters())
    assert cost.macs > model_cost("efficientnet_b0", 64).macs and cost.head_macs == 0


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in HEAVY else []) for n in PUBLISHED])
def test_published_figures(name: str) -> None:
    """0.5 % in parameters, 3 % in multiply-adds, or a sentence that explains the difference."""
    row, cost = published(name), model_cost(name)
    near_params = row.params is None or agrees(row.params, cost.total_params, PARAMS_TOLERANCE)
    near_macs = row.macs is None or agrees(row.macs, cost.total_macs, MACS_TOLERANCE)
    if row.note is None:
        assert near_params and near_macs
    else:
        assert not (near_params and near_macs), "the note explains nothing"
        assert row.note.startswith("Parameters:" if not near_params else "Multiply-adds:")
        assert near_params or near_macs, "one note, one reason"


def test_the_reason_given_for_lite() -> None:
    """The published surplus is 3.0 to 3.2 operations per output element of a convolution."""
    for size in range(5):
        name = f"efficientnet_lite{size}"
        cost, elements = model_cost(name), 0
        encoder = build_model(name)

        def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            nonlocal elements
            elements += output.numel()

        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(count)
        side = cost.image_size[0]
        with torch.no_grad():
            last = encoder(torch.empty(1, 3, side, side, device="meta"))[-1]
        elements += 1280 * last.shape[-1] * last.shape[-2]  # the head's convolution
        figure = published(name).macs
        assert figure is not None
        assert 2.95 < (printed_value(figure) - cost.total_macs) / elements < 3.25


@pytest.mark.parametrize(
    ("figure", "measured", "near"),
    [("5.3M", 5_288_548, True), ("12M", 12_233_232, True), ("9.2M", 9_109_994, False), ("130B", 134.1e9, False)],
)
def test_a_printed_figure_is_as_exact_as_its_digits(figure: str, measured: float, near: bool) -> None:
    assert agrees(figure, measured, 0.005) is near


def test_every_published_model_exists_and_has_sources() -> None:
    assert set(PUBLISHED) <= set(effdense.list_models())
    for row in PUBLISHED.values():
        assert row.score is not None and row.score_source and row.cost_source and row.params
        assert 25 < row.score < 95 and row.metric in ("COCO val AP", "ImageNet top-1")
    assert published("efficientdet_v2s").score is None and published("efficientdet_v2s").note is None


def test_unknown_models_and_sizes_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="no model is called 'resnet50'"):
        model_cost("resnet50")
    with pytest.raises(ConfigError, match="No encoder is called 'efficientnet_b33'"):
        model_cost("efficientnet_b33")
    for size in (0, (64,), (64, -1), (64, 64.0)):
        with pytest.raises(ConfigError, match="image_size must be"):
            model_cost("efficientnet_b0", size)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="TwoLayers has no size of its own"):
        model_cost(TwoLayers())
