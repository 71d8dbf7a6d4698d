"""Stochastic depth of a network that is already built, so that a schedule can raise it between epochs.

A network in, the rates of its residual blocks changed in place: block i of the n that the full encoder has gets
rate * i / n, exactly as at construction.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from effdense.errors import ConfigError
from effdense.models.encoders.blocks import StochasticDepth
from effdense.models.encoders.families import EncoderConfig
from effdense.models.encoders.scaling import scale_encoder


def set_drop_path_rate(network: nn.Module, rate: float) -> None:
    """Set the stochastic depth of every encoder of ours inside a network.

    Args:
        network: an encoder, or a classifier, detector or segmentor around one.
        rate: of the last block, in [0, 1); earlier blocks get less, linearly over all blocks of the full encoder,
            whether or not its late stages are built. Source: timm `_efficientnet_builder.py`.

    Raises:
        ConfigError: the rate is out of range, or no encoder of ours is inside; nothing is changed then.
    """
    if not 0.0 <= rate < 1.0:
        raise ConfigError(f"The stochastic depth rate must lie in [0, 1), got {rate!r}. 0.2 is the published value.")
    encoders = list(_encoders(network))
    if not encoders:
        raise ConfigError(
            f"{type(network).__name__} holds no encoder with stochastic depth; a rate can be set only where "
            "create_encoder built the blocks."
        )
    for config, stages in encoders:
        total = sum(stage.repeats for stage in scale_encoder(config).stages)
        blocks = [block for stage in stages.children() for block in stage.children()]
        for index, block in enumerate(blocks):
            assert isinstance(block.drop_path, StochasticDepth)
            block.drop_path.rate = rate * index / total


def _encoders(network: nn.Module) -> Iterator[tuple[EncoderConfig, nn.Module]]:
    """The published row and the stages of each encoder; stages start with the first one, but may end early."""
    for module in network.modules():
        config, stages = getattr(module, "config", None), getattr(module, "blocks", None)
        if isinstance(config, EncoderConfig) and isinstance(stages, nn.Module):
            yield config, stages
