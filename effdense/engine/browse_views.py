"""The pieces that browsing puts together: transforms that are watched, and samples as views."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effdense.data.transforms.geometry import settled
from effdense.data.transforms.staged import StagedTransforms
from effdense.visualize.browse import Classes, View


def steps_of(dataset: Any, epoch: int) -> Sequence[Any]:
    """The transforms of an epoch, counted from 0."""
    transforms = dataset.transforms
    return transforms.at(epoch) if isinstance(transforms, StagedTransforms) else transforms


class Watch:
    """A transform that also notes what it gave; everything else about it is the transform's own."""

    def __init__(self, transform: Any, log: list[tuple[str, Any]]) -> None:
        self._transform, self._log = transform, log

    def __call__(self, *arguments: Any) -> Any:
        sample = self._transform(*arguments)
        self._log.append((type(self._transform).__name__, dict(settled(dict(sample)))))
        return sample

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._transform, name)


def watched(dataset: Any, epoch: int) -> tuple[Any, list[tuple[str, Any]]]:
    """A copy of the dataset whose transforms write into the log."""
    log: list[tuple[str, Any]] = []
    watched = copy.copy(dataset)
    watched.transforms = tuple(Watch(step, log) for step in steps_of(dataset, epoch))
    return watched, log


def fetched(dataset: Any, index: Any) -> list[Any]:
    """A sample as torch's loader gets it."""
    return list(dataset.__getitems__([index])) if hasattr(dataset, "__getitems__") else [dataset[index]]


def view_of(task: str, sample: Mapping[str, Any], name: str, classes: Classes) -> View:
    """A sample of any task under the name of its stage."""
    image = np.ascontiguousarray(sample["image"])
    title = f"{name} {image.shape[1]}x{image.shape[0]}"
    if task == "detection":
        labels = sample["labels"]
        outlines = sample.get("object_masks")
        return View(image, f"{title}, {number_of(len(labels), 'box')}", sample["boxes"], labels, outlines=outlines)
    if task == "segmentation":
        return View(image, title, mask=np.ascontiguousarray(sample["mask"]))
    held = (int(sample["label"]),) if "label" in sample else tuple(np.flatnonzero(sample["shares"]).tolist())
    title = f"{title}," if "label" in sample else f"{name}:"
    return View(image, f"{title} {label_text(sample, classes)}", classes=held)


def label_text(sample: Mapping[str, Any], classes: Classes) -> str:
    """The class of a picture, or the shares of the two largest of a mixed one."""
    if "label" in sample:
        return str(classes.names[int(sample["label"])])
    best = np.argsort(-sample["shares"], kind="stable")[:2]
    return " + ".join(f"{sample['shares'][k]:.2f} {classes.names[k]}" for k in best if sample["shares"][k] > 0)


def number_of(count: int, what: str) -> str:
    """``1 box``, ``2 boxes``."""
    many = f"{what}es" if what.endswith("x") else f"{what}s"
    return f"{count} {what if count == 1 else many}"


def file_of(sample: Mapping[str, Any]) -> str:
    """Its file name without folders."""
    return str(sample["path"]).replace("\\", "/").rsplit("/", 1)[-1]
