"""What papers and release pages say about the models: parameters, multiply-adds, scores, each with its source.

Figures are kept as printed ("5.3M", "0.39B"): the printed digits say how exact they are, and `agrees` asks no more of
them. Multiply-adds are for one image at the size of the model's own config, encoders with their ImageNet head and
detectors with 90 classes. `docs/model_table.md` sets them beside what `costs.model_cost` counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

_V1_PAPER = "EfficientNet, arXiv 1905.11946, table 2"
_LITE = "tensorflow/tpu models/official/efficientnet/lite/README.md"
_V2 = "google/automl efficientnetv2/README.md"
_TIMM_COSTS = "timm results/benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv"
_TIMM_SCORES = "timm results/results-imagenet.csv"
_DET = "google/automl efficientdet/README.md"
_EFFDET = "rwightman/efficientdet-pytorch README.md"

# Why a published figure and ours differ by more than 0.5 % (parameters) or 3 % (multiply-adds).
_PAPER_B2 = (
    "Parameters: the paper rounds up. timm's port, into which Google's weights load, prints 9.11M, as counted here."
)
_PAPER_B4_B5 = (
    "Multiply-adds: the paper's figure is low for its own network. timm prints {timm} for the same network and size, a "
    "count with some element-wise work, {above} above ours."
)
_LITE_ELEMENTWISE = (
    "Multiply-adds: the README counts element-wise work. In all five Lite networks its figure exceeds the count of "
    "convolutions by 3.0 to 3.2 per output element of a convolution: batch norm and ReLU6."
)
_V2_L = (
    "Parameters: the README's 119.5M is no count of its own network. timm's port, into which Google's weights load, "
    "prints 118.52M, as counted here."
)
_D5 = (
    "Multiply-adds: the README's 130B stands alone. EfficientDet table 2 (CVPR 2020) prints 135B, 0.6 % above ours, "
    "in line with the other levels."
)


@dataclass(frozen=True)
class Published:
    """One model as published; None where a figure never was.

    Attributes:
        name: our name of it.
        params, macs: as printed, in M or B.
        cost_source: where they are printed.
        score: ImageNet top-1 in % for encoders, COCO val2017 AP in % for detectors.
        score_source: where it is printed, with the weights it belongs to.
        note: why a figure differs from ours by more than `agrees` allows.
    """

    name: str
    params: str | None = None
    macs: str | None = None
    cost_source: str | None = None
    score: float | None = None
    score_source: str | None = None
    note: str | None = None

    @property
    def metric(self) -> str:
        """What `score` is."""
        return "COCO val AP" if self.name.startswith("efficientdet") else "ImageNet top-1"


def printed_value(figure: str) -> float:
    """The number that a printed figure stands for.

    >>> printed_value("5.3M"), printed_value("407M"), printed_value("0.39B")
    (5300000.0, 407000000.0, 390000000.0)
    """
    return float(_decimal(figure) * _unit(figure))


def agrees(figure: str, measured: float, tolerance: float) -> bool:
    """Is `measured` within `tolerance` (a share) of a printed figure, or does it round to it as printed?

    >>> agrees("7.1M", 7_140_000, 0.005), agrees("9.2M", 9_110_000, 0.005)  # 7.14 is printed 7.1, 9.11 is not 9.2
    (True, False)
    """
    printed = printed_value(figure)
    half_digit = float(Decimal(1).scaleb(int(_decimal(figure).as_tuple().exponent)) * _unit(figure)) / 2
    return abs(measured - printed) <= max(tolerance * printed, half_digit)


def _decimal(figure: str) -> Decimal:
    return Decimal(figure[:-1])


def _unit(figure: str) -> Decimal:
    assert re.fullmatch(r"\d+(\.\d+)?[MB]", figure), figure
    return Decimal(10**6 if figure[-1] == "M" else 10**9)


def _v1(size: str, params: str, macs: str, top1: float, weights: str, note: str | None = None) -> Published:
    return Published(
        f"efficientnet_{size}", params, macs, _V1_PAPER, top1, f"{_TIMM_SCORES}, tf_efficientnet_{size}.{weights}", note
    )


def _lite(size: int, params: str, macs: str, top1: float) -> Published:
    return Published(f"efficientnet_lite{size}", params, macs, _LITE, top1, _LITE, _LITE_ELEMENTWISE)


def _v2(size: str, params: str, macs: str, top1: float, note: str | None = None) -> Published:
    return Published(f"efficientnetv2_{size}", params, macs, _V2, top1, f"{_V2}, trained on ImageNet-1k", note)


def _timm(name: str, params: str, macs: str, top1: float, weights: str) -> Published:
    return Published(name, params, macs, _TIMM_COSTS, top1, f"{_TIMM_SCORES}, {weights}")


def _det(level: str, params: str, macs: str | None, ap: float, note: str | None = None) -> Published:
    return Published(f"efficientdet_{level}", params, macs, _DET, ap, _DET, note)


_ROWS = (
    _v1("b0", "5.3M", "0.39B", 76.5, "in1k"),
    _v1("b1", "7.8M", "0.70B", 78.5, "in1k"),
    _v1("b2", "9.2M", "1.0B", 79.6, "in1k", _PAPER_B2),
    _v1("b3", "12M", "1.8B", 80.9, "in1k"),
    _v1("b4", "19M", "4.2B", 82.6, "in1k", _PAPER_B4_B5.format(timm="4.49B", above="2.2 %")),
    _v1("b5", "30M", "9.9B", 83.2, "in1k", _PAPER_B4_B5.format(timm="10.46B", above="1.9 %")),
    _v1("b6", "43M", "19B", 84.1, "aa_in1k"),
    _v1("b7", "66M", "37B", 84.9, "ra_in1k"),
    _timm("efficientnet_b8", "87.41M", "63.48B", 85.4, "tf_efficientnet_b8.ra_in1k"),
    _timm("efficientnet_l2", "480.31M", "479.12B", 88.4, "tf_efficientnet_l2.ns_jft_in1k (300M more images)"),
    _lite(0, "4.7M", "407M", 75.1),
    _lite(1, "5.4M", "631M", 76.7),
    _lite(2, "6.1M", "899M", 77.6),
    _lite(3, "8.2M", "1.44B", 79.8),
    _lite(4, "13.0M", "2.64B", 81.5),
    _v2("b0", "7.1M", "0.72B", 78.7),
    _v2("b1", "8.1M", "1.2B", 79.8),
    _v2("b2", "10.1M", "1.7B", 80.5),
    _v2("b3", "14.4M", "3.0B", 82.1),
    _v2("s", "21.5M", "8.4B", 83.9),
    _v2("m", "54.1M", "24.7B", 85.2),
    _v2("l", "119.5M", "56.3B", 85.7, _V2_L),
    Published("efficientnetv2_xl", "208.12M", "93.85B", _TIMM_COSTS, 87.2, f"{_V2}, ImageNet-21k, fine-tuned on 1k"),
    _timm("efficientnetv2_rw_t", "13.65M", "3.20B", 82.3, "efficientnetv2_rw_t.ra2_in1k"),
    _timm("efficientnetv2_rw_s", "23.94M", "8.72B", 83.8, "efficientnetv2_rw_s.ra2_in1k"),
    _timm("efficientnetv2_rw_m", "53.24M", "21.49B", 84.8, "efficientnetv2_rw_m.agc_in1k"),
    _det("d0", "3.9M", "2.54B", 34.3),
    _det("d1", "6.6M", "6.10B", 40.2),
    _det("d2", "8.1M", "11.0B", 43.5),
    _det("d3", "12.0M", "24.9B", 46.8),
    _det("d4", "20.7M", "55.2B", 49.3),
    _det("d5", "33.7M", "130B", 51.2, _D5),
    _det("d6", "51.9M", "226B", 52.1),
    _det("d7", "51.9M", "325B", 53.4),
    _det("d7x", "77.0M", "410B", 54.4),
    _det("lite0", "3.2M", None, 26.41),
    _det("lite1", "4.2M", None, 31.50),
    _det("lite2", "5.3M", None, 35.06),
    _det("lite3", "8.4M", None, 38.77),
    _det("lite3x", "9.3M", None, 42.64),
    _det("lite4", "15.1M", None, 43.18),
    Published("efficientdetv2_dt", "13.4M", None, _EFFDET, 46.1, _EFFDET),
    Published("efficientdetv2_ds", "26.6M", None, _EFFDET, 50.1, _EFFDET),
)
PUBLISHED: dict[str, Published] = {row.name: row for row in _ROWS}


def published(name: str) -> Published:
    """The published figures of a model; a row of None where there are none (scaled names, V2 detectors, segmentors)."""
    return PUBLISHED.get(name) or Published(name)
