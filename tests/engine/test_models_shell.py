"""The model shell: normalisation on the way in, original pixels on the way out, and what it tells the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import effdense
from effdense.data import ClassMap
from effdense.engine.datasets import check_class_count
from effdense.engine.models import ClassificationModel, DetectionModel, Normalize
from effdense.engine.training_step import losses_of
from effdense.errors import ConfigError, WeightsError
from effdense.models.detection.postprocess import PaddedDetections

TINY: dict[str, Any] = {"image_size": 64, "fpn_cells": 1, "head_repeats": 1, "max_level": 6}


def tiny(num_classes: int = 3, **options: Any) -> DetectionModel:
    torch.manual_seed(0)
    model = DetectionModel("efficientdet_lite0", num_classes, **{**TINY, **options})
    model.load_starting_weights()
    return model


def batch(count: int = 2) -> dict[str, Any]:
    """A collated batch with one box in each image but the last."""
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(count, 1, dtype=torch.bool)
    valid[-1] = False
    return {
        "inputs": torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8),
        "boxes": torch.tensor([[[4.0, 8.0, 40.0, 40.0]]]).repeat(count, 1, 1) * valid[..., None],
        "labels": torch.where(valid, 1, -1),
        "valid": valid,
        "image_ids": torch.arange(count) + 100,
        "indices": torch.arange(count),
        "original_sizes": torch.tensor([[64, 64]] * count),
        "matrices": torch.eye(3, dtype=torch.float64).repeat(count, 1, 1),
        "paths": ["x"] * count,
    }


# -- in ----------------------------------------------------------------------------------------------------------------


def test_normalisation_by_hand() -> None:
    """Mean .5 and std .25 of the full range: 127.5 becomes 0, 255 becomes 2, 0 becomes -2."""
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    out = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))({"inputs": pixels, "paths": ["a"]})
    assert out["inputs"].flatten().tolist() == pytest.approx([-2.0, -1.2, 2.0]) and out["paths"] == ["a"]
    assert pixels.dtype == torch.uint8


@pytest.mark.parametrize(("channels_last", "stride"), [(True, (192, 1, 24, 3)), (False, (192, 64, 8, 1))])
def test_the_memory_format_is_the_one_asked_for(channels_last: bool, stride: tuple[int, ...]) -> None:
    """Batches arrive channels-last; a model that is not must not be fed so, or its activations follow the input."""
    pixels = torch.zeros(2, 8, 8, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    model = tiny(channels_last=channels_last)
    assert model.data_preprocessor({"inputs": pixels})["inputs"].stride() == stride
    weight = model.network.backbone.conv_stem.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_only_pixels_change_and_matrices_stay_precise() -> None:
    given = batch()
    out = tiny().data_preprocessor(given)
    assert out["matrices"].dtype == torch.float64 and out["boxes"] is given["boxes"]
    assert given["inputs"].dtype == torch.uint8 and out["inputs"].dtype == torch.float32


# -- losses ------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_networks() -> None:
    model = tiny().train()
    given = model.data_preprocessor(batch())
    losses = model(**given, mode="loss")
    targets = [
        {"boxes": given["boxes"][0], "labels": given["labels"][0]},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    torch.manual_seed(0)
    expected = tiny().train().network.loss(given["inputs"], targets)
    assert set(losses) == {"loss_cls", "loss_box", "count"}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_a_batch_without_objects_trains() -> None:
    model = tiny().train()
    given = batch()
    given |= {"boxes": torch.zeros(2, 1, 4), "labels": torch.full((2, 1), -1), "valid": torch.zeros(2, 1).bool()}
    total, logged, positives = losses_of(model, model, model.data_preprocessor(given))
    total.backward()
    assert logged["loss_box"].item() == 0.0 and total.isfinite() and positives is not None and positives.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert set(logged) == {"loss", "loss_cls", "loss_box"}


# -- detections --------------------------------------------------------------------------------------------------------


def test_boxes_come_back_in_original_pixels_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 100 x 200 px (h x w) picture at scale .3, moved by (2, 5): input px (17, 14) is ((17-2)/.3, (14-5)/.3)."""
    model = tiny().eval()
    given = batch(1)
    given["matrices"] = torch.tensor([[[0.3, 0.0, 2.0], [0.0, 0.3, 5.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    given["original_sizes"] = torch.tensor([[100, 200]])
    seen = {}

    def found(images: torch.Tensor, sizes: torch.Tensor) -> PaddedDetections:
        seen["filled"] = sizes.tolist()
        boxes = torch.tensor([[[17.0, 14.0, 32.0, 29.0], [-4.0, 0.0, 900.0, 900.0], [0.0, 0.0, 0.0, 0.0]]])
        scores, labels = torch.tensor([[0.9, 0.5, 0.0]]), torch.tensor([[2, 0, 0]])
        return PaddedDetections(boxes, scores, labels, torch.tensor([[True, True, False]]))

    monkeypatch.setattr(model.network, "padded_predict", found)
    (result,) = model(**model.data_preprocessor(given), mode="predict")
    assert seen["filled"][0] == pytest.approx([35.0, 62.0])  # h, w of the input that the picture fills
    torch.testing.assert_close(result["boxes"], torch.tensor([[50.0, 30.0, 100.0, 80.0], [0.0, 0.0, 200.0, 100.0]]))
    assert result["scores"].tolist() == pytest.approx([0.9, 0.5]) and result["labels"].tolist() == [2, 0]
    assert (result["image_id"], result["index"]) == (100, 0)


def test_a_batch_predicts_what_single_images_do() -> None:
    model = tiny().eval()
    given = batch(3)
    together = model.val_step(given)
    for i, result in enumerate(together):
        single = {key: value[i : i + 1] for key, value in given.items()}
        (alone,) = model.val_step(single)
        assert (alone["image_id"], alone["index"]) == (result["image_id"], i)
        torch.testing.assert_close(alone["scores"], result["scores"], rtol=1e-4, atol=1e-6)
        assert len(alone["boxes"]) == len(result["boxes"]) > 0


def test_evaluation_runs_the_average_where_there_is_one() -> None:
    model = tiny().eval()
    given = model.data_preprocessor(batch())
    before = model(**given, mode="tensor").class_logits[0]
    average = model.start_ema()
    with torch.no_grad():
        for p in model.network.parameters():
            p.add_(1.0)
    assert torch.equal(model(**given, mode="tensor").class_logits[0], before)
    with torch.no_grad():
        average.class_net.predict.conv_pw.bias.add_(1.0)
    torch.testing.assert_close(model(**given, mode="tensor").class_logits[0], before + 1.0)


# -- what it is made of ------------------------------------------------------------------------------------------------


def test_the_arguments_that_travel_rebuild_the_network() -> None:
    """Through JSON, and with lists where a config had them."""
    model = tiny(5, image_size=[64, 96], aspect_ratios=[[1.0, 1.0], [1.4, 0.7]], nms="soft")
    arguments = json.loads(json.dumps(model.build_arguments))
    again = DetectionModel(**arguments).network
    assert again.config == model.network.config and again.num_classes == 5
    assert again.config.aspect_ratios == ((1.0, 1.0), (1.4, 0.7))
    again.load_state_dict(model.network.state_dict())


def test_every_field_of_the_detector_may_be_configured() -> None:
    arguments = DetectionModel.config_arguments()
    assert {"name", "weights", "encoder_weights", "anchor_scale", "drop_path_rate", "nms", "encoder"} <= arguments
    with pytest.raises(ConfigError, match="fpn_cells"):
        tiny(fpn_cels=2)


def test_starting_weights(tmp_path: Path) -> None:
    source = tiny(3)
    with torch.no_grad():
        source.network.backbone.conv_stem.weight.fill_(0.25)
        source.network.box_net.predict.conv_pw.bias.fill_(0.5)
    whole, encoder = tmp_path / "detector.pth", tmp_path / "encoder.pth"
    torch.save(source.network.state_dict(), whole)
    torch.save(source.network.backbone.state_dict(), encoder)

    model = tiny(3, weights=str(whole))
    assert all(torch.equal(a, b) for a, b in zip(model.network.parameters(), source.network.parameters(), strict=True))
    other_classes = tiny(7, weights=str(whole))  # the class prediction starts anew, all else is taken
    assert (
        other_classes.reports[0].remade and float(other_classes.network.box_net.predict.conv_pw.bias.detach()[0]) == 0.5
    )
    model = tiny(3, encoder_weights=str(encoder))
    assert torch.equal(model.network.backbone.conv_stem.weight, source.network.backbone.conv_stem.weight)
    assert float(model.network.box_net.predict.conv_pw.bias.detach()[0]) == 0.0
    with pytest.raises(WeightsError, match="efficientdet_lite0"):
        tiny(3, fpn_channels=32, weights=str(whole))
    model.init_weights()  # mmengine calls it before training: loaded weights stay
    assert float(model.network.backbone.conv_stem.weight.detach().mean()) == 0.25


def test_the_class_count_comes_from_the_data() -> None:
    cells = ClassMap(("rbc", "wbc"), (1, 2))
    assert check_class_count(None, cells, "a.json") == check_class_count(2, cells, "a.json") == 2
    with pytest.raises(ConfigError, match=r"num_classes is 5, .* a\.json define 2 classes \(rbc, wbc\)"):
        check_class_count(5, cells, "a.json")


def test_the_public_network_inside_is_the_public_one() -> None:
    public = effdense.create_detector("efficientdet_lite0", num_classes=3, **TINY)
    assert tiny().network.state_dict().keys() == public.state_dict().keys()


# -- what stands still, and what a checkpoint says ---------------------------------------------------------------------


def test_frozen_stages_and_statistics_stand_still_in_training() -> None:
    model = tiny(frozen_stages=2, frozen_batch_norm="encoder")
    model.train()
    backbone = model.network.backbone
    assert not backbone.conv_stem.weight.requires_grad and backbone.blocks[2][0].conv_pw.weight.requires_grad
    assert not backbone.blocks[5][0].bn1.training and model.network.fpn.training
    assert any(m.training for m in model.network.fpn.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert "backbone.blocks.5.0.bn1" in model.standing_names and "fpn" not in model.standing_names
    assert "of them trained" in model.describe()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running" in key}
    prepared = model.data_preprocessor(batch())
    sum(model(**prepared).values()).backward()
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in before.items())


def test_convention_of_loaded_weights_is_what_the_checkpoint_says(tmp_path: Path) -> None:
    """torchvision's encoder under our detector: its padding and epsilon go into the arguments that build it again."""
    import torchvision

    source = torchvision.models.efficientnet_b0(weights=None)
    torch.save(source.state_dict(), tmp_path / "tv.pth")
    model = DetectionModel(
        "efficientdet_d0", 2, encoder_weights=str(tmp_path / "tv.pth"), fpn_cells=1, head_repeats=1, image_size=64
    )
    model.load_starting_weights()
    arguments = dict(model.build_arguments)
    assert arguments["encoder_padding"] == "symmetric" and "symmetric" in str(model.reports[0])
    again = effdense.create_detector(arguments.pop("name"), arguments.pop("num_classes"), **arguments)
    again.load_state_dict(model.network.state_dict())
    images = torch.randn(1, 3, 72, 72)
    model.eval(), again.eval()
    with torch.no_grad():
        ours, theirs = model.network(images), again(images)
    assert all(torch.equal(a, b) for a, b in zip(ours.class_logits, theirs.class_logits, strict=True))


def test_v2_weights_of_torchvision_bring_their_normalisation() -> None:
    """TensorFlow's EfficientNetV2 takes -1..1, torchvision's ImageNet statistics: the input follows the weights."""
    from torchvision.models import efficientnet_v2_s

    source = efficientnet_v2_s(weights=None, num_classes=3).eval()
    shell = ClassificationModel("efficientnetv2_s", 3, image_size=64)
    assert shell.mean == (0.5, 0.5, 0.5)
    shell.start_from(source.state_dict())  # type: ignore[arg-type]
    assert shell.mean == (0.485, 0.456, 0.406) and shell.std == (0.229, 0.224, 0.225)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    inputs = shell.eval().data_preprocessor({"inputs": pixels})["inputs"]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (shell.mean, shell.std))
    with torch.no_grad():
        expected = source((pixels / 255 - mean) / std)
        torch.testing.assert_close(shell(inputs, torch.zeros(2), mode="tensor"), expected, rtol=1e-4, atol=1e-4)
    said = ClassificationModel("efficientnetv2_s", 3, image_size=64, mean=(0.4,) * 3, std=(0.3,) * 3)
    said.start_from(source.state_dict())  # type: ignore[arg-type]
    assert said.mean == (0.4, 0.4, 0.4) and float(said.data_preprocessor.mean[0, 0, 0, 0]) == pytest.approx(0.4 * 255)
