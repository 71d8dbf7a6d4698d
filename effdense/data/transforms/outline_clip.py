"""Outlines cut to a rectangle, exactly: polygons by their edges, run lengths by their pixels.

Frames are pixel edges. Rings are (P, 2) x, y px, closed from the last point to the first; the inside is where a line
from outside has crossed the ring an odd number of times, as in pycocotools.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from effdense.data.segments import ObjectMasks, Segment

Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 px
NEAREST_DEPTH = 1e-6  # of a perspective: what lies behind the eye is not seen


def box_ring(box: NDArray[Any]) -> NDArray[np.float64]:
    """The four corners (4, 2) of an xyxy box."""
    x0, y0, x1, y1 = (float(v) for v in box)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def clip_outlines(masks: ObjectMasks, rect: Rect, size: tuple[int, int]) -> ObjectMasks:
    """Outlines of which nothing reaches beyond a rectangle of the sample's present frame.

    Args:
        rect: x0, y0, x1, y1 px. size: height, width px of the frame, in which run lengths come back.

    Those that lie within stay as they are; the others come back in the present frame, under the identity.
    """
    segments, matrices = list(masks.segments), masks.matrices.copy()
    for row, segment in enumerate(masks.segments):
        if segment is None:
            continue
        if segment.rle is not None:
            if _runs_inside(segment.rle, masks.matrices[row], rect):
                continue
            bitmap = segment.bitmap(size, masks.matrices[row])
            inside = np.zeros_like(bitmap)
            window = np.s_[rect[1] : rect[3], rect[0] : rect[2]]
            inside[window] = bitmap[window]
            segments[row] = encoded(inside)
        else:
            rings = [moved_ring(ring, masks.matrices[row]) for ring in segment.polygons]
            if all((ring >= rect[:2]).all() and (ring <= rect[2:]).all() for ring in rings):
                continue
            parts = [part for ring in rings for part in clip_ring(ring, rect)]
            segments[row] = Segment(tuple(part.astype(np.float32) for part in parts)) if parts else None
        matrices[row] = np.eye(3)
    return ObjectMasks(tuple(segments), matrices)


def _runs_inside(rle: dict[str, Any], matrix: NDArray[np.float64], rect: Rect) -> bool:
    """Whether run lengths surely lie in a rectangle after a move, said without drawing them."""
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    ring = box_ring(np.array([x, y, x + width, y + height])) @ matrix[:, :2].T + matrix[:, 2]
    if (ring[:, 2] <= NEAREST_DEPTH).any():
        return False
    points = ring[:, :2] / ring[:, 2:]
    return bool((points >= rect[:2]).all() and (points <= rect[2:]).all())


def encoded(bitmap: NDArray[np.uint8]) -> Segment:
    """A (H, W) bitmap of 0 and 1 as run lengths."""
    return Segment(rle=cast(dict[str, Any], coco_mask.encode(np.asfortranarray(bitmap))))


def moved_ring(ring: NDArray[Any], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ring (P, 2) under a (3, 3) matrix."""
    homogeneous = ring.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return homogeneous[:, :2] / homogeneous[:, 2:]


def clip_ring(ring: NDArray[np.float64], rect: Rect) -> list[NDArray[np.float64]]:
    """The parts of a ring inside a rectangle, each a ring of its own: a U that is cut through has two."""
    parts = [ring]
    for axis, sign, border in ((0, 1, rect[0]), (0, -1, rect[2]), (1, 1, rect[1]), (1, -1, rect[3])):
        parts = [piece for part in parts for piece in _cut(part, axis, sign, border)]
    return parts


def _cut(ring: NDArray[np.float64], axis: int, sign: int, border: float) -> list[NDArray[np.float64]]:
    """What of a ring lies on one side of a line: where ``sign * (coordinate - border)`` is positive.

    The points where it crosses the line, in their order along the line, are in turn where the line enters and leaves
    the inside; so each is joined with its partner, and no edge runs along the line outside of the object.
    """
    depth = sign * (ring[:, axis] - border)
    inside = depth > 0
    if inside.all():
        return [ring]
    if not inside.any():
        return []
    first = int(np.flatnonzero(inside & ~np.roll(inside, 1))[0])
    ring, depth, inside = np.roll(ring, -first, 0), np.roll(depth, -first), np.roll(inside, -first)

    def crossing(a: int, b: int) -> NDArray[np.float64]:
        point = ring[a] + depth[a] / (depth[a] - depth[b]) * (ring[b] - ring[a])
        point[axis] = border
        return cast(NDArray[np.float64], point)

    begins = np.flatnonzero(inside & ~np.roll(inside, 1))
    ends = np.flatnonzero(inside & ~np.roll(inside, -1))
    chains = [
        np.vstack([crossing(a - 1, a), ring[a : b + 1], crossing(b, (b + 1) % len(ring))])
        for a, b in zip(begins.tolist(), ends.tolist(), strict=True)
    ]
    # Crossing 2k is where chain k begins, 2k + 1 where it ends.
    places = np.array([end[1 - axis] for chain in chains for end in (chain[0], chain[-1])])
    order = np.argsort(places, kind="stable").reshape(-1, 2)
    partner = np.empty(len(places), np.int64)
    partner[order[:, 0]], partner[order[:, 1]] = order[:, 1], order[:, 0]
    parts, left = [], set(range(len(chains)))
    while left:
        start = 2 * min(left)
        at, pieces = start, []
        while True:
            chain = at // 2
            left.discard(chain)
            pieces.append(chains[chain] if at % 2 == 0 else chains[chain][::-1])
            at = int(partner[at ^ 1])
            if at == start:
                break
        parts.append(np.vstack(pieces))
    return parts
