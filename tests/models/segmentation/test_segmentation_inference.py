"""Whole, sliding and averaged inference: windows by hand, exact equalities, stub networks whose answer is known."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import effdense
from effdense.errors import ConfigError, ShapeError
from effdense.models.segmentation import inference
from effdense.models.segmentation.inference import TTA_SCALES, InferenceOptions, predict_logits


class Network(nn.Module):
    """Something like a segmentor: a function of the images, what it was given, and a config."""

    def __init__(self, function: Any, size: tuple[int, int] = (32, 32)) -> None:
        super().__init__()
        self.function = function
        self.config = SimpleNamespace(size_hw=size)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return self.function(images)


def pointwise(images: Tensor) -> Tensor:
    """Logits that depend on the pixel alone: the same in every window."""
    return torch.cat((images.sum(1, keepdim=True), images[:, :1] * 3, -images[:, 1:2]), 1)


def constant(images: Tensor) -> Tensor:
    values = torch.tensor([0.1, -7.3, 1 / 3, 1e-8])
    return values.view(1, -1, 1, 1).expand(len(images), -1, *images.shape[-2:])


@pytest.fixture(scope="module")
def segmentor() -> Any:
    torch.manual_seed(0)
    return effdense.create_segmentor("efficientunet_lite0", 5, image_size=(64, 96)).eval()


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- whole and slide ---------------------------------------------------------------------------------------------------


def test_whole_is_the_network(segmentor: Any) -> None:
    images = pictures(2, 3, 61, 83)
    with torch.no_grad():
        expected = segmentor(images)
    assert torch.equal(predict_logits(segmentor, images), expected)
    assert predict_logits(segmentor, images).is_inference()


@pytest.mark.parametrize("size", [(64, 96), (50, 96), (64, 33), (7, 5)])
def test_a_window_that_covers_the_picture_is_the_whole_picture(segmentor: Any, size: tuple[int, int]) -> None:
    images = pictures(2, 3, *size)
    with torch.no_grad():
        expected = segmentor(images)
    for options in (InferenceOptions("slide"), InferenceOptions("slide", window=999, stride=1)):
        assert torch.equal(predict_logits(segmentor, images, options), expected)


def test_starts_by_hand() -> None:
    assert inference._starts(100, 40, 30) == [0, 30, 60]
    assert inference._starts(101, 40, 30) == [0, 30, 60, 61]
    assert inference._starts(40, 40, 30) == [0] and inference._starts(41, 40, 40) == [0, 1]


def test_windows_end_at_the_border_and_are_bounded_in_number() -> None:
    network = Network(pointwise)
    options = InferenceOptions("slide", window=(32, 40), stride=(20, 40), window_batch=4)
    predict_logits(network, pictures(1, 3, 70, 50), options)
    # Rows 0, 20, 38, columns 0, 10: six windows, four to a pass.
    assert network.seen == [(4, 3, 32, 40), (2, 3, 32, 40)]
    network.seen.clear()
    predict_logits(network, pictures(2, 3, 70, 20), InferenceOptions("slide", window=32, window_batch=3))
    assert network.seen == [(3, 3, 32, 20), (3, 3, 32, 20)]  # no wider than the picture; stride 21; of both pictures
    network.seen.clear()
    predict_logits(network, pictures(1, 3, 70, 20), InferenceOptions("slide"))
    assert network.seen == [(1, 3, 32, 20)] * 3  # on the CPU


@pytest.mark.parametrize(("window", "stride"), [(16, 5), ((16, 30), (16, 29)), (31, 31), (3, 2), ((1, 200), 1)])
def test_a_pointwise_network_gives_what_it_gives_as_a_whole(window: Any, stride: Any) -> None:
    images = pictures(2, 3, 47, 61)
    found = predict_logits(Network(pointwise), images, InferenceOptions("slide", window=window, stride=stride))
    torch.testing.assert_close(found, pointwise(images), rtol=1e-5, atol=1e-5)


def test_windows_that_agree_are_not_rounded() -> None:
    images = pictures(1, 3, 101, 77)
    for options in (InferenceOptions("slide", window=20, stride=7), InferenceOptions("slide", window=(33, 50))):
        assert torch.equal(predict_logits(Network(constant), images, options), constant(images))


def test_where_one_window_covers_it_is_that_windows_answer() -> None:
    """Each window says its own mean; rows 0-19 and 30-49 lie in one window each, rows 20-29 in both."""
    network = Network(lambda images: images.mean((1, 2, 3), keepdim=True).expand(-1, 2, *images.shape[-2:]))
    images = torch.arange(50.0).view(1, 1, 50, 1).expand(1, 3, 50, 8)
    found = predict_logits(network, images, InferenceOptions("slide", window=(30, 8), stride=(20, 8)))[0, 0, :, 0]
    assert (found[:20] == 14.5).all() and (found[30:] == 34.5).all()
    middle = found[20:30]
    assert (middle.diff() > 0).all() and 14.5 < middle[0] < middle[-1] < 34.5  # a smooth passage between the two
    assert float(middle[:5].sum() + middle.flip(0)[:5].sum()) == pytest.approx(10 * 24.5)


def test_the_weight_is_positive_and_symmetric() -> None:
    for length in (1, 2, 33, 4096):
        weight = inference._hann(length, torch.device("cpu"))
        assert (weight > 0).all() and weight.argmax() in ((length - 1) // 2, length // 2)
        torch.testing.assert_close(weight, weight.flip(0))
        assert (weight[:, None] * weight[None, :]).min() > 0
    assert inference._hann(1, torch.device("cpu")).tolist() == [1.0]


# -- scales and mirrored copies ----------------------------------------------------------------------------------------


def test_scales_and_flip_by_hand(segmentor: Any) -> None:
    """The averages written out with the network and torch's own functions."""
    images = pictures(1, 3, 45, 70)
    parts = []
    with torch.no_grad():
        for size in ((34, 52), (45, 70), (56, 88)):  # 33.75 and 52.5, 56.25 and 87.5, rounded
            resize = dict(mode="bilinear", align_corners=False)  # noqa: C408
            view = images
            if size != (45, 70):
                view = torch.nn.functional.interpolate(images, size=size, antialias=size[0] < 45, **resize)
            for flip in (False, True):
                logits = segmentor(view.flip(-1) if flip else view)
                logits = torch.nn.functional.interpolate(logits, size=(45, 70), **resize)
                parts.append((logits.flip(-1) if flip else logits).softmax(1))
    found = predict_logits(segmentor, images, InferenceOptions(scales=(0.75, 1.0, 1.25), flip=True))
    torch.testing.assert_close(found.exp(), torch.stack(parts).mean(0), rtol=1e-4, atol=1e-6)
    assert found.exp().sum(1).allclose(torch.ones(1), atol=1e-5)


def test_the_mirrored_average_of_a_mirrored_picture_is_mirrored(segmentor: Any) -> None:
    images = pictures(2, 3, 40, 64)
    options = InferenceOptions("slide", window=(40, 48), stride=(40, 16), flip=True)
    found, turned = (predict_logits(segmentor, view, options) for view in (images, images.flip(-1)))
    torch.testing.assert_close(found.flip(-1), turned, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"flip": True}, {"scales": (0.5, 1.0)}, {"mode": "slide", "scales": TTA_SCALES}])
def test_a_constant_network_stays_constant_in_probability(options: dict[str, Any]) -> None:
    found = predict_logits(Network(constant), pictures(1, 3, 50, 70), InferenceOptions(**options))
    expected = constant(pictures(1, 3, 50, 70)).log_softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_binary_averages_are_logits_of_the_mean() -> None:
    images = pictures(1, 3, 20, 30)
    network = Network(lambda x: x[:, :1] * 2)
    found = predict_logits(network, images, InferenceOptions(flip=True))
    torch.testing.assert_close(found, images[:, :1] * 2, rtol=1e-4, atol=1e-4)
    certain = predict_logits(Network(lambda x: x[:, :1].sign() * 1e4), images, InferenceOptions(flip=True))
    assert certain.isfinite().all() and torch.equal(certain > 0, images[:, :1] > 0)
    for value in (1e4, -1e4):  # classes that are impossible stay finite too
        logits = torch.tensor([value, 0.0]).view(1, 2, 1, 1)
        network = Network(lambda x, logits=logits: x[:, :2] * 0 + logits)
        found = predict_logits(network, images, InferenceOptions(flip=True))
        assert found.isfinite().all() and (found.argmax(1) == (value < 0)).all()


def test_scales_of_tiny_pictures() -> None:
    found = predict_logits(Network(pointwise), pictures(1, 3, 1, 2), InferenceOptions(scales=(0.01, 3.7)))
    assert found.shape == (1, 3, 1, 2) and found.isfinite().all()


# -- use ---------------------------------------------------------------------------------------------------------------


def test_training_goes_on_after_inference(segmentor: Any) -> None:
    """Nothing of an inference pass stays in the network that autograd could not use."""
    network = effdense.create_segmentor("efficientunet_lite0", 3).train()
    predict_logits(network.eval(), pictures(1, 3, 50, 50), InferenceOptions("slide", window=32, flip=True))
    loss = network.train().loss(pictures(2, 3, 50, 50), torch.zeros(2, 50, 50, dtype=torch.uint8))
    sum(loss.values()).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_options_travel_as_plain_json() -> None:
    options = InferenceOptions("slide", window=(512, 1024), scales=(0.75, 1), flip=True)
    content = json.loads(json.dumps(options.to_dict()))
    assert content == {"mode": "slide", "window": [512, 1024], "scales": [0.75, 1.0], "flip": True}
    assert InferenceOptions.of(content) == options and hash(InferenceOptions.of(content)) == hash(options)
    assert InferenceOptions().to_dict() == {} and InferenceOptions.of(None) == InferenceOptions.of({})


def test_override() -> None:
    slide = InferenceOptions("slide", window=64, stride=32, flip=True)
    assert slide.override(mode="whole") == InferenceOptions(flip=True)
    assert slide.override(stride=16).stride == 16 and slide.override() == slide
    assert slide.override(scales=[0.5, 1]).scales == (0.5, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "slid"}, "mode must be one of .* got 'slid'. Did you mean 'slide'"),
        ({"window": 512}, "window means something with mode='slide' only"),
        ({"stride": 512}, "stride means something with mode='slide' only"),
        ({"mode": "slide", "window": 0}, "window must be a positive whole number"),
        ({"mode": "slide", "window": (1, 2, 3)}, "window must be .* got \\(1, 2, 3\\)"),
        ({"mode": "slide", "stride": 0.5}, "stride must be a positive whole number"),
        ({"mode": "slide", "window": 512, "stride": (512, 600)}, "stride .* larger than the window 512"),
        ({"scales": 0.5}, "scales must be a tuple"),
        ({"scales": ()}, "scales must be a tuple"),
        ({"scales": "0.5,1"}, "scales must be a tuple"),
        ({"scales": (1.0, 0)}, "numbers above 0, got 0 in"),
        ({"scales": (math.inf,)}, "numbers above 0, got inf"),
        ({"scales": (math.nan,)}, "numbers above 0, got nan"),
        ({"flip": 1}, "flip must be True or False"),
        ({"window_batch": 0}, "window_batch must be"),
        ({"sacles": (1.0,)}, "no option 'sacles'. Did you mean 'scales'"),
    ],
)
def test_values_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InferenceOptions.of(options)


def test_wrong_use() -> None:
    with pytest.raises(ConfigError, match="inference must be a dict"):
        InferenceOptions.of("slide")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"stride \(40, 40\) is larger than the window \(32, 32\)"):
        predict_logits(Network(pointwise), pictures(1, 3, 64, 64), InferenceOptions("slide", stride=40))
    with pytest.raises(ConfigError, match=r"Identity has no config.image_size .* give window="):
        predict_logits(torch.nn.Identity(), torch.zeros(1, 3, 64, 64), InferenceOptions(mode="slide"))
    with pytest.raises(ShapeError, match=r"images \(B, C, H, W\), got \(3, 64, 64\)"):
        predict_logits(Network(pointwise), pictures(3, 64, 64))
    with pytest.raises(ShapeError, match=r"got \(1, 3, 0, 64\)"):
        predict_logits(Network(pointwise), pictures(1, 3, 0, 64))


def test_memory_formats_agree(segmentor: Any) -> None:
    images = pictures(1, 3, 80, 100)
    options = InferenceOptions("slide")
    found = [
        predict_logits(segmentor, images.contiguous(memory_format=memory), options)
        for memory in (torch.contiguous_format, torch.channels_last)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)


PEAK = """
import sys, torch, effdense
from effdense.models.segmentation.inference import InferenceOptions, predict_logits

def peak():  # MiB
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

torch.set_num_threads(1)
model = effdense.create_segmentor("efficientunet_b0", 19, image_size=512).eval().to(memory_format=torch.channels_last)
images = torch.randn(1, 3, 1024, 2048).contiguous(memory_format=torch.channels_last)
before = peak()
assert predict_logits(model, images, InferenceOptions(sys.argv[1])).shape == (1, 19, 1024, 2048)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_windows_bound_the_memory() -> None:
    """A 1024 x 2048 px picture: the 152 MiB of its logits and one window's activations, where a pass over the whole
    picture took 640 MiB.
    """
    grown = {}
    for mode in ("whole", "slide"):
        command = [sys.executable, "-c", PEAK, mode]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        grown[mode] = float(done.stdout)
    assert grown["slide"] < 450 and grown["slide"] < 0.75 * grown["whole"]
