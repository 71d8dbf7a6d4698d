"""Every decoder of segmentation-models-pytorch over our encoders: its checkpoints load and give its logits."""

import inspect

import pytest
import torch

from effdense.errors import WeightsError
from effdense.models.segmentation import create_segmentor
from effdense.models.segmentation.attention import SpatialChannelGate
from effdense.models.segmentation.decoder_names import SMP_NAMES
from effdense.models.weights import load_weights

smp = pytest.importorskip("segmentation_models_pytorch")


def randomised(network, seed):
    """Statistics and gains of normalisations that differ from 0 and 1, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1.5), (module.running_var, 0.5, 1.5)):
                tensor.data.uniform_(low, high, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.2, generator=generator)
    return network.eval()


def theirs_of(decoder, encoder, **options):
    torch.manual_seed(0)
    return randomised(getattr(smp, decoder)(encoder, encoder_weights=None, classes=5, **options), 1)


def check_equal(ours, theirs, size, dtype=torch.float32):
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)
    with torch.no_grad():
        expected = theirs(images)
        assert expected.std() > 1e-3 * expected.abs().max()  # no constant picture
        assert ((ours.eval()(images) - expected).abs().max() / expected.abs().max()).item() <= 1e-5


def test_names_are_all_that_smp_has():
    from segmentation_models_pytorch.base import SegmentationModel

    models = {name for name, value in vars(smp).items() if inspect.isclass(value)}
    models = {name for name in models if issubclass(getattr(smp, name), SegmentationModel)}
    assert models - {"DPT"} == set(SMP_NAMES)


@pytest.mark.parametrize(
    ("decoder", "options"),
    [
        ("Unet", {}),
        ("UnetPlusPlus", {}),
        ("MAnet", {}),
        ("Linknet", {}),
        ("FPN", {}),
        ("PSPNet", {}),
        ("DeepLabV3", {}),
        ("DeepLabV3Plus", {}),
        ("DeepLabV3Plus", {"encoder_output_stride": 8}),
        ("PAN", {}),
        ("UPerNet", {}),
        ("Segformer", {}),
        ("FPN", {"encoder_depth": 4, "decoder_merge_policy": "cat", "upsampling": 2}),
    ],
)
@pytest.mark.parametrize("level", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_checkpoints_give_equal_logits(decoder, options, level):
    theirs = theirs_of(decoder, f"efficientnet-b{level}", **options)
    ours = create_segmentor(f"efficientunet_b{level}", 5, decoder=f"smp:{decoder}", decoder_options=options)
    report = load_weights(ours, theirs.state_dict())
    assert report.layout == ("smp" if decoder == "Unet" else f"smp {decoder}")
    assert not report.unexpected and all(key.startswith("encoder.") for key in report.unused)
    check_equal(ours, theirs, (128, 128) if decoder == "PAN" else (64, 96))


@pytest.mark.parametrize(
    ("encoder", "name", "options"),
    [
        ("timm-efficientnet-b0", "efficientunet_b0", {"early_stride_16": False, "encoder_padding": "symmetric"}),
        ("timm-tf_efficientnet_lite0", "efficientunet_lite0", {"encoder_padding": "symmetric"}),
        ("tu-tf_efficientnetv2_b0", "efficientunet_v2b0", {}),
        ("tu-efficientnetv2_rw_t", "efficientunet_v2rw_t", {}),
    ],
)
def test_dilation_of_smps_other_encoders(encoder, name, options):
    """timm leaves the first block of a dilated stage alone, smp does not."""
    pytest.importorskip("timm")
    theirs = theirs_of("DeepLabV3Plus", encoder, encoder_output_stride=8)
    decoder = {"decoder": "smp:DeepLabV3Plus", "decoder_options": {"encoder_output_stride": 8}}
    ours = create_segmentor(name, 5, **decoder, **options)
    load_weights(ours, theirs.state_dict())
    # Random V2 networks let rounding grow a millionfold.
    check_equal(ours.double(), theirs.double(), (64, 96), torch.float64)


def test_attention_equals_smps():
    theirs = smp.base.modules.SCSEModule(32)
    ours = SpatialChannelGate(32)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 32, 7, 9)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("decoder", ["unet", "smp:Unet", "smp:UnetPlusPlus"])
def test_scse_checkpoints_load(decoder):
    smp_name = decoder.removeprefix("smp:") if decoder != "unet" else "Unet"
    theirs = theirs_of(smp_name, "efficientnet-b0", decoder_attention_type="scse")
    ours = create_segmentor("efficientunet_b0", 5, decoder=decoder, attention="scse")
    report = load_weights(ours, theirs.state_dict())
    assert not report.unexpected
    check_equal(ours, theirs, (64, 96))
    plain = create_segmentor("efficientunet_b0", 5, decoder=decoder)
    with pytest.raises(WeightsError, match="trained with attention='scse'"):
        load_weights(plain, theirs.state_dict())
    without = theirs_of(smp_name, "efficientnet-b0")
    with pytest.raises(WeightsError, match="trained with attention=None"):
        load_weights(ours, without.state_dict())


def test_smps_own_name_of_the_attention():
    options = {"decoder_attention_type": "scse"}
    ours = create_segmentor("efficientunet_b0", 5, decoder="smp:UnetPlusPlus", decoder_options=options)
    theirs = theirs_of("UnetPlusPlus", "efficientnet-b0", **options)
    load_weights(ours, theirs.state_dict())
    check_equal(ours, theirs, (64, 64))


def test_deeplab_of_old_smp_and_its_classification_head():
    theirs = theirs_of("DeepLabV3", "efficientnet-b0", aux_params={"classes": 2})
    old = {"decoder.aspp.": "decoder.0.", "decoder.conv.": "decoder.1.", "decoder.bn.": "decoder.2."}
    state = {}
    for key, value in theirs.state_dict().items():
        for new, before in old.items():
            key = key.replace(new, before) if key.startswith(new) else key
        state[key] = value
    assert any(key.startswith("decoder.0.") for key in state)
    ours = create_segmentor("efficientunet_b0", 5, decoder="smp:DeepLabV3")
    report = load_weights(ours, state)
    assert {key for key in report.unused if not key.startswith("encoder.")} == {
        "classification_head.3.weight",
        "classification_head.3.bias",
    }
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs(images)[0], rtol=1e-5, atol=1e-5)


def test_weights_of_another_decoder_fill_the_encoder_only():
    ours = create_segmentor("efficientunet_b0", 5)
    report = load_weights(ours, theirs_of("FPN", "efficientnet-b0").state_dict())
    assert report.layout == "smp FPN" and report.part == "encoder" and "another decoder" in str(report)
