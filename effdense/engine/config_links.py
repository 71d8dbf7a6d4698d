"""What a config says in two places has to agree: the input size, the number and names of classes, generated splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from effdense.engine.combined_datasets import is_combined, nested
from effdense.engine.config_kinds import fits
from effdense.engine.config_lines import Fault
from effdense.engine.config_tables import SPLITS
from effdense.engine.config_values import lookup
from effdense.engine.registry import MODELS, resolve
from effdense.errors import did_you_mean


def check_links(cfg: Mapping[str, Any]) -> None:
    """Raise Fault where two places contradict each other; both are named."""
    _check_sizes(cfg)
    _check_classes(cfg)
    _check_generated(cfg)


def _check_sizes(cfg: Mapping[str, Any]) -> None:
    said = _pair(cfg.get("image_size"))
    own = _pair(lookup(cfg, "model.image_size"))
    if said and own and said != own:
        raise Fault(
            "model.image_size",
            f"model.image_size is {_text(own)}, image_size of the config {_text(said)}. Say it once, as image_size.",
        )
    task = getattr(resolve(MODELS, lookup(cfg, "model.type"), "model"), "task", None)
    if not said or task not in ("detection", "classification"):
        return  # a segmentor's checkpoint keeps the letterbox that it was scored with, any size
    for split in ("val", "test"):
        where = f"{split}_dataloader.dataset.transforms"
        for i, transform in enumerate(lookup(cfg, where) or ()):
            size = _pair(transform.get("size"))
            if size and size != said:
                raise Fault(
                    f"{where}.{i}.size",
                    f"{where}.{i}.size ({transform.get('type')}) is {_text(size)}, image_size {_text(said)}. Whoever "
                    "loads the checkpoint looks at pictures of image_size, so it has to be scored at that. Remove the "
                    "size; it follows image_size.",
                )


def _check_classes(cfg: Mapping[str, Any]) -> None:
    classes, number = cfg.get("classes"), lookup(cfg, "model.num_classes")
    if classes is not None and not fits(classes, Sequence[str]):
        raise Fault("classes", f"classes must be a list of names, ['cat', 'dog'], got {classes!r}.")
    binary = number == 1 and str(lookup(cfg, "model.type")).endswith("SegmentationModel")
    if classes and type(number) is int and number != len(classes) and not (binary and len(classes) == 2):
        raise Fault(
            "model.num_classes",
            f"model.num_classes is {number}, but classes names {len(classes)} ({', '.join(map(str, classes[:5]))}"
            f"{', ...' if len(classes) > 5 else ''}). Remove model.num_classes; it follows.",
        )
    said: dict[str, Sequence[Any]] = {"classes": list(classes)} if classes else {}
    for split in SPLITS:
        dataset = lookup(cfg, f"{split}_dataloader.dataset")
        own = dataset.get("classes") if isinstance(dataset, Mapping) and not is_combined(dataset) else None
        if own and not isinstance(own, str):
            where = f"{split}_dataloader.dataset.classes"
            for other, names in said.items():
                if list(own) != list(names):
                    raise Fault(
                        where, f"{where} is {list(own)}, {other} {list(names)}. Say it once, as classes of the config."
                    )
            said[where] = list(own)


def _check_generated(cfg: Mapping[str, Any]) -> None:
    """Loaders of one generated set have to name its splits alike, or each would draw a set of its own."""
    nodes = [one for one in _datasets(cfg) if isinstance(one[1].get("splits"), Mapping)]
    for where, node in nodes:
        same = [(place, other) for place, other in nodes if all(other.get(k) == node.get(k) for k in ("type", "root"))]
        for place, other in same:
            split = other.get("split")
            if split is None or split in node["splits"]:
                continue
            # Which of the two is misspelt: a name of splits that no loader reads, or the loader's.
            read = {one.get("split") for _, one in same}
            unused = [key for key in node["splits"] if key not in read and did_you_mean(str(split), {str(key)})]
            near = [key for key in node["splits"] if did_you_mean(str(split), {str(key)})]
            said = " or ".join(
                [*(f"{str(split)!r} in place of {key!r}" for key in unused), *(f"split={key!r}" for key in near)][:3]
            )
            wrong = f"{where}.splits.{unused[0]}" if unused and split in SPLITS else f"{place}.split"
            raise Fault(
                wrong,
                f"{place}.split is {split!r}, {where}.splits names {', '.join(map(repr, node['splits']))}."
                + (f" Did you mean {said}?" if said else ""),
            )


def _datasets(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for split in SPLITS:
        where = f"{split}_dataloader.dataset"
        dataset = lookup(cfg, where)
        if isinstance(dataset, Mapping):
            yield where, dataset
            yield from ((place, node) for place, node, _ in nested(dataset, where) if isinstance(node, Mapping))


def _pair(size: Any) -> tuple[int, int] | None:
    if type(size) is int:
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(type(side) is int for side in size):
        return int(size[0]), int(size[1])
    return None


def _text(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else str(size)
