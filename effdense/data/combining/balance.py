"""How often an epoch shall show each image so that rare classes are seen: classes of the images in, counts out.

What is counted is images in which a class occurs, not objects. Crowd regions do not count. Symbols: N images, K
classes, c a class, f(c) the share of the images that hold it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.readers.mask_values import value_counts
from effdense.data.records import DetectionRecords
from effdense.errors import ConfigError, did_you_mean


@dataclass(frozen=True, eq=False)
class Presence:
    """Which classes occur in which image, once each: pairs sorted by image.

    Attributes:
        size: N. names: of the K classes.
        image, label: (P,) of every pair.
    """

    size: int
    names: tuple[str, ...]
    image: NDArray[np.int64] = field(repr=False)
    label: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of_pairs(cls, size: int, names: tuple[str, ...], image: Any, label: Any) -> Presence:
        """From pairs in any order, with repetitions."""
        keys = np.unique(np.asarray(image, np.int64) * len(names) + np.asarray(label, np.int64))
        return cls(size, names, keys // len(names), keys % len(names))

    def images_per_class(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(K,) images that hold each class, each counted ``weights`` (N,) times."""
        counted = None if weights is None else weights[self.image]
        return np.bincount(self.label, counted, minlength=len(self.names)).astype(np.float64)

    def per_image(self, values: NDArray[np.float64], how: str, empty: float) -> NDArray[np.float64]:
        """(N,) largest or mean of the ``values`` (K,) of an image's classes; ``empty`` for one without any."""
        counts = np.bincount(self.image, minlength=self.size)
        if how == "mean":
            sums = np.bincount(self.image, values[self.label], minlength=self.size)
            return np.where(counts > 0, sums / np.maximum(counts, 1), empty)
        most = np.full(self.size, -np.inf)
        np.maximum.at(most, self.image, values[self.label])
        return np.where(counts > 0, most, empty)


def presence_of(records: Any) -> Presence:
    """Classes of the images of any task. Those of masks are read from the files, about 1 ms each on one core."""
    names = tuple(records.class_map.names)
    if isinstance(records, DetectionRecords):
        objects = ~records.is_crowd
        image = np.repeat(np.arange(len(records)), np.diff(records.offsets))
        return Presence.of_pairs(len(records), names, image[objects], records.labels[objects])
    if isinstance(records, ClassificationRecords):
        return Presence.of_pairs(len(records), names, np.arange(len(records)), records.labels)

    def labels_of(index: int) -> NDArray[np.int64]:
        return np.flatnonzero(value_counts(records.read_mask(index).labels)[: len(names)])

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        labels = list(pool.map(labels_of, range(len(records))))
    image = np.repeat(np.arange(len(records)), [len(one) for one in labels])
    return Presence.of_pairs(len(records), names, image, np.concatenate([np.zeros(0, np.int64), *labels]))


@dataclass(frozen=True)
class RepeatFactor:
    """Images with a rare class are repeated: r(c) = max(1, sqrt(threshold / f(c))), an image takes the largest of its
    classes. An epoch gets longer by what is repeated.

    Args:
        threshold: share of the images below which a class is rare, above 0 and at most 1.

    Source: repeat factor sampling of LVIS (arXiv 1908.03195), whose threshold is 0.001.
    """

    threshold: float = 0.001

    def __post_init__(self) -> None:
        if (
            isinstance(self.threshold, bool)
            or not isinstance(self.threshold, (int, float))
            or not 0 < self.threshold <= 1
        ):
            raise ConfigError(f"RepeatFactor.threshold is a share of the images in (0, 1], got {self.threshold!r}.")

    def __call__(self, presence: Presence) -> NDArray[np.float64]:
        """(N,) how often an epoch shall have each image, at least 1."""
        share = presence.images_per_class() / max(presence.size, 1)
        factors = np.maximum(1.0, np.sqrt(self.threshold / np.maximum(share, 1e-12)))
        return presence.per_image(factors, "rarest", 1.0)


@dataclass(frozen=True)
class ClassBalanced:
    """Images drawn in inverse proportion to how frequent their classes are; an epoch stays as long as the data set.

    A class has the weight f(c) ** -power, an image that of its rarest class, or the mean of its classes. Images without
    objects keep their share of the epoch. Where every image has one class, ``power=1`` shows all classes equally often;
    frequent classes that come along in the images of rare ones (persons in COCO) stay more frequent than those.

    Args:
        power: 1 balances fully, 0 not at all; 0.5 is in between and repeats rare images less.
        image: "rarest" or "mean".
    """

    power: float = 1.0
    image: str = "rarest"

    def __post_init__(self) -> None:
        if isinstance(self.power, bool) or not isinstance(self.power, (int, float)) or not 0 <= self.power <= 1:
            raise ConfigError(f"ClassBalanced.power lies in 0..1, got {self.power!r}.")
        if self.image not in ("rarest", "mean"):
            raise ConfigError(f"ClassBalanced.image must be 'rarest' or 'mean', got {self.image!r}.")

    def __call__(self, presence: Presence) -> NDArray[np.float64]:
        """(N,) how often an epoch shall have each image; they add up to N."""
        share = presence.images_per_class() / max(presence.size, 1)
        weights = np.maximum(share, 1e-12) ** -self.power
        return _shared_out(presence, presence.per_image(weights, self.image, np.nan))


@dataclass(frozen=True)
class Weighted:
    """Images drawn in proportion to weights of classes that the config gives; an epoch stays as long as the data set.

    An image has the largest weight of its classes; images without objects keep their share of the epoch.

    Args:
        weights: class name -> weight. other: weight of the classes that are not named.
    """

    weights: Mapping[str, float]
    other: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise ConfigError(f"Weighted.weights is dict(class name=weight, ...), got {self.weights!r}.")
        for name, weight in {**self.weights, "other": self.other}.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
                raise ConfigError(f"Weighted: the weight of {name!r} must be a number of at least 0, got {weight!r}.")

    def __call__(self, presence: Presence) -> NDArray[np.float64]:
        """(N,) how often an epoch shall have each image; they add up to N."""
        for name in self.weights:
            if name not in presence.names:
                near = did_you_mean(str(name), presence.names)
                raise ConfigError(
                    f"Weighted.weights names {name!r}, which is no class of the data.{near} "
                    f"It has {list(presence.names)}."
                )
        values = np.array([float(self.weights.get(name, self.other)) for name in presence.names])
        return _shared_out(presence, presence.per_image(values, "rarest", np.nan))


def _shared_out(presence: Presence, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts of sum N in proportion to the weights; images without objects (nan) once each."""
    empty = np.isnan(weights)
    total = weights[~empty].sum()
    if not empty.all() and total <= 0:
        raise ConfigError("the sampler gives every image with objects the weight 0; give some class a weight above 0.")
    counts = np.ones(presence.size)
    counts[~empty] = weights[~empty] * ((~empty).sum() / total) if not empty.all() else 0.0
    return counts
