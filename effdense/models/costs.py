"""What a model costs: parameters and multiply-adds, counted without memory or time for the arithmetic.

    >>> cost = model_cost("efficientnet_b0")
    >>> round(cost.total_params / 1e6, 2), round(cost.total_macs / 1e9, 2), cost.image_size
    (5.29, 0.39, (224, 224))

A forward pass runs on torch's meta device, where tensors have shapes but no values, under torch's FlopCounterMode. That
counts convolutions and matrix products, at 2 operations per multiply-add; element-wise work, pooling, resizing and
post-processing are left out, which puts the figures 0 to 3 % below published ones that count some of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effdense.errors import ConfigError, did_you_mean

IMAGENET_CLASSES = 1000
COCO_CLASSES = 90  # Google's heads have one output per COCO id up to 90, of which 80 are in use
VOC_CLASSES = 21  # with background, the usual count for segmentors


@dataclass(frozen=True)
class ModelCost:
    """Costs of one forward pass of one image.

    Attributes:
        name: the model's name.
        params, macs: of the network as it is built.
        head_params, head_macs: of the ImageNet head (1x1 convolution, batch norm, classifier) that published encoder
            figures include and encoders here do not have; 0 for other models.
        image_size: (height, width) px that the pass was counted at.
        num_classes: of the detector, or of the ImageNet head of an encoder.
    """

    name: str
    params: int
    macs: int
    image_size: tuple[int, int]
    num_classes: int | None = None
    head_params: int = 0
    head_macs: int = 0

    @property
    def total_params(self) -> int:
        """Parameters in the published form: with the ImageNet head where there is one."""
        return self.params + self.head_params

    @property
    def total_macs(self) -> int:
        """Multiply-adds in the published form."""
        return self.macs + self.head_macs

    @property
    def flops(self) -> int:
        """2 x `total_macs`, as other families print it."""
        return 2 * self.total_macs


def model_cost(
    model: nn.Module | str, image_size: int | Sequence[int] | None = None, num_classes: int | None = None
) -> ModelCost:
    """Count a model's parameters and multiply-adds.

    Args:
        model: the name of an encoder, detector or segmentor, or a network that takes (B, C, H, W) and knows its
            `in_channels` (3 where it does not). A network given is neither moved nor changed.
        image_size: px of a square input or (height, width); default the model's own evaluation size.
        num_classes: of a detector by name (default 90, the published form), of a segmentor (21), or of an encoder's
            ImageNet head (1000).

    Raises:
        ConfigError: no model has this name, or the size cannot be used.
    """
    size = None if image_size is None else _checked_size(image_size)
    return _cost_by_name(model, size, num_classes) if isinstance(model, str) else _cost(model, size, num_classes)


# Searches and tables ask for the same models again, and a count takes a few tenths of a second.
@functools.lru_cache(maxsize=512)
def _cost_by_name(name: str, size: tuple[int, int] | None, num_classes: int | None) -> ModelCost:
    return _cost(build_model(name, num_classes), size, num_classes)


def _cost(network: nn.Module, size: tuple[int, int] | None, num_classes: int | None) -> ModelCost:
    size = _own_size(network) if size is None else size
    images = torch.empty(1, _in_channels(network), *size, device="meta")
    params = sum(parameter.numel() for parameter in network.parameters())
    macs = _count_macs(network, images)
    named = getattr(network, "config", network)
    name = str(getattr(named, "name", type(network).__name__))
    if not _is_encoder(network):
        return ModelCost(name, params, macs, size, getattr(network, "num_classes", None))
    classes = IMAGENET_CLASSES if num_classes is None else num_classes
    head_params, head_macs = _imagenet_head(network, size, classes)
    return ModelCost(name, params, macs, size, classes, head_params, head_macs)


def build_model(name: str, num_classes: int | None = None, *, device: str | torch.device = "meta") -> nn.Module:
    """An encoder, detector or segmentor by name, in evaluation mode; on the meta device it needs no memory.

    Raises:
        ConfigError: no model has this name.
    """
    from effdense.models.detection import create_detector
    from effdense.models.encoders import create_encoder
    from effdense.models.names import list_models
    from effdense.models.segmentation import create_segmentor

    with torch.device(device):
        if name.startswith("efficientdet"):
            return create_detector(name, COCO_CLASSES if num_classes is None else num_classes).eval()
        if name.startswith(("efficientunet", "bifpnseg")):
            return create_segmentor(name, VOC_CLASSES if num_classes is None else num_classes).eval()
        if name.startswith("efficientnet"):
            return create_encoder(name).eval()
    known = list_models()
    near = did_you_mean(name, known)
    raise ConfigError(f"no model is called {name!r}.{near} `effdense list` shows all {len(known)}.")


def _count_macs(network: nn.Module, images: torch.Tensor) -> int:
    """Multiply-adds of one evaluation pass, with every parameter and buffer replaced by its shape alone."""
    state = {name: value.to("meta") for name, value in network.state_dict(keep_vars=False).items()}
    state |= {name: value.to("meta") for name, value in network.named_buffers()}
    in_training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            torch.func.functional_call(network, state, (images,))
    finally:
        for module in in_training:
            module.training = True
    return counter.get_total_flops() // 2


def _is_encoder(network: nn.Module) -> bool:
    from effdense.models.encoders import EfficientNetEncoder

    return isinstance(network, EfficientNetEncoder)


def _imagenet_head(encoder: Any, size: tuple[int, int], classes: int) -> tuple[int, int]:
    """(parameters, multiply-adds) of 1x1 convolution without bias, batch norm, mean over H and W, linear layer."""
    from effdense.models.encoders.scaling import scale_encoder

    scaled = scale_encoder(encoder.config)
    last, head = scaled.stages[-1].channels, scaled.head_channels
    height, width = (math.ceil(side / 32) for side in size)
    return last * head + 2 * head + (head + 1) * classes, height * width * last * head + head * classes


def _in_channels(network: nn.Module) -> int:
    for owner in (network, getattr(network, "config", None), getattr(network, "encoder", None)):
        channels = getattr(owner, "in_channels", None)
        if isinstance(channels, int):
            return channels
    return 3


def _own_size(network: nn.Module) -> tuple[int, int]:
    """(height, width) px that the model's config says."""
    config = getattr(network, "config", None)
    size = getattr(config, "image_size", None) or getattr(config, "resolution", None)
    if size is None:
        raise ConfigError(f"{type(network).__name__} has no size of its own; pass image_size= (px or height, width).")
    return _checked_size(size)


def _checked_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ConfigError(f"image_size must be a positive number of px or (height, width), got {image_size!r}.")
    return size[0], size[1]
