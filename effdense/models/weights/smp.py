"""segmentation-models-pytorch: its models over an EfficientNet; the decoder keeps its names, the encoder gets ours.

Every decoder of smp is read; ``decoder_of`` says which one, for the report.

    efficientnet-b*                encoder._conv_stem ...       efficientnet-pytorch: same_static, eps 1e-3
    timm-efficientnet-b*, -lite*   encoder.conv_stem ...        built by smp with timm's defaults: symmetric, eps 1e-5
    tu-NAME                        encoder.model.conv_stem ...  timm's NAME, which the tensors do not say

``timm-efficientnet-*`` weights come from Google's, but smp runs them symmetric with torch's eps, and so do trained
models of it. Source: segmentation_models_pytorch encoders/efficientnet.py, timm_efficientnet.py, timm_universal.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from effdense.models.weights import lukemelas
from effdense.models.weights.identify import encoder_names_of
from effdense.models.weights.layout import Converted

_ENCODER, _UNIVERSAL = "encoder.", "encoder.model."
# A key of each decoder that none above it has.
_DECODER_KEYS = {
    "UnetPlusPlus": "decoder.blocks.x_0_0.conv1.0.weight",
    "MAnet": "decoder.center.top_conv.weight",
    "Linknet": "decoder.blocks.0.block.0.0.weight",
    "FPN": "decoder.p5.weight",
    "PSPNet": "decoder.psp.blocks.0.pool.1.0.weight",
    "DeepLabV3": "decoder.aspp.convs.0.0.weight",
    "DeepLabV3Plus": "decoder.aspp.0.convs.0.0.weight",
    "PAN": "decoder.fpa.mid.0.conv.weight",
    "UPerNet": "decoder.feature_norms.0.weight",
    "Segformer": "decoder.mlp_stage.0.linear.weight",
    "Unet": "decoder.blocks.0.conv1.0.weight",  # MAnet has it too
}
# DeepLabV3 numbered its parts before smp 0.5 (``DeepLabV3.load_state_dict`` there).
_OLD_DEEPLAB = {"decoder.0.": "decoder.aspp.", "decoder.1.": "decoder.conv.", "decoder.2.": "decoder.bn."}
_OLD_DEEPLAB_KEY = "decoder.0.convs.0.0.weight"
_STEMS = ("encoder._conv_stem.weight", "encoder.conv_stem.weight", "encoder.model.conv_stem.weight")


def recognise(state: Mapping[str, Tensor]) -> bool:
    return any(stem in state for stem in _STEMS)


def convert(state: dict[str, Tensor]) -> Converted:
    universal = _STEMS[2] in state
    prefix = _UNIVERSAL if universal else _ENCODER
    encoder = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    rest = _decoder_names({key: value for key, value in state.items() if not key.startswith(prefix)})
    decoder = decoder_of(rest)
    of_decoder = "" if decoder in (None, "Unet") else f" {decoder}"
    attention = _attention(rest, decoder)
    own_encoder = lukemelas.recognise(encoder)
    renamed = lukemelas.rename(encoder) if own_encoder else encoder
    joined = {**{_ENCODER + key: value for key, value in renamed.items()}, **rest}
    if own_encoder:
        # Of all its encoders, only this one takes the skip of stride 16 after the first block of the stage.
        early = encoder_names_of(renamed) == ["efficientnet_b0"]
        options = {"stem_feature": True, "early_stride_16": early, **attention}
        return Converted(f"smp{of_decoder}", "segmentor", joined, lukemelas.PADDING, lukemelas.BN_EPS, options=options)
    if universal:
        options = {"stem_feature": False, "early_stride_16": False, **attention}  # as timm's ``features_only``
        return Converted(f"smp tu{of_decoder}", "segmentor", joined, options=options)
    # Only smp keeps the head's convolution in the encoder of a segmentor; ours has the same names without it.
    if "encoder.conv_head.weight" in state and any(key.startswith("segmentation_head.") for key in rest):
        options = {"stem_feature": True, "early_stride_16": False, **attention}
        return Converted(f"smp timm-efficientnet{of_decoder}", "segmentor", joined, "symmetric", 1e-5, options=options)
    return Converted("effdense", "segmentor", joined)


def decoder_of(state: Mapping[str, Tensor]) -> str | None:
    """Name of the smp class whose decoder the keys belong to; None for none of them."""
    return next((name for name, key in _DECODER_KEYS.items() if key in state), None)


def _attention(state: Mapping[str, Tensor], decoder: str | None) -> dict[str, Any]:
    if decoder not in ("Unet", "UnetPlusPlus"):
        return {}
    return {"attention": "scse" if any(".attention2.attention.cSE." in key for key in state) else None}


def _decoder_names(rest: dict[str, Tensor]) -> dict[str, Tensor]:
    """Today's names of an old DeepLabV3."""
    if _OLD_DEEPLAB_KEY not in rest:
        return rest
    return {_OLD_DEEPLAB.get(key[:10], key[:10]) + key[10:]: value for key, value in rest.items()}
