"""Photometric jitter: numbers by hand, torchvision's single operations, repeatable draws, one picture at a time."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from effdense.data.transforms.photometric import PhotometricJitter, adjust_colors
from effdense.errors import ConfigError, ShapeError

NEUTRAL = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}


def pictures(count: int = 3, side: int = 12, seed: int = 0) -> torch.Tensor:
    """Channels-last, as batches are."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=generator).float()
    return pixels.contiguous(memory_format=torch.channels_last)


def adjusted(images: torch.Tensor, **changes: float) -> torch.Tensor:
    """One change of the whole batch."""
    values = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, **changes}
    return adjust_colors(images, **{name: torch.full((len(images),), value) for name, value in values.items()})


def by_torchvision(images: torch.Tensor, operation: str, factor: float) -> torch.Tensor:
    return torch.stack([getattr(F, f"adjust_{operation}")(image / 255, factor) * 255 for image in images])


def test_brightness_by_hand():
    image = torch.tensor([10.0, 100.0, 250.0]).view(1, 3, 1, 1)
    assert adjusted(image, brightness=32 / 255).flatten().tolist() == pytest.approx([42, 132, 255])
    assert adjusted(image, brightness=-32 / 255).flatten().tolist() == pytest.approx([0, 68, 218], abs=1e-4)


def test_contrast_by_hand():
    """Greys 50 and 150 have the mean 100: half the contrast is 75 and 125, double 0 and 200."""
    image = torch.tensor([50.0, 150.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2).contiguous()
    assert adjusted(image, contrast=0.5)[0, 0].flatten().tolist() == pytest.approx([75, 125], abs=1e-3)
    assert adjusted(image, contrast=2.0)[0, 2].flatten().tolist() == pytest.approx([0, 200], abs=1e-3)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.3, 1.5])
@pytest.mark.parametrize("operation", ["contrast", "saturation"])
def test_single_operations_are_torchvisions(operation: str, factor: float):
    """Its luma has .2989 in place of .299: 1e-4 of 255, times the distance from 1."""
    images = pictures()
    ours, theirs = adjusted(images, **{operation: factor}), by_torchvision(images, operation, factor)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03)


def test_order_does_not_matter_where_nothing_is_cut_off():
    images = 100 + pictures() / 8
    changes = {"contrast": 1.4, "saturation": 0.7, "hue": 15.0}
    for order in (list(changes), list(changes)[::-1]):
        out = images
        for name in order:
            out = adjusted(out, **{name: changes[name]})
        torch.testing.assert_close(out, adjusted(images, **changes), rtol=0, atol=1e-3)


def test_hue_turns_colours_and_leaves_grey_and_luma():
    images = 100 + pictures() / 8
    luma = torch.tensor([0.299, 0.587, 0.114])
    turned = adjusted(images, hue=25.0)
    torch.testing.assert_close(luma @ turned.flatten(2), luma @ images.flatten(2), rtol=0, atol=1e-3)
    assert (turned - images).abs().max() > 3
    torch.testing.assert_close(adjusted(turned, hue=-25.0), images, rtol=0, atol=1e-3)
    grey = torch.full((1, 3, 2, 2), 77.0)
    torch.testing.assert_close(adjusted(grey, hue=90.0), grey, rtol=0, atol=1e-3)


@pytest.mark.parametrize("colour", [(200, 90, 90), (90, 200, 90), (90, 90, 200), (180, 170, 60)])
def test_a_positive_hue_goes_the_way_of_hsv(colour: tuple[int, int, int]):
    """Red to yellow to green to blue, by about as many degrees."""
    image = torch.tensor(colour).float().view(1, 3, 1, 1)
    out = adjusted(image, hue=18.0).flatten().tolist()
    before, after = (colorsys.rgb_to_hsv(*(v / 255 for v in rgb))[0] * 360 for rgb in (colour, out))
    assert 8 < (after - before) % 360 < 40


def test_no_strength_changes_nothing_and_draws_as_much():
    """So that options do not move the random stream of what comes after."""
    images = pictures()
    torch.manual_seed(0)
    out = PhotometricJitter(**NEUTRAL, prob=1.0)(images)
    after = torch.rand(())
    torch.testing.assert_close(out, images, rtol=0, atol=1e-4)
    torch.manual_seed(0)
    torch.testing.assert_close(PhotometricJitter(prob=0.0)(images), images, rtol=0, atol=1e-4)
    assert torch.rand(()) == after
    torch.manual_seed(0)
    PhotometricJitter(hue=30)(images)
    assert torch.rand(()) == after


def test_a_seed_repeats_it_and_pictures_differ():
    images = pictures(1).repeat(4, 1, 1, 1)
    jitter = PhotometricJitter(prob=1.0)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(jitter(images))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert all((results[0][i] - results[0][j]).abs().mean() > 1 for i in range(4) for j in range(i))


def test_a_picture_is_changed_as_if_it_were_alone():
    images = pictures(3)
    values = (torch.tensor(v) for v in ([0.1, -0.1, 0.0], [0.6, 1.4, 1.0], [1.2, 1.0, 0.5], [9.0, 0.0, -9.0]))
    values = tuple(values)
    together = adjust_colors(images, *values)
    for i in range(3):
        alone = adjust_colors(images[i : i + 1], *(v[i : i + 1] for v in values))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", list(NEUTRAL))
def test_prob_is_the_share_that_each_operation_changes(name: str):
    strength = {"brightness": 0.1, "contrast": (0.5, 0.9), "saturation": (0.5, 0.9), "hue": 20.0}[name]
    images = (100 + pictures(1) / 8).repeat(400, 1, 1, 1)
    torch.manual_seed(0)
    out = PhotometricJitter(**{**NEUTRAL, name: strength}, prob=0.3)(images)
    changed = ((out - images).abs().amax((1, 2, 3)) > 1e-2).float().mean().item()
    assert changed == pytest.approx(0.3, abs=0.08)


def test_values_stay_in_the_given_range():
    """Greys of two levels show brightness and contrast by themselves."""
    torch.manual_seed(0)
    image = torch.tensor([110.0, 130.0]).view(1, 1, 1, 2).expand(500, 3, 1, 2).contiguous()
    out = PhotometricJitter(brightness=0.1, contrast=(0.5, 1.5), prob=1.0)(image)[:, 0, 0]
    added, factor = out.mean(1) - 120, (out[:, 1] - out[:, 0]) / 20
    assert -25.5 <= added.min() < -24 and 24 < added.max() <= 25.5
    assert 0.499 <= factor.min() < 0.52 and 1.48 < factor.max() <= 1.501
    wild = PhotometricJitter(brightness=1.0, contrast=(0, 4), saturation=(0, 4), hue=180, prob=1.0)(pictures(40))
    assert wild.min() >= 0 and wild.max() <= 255 and wild.isfinite().all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept_and_changes_nothing(memory_format: torch.memory_format):
    images = pictures()
    expected = adjusted(images, contrast=1.2, hue=10.0, saturation=0.8)
    given = images.contiguous(memory_format=memory_format)
    before = given.clone()
    out = adjusted(given, contrast=1.2, hue=10.0, saturation=0.8)
    assert out.is_contiguous(memory_format=memory_format) and out.stride() == given.stride()
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-3)
    assert torch.equal(given, before)


def test_autocast_rounds_no_colours():
    images = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        out = adjusted(images, contrast=1.2, hue=10.0)
    assert out.dtype == torch.float32 and torch.equal(out, adjusted(images, contrast=1.2, hue=10.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for_and_agrees():
    images = pictures()
    results = []
    for given in (images, images.cuda()):
        torch.manual_seed(0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            results.append(PhotometricJitter(prob=1.0)(given))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(results[1].cpu(), results[0], rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"brightness": 32}, r"share of the full range \(32 of 255 is 32 / 255\).*got 32"),
        ({"brightness": True}, "got True"),
        ({"contrast": 0.5}, r"\(lowest, highest\)"),
        ({"contrast": (1.5, 0.5)}, "low <= high"),
        ({"saturation": (-0.5, 0.5)}, "0 <= low"),
        ({"saturation": (0.5, 1.0, 1.5)}, "saturation"),
        ({"hue": 181}, "degrees"),
        ({"hue": -5}, "degrees"),
        ({"prob": 1.5}, "prob"),
        ({"prob": "0.5"}, "'0.5'"),
    ],
)
def test_wrong_arguments(options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        PhotometricJitter(**options)


def test_wrong_pictures():
    jitter = PhotometricJitter()
    with pytest.raises(ShapeError, match=r"\(2, 1, 4, 4\)"):
        jitter(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ShapeError, match="uint8"):
        jitter(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


def test_repr_reads_like_the_call():
    assert repr(PhotometricJitter(hue=9)) == (
        "PhotometricJitter(brightness=0.1255, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=9, prob=0.5)"
    )
