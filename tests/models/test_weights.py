"""Loading weights: proof that each tensor arrived, what the report says, and weights of other models refused whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import effdense
from effdense.errors import WeightsError

State = dict[str, Tensor]


def random_state(model: nn.Module, seed: int = 0) -> State:
    """A state dict for ``model`` of which no tensor equals the initialisation."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else value + 7
        for key, value in model.state_dict().items()
    }


def detector(num_classes: int = 5, **options: Any) -> nn.Module:
    return effdense.create_detector("efficientdet_d0", num_classes, fpn_cells=1, head_repeats=1, **options)


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(detector())


def snapshot(model: nn.Module) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_holds(model: nn.Module, expected: State, prefix: str = "") -> None:
    own = model.state_dict()
    for key, value in expected.items():
        assert torch.equal(own[prefix + key], value), key


def assert_unchanged(model: nn.Module, before: State) -> None:
    assert_holds(model, before)


# Own layouts --------------------------------------------------------------------------------------------------------


def test_a_state_dict(state: State) -> None:
    model = detector()
    report = effdense.load_weights(model, state)
    assert_holds(model, state)
    assert set(report.loaded) == set(state)
    assert not report.missing and not report.unexpected and not report.remade and not report.unused
    assert str(report) == f"loaded {len(state)}/{len(state)} tensors (effdense/effdet detector efficientdet_d0)"


def test_our_checkpoint_by_path(tmp_path: Path, state: State) -> None:
    content = {"format": "effdense/1", "state_dict": state, "meta": {"classes": ["cat"], "epoch": 3}, "rng": [1, 2.5]}
    torch.save(content, tmp_path / "best.pth")
    for source in (tmp_path / "best.pth", str(tmp_path / "best.pth"), content):
        model = detector()
        effdense.load_weights(model, source)
        assert_holds(model, state)


@pytest.mark.parametrize("entry", ["state_dict", "state_dict_ema", "model", "model_state_dict"])
def test_checkpoints_of_other_training_loops(entry: str, state: State) -> None:
    model = detector()
    effdense.load_weights(model, {"epoch": 1, "optimizer": {"state": {}}, entry: state})
    assert_holds(model, state)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "network.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.module.",
        "module.module.",
    ],
)
def test_prefixes_of_wrappers(prefix: str, state: State) -> None:
    model = detector()
    report = effdense.load_weights(model, {prefix + key: value for key, value in state.items()})
    assert_holds(model, state)
    assert not report.unexpected


def test_safetensors(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "best.safetensors")
    model = detector()
    effdense.load_weights(model, tmp_path / "best.safetensors")
    assert_holds(model, state)


def test_weights_while_creating(tmp_path: Path) -> None:
    encoder = effdense.create_encoder("efficientnet_b0", out_strides=(2, 4))
    values = random_state(encoder)
    torch.save(values, tmp_path / "encoder.pth")
    loaded = effdense.create_encoder("efficientnet_b0", out_strides=(2, 4), weights=tmp_path / "encoder.pth")
    assert_holds(loaded, values)


def test_half_precision_weights_are_widened(state: State) -> None:
    model = detector()
    effdense.load_weights(model, {k: v.half() if v.is_floating_point() else v for k, v in state.items()})
    assert model.get_parameter("backbone.conv_stem.weight").dtype == torch.float32
    assert_holds(model, {"backbone.conv_stem.weight": state["backbone.conv_stem.weight"].half().float()})


def test_counters_that_exporters_drop_are_not_missed(state: State) -> None:
    model = detector()
    report = effdense.load_weights(model, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})
    assert not report.missing


def test_a_detectors_backbone_loads_into_an_encoder(state: State) -> None:
    encoder = effdense.create_encoder("efficientnet_b0")
    report = effdense.load_weights(encoder, state)
    assert report.part == "" and not report.unexpected
    assert {key.split(".")[0] for key in report.unused} == {"fpn", "class_net", "box_net"}
    assert_holds(encoder, {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})


# Another number of classes ------------------------------------------------------------------------------------------


def test_the_class_layer_is_remade_for_another_number_of_classes(state: State) -> None:
    model = detector(3)
    before = snapshot(model)
    report = effdense.load_weights(model, state)
    remade = ["class_net.predict.conv_pw.weight", "class_net.predict.conv_pw.bias"]
    assert report.remade == remade
    assert_holds(model, {key: value for key, value in state.items() if key not in remade})
    assert_holds(model, {key: before[key] for key in remade})  # at its initialisation, class prior included
    assert f"loaded {len(state) - 2}/{len(state)}" in str(report)
    assert "re-made class_net.predict (5 -> 3 classes; no rows copied)" in str(report)


# Foreign layouts ----------------------------------------------------------------------------------------------------


def effdet_model() -> Any:
    effdet = pytest.importorskip("effdet")
    config = effdet.get_efficientdet_config("tf_efficientdet_d0")
    config.num_classes, config.fpn_cell_repeats, config.box_class_repeats = 5, 1, 1
    return effdet.EfficientDet(config, pretrained_backbone=False)


def test_effdet() -> None:
    values = random_state(effdet_model())
    model = detector()
    report = effdense.load_weights(model, values)
    assert set(report.loaded) == set(model.state_dict()) == set(values)
    assert_holds(model, values)


def test_effdets_benches() -> None:
    network = effdet_model()
    from effdet.bench import DetBenchPredict, DetBenchTrain

    for bench in (DetBenchTrain(network), DetBenchPredict(network)):
        assert "anchors.boxes" in bench.state_dict()  # beside "model.*", so not every key carries the prefix
        model = detector()
        report = effdense.load_weights(model, {f"module.{key}": value for key, value in bench.state_dict().items()})
        assert not report.missing and not report.unexpected
        assert_holds(model, network.state_dict())


@pytest.mark.parametrize("name", ["b0", "lite0"])
def test_timms_classifier_into_an_encoder(name: str) -> None:
    timm = pytest.importorskip("timm")
    values = random_state(timm.create_model(f"tf_efficientnet_{name}", pretrained=False))
    encoder = effdense.create_encoder(f"efficientnet_{name}")
    report = effdense.load_weights(encoder, values)
    assert report.layout == "timm" and not report.missing and not report.unexpected
    assert {key.split(".")[0] for key in report.unused} == {"conv_head", "bn2", "classifier"}
    assert set(report.loaded) | set(report.unused) == set(values)
    assert_holds(encoder, {key: values[key] for key in report.loaded})


def test_timms_feature_network_into_an_encoder() -> None:
    timm = pytest.importorskip("timm")
    values = random_state(timm.create_model("tf_efficientnet_b0", pretrained=False, features_only=True))
    encoder = effdense.create_encoder("efficientnet_b0")
    report = effdense.load_weights(encoder, values)
    assert set(report.loaded) == set(encoder.state_dict()) and not report.unexpected and not report.unused
    assert_holds(encoder, values)


@pytest.mark.parametrize("features_only", [False, True])
def test_timm_into_the_backbone_of_a_detector(features_only: bool) -> None:
    timm = pytest.importorskip("timm")
    values = random_state(timm.create_model("tf_efficientnet_b0", pretrained=False, features_only=features_only))
    model = detector()
    before = snapshot(model)
    report = effdense.load_weights(model, values)
    assert (report.layout, report.part) == ("timm", "backbone") and not report.missing and not report.unexpected
    backbone = {key for key in before if key.startswith("backbone.")}
    assert set(report.loaded) == backbone
    assert_holds(
        model.backbone, {key.removeprefix("backbone."): values[key.removeprefix("backbone.")] for key in backbone}
    )
    assert_holds(model, {key: value for key, value in before.items() if key not in backbone})


def test_late_stages_that_were_not_built_are_unused() -> None:
    encoder = effdense.create_encoder("efficientnet_b0", out_strides=(2, 4, 8))
    report = effdense.load_weights(encoder, random_state(effdense.create_encoder("efficientnet_b0")))
    assert report.unused and all(key.startswith("blocks.") for key in report.unused)
    assert set(report.loaded) == set(encoder.state_dict())


def test_keys_of_no_network_are_reported(state: State) -> None:
    report = effdense.load_weights(detector(), {**state, "my_extra.scale": torch.ones(1)})
    assert report.unexpected == ["my_extra.scale"] and "unexpected 1: my_extra.scale" in str(report)


# Weights of another model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("efficientdet_d1", {}, "of another architecture or size than efficientdet_d1: .* Nothing was loaded"),
        ("efficientdet_d0", {}, "lack .* tensors that efficientdet_d0 needs"),  # three BiFPN cells instead of one
        ("efficientdet_lite0", {"fpn_cells": 1, "head_repeats": 1}, r"no place for .*\.se\."),  # no squeeze-excite
        ("efficientdet_d0", {"fpn_cells": 1, "head_repeats": 1, "redundant_bias": False}, "no place for .*bias"),
        ("efficientdet_d0", {"fpn_cells": 1, "head_repeats": 1, "fusion": "sum"}, "no place for .*edge_weights"),
        ("efficientdet_d0", {"fpn_cells": 1, "head_repeats": 1, "max_level": 8}, "another architecture or size"),
        ("efficientdet_d0", {"fpn_cells": 1, "head_repeats": 1, "num_scales": 2}, "box_net.predict"),
    ],
)
def test_another_architecture_is_refused_whole(name: str, options: dict[str, Any], message: str, state: State) -> None:
    model = effdense.create_detector(name, 5, **options)
    before = snapshot(model)
    with pytest.raises(WeightsError, match=message):
        effdense.load_weights(model, state)
    assert_unchanged(model, before)


def test_another_encoder_is_refused_whole() -> None:
    encoder = effdense.create_encoder("efficientnet_b0")
    before = snapshot(encoder)
    for name in ("efficientnet_b1", "efficientnet_lite0", "efficientnetv2_b0"):
        with pytest.raises(WeightsError, match="efficientnet_b0"):
            effdense.load_weights(encoder, effdense.create_encoder(name).state_dict())
    with pytest.raises(WeightsError, match=r"no place for .*\.se\."):
        effdense.load_weights(effdense.create_encoder("efficientnet_lite0"), encoder.state_dict())
    assert_unchanged(encoder, before)


def test_a_single_lost_tensor_is_noticed(state: State) -> None:
    model = detector()
    before = snapshot(model)
    lost = "fpn.cell.0.fnode.3.combine.edge_weights"
    with pytest.raises(WeightsError, match=rf"lack 1 tensors that efficientdet_d0 needs \({lost}"):
        effdense.load_weights(model, {key: value for key, value in state.items() if key != lost})
    assert_unchanged(model, before)


def test_a_model_without_memory_cannot_pretend_to_load(state: State) -> None:
    with torch.device("meta"):
        model = detector()
    with pytest.raises(WeightsError, match="meta device"):
        effdense.load_weights(model, state)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"epoch": 3, "note": "x"}, r"its keys are \['epoch', 'note'\]"),
        ({"anchors.boxes": torch.zeros(3, 4)}, "of no layout that effdense knows"),
        ({"layer1.0.conv1.weight": torch.zeros(3, 4)}, r"of no layout .* \(keys: layer1.0.conv1.weight"),
        (nn.Linear(1, 1), "expected a path or a state dict .* got Linear"),
        (None, "got NoneType"),
    ],
)
def test_sources_that_are_no_weights(source: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        effdense.load_weights(effdense.create_encoder("efficientnet_b0", out_strides=(2,)), source)
