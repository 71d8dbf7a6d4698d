"""Logits of pictures of any size: in one pass, window by window, and averaged over scales and mirrored copies.

    >>> options = InferenceOptions(mode="slide", window=512, stride=340)
    >>> logits = predict_logits(segmentor, images, options)  # (B, K, H, W)

Windows overlap and are blended with a weight that falls towards their edges, where a network sees least around a pixel;
the weight is a Hann window (Pielawski & Waehlby 2020, "Introducing Hann windows for reducing edge-effects in
patch-based image segmentation"), positive everywhere. Beside the result only the windows of one pass are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdense.errors import ConfigError, ShapeError, did_you_mean
from effdense.models.segmentation.postprocess import resized_bands

MODES = ("whole", "slide")
# Scales of the usual test-time augmentation, with mirrored copies: DeepLabv3+ (Chen et al. 2018), section 4.
TTA_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclass(frozen=True)
class InferenceOptions:
    """How a segmentor looks at a picture.

    Args:
        mode: "whole" picture in one pass, or "slide" a window over it.
        window: (height, width) px or one side; default the network's ``config.image_size``. A window reaches no
            further than the picture, so one that covers it gives what "whole" gives.
        stride: px from one window to the next, (down, right) or one number; default two thirds of the window. The last
            windows are shifted to end at the border.
        scales: factors of the picture's size; the class probabilities found at each are averaged.
        flip: also average with those of the mirrored picture.
        window_batch: windows in one forward pass; default 4, and 1 on the CPU, where more take memory and no less time.

    Raises: ConfigError for values that cannot be used.
    """

    mode: str = "whole"
    window: int | tuple[int, int] | None = None
    stride: int | tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window_batch: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            near = did_you_mean(str(self.mode), MODES)
            raise ConfigError(f"inference: mode must be one of {MODES}, got {self.mode!r}.{near}")
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is None:
                continue
            if self.mode == "whole":
                raise ConfigError(f"inference: {name} means something with mode='slide' only; add it or drop {name}.")
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
            _pair(value, name)
        if self.window is not None and self.stride is not None:
            window, stride = _pair(self.window, "window"), _pair(self.stride, "stride")
            if stride[0] > window[0] or stride[1] > window[1]:
                raise ConfigError(
                    f"inference: stride {self.stride} is larger than the window {self.window}, so pixels between "
                    "windows would have no class; make it at most as large."
                )
        if isinstance(self.scales, (str, int, float)) or not isinstance(self.scales, Sequence) or not self.scales:
            raise ConfigError(f"inference: scales must be a tuple of numbers such as (0.75, 1.0), got {self.scales!r}.")
        for scale in self.scales:
            if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
                raise ConfigError(f"inference: scales must be numbers above 0, got {scale!r} in {self.scales!r}.")
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        if not isinstance(self.flip, bool):
            raise ConfigError(f"inference: flip must be True or False, got {self.flip!r}.")
        batch = 1 if self.window_batch is None else self.window_batch
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ConfigError(f"inference: window_batch must be a whole number above 0, got {self.window_batch!r}.")

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> InferenceOptions:
        """From a config's ``dict(...)``; a key that is no field raises ConfigError with the nearest ones."""
        if options is not None and not isinstance(options, Mapping):
            raise ConfigError(f"inference must be a dict such as dict(mode='slide'), got {options!r}.")
        return cls().override(**dict(options or {}))

    def override(self, **changes: Any) -> InferenceOptions:
        """A copy with fields replaced; ``mode="whole"`` alone also drops window and stride.

        Raises: ConfigError for a name that is no field, with the nearest ones.
        """
        known = [field.name for field in fields(self)]
        for key in changes:
            if key not in known:
                raise ConfigError(
                    f"inference has no option {key!r}.{did_you_mean(str(key), known)} Known: {', '.join(known)}."
                )
        kept = {name: getattr(self, name) for name in known}
        if changes.get("mode") == "whole":
            kept |= {"window": None, "stride": None}
        return InferenceOptions(**{**kept, **changes})

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as plain JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: value for name, value in values.items() if value != getattr(InferenceOptions, name)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}

    def window_and_stride(self, network: Any) -> tuple[tuple[int, int], tuple[int, int]]:
        """Both as (height, width) px, defaults filled in.

        Raises: ConfigError for a stride larger than the window, and without a window where the network says no size.
        """
        side = getattr(getattr(network, "config", None), "size_hw", None) if self.window is None else self.window
        if side is None:
            raise ConfigError(
                f"inference: {type(network).__name__} has no config.image_size to take the window from; give window=."
            )
        window = _pair(side, "window")
        stride = (
            (max(1, round(window[0] * 2 / 3)), max(1, round(window[1] * 2 / 3)))
            if self.stride is None
            else _pair(self.stride, "stride")
        )
        if stride[0] > window[0] or stride[1] > window[1]:
            raise ConfigError(
                f"inference: stride {stride} is larger than the window {window}; make it at most as large."
            )
        return window, stride


@torch.inference_mode()
def predict_logits(network: nn.Module, images: Tensor, options: InferenceOptions | None = None) -> Tensor:
    """Logits of normalised images, the way ``options`` say.

    Args:
        network: in evaluation mode: (B, C, h, w) of any size to logits (B, K, h, w); ``window`` has a default where it
            is a ``Segmentor``.
        images: (B, C, H, W) normalised.
        options: default in one pass.

    Returns: (B, K, H, W). Plain logits of one scale without flip; else logarithms of the averaged probabilities, for
        K = 1 the logit of the averaged probability, so that ``class_map_at`` and softmax or sigmoid read all alike.
    Raises: ShapeError for images of another rank.
    """
    options = options or InferenceOptions()
    if images.ndim != 4 or 0 in images.shape:
        raise ShapeError(f"predict_logits: expected images (B, C, H, W), got {tuple(images.shape)}.")
    look: Callable[[Tensor], Tensor] = network
    if options.mode == "slide":
        window, stride = options.window_and_stride(network)
        batch = options.window_batch or (1 if images.device.type == "cpu" else 4)

        def look(view: Tensor) -> Tensor:
            return _slide(network, view, window, stride, batch)

    if options.scales == (1.0,) and not options.flip:
        return look(images)
    return _averaged(look, images, options)


def _averaged(look: Callable[[Tensor], Tensor], images: Tensor, options: InferenceOptions) -> Tensor:
    """Log-probabilities averaged over scales and mirrored copies."""
    height, width = images.shape[-2:]
    total: Tensor | None = None
    for scale in options.scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        # Averaging what shrinks, as evaluation does with pictures.
        scaled = images
        if size != (height, width):
            scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
        for mirrored in (False, True) if options.flip else (False,):
            logits = look(scaled.flip(-1) if mirrored else scaled)
            if total is None:
                total = torch.zeros(*logits.shape[:2], height, width, device=logits.device)
            for image, one in zip(total, logits, strict=True):
                for rows, band in resized_bands(one, (height, width)):
                    found = band.sigmoid() if len(band) == 1 else band.softmax(0)
                    image[:, rows] += found.flip(-1) if mirrored else found
    assert total is not None
    mean = total.div_(len(options.scales) * (1 + options.flip))
    smallest = torch.finfo(torch.float32).tiny
    if mean.shape[1] == 1:
        # Float32 has no number between 1 - 6e-8 and 1.
        return mean.clamp_(smallest, 1 - torch.finfo(torch.float32).eps / 2).logit_()
    return mean.clamp_(min=smallest).log_()


def _slide(network: nn.Module, images: Tensor, window: tuple[int, int], stride: tuple[int, int], batch: int) -> Tensor:
    """Logits of overlapping windows, blended.

    The result is kept as the weighted mean of the windows so far: where all windows agree, it is what they say to the
    last bit, and a pixel that one window covers has that window's logits.
    """
    size = (images.shape[-2], images.shape[-1])
    height, width = min(window[0], size[0]), min(window[1], size[1])
    if (height, width) == size:
        return network(images)
    weight = _hann(height, images.device)[:, None] * _hann(width, images.device)[None, :]
    places = [(i, y, x) for i in range(len(images)) for y, x in _corners(size, (height, width), stride)]
    mean: Tensor | None = None
    covered = torch.zeros(len(images), *size, device=images.device)
    memory = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    for start in range(0, len(places), batch):
        chosen = places[start : start + batch]
        crops = torch.stack([images[i, :, y : y + height, x : x + width] for i, y, x in chosen])
        logits = network(crops.contiguous(memory_format=memory)).float()
        if mean is None:
            mean = logits.new_zeros(len(images), logits.shape[1], *size)
        for (i, y, x), one in zip(chosen, logits, strict=True):
            here = covered[i, y : y + height, x : x + width]
            here += weight
            mean[i, :, y : y + height, x : x + width].lerp_(one, weight / here)
    assert mean is not None
    return mean


def _corners(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Top left corners (y, x) of windows that cover the picture."""
    for y in _starts(size[0], window[0], stride[0]):
        for x in _starts(size[1], window[1], stride[1]):
            yield y, x


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Every ``stride`` px, the last where the window ends at the border."""
    return [*range(0, length - window, stride), length - window]


def _hann(length: int, device: torch.device) -> Tensor:
    """Hann window at the middles of ``length`` pixels: above 0 at each."""
    middles = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    return (math.pi * middles).sin().square().float().to(device)


def _pair(value: Any, name: str) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in pair):
        raise ConfigError(f"inference: {name} must be a positive whole number of px or (height, width), got {value!r}.")
    return pair[0], pair[1]
