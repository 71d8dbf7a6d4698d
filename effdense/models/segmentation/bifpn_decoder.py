"""BiFPN decoder: encoder features of strides 4 to 32 in, one map (B, C', ceil(H / 4), ceil(W / 4)) out.

The EfficientDet paper's network for semantic segmentation (arXiv 1911.09070 section 5.2): a BiFPN over P2-P7 of 128
channels and 3 cells, of which P2 alone goes into a head of 3 layers of 256 channels. Layers are separable convolutions
with batch norm and activation, as in the paper's detectors; of the last cell only the way down to P2 is built.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from effdense.models.activation_checkpointing import call
from effdense.models.layers import SeparableConv, activation
from effdense.models.necks.bifpn import BiFPN, BiFPNCell
from effdense.models.segmentation.decoder_names import BIFPN_OPTIONS

STRIDES = (4, 8, 16, 32)
_MIN_LEVEL = 2


class BiFPNDecoder(nn.Module):
    """Pyramid and head up to its last activation.

    Args:
        encoder_channels: of the features of strides 4, 8, 16 and 32.
        options: any of ``BIFPN_OPTIONS``: channels and cells of the BiFPN, its coarsest level, its fusion, channels and
            layers of the head.
        act, upsample, padding: activation, resizing and pools of the pyramid (``necks/bifpn.py``).
        bn: builds the normalisation of so many channels.

    Attributes:
        checkpointed: whether the layers of the head are, see `activation_checkpointing`; cells have marks of their own.
    """

    checkpointed = False

    def __init__(
        self,
        encoder_channels: Sequence[int],
        options: dict[str, object],
        *,
        act: str,
        upsample: str,
        padding: str,
        bn: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        chosen = {**BIFPN_OPTIONS, **options}
        self.fpn = BiFPN(
            encoder_channels,
            chosen["channels"],
            chosen["max_level"] - _MIN_LEVEL + 1,
            chosen["cells"],
            fusion=chosen["fusion"],
            act=act,
            padding=padding,
            redundant_bias=False,
            upsample=upsample,
            bn=bn,
        )
        _keep_way_down(cast(BiFPNCell, self.fpn.cell[-1]))
        widths = [chosen["channels"]] + [chosen["head_channels"]] * chosen["head_repeats"]
        self.head = nn.Sequential(
            *(
                nn.Sequential(SeparableConv(before, after, bias=False, bn=bn(after)), activation(act))
                for before, after in itertools.pairwise(widths)
            )
        )
        self.out_channels = widths[-1]
        self.apply(_initialise)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Args: features of ``STRIDES``, fine to coarse; size (H, W) px of the input, not needed here."""
        # The last cell ends with its node on P2.
        x = self.fpn(features)[-1]
        for layer in self.head:
            x = call(self, x, function=layer, norms=(layer,))
        return x


def _keep_way_down(cell: BiFPNCell) -> None:
    """Leave the nodes out that do not lead to the finest level: those on the way up."""
    count = cell.num_levels - 1
    cell.levels, cell.fnode = cell.levels[:count], cell.fnode[:count]


def _initialise(module: nn.Module) -> None:
    """Glorot uniform, as automl's pyramid; both fans of a depthwise kernel are k * k."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.groups > 1:
            bound = math.sqrt(3.0 / math.prod(module.kernel_size))
            nn.init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
