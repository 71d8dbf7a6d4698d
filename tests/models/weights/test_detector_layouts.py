"""Layouts of foreign EfficientDets: every key has its place, what keys say is understood, other networks are refused.

The oracles run in ``tests/oracles/test_efficientdet_weights.py``; here the key names are written out a second time.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import effdense
from effdense.errors import WeightsError
from effdense.models.weights import effdet, zylo117
from effdense.models.weights.coco_names import COCO_90

State = dict[str, Tensor]
LEVELS = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x"]

# zylo117's names in the order of our nodes, for five and for six levels.
NODES = {
    5: ["conv6_up", "conv5_up", "conv4_up", "conv3_up", "conv4_down", "conv5_down", "conv6_down", "conv7_down"],
    6: ["conv7_up", "conv6_up", "conv5_up", "conv4_up", "conv3_up",
        "conv4_down", "conv5_down", "conv6_down", "conv7_down", "conv8_down"],
}  # fmt: skip
EDGES = ["p6_w1", "p5_w1", "p4_w1", "p3_w1", "p4_w2", "p5_w2", "p6_w2", "p7_w2"]
LATERALS = {  # (node, input)
    5: {(1, 2): "p5_down_channel", (2, 1): "p4_down_channel", (3, 0): "p3_down_channel",
        (4, 1): "p4_down_channel_2", (5, 2): "p5_down_channel_2"},
    6: {(2, 2): "p5_down_channel", (3, 1): "p4_down_channel", (4, 0): "p3_down_channel",
        (5, 1): "p4_down_channel_2", (6, 2): "p5_down_channel_2"},
}  # fmt: skip
SEPARABLE = {"conv_dw": "depthwise_conv.conv", "conv_pw": "pointwise_conv.conv", "bn": "bn"}
FIRST_STAGE = {
    "conv_dw": "_depthwise_conv.conv", "bn1": "_bn1", "conv_pw": "_project_conv.conv", "bn2": "_bn2",
    "se.conv_reduce": "_se_reduce.conv", "se.conv_expand": "_se_expand.conv",
}  # fmt: skip
LATER_STAGES = {
    "conv_pw": "_expand_conv.conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv.conv", "bn2": "_bn1",
    "conv_pwl": "_project_conv.conv", "bn3": "_bn2", "se.conv_reduce": "_se_reduce.conv",
    "se.conv_expand": "_se_expand.conv",
}  # fmt: skip


def zylo117_name(key: str, levels: int, flat: dict[tuple[int, int], int]) -> str:
    """The name that the tensor ``key`` of ours has in zylo117's state dict."""
    part, _, leaf = key.rpartition(".")
    words = part.split(".")
    if words[0] == "backbone":
        model = "backbone_net.model."
        if words[1] != "blocks":
            return model + {"conv_stem": "_conv_stem.conv", "bn1": "_bn0"}[words[1]] + f".{leaf}"
        names = FIRST_STAGE if words[2] == "0" else LATER_STAGES
        return f"{model}_blocks.{flat[int(words[2]), int(words[3])]}.{names['.'.join(words[4:])]}.{leaf}"
    if words[0] == "fpn":
        if words[1] == "resample":
            return "bifpn.0.p5_to_p6." + {"conv": "0.conv", "bn": "1"}[words[-1]] + f".{leaf}"
        cell, node = words[2], int(words[4])
        if leaf == "edge_weights":
            return f"bifpn.{cell}.{EDGES[node]}"
        if words[5] == "after_combine":
            return f"bifpn.{cell}.{NODES[levels][node]}.{SEPARABLE[words[-1]]}.{leaf}"
        name = LATERALS[levels][node, int(words[7])]
        return f"bifpn.{cell}.{name}." + {"conv": "0.conv", "bn": "1"}[words[-1]] + f".{leaf}"
    head = {"class_net": "classifier", "box_net": "regressor"}[words[0]]
    if words[1] == "bn_rep":
        return f"{head}.bn_list.{words[3]}.{words[2]}.{leaf}"
    layer = "header" if words[1] == "predict" else f"conv_list.{words[2]}"
    return f"{head}.{layer}.{SEPARABLE[words[-1]]}.{leaf}"


def zylo117_state(state: State, levels: int = 5) -> State:
    places = {(int(m[1]), int(m[2])) for key in state if (m := re.match(r"backbone\.blocks\.(\d+)\.(\d+)\.", key))}
    flat = {place: number for number, place in enumerate(sorted(places))}
    return {zylo117_name(key, levels, flat): value for key, value in state.items()}


def shapes(name: str, num_classes: int = 90, **options: Any) -> State:
    """A state dict without memory."""
    with torch.device("meta"):
        return effdense.create_detector(name, num_classes, **options).state_dict()


def random_state(model: torch.nn.Module, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else value + 7
        for key, value in model.state_dict().items()
    }


def small(num_classes: int = 5, **options: Any) -> Any:
    return effdense.create_detector("efficientdet_d0", num_classes, fpn_cells=2, head_repeats=2, **options)


# zylo117 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_every_key_of_zylo117_has_its_place(level: str) -> None:
    own = shapes(f"efficientdet_{level}")
    foreign = zylo117_state(own, levels=6 if level == "d7x" else 5)
    assert len(foreign) == len(own)  # the table above maps one to one
    if level == "d0":
        assert len(foreign) == 784  # as its own network has, weighed fusion included
    assert zylo117.recognise(foreign) and not effdet.recognise(foreign)
    converted = zylo117.convert(foreign)
    assert {key: id(value) for key, value in converted.state.items()} == {key: id(value) for key, value in own.items()}
    assert (converted.kind, converted.padding, converted.bn_eps, converted.neck_padding) == (
        "detector", "same", 1e-3, "same_zero",
    )  # fmt: skip
    assert not converted.zeros and not converted.options


@pytest.mark.parametrize(("level", "cells"), [("d6", 8), ("d7x", 8)])
def test_fusion_weights_that_zylo117_never_uses_are_left_out(level: str, cells: int) -> None:
    own = shapes(f"efficientdet_{level}")
    foreign = zylo117_state(own, levels=6 if level == "d7x" else 5)
    foreign |= {f"bifpn.{cell}.{name}": torch.ones(2) for cell in range(cells) for name in EDGES}
    converted = zylo117.convert(foreign)
    assert converted.state.keys() == own.keys()
    assert f"Left out {cells * 8} fusion weights" in converted.notes[0]
    assert any("efficientdet_d6 and efficientdet_d7 have the same shapes" in note for note in converted.notes) == (
        level == "d6"
    )


def test_zylo117_keys_of_no_known_form_stay_visible() -> None:
    foreign = zylo117_state(shapes("efficientdet_d0"))
    extra = {
        "bifpn.0.conv9_up.gate.weight": torch.ones(1),
        "regressor.extra.weight": torch.ones(1),
        "backbone_net.model._blocks.0._gate.weight": torch.ones(1),
        "segmentation.weight": torch.ones(1),
    }
    state = zylo117.convert(foreign | extra).state
    unplaced = set(state) - set(shapes("efficientdet_d0"))
    assert len(unplaced) == len(extra)


def test_zylo117_weights_arrive() -> None:
    source = random_state(small())
    model = small()
    report = effdense.load_weights(model, zylo117_state(source))
    for key, value in model.state_dict().items():
        assert torch.equal(value, source[key]), key
    assert not report.missing and not report.unexpected and not report.remade
    assert model.fpn.padding == "same_zero" and model.weight_options == {"padding": "same_zero"}


def test_zylo117_sizes_are_told_apart() -> None:
    model = effdense.create_detector("efficientdet_d1", 5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    source = effdense.create_detector("efficientdet_d0", 5)
    with pytest.raises(WeightsError, match="efficientdet_d1"):
        effdense.load_weights(model, zylo117_state(source.state_dict()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.weight_options == {}


def test_a_lost_tensor_of_zylo117_is_named() -> None:
    foreign = zylo117_state(random_state(small()))
    del foreign["bifpn.0.p4_down_channel_2.0.conv.weight"]
    model = small()
    with pytest.raises(WeightsError, match=re.escape("fpn.cell.0.fnode.4.combine.resample.1.conv.conv.weight")):
        effdense.load_weights(model, foreign)
    assert model.fpn.padding == "same"


# effdet -----------------------------------------------------------------------------------------------------------


def level_first(state: State) -> State:
    """Heads as effdet's ``head_bn_level_first`` stores them."""
    return {re.sub(r"bn_rep\.(\d+)\.(\d+)\.bn\.", r"bn_rep.\2.\1.", key): value for key, value in state.items()}


def without_redundant_biases(state: State) -> State:
    """As effdet's ``redundant_bias=False``: only squeeze-excite, BatchNorms and predictions keep a bias."""
    return {
        key: value
        for key, value in state.items()
        if not key.endswith(".bias") or ".predict." in key or ".se." in key or re.search(r"\.bn\d?\.bias$", key)
    }


def test_our_own_names_come_through_unchanged() -> None:
    for name in ("efficientdet_d0", "efficientdet_lite0", "efficientdetv2_dt", "efficientdet_d7x"):
        own = shapes(name, 5)
        converted = effdet.convert(own)
        assert effdet.recognise(own) and not zylo117.recognise(own)
        assert converted.state == own
        assert (converted.padding, converted.bn_eps, converted.neck_padding) == (None, None, None)
        assert not converted.options and not converted.notes and converted.class_names is None


def test_native_weights_without_biases() -> None:
    own = shapes("efficientdet_d0")
    native = without_redundant_biases(own)
    assert len(native) == 748  # effdet's native efficientdet_d0
    converted = effdet.convert(native)
    assert (converted.padding, converted.bn_eps, converted.neck_padding) == ("symmetric", 1e-5, "symmetric")
    assert converted.zeros == own.keys() - native.keys() and len(converted.zeros) == 36
    assert "native" in converted.notes[0]


def test_half_of_the_biases_is_not_a_layout() -> None:
    state = shapes("efficientdet_d0")
    del state["class_net.conv_rep.0.conv_pw.bias"]
    assert not effdet.convert(state).zeros  # the loader names what is missing


def test_a_level_first_head() -> None:
    own = shapes("efficientdet_d0")
    toggled = level_first(own)
    assert "class_net.bn_rep.4.2.weight" in toggled  # level 4, repeat 2
    assert effdet.convert(toggled).state == own


def test_v2_weights_say_how_they_resample() -> None:
    own = shapes("efficientdetv2_dt")
    converted = effdet.convert(level_first(own))
    assert converted.state == own
    assert (converted.padding, converted.bn_eps, converted.neck_padding) == ("symmetric", 1e-5, "symmetric")
    assert (converted.options["upsample"], converted.options["downsample"]) == ("bilinear", "bilinear")
    assert converted.options["aspect_ratios"][1] == pytest.approx((2**0.5, 0.5**0.5))
    assert not converted.notes


def test_v2_weights_refuse_a_detector_that_resamples_otherwise() -> None:
    source = effdense.create_detector("efficientdetv2_dt", 3)
    model = effdense.create_detector("efficientdetv2_dt", 3, upsample="nearest")
    with pytest.raises(WeightsError, match="upsample"):
        effdense.load_weights(model, level_first(source.state_dict()))


@pytest.mark.parametrize("name", ["efficientdet_d4", "efficientdet_d5"])
def test_what_keys_cannot_tell_is_said(name: str) -> None:
    assert "encoder_padding='symmetric'" in effdet.convert(shapes(name)).notes[0]


def test_native_weights_arrive_and_their_biases_become_zero() -> None:
    source = random_state(small(redundant_bias=False))
    model = small()
    torch.nn.init.ones_(model.class_net.conv_rep[0].conv_pw.bias)
    effdense.load_weights(model, source)
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in source.items())
    assert all(not own[key].any() for key in own.keys() - source.keys())
    assert model.weight_options == {"padding": "symmetric"} and model.backbone.bn_eps == 1e-5


@pytest.mark.parametrize("nodes", [10, 20])
def test_another_pyramid_is_named(nodes: int) -> None:
    state = shapes("efficientdet_d0")
    for node in range(8, nodes):
        state[f"fpn.cell.0.fnode.{node}.combine.edge_weights"] = torch.ones(2)
    with pytest.raises(WeightsError, match=rf"another pyramid than BiFPN: {nodes} fusion nodes"):
        effdet.convert(state)


def test_dense_heads_are_named() -> None:
    state = shapes("efficientdet_d0")
    state["class_net.conv_rep.0.conv.weight"] = state.pop("class_net.conv_rep.0.conv_pw.weight")
    with pytest.raises(WeightsError, match="dense head convolutions"):
        effdet.convert(state)


# Class names ------------------------------------------------------------------------------------------------------


def test_rows_of_ninety_classes_are_cocos_ids() -> None:
    assert len(COCO_90) == len(set(COCO_90)) == 90
    assert (COCO_90[0], COCO_90[11], COCO_90[12], COCO_90[89]) == ("person", "id 12", "stop sign", "toothbrush")
    unused = [int(name.removeprefix("id ")) for name in COCO_90 if name.startswith("id ")]
    assert unused == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


@pytest.mark.parametrize(("num_classes", "names"), [(90, COCO_90), (3, None), (80, None)])
def test_class_names_of_a_source(num_classes: int, names: tuple[str, ...] | None) -> None:
    own = shapes("efficientdet_d0", num_classes)
    assert effdet.convert(own).class_names == names
    assert zylo117.convert(zylo117_state(own)).class_names == names


def test_names_are_those_of_the_annotation_files() -> None:
    root = os.environ.get("EFFDENSE_DATA")
    file = Path(root or "") / "coco128" / "annotations" / "instances_val.json"
    if not root or not file.is_file():
        pytest.skip("EFFDENSE_DATA has no coco128")
    for category in json.loads(file.read_text())["categories"]:
        assert COCO_90[category["id"] - 1] == category["name"]
