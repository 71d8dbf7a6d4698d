"""What `effdense info`, `list --long` and `fit` print, as lines of text; the numbers come from models/."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from effdense.errors import WeightsError
from effdense.models.costs import ModelCost, build_model, model_cost
from effdense.models.published import published
from effdense.models.search import Measured
from effdense.models.segmentation.decoder_names import BIFPN_OPTIONS
from effdense.models.weights.identify import describe
from effdense.models.weights.layouts import convert_source
from effdense.models.weights.read import innermost, read_checkpoint, read_source

_CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_CONVENTIONS = {
    "same": "same (TensorFlow's)",
    "same_static": "same_static (efficientnet-pytorch's)",
    "symmetric": "symmetric (torch's)",
}
_SHOWN_CLASSES = 20
_COST_COLUMNS = f"{'model':<28} {'params M':>9} {'GMACs':>9} {'2 x MACs G':>11} {'input':>10}"


def side_text(size: tuple[int, int]) -> str:
    """``512`` for a square, else ``384x640`` (height x width)."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def aligned(facts: Sequence[tuple[str, str]]) -> str:
    """One ``label  value`` line per fact."""
    width = max(len(label) for label, _ in facts)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in facts)


def cost_line(name: str, cost: ModelCost) -> str:
    """A row under `list_header`."""
    return (
        f"{name:<28} {cost.total_params / 1e6:>9.2f} {cost.total_macs / 1e9:>9.3f} {cost.flops / 1e9:>11.3f} "
        f"{side_text(cost.image_size):>10}"
    )


def list_header() -> str:
    """Column names; encoders count with their ImageNet head, detectors with 90 classes, as published."""
    return _COST_COLUMNS


def fit_header(with_latency: bool) -> str:
    return f"  {_COST_COLUMNS}{'median ms':>11}" if with_latency else f"  {_COST_COLUMNS}"


def fit_line(one: Measured, *, best: bool = False, with_latency: bool) -> str:
    """A row of `effdense fit`: ``*`` the best, ``-`` over the budget."""
    mark = "*" if best else " " if one.fits else "-"
    line = f"{mark} {cost_line(one.name, one.cost)}"
    if with_latency:
        line += f"{'not timed' if one.latency_ms is None else f'{one.latency_ms:.1f}':>11}"
    return line


def is_checkpoint(text: str) -> bool:
    """Does a command-line argument mean a file or run folder rather than a model's name?"""
    if text.lower().endswith(_CHECKPOINT_SUFFIXES) or os.sep in text:
        return True
    return not text.startswith(("efficient", "bifpnseg")) and Path(text).exists()


def describe_model(
    name: str, image_size: int | tuple[int, int] | None = None, num_classes: int | None = None
) -> Iterator[tuple[str, str]]:
    """Facts about a model by name, as (label, text).

    Raises: ConfigError for an unknown name or an unusable size.
    """
    cost = model_cost(name, image_size, num_classes)
    network: Any = build_model(name, num_classes)
    yield "model", name
    yield "family", _family(name)
    head = f"with the ImageNet head of {cost.num_classes} classes; " if cost.head_params else ""
    yield "parameters", f"{cost.total_params:,} ({head}{cost.params:,} as built)" if head else f"{cost.params:,}"
    yield "MACs", _giga(cost.total_macs, cost.macs)
    yield "2 x MACs", _giga(cost.flops, 2 * cost.macs)
    yield "counted at", f"{cost.image_size[0]} x {cost.image_size[1]} px (height x width)"
    yield from _structure(network, cost)
    row = published(name)
    if row.score is not None:
        yield "published", f"{row.score:g} % {row.metric} ({row.score_source})"
    else:
        yield "published", "no score"
    if row.params is not None:
        yield "published costs", f"{row.params} parameters, {row.macs or 'no'} MACs ({row.cost_source})"
    if row.note:
        yield "difference", row.note


def _structure(network: Any, cost: ModelCost) -> Iterator[tuple[str, str]]:
    if hasattr(network, "class_net"):
        yield from _detector_structure(network, cost)
        return
    encoder = getattr(network, "encoder", network)
    config = network.config
    yield "input", f"{config.resolution} px" if encoder is network else f"{side_text(config.size_hw)} px"
    if encoder is network and config.train_resolution != config.resolution:
        yield "trained at", f"{config.train_resolution} px"
    if encoder is network:
        yield "scale", f"width {config.width:.4g}, depth {config.depth:.4g}"
    else:
        yield "encoder", str(encoder.name)
        yield "decoder", _decoder(config)
        yield "classes", str(network.num_classes)
    yield "strides", _numbers(encoder.strides)
    yield "channels", _numbers(encoder.channels)
    yield "convention", _convention(encoder)


def _decoder(config: Any) -> str:
    if config.decoder == "unet":
        return f"U-Net, channels {_numbers(config.decoder_channels)}"
    options = {**(BIFPN_OPTIONS if config.decoder == "bifpn" else {}), **config.decoder_options}
    return ", ".join([config.decoder, *(f"{name} {value}" for name, value in options.items())])


def _detector_structure(network: Any, cost: ModelCost) -> Iterator[tuple[str, str]]:
    from effdense.models.detection.anchors import pyramid_sizes

    config = network.config
    levels = range(config.min_level, config.max_level + 1)
    cells = sum(h * w for h, w in pyramid_sizes(cost.image_size, config.min_level, config.max_level))
    yield "input", f"{side_text(config.size_hw)} px"
    yield "classes", str(network.num_classes)
    yield "encoder", f"{config.encoder}, channels {_numbers(network.backbone.channels)}"
    yield "BiFPN", f"{config.fpn_cells} cells, {config.fpn_channels} channels, fusion {config.fusion}"
    yield "heads", f"{config.head_repeats} layers, then the prediction"
    yield "strides", f"{_numbers(2**level for level in levels)} (P{levels[0]} to P{levels[-1]})"
    yield "anchors", f"{cells * config.num_anchors:,} per image ({config.num_anchors} per cell)"
    yield "convention", _convention(network.backbone)


def _convention(encoder: Any) -> str:
    padding = _CONVENTIONS.get(encoder.padding, str(encoder.padding))
    eps = next(module.eps for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
    return f"padding {padding}, batch-norm epsilon {eps:g} (default of this model)"


def _family(name: str) -> str:
    families = {
        "efficientdet_lite": "EfficientDet-Lite", "efficientdet": "EfficientDet", "efficientunet": "EfficientUNet",
        "bifpnseg": "EfficientDet's segmentor (BiFPN)",
        "efficientnet_lite": "EfficientNet-Lite", "efficientnetv2": "EfficientNetV2", "efficientnet": "EfficientNet",
    }  # fmt: skip
    return next(text for prefix, text in families.items() if name.startswith(prefix))


def _giga(total: int, built: int) -> str:
    digits = 3 if built >= 1e8 else 6  # networks of a few pixels or channels cost less than a million
    written, as_built = f"{total / 1e9:.{digits}f} G", f"{built / 1e9:.{digits}f} G"
    return written if total == built else f"{written} ({as_built} as built)"


def _numbers(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def describe_checkpoint(path: str) -> Iterator[tuple[str, str]]:
    """Facts that a checkpoint says about itself, as (label, text); a run folder stands for its best.pth.

    Raises: WeightsError for an unreadable file.
    """
    file = Path(path).expanduser()
    file = file / "best.pth" if file.is_dir() else file
    content = read_checkpoint(file)
    content = content if isinstance(content, Mapping) else {}
    yield "checkpoint", str(file)
    weights, _ = innermost(content)
    tensors = [value for value in weights.values() if isinstance(value, Tensor)] if isinstance(weights, Mapping) else []
    meta = content.get("meta")
    known = isinstance(meta, Mapping) and str(content.get("format", "")).startswith("effdense/")
    yield "format", str(content["format"]) if known else "bare weights, no metadata of ours"
    yield "weights", f"{len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors):,} values"
    if known and isinstance(meta, Mapping):
        yield from _describe_meta(meta)
        yield "can resume", "yes" if "optimizer" in content else "no (weights only)"
    elif tensors:
        yield from _describe_foreign(content)


def _describe_foreign(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The layout of weights without a word about themselves, and what to build for them."""
    try:
        converted = convert_source(read_source(content))
    except WeightsError as error:
        yield "layout", str(error)
        return
    yield "layout", converted.layout
    yield "belongs to", describe(converted.state).strip() or "no published model"
    said = f"padding {converted.padding}, batch-norm epsilon {converted.bn_eps:g}" if converted.padding else "not said"
    yield "convention", said


def _describe_meta(meta: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model = meta.get("model")
    if isinstance(model, Mapping):
        yield "model", str(model.get("name"))
        options = ", ".join(f"{key}={value!r}" for key, value in model.items() if key != "name")
        yield "model options", options or "none"
    classes = meta.get("classes")
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        more = f", ... {len(classes) - _SHOWN_CLASSES} more" if len(classes) > _SHOWN_CLASSES else ""
        yield "classes", f"{len(classes)}: {_numbers(classes[:_SHOWN_CLASSES])}{more}"
    for key in ("image_size", "mean", "std", "epoch", "iter", "seed", "effdense_version", "torch_version", "time"):
        if key in meta:
            value = meta[key]
            yield key.replace("_", " "), _numbers(value) if isinstance(value, (list, tuple)) else str(value)
    metrics = meta.get("metrics")
    if isinstance(metrics, Mapping) and metrics:
        yield (
            "metrics",
            ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in metrics.items()
            ),
        )
