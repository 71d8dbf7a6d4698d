"""Which pictures a detector does worst on: errors at a score threshold, weighted by how sure the detector was of them.

    lost = sum of the scores of the false positives shown + number of the objects that no shown detection takes

A picture loses nothing where all that is shown is right and nothing is missed. Crowd regions are neither missed nor do
detections inside them count. Symbols: N images, M ground truths, D detections, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from effdense.errors import ShapeError
from effdense.evaluation.columns import Found, Truth
from effdense.evaluation.error_matching import CORRECT, CROWD, LEFT_OUT, ErrorMatching


@dataclass(frozen=True, eq=False)
class ImageRanking:
    """Pictures with what is wrong on them; rows as ``Truth.image_ids``.

    Attributes:
        lost: (N,) see above. false, missed, right: (N,) how many.
        shown: (D,) detections at or above the threshold that count.
        taken: (M,) ground truths that a shown detection takes.
        worst: (N,) rows, most lost first; equal ones by more objects, then by id.
        best: rows of pictures with objects, least lost first, of equal ones that with most objects.
    """

    lost: NDArray[np.float64] = field(repr=False)
    false: NDArray[np.int64] = field(repr=False)
    missed: NDArray[np.int64] = field(repr=False)
    right: NDArray[np.int64] = field(repr=False)
    shown: NDArray[np.bool_] = field(repr=False)
    taken: NDArray[np.bool_] = field(repr=False)
    worst: NDArray[np.int64]
    best: NDArray[np.int64]


def rank_images(
    truth: Truth, found: Found, matching: ErrorMatching, threshold: float | NDArray[np.float64]
) -> ImageRanking:
    """Rank the pictures.

    Args:
        matching: of ``match_errors`` on the same columns.
        threshold: lowest score shown, one number or (K,) one for each class.

    Raises: ShapeError: the matching is of other columns, or there is not one threshold for each class.
    """
    classes = len(truth.class_names)
    limits = np.asarray(threshold, np.float64)
    limits = np.full(classes, float(limits)) if limits.ndim == 0 else limits
    if (len(matching.kind), len(matching.state), limits.shape) != (len(found), len(truth), (classes,)):
        raise ShapeError(
            f"rank_images: {len(found)} detections, {len(truth)} ground truths, {classes} classes; the "
            f"matching has {len(matching.kind)} and {len(matching.state)}, thresholds {limits.shape}."
        )
    shown = (matching.kind != LEFT_OUT) & (found.score >= limits[matching.detection_class])
    false = shown & matching.is_false
    right = shown & (matching.kind == CORRECT)
    taken = np.zeros(len(truth), np.bool_)
    taken[matching.partner[right]] = True
    missed = ~taken & (matching.state != CROWD)
    images = truth.image_ids
    of_found, of_truth = _rows(images, found.image), _rows(images, truth.image)
    count = len(images)
    sums = np.bincount(of_found[false], weights=found.score[false], minlength=count)
    misses = np.bincount(of_truth[missed], minlength=count)
    objects = np.bincount(of_truth[matching.state != CROWD], minlength=count)
    lost = (sums + misses).astype(np.float64)
    worst = np.lexsort((images, -objects, -lost))
    best = np.lexsort((images, -objects, lost))
    return ImageRanking(
        lost=lost,
        false=np.bincount(of_found[false], minlength=count),
        missed=misses,
        right=np.bincount(of_found[right], minlength=count),
        shown=shown,
        taken=taken,
        worst=worst,
        best=best[objects[best] > 0],
    )


def _rows(images: NDArray[np.int64], image_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the image of each object; 0 for those on other images, which are never chosen."""
    at = np.searchsorted(images, image_of)
    return np.where(at < len(images), at, 0).astype(np.int64)
