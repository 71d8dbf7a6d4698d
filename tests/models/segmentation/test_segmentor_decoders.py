"""Decoders by name: BiFPN, smp's; any input size, what they ask of the encoder, the auxiliary head, attention."""

import copy

import pytest
import torch

from effdense.errors import ConfigError, ShapeError, WeightsError
from effdense.models.costs import build_model, model_cost
from effdense.models.drop_path import set_drop_path_rate
from effdense.models.encoders import create_encoder
from effdense.models.freezing import freeze_stages, layer_index
from effdense.models.segmentation import create_segmentor, segmentor_config
from effdense.models.segmentation.attention import Attention
from effdense.models.segmentation.decoder_names import DECODERS
from effdense.models.segmentation.encoder_features import dilate_encoder
from effdense.models.weights import load_weights

# Used as the others are, and tested with the slow.
ALIKE = ("smp:UnetPlusPlus", "smp:MAnet", "smp:Linknet", "smp:Segformer")


def small(decoder, classes=3, **options):
    torch.manual_seed(0)
    name = "bifpnseg_lite0" if decoder == "bifpn" else "efficientunet_lite0"
    return create_segmentor(name, classes, decoder=decoder, **options)


@pytest.mark.parametrize("decoder", DECODERS)
def test_any_input_size_weights_and_costs(decoder):
    model = small(decoder).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 41, 75)).shape == (1, 3, 41, 75)
    again = small(decoder).eval()
    report = load_weights(again, model.state_dict())
    assert len(report.loaded) == len(model.state_dict()) and not report.unexpected
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert model_cost(model, 64).macs > model_cost(model.encoder, 64).macs > 0


@pytest.mark.parametrize(
    "decoder", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in DECODERS]
)
def test_training_step_depths_and_freezing(decoder):
    model = small(decoder, aux_weight=0.4, aux_stride=8)
    losses = model.loss(torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64)))
    assert {"loss_seg", "loss_aux"} <= set(losses)
    (losses["loss_seg"] + losses["loss_aux"]).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    stages = len(model.encoder.blocks)
    depths = {name: layer_index(name, stages) for name, _ in model.named_parameters()}
    assert depths["encoder.conv_stem.weight"] == 0 and depths["segmentation_head.0.weight"] == stages + 1
    assert {d for n, d in depths.items() if n.startswith(("decoder.", "auxiliary_head."))} == {stages + 1}
    set_drop_path_rate(model, 0.3)
    assert model.encoder.blocks[-1][0].drop_path.rate > 0
    freeze_stages(model, "all")
    assert not any(p.requires_grad for p in model.encoder.parameters())


@pytest.mark.parametrize("decoder", ["bifpn", "smp:DeepLabV3Plus", "smp:FPN"])
def test_weight_options_rebuild_it(decoder):
    model = small(decoder).eval()
    model.encoder.set_convention(padding="symmetric", bn_eps=2e-3)
    assert model.weight_options == {"encoder_padding": "symmetric", "encoder_bn_eps": 2e-3}
    again = small(decoder, **model.weight_options).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


def test_padding_is_cut_off_again():
    """What a decoder that asks for multiples of 32 says of an odd input is what it says of the input padded by hand."""
    model = small("smp:FPN").eval()
    images = torch.randn(1, 3, 50, 70)
    padded = torch.zeros(1, 3, 64, 96)
    padded[:, :, :50, :70] = images
    with torch.no_grad():
        assert torch.equal(model(images), model(padded)[..., :50, :70])


def test_bifpn_reads_p2_of_six_levels():
    model = create_segmentor("bifpnseg_b0", 4, decoder_options={"channels": 16, "head_channels": 24, "cells": 2})
    assert model.encoder.strides == (4, 8, 16, 32) and model.decoder.fpn.num_levels == 6
    features = model.encoder.eval()(torch.randn(1, 3, 70, 94))
    assert model.decoder.eval()(features, (70, 94)).shape == (1, 24, 18, 24)
    # Both ways in the first cell, only down to P2 in the last.
    assert [len(cell.fnode) for cell in model.decoder.fpn.cell] == [10, 5]
    assert len(model.decoder.head) == 3


def test_bifpn_defaults_are_the_papers():
    model = build_model("bifpnseg_b4", 21)
    assert model.decoder.fpn.channels == 128 and len(model.decoder.fpn.cell) == 3
    assert [layer[0].conv_pw.out_channels for layer in model.decoder.head] == [256] * 3
    # EfficientDet table 3 prints 17M and 18B; this network has 17.6M and 12.0 G multiply-adds.
    cost = model_cost(model, 512)
    assert round(cost.params / 1e6, 1) == 17.6 and round(cost.macs / 1e9, 1) == 12.0


def test_lite_bifpn_sums_and_options_add_up():
    config = segmentor_config("bifpnseg_lite0").override(decoder_options={"cells": 1})
    assert config.decoder_options == {"fusion": "sum", "cells": 1} and config.activation == "relu6"
    assert config.override(decoder="smp:FPN").decoder_options == {}
    model = create_segmentor("bifpnseg_lite0", 2, decoder_options={"cells": 1})
    assert not any("edge_weights" in name for name in model.state_dict())


def test_smp_options_reach_the_decoder():
    model = small("smp:FPN", decoder_options={"decoder_pyramid_channels": 64, "upsampling": 1})
    assert model.decoder.p5.out_channels == 64
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3, 64, 64)  # coarse logits are resized here
    shallow = small("smp:PSPNet")
    assert shallow.encoder.strides == (2, 4, 8) and len(shallow.encoder.blocks) == 3


def test_blocks_behind_an_early_last_skip_are_not_trained():
    """B0's stride 16 of smp comes after one of three blocks; where it is the last feature, the others never run."""
    options = {"encoder_depth": 4, "decoder_channels": (32, 16, 8, 8)}
    model = create_segmentor("efficientunet_b0", 2, decoder="smp:Unet", decoder_options=options)
    model(torch.randn(2, 3, 32, 32)).mean().backward()
    unused = {".".join(name.split(".")[:4]) for name, p in model.named_parameters() if p.grad is None}
    assert unused == {"encoder.blocks.4.1", "encoder.blocks.4.2"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_configs_can_be_compared_and_hashed():
    config = segmentor_config("bifpnseg_lite0")
    assert hash(config) == hash(config.override()) and config == config.override()
    assert config != config.override(decoder_options={"cells": 1})


def test_building_leaves_smps_registry_as_it_was():
    smp = pytest.importorskip("segmentation_models_pytorch")
    before = set(smp.encoders.encoders)
    small("smp:Linknet")
    with pytest.raises(ConfigError):
        small("smp:FPN", decoder_options={"decoder_merge_policy": "multiply"})
    assert set(smp.encoders.encoders) == before


@pytest.mark.parametrize("padding", ["same", "same_static", "symmetric"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_keeps_resolution_and_sees_as_far(padding, output_stride):
    """The dilated encoder at a coarse px sees what the plain one sees: its last block samples the same pixels."""
    encoder = create_encoder("efficientnet_lite0", padding=padding, stem_feature=True).eval()
    dilated = copy.deepcopy(encoder)
    dilate_encoder(dilated, output_stride)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        plain, wide = encoder(images), dilated(images)
    assert dilated.strides == tuple(min(s, output_stride) for s in (2, 4, 8, 16, 32))
    for feature, stride in zip(wide, dilated.strides, strict=True):
        assert feature.shape[-2:] == (64 // stride, 96 // stride)
    for feature, other, stride in zip(plain, wide, dilated.strides, strict=True):
        if stride < output_stride:
            assert torch.equal(feature, other)
    rates = {conv.dilation[0] for conv in dilated.blocks[5].modules() if isinstance(conv, torch.nn.Conv2d)}
    assert rates == {1, 32 // output_stride}
    assert all(c.stride == (1, 1) for c in dilated.blocks[5].modules() if isinstance(c, torch.nn.Conv2d))


def test_an_undilated_stage_with_timms_rule_starts_as_the_one_before():
    encoder = create_encoder("efficientnetv2_b0")
    dilate_encoder(encoder, 16)
    assert [block.conv_dw.dilation[0] for block in encoder.blocks[5]][:3] == [1, 2, 2]
    smp_rule = create_encoder("efficientnet_b0", stem_feature=True)
    dilate_encoder(smp_rule, 16, early_stride_16=True)
    assert [block.conv_dw.dilation[0] for block in smp_rule.blocks[4]] == [1, 2, 2]
    assert [block.conv_dw.dilation[0] for block in smp_rule.blocks[5]] == [2, 2, 2, 2]


def test_attention_of_zero_weights_passes_its_input_on():
    gate = Attention("scse", 8)
    for parameter in gate.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(gate(x), x)  # x * (1/2 + 1/2)
    assert gate.attention.cSE[1].out_channels == 1  # 8 // 16, but at least one
    assert not list(Attention(None, 8).parameters())


def test_auxiliary_head_is_for_the_loss_only():
    torch.manual_seed(0)
    plain = small("unet").eval()
    model = small("unet", aux_weight=0.5).eval()
    report = load_weights(model, plain.state_dict())
    assert "the source has no auxiliary_head" in str(report)
    images, masks = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))
        losses, expected = model.loss(images, masks), plain.loss(images, masks)
        assert torch.equal(losses["loss_seg"], expected["loss_seg"]) and set(expected) == {"loss_seg"}
        _, auxiliary = model(images, auxiliary=True)
        alone = torch.nn.functional.cross_entropy(auxiliary, masks)
    torch.testing.assert_close(losses["loss_aux"], 0.5 * alone)
    report = load_weights(plain, model.state_dict())
    assert "unused" in str(report) and all(key.startswith("auxiliary_head.") for key in report.unused)
    ignored = model.train().loss(images, torch.full_like(masks, 255))
    assert ignored["loss_seg"].item() == ignored["loss_aux"].item() == 0.0


def test_auxiliary_head_of_other_classes_or_stride_stays():
    source = small("unet", classes=5, aux_weight=0.4)
    for target in (small("unet", classes=3, aux_weight=0.4), small("unet", classes=5, aux_weight=0.4, aux_stride=8)):
        before = target.auxiliary_head[0].weight.clone()
        report = load_weights(target, source.state_dict())
        assert "auxiliary_head is of another stride or classes" in str(report)
        assert torch.equal(target.auxiliary_head[0].weight, before)
    same = small("unet", classes=5, aux_weight=0.4)
    load_weights(same, source.state_dict())
    assert torch.equal(same.auxiliary_head[4].weight, source.auxiliary_head[4].weight)


def test_auxiliary_head_by_class_names():
    """Rows of the head follow class names; the auxiliary head would be in the wrong order and stays."""
    source, target = small("unet", classes=2, aux_weight=0.4), small("unet", classes=2, aux_weight=0.4)
    content = {"format": "effdense/1", "state_dict": source.state_dict(), "meta": {"classes": ["road", "sky"]}}
    report = load_weights(target, content, class_names=("sky", "road"))
    assert torch.equal(target.segmentation_head[0].weight, source.segmentation_head[0].weight.flip(0))
    assert "auxiliary_head" in str(report)


def test_binary_weights_take_two_class_names():
    source, target = small("unet", classes=1), small("unet", classes=1)
    report = load_weights(target, source.state_dict(), class_names=("background", "road"))
    assert not report.remade and torch.equal(target.segmentation_head[0].weight, source.segmentation_head[0].weight)
    report = load_weights(target, small("unet", classes=4).state_dict(), class_names=("background", "road"))
    assert report.remade == ["segmentation_head.0.weight", "segmentation_head.0.bias"]
    with pytest.raises(ConfigError, match="2 classes"):
        load_weights(target, source.state_dict(), class_names=("road",))


@pytest.mark.parametrize("decoder", ["smp:UPerNet", "smp:DeepLabV3", "smp:DeepLabV3Plus", "smp:PAN"])
def test_a_single_image_cannot_train_what_is_pooled(decoder):
    model = small(decoder)
    with pytest.raises(ShapeError, match="at least 2 images"):
        model(torch.randn(1, 3, 64, 64))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("efficientunet_b0", {"decoder": "smp:DeepLab3Plus"}, "Did you mean 'smp:DeepLabV3Plus'"),
        ("efficientunet_b0", {"decoder": "deeplabv3plus"}, "Did you mean 'smp:DeepLabV3Plus'"),
        ("efficientunet_b0", {"decoder": "BiFPN"}, "Did you mean 'bifpn'"),
        ("efficientunet_b0", {"decoder": None}, "no decoder None"),
        ("efficientunet_b0", {"decoder": "smp:DPT"}, "vision transformer"),
        ("efficientunet_b0", {"decoder_options": {"channels": 3}}, "Give decoder_channels"),
        ("efficientunet_b0", {"decoder": "smp:FPN", "decoder_options": [1]}, "must be a dict"),
        ("efficientunet_b0", {"decoder": "smp:FPN", "decoder_options": {"decoder_dropot": 0}}, "'decoder_dropout'"),
        ("efficientunet_b0", {"decoder": "smp:FPN", "decoder_options": {"classes": 4}}, "give num_classes"),
        ("efficientunet_b0", {"decoder": "smp:FPN", "decoder_options": {"encoder_depth": 7}}, "from 2 to 5"),
        ("efficientunet_b0", {"decoder": "smp:FPN", "decoder_options": {"encoder_depth": 2}}, "refuses.*less than 3"),
        ("efficientunet_b0", {"decoder": "smp:FPN", "decoder_options": {"decoder_merge_policy": "x"}}, "refuses.*cat"),
        (
            "efficientunet_b0",
            {"decoder": "smp:PAN", "decoder_options": {"encoder_output_stride": 8}},
            "stride 16 or 32",
        ),
        ("efficientunet_b0", {"decoder": "smp:FPN", "decoder_channels": (8, 8, 8, 8, 8)}, "see FPN of smp"),
        ("efficientunet_b0", {"decoder": "smp:FPN", "upsample": "bilinear"}, "upsample is not an option"),
        ("efficientunet_b0", {"decoder": "smp:FPN", "attention": "scse"}, "no attention; one of unet, smp:Unet"),
        ("efficientunet_b0", {"attention": "se"}, "'scse'"),
        ("efficientunet_b0", {"aux_weight": -1.0}, "at least 0"),
        ("efficientunet_b0", {"aux_stride": 3}, "aux_stride must be 2, 4, 8, 16 or 32"),
        ("efficientunet_b0", {"aux_weight": 0.4, "decoder": "smp:PSPNet"}, "aux_stride can be 2, 4, 8"),
        ("bifpnseg_b0", {"aux_weight": 0.4, "aux_stride": 2}, "aux_stride can be 4, 8, 16, 32"),
        ("bifpnseg_b0", {"decoder_options": {"chanels": 3}}, "Did you mean 'channels'"),
        ("bifpnseg_b0", {"decoder_options": {"cells": 0}}, "cells of decoder 'bifpn'"),
        ("bifpnseg_b0", {"decoder_options": {"max_level": 4}}, "must lie in 5..12"),
        ("bifpnseg_b0", {"decoder_options": {"fusion": "mean"}}, "fusion"),
        ("bifpnseg_b0", {"decoder_channels": (8, 8, 8, 8, 8)}, "head_channels"),
    ],
)
def test_wrong_decoder_arguments(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create_segmentor(name, 2, **options)


def test_wrong_images_are_found_before_they_are_padded():
    for decoder in ("bifpn", "smp:FPN"):
        with pytest.raises(ShapeError, match="expected images"):
            small(decoder)(torch.zeros(3, 64, 64))


def test_another_decoders_weights_fill_the_encoder_and_say_so():
    model = small("smp:FPN")
    report = load_weights(model, small("unet").state_dict())
    assert report.part == "encoder" and "another decoder" in str(report)
    with pytest.raises(WeightsError, match="differ in shape"):
        load_weights(small("smp:FPN", decoder_options={"decoder_pyramid_channels": 32}), model.state_dict())


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("efficientunet_b0", "unet"),
        pytest.param("bifpnseg_b0", "bifpn", marks=pytest.mark.slow),
        pytest.param("efficientunet_b0", "smp:FPN", marks=pytest.mark.slow),
    ],
)
def test_export(name, decoder):
    model = create_segmentor(name, 3, decoder=decoder, aux_weight=0.4).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        program = torch.export.export(model, (images,))
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-5, atol=1e-5)
