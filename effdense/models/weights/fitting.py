"""Which tensors of the source go to which keys of the model, before anything is copied.

Every source has an encoder, so it can fill the encoder of any model; a source of the model's own kind fills all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from effdense.models.weights.layout import Converted

ENCODER_PREFIX = {"encoder": "", "classifier": "", "detector": "backbone.", "segmentor": "encoder."}
# An ImageNet head: nothing in a dense-prediction model reads these.
_HEAD_PREFIXES = ("conv_head.", "bn2.", "classifier.")
_BODY_PREFIXES = ("fpn.", "class_net.", "box_net.", "decoder.", "segmentation_head.")
_AUXILIARY = "auxiliary_head."  # of a segmentor, for training only
_PART_PREFIXES = (*_BODY_PREFIXES, "classification_head.", _AUXILIARY)
# Parts of a network. A source with more in them than the model has was made for another architecture, even if all that
# is needed fits: EfficientDet-D0 holds every tensor that Lite0 asks for.
NETWORK_PREFIXES = ("conv_stem.", "bn1.", "blocks.", "backbone.", "encoder.", *_BODY_PREFIXES)


@dataclass
class Fitting:
    """The source seen from the model.

    Attributes:
        state: tensors by the model's keys, as far as it has them.
        wanted: keys of the model that the source has to fill.
        unused, unexpected: keys of the source, see ``LoadReport``.
        whole: whether the source is of the model's kind, so that all of the model is filled.
        notes: sentences for the report.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    wanted: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    whole: bool = True
    notes: list[str] = field(default_factory=list)


def kind_of_model(own: Iterable[str]) -> str:
    """ "detector", "segmentor", "classifier" or "encoder", from the model's keys."""
    keys = set(own)
    if any(key.startswith("class_net.") for key in keys):
        return "detector"
    if any(key.startswith("encoder.") for key in keys):
        return "segmentor"
    return "classifier" if "classifier.weight" in keys else "encoder"


def fit(converted: Converted, own: Mapping[str, Tensor]) -> Fitting:
    """Sort the source's tensors by where they belong in a model with the tensors `own`."""
    kind = kind_of_model(own)
    source_prefix, prefix = ENCODER_PREFIX[converted.kind], ENCODER_PREFIX[kind]
    fitting = Fitting(whole=_is_whole(converted, kind, own))
    placed: dict[str, str] = {}
    for key in converted.state:
        if fitting.whole and source_prefix == prefix:
            placed[key] = key
        elif key.startswith(source_prefix) and not (source_prefix == "" and key.startswith(_PART_PREFIXES)):
            placed[key] = prefix + key.removeprefix(source_prefix)
        else:
            foreign_decoder = kind == converted.kind == "segmentor"
            known = key.startswith(_PART_PREFIXES) and not foreign_decoder
            (fitting.unused if known else fitting.unexpected).append(key)
    last_stage = _last_stage(own, prefix)
    for key, place in placed.items():
        if place in own:
            fitting.state[place] = converted.state[key]
        else:
            idle = _is_idle(place, prefix, last_stage) or _is_never_run(place, own)
            (fitting.unused if idle else fitting.unexpected).append(key)
    fitting.wanted = [key for key in own if fitting.whole or key.startswith(prefix)]
    if kind == "classifier":
        _excuse_head(fitting)
    elif kind == converted.kind == "segmentor" and not fitting.whole:
        fitting.notes.append("the source has another decoder: decoder and segmentation_head are as they were")
    return fitting


def _is_whole(converted: Converted, kind: str, own: Mapping[str, Tensor]) -> bool:
    if kind in ("encoder", "classifier"):
        return converted.kind == "encoder"
    if converted.kind != kind:
        return False
    bodies = [key for key in own if key.startswith(_BODY_PREFIXES)]
    if kind == "detector":
        return any(key.startswith(_BODY_PREFIXES) for key in converted.state)
    # Other decoders of smp share a name or two; a damaged file of this one keeps most.
    return sum(key in converted.state for key in bodies) * 2 > len(bodies)


def _excuse_head(fitting: Fitting) -> None:
    """A source without the ImageNet head, or without its last layer, fills the rest of a classifier."""
    for prefixes, needed in ((("conv_head.", "bn2."), "conv_head.weight"), (("classifier.",), "classifier.weight")):
        if needed not in fitting.state:
            fitting.wanted = [key for key in fitting.wanted if not key.startswith(prefixes)]
            fitting.notes.append(f"the source has no {needed.split('.')[0]}: the model's is as it was")


def _is_idle(key: str, prefix: str, last_stage: int) -> bool:
    """Whether a key belongs to a part that the model was knowingly built without."""
    inner = key.removeprefix(prefix)
    if prefix and not key.startswith(prefix):
        return key.startswith(("classification_head.", _AUXILIARY))
    stage = _stage(inner)
    return inner.startswith(_HEAD_PREFIXES) or (stage is not None and stage > last_stage)


def _is_never_run(key: str, own: Mapping[str, Tensor]) -> bool:
    """Whether smp built this attention in front of a skip that its block does not have; ours leaves it out."""
    block, attention, _ = key.partition(".attention1.")
    return bool(attention) and f"{block}.attention2.attention.sSE.0.weight" in own


def set_auxiliary_aside(fitting: Fitting, own: Mapping[str, Tensor], *, same_classes: bool) -> list[str]:
    """Leave an auxiliary head as it was unless the source has it in the same shape for the same classes.

    Returns: sentences for the report.
    """
    keys = [key for key in own if key.startswith(_AUXILIARY)]
    state = fitting.state
    if not fitting.whole or not keys:
        return []
    given = [key for key in keys if key in state]
    if same_classes and len(given) == len(keys) and all(state[key].shape == own[key].shape for key in keys):
        return []
    fitting.wanted = [key for key in fitting.wanted if key not in keys]
    fitting.unused += given
    for key in given:
        del state[key]
    what = (
        "the source's auxiliary_head is of another stride or classes" if given else "the source has no auxiliary_head"
    )
    return [f"{what}: the model's is as it was"]


def _stage(key: str) -> int | None:
    """Stage index of a ``blocks.S...`` key."""
    parts = key.split(".")
    return int(parts[1]) if len(parts) > 1 and parts[0] == "blocks" and parts[1].isdigit() else None


def _last_stage(own: Iterable[str], prefix: str) -> int:
    stages = (_stage(key.removeprefix(prefix)) for key in own if key.startswith(prefix))
    return max((stage for stage in stages if stage is not None), default=-1)
