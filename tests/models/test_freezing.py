"""What stands still in training: stages, statistics; and how deep a parameter lies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import effdense
from effdense.errors import ConfigError
from effdense.models.freezing import batch_norms, encoder_of, freeze_stages, keep_in_eval, layer_index


@pytest.fixture
def detector() -> Any:
    return effdense.create_detector("efficientdet_d0", 2, fpn_cells=1, head_repeats=1)


def trained(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_depth_by_hand() -> None:
    names = ["backbone.conv_stem.weight", "backbone.bn1.bias", "backbone.blocks.0.0.bn1.weight", "encoder.blocks.6.0.a"]
    assert [layer_index(name, 7) for name in names] == [0, 0, 1, 7]
    assert [layer_index(n, 7) for n in ("conv_stem.weight", "blocks.2.1.se.x", "conv_head.weight", "bn2.bias")] == [
        0, 3, 8, 8,
    ]  # fmt: skip
    # A decoder has blocks and a neck has bn1 of its own: they are not the encoder's.
    assert layer_index("decoder.blocks.0.conv1.0.weight", 7) == 8 and layer_index("fpn.cell.0.x", 7) == 8


def test_stages_from_the_stem_on(detector: Any) -> None:
    everything = trained(detector)
    frozen = freeze_stages(detector, 2)
    still = everything - trained(detector)
    assert still and all(
        name.startswith(("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0", "backbone.blocks.1"))
        for name in still
    )
    assert {name for name in everything if name.startswith(("backbone.blocks.0", "backbone.blocks.1"))} <= still
    assert len(frozen) == 4


def test_all_is_the_whole_encoder(detector: Any) -> None:
    freeze_stages(detector, "all")
    assert not any(name.startswith("backbone.") for name in trained(detector))
    assert any(name.startswith("fpn.") for name in trained(detector))


@pytest.mark.parametrize("stages", [-1, 8, True, "some", 1.0])
def test_stages_that_are_not_there(detector: Any, stages: Any) -> None:
    before = trained(detector)
    with pytest.raises(ConfigError, match="'all' or a number from 0 to 7"):
        freeze_stages(detector, stages)
    assert trained(detector) == before


def test_frozen_parts_do_not_change_in_a_step(detector: Any) -> None:
    """Neither weights nor statistics, though the network is set to train."""
    standing = freeze_stages(detector, 3)
    detector.train()
    keep_in_eval(standing)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    images = torch.randn(2, 3, 128, 128)
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 80.0, 90.0]]), "labels": torch.tensor([1])}] * 2
    sum(detector.loss(images, targets).values()).backward()
    torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.1).step()
    moved = {key for key, value in detector.state_dict().items() if not torch.equal(value, before[key])}
    still = ("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0", "backbone.blocks.1", "backbone.blocks.2")
    assert not any(key.startswith(still) for key in moved)
    assert any(key.startswith("backbone.blocks.3") for key in moved) and any(key.startswith("fpn") for key in moved)


def test_statistics_to_freeze(detector: Any) -> None:
    assert batch_norms(detector, False) == []
    encoder, everywhere = batch_norms(detector, "encoder"), batch_norms(detector, True)
    assert 0 < len(encoder) < len(everywhere) and set(encoder) < set(everywhere)
    with pytest.raises(ConfigError, match="frozen_batch_norm"):
        batch_norms(detector, "neck")  # type: ignore[arg-type]


def test_the_encoder_of_each_network() -> None:
    detector = effdense.create_detector("efficientdet_lite0", 2, fpn_cells=1, head_repeats=1)
    encoder = effdense.create_encoder("efficientnet_lite0")
    classifier = effdense.create_classifier("efficientnet_lite0", 2)
    segmentor = effdense.create_segmentor("efficientunet_lite0", 2)
    assert encoder_of(detector) is detector.backbone and encoder_of(encoder) is encoder
    assert encoder_of(classifier) is classifier and encoder_of(segmentor) is segmentor.encoder
