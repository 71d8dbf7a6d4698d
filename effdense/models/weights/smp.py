"""segmentation-models-pytorch: its models over an EfficientNet; the decoder keeps its names, the encoder gets ours.

    efficientnet-b*                encoder._conv_stem ...       efficientnet-pytorch: same_static, eps 1e-3
    timm-efficientnet-b*, -lite*   encoder.conv_stem ...        built by smp with timm's defaults: symmetric, eps 1e-5
    tu-NAME                        encoder.model.conv_stem ...  timm's NAME, which the tensors do not say

``timm-efficientnet-*`` weights come from Google's, but smp runs them symmetric with torch's eps, and so do trained
models of it. Source: segmentation_models_pytorch encoders/efficientnet.py, timm_efficientnet.py, timm_universal.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from effdense.models.weights import lukemelas
from effdense.models.weights.identify import encoder_names_of
from effdense.models.weights.layout import Converted

_ENCODER, _UNIVERSAL = "encoder.", "encoder.model."
_STEMS = ("encoder._conv_stem.weight", "encoder.conv_stem.weight", "encoder.model.conv_stem.weight")


def recognise(state: Mapping[str, Tensor]) -> bool:
    return any(stem in state for stem in _STEMS)


def convert(state: dict[str, Tensor]) -> Converted:
    universal = _STEMS[2] in state
    prefix = _UNIVERSAL if universal else _ENCODER
    encoder = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
    own_encoder = lukemelas.recognise(encoder)
    renamed = lukemelas.rename(encoder) if own_encoder else encoder
    joined = {**{_ENCODER + key: value for key, value in renamed.items()}, **rest}
    if own_encoder:
        # Of all its encoders, only this one takes the skip of stride 16 after the first block of the stage.
        early = encoder_names_of(renamed) == ["efficientnet_b0"]
        options = {"stem_feature": True, "early_stride_16": early}
        return Converted("smp", "segmentor", joined, lukemelas.PADDING, lukemelas.BN_EPS, options=options)
    if universal:
        options = {"stem_feature": False, "early_stride_16": False}  # as timm's ``features_only``
        return Converted("smp tu", "segmentor", joined, options=options)
    # Only smp keeps the head's convolution in the encoder of a segmentor; ours has the same names without it.
    if "encoder.conv_head.weight" in state and any(key.startswith("segmentation_head.") for key in rest):
        options = {"stem_feature": True, "early_stride_16": False}
        return Converted("smp timm-efficientnet", "segmentor", joined, "symmetric", 1e-5, options=options)
    return Converted("effdense", "segmentor", joined)
