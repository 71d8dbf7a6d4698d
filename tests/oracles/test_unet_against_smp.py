"""EfficientUNet against segmentation-models-pytorch: its Unet's tensors under our names give its logits."""

import re

import pytest
import torch

from effdense.models.segmentation import create_segmentor

smp = pytest.importorskip("segmentation_models_pytorch")

# Key names inside one block of smp's encoder (encoders/_efficientnet.py, after lukemelas), and timm's.
_WITH_EXPANSION = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_GATE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
# The classifier's last convolution, which smp keeps in its encoder and never runs.
_UNUSED = ("encoder._conv_head.", "encoder._bn1.")


def renamed(state, model):
    """smp's state dict under our names."""
    places = [(i, j) for i, stage in enumerate(model.encoder.blocks) for j in range(len(stage))]
    result = {}
    for key, tensor in state.items():
        if key.startswith(_UNUSED):
            continue
        key = key.replace("encoder._conv_stem.", "encoder.conv_stem.").replace("encoder._bn0.", "encoder.bn1.")
        match = re.match(r"encoder\._blocks\.(\d+)\.(\w+)\.(.*)", key)
        if match:
            stage, block = places[int(match[1])]
            names = _WITHOUT_EXPANSION if stage == 0 else _WITH_EXPANSION
            key = f"encoder.blocks.{stage}.{block}.{ {**names, **_GATE}[match[2]] }.{match[3]}"
        result[key] = tensor
    return result


def randomised(network, seed):
    """Statistics and gains of BatchNorm that differ from 0 and 1, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1.5), (module.running_var, 0.5, 1.5)):
                tensor.data.uniform_(low, high, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.2, generator=generator)
    return network.eval()


def calibrated(network):
    """Statistics of random pictures. With those of ``randomised`` V2-S is chaotic: smp's own logits move by 8 % of
    their largest when the input moves by 1e-15 of its own, in float64.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(2)))
    return network.eval()


def pair(level):
    torch.manual_seed(0)
    theirs = randomised(smp.Unet(f"efficientnet-b{level}", encoder_weights=None, classes=11), level)
    ours = create_segmentor(f"efficientunet_b{level}", 11, encoder_padding="same_static").eval()
    ours.load_state_dict(renamed(theirs.state_dict(), ours))  # strict: every tensor of both sides has its place
    return ours, theirs


def check_equal(ours, theirs, size, *, limit=1e-4):
    dtype = next(theirs.parameters()).dtype
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        expected = theirs(images)
        assert ((ours(images) - expected).abs().max() / expected.abs().max()).item() < limit


@pytest.mark.parametrize(
    ("level", "size"),
    [(0, (96, 160)), (1, (64, 96)), (2, (64, 64)), (3, (96, 64)), (4, (64, 64))]
    + [pytest.param(level, (64, 96), marks=pytest.mark.slow) for level in (5, 6, 7)],
)
def test_logits_equal(level, size):
    check_equal(*pair(level), size)


STAGE_ENDS = {"stem_feature": False, "early_stride_16": False}


@pytest.mark.parametrize(
    ("encoder", "name", "options"),
    [
        ("timm-efficientnet-b0", "efficientunet_b0", {"early_stride_16": False, "encoder_padding": "symmetric"}),
        ("timm-tf_efficientnet_lite0", "efficientunet_lite0", {"encoder_padding": "symmetric"}),
        ("tu-tf_efficientnet_b0", "efficientunet_b0", STAGE_ENDS),
        ("tu-tf_efficientnetv2_b0", "efficientunet_v2b0", {}),
        pytest.param("tu-tf_efficientnetv2_s", "efficientunet_v2s", {}, marks=pytest.mark.slow),
    ],
)
def test_smps_other_encoders(encoder, name, options):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = calibrated(randomised(smp.Unet(encoder, encoder_weights=None, classes=5), 3))
    ours = create_segmentor(name, 5, **options).eval()
    unused = ("encoder.conv_head.", "encoder.bn2.", "encoder.model.conv_head.", "encoder.model.bn2.")
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith(unused)}
    ours.load_state_dict({key.replace("encoder.model.", "encoder."): value for key, value in state.items()})
    check_equal(ours.double(), theirs.double(), (64, 96), limit=1e-9)


def test_gradients_equal():
    ours, theirs = pair(0)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for network in (ours, theirs):
        network(images).square().mean().backward()
    for name, parameter in ours.segmentation_head.named_parameters():
        torch.testing.assert_close(
            parameter.grad, theirs.segmentation_head.get_parameter(name).grad, rtol=1e-4, atol=1e-5
        )
    stem, their_stem = ours.encoder.conv_stem.weight.grad, theirs.encoder._conv_stem.weight.grad
    assert (stem - their_stem).abs().max() < 1e-4 * their_stem.abs().max()
