"""EfficientUNet: names, any input size, loss and gradients, options that are refused."""

import pytest
import torch

from effdense.errors import ConfigError, ShapeError
from effdense.models.encoders import encoder_names
from effdense.models.segmentation import create_segmentor, segmentor_config, segmentor_names
from effdense.models.segmentation.segmentor import features_with_early_stride_16


@pytest.fixture(scope="module")
def segmentor():
    torch.manual_seed(0)
    return create_segmentor("efficientunet_b0", num_classes=5, dice_weight=0.5)


def test_names_and_their_encoders():
    names = segmentor_names()
    assert {"efficientunet_b7", "efficientunet_l2", "efficientunet_lite4", "efficientunet_v2xl"} <= set(names)
    assert {"efficientunet_v2b3", "efficientunet_v2rw_t", "bifpnseg_b4", "bifpnseg_v2s"} <= set(names)
    for kind in ("efficientunet_", "bifpnseg_"):
        assert [segmentor_config(name).encoder for name in names if name.startswith(kind)] == encoder_names()
    assert segmentor_config("efficientunet_v2s").encoder == "efficientnetv2_s"
    assert segmentor_config("efficientunet_v2rw_s").encoder_padding == "symmetric"


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 50)])
def test_logits_have_the_size_of_the_input(segmentor, size):
    with torch.no_grad():
        assert segmentor.eval()(torch.randn(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize("name", ["efficientunet_lite0", "efficientunet_v2b0"])
def test_other_families(name):
    model = create_segmentor(name, 3, stem_feature=False, upsample="bilinear", in_channels=1).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 40, 72)).shape == (1, 3, 40, 72)


def test_one_logit_tells_two_classes_apart():
    torch.manual_seed(0)
    model = create_segmentor("efficientunet_lite0", 1, class_weights=(1.0, 2.0), drop_path_rate=0.0)
    images = torch.randn(2, 3, 32, 64)
    masks = (images[:, 0] > 0).byte()
    masks[:, :4] = 255
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model.loss(images, masks)["loss_seg"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert model.eval()(images).shape == (2, 1, 32, 64)
    with pytest.raises(ShapeError, match="2"):
        model.loss(images, masks.clamp(max=2))


def test_batch_equals_single(segmentor):
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        segmentor.eval()
        both = segmentor(images)
        torch.testing.assert_close(both[:1], segmentor(images[:1]), rtol=1e-4, atol=1e-4)


def test_channels_last_changes_the_layout_and_nothing_else(segmentor):
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain = segmentor.eval()(images)
        model = create_segmentor("efficientunet_b0", num_classes=5, dice_weight=0.5)
        model.load_state_dict(segmentor.state_dict())
        model = model.eval().to(memory_format=torch.channels_last)
        fast = model(images.to(memory_format=torch.channels_last))
    assert fast.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


def test_every_parameter_learns(segmentor):
    segmentor.train()
    segmentor.zero_grad()
    masks = torch.randint(0, 5, (2, 64, 64), dtype=torch.uint8)
    segmentor.loss(torch.randn(2, 3, 64, 64), masks)["loss_seg"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in segmentor.parameters())


def test_all_ignore_batch_moves_nothing(segmentor):
    segmentor.train()
    segmentor.zero_grad()
    loss = segmentor.loss(torch.randn(2, 3, 64, 64), torch.full((2, 64, 64), 255, dtype=torch.uint8))["loss_seg"]
    loss.backward()
    assert loss.item() == 0.0 and all((p.grad == 0).all() for p in segmentor.parameters())


def test_a_few_steps_fit_one_picture():
    torch.manual_seed(0)
    model = create_segmentor("efficientunet_b0", 3, drop_path_rate=0.0)
    images = torch.randn(2, 3, 64, 64)
    masks = (images[:, 0] > 0).long() + (images[:, 1] > 1).long()
    masks[:, :8] = 255
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model.loss(images, masks)["loss_seg"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


def test_dropout_works_in_front_of_the_head_and_in_training_only(segmentor):
    images = torch.randn(2, 3, 64, 64)
    segmentor.eval()
    with torch.no_grad():
        kept = segmentor(images)
        segmentor.set_dropout(0.5)
        torch.testing.assert_close(segmentor(images), kept)
        segmentor.dropout.train()
        assert not torch.allclose(segmentor(images), kept)
    segmentor.set_dropout(0.0)
    with pytest.raises(ConfigError, match=r"\[0, 1\), got 1\.0"):
        segmentor.set_dropout(1.0)


def test_weight_options_rebuild_it():
    model = create_segmentor("efficientunet_b0", 5).eval()
    assert model.weight_options == {}
    model.encoder.set_convention(padding="symmetric", bn_eps=1e-5)
    assert model.weight_options == {"encoder_padding": "symmetric"}  # 1e-5 goes with it
    model.encoder.set_convention(bn_eps=2e-3)
    again = create_segmentor("efficientunet_b0", 5, **model.weight_options).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


def test_early_stride_16_changes_that_feature_only():
    encoder = create_segmentor("efficientunet_b0", 2).encoder.eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours, early = encoder(images), features_with_early_stride_16(encoder, images)
        for position in (0, 1, 2, 4):
            assert torch.equal(ours[position], early[position])
        stage = encoder.blocks[4]
        torch.testing.assert_close(stage[2](stage[1](early[3])), ours[3])


def test_class_weights_follow_the_device_and_stay_out_of_checkpoints():
    model = create_segmentor("efficientunet_b0", 2, class_weights=(1.0, 3.0))
    assert model.class_weights.tolist() == [1.0, 3.0]
    assert "class_weights" not in model.state_dict() and "class_weights" in dict(model.named_buffers())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("efficientunet_bo", 2), {}, "Did you mean 'efficientunet_b"),
        (("efficientunet_b99", 2), {}, "efficientunet_ or bifpnseg_ and one of b0, b1"),
        (("efficientunet_b0", 1), {"ignore_index": 1}, "one of the 2 classes"),
        (("efficientunet_b0", 1), {"class_weights": (1.0,)}, "1 values for background and object"),
        (("efficientunet_b0", 0), {}, "got 0"),
        (("efficientunet_b0", 256), {}, "ignore_index 255"),
        (("efficientunet_b0", 2), {"decoder_chanels": (1,)}, "Did you mean 'decoder_channels'"),
        (("efficientunet_b0", 2), {"decoder_channels": (8, 8)}, "five"),
        (("efficientunet_b0", 2), {"upsample": "cubic"}, "cubic"),
        (("efficientunet_b0", 2), {"image_size": 0}, "image_size"),
        (("efficientunet_b0", 2), {"dropout": 1.0}, "dropout"),
        (("efficientunet_b0", 2), {"ce_weight": 0.0}, "nor all 0"),
        (("efficientunet_b0", 2), {"lovasz_weight": -1.0}, "lovasz_weight -1.0"),
        (("efficientunet_b0", 2), {"ohem_threshold": 1.5}, "ohem_threshold must lie"),
        (("efficientunet_b0", 2), {"focal_gamma": -1.0}, "focal_gamma"),
        (("efficientunet_b0", 2), {"class_weights": (1.0,)}, "1 values for 2 classes"),
        (("efficientunet_b0", 2), {"class_weights": (1.0, float("nan"))}, "class_weights must be a finite number"),
        (("efficientunet_b0", 2), {"class_weights": "ab"}, "class_weights must be a finite number"),
        (("efficientunet_b0", 2), {"class_weights": ()}, "class_weights must not"),
        (("efficientunet_b0", 2), {"dice_weight": "1"}, "dice_weight must be a finite number"),
        (("efficientunet_b0", 2), {"aux_weight": float("inf")}, "aux_weight must be a finite number"),
        (("efficientunet_b0", 2), {"ignore_index": 2.5}, "ignore_index must be a whole number"),
        (("efficientunet_b0", 2), {"decoder_channels": 8}, "five"),
        (("efficientunet_b0", 2), {"bn_eps": 0.0}, "bn_eps must be above 0"),
        (("efficientunet_b0", 2), {"encoder_bn_eps": -1.0}, "encoder_bn_eps must be above 0"),
        (("efficientunet_b0", 2), {"bn_momentum": 2.0}, "bn_momentum must lie"),
        (("efficientunet_b0", 2), {"encoder_padding": "sane"}, "padding"),
    ],
)
def test_wrong_arguments(arguments, options, message):
    with pytest.raises(ConfigError, match=message):
        create_segmentor(*arguments, **options)


def test_wrong_images(segmentor):
    with pytest.raises(ShapeError, match="expected images"):
        segmentor(torch.zeros(1, 1, 64, 64))
