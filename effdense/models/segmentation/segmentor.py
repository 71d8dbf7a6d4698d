"""Segmentor: encoder -> decoder -> head. Images (B, C, H, W) of any size in, logits (B, K, H, W) out.

    >>> segmentor = create_segmentor("efficientunet_b0", num_classes=11)
    >>> segmentor(torch.zeros(1, 3, 225, 319)).shape
    torch.Size([1, 11, 225, 319])

The loss is a function of its own module; ``loss`` below only strings the two together. Images come in normalised (see
``config.mean`` and ``config.std``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from effdense.errors import ConfigError, ShapeError
from effdense.models.encoders import create_encoder
from effdense.models.encoders.padding import BN_EPS, check_padding
from effdense.models.segmentation.decoders import build_decoder, decoder_needs
from effdense.models.segmentation.encoder_features import (
    blocks_after_early_stride_16,
    dilate_encoder,
    features_with_early_stride_16,
)
from effdense.models.segmentation.families import SegmentorConfig, segmentor_config
from effdense.models.segmentation.head import make_auxiliary_head
from effdense.models.segmentation.losses import segmentation_loss


class Segmentor(nn.Module):
    """A decoder over any encoder of ours.

    Args:
        config: architecture and loss (``families.py``).
        num_classes: K; mask values are 0..K-1 and ``config.ignore_index``. With 1 there is one logit per pixel, whose
            class is 1 where it is positive, and mask values are 0 and 1.

    Submodules are named as in segmentation-models-pytorch (``encoder``, ``decoder``, ``segmentation_head``); its
    decoders and heads load unrenamed. ``auxiliary_head`` is there with ``config.aux_weight`` and used by ``loss`` only.

    Weights are built in channels_last memory, and images are brought to the format of the weights;
    ``model.to(memory_format=torch.contiguous_format)`` switches back.
    """

    class_weights: Tensor | None

    def __init__(self, config: SegmentorConfig, num_classes: int) -> None:
        super().__init__()
        _check_classes(config, num_classes)
        self.config = config
        self.num_classes = num_classes
        self.needs = decoder_needs(config)
        if config.aux_weight and config.aux_stride not in self.needs.strides:
            raise ConfigError(
                f"{config.name}: decoder {config.decoder!r} has no encoder feature of stride {config.aux_stride} for "
                f"the auxiliary head; aux_stride can be {', '.join(map(str, self.needs.strides))}."
            )
        self.encoder = create_encoder(
            config.encoder,
            in_channels=config.in_channels,
            out_strides=self.needs.strides,
            padding=config.encoder_padding or config.padding,
            drop_path_rate=config.drop_path_rate,
            bn_momentum=config.encoder_bn_momentum,
            bn_eps=config.encoder_bn_eps,
            stem_feature=config.stem_feature,
        )
        self._early = config.early_stride_16 and 16 in self.needs.strides
        if self._early:
            for block in blocks_after_early_stride_16(self.encoder):
                block.requires_grad_(False)
        if self.needs.output_stride < 32:
            dilate_encoder(self.encoder, self.needs.output_stride, early_stride_16=config.early_stride_16)
        self.decoder, self.segmentation_head = build_decoder(config, self.encoder.channels, num_classes)
        self.auxiliary_head: nn.Sequential | None = None
        if config.aux_weight:
            channels = self.encoder.channels[self.needs.strides.index(config.aux_stride)]
            self.auxiliary_head = make_auxiliary_head(channels, num_classes)
        # Whole channels: one draw per map of full size, not one per pixel.
        self.dropout = nn.Dropout2d(config.dropout)
        weights = None if config.class_weights is None else torch.tensor(config.class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_load_state_dict_post_hook(_restore_class_weights)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Class logits (B, K, H, W) for normalised images (B, C, H, W), any H and W.

        Args:
            auxiliary: return the logits of the auxiliary head too, as a second tensor of the same shape.

        Raises: ShapeError for images of another rank, channel count or an integer type, and for a single image in
            training where batch norm would see one value of it per channel: pooled by the decoder, or too small.
        """
        self.encoder._check_images(images)
        self._check_batch(images)
        if self.encoder.conv_stem.weight.is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)
        height, width = images.shape[-2], images.shape[-1]
        images = _padded(images, self.needs.multiple, self.needs.least)
        size = (images.shape[-2], images.shape[-1])
        features = features_with_early_stride_16(self.encoder, images) if self._early else self.encoder(images)
        # A list of its own: UPerNet of smp writes into it.
        x = self.decoder([images, *features]) if self.needs.images_first else self.decoder(features, size)
        logits = _at_size(self.segmentation_head(self.dropout(x)), size)[..., :height, :width]
        if not auxiliary:
            return logits
        assert self.auxiliary_head is not None, "built with aux_weight=0"
        feature = features[self.needs.strides.index(self.config.aux_stride)]
        return logits, _at_size(self.auxiliary_head(feature), size)[..., :height, :width]

    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Training loss.

        Args:
            images: (B, C, H, W) normalised.
            masks: (B, H, W) integers, 0..K-1 or ``config.ignore_index``.

        Returns: ``{"loss_seg": scalar}``; with an auxiliary head ``"loss_aux"`` too, which carries its weight. 0 with
            zero gradients where every pixel is ignored.
        Raises: ShapeError for masks that do not fit.
        """
        if self.auxiliary_head is None:
            return self._loss_of(self(images), masks)
        logits, auxiliary = self(images, auxiliary=True)
        losses = self._loss_of(logits, masks)
        losses["loss_aux"] = self.config.aux_weight * self._loss_of(auxiliary, masks)["loss_seg"]
        return losses

    def _loss_of(self, logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        return segmentation_loss(logits, masks, class_weights=self.class_weights, **self.config.loss_options)

    def _check_batch(self, images: Tensor) -> None:
        if not self.training or images.shape[0] != 1:
            return
        if self.needs.pools and _normalises(self.decoder):
            raise ShapeError(
                f"{self.config.name}: decoder {self.config.decoder!r} pools an image to one value per channel and "
                "normalises that over the batch, so training takes at least 2 images at once, got 1. Use a larger "
                "batch, leave an incomplete last batch out, or freeze the batch norm."
            )
        for part, stride in ((self.encoder, self.encoder.strides[-1]), (self.decoder, self.needs.coarsest)):
            if max(*images.shape[-2:], self.needs.least) <= stride and _normalises(part):
                raise ShapeError(
                    f"{self.config.name}: one image of {tuple(images.shape[-2:])} px becomes a single value per "
                    f"channel at stride {stride}, which batch norm cannot train on; train on at least 2 images at "
                    f"once or on more than {stride} px."
                )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Segmentor:
        lost = self.class_weights is not None and self.class_weights.is_meta
        super()._apply(fn, recurse)
        _restore_class_weights(self, lost=lost)
        return self

    def set_dropout(self, rate: float) -> None:
        """Change the rate in front of the head, for schedules.

        Raises: ConfigError for a rate outside [0, 1).
        """
        if not 0.0 <= rate < 1.0:
            raise ConfigError(f"{self.config.name}: dropout is a rate in [0, 1), got {rate!r}.")
        self.dropout.p = float(rate)

    @property
    def weight_options(self) -> dict[str, Any]:
        """Fields of ``config`` that weights have changed since construction; loading adapts the encoder's convention.

        A segmentor of ``model.config.override(**model.weight_options)`` with the same weights computes the same.
        """
        options: dict[str, Any] = {}
        padding, eps = check_padding(self.encoder.padding), self.encoder.bn_eps
        if padding != (self.config.encoder_padding or self.config.padding):
            options["encoder_padding"] = padding
        if eps != (BN_EPS[padding] if self.config.encoder_bn_eps is None else self.config.encoder_bn_eps):
            options["encoder_bn_eps"] = eps
        return options


def _restore_class_weights(model: Segmentor, _keys: object = None, *, lost: bool = False) -> None:
    """Fill the buffer, which no state dict does, once a model that was built on the meta device has left it."""
    device = model.encoder.conv_stem.weight.device
    if model.class_weights is not None and (lost or model.class_weights.is_meta) and device.type != "meta":
        model.class_weights = torch.tensor(model.config.class_weights, dtype=torch.float32, device=device)


def _normalises(part: nn.Module) -> bool:
    """Whether it has a batch norm in training."""
    return any(module.training for module in part.modules() if isinstance(module, _BatchNorm))


def _padded(images: Tensor, multiple: int, least: int) -> Tensor:
    """Zeros (the mean colour) at the bottom and right, as an encoder with SAME padding has there anyway."""
    height, width = (max(least, -(-side // multiple) * multiple) for side in images.shape[-2:])
    bottom, right = height - images.shape[-2], width - images.shape[-1]
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images


def _at_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if (logits.shape[-2], logits.shape[-1]) == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _check_classes(config: SegmentorConfig, num_classes: int) -> None:
    if type(num_classes) is not int or num_classes < 1:
        raise ConfigError(f"{config.name}: num_classes must be a whole number of at least 1, got {num_classes!r}.")
    values = max(num_classes, 2)  # of masks: with one logit they are 0 and 1 all the same
    if 0 <= config.ignore_index < values:
        raise ConfigError(
            f"{config.name}: ignore_index {config.ignore_index} is also one of the {values} classes in the masks; "
            f"give a value outside 0..{values - 1}."
        )
    if config.class_weights is not None and len(config.class_weights) != values:
        what = f"{num_classes} classes" if num_classes > 1 else "background and object"
        raise ConfigError(
            f"{config.name}: class_weights has {len(config.class_weights)} values for {what}; give one for each."
        )


def create_segmentor(name: str, num_classes: int, weights: Any = None, **options: Any) -> Segmentor:
    """Build a segmentor by name.

    Args:
        name: ``efficientunet_`` or ``bifpnseg_`` and the encoder: ``b0..b8, l2, lite0..lite4, v2s, v2m, v2l, v2xl,
            v2b0..v2b3, v2rw_t, v2rw_s, v2rw_m``.
        num_classes: K; 1 for one logit per pixel, positive where the object is.
        weights: None, or a source that ``effdense.load_weights`` takes (path or state dict).
        options: any field of ``SegmentorConfig``, for example ``image_size=(360, 480)``, ``dice_weight=1.0``,
            ``upsample="bilinear"``, ``in_channels=1``, ``decoder="smp:FPN"``, ``aux_weight=0.4``.

    Raises: ConfigError for an unknown name or option (with the nearest ones), WeightsError for weights that do not fit.
    """
    model = Segmentor(segmentor_config(name).override(**options), num_classes)
    if weights is not None:
        from effdense.models.weights import load_weights

        load_weights(model, weights)
    return model
