"""Weights of other projects' EfficientDets through ``load_weights``: the same features, logits and box deltas.

effdet 0.4.1 is the oracle of its own native layouts. Yet-Another-EfficientDet-Pytorch is no package: its oracle runs
where ``EFFDENSE_ZYLO117`` names a checkout. ``tests/models/weights/test_detector_layouts.py`` needs neither.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import effdense
from effdense.models.detection import detector_config
from effdense.models.detection.anchors import make_anchors, pyramid_sizes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # effdet uses torch.jit.script
    effdet = pytest.importorskip("effdet")
    from effdet.anchors import Anchors

SIZE = (96, 160)
HEAVY = {"efficientdet_d5"}
NATIVE = [f"efficientdet_d{level}" for level in range(6)] + ["efficientdetv2_dt", "efficientdetv2_ds"]
# D4 and D5 of effdet have the keys and shapes of the tf_ ones, so that the user has to say what they are.
SAID = {"efficientdet_d4": {"encoder_padding": "symmetric"}, "efficientdet_d5": {"encoder_padding": "symmetric"}}
ADAPTED = {f"efficientdet_d{level}": {"padding": "symmetric"} for level in range(4)}


def heavy(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in names]


def randomise(model: torch.nn.Module, seed: int = 0) -> Any:
    """Statistics, scales, shifts and fusion weights at random, so that a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean"):
            value.uniform_(-0.2, 0.2, generator=generator)
        elif name.endswith(("edge_weights", "_w1", "_w2")):
            value.uniform_(-0.2, 1.5, generator=generator)
        elif value.ndim == 1:
            low, high = (0.7, 1.3) if name.endswith("weight") else (-0.1, 0.1)
            value.uniform_(low, high, generator=generator)
    return model.eval()


def effdet_model(name: str, size: tuple[int, int] = SIZE) -> Any:
    config = effdet.get_efficientdet_config(name)
    config.image_size = size
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return randomise(effdet.EfficientDet(config, pretrained_backbone=False))


def images(size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
def assert_equal_outputs(detector: Any, model: Any, x: Tensor) -> None:
    classes, boxes = model(x)
    output = detector.eval()(x)
    for mine, theirs in zip(detector.backbone(x), model.backbone(x), strict=True):
        assert relative(mine, theirs) <= 1e-4
    for mine, theirs in zip((*output.class_logits, *output.box_deltas), (*classes, *boxes), strict=True):
        assert mine.shape == theirs.shape
        assert relative(mine, theirs) <= 1e-4


@pytest.mark.parametrize("name", heavy(NATIVE))
def test_effdets_native_weights(name: str) -> None:
    model = effdet_model(name)
    detector = effdense.create_detector(name, 90, **SAID.get(name, {}))
    report = effdense.load_weights(detector, model.state_dict())
    assert not report.missing and not report.unexpected and not report.remade
    assert_equal_outputs(detector, model, images())
    assert detector.weight_options == ADAPTED.get(name, {})


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdetv2_dt"])
def test_native_weights_at_a_size_that_no_power_of_two_divides(name: str) -> None:
    model = effdet_model(name, (93, 150))
    detector = effdense.create_detector(name, 90)
    effdense.load_weights(detector, model.state_dict())
    assert_equal_outputs(detector, model, images((93, 150)))


def test_googles_weights_leave_the_conventions_alone() -> None:
    model = effdet_model("tf_efficientdet_d0")
    detector = effdense.create_detector("efficientdet_d0", 90)
    effdense.load_weights(detector, model.state_dict())
    assert_equal_outputs(detector, model, images())
    assert detector.weight_options == {}


def test_a_head_toggled_for_torchscript() -> None:
    model = effdet_model("tf_efficientdet_d0")
    model.toggle_head_bn_level_first()
    detector = effdense.create_detector("efficientdet_d0", 90)
    effdense.load_weights(detector, model.state_dict())
    assert_equal_outputs(detector, model, images())


def test_an_adapted_detector_is_built_again_from_its_options() -> None:
    model = effdet_model("efficientdet_d0")
    first = effdense.create_detector("efficientdet_d0", 90)
    effdense.load_weights(first, model.state_dict())
    second = effdense.create_detector("efficientdet_d0", 90, **first.weight_options)
    second.load_state_dict(first.state_dict())
    assert_equal_outputs(second, model, images())


@pytest.mark.parametrize("name", ["efficientdetv2_dt", "efficientdetv2_ds"])
def test_rows_and_anchors_are_effdets(name: str) -> None:
    config, row = effdet.get_efficientdet_config(name), detector_config(name)
    assert (row.encoder, row.size_hw) == (config.backbone_name, tuple(config.image_size))
    numbers = (config.fpn_channels, config.fpn_cell_repeats, config.box_class_repeats, config.anchor_scale)
    assert (row.fpn_channels, row.fpn_cells, row.head_repeats, row.anchor_scale) == numbers
    assert (row.upsample, row.downsample) == (config.upsample_type, config.downsample_type)
    assert row.redundant_bias == config.redundant_bias
    assert config.get("mean") is None and row.mean == (0.485, 0.456, 0.406)  # effdet's loader falls back on ImageNet's
    expected = Anchors.from_config(config).boxes[:, [1, 0, 3, 2]]
    anchors = make_anchors(row.size_hw, pyramid_sizes(row.size_hw, 3, 7), aspect_ratios=row.aspect_ratios)
    assert float((anchors - expected).abs().max()) <= 1e-3


# Yet-Another-EfficientDet-Pytorch ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zylo117() -> Any:
    """Its ``EfficientDetBackbone``."""
    folder = os.environ.get("EFFDENSE_ZYLO117")
    if not folder:
        pytest.skip("EFFDENSE_ZYLO117 does not name a checkout of zylo117/Yet-Another-EfficientDet-Pytorch")
    if not (Path(folder) / "backbone.py").is_file():
        pytest.skip(f"EFFDENSE_ZYLO117 is {folder}, which has no backbone.py")
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        from backbone import EfficientDetBackbone
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("backbone", "efficientdet", "efficientnet"):  # too common to leave behind
                del sys.modules[name]
    return EfficientDetBackbone


@pytest.mark.parametrize(
    "level", ["d0", "d1", "d2", "d3", "d4", *(pytest.param(f"d{n}", marks=pytest.mark.slow) for n in (5, 6, 7, "7x"))]
)
@torch.inference_mode()
def test_zylo117(zylo117: Any, level: str) -> None:
    coefficient = 8 if level == "d7x" else int(level[1:])
    size = (256, 256) if level == "d7x" else (128, 256)  # its upsampling wants multiples of the coarsest stride
    model = randomise(zylo117(num_classes=90, compound_coef=coefficient))
    detector = effdense.create_detector(f"efficientdet_{level}", 90).eval()
    report = effdense.load_weights(detector, model.state_dict())
    assert not report.missing and not report.unexpected and not report.remade
    x = images(size)
    features, box_rows, scores, anchors = model(x)
    for mine, theirs in zip(detector.fpn(detector.backbone(x)), features, strict=True):
        assert relative(mine, theirs) <= 1e-4
    output = detector(x)
    assert relative(rows(output.class_logits, 90).sigmoid(), scores) <= 1e-4
    assert relative(rows(output.box_deltas, 4), box_rows) <= 1e-4
    assert float((detector.anchors(size) - anchors[0][:, [1, 0, 3, 2]]).abs().max()) <= 1e-3  # theirs are yxyx


def rows(levels: tuple[Tensor, ...], width: int) -> Tensor:
    """L x (B, A*width, h, w) -> (B, N, width)."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1).reshape(len(level), -1, width) for level in levels], 1)
