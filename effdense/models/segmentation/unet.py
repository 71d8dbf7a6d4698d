"""U-Net decoder: encoder features, fine to coarse, in; one map (B, C', H, W) at the size of the input out.

Each block brings the coarser map to the size of the next skip (features have sides ceil(side / stride), so this is not
always a factor of 2), joins the two and convolves twice. Module names are smp's, so its weights load unrenamed.

The first of the two convolutions never sees the enlarged and joined map where it need not, see :class:`JoiningConv2d`.

Sources: U-Net, arXiv 1505.04597; this form of it: segmentation-models-pytorch decoders/unet/decoder.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdense.models.activation_checkpointing import call
from effdense.models.layers import activation
from effdense.models.segmentation.attention import Attention

# From this many px of the coarse map on, forming the 4x4 kernel costs less than it saves (measured on a CPU).
_MIN_PIXELS_DOUBLED = 512


class JoiningConv2d(nn.Conv2d):
    """``conv3x3(concatenate(resize(x), skip))`` without the arithmetic that nearest neighbours make redundant.

    A convolution is linear, so x and skip are convolved apart and added: neither the joined map nor its gradient is
    ever written. And nearest-neighbour doubling followed by a 3x3 convolution is one transposed 4x4 convolution of
    stride 2, whose taps are sums of the 3x3 kernel's: 16 multiply-adds per coarse px in place of 36, and the enlarged
    map is not written either. Results equal the plain form up to rounding.

    Args:
        in_channels, skip_channels, out_channels: C, C_skip (0 for none), C'.
        upsample: "nearest" or "bilinear".
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, *, upsample: str) -> None:
        super().__init__(in_channels + skip_channels, out_channels, 3, padding=1, bias=False)
        self.split = in_channels
        self.upsample = upsample

    def forward(self, x: Tensor, size: tuple[int, int], skip: Tensor | None) -> Tensor:  # type: ignore[override]
        """Args: x (B, C, h, w); size (H, W) px of the result; skip (B, C_skip, H, W) or None."""
        own = self.weight
        if skip is not None:  # one split, not two slices: its gradient is put together in one pass
            own, others = self.weight.split([self.split, self.in_channels - self.split], 1)
        doubled = (x.shape[-2] * 2, x.shape[-1] * 2) == tuple(size)
        if self.upsample == "nearest" and doubled and not _exporting() and _pixels(x) >= _MIN_PIXELS_DOUBLED:
            y = F.conv_transpose2d(x, doubled_kernel(own), stride=2, padding=1)
        else:
            y = F.conv2d(resize(x, size, self.upsample), own, padding=1)
        return y if skip is None else y.add_(F.conv2d(skip, others, padding=1))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, upsample={self.upsample}"


def doubled_kernel(weight: Tensor) -> Tensor:
    """(C', C, 3, 3) of a convolution -> (C, C', 4, 4) of the transposed one that doubles first.

    Along one axis, px 2i + a (a = 0, 1) of the doubled map is px i of the coarse one, and tap k of the convolution adds
    it to output 2i + a + 1 - k, which is tap a + 2 - k of a transposed convolution of padding 1: the kernel turned
    round, once for each a.
    """
    turned = weight.flip(2, 3).transpose(0, 1)
    rows = F.pad(turned, (0, 0, 0, 1)) + F.pad(turned, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


def resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), ``nearest`` or ``bilinear`` with half-pixel centres."""
    return F.interpolate(x, size=size, mode=mode, align_corners=None if mode == "nearest" else False)


def _pixels(x: Tensor) -> int:
    return x.shape[0] * x.shape[-2] * x.shape[-1]


def _exporting() -> bool:
    """Other runtimes get the plain form: sizes may be symbols there, and they have fast resizing of their own."""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 knows the latter only
    return exporting() or torch.jit.is_tracing()


class UNetBlock(nn.Module):
    """Resize (B, C, h, w) to the skip's size, join the skip, convolve twice -> (B, C', H, W).

    Args:
        in_channels, skip_channels, out_channels: C, channels of the skip (0 where there is none), C'.
        act: name of the activation.
        upsample: "nearest" or "bilinear".
        bn: builds the normalisation of so many channels.
        attention: None or "scse", on the joined map and behind the convolutions.
    """

    checkpointed = False

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        act: str,
        upsample: str,
        bn: Callable[[int], nn.Module],
        attention: str | None = None,
    ) -> None:
        super().__init__()

        def block(conv: nn.Conv2d) -> nn.Sequential:
            return nn.Sequential(conv, bn(out_channels), activation(act))

        self.conv1 = block(JoiningConv2d(in_channels, skip_channels, out_channels, upsample=upsample))
        self.conv2 = block(nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False))
        self.upsample = upsample
        # smp builds the first also where there is no skip, and never runs it there.
        joined = attention if skip_channels else None
        self.attention1 = Attention(joined, in_channels + skip_channels) if joined else None
        self.attention2 = Attention(attention, out_channels)

    def forward(self, x: Tensor, size: tuple[int, int], skip: Tensor | None) -> Tensor:
        """Args: x (B, C, h, w); size (H, W) px of the result; skip (B, C_skip, H, W) or None."""
        conv, norm, act = self.conv1
        if self.attention1 is not None and skip is not None:
            x, skip = self.attention1(torch.cat([resize(x, size, self.upsample), skip], 1)), None
        return self.attention2(self.conv2(act(norm(conv(x, size, skip)))))


class UNetDecoder(nn.Module):
    """One block per encoder feature, coarse to fine; the last one has no skip and ends at the input's size.

    Args:
        encoder_channels: of the features, fine to coarse.
        channels: of the blocks, coarse to fine, as many as there are features.
        act, upsample, bn, attention: see :class:`UNetBlock`.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        channels: Sequence[int],
        *,
        act: str,
        upsample: str,
        bn: Callable[[int], nn.Module],
        attention: str | None = None,
    ) -> None:
        super().__init__()
        coarse_to_fine = list(encoder_channels)[::-1]
        inputs = [coarse_to_fine[0], *channels[:-1]]
        skips = [*coarse_to_fine[1:], 0]
        self.blocks = nn.ModuleList(
            UNetBlock(in_channels, skip_channels, out_channels, act=act, upsample=upsample, bn=bn, attention=attention)
            for in_channels, skip_channels, out_channels in zip(inputs, skips, channels, strict=True)
        )
        self.out_channels = channels[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(
                    module.weight, mode="fan_in", nonlinearity="relu"
                )  # smp base/initialization.py
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Args: features fine to coarse; size (H, W) px of the result. Returns: (B, channels[-1], H, W)."""
        skips: list[Tensor | None] = [*features[:-1][::-1], None]
        x = features[-1]
        for block, skip in zip(self.blocks, skips, strict=True):
            x = call(block, x, size if skip is None else (skip.shape[-2], skip.shape[-1]), skip)
        return x
