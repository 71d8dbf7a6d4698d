"""Parts of a network that training leaves as they are: the first stages of its encoder, BatchNorm statistics.

An encoder here is anything with timm's names: ``conv_stem``, ``bn1``, ``blocks`` (a bare encoder, a classifier, or the
``backbone`` / ``encoder`` of a detector or segmentor).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from effdense.errors import ConfigError

FrozenStages = int | Literal["all"]


def encoder_of(network: nn.Module) -> Any:
    """The encoder inside a detector (``backbone``) or segmentor (``encoder``), or the network itself."""
    for name in ("backbone", "encoder"):
        if isinstance(getattr(network, name, None), nn.Module):
            return getattr(network, name)
    return network


def freeze_stages(network: nn.Module, stages: FrozenStages) -> list[nn.Module]:
    """Stop the gradients of the stem and the first stages of a network's encoder.

    Args:
        network: encoder, classifier, detector or segmentor.
        stages: 0 for none; n for the stem and the first n stages of ``blocks``; "all" for the whole encoder.

    Returns: the frozen modules. Keep them in evaluation mode (``keep_in_eval``): weights that stand still should not
        see their statistics drift or their blocks dropped.
    Raises: ConfigError for a number of stages that the encoder does not have.
    """
    encoder = encoder_of(network)
    blocks = list(encoder.blocks)
    count = len(blocks) if stages == "all" else stages
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= len(blocks):
        raise ConfigError(
            f"frozen_stages must be 'all' or a number from 0 to {len(blocks)}, the stages of "
            f"{getattr(encoder, 'name', type(encoder).__name__)}, got {stages!r}."
        )
    if count == 0:
        return []
    frozen = [encoder.conv_stem, encoder.bn1, *blocks[:count]]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def batch_norms(network: nn.Module, where: bool | Literal["encoder"]) -> list[nn.Module]:
    """BatchNorm layers whose statistics are to stay: none (False), the encoder's ("encoder") or all (True).

    Raises: ConfigError for another value.
    """
    if where not in (False, True, "encoder"):
        raise ConfigError(f"frozen_batch_norm must be False, True or 'encoder', got {where!r}.")
    if where is False:
        return []
    root = encoder_of(network) if where == "encoder" else network
    return [module for module in root.modules() if isinstance(module, _BatchNorm)]


def keep_in_eval(modules: Iterable[nn.Module]) -> None:
    """Put modules back into evaluation mode after the network was set to train."""
    for module in modules:
        module.eval()


def layer_index(name: str, num_stages: int) -> int:
    """Depth of a parameter for layer-wise learning rates: 0 the stem, i + 1 stage i, ``num_stages`` + 1 all the rest.

    Args:
        name: parameter name inside the network, for example ``backbone.blocks.3.0.conv_pw.weight``.
    """
    parts = name.split(".")
    if parts[0] in ("backbone", "encoder"):
        parts = parts[1:]
    elif parts[0] in ("fpn", "class_net", "box_net", "decoder", "segmentation_head"):
        return num_stages + 1
    if parts[0] in ("conv_stem", "bn1"):
        return 0
    return int(parts[1]) + 1 if parts[0] == "blocks" else num_stages + 1
