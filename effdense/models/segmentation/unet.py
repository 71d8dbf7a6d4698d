"""U-Net decoder: encoder features, fine to coarse, in; one map (B, C', H, W) at the size of the input out.

Each block brings the coarser map to the size of the next skip (features have sides ceil(side / stride), so this is not
always a factor of 2), joins the two and convolves twice. Module names are smp's, so its weights load unrenamed.

Sources: U-Net, arXiv 1505.04597; this form of it: segmentation-models-pytorch decoders/unet/decoder.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdense.models.layers import activation


class UNetBlock(nn.Module):
    """Resize (B, C, h, w) to the skip's size, join the skip, convolve twice -> (B, C', H, W).

    Args:
        in_channels, skip_channels, out_channels: C, channels of the skip (0 where there is none), C'.
        act: name of the activation.
        upsample: "nearest" or "bilinear".
        bn: builds the normalisation of so many channels.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        act: str,
        upsample: str,
        bn: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.upsample = upsample

        def conv(channels: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), bn(out_channels), activation(act)
            )

        self.conv1 = conv(in_channels + skip_channels)
        self.conv2 = conv(out_channels)

    def forward(self, x: Tensor, size: tuple[int, int], skip: Tensor | None) -> Tensor:
        """Args: x (B, C, h, w); size (H, W) px of the result; skip (B, C_skip, H, W) or None."""
        x = F.interpolate(x, size=size, mode=self.upsample, align_corners=None if self.upsample == "nearest" else False)
        if skip is not None:
            x = torch.cat([x, skip], 1)
        return self.conv2(self.conv1(x))


class UNetDecoder(nn.Module):
    """One block per encoder feature, coarse to fine; the last one has no skip and ends at the input's size.

    Args:
        encoder_channels: of the features, fine to coarse.
        channels: of the blocks, coarse to fine, as many as there are features.
        act, upsample, bn: see :class:`UNetBlock`.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        channels: Sequence[int],
        *,
        act: str,
        upsample: str,
        bn: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        coarse_to_fine = list(encoder_channels)[::-1]
        inputs = [coarse_to_fine[0], *channels[:-1]]
        skips = [*coarse_to_fine[1:], 0]
        self.blocks = nn.ModuleList(
            UNetBlock(in_channels, skip_channels, out_channels, act=act, upsample=upsample, bn=bn)
            for in_channels, skip_channels, out_channels in zip(inputs, skips, channels, strict=True)
        )
        self.out_channels = channels[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(
                    module.weight, mode="fan_in", nonlinearity="relu"
                )  # smp base/initialization.py

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Args: features fine to coarse; size (H, W) px of the result. Returns: (B, channels[-1], H, W)."""
        skips: list[Tensor | None] = [*features[:-1][::-1], None]
        x = features[-1]
        for block, skip in zip(self.blocks, skips, strict=True):
            x = block(x, size if skip is None else (skip.shape[-2], skip.shape[-1]), skip)
        return x
