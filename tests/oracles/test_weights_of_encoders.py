"""Encoders of other projects, with random weights, loaded as they are: our features and logits equal theirs.

BatchNorm statistics are random and some variances small, so that a wrong epsilon shows (1e-3 against 1e-5); sizes are
even in every stage or odd, native or not, so that a wrong padding shows. Nothing is said to `load_weights` but the
tensors; encoders are created in another convention than the source's wherever the layout can tell it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdense.errors import WeightsError
from effdense.models.classification import create_classifier
from effdense.models.detection import create_detector
from effdense.models.encoders import create_encoder, encoder_config
from effdense.models.segmentation import create_segmentor
from effdense.models.weights import load_weights, save_timm, to_timm

SLOW = ("b6", "b7", "b8", "_l", "_xl", "l2")
TORCHVISION = [*(f"efficientnet_b{size}" for size in range(8)), *(f"efficientnet_v2_{size}" for size in "sml")]


def members(names: Sequence[str], *more_slow: str) -> list[Any]:
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name.endswith((*SLOW, *more_slow)) else []) for name in names
    ]


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.05, 2.0, generator=generator)
            module.weight.uniform_(0.4, 0.9, generator=generator)
            module.bias.normal_(0.0, 0.2, generator=generator)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.normal_(0.0, 0.5, generator=generator)
    return model.eval()


def images_of(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))


def assert_close(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.shape == theirs.shape
        error, scale = (mine - theirs).abs().max().item(), theirs.abs().max().item()
        assert 0 < scale < math.inf and error <= 1e-5 * scale, f"{error} of {scale}"


# torchvision --------------------------------------------------------------------------------------------------------


def torchvision_features(model: Any, images: Tensor, channels: Sequence[int]) -> list[Tensor]:
    """The last output at each side, as our encoders give them."""
    outputs: list[Tensor] = []
    x = model.features[0](images)
    for stage in model.features[1:-1]:
        x = stage(x)
        if outputs and outputs[-1].shape[-2:] == x.shape[-2:]:
            outputs[-1] = x
        else:
            outputs.append(x)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize("name", members(TORCHVISION, "b5", "v2_m"))
def test_torchvision(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    reference = randomise(getattr(torchvision.models, name)(weights=None))
    ours = name.replace("_v2", "v2")
    encoder, classifier = create_encoder(ours).eval(), create_classifier(ours).eval()
    report = load_weights(encoder, reference.state_dict())
    bn_eps = reference.features[0][1].eps
    assert report.layout == "torchvision" and len(report.loaded) == len(encoder.state_dict())
    assert report.adapted[0] == "padding same -> symmetric"
    assert (encoder.padding, encoder.bn_eps) == ("symmetric", bn_eps)
    assert load_weights(classifier, reference.state_dict()).loaded == list(classifier.state_dict())
    for images in (images_of(96, 64), images_of(75, 97)):
        assert_close(encoder(images), torchvision_features(reference, images, encoder.channels))
        assert_close([classifier(images)], [reference(images)])


# efficientnet-pytorch -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", members([f"b{size}" for size in range(9)], "b5"))
def test_efficientnet_pytorch(size: str) -> None:
    project = pytest.importorskip("efficientnet_pytorch")
    reference = randomise(project.EfficientNet.from_name(f"efficientnet-{size}"))
    name = f"efficientnet_{size}"
    encoder = create_encoder(name, padding="symmetric").eval()
    classifier = create_classifier(name).eval()
    report = load_weights(encoder, reference.state_dict())
    assert report.layout == "efficientnet-pytorch" and len(report.loaded) == len(encoder.state_dict())
    assert report.adapted == ["padding symmetric -> same_static", "BN eps 1e-05 -> 0.001"]
    assert load_weights(classifier, reference.state_dict()).loaded == list(classifier.state_dict())
    native = encoder_config(name).resolution
    for images in (images_of(96, 64), images_of(native, native)) if native < 350 else (images_of(96, 64),):
        endpoints = reference.extract_endpoints(images)
        expected = [endpoints[f"reduction_{level}"] for level in range(1, 6)]
        assert_close(encoder(images), expected)
        assert_close([classifier(images)], [reference(images)])


# segmentation-models-pytorch ----------------------------------------------------------------------------------------

SMP = [
    *(f"efficientnet-b{size}" for size in range(8)),
    *(f"timm-efficientnet-b{size}" for size in range(8)),
    *(f"timm-tf_efficientnet_lite{size}" for size in range(5)),
    "tu-efficientnet_b0",
    "tu-tf_efficientnet_b0",
    "tu-tf_efficientnet_lite0",
    "tu-tf_efficientnetv2_b0",
    "tu-tf_efficientnetv2_s",
    "tu-tf_efficientnetv2_m",
    "tu-tf_efficientnetv2_l",
]


def smp_stages(encoder: nn.Module, name: str, images: Tensor) -> list[Tensor]:
    """Outputs at the ends of strides; smp's own features of ``efficientnet-b0`` are cut elsewhere."""
    plain: Any = encoder
    if name.startswith("tu-"):
        return list(plain(images))[1:]
    if not name.startswith("efficientnet-"):
        x = plain.bn1(plain.conv_stem(images))
        outputs = []
        for index, stage in enumerate(plain.blocks):
            x = stage(x)
            if index in (0, 1, 2, 4, 6):
                outputs.append(x)
        return outputs
    x = plain._swish(plain._bn0(plain._conv_stem(images)))
    outputs = [x]
    for block in plain._blocks:
        x = block(x)
        if x.shape[-1] == outputs[-1].shape[-1]:
            outputs[-1] = x
        else:
            outputs.append(x)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize("name", members(SMP, "b5", "v2_m"))
def test_segmentation_models_pytorch(name: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    reference = randomise(smp.Unet(name, encoder_weights=None, classes=4))
    ours = name.split("-", 1)[1] if name.startswith(("tu-", "timm-")) else name
    ours = ours.removeprefix("tf_").replace("-", "_")
    stated = not name.startswith("tu-")  # tensors do not say which of timm's conventions it was
    built = "same" if stated or "tf_" in name else "symmetric"
    encoder = create_encoder(ours, padding=built).eval()
    report = load_weights(encoder, reference.state_dict())
    assert report.layout.startswith("smp") and len(report.loaded) == len(encoder.state_dict())
    assert not report.unexpected and {key.split(".")[0] for key in report.unused} >= {"decoder", "segmentation_head"}
    assert any("does not say its padding" in note for note in report.notes) is not stated
    for images in (images_of(96, 64), images_of(224, 224)):
        assert_close(encoder(images), smp_stages(reference.encoder, name, images))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "ours", "options"),
    [
        ("efficientnet-b0", "efficientunet_b0", {}),
        ("efficientnet-b1", "efficientunet_b1", {}),
        ("timm-efficientnet-b0", "efficientunet_b0", {"early_stride_16": False}),
        ("timm-tf_efficientnet_lite0", "efficientunet_lite0", {}),
        ("tu-tf_efficientnet_b0", "efficientunet_b0", {"early_stride_16": False, "stem_feature": False}),
        ("tu-tf_efficientnetv2_b0", "efficientunet_v2b0", {}),
    ],
)
def test_whole_unets(name: str, ours: str, options: dict[str, Any]) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    reference = randomise(smp.Unet(name, encoder_weights=None, classes=4))
    model = create_segmentor(ours, 4, **options).eval()
    assert load_weights(model, reference.state_dict()).loaded == list(model.state_dict())
    images = images_of(96, 64)
    assert_close([model(images)], [reference(images)])
    if options:  # the skips are part of the architecture, though not of the tensors' shapes
        with pytest.raises(
            WeightsError, match=r"create_segmentor\('efficientunet_b0', \.\.\., .*early_stride_16=False"
        ):
            load_weights(create_segmentor(ours, 4), reference.state_dict())


def test_other_decoders_of_smp_lend_their_encoder() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    for architecture in ("FPN", "DeepLabV3Plus"):
        reference = getattr(smp, architecture)("efficientnet-b0", encoder_weights=None)
        detector = create_detector("efficientdet_d0", 3)
        report = load_weights(detector, reference.state_dict())
        assert report.part == "backbone" and not report.unexpected
        assert torch.equal(detector.backbone.conv_stem.weight, reference.encoder._conv_stem.weight)


# timm ---------------------------------------------------------------------------------------------------------------

TIMM = [
    *(f"{prefix}efficientnet_b{size}" for size in range(9) for prefix in ("tf_", "")),
    "tf_efficientnet_l2",
    *(f"{prefix}efficientnet_lite{size}" for size in range(5) for prefix in ("tf_", "")),
    *(f"tf_efficientnetv2_b{size}" for size in range(4)),
    *(f"tf_efficientnetv2_{size}" for size in ("s", "m", "l", "xl")),
    *(f"efficientnetv2_{size}" for size in ("s", "m", "l", "xl")),
    *(f"efficientnetv2_rw_{size}" for size in "tsm"),
]


@torch.no_grad()
@pytest.mark.parametrize("name", members(TIMM, "b4", "b5", "v2_m", "rw_m", "lite3", "lite4", "v2_b2", "v2_b3"))
def test_timm_there_and_back(name: str) -> None:
    """Full model in, logits equal; out again, timm's own load_state_dict takes every tensor."""
    timm = pytest.importorskip("timm")
    reference = randomise(timm.create_model(name, pretrained=False))
    padding = "same" if name.startswith("tf_") else "symmetric"
    ours = name.removeprefix("tf_")
    encoder, classifier = create_encoder(ours, padding=padding).eval(), create_classifier(ours, padding=padding).eval()
    report = load_weights(encoder, reference.state_dict())
    assert report.layout == "timm" and not report.adapted and not report.unexpected
    assert load_weights(classifier, reference.state_dict()).loaded == list(classifier.state_dict())
    images = images_of(96, 75)
    assert_close([classifier(images)], [reference(images)])

    full = timm.create_model(name, pretrained=False).eval()
    full.load_state_dict(to_timm(classifier), strict=True)
    assert torch.equal(full(images), reference(images))
    features_only = timm.create_model(name, pretrained=False, features_only=True).eval()
    features_only.load_state_dict(to_timm(encoder), strict=True)
    assert_close(encoder(images), features_only(images))


@torch.no_grad()
def test_timm_reads_what_save_timm_writes(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    detector = randomise(create_detector("efficientdet_d0", 3, fpn_cells=1, head_repeats=1))
    for suffix in (".safetensors", ".pth"):
        path = save_timm(detector, tmp_path / f"encoder{suffix}")
        model = timm.create_model(
            "tf_efficientnet_b0", pretrained=False, features_only=True, out_indices=(2, 3, 4), checkpoint_path=str(path)
        ).eval()
        images = images_of(64, 96)
        assert_close(detector.backbone(images), model(images))


# Real files ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("file", "encoder", "detector"),
    [
        ("tf_efficientnet_b0_encoder_tracer_te0.pth", "efficientnet_b0", "efficientdet_d0"),
        ("tf_efficientnet_lite0_imagenet_int8dq.pth", "efficientnet_lite0", "efficientdet_lite0"),
    ],
)
def test_trained_weights(file: str, encoder: str, detector: str) -> None:
    root = os.environ.get("EFFDENSE_DATA")
    if root is None or not (Path(root) / "weights" / file).is_file():
        pytest.skip(f"EFFDENSE_DATA with weights/{file} is not there")
    timm = pytest.importorskip("timm")
    path = Path(root) / "weights" / file
    own, model = create_encoder(encoder).eval(), create_detector(detector, 3).eval()
    report, into_detector = load_weights(own, path), load_weights(model, path)
    assert len(report.loaded) + sum(key.endswith("num_batches_tracked") for key in own.state_dict()) >= report.total
    assert not report.unexpected and into_detector.part == "backbone"
    reference = timm.create_model(f"tf_{encoder}", pretrained=False, features_only=True).eval()
    reference.load_state_dict(to_timm(own), strict=True)
    images = images_of(128, 96)
    assert_close(own(images), reference(images))
    assert_close(model.backbone(images), reference(images)[2:])
