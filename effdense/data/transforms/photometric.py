"""Photometric jitter of a batch on the device: RGB (B, 3, H, W) of 0..255 in, the same out, every picture its own.

Brightness, contrast and saturation are affine in RGB, and so is hue as a turn about the grey axis: all four of a
picture are one 3x3 matrix and one offset, applied in one pass. Draws come from torch's default CPU generator, which a
checkpoint keeps; nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from effdense.errors import ConfigError, ShapeError

# RGB to YIQ (NTSC 1953; luma is ITU-R BT.601's, as in PIL and torchvision).
_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]], dtype=torch.float64
)
# What a matrix is mixed from: the grey of a colour, the rest of it, and the rest turned by 90 degrees, red to green.
_GREY = _YIQ[:1].expand(3, 3)
_CHROMA = torch.eye(3, dtype=torch.float64) - _GREY
_TURNED = torch.linalg.inv(_YIQ) @ torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64) @ _YIQ


def adjust_colors(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Change every picture of a batch by its own four numbers, and clamp to 0..255.

    Args:
        images: (B, 3, H, W) float RGB, 0..255; not changed.
        brightness: (B,) added, as a share of the full range; 0 changes nothing.
        contrast: (B,) factor of the distance from the mean grey of the picture, torchvision's ``adjust_contrast``.
        saturation: (B,) factor of the distance of a pixel from its own grey, torchvision's ``adjust_saturation``.
        hue: (B,) degrees that colours are turned by about the grey axis, in YIQ; luma stays, as it does not in HSV.

    Returns: (B, 3, H, W) float, in the memory format of ``images``.
    Raises: ShapeError unless images are float with three channels.

    As affine maps, contrast, saturation and hue commute: the order says nothing but for the clamp, which is one.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ShapeError(
            f"adjust_colors expected float RGB pictures (B, 3, H, W) of 0..255, got {images.dtype} "
            f"{tuple(images.shape)}."
        )
    turn = hue.double() * (math.pi / 180.0)
    cosine, sine = (saturation.double() * part for part in (turn.cos(), turn.sin()))
    matrices = _GREY + cosine.view(-1, 1, 1) * _CHROMA + sine.view(-1, 1, 1) * _TURNED
    matrices = (contrast.double().view(-1, 1, 1) * matrices).to(images.device, images.dtype, non_blocking=True)
    brightness, contrast = (v.to(images.device, images.dtype, non_blocking=True) for v in (brightness, contrast))
    # Autocast would round colours to the eight bits of bfloat16.
    with torch.autocast(images.device.type, enabled=False):
        grey = images.mean((2, 3)) @ _YIQ[0].to(images.device, images.dtype, non_blocking=True)
        offsets = (255.0 * brightness + (1.0 - contrast) * grey).view(-1, 1, 1)
        if images.is_contiguous(memory_format=torch.channels_last):
            pixels = images.permute(0, 2, 3, 1).flatten(1, 2)
            changed = torch.baddbmm(offsets.expand(-1, 1, 3), pixels, matrices.transpose(1, 2)).clamp_(0.0, 255.0)
            return changed.unflatten(1, images.shape[2:]).permute(0, 3, 1, 2)
        changed = torch.baddbmm(offsets.expand(-1, 3, 1), matrices, images.flatten(2)).clamp_(0.0, 255.0)
        return changed.unflatten(2, images.shape[2:])


class PhotometricJitter:
    """Random brightness, contrast, saturation and hue of every picture of a batch.

    Args:
        brightness: what is added is drawn from -x to x, as a share of the full range.
        contrast, saturation: (lowest, highest) factor.
        hue: the turn is drawn from -x to x degrees.
        prob: share of the pictures that each of the four changes, independently.

    Raises: ConfigError for values out of range.

    Ranges and shares are SSD's (arXiv 1512.02325 section 2.2, the authors' code), which segmentation has taken over;
    their hue is 18 of OpenCV's units of two degrees.
    """

    def __init__(
        self,
        brightness: float = 32 / 255,
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue: float = 18.0,
        prob: float = 0.5,
    ) -> None:
        self.brightness = _checked("brightness", brightness, 1.0, "a share of the full range (32 of 255 is 32 / 255)")
        self.contrast = _checked_range("contrast", contrast)
        self.saturation = _checked_range("saturation", saturation)
        self.hue = _checked("hue", hue, 180.0, "degrees")
        self.prob = _checked("prob", prob, 1.0, "a share of the pictures")

    def __call__(self, images: Tensor) -> Tensor:
        """Jitter a batch.

        Args: images (B, 3, H, W) float RGB, 0..255; not changed.
        Returns: the same, in its memory format; see :func:`adjust_colors`.
        """
        count = len(images)
        # One draw of a fixed size, so that the stream does not depend on the options.
        where, whether = torch.rand(2, 4, count)
        ranges = ((-self.brightness, self.brightness), self.contrast, self.saturation, (-self.hue, self.hue))
        values = []
        for i, ((low, high), neutral) in enumerate(zip(ranges, (0.0, 1.0, 1.0, 0.0), strict=True)):
            drawn = low + (high - low) * where[i]
            values.append(torch.where(whether[i] < self.prob, drawn, neutral))
        return adjust_colors(images, *values)

    def __repr__(self) -> str:
        return (
            f"PhotometricJitter(brightness={self.brightness:.4g}, contrast={self.contrast}, "
            f"saturation={self.saturation}, hue={self.hue:g}, prob={self.prob:g})"
        )


def _checked(name: str, value: float, highest: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= highest:
        raise ConfigError(f"photometric {name} is {what}, 0..{highest:g}, got {value!r}.")
    return float(value)


def _checked_range(name: str, value: Sequence[float]) -> tuple[float, float]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in pair):
        raise ConfigError(f"photometric {name} is (lowest, highest) factor such as (0.5, 1.5), got {value!r}.")
    if not 0 <= pair[0] <= pair[1] < float("inf"):
        raise ConfigError(f"photometric {name} must be (low, high) with 0 <= low <= high, got {value!r}.")
    return float(pair[0]), float(pair[1])
