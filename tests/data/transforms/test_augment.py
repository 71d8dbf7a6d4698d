"""Augmentation: crops by hand, strengths that mean what they say, torchvision as oracle, boxes never left behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from effdense.data.transforms.augment import CenterCrop, ColorJitter, RandAugment, RandomErasing, RandomResizedCrop
from effdense.errors import ConfigError


def sample_of(image: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"image": image, "label": 1, "index": 0, "path": "a.jpg", "original_size": image.shape[:2], **more}


def photo(height: int = 90, width: int = 120, seed: int = 0) -> np.ndarray:
    """Smooth random colours: what resampling filters agree on."""
    grid = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_centre_crop_by_hand():
    """An 8 x 16 picture, ten grey levels more per column, is halved to cover 4 x 4; then the middle is cut out."""
    image = np.repeat(np.tile(np.arange(16, dtype=np.uint8) * 10, (8, 1))[..., None], 3, 2)
    out = CenterCrop(4, crop_fraction=1.0)(sample_of(image))["image"]
    # 16 columns become 8, each the mean of two: 5, 25, 45, ...; the middle four are 45 .. 105.
    assert out.shape == (4, 4, 3) and out[0, :, 0].tolist() == [45, 65, 85, 105]
    whole = CenterCrop((8, 16), crop_fraction=1.0)(sample_of(image))["image"]
    np.testing.assert_array_equal(whole, image)


@pytest.mark.parametrize("size", [224, 192, (96, 160)])
@pytest.mark.parametrize("fraction", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (500, 350), (61, 59)])
def test_centre_crop_is_torchvisions(size, fraction, shape):
    """Resize of the short side and centre crop; resampling filters differ by a grey level on a smooth photo."""
    image = photo(*shape)
    out = CenterCrop(size, fraction)(sample_of(image))["image"]
    pair = (size, size) if isinstance(size, int) else size
    assert out.shape == (*pair, 3)
    if isinstance(size, int):
        resize = v2.Resize(int(size / fraction + 1e-6), antialias=True)
        want = np.asarray(v2.CenterCrop(size)(resize(Image.fromarray(image))))
        difference = np.abs(out.astype(int) - want.astype(int))
        assert difference.mean() < 1.0 and difference.max() <= 8


def test_random_crop_of_everything_is_a_resize():
    image = photo(60, 60)
    crop = RandomResizedCrop(30, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    out = crop(sample_of(image), generator())
    np.testing.assert_array_equal(out["image"], cv2.resize(image, (30, 30), interpolation=cv2.INTER_AREA))
    assert out["label"] == 1 and image.shape == (60, 60, 3)


def test_random_crop_windows_cover_what_they_promise():
    crop = RandomResizedCrop(8, scale=(0.2, 0.5), ratio=(0.5, 2.0))
    rng = generator()
    windows = np.array([crop._window(200, 300, rng) for _ in range(2000)])
    w, h = windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]
    share, aspect = w * h / 60_000, w / h
    assert (windows[:, :2] >= 0).all() and (windows[:, 2] <= 300).all() and (windows[:, 3] <= 200).all()
    assert share.min() > 0.195 and share.max() < 0.505 and abs(share.mean() - 0.35) < 0.02
    assert aspect.min() > 0.48 and aspect.max() < 2.05
    assert abs(np.log(aspect).mean()) < 0.1  # log-uniform: as many wide as high


@pytest.mark.parametrize(("shape", "window"), [((10, 1000), (493, 0, 506, 10)), ((1000, 10), (0, 493, 10, 506))])
def test_a_sliver_falls_back_to_its_middle(shape, window):
    """No part of a 10 x 1000 picture has a tenth of its area within 3/4..4/3: the middle 13 x 10 is taken."""
    assert RandomResizedCrop(8, scale=(0.5, 1.0))._window(*shape, generator()) == window


def test_extremes_of_size():
    for shape in ((1, 1), (1, 50), (50, 1)):
        assert RandomResizedCrop(8)(sample_of(photo(*shape)), generator())["image"].shape == (8, 8, 3)
        assert CenterCrop(8)(sample_of(photo(*shape)))["image"].shape == (8, 8, 3)


def test_rand_augment_is_torchvisions():
    """The same torch seed gives the same picture: the seed is the second thing that is drawn."""
    image = photo()
    ours = RandAugment(magnitude=9)(sample_of(image), generator(4))["image"]
    rng = generator(4)
    rng.random()
    torch.manual_seed(int(rng.integers(2**63)))
    theirs = v2.RandAugment(2, 9, 31, interpolation=v2.InterpolationMode.BILINEAR, fill=[124, 116, 104])
    np.testing.assert_array_equal(ours, np.asarray(theirs(Image.fromarray(image))))


@pytest.mark.parametrize("photometric_only", [False, True])
def test_magnitude_is_strength(photometric_only):
    """Mean change grows with the magnitude; ten grades of it, each over 60 pictures."""
    image = photo()

    def change(magnitude: float) -> float:
        step = RandAugment(magnitude=magnitude, photometric_only=photometric_only)
        outs = [step(sample_of(image), generator(seed))["image"].astype(int) for seed in range(60)]
        return float(np.mean([np.abs(out - image).mean() for out in outs]))

    weak, middle, strong = change(1), change(10), change(25)
    assert weak < middle < strong


def test_fractional_magnitude_is_rounded_at_random(monkeypatch):
    seen: list[int] = []
    from effdense.data.transforms import augment

    original = augment._torchvision_rand_augment
    monkeypatch.setattr(augment, "_torchvision_rand_augment", lambda n, i, b, f: seen.append(i) or original(n, i, b, f))
    image = photo(8, 8)
    for seed in range(400):
        RandAugment(magnitude=9.25)(sample_of(image), generator(seed))
    assert set(seen) == {9, 10} and np.mean(seen) == pytest.approx(9.25, abs=0.07)
    seen.clear()
    for seed in range(20):
        RandAugment(magnitude=30.0)(sample_of(image), generator(seed))
    assert set(seen) == {30}


def test_photometric_operations_keep_every_place():
    """Two flat halves stay flat and keep their edge, but for the 3 px that three rounds of sharpening reach."""
    image = np.full((20, 20, 3), 60, np.uint8)
    image[:, 10:] = (200, 150, 90)
    step = RandAugment(num_ops=3, magnitude=15, photometric_only=True)
    for seed in range(100):
        out = step(sample_of(image), generator(seed))["image"]
        assert (out[:, :7] == out[10, 3]).all() and (out[:, 13:] == out[10, 17]).all()


def test_zero_operations_and_zero_strength_change_nothing():
    image = photo()
    for step in (RandAugment(num_ops=0), ColorJitter(), RandomErasing(0.0)):
        np.testing.assert_array_equal(step(sample_of(image), generator())["image"], image)
    identity = ("Identity", "Brightness", "Color", "Contrast", "Sharpness", "Posterize")
    from effdense.data.transforms.augment import _PHOTOMETRIC

    for name in identity:
        out = np.array(_PHOTOMETRIC[name](Image.fromarray(image), 0.0))
        np.testing.assert_array_equal(out, image)


def test_erasing_paints_one_rectangle():
    image = np.full((100, 80, 3), 7, np.uint8)
    out = RandomErasing(1.0, fill=(1, 2, 3))(sample_of(image), generator(1))["image"]
    rows, columns = np.nonzero((out != 7).any(2))
    block = out[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (block == (1, 2, 3)).all() and 0.015 < block.shape[0] * block.shape[1] / 8000 < 0.34
    assert (image == 7).all()  # the picture given is not touched
    done = [(RandomErasing(0.25)(sample_of(image), generator(s))["image"] != 7).any() for s in range(400)]
    assert np.mean(done) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize(
    "step", [RandomResizedCrop(32), RandAugment(), RandAugment(photometric_only=True), ColorJitter(0.4, 0.4, 0.4, 0.1),
             RandomErasing(1.0)]
)  # fmt: skip
def test_the_generator_decides_and_torchs_own_is_left_alone(step):
    image = photo()
    state = torch.random.get_rng_state()
    first = step(sample_of(image), generator(3))["image"]
    torch.rand(5)
    torch.random.set_rng_state(state)
    second = step(sample_of(image), generator(3))["image"]
    np.testing.assert_array_equal(first, second)
    others = [step(sample_of(image), generator(seed))["image"] for seed in range(4, 12)]
    assert any((other != first).any() for other in others)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.dtype == np.uint8 and first.flags.c_contiguous and first.flags.writeable


@pytest.mark.parametrize("more", [{"boxes": np.zeros((0, 4), np.float32)}, {"mask": np.zeros((9, 9), np.uint8)}])
def test_what_moves_pixels_refuses_boxes_and_masks(more):
    sample = sample_of(photo(), **more)
    for step in (RandomResizedCrop(8), CenterCrop(8), RandAugment()):
        with pytest.raises(ConfigError, match="would leave boxes and masks behind"):
            step(sample, generator())
    for step in (RandAugment(photometric_only=True), ColorJitter(0.4), RandomErasing(1.0)):
        out = step(sample, generator())
        assert out.keys() == sample.keys() and all(out[key] is sample[key] for key in more)


def test_a_schedule_makes_stronger_copies():
    crop = dataclasses.replace(RandomResizedCrop(128, scale=(0.2, 1.0)), size=(160, 192))
    assert (crop.size, crop.scale) == ((160, 192), (0.2, 1.0))
    assert dataclasses.replace(RandAugment(), magnitude=12.5).magnitude == 12.5
    assert RandomResizedCrop(128).size == (128, 128)
    assert "magnitude=9.0" in repr(RandAugment())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(0), "size"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.2)), "scale must be"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), "<= 1"),
        (lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)), "ratio must be"),
        (lambda: CenterCrop(8, crop_fraction=0.0), "crop_fraction"),
        (lambda: RandAugment(magnitude=31), r"magnitude must be a number 0\.\.30, got 31"),
        (lambda: RandAugment(num_ops=-1), "num_ops"),
        (lambda: RandomErasing(1.5), r"prob must be a number 0\.\.1"),
        (lambda: ColorJitter(hue=0.6), "hue"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
