"""EfficientNet with its ImageNet head: normalised images (B, C, H, W) in, logits (B, K) out.

    >>> classifier = create_classifier("efficientnet_b0")
    >>> classifier(torch.zeros(2, 3, 224, 224)).shape
    (2, 1000)

Parameter names are timm's (conv_stem, bn1, blocks, conv_head, bn2, classifier), so its classifiers load unrenamed and
ours load into it. Normalisation is outside: `mean` and `std` say what the published weights expect.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from effdense.errors import ConfigError, ShapeError
from effdense.models.activation_checkpointing import call
from effdense.models.classification.losses import soft_target_cross_entropy
from effdense.models.detection.families import IMAGENET_MEAN, IMAGENET_STD, LITE_MEAN, LITE_STD
from effdense.models.drop_path import set_drop_path_rate
from effdense.models.encoders import EfficientNetEncoder, EncoderConfig, create_encoder
from effdense.models.encoders.padding import set_convention
from effdense.models.encoders.scaling import scale_encoder

Statistics = tuple[float, float, float]
_HALF: Statistics = (0.5, 0.5, 0.5)
# Trained by Google on pixels in -1..1 (google/automl efficientnetv2/preprocessing.py; timm's cfgs of the tf_ networks).
# Its V2 base networks kept V1's preprocessing (effnetv2_configs.py `v2_base_cfg`: "effnetv1_autoaug").
_HALF_STATISTICS = frozenset({"efficientnetv2_s", "efficientnetv2_m", "efficientnetv2_l", "efficientnetv2_xl"})


def pixel_statistics(name: str, padding: str = "same") -> tuple[Statistics, Statistics]:
    """Mean and standard deviation of pixels in 0..1, RGB, that the published weights of a network were trained with.

    ImageNet's, except for Google's own ("same") V2-S/M/L/XL and Lite. Single releases differ (AdvProp, timm's ra4).
    """
    if padding.startswith("same") and name in _HALF_STATISTICS:
        return _HALF, _HALF
    if padding.startswith("same") and name.startswith("efficientnet_lite"):
        return LITE_MEAN, LITE_STD
    return IMAGENET_MEAN, IMAGENET_STD


class EfficientNetClassifier(nn.Module):
    """An encoder's stem and stages, a 1x1 convolution, the mean over the picture, dropout and a linear layer.

    Args:
        encoder: whose stem and stages become this module's own, under the same names.
        num_classes: K.
        dropout: rate in front of the linear layer.

    Attributes:
        name, config, in_channels: as of the encoder.
        padding, bn_eps: the convention of the layers; change it with `set_convention`.
        mean, std: per channel, of pixels in 0..1: what to normalise with. The network itself does not.
        checkpointed: whether the stem is, see `activation_checkpointing`; blocks have marks of their own.
    """

    checkpointed = False

    def __init__(self, encoder: EfficientNetEncoder, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        features = scale_encoder(encoder.config).head_channels
        self.name = encoder.name
        self.config: EncoderConfig = encoder.config
        self.num_classes = num_classes
        self.in_channels = encoder.in_channels
        self.padding: str = encoder.padding
        self.bn_eps = encoder.bn1.eps
        self.mean, self.std = _channel_statistics(self)

        self.conv_stem = encoder.conv_stem
        self.bn1 = encoder.bn1
        self.act1 = encoder.act1
        self.blocks = encoder.blocks
        self.conv_head = nn.Conv2d(encoder.channels[-1], features, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features, eps=encoder.bn1.eps, momentum=encoder.bn1.momentum)
        self.act2 = copy.deepcopy(encoder.act1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, num_classes)
        self._initialise_head()

    def _initialise_head(self) -> None:
        """The 1x1 convolution normal with variance 2 / fan-out, the linear layer uniform within 1 / sqrt(K), bias 0.

        K counts as at least ImageNet's 1000: with five classes the published range would start the logits at +-5 and
        the loss at twice that of guessing.
        Source: tensorflow/tpu efficientnet_model.py `conv_kernel_initializer`, `dense_kernel_initializer`.
        """
        nn.init.normal_(self.conv_head.weight, 0.0, math.sqrt(2.0 / self.conv_head.out_channels))
        bound = 1.0 / math.sqrt(max(self.num_classes, 1000))
        nn.init.uniform_(self.classifier.weight, -bound, bound)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, images: Tensor) -> Tensor:
        """Features (B, head_channels, ceil(H / 32), ceil(W / 32)) of normalised images (B, C, H, W), any H and W.

        Raises:
            ShapeError: `images` has another rank, channel count or an integer dtype.
        """
        self._check_images(images)
        x = self.blocks(call(self, images, function=self._stem, norms=(self.bn1,)))
        return self.act2(self.bn2(self.conv_head(x)))

    def _stem(self, images: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv_stem(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, H, W); errors as `forward_features`."""
        pooled = self.forward_features(images).mean((2, 3))
        return self.classifier(self.dropout(pooled))

    def loss(self, images: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> dict[str, Tensor]:
        """Training loss ``{"loss": scalar}``.

        Args:
            images: (B, C, H, W) normalised.
            labels: (B,) int64 in 0..K-1, -1 = ignore; or (B, K) float, see `soft_target_cross_entropy`.

        Raises:
            ShapeError: shapes do not fit, or labels on the CPU lie outside -1..K-1.
        """
        # On a GPU the values would have to be waited for; a compiled graph cannot branch on them.
        indices = labels.ndim == 1 and labels.numel() and not labels.is_floating_point()
        if indices and labels.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = int(labels.min()), int(labels.max())
            if low < -1 or high >= self.num_classes:
                raise ShapeError(
                    f"Classifier {self.name} has {self.num_classes} classes, labels 0..{self.num_classes - 1} and -1 "
                    f"for ignore; got a label {low if low < -1 else high}. Create it with num_classes= of your data."
                )
        return {"loss": soft_target_cross_entropy(self(images), labels, label_smoothing)}

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (B, K) float32, in evaluation mode whatever mode the module is in."""
        in_training = [module for module in self.modules() if module.training]  # frozen parts are not among them
        self.eval()
        try:
            return self(images).float().softmax(1)
        finally:
            for module in in_training:
                module.training = True

    def set_convention(self, padding: str | None = None, bn_eps: float | None = None) -> None:
        """Change padding and BatchNorm epsilon to those that weights were made for; None keeps a part.

        `mean` and `std` follow the padding where they are still those of the family: releases in torch's convention
        were trained with ImageNet's.

        Raises:
            ConfigError: an unknown padding, or an epsilon that is not positive; nothing has changed then.
        """
        set_convention(self, padding=padding, bn_eps=bn_eps)
        untouched = (self.mean, self.std) == _channel_statistics(self)
        self.padding = self.padding if padding is None else padding
        self.bn_eps = self.bn_eps if bn_eps is None else bn_eps
        if untouched:
            self.mean, self.std = _channel_statistics(self)

    def set_dropout(self, rate: float) -> None:
        """Change the rate in front of the linear layer; ConfigError outside [0, 1)."""
        self.dropout.p = _check_dropout(self.name, rate)

    def set_drop_path(self, rate: float) -> None:
        """Change the stochastic depth, linear over the blocks as at construction; ConfigError outside [0, 1)."""
        set_drop_path_rate(self, rate)

    @property
    def weight_options(self) -> dict[str, Any]:
        """Options that build this network for the weights it holds now; loading can change the encoder's convention."""
        return {"padding": self.padding, "bn_eps": self.bn_eps}

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels or not images.is_floating_point():
            raise ShapeError(
                f"Classifier {self.name} expected normalised float images (B, {self.in_channels}, H, W), got "
                f"{images.dtype} of shape {tuple(images.shape)}. Add the batch axis, convert and normalise with .mean "
                "and .std, or create the classifier with in_channels= set to what your images have."
            )


def create_classifier(
    name: str,
    num_classes: int = 1000,
    weights: Any = None,
    *,
    in_channels: int = 3,
    padding: str = "same",
    dropout: float | None = None,
    drop_path_rate: float = 0.0,
    bn_momentum: float = 0.1,
    bn_eps: float | None = None,
    act: str | None = None,
) -> EfficientNetClassifier:
    """Build a classifier by its encoder's name, in training mode.

    Args:
        name: see `effdense.models.encoders.encoder_names`.
        num_classes: K.
        weights: None, or a source that `effdense.load_weights` takes.
        dropout: rate in front of the linear layer; None for the published one (`config.dropout`).
        in_channels, padding, drop_path_rate, bn_momentum, bn_eps, act: as in `create_encoder`.

    Raises:
        ConfigError: an argument cannot be used as written.
        WeightsError: `weights` is not for this classifier.
    """
    if type(num_classes) is not int or num_classes < 1:
        raise ConfigError(
            f"num_classes of classifier {name} must be a whole number of at least 1, got {num_classes!r}. "
            "For features without a head use create_encoder."
        )
    if dropout is not None:
        _check_dropout(name, dropout)
    encoder = create_encoder(
        name,
        in_channels=in_channels,
        out_strides=(32,),
        padding=padding,
        drop_path_rate=drop_path_rate,
        bn_momentum=bn_momentum,
        bn_eps=bn_eps,
        act=act,
    )
    rate = encoder.config.dropout if dropout is None else dropout
    classifier = EfficientNetClassifier(encoder, num_classes, dropout=rate)
    if weights is not None:
        # Here, not on top: weights/ knows the layouts of many models and is not needed to build one.
        from effdense.models.weights import load_weights

        load_weights(classifier, weights)
    return classifier


def _check_dropout(name: str, rate: float) -> float:
    if not 0.0 <= rate < 1.0:
        raise ConfigError(f"dropout of classifier {name} must lie in [0, 1), got {rate!r}. 0.2 is B0's published rate.")
    return rate


def _channel_statistics(classifier: EfficientNetClassifier) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`pixel_statistics` of RGB; their average in every channel where there are not three."""
    mean, std = pixel_statistics(classifier.name, classifier.padding)
    count = classifier.in_channels
    return (mean, std) if count == 3 else ((sum(mean) / 3,) * count, (sum(std) / 3,) * count)
