"""Segmentor: encoder -> U-Net decoder -> head. Images (B, C, H, W) of any size in, logits (B, K, H, W) out.

    >>> segmentor = create_segmentor("efficientunet_b0", num_classes=11)
    >>> segmentor(torch.zeros(1, 3, 225, 319)).shape
    torch.Size([1, 11, 225, 319])

The loss is a function of its own module; ``loss`` below only strings the two together. Images come in normalised (see
``config.mean`` and ``config.std``).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from effdense.errors import ConfigError
from effdense.models.encoders import create_encoder
from effdense.models.encoders.efficientnet import EfficientNetEncoder, last_stage_of_stride
from effdense.models.encoders.padding import BN_EPS, check_padding
from effdense.models.layers import batch_norm
from effdense.models.segmentation.families import SegmentorConfig, segmentor_config
from effdense.models.segmentation.head import make_head
from effdense.models.segmentation.losses import segmentation_loss
from effdense.models.segmentation.unet import UNetDecoder


class Segmentor(nn.Module):
    """A U-Net with any encoder of ours.

    Args:
        config: architecture and loss (``families.py``).
        num_classes: K, at least 2; mask values are 0..K-1 and ``config.ignore_index``.

    Submodules are named as in segmentation-models-pytorch (``encoder``, ``decoder``, ``segmentation_head``); decoder
    and head of its ``Unet`` load unrenamed.
    """

    class_weights: Tensor | None

    def __init__(self, config: SegmentorConfig, num_classes: int) -> None:
        super().__init__()
        _check_classes(config, num_classes)
        self.config = config
        self.num_classes = num_classes
        self.encoder = create_encoder(
            config.encoder,
            in_channels=config.in_channels,
            padding=config.encoder_padding or config.padding,
            drop_path_rate=config.drop_path_rate,
            bn_momentum=config.encoder_bn_momentum,
            bn_eps=config.encoder_bn_eps,
            stem_feature=config.stem_feature,
        )
        self.decoder = UNetDecoder(
            self.encoder.channels,
            config.decoder_channels,
            act=config.activation,
            upsample=config.upsample,
            bn=lambda channels: batch_norm(channels, eps=config.bn_eps, momentum=config.bn_momentum),
        )
        # Whole channels: one draw per map of full size, not one per pixel.
        self.dropout = nn.Dropout2d(config.dropout)
        self.segmentation_head = make_head(self.decoder.out_channels, num_classes)
        weights = None if config.class_weights is None else torch.tensor(config.class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits (B, K, H, W) for normalised images (B, C, H, W), any H and W.

        Raises: ShapeError for images of another rank, channel count or an integer type.
        """
        early = self.config.early_stride_16
        features = features_with_early_stride_16(self.encoder, images) if early else self.encoder(images)
        x = self.decoder(features, (images.shape[-2], images.shape[-1]))
        return self.segmentation_head(self.dropout(x))

    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Training loss.

        Args:
            images: (B, C, H, W) normalised.
            masks: (B, H, W) integers, 0..K-1 or ``config.ignore_index``.

        Returns: ``{"loss_seg": scalar}``; 0 with zero gradients where every pixel is ignored.
        Raises: ShapeError for masks that do not fit.
        """
        return segmentation_loss(self(images), masks, class_weights=self.class_weights, **self.config.loss_options)

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


def features_with_early_stride_16(encoder: EfficientNetEncoder, images: Tensor) -> tuple[Tensor, ...]:
    """The encoder's features, fine to coarse, but stride 16 taken after the first block of its last stage.

    So does smp's own ``efficientnet-b0``: entry 8 of its ``out_indexes`` (smp encoders/efficientnet.py) would be 10 by
    the rule that its B1-B7 follow. Weights trained there need it so.
    """
    encoder._check_images(images)
    stage_of_stride = last_stage_of_stride(encoder.config.stages)
    early = stage_of_stride.pop(16)
    ends = set(stage_of_stride.values()) - ({stage_of_stride.get(2)} if encoder.stem_feature else set())
    x = encoder.act1(encoder.bn1(encoder.conv_stem(images)))
    features = [x] if encoder.stem_feature else []
    for index, stage in enumerate(encoder.blocks):
        for position, block in enumerate(cast(nn.Sequential, stage)):
            x = block(x)
            if index == early and position == 0:
                features.append(x)
        if index in ends:
            features.append(x)
    return tuple(features)


def _check_classes(config: SegmentorConfig, num_classes: int) -> None:
    if type(num_classes) is not int or num_classes < 1:
        raise ConfigError(f"{config.name}: num_classes must be a whole number of at least 2, got {num_classes!r}.")
    if num_classes == 1:
        raise ConfigError(
            f"{config.name}: num_classes 1 (one logit against a threshold) is not built yet. "
            "Use num_classes=2, with 0 for the background and 1 for the object."
        )
    if 0 <= config.ignore_index < num_classes:
        raise ConfigError(
            f"{config.name}: ignore_index {config.ignore_index} is also one of the {num_classes} classes; "
            "give a value outside 0..num_classes - 1."
        )
    if config.class_weights is not None and len(config.class_weights) != num_classes:
        raise ConfigError(
            f"{config.name}: class_weights has {len(config.class_weights)} values for {num_classes} classes; "
            "give one for each."
        )


def create_segmentor(name: str, num_classes: int, weights: Any = None, **options: Any) -> Segmentor:
    """Build a segmentor by name.

    Args:
        name: ``efficientunet_b0..b7, lite0..lite4, v2s, v2m, v2l, v2xl, v2b0..v2b3``.
        num_classes: K.
        weights: None, or a source that ``effdense.load_weights`` takes (path or state dict).
        options: any field of ``SegmentorConfig``, for example ``image_size=(360, 480)``, ``dice_weight=1.0``,
            ``upsample="bilinear"``, ``in_channels=1``.

    Raises: ConfigError for an unknown name or option (with the nearest ones), WeightsError for weights that do not fit.
    """
    model = Segmentor(segmentor_config(name).override(**options), num_classes)
    if weights is not None:
        from effdense.models.weights import load_weights

        load_weights(model, weights)
    return model
