"""Loading weights: every layout that is known, proof that each tensor arrived, and files that must be refused."""

from __future__ import annotations

import argparse
import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import effdense
from effdense.errors import WeightsError
from effdense.models.weights.load import read_checkpoint, read_state_dict

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


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A readable file of one tensor."""
    path = tmp_path / "small.pth"
    torch.save({"weight": torch.arange(200.0)}, path)
    return path


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
    assert str(report) == f"loaded {len(state)}/{len(state)} tensors (effdense/effdet detector)"


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
    assert report.layout == "backbone of a detector"
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
    assert f"loaded {len(state) - 2}/{len(state)}" in str(report) and "remade 2: class_net.predict" in str(report)


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
    assert report.layout == "timm encoder" and not report.missing and not report.unexpected
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
    assert report.layout == "timm encoder into backbone" and not report.missing and not report.unexpected
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
        ("efficientdet_d0", {"fpn_cells": 1, "head_repeats": 1, "in_channels": 1}, r"conv_stem.weight: file \(32, 3"),
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
        ({"anchors.boxes": torch.zeros(3, 4)}, "lack .* tensors"),
        (nn.Linear(1, 1), "expected a path or a state dict .* got Linear"),
        (None, "got NoneType"),
    ],
)
def test_sources_that_are_no_weights(source: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        effdense.load_weights(effdense.create_encoder("efficientnet_b0", out_strides=(2,)), source)


# Files that must be refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_missing_and_empty_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(WeightsError, match=rf"no weight file at .*weights{suffix}"):
        read_checkpoint(path)
    path.touch()
    with pytest.raises(WeightsError, match=r"is empty \(0 bytes\)"):
        read_checkpoint(path)
    with pytest.raises(WeightsError, match="no weight file"):
        read_checkpoint(tmp_path)  # a folder


@pytest.mark.parametrize(
    "text", ["hello world\n", "<!DOCTYPE html><html>404</html>", "version https://git-lfs.github.com/spec/v1\noid x\n"]
)
def test_text_files_are_not_taken_for_pickles(tmp_path: Path, text: str) -> None:
    # What a failed download, an error page and an unfetched LFS pointer leave behind.
    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_text(text)
        with pytest.raises(WeightsError, match=r"cannot be read|not a readable") as caught:
            read_checkpoint(tmp_path / name)
        assert "could run code" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"weight": torch.arange(200.0)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=r"cut\.pth cannot be read as a torch checkpoint"):
        read_checkpoint(path)


def test_a_truncated_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_file({"weight": torch.arange(200.0)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="is not a readable safetensors file"):
        read_checkpoint(path)


class Intruder:
    """Unpickling it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"state_dict": {"weight": torch.zeros(1)}, "extra": Intruder(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"Python objects .*\(posix\.system\).* refused and nothing in it ran"):
        effdense.load_weights(detector(), path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Intruder(marker)))  # the trap itself works
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Intruder(marker), protocol))
    with pytest.raises(WeightsError):
        read_checkpoint(path)
    assert not marker.exists()


def test_harmless_objects_are_named(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, tmp_path / "timm.pth")
    with pytest.raises(WeightsError, match=r"\(argparse\.Namespace\).* save only its state_dict"):
        read_checkpoint(tmp_path / "timm.pth")


def test_ordered_dicts_are_plain(tmp_path: Path, small: Path) -> None:
    torch.save(OrderedDict(weight=torch.ones(2)), tmp_path / "ordered.pth")
    assert read_state_dict(tmp_path / "ordered.pth")["weight"].tolist() == [1, 1]
    assert read_state_dict(small)["weight"].shape == (200,)


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_only_ever_raise_weights_errors(tmp_path: Path) -> None:
    generator, path = random.Random(0), tmp_path / "damaged.pth"
    originals = [pickle.dumps({"a": [1, 2, (3, 4)], "b": OrderedDict(x=1)}, 2)]
    for zipped in (True, False):
        torch.save({"weight": torch.arange(30.0)}, path, _use_new_zipfile_serialization=zipped)
        originals.append(path.read_bytes())
    refused = 0
    for round_ in range(300):
        data = bytearray(originals[round_ % 3])
        for _ in range(generator.randint(1, 6)):
            data[generator.randrange(min(len(data), 400))] = generator.randrange(256)
        path.write_bytes(bytes(data[: generator.randrange(1, len(data))]) if round_ % 4 == 0 else bytes(data))
        try:
            read_checkpoint(path)
        except WeightsError:
            refused += 1
    assert refused > 200
