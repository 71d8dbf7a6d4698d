"""Names inferred from shapes alone: every member is told from every other, also when cut off or inside a detector."""

from __future__ import annotations

import pytest
import torch

from effdense.errors import WeightsError
from effdense.models.classification import create_classifier
from effdense.models.detection import create_detector, detector_names
from effdense.models.encoders import create_encoder, encoder_names
from effdense.models.segmentation import create_segmentor
from effdense.models.weights import effdet, load_weights
from effdense.models.weights.identify import describe, detector_names_of, encoder_names_of


@pytest.mark.parametrize("name", encoder_names())
def test_every_encoder_is_told_apart(name: str) -> None:
    with torch.device("meta"):
        state = create_encoder(name).state_dict()
    assert encoder_names_of(state) == [name]


def test_a_network_cut_off_may_be_several() -> None:
    with torch.device("meta"):
        state = create_encoder("efficientnet_b1", out_strides=(2,)).state_dict()
    assert encoder_names_of(state) == ["efficientnet_b1", "efficientnet_b2"]  # of 32 stem and 2 x 16 channels
    assert "efficientnet_b1 or efficientnet_b2" in describe(state)


def test_every_detector_is_told_apart_but_twins() -> None:
    twins = {"efficientdet_d6": "efficientdet_d7", "efficientdet_d7": "efficientdet_d6"}
    for name in detector_names():
        with torch.device("meta"):
            state = create_detector(name, 2).state_dict()
        assert set(detector_names_of(state)) == {name, twins.get(name, name)}


def test_nothing_is_guessed_from_foreign_tensors() -> None:
    assert encoder_names_of({}) == [] and detector_names_of({}) == [] and describe({}) == ""
    odd = {"conv_stem.weight": torch.zeros(32), "blocks.0.0.conv_pw.weight": torch.zeros(1)}
    assert encoder_names_of(odd) == []


def test_errors_name_the_likely_model() -> None:
    with pytest.raises(WeightsError, match=r"They look like efficientnet_b3: create_encoder\('efficientnet_b3'\)"):
        load_weights(create_encoder("efficientnet_b0"), create_encoder("efficientnet_b3").state_dict())
    lite, b0 = create_encoder("efficientnet_lite0"), create_encoder("efficientnet_b0")
    with pytest.raises(WeightsError, match="They look like efficientnet_b0"):
        load_weights(lite, b0.state_dict())
    with pytest.raises(WeightsError, match="They look like efficientnet_lite0"):
        load_weights(b0, lite.state_dict())
    detector = create_detector("efficientdet_d0", 2)
    with pytest.raises(
        WeightsError, match=r"look like efficientnet_lite0: create_detector\('efficientdet_lite0', \.\.\.\)"
    ):
        load_weights(detector, lite.state_dict())
    with pytest.raises(WeightsError, match=r"They look like efficientdet_d0: create_detector\('efficientdet_d0'"):
        load_weights(create_detector("efficientdet_d1", 2), detector.state_dict())


def test_errors_name_a_model_of_the_kind_that_was_wanted() -> None:
    b3 = create_encoder("efficientnet_b3").state_dict()
    for model, call in (
        (create_classifier("efficientnet_b0", 2), r"create_classifier\('efficientnet_b3'\)"),
        (create_segmentor("efficientunet_b0", 2), r"create_segmentor\('efficientunet_b3', \.\.\.\)"),
        (create_detector("efficientdet_d0", 2), r"create_detector\('efficientdet_d3', \.\.\.\)"),
    ):
        with pytest.raises(WeightsError, match=f"They look like efficientnet_b3: {call}"):
            load_weights(model, b3)


def test_another_size_is_named_before_options_that_would_not_help() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    state = smp.Unet("efficientnet-b1", encoder_weights=None, classes=2).state_dict()  # no early stride 16, as B0 has
    with pytest.raises(WeightsError, match=r"create_segmentor\('efficientunet_b1', \.\.\.\)") as caught:
        load_weights(create_segmentor("efficientunet_b0", 2), state)
    assert "early_stride_16" not in str(caught.value)


def test_a_damaged_file_is_not_told_to_be_the_model_it_was_refused_for() -> None:
    model = create_encoder("efficientnet_b0")
    state = model.state_dict()
    del state["blocks.2.1.bn1.weight"]
    with pytest.raises(WeightsError, match="look like efficientnet_b0 all the same: the file is damaged"):
        load_weights(model, state)


def test_twins_are_named() -> None:
    with torch.device("meta"):
        d6, d0 = (create_detector(f"efficientdet_{level}", 2).state_dict() for level in ("d6", "d0"))
    (note,) = effdet.convert(d6).notes
    assert "(scale 4 in efficientdet_d6 and 5 in efficientdet_d7)" in note
    assert effdet.convert(d0).notes == ()
