"""Prediction head: separable convs shared by all levels, BatchNorms of each level's own (EfficientDet section 4.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from effdense.errors import ShapeError
from effdense.models.activation_checkpointing import call
from effdense.models.layers import SeparableConv, activation


class PredictionHead(nn.Module):
    """Class or box net: L maps (B, C, h, w) -> tuple of L maps (B, outputs, h, w).

    Args:
        channels: C, the pyramid width.
        outputs: A*K (class net) or A*4 (box net).
        repeats: how many conv-BN-activation layers precede the prediction.
        num_levels: L; every layer has one BN per level, stored repeat-major as in Google's weights.

    ``predict`` is a separable conv with bias and no activation after it.
    Source: automl efficientdet/tf2/efficientdet_keras.py ``ClassNet``/``BoxNet``.
    """

    checkpointed = False

    def __init__(
        self,
        channels: int,
        outputs: int,
        repeats: int,
        num_levels: int,
        *,
        act: str,
        redundant_bias: bool,
        bn: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.conv_rep = nn.ModuleList(SeparableConv(channels, channels, bias=redundant_bias) for _ in range(repeats))
        self.bn_rep = nn.ModuleList(
            nn.ModuleList(nn.Sequential(OrderedDict(bn=bn(channels))) for _ in range(num_levels))
            for _ in range(repeats)
        )
        self.act = activation(act)
        self.predict = SeparableConv(channels, outputs, bias=True)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(pyramid) != self.num_levels:
            raise ShapeError(f"the head expected {self.num_levels} pyramid levels, got {len(pyramid)}.")
        outputs = []
        for level, x in enumerate(pyramid):
            norms = [of_layer[level] for of_layer in self.bn_rep]  # type: ignore[index]
            outputs.append(call(self, x, norms, function=self._level, norms=norms))
        return tuple(outputs)

    def _level(self, x: Tensor, norms: Sequence[nn.Module]) -> Tensor:
        for conv, norm in zip(self.conv_rep, norms, strict=True):
            x = self.act(norm(conv(x)))
        return self.predict(x)
