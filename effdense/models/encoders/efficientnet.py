"""EfficientNet encoders: images in, feature maps from fine to coarse out.

    >>> encoder = create_encoder("efficientnet_b3")
    >>> encoder.channels, encoder.strides
    ((24, 32, 48, 136, 384), (2, 4, 8, 16, 32))
    >>> [tuple(feature.shape) for feature in encoder(torch.zeros(1, 3, 225, 319))]  # sides are ceil(side / stride)
    [(1, 24, 113, 160), (1, 32, 57, 80), (1, 48, 29, 40), (1, 136, 15, 20), (1, 384, 8, 10)]

The feature of a stride is the output of the last stage that runs at it, as in timm's `features_only` mode. Parameter
names are timm's too, so its state dicts and those of effdet's backbones load without renaming. Images are expected
normalised; this module neither scales nor shifts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from effdense.errors import ConfigError, ShapeError
from effdense.models.activation_checkpointing import call
from effdense.models.encoders.blocks import LayerOptions, make_stage
from effdense.models.encoders.families import EncoderConfig, StageSpec, encoder_config
from effdense.models.encoders.padding import BN_EPS, check_padding, note_native_sides, set_convention
from effdense.models.encoders.scaling import scale_encoder

ALL_STRIDES = (2, 4, 8, 16, 32)


class EfficientNetEncoder(nn.Module):
    """A stem and as many stages as the coarsest requested stride needs.

    Attributes:
        name: e.g. "efficientnet_b3".
        config: the published table row it was built from.
        in_channels: image channels.
        strides: the requested strides, ascending.
        channels: feature channels, one per stride.
        padding: "same", "same_static" or "symmetric".
        bn_eps: epsilon of every BatchNorm. Both are changed together with the layers by `set_convention`.
        checkpointed: whether the stem is, see `activation_checkpointing`; blocks have marks of their own.
    """

    checkpointed = False

    def __init__(
        self,
        config: EncoderConfig,
        *,
        in_channels: int,
        out_strides: tuple[int, ...],
        options: LayerOptions,
        drop_path_rate: float,
        stem_feature: bool = False,
    ) -> None:
        super().__init__()
        scaled = scale_encoder(config)
        stage_of_stride = last_stage_of_stride(scaled.stages)
        outputs = [stage_of_stride[stride] for stride in out_strides]
        rates = _drop_path_rates(scaled.stages, drop_path_rate)

        self.name = config.name
        self.config = config
        self.in_channels = in_channels
        self.strides = out_strides
        channels = [scaled.stages[index].channels for index in outputs]
        self.stem_feature = stem_feature and out_strides[0] == 2
        if self.stem_feature:
            channels[0] = scaled.stem_channels
        self.channels = tuple(channels)
        self.padding: str = options.padding
        self.bn_eps = options.bn_eps
        self._output_stages = frozenset(outputs[1:] if self.stem_feature else outputs)

        self.conv_stem = options.conv(in_channels, scaled.stem_channels, 3, stride=2)
        self.bn1 = options.norm(scaled.stem_channels)
        self.act1 = options.act()
        stages: list[nn.Module] = []
        stage_in = scaled.stem_channels
        for stage, stage_rates in zip(scaled.stages[: outputs[-1] + 1], rates, strict=False):
            stages.append(make_stage(stage_in, stage, options, stage_rates))
            stage_in = stage.channels
        self.blocks = nn.Sequential(*stages)
        note_native_sides(self, config.resolution)
        self.apply(_init_google)

    def set_convention(self, padding: str | None = None, bn_eps: float | None = None) -> None:
        """Change the padding of the strided convolutions and the BatchNorm epsilon to those that weights were made for.

        Args:
            padding: "same", "same_static" or "symmetric"; None keeps it.
            bn_eps: None keeps it.

        Raises:
            ConfigError: an unknown padding, or an epsilon that is not positive; nothing has changed then.
        """
        set_convention(self, padding=padding, bn_eps=bn_eps)
        self.padding = self.padding if padding is None else padding
        self.bn_eps = self.bn_eps if bn_eps is None else bn_eps

    @property
    def weight_options(self) -> dict[str, Any]:
        """Options of `create_encoder` that build this network for the weights it holds now; loading can change them."""
        return {"padding": self.padding, "bn_eps": self.bn_eps}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return one feature map per entry of `strides`, fine to coarse.

        Args:
            images: (B, in_channels, H, W) float, normalised, any H and W.

        Returns:
            Features (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])).

        Raises:
            ShapeError: `images` has another rank, channel count or an integer dtype.
        """
        self._check_images(images)
        x = self.stem(images)
        features: list[Tensor] = [x] if self.stem_feature else []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in self._output_stages:
                features.append(x)
        return tuple(features)

    def stem(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, stem channels, ceil(H / 2), ceil(W / 2))."""
        return call(self, images, function=self._stem, norms=(self.bn1,))

    def _stem(self, images: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv_stem(images)))

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ShapeError(
                f"Encoder {self.name} expected images (B, {self.in_channels}, H, W), got shape {tuple(images.shape)}. "
                "Add the batch axis, or create the encoder with in_channels= set to what your images have."
            )
        if not images.is_floating_point():
            raise ShapeError(
                f"Encoder {self.name} expected normalised float images, got dtype {images.dtype}. "
                "Convert them to float and normalise with the mean and std of the weights first."
            )


def create_encoder(
    name: str,
    in_channels: int = 3,
    out_strides: Sequence[int] = ALL_STRIDES,
    padding: str = "same",
    weights: Any = None,
    *,
    drop_path_rate: float = 0.0,
    bn_momentum: float = 0.1,
    bn_eps: float | None = None,
    act: str | None = None,
    stem_feature: bool = False,
) -> EfficientNetEncoder:
    """Build an encoder by its published name, in training mode.

    Args:
        name: see `encoder_names`; also of any scale, such as "efficientnet_phi2.5" (see `scaling`).
        in_channels: image channels, at least 1.
        out_strides: ascending subset of (2, 4, 8, 16, 32); stages beyond the last one are not built.
        padding: "same" for Google's weights, "symmetric" for torchvision's and timm's own, "same_static" for those of
            efficientnet-pytorch and segmentation-models-pytorch's ``efficientnet-b*``.
        weights: None, or a source that `effdense.models.weights.load_weights` takes.
        drop_path_rate: stochastic depth of the last block of the full network, in [0, 1); block i of n gets
            rate * i / n, whether or not the late blocks are built. Google trained with 0.2.
        bn_momentum: torch's momentum; 0.01 equals TensorFlow's 0.99.
        bn_eps: None for the convention's own, 1e-5 with "symmetric", else 1e-3.
        act: None for the family's activation (silu; relu6 in Lite), or silu, relu6, relu.
        stem_feature: the feature of stride 2 is the stem's output instead of the first stage's, as in
            segmentation-models-pytorch's own ``efficientnet-b*`` encoders.

    Raises:
        ConfigError: an argument cannot be used as written.
        WeightsError: `weights` is not for this encoder.
    """
    config = encoder_config(name)
    if type(in_channels) is not int or in_channels < 1:
        raise ConfigError(f"in_channels of encoder {name} must be a whole number of at least 1, got {in_channels!r}.")
    if not 0.0 <= drop_path_rate < 1.0:
        raise ConfigError(
            f"drop_path_rate of encoder {name} must lie in [0, 1), got {drop_path_rate!r}. 0.2 is the published value."
        )
    padding_kind = check_padding(padding)
    options = LayerOptions(
        padding=padding_kind,
        activation=config.activation if act is None else act,
        bn_eps=BN_EPS[padding_kind] if bn_eps is None else bn_eps,
        bn_momentum=bn_momentum,
    )
    encoder = EfficientNetEncoder(
        config,
        in_channels=in_channels,
        out_strides=_check_out_strides(name, out_strides),
        options=options,
        drop_path_rate=drop_path_rate,
        stem_feature=stem_feature,
    )
    if weights is not None:
        # Here, not on top: weights/ knows the layouts of many models and is not needed to build one.
        from effdense.models.weights import load_weights

        load_weights(encoder, weights)
    return encoder


def last_stage_of_stride(stages: Sequence[StageSpec]) -> dict[int, int]:
    """Map each stride to the index of the last stage running at it; the stem has brought the stride to 2."""
    stride, index_of = 2, {}
    for index, stage in enumerate(stages):
        stride *= stage.stride
        index_of[stride] = index
    return index_of


def _drop_path_rates(stages: Sequence[StageSpec], rate: float) -> list[tuple[float, ...]]:
    """Linear schedule over all blocks of the full network, grouped by stage (timm `_efficientnet_builder.py`)."""
    total = sum(stage.repeats for stage in stages)
    rates, start = [], 0
    for stage in stages:
        rates.append(tuple(rate * index / total for index in range(start, start + stage.repeats)))
        start += stage.repeats
    return rates


def _check_out_strides(name: str, out_strides: Sequence[int]) -> tuple[int, ...]:
    try:
        strides = tuple(out_strides)
    except TypeError:
        strides = ()
    if not strides or any(s not in ALL_STRIDES for s in strides) or list(strides) != sorted(set(strides)):
        raise ConfigError(
            f"out_strides of encoder {name} must be a non-empty, ascending choice from {ALL_STRIDES}, "
            f"got {out_strides!r}. For a detector write (8, 16, 32)."
        )
    return strides


def _init_google(module: nn.Module) -> None:
    """Convolutions normal with variance 2 / fan-out, biases 0, batch norm 1 / 0.

    Fan-out counts one group only. Source: tensorflow/tpu efficientnet_model.py `conv_kernel_initializer`.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
