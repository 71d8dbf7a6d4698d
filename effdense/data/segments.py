"""Outlines of objects: polygons or COCO run lengths, packed for a whole split, moved with their picture by a matrix.

Polygons are pixel-edge coordinates (a picture w pixels wide spans 0..w) and are filled as pycocotools fills them, so
areas and overlaps are COCO's. Symbols: M objects of a split, G of one picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from effdense.data.run_lengths import require_masks
from effdense.errors import DataError

FARTHEST_PX = 100_000.0  # filling a polygon takes memory by the length of its edges


@dataclass(frozen=True, eq=False)
class Segment:
    """The outline of one object.

    Attributes:
        polygons: rings, each (P, 2) x, y px; their union is the object. Empty where there are run lengths.
        rle: COCO's compressed run lengths ``{"size": [h, w], "counts": bytes}`` of the whole picture, or None.
    """

    polygons: tuple[NDArray[np.float32], ...] = ()
    rle: dict[str, Any] | None = None

    def bitmap(self, size: tuple[int, int], matrix: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
        """The object as (h, w) uint8 of 0 and 1.

        Args:
            size: (height, width) px of the result.
            matrix: (3, 3) from the segment's px to those of the result; None where they are the same.
        """
        if self.rle is not None:
            whole = cast(NDArray[np.uint8], coco_mask.decode(self.rle))
            if matrix is None and whole.shape == size:
                return whole
            # OpenCV counts from pixel centres, we from edges.
            half, back = (
                np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]),
                np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]]),
            )
            centred = back @ (np.eye(3) if matrix is None else matrix) @ half
            return cast(
                NDArray[np.uint8],
                cv2.warpPerspective(np.ascontiguousarray(whole), centred, size[::-1], flags=cv2.INTER_NEAREST),
            )
        rings = [ring.astype(np.float64) for ring in self.polygons]
        if matrix is not None:
            rings = [_moved(ring, matrix) for ring in rings]
        if not rings:
            return np.zeros(size, np.uint8)
        runs = coco_mask.frPyObjects([ring.ravel().tolist() for ring in rings], *size)
        return cast(NDArray[np.uint8], coco_mask.decode(coco_mask.merge(runs)))

    def bounds(self, matrix: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """(4,) xyxy of the polygons moved by a matrix; None where only run lengths say what is where."""
        if not self.polygons:
            return None
        points = _moved(np.concatenate(self.polygons).astype(np.float64), matrix)
        return np.concatenate([points.min(0), points.max(0)])

    def to_coco(self) -> Any:
        """The ``segmentation`` of a COCO annotation: a list of flat polygons, or run lengths with text counts."""
        if self.rle is not None:
            return {"size": list(self.rle["size"]), "counts": self.rle["counts"].decode("ascii")}
        return [[float(str(value)) for value in ring.ravel()] for ring in self.polygons]

    @classmethod
    def from_coco(cls, segmentation: Any, size: tuple[int, int]) -> Segment | None:
        """A ``segmentation`` of COCO: polygons, compressed or uncompressed run lengths; None where there is nothing.

        Raises:
            DataError: neither of them, a polygon of less than three points, odd or non-finite numbers, or run lengths
                of another size than (height, width) ``size``.
        """
        if not segmentation:
            return None
        if isinstance(segmentation, dict):
            if list(segmentation.get("size", ())) != list(size):
                raise DataError(
                    f"run lengths of size {segmentation.get('size')}, expected {list(size)} (height, width)."
                )
            counts = segmentation.get("counts")
            try:
                if isinstance(counts, list):
                    if sum(counts) != size[0] * size[1] or min(counts, default=0) < 0:
                        raise ValueError(f"runs of {sum(counts)} px")
                    return cls(rle=coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size))
            except (ValueError, TypeError, AttributeError, OverflowError) as error:
                raise DataError(f"run lengths cannot be read ({error}).") from error
            # pycocotools believes them, and writes beyond the mask where they are too long.
            require_masks([{"size": list(size), "counts": counts}], lambda i: "segmentation")
            packed = counts.encode("ascii") if isinstance(counts, str) else cast(bytes, counts)
            return cls(rle={"size": list(size), "counts": packed})
        if not isinstance(segmentation, list):
            raise DataError(
                f"segmentation must be a list of polygons or run lengths, got {type(segmentation).__name__}."
            )
        rings = []
        for ring in segmentation:
            try:
                points = np.asarray(ring, np.float32)
            except (ValueError, TypeError, OverflowError) as error:
                raise DataError(f"a polygon must be a list of numbers ({error}).") from error
            if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
                raise DataError(
                    f"a polygon must be x, y pairs of at least three points, got {len(np.atleast_1d(points))} numbers."
                )
            if np.abs(points).max() > FARTHEST_PX:
                raise DataError(f"a polygon reaches {np.abs(points).max():.3g} px, more than any picture has.")
            rings.append(points.reshape(-1, 2))
        return cls(tuple(rings))


def _moved(points: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    homogeneous = points @ matrix[:, :2].T + matrix[:, 2]
    return homogeneous[:, :2] / homogeneous[:, 2:]


def positions(rows: Any, count: int) -> NDArray[np.int64]:
    """Positions 0..count-1 from numbers (negative ones count from the end) or a mask of ``count`` booleans.

    Raises: IndexError for one that there is not.
    """
    given = rows if isinstance(rows, np.ndarray) else np.array([*rows])
    return np.arange(count)[given if given.size else given.astype(np.int64)]


def ragged_rows(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of items packed end to end (item i is ``offsets[i]:offsets[i + 1]``) those of ``rows``, in their order.

    Returns: their offsets once packed again, and the places of all their elements.
    """
    counts = np.diff(offsets)[rows]
    packed = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # Place within the output, moved by (old start - new start) of its item.
    return packed, np.arange(packed[-1]) + np.repeat(offsets[rows] - packed[:-1], counts)


def _read_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A view of a split's own points, which a transform must not be able to change."""
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class PackedSegments:
    """Segments of M objects in flat arrays: no Python object per object, so forked workers share the pages.

    Rings of object i are ``ring_of[i]:ring_of[i + 1]``, points of ring r ``point_of[r]:point_of[r + 1]``; run lengths
    of object i are bytes ``run_of[i]:run_of[i + 1]``. An object with neither has no outline.
    """

    points: NDArray[np.float32] = field(repr=False)  # (P, 2)
    point_of: NDArray[np.int64] = field(repr=False)  # (R + 1,)
    ring_of: NDArray[np.int64] = field(repr=False)  # (M + 1,)
    runs: NDArray[np.uint8] = field(repr=False)
    run_of: NDArray[np.int64] = field(repr=False)  # (M + 1,)
    run_sizes: NDArray[np.int32] = field(repr=False)  # (M, 2) height, width; zeros where there are no runs

    def __len__(self) -> int:
        return len(self.ring_of) - 1

    def __getitem__(self, row: int) -> Segment | None:
        row = range(len(self))[row]
        first, last = self.run_of[row : row + 2].tolist()
        if last > first:
            return Segment(rle={"size": self.run_sizes[row].tolist(), "counts": self.runs[first:last].tobytes()})
        rings = range(*self.ring_of[row : row + 2].tolist())
        if not rings:
            return None
        return Segment(tuple(_read_only(self.points[self.point_of[r] : self.point_of[r + 1]]) for r in rings))

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        own: list[NDArray[Any]] = [self.points, self.point_of, self.ring_of, self.runs, self.run_of, self.run_sizes]
        return sum(array.nbytes for array in own)

    def take(self, rows: Iterable[int] | NDArray[np.int64]) -> PackedSegments:
        """Those of these rows, in this order."""
        chosen = positions(rows, len(self))
        ring_of, rings = ragged_rows(self.ring_of, chosen)
        point_of, points = ragged_rows(self.point_of, rings)
        run_of, runs = ragged_rows(self.run_of, chosen)
        return PackedSegments(
            self.points[points], point_of, ring_of, self.runs[runs], run_of, self.run_sizes[chosen]
        )  # fmt: skip

    @classmethod
    def pack(cls, segments: Iterable[Segment | None]) -> PackedSegments:
        """Pack single segments; None for objects without an outline."""
        rings: list[NDArray[np.float32]] = []
        ring_of, run_of, runs, sizes = [0], [0], [], []
        for segment in segments:
            rle = None if segment is None else segment.rle
            rings += () if segment is None or rle is not None else segment.polygons
            ring_of.append(len(rings))
            runs.append(b"" if rle is None else rle["counts"])
            run_of.append(run_of[-1] + len(runs[-1]))
            sizes.append((0, 0) if rle is None else tuple(rle["size"]))
        return cls(
            points=np.concatenate([np.zeros((0, 2), np.float32), *rings]).astype(np.float32),
            point_of=np.concatenate([[0], np.cumsum([len(ring) for ring in rings])]).astype(np.int64),
            ring_of=np.array(ring_of, np.int64),
            runs=np.frombuffer(b"".join(runs), np.uint8),
            run_of=np.array(run_of, np.int64),
            run_sizes=np.array(sizes, np.int32).reshape(-1, 2),
        )


@dataclass(frozen=True, eq=False)
class ObjectMasks:
    """Outlines of the G objects of a sample. They stay in the pixels they were drawn in, each with the matrix that
    leads to the sample's present frame, until :meth:`render` fills them once.
    """

    segments: tuple[Segment | None, ...]
    matrices: NDArray[np.float64]  # (G, 3, 3) px of the segment's picture -> px of the sample's present image

    def __len__(self) -> int:
        return len(self.segments)

    @classmethod
    def at(cls, segments: Sequence[Segment | None], matrix: NDArray[np.float64]) -> ObjectMasks:
        """Segments of one picture, all under one matrix."""
        return cls(tuple(segments), np.repeat(np.asarray(matrix, np.float64)[None], len(segments), 0))

    def moved(self, matrix: NDArray[np.float64]) -> ObjectMasks:
        """The same after the frame was moved by (3, 3) ``matrix``."""
        return ObjectMasks(self.segments, matrix @ self.matrices)

    def bounds(self) -> list[NDArray[np.float64] | None]:
        """Per object (4,) xyxy px of its moved polygons, not clipped; None where there are none."""
        return [None if s is None else s.bounds(matrix) for s, matrix in zip(self.segments, self.matrices)]

    def take(self, chosen: NDArray[Any]) -> ObjectMasks:
        """Those at these positions, or where a mask is True."""
        rows = positions(chosen, len(self))
        return ObjectMasks(tuple(self.segments[i] for i in rows.tolist()), self.matrices[rows])

    def joined(self, other: ObjectMasks) -> ObjectMasks:
        """These and then the other's."""
        return ObjectMasks(self.segments + other.segments, np.concatenate([self.matrices, other.matrices]))

    def render(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(G, H, W) uint8 of 0 and 1 on a canvas of (height, width) ``size``; zeros for objects without an outline."""
        filled = np.zeros((len(self), *size), np.uint8)
        for row, (segment, matrix) in enumerate(zip(self.segments, self.matrices)):
            if segment is not None:
                filled[row] = segment.bitmap(size, matrix)
        return filled
