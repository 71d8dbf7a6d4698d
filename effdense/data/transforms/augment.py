"""Augmentation of single pictures on the CPU: uint8 (H, W, 3) RGB in and out, random by the sample's generator alone.

Crops are cut and resized with OpenCV; the photometric work is torchvision's (transforms.v2), run under a seed drawn
from the generator, so a sample is the same in every process. All are frozen dataclasses: a schedule makes a stronger
one with ``dataclasses.replace(transform, magnitude=12.0)``.

What moves pixels knows nothing of boxes and masks, so it takes samples of classification only ("label" in the sample).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from effdense.data.transforms.geometry import MEAN_FILL, Interpolation, check_size, resize_window
from effdense.data.transforms.options import (
    checked_count,
    checked_fill,
    checked_interpolation,
    checked_number,
    checked_range,
    checked_share,
    checked_switch,
    is_number,
)
from effdense.data.transforms.pending import Pending, Window, reduction
from effdense.errors import ConfigError

AnySample = TypeVar("AnySample", bound=Mapping[str, Any])
Pixels = NDArray[np.uint8]


def _with_image(sample: AnySample, image: Pixels | Pending) -> AnySample:
    return cast(AnySample, {**sample, "image": image})


def _require_label_only(sample: Mapping[str, Any], transform: str, advice: str) -> None:
    if "label" not in sample or "boxes" in sample or "mask" in sample:
        raise ConfigError(
            f"{transform} moves pixels and would leave boxes and masks behind: it takes classification samples only; "
            f"this one has {', '.join(sorted(sample))}. {advice}"
        )


@contextmanager
def _seeded(generator: np.random.Generator) -> Iterator[None]:
    """torch's CPU generator seeded from the sample's for the time being; torch.manual_seed would reseed GPUs too."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator.integers(2**63)))
        yield


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the picture, resized to a fixed size; the training crop of ImageNet.

    The part has a uniform share of the area and a log-uniform aspect; if ten draws do not fit into the picture it is
    the largest central part within the aspect range. Source: Inception's crop (arXiv 1409.4842) as in torchvision.

    Args:
        size: px of the result, one number for a square or (height, width).
        scale: range of the part's share of the area. ratio: range of its width / height.
        interpolation: see ``geometry.resize_window``. With "fast", a part that is shrunk to a half or less is widened
            to multiples of 2, 4 or 8 px, so that the decoder can shrink it.
    """

    lazy: ClassVar[bool] = True

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "fast"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_size(self.size))
        object.__setattr__(self, "scale", checked_range("RandomResizedCrop", "scale", self.scale, up_to=1.0))
        object.__setattr__(self, "ratio", checked_range("RandomResizedCrop", "ratio", self.ratio))
        checked_interpolation("RandomResizedCrop", self.interpolation)

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        _require_label_only(sample, "RandomResizedCrop", "Use ScaleJitterCrop.")
        image: Pixels | Pending = sample["image"]
        height, width = image.shape[:2]
        window = self._window(height, width, generator)
        size = check_size(self.size)
        if self.interpolation == "fast":
            window = _widened(window, size, (height, width))
        pending = image if isinstance(image, Pending) else Pending.of(image)
        pending = pending.windowed(Window(window, size), size, fill=MEAN_FILL, interpolation=self.interpolation)
        return _with_image(sample, pending if isinstance(image, Pending) else pending.pixels())

    def _window(self, height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = height * width * generator.uniform(*self.scale)
            aspect = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                x, y = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
                return x, y, x + w, y + h
        w = max(1, min(width, round(height * self.ratio[1])))
        h = max(1, min(height, round(width / self.ratio[0])))
        x, y = (width - w) // 2, (height - h) // 2
        return x, y, x + w, y + h


def _widened(window: tuple[int, int, int, int], size: tuple[int, int], picture: tuple[int, int]) -> Any:
    """A window that starts and ends where a picture shrunk by 2, 4 or 8 has pixel edges, or at the picture's own."""
    x0, y0, x1, y1 = window
    k = reduction(max(size[0] / (y1 - y0), size[1] / (x1 - x0)))
    return x0 // k * k, y0 // k * k, min(picture[1], -(-x1 // k) * k), min(picture[0], -(-y1 // k) * k)


@dataclass(frozen=True)
class CenterCrop:
    """The middle of the picture at a fixed size; the evaluation crop of ImageNet.

    The picture is resized, aspect kept, until it just covers floor(size / crop_fraction), then the middle is cut out.

    Args:
        size: px of the result, one number for a square or (height, width).
        crop_fraction: share of the covered side that stays, in (0, 1]; 0.875 is 224 of 256.
        interpolation: see ``geometry.resize_window``; "auto" averages areas when a side shrinks.
    """

    size: int | tuple[int, int]
    crop_fraction: float = 0.875
    interpolation: Interpolation = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_size(self.size))
        if not is_number(self.crop_fraction) or not 0.0 < self.crop_fraction <= 1.0:
            raise ConfigError(f"CenterCrop.crop_fraction must be a number in (0, 1], got {self.crop_fraction!r}.")
        checked_interpolation("CenterCrop", self.interpolation)

    def __call__(self, sample: AnySample, generator: np.random.Generator | None = None) -> AnySample:
        _require_label_only(sample, "CenterCrop", "Use ResizePad.")
        image: Pixels = sample["image"]
        height, width = image.shape[:2]
        size = check_size(self.size)
        # The small addition keeps 224 / 0.875 = 256 from becoming 255 for fractions that floats cannot hold.
        cover = [math.floor(side / self.crop_fraction + 1e-6) for side in size]
        if width * cover[0] >= cover[1] * height:
            resized = (cover[0], width * cover[0] // height)
        else:
            resized = (height * cover[1] // width, cover[1])
        image, _ = resize_window(image, (0, 0, width, height), resized, resized, interpolation=self.interpolation)
        y, x = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
        return _with_image(sample, np.ascontiguousarray(image[y : y + size[0], x : x + size[1]]))


# Photometric operations of RandAugment by name: (picture, level in -1..1) -> picture. The ranges are torchvision's
# (v2.RandAugment): factors 1 +- 0.9, 8 to 4 bits, thresholds from 255 down to 0.
_PHOTOMETRIC = {
    "Identity": lambda image, level: image,
    "Brightness": lambda image, level: F.adjust_brightness(image, 1 + 0.9 * level),
    "Color": lambda image, level: F.adjust_saturation(image, 1 + 0.9 * level),
    "Contrast": lambda image, level: F.adjust_contrast(image, 1 + 0.9 * level),
    "Sharpness": lambda image, level: F.adjust_sharpness(image, 1 + 0.9 * level),
    "Posterize": lambda image, level: F.posterize(image, 8 - round(4 * abs(level))),
    "Solarize": lambda image, level: F.solarize(image, 255 * (1 - abs(level))),
    "AutoContrast": lambda image, level: F.autocontrast(image),
    "Equalize": lambda image, level: F.equalize(image),
}


@functools.lru_cache(maxsize=64)
def _torchvision_rand_augment(num_ops: int, index: int, bins: int, fill: tuple[int, int, int]) -> v2.RandAugment:
    return v2.RandAugment(num_ops, index, bins, interpolation=InterpolationMode.BILINEAR, fill=list(fill))


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` random operations of one strength (arXiv 1909.13719), torchvision's v2.RandAugment.

    Args:
        num_ops: operations per picture.
        magnitude: strength in 0..num_magnitude_bins - 1. torchvision has whole magnitudes; one in between is rounded up
            or down at random for each picture, so that the mean is right (9.25 is 10 for every fourth picture). With
            `photometric_only` it is used as it is.
        num_magnitude_bins: the scale of `magnitude`; 31 gives steps of 1/30 of the strongest.
        photometric_only: leave out what moves pixels; then samples with boxes or masks can be changed as well.
        fill: RGB of what comes into the picture from outside.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    num_magnitude_bins: int = 31
    photometric_only: bool = False
    fill: tuple[int, int, int] = MEAN_FILL

    def __post_init__(self) -> None:
        checked_count("RandAugment", "num_ops", self.num_ops, 0)
        bins = checked_count("RandAugment", "num_magnitude_bins", self.num_magnitude_bins, 2)
        checked_number("RandAugment", "magnitude", self.magnitude, 0, bins - 1)
        checked_switch("RandAugment", "photometric_only", self.photometric_only)
        object.__setattr__(self, "fill", checked_fill("RandAugment", self.fill))

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        if not self.photometric_only:
            _require_label_only(sample, "RandAugment", "Set photometric_only=True.")
        # PIL: torchvision's operations take a third of the time that they take on tensors.
        image = Image.fromarray(sample["image"])
        if self.photometric_only:
            image = self._photometric(image, generator)
        else:
            whole = math.floor(self.magnitude)
            index = whole + int(generator.random() < self.magnitude - whole)
            operation = _torchvision_rand_augment(self.num_ops, index, self.num_magnitude_bins, tuple(self.fill))
            with _seeded(generator):
                image = operation(image)
        return _with_image(sample, np.array(image))

    def _photometric(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        names = tuple(_PHOTOMETRIC)
        level = self.magnitude / (self.num_magnitude_bins - 1)
        for _ in range(self.num_ops):
            name = names[int(generator.integers(len(names)))]
            image = _PHOTOMETRIC[name](image, level if generator.random() < 0.5 else -level)
        return image


@dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue in random order, torchvision's v2.ColorJitter; for any sample.

    Args:
        brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x, not below 0.
        hue: the turn is drawn from -x to x, at most half a turn (0.5).
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            checked_number("ColorJitter", name, getattr(self, name), 0)
        checked_number("ColorJitter", "hue", self.hue, 0, 0.5)

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        jitter = v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue)
        with _seeded(generator):
            image = jitter(Image.fromarray(sample["image"]))
        return _with_image(sample, np.array(image))


@dataclass(frozen=True)
class RandomErasing:
    """One random rectangle painted over (arXiv 1708.04896), torchvision's v2.RandomErasing; for any sample.

    Args:
        prob: share of the pictures that are changed.
        scale: range of the rectangle's share of the area. ratio: range of its height / width.
        fill: RGB; by default the mean of ImageNet, which is about 0 after normalisation.
    """

    prob: float = 0.25
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: tuple[int, int, int] = MEAN_FILL

    def __post_init__(self) -> None:
        checked_share("RandomErasing", "prob", self.prob)
        object.__setattr__(self, "fill", checked_fill("RandomErasing", self.fill))
        object.__setattr__(self, "scale", checked_range("RandomErasing", "scale", self.scale, up_to=1.0))
        object.__setattr__(self, "ratio", checked_range("RandomErasing", "ratio", self.ratio))

    def __call__(self, sample: AnySample, generator: np.random.Generator) -> AnySample:
        erase = v2.RandomErasing(self.prob, self.scale, self.ratio, value=list(self.fill))
        pixels = torch.from_numpy(np.ascontiguousarray(sample["image"])).permute(2, 0, 1)
        with _seeded(generator):
            erased = erase(pixels)  # a new tensor, or the one given where nothing is erased
        return _with_image(sample, np.ascontiguousarray(erased.permute(1, 2, 0).numpy()))
