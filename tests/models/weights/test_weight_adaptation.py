"""What loading changes on purpose: conventions, input channels, class rows. And nothing where it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdense.errors import ConfigError, WeightsError
from effdense.models.classification import create_classifier
from effdense.models.detection import create_detector
from effdense.models.encoders import create_encoder
from effdense.models.segmentation import create_segmentor
from effdense.models.weights import load_weights
from effdense.models.weights.channels import adapt_channels

State = dict[str, Tensor]


def random_state(model: nn.Module, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else value + 7
        for key, value in model.state_dict().items()
    }


def snapshot(model: nn.Module) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_equal(got: State, expected: State) -> None:
    for key, value in expected.items():
        assert torch.equal(got[key], value), key


def detector(num_classes: int = 3, **options: Any) -> Any:
    return create_detector("efficientdet_d0", num_classes, fpn_cells=1, head_repeats=1, **options)


def checkpoint(state: State, classes: list[str], **model: Any) -> dict[str, Any]:
    name = model.pop("name", "efficientdet_d0")
    meta = {"classes": classes, "model": {"name": name, "num_classes": len(classes), **model}}
    return {"format": "effdense/1", "state_dict": state, "meta": meta}


# Input channels -----------------------------------------------------------------------------------------------------


def test_channels_by_hand() -> None:
    rgb = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)

    def made(weight: Tensor, channels: int) -> list[float]:
        adapted = adapt_channels(weight, channels)
        assert adapted is not None
        return adapted[0].flatten().tolist()

    assert made(rgb, 3) == [1, 2, 4]
    assert made(rgb, 1) == [7]
    assert made(rgb, 2) == pytest.approx([1.5, 3.0])
    assert made(rgb, 4) == pytest.approx([0.75, 1.5, 3.0, 0.75])
    assert made(torch.full((1, 1, 1, 1), 6.0), 3) == [2, 2, 2]
    assert adapt_channels(torch.zeros(1, 4, 1, 1), 3) is None


@pytest.mark.parametrize("channels", [1, 3, 6])  # multiples of a cycle: with 4 or 5, R counts more often than B
def test_a_grey_picture_gives_the_features_of_its_rgb_copy(channels: int) -> None:
    # In float64: features near 0 lose digits to cancellation, more than any fixed float32 tolerance allows for.
    source = create_encoder("efficientnet_lite0").eval().double()
    encoder = create_encoder("efficientnet_lite0", in_channels=channels).eval().double()
    report = load_weights(encoder, source.state_dict())
    assert bool(report.adapted) == (channels != 3)
    grey = torch.randn(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for got, want in zip(encoder(grey.repeat(1, channels, 1, 1)), source(grey.repeat(1, 3, 1, 1)), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_channels_as_timm_adapts_them(channels: int) -> None:
    manipulate = pytest.importorskip("timm.models._manipulate")
    weight = torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    adapted = adapt_channels(weight, channels)
    assert adapted is not None
    torch.testing.assert_close(adapted[0], manipulate.adapt_input_conv(channels, weight))


@pytest.mark.parametrize("channels", [1, 4])
def test_rgb_weights_into_models_of_other_channels(channels: int) -> None:
    state = random_state(detector())
    model = detector(in_channels=channels)
    report = load_weights(model, state)
    assert report.adapted == [
        "input channels 3 -> 1 (sum over RGB)" if channels == 1 else "input channels 3 -> 4 (RGB repeated, x 3/4)"
    ]
    assert set(report.loaded) == set(state) and f"adapted: {report.adapted[0]}" in str(report)
    before = snapshot(refusing := detector(in_channels=channels))
    with pytest.raises(WeightsError, match=f"takes 3 input channels, the model has {channels} and adapt=False"):
        load_weights(refusing, state, adapt=False)
    assert_equal(snapshot(refusing), before)


def test_channels_without_a_rule_are_refused() -> None:
    source = create_encoder("efficientnet_lite0", in_channels=4)
    with pytest.raises(WeightsError, match=r"takes 4 input channels.* only 1 and 3 .* in_channels=4"):
        load_weights(create_encoder("efficientnet_lite0"), source.state_dict())


# Conventions --------------------------------------------------------------------------------------------------------


def test_the_convention_follows_the_checkpoint() -> None:
    source = detector(padding="symmetric").eval()
    model = detector().eval()
    names = ["a", "b", "c"]
    report = load_weights(model, checkpoint(source.state_dict(), names, padding="symmetric"))
    assert report.adapted == [
        "padding same -> symmetric", "BN eps 0.001 -> 1e-05", "pyramid padding same -> symmetric",
    ]  # fmt: skip
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for got, want in zip(model(images).class_logits, source(images).class_logits, strict=True):
            assert torch.equal(got, want)
    # What a later checkpoint of this model says builds the same network again.
    again = detector(**model.weight_options)
    assert (again.backbone.padding, again.backbone.bn_eps, again.fpn.padding) == ("symmetric", 1e-5, "symmetric")


def test_only_the_encoder_is_switched_when_only_the_encoder_is_filled() -> None:
    source = create_classifier("efficientnet_b0", 3, padding="symmetric", bn_eps=1e-4)
    model = detector()
    state = checkpoint(source.state_dict(), list("abc"), name="efficientnet_b0", padding="symmetric", bn_eps=1e-4)
    report = load_weights(model, state)
    assert report.adapted == ["padding same -> symmetric", "BN eps 0.001 -> 0.0001"]
    assert (model.backbone.padding, model.backbone.bn1.eps) == ("symmetric", 1e-4)
    assert model.fpn.padding == "same" and model.box_net.bn_rep[0][0].bn.eps == 1e-3


def test_adapt_false_keeps_the_convention_and_says_so() -> None:
    source = create_classifier("efficientnet_b0", 3, padding="symmetric")
    model = create_classifier("efficientnet_b0", 3)
    state = checkpoint(source.state_dict(), list("abc"), name="efficientnet_b0", padding="symmetric")
    report = load_weights(model, state, adapt=False)
    assert not report.adapted and (model.padding, model.bn1.eps) == ("same", 1e-3)
    assert "padding stays same, the weights were made with symmetric (adapt=False)" in str(report)
    adapted = load_weights(model, state)
    assert adapted.adapted and (model.padding, model.bn_eps, model.bn2.eps) == ("symmetric", 1e-5, 1e-5)


def test_a_plain_timm_state_dict_cannot_say_its_convention() -> None:
    encoder = create_encoder("efficientnet_b0", out_strides=(2,), padding="symmetric")
    report = load_weights(encoder, create_encoder("efficientnet_b0").state_dict())
    assert not report.adapted and encoder.padding == "symmetric"
    assert "kept symmetric and 1e-05 (timm's tf_ weights need 'same'" in report.notes[0]
    assert "kept same and 0.001 (native timm weights need 'symmetric'" in str(
        load_weights(create_encoder("efficientnet_b0", out_strides=(2,)), encoder.state_dict())
    )


def test_a_detector_without_a_convention_says_so_to_every_other_kind() -> None:
    state = detector().state_dict()
    for model in (create_classifier("efficientnet_b0", 2), create_encoder("efficientnet_b0")):
        notes = load_weights(model, state).notes
        assert any("does not say its padding" in note for note in notes)
        assert not any("earlier weights switched" in note for note in notes)


def test_an_encoder_says_how_to_build_it_again() -> None:
    model = create_encoder("efficientnet_b0", out_strides=(2, 4))
    assert model.weight_options == {"padding": "same", "bn_eps": 1e-3}
    model.set_convention("symmetric", 1e-5)
    again = create_encoder("efficientnet_b0", out_strides=(2, 4), **model.weight_options).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 33, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(again(images), model.eval()(images), strict=True))


def test_a_failure_leaves_the_convention_too() -> None:
    model = create_encoder("efficientnet_b0")
    state = create_encoder("efficientnet_b1").state_dict()
    before = snapshot(model)
    with pytest.raises(WeightsError, match=r"efficientnet_b1: create_encoder\('efficientnet_b1'\)"):
        load_weights(model, checkpoint(state, ["a"], name="efficientnet_b1", padding="symmetric"))
    assert_equal(snapshot(model), before)
    assert (model.padding, model.bn_eps, model.conv_stem.convention) == ("same", 1e-3, "same")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to_sparse(), "is a sparse_coo tensor, expected an ordinary dense one"),
        (lambda value: value.to(torch.int8), "holds int8 values, expected floating-point weights"),
        (lambda value: value.bool(), "holds bool values"),
        (lambda value: value.to(torch.complex64), "holds complex64 values"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is a quantized tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch announces the end of its quantized tensors
def test_tensors_of_other_kinds_change_nothing(change: Any, message: str) -> None:
    model = create_encoder("efficientnet_b0", out_strides=(2,))
    state, key = random_state(model), "blocks.0.0.conv_pw.weight"  # the last convolution: all others come before it
    before = snapshot(model)
    with pytest.raises(WeightsError, match=f"conv_pw.weight {message}"):
        load_weights(model, {**state, key: change(state[key])})
    assert_equal(snapshot(model), before)


def test_counters_may_be_floats_as_a_cast_of_everything_leaves_them() -> None:
    model = create_encoder("efficientnet_b0", out_strides=(2,))
    state = {key: value.half() for key, value in random_state(model).items()}
    assert len(load_weights(model, state).loaded) == len(state)
    assert model.bn1.num_batches_tracked.dtype == torch.int64 and model.bn1.num_batches_tracked == 7


def test_counters_that_the_source_dropped_are_counted() -> None:
    model = create_encoder("efficientnet_b0", out_strides=(2,))
    state = {key: value for key, value in random_state(model).items() if not key.endswith("num_batches_tracked")}
    report = load_weights(model, state)
    assert len(report.loaded) + len(report.counters) == report.total and len(report.counters) == 3
    assert "loaded 19/22" in str(report) and "3 batch counters are not in the source" in str(report)


@pytest.mark.parametrize("bn_eps", [-1.0, float("nan"), 0.0, float("inf")])
def test_an_epsilon_that_makes_no_sense_is_no_statement(bn_eps: float) -> None:
    for model, options in (
        (create_encoder("efficientnet_b0"), {"name": "efficientnet_b0", "bn_eps": bn_eps}),
        (detector(2), {"encoder_bn_eps": bn_eps}),
    ):
        state = random_state(model)
        report = load_weights(model, checkpoint(state, ["a", "b"], **options))
        assert not report.adapted
        assert_equal(snapshot(model), state)


def test_wrapped_models_are_filled(recwarn: pytest.WarningsRecorder) -> None:
    for wrap in (torch.compile, nn.DataParallel):
        inner = create_encoder("efficientnet_b0", out_strides=(2,))
        state = random_state(inner)
        report = load_weights(wrap(inner), state)  # type: ignore[arg-type]
        assert report.model == "efficientnet_b0" and len(report.loaded) == len(state)
        assert_equal(snapshot(inner), state)


def test_values_that_no_good_training_leaves_are_reported() -> None:
    model = create_encoder("efficientnet_b0", out_strides=(2,))
    state = random_state(model)
    assert "WARNING" not in str(load_weights(model, state))
    state["conv_stem.weight"][0, 0, 0, 0] = float("nan")
    state["bn1.bias"][3] = float("inf")
    state["bn1.running_var"][1] = -1.0
    text = str(load_weights(model, state))
    assert "WARNING: values that are not finite (NaN or infinite) in 2 of the tensors loaded: conv_stem.weight" in text
    assert "WARNING: negative variances in 1 of the tensors loaded: bn1.running_var" in text


def test_a_tensor_that_cannot_be_copied_changes_nothing() -> None:
    model = create_encoder("efficientnet_b0", out_strides=(2,))
    state = random_state(model)
    state["blocks.0.0.conv_pw.weight"] = torch.empty(state["blocks.0.0.conv_pw.weight"].shape, device="meta")
    before = snapshot(model)
    with pytest.raises(WeightsError, match=r"blocks\.0\.0\.conv_pw\.weight cannot be copied"):
        load_weights(model, state)
    assert_equal(snapshot(model), before)


# Class rows ---------------------------------------------------------------------------------------------------------


def test_detector_rows_are_found_by_name() -> None:
    source_names, names = ["person", "dog", "car"], ["car", "tree", "dog", "sky", "cat"]
    state, model = random_state(detector(3)), detector(5)
    before = snapshot(model)
    report = load_weights(model, checkpoint(state, source_names), class_names=names)
    assert report.copied_rows == ["car", "dog"]
    assert report.remade == ["class_net.predict.conv_pw.weight", "class_net.predict.conv_pw.bias"]
    assert "re-made class_net.predict (3 -> 5 classes; 2 rows copied by name: car, dog)" in str(report)
    for key in report.remade:
        # Anchor-major: 9 anchors of K rows each.
        old, new, untouched = (
            tensors[key].reshape(9, -1, *tensors[key].shape[1:]) for tensors in (state, snapshot(model), before)
        )
        assert torch.equal(new[:, 0], old[:, 2]) and torch.equal(new[:, 2], old[:, 1])
        assert torch.equal(new[:, [1, 3, 4]], untouched[:, [1, 3, 4]])
    assert_equal(snapshot(model), {key: value for key, value in state.items() if key not in report.remade})


def test_rows_in_another_order_are_reordered() -> None:
    source, model = create_classifier("efficientnet_b0", 3), create_classifier("efficientnet_b0", 3)
    state = random_state(source)
    content = checkpoint(state, ["a", "b", "c"], name="efficientnet_b0")
    report = load_weights(model, content, class_names=["c", "a", "b"])
    assert report.loaded == list(state) and not report.remade
    assert report.adapted == ["classifier ordered by class name (3 -> 3 classes)"]
    assert torch.equal(model.classifier.weight, state["classifier.weight"][[2, 0, 1]])
    partly = load_weights(model, content, class_names=["c", "new", "b"])
    assert partly.copied_rows == ["c", "b"] and partly.remade == ["classifier.weight", "classifier.bias"]
    assert torch.equal(model.classifier.bias[[0, 2]], state["classifier.bias"][[2, 1]])
    load_weights(model, content, class_names=["a", "b", "c"])
    assert_equal(snapshot(model), state)


def test_segmentor_rows_are_found_by_name() -> None:
    state, model = random_state(create_segmentor("efficientunet_b0", 3)), create_segmentor("efficientunet_b0", 2)
    report = load_weights(
        model, checkpoint(state, ["sky", "road", "car"], name="efficientunet_b0"), class_names=["car", "cat"]
    )
    assert report.remade == ["segmentation_head.0.weight", "segmentation_head.0.bias"]
    assert report.copied_rows == ["car"]
    assert torch.equal(model.segmentation_head[0].weight[0], state["segmentation_head.0.weight"][2])
    assert "re-made segmentation_head (3 -> 2 classes; 1 row copied by name: car)" in str(report)


def test_without_names_no_row_is_copied() -> None:
    model = create_classifier("efficientnet_b0", 2)
    report = load_weights(model, random_state(create_classifier("efficientnet_b0", 3)))
    assert report.remade == ["classifier.weight", "classifier.bias"] and not report.copied_rows


@pytest.mark.parametrize("names", [["a"], "abc", list("abcd")])
def test_names_must_be_one_per_class(names: Any) -> None:
    model = create_classifier("efficientnet_b0", 3)
    with pytest.raises(ConfigError, match="class_names must name the 3 classes"):
        load_weights(model, model.state_dict(), class_names=names)


# Kinds of model -----------------------------------------------------------------------------------------------------

MODELS = {
    "encoder": lambda: create_encoder("efficientnet_b0"),
    "classifier": lambda: create_classifier("efficientnet_b0", 3),
    "detector": lambda: detector(),
    "segmentor": lambda: create_segmentor("efficientunet_b0", 3),
}
PREFIX = {"encoder": "", "classifier": "", "detector": "backbone.", "segmentor": "encoder."}


@pytest.mark.parametrize("source_kind", MODELS)
@pytest.mark.parametrize("kind", MODELS)
def test_every_source_fills_the_encoder_of_every_model(kind: str, source_kind: str) -> None:
    state, model = random_state(MODELS[source_kind]()), MODELS[kind]()
    before = snapshot(model)
    report = load_weights(model, state)
    assert not report.unexpected and not report.remade
    after = snapshot(model)
    same = kind == source_kind
    encoder = [key for key in create_encoder("efficientnet_b0").state_dict() if PREFIX[kind] + key in after]
    assert_equal(
        {key: after[PREFIX[kind] + key] for key in encoder if PREFIX[source_kind] + key in state},
        {key: state[PREFIX[source_kind] + key] for key in encoder if PREFIX[source_kind] + key in state},
    )
    untouched = set(after) - set(report.loaded)
    assert_equal({key: after[key] for key in untouched}, {key: before[key] for key in untouched})
    assert (not untouched) is (same or kind == "encoder")
    assert (report.part == "") is (same or kind in ("encoder", "classifier"))


def test_a_damaged_segmentor_is_no_other_decoder() -> None:
    model = create_segmentor("efficientunet_b0", 3)
    state = random_state(model)
    lost = next(key for key in state if key.startswith("decoder."))
    with pytest.raises(WeightsError, match="lack 1 tensors that efficientunet_b0 needs"):
        load_weights(model, {key: value for key, value in state.items() if key != lost})


def test_another_decoder_lends_its_encoder_to_a_segmentor() -> None:
    model = create_segmentor("efficientunet_b0", 3)
    state = {key: value for key, value in random_state(model).items() if key.startswith("encoder.")}
    report = load_weights(model, {**state, "decoder.p5.weight": torch.ones(1)})
    assert report.part == "encoder" and report.unexpected == ["decoder.p5.weight"]
    assert "the source has another decoder" in str(report)
    assert_equal(snapshot(model), state)
