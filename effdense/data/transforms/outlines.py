"""Exact bounds of objects under a 3x3 matrix, by corners and edges; objects moved with their tight boxes.

Frames are pixel edges. Rings are (P, 2) x, y px, closed from the last point to the first; the inside is where a line
from outside has crossed the ring an odd number of times, and an object is the union of its rings, as in pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from effdense.data.segments import ObjectMasks, Segment
from effdense.data.transforms.outline_clip import NEAREST_DEPTH, box_ring, clip_outlines


def pixel_bounds(bitmap: NDArray[Any]) -> NDArray[np.float64]:
    """xyxy px around the pixels of (H, W) that are not 0; zeros where there are none."""
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    if not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def visible_bounds(
    rings: Sequence[NDArray[Any]], owners: Sequence[int], matrices: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes around what can be seen of moved objects.

    Args:
        rings: R rings, px before the move. owners: (R,) object of each, ascending. matrices: (G, 3, 3) of each object.
        size: height, width px of the canvas.

    Returns:
        (G, 4) xyxy around the part on the canvas, zeros where nothing is; (G, 4) around the whole, infinite for one
        that reaches behind the eye of a perspective.
    """
    count = len(matrices)
    seen, whole = np.zeros((count, 4)), np.zeros((count, 4))
    if not rings:
        return seen, whole
    lengths = np.array([len(ring) for ring in rings])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    owner = np.asarray(owners, np.int64)
    points = np.concatenate(rings).astype(np.float64)
    following = np.arange(1, len(points) + 1)
    following[starts + lengths - 1] = starts
    of_point = np.repeat(owner, lengths)
    moved = np.einsum("pij,pj->pi", matrices[of_point], np.column_stack([points, np.ones(len(points))]))
    first = np.concatenate([[0], np.flatnonzero(np.diff(of_point)) + 1])
    objects = of_point[first]
    with np.errstate(divide="ignore", invalid="ignore"):
        flat = np.where(moved[:, 2:] > NEAREST_DEPTH, moved[:, :2] / moved[:, 2:], np.nan)
    behind = np.isnan(flat)
    whole[objects, :2] = np.minimum.reduceat(np.where(behind, -np.inf, flat), first)
    whole[objects, 2:] = np.maximum.reduceat(np.where(behind, np.inf, flat), first)

    # The part of every edge on the canvas (Liang and Barsky 1984, in homogeneous coordinates, where each border of the
    # canvas is a plane): with g >= 0 on the inner side, an edge enters or leaves at g0 / (g0 - g1).
    height, width = size
    planes = np.array([[1, 0, 0], [-1, 0, width], [0, 1, 0], [0, -1, height], [0, 0, 1]], np.float64)
    side = moved @ planes.T  # (P, 5)
    side[:, 4] -= NEAREST_DEPTH
    g0, g1 = side, side[following]
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = g0 / (g0 - g1)
    enter = np.where((g0 < 0) & (g1 >= 0), cut, 0.0).max(1)
    leave = np.where((g0 >= 0) & (g1 < 0), cut, 1.0).min(1)
    on = (enter <= leave) & ~((g0 < 0) & (g1 < 0)).any(1)
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    for share in (enter, leave):
        ends = moved + share[:, None] * (moved[following] - moved)
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = ends[:, :2] / ends[:, 2:]
        low[objects] = np.minimum(low[objects], np.minimum.reduceat(np.where(on[:, None], ends, np.inf), first))
        high[objects] = np.maximum(high[objects], np.maximum.reduceat(np.where(on[:, None], ends, -np.inf), first))
    _add_covered_corners(low, high, points, points[following], starts, owner, matrices, size)
    found = np.isfinite(low).all(1)
    limit = np.array([width, height], np.float64)
    seen[found] = np.hstack([np.clip(low[found], 0, limit), np.clip(high[found], 0, limit)])
    return seen, whole


def _add_covered_corners(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    points: NDArray[np.float64],
    following: NDArray[np.float64],
    starts: NDArray[np.int64],
    owner: NDArray[np.int64],
    matrices: NDArray[np.float64],
    size: tuple[int, int],
) -> None:
    """Widen (G, 2) bounds by the corners of the canvas that an object covers, in place."""
    height, width = size
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float64)
    home = np.einsum("gij,cj->gci", np.linalg.inv(matrices), corners)  # (G, 4, 3) in the frame of the rings
    in_front = home[..., 2] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = (np.where(in_front, home[..., k] / home[..., 2], np.inf)[owner] for k in (0, 1))  # (R, 4)
    lengths = np.diff(np.append(starts, len(points)))
    x, y = np.repeat(x, lengths, 0), np.repeat(y, lengths, 0)
    ax, ay, bx, by = points[:, :1], points[:, 1:], following[:, :1], following[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    inside = np.add.reduceat(crossed.astype(np.int64), starts) % 2 == 1  # (R, 4)
    for ring, corner in zip(*np.nonzero(inside & in_front[owner]), strict=True):
        low[owner[ring]] = np.minimum(low[owner[ring]], corners[corner, :2])
        high[owner[ring]] = np.maximum(high[owner[ring]], corners[corner, :2])


def move_objects(
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    masks: ObjectMasks | None,
    matrix: NDArray[np.float64],
    frame: tuple[int, int],
    size: tuple[int, int],
    *,
    min_visible: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64], ObjectMasks | None]:
    """Objects moved by any 3x3 matrix, each with the tight box of what is left of it on a canvas.

    The box of an object with an outline is that of its outline where the matrix turns it or the canvas cuts it, and
    the annotated box moved along where nothing does; without an outline the object is the rectangle of its box.

    Args:
        boxes: (G, 4) xyxy px before the move. labels: (G,). masks: their outlines, or None.
        matrix: (3, 3). frame: height, width px of the picture before the move, where outlines end, too.
        size: height, width px of the canvas.
        min_visible: objects go, with box, label and outline, where the box of what is left has less than this share of
            the area of the box of all of it, or a side below 1 px.
    """
    if not len(boxes):
        return boxes, labels, masks
    height, width = size
    matrices = np.repeat(np.asarray(matrix, np.float64)[None], len(boxes), 0)
    objects = [Segment((box_ring(box).astype(np.float32),)) for box in boxes]
    seen, whole = _bounds(objects, matrices, size)
    cut = (whole[:, :2] < 0).any(1) | (whole[:, 2:] > (width, height)).any(1)
    straight = bool(_straight(matrix))
    moved = None if masks is None else clip_outlines(masks, (0, 0, frame[1], frame[0]), frame).moved(matrix)
    changed = cut if straight else np.ones(len(boxes), bool)
    if moved is not None:
        changed = changed | ~_straight(moved.matrices)  # turned before: the box was never annotated
    outlined = [i for i in np.flatnonzero(changed).tolist() if moved is not None and moved.segments[i] is not None]
    if moved is not None and outlined:
        for row in outlined:
            objects[row] = cast(Segment, moved.segments[row])
        matrices[outlined] = moved.matrices[outlined]
        tight, full = _bounds([objects[row] for row in outlined], matrices[outlined], size)
        seen[outlined], whole[outlined] = tight, full
    # A tip that is thinner than a pixel, as cutting a turned object leaves, is not seen.
    for row in {*outlined, *(() if straight else np.flatnonzero(cut).tolist())}:
        if np.isfinite(whole[row]).all():
            seen[row] = on_pixels(objects[row], matrices[row], seen[row])
    sides, full = seen[:, 2:] - seen[:, :2], whole[:, 2:] - whole[:, :2]
    with np.errstate(invalid="ignore"):
        enough = sides.prod(1) >= min_visible * full.prod(1) if min_visible > 0 else np.ones(len(seen), bool)
    keep = (sides >= 1.0).all(1) & enough
    return seen[keep].astype(np.float32), labels[keep], None if moved is None else moved.take(keep)


def _straight(matrices: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether upright boxes stay upright boxes under (..., 3, 3) matrices."""
    turns: NDArray[np.float64] = np.abs(matrices[..., [0, 1, 2, 2], [1, 0, 0, 1]])
    return np.asarray(turns.sum(-1) == 0)


def _bounds(
    objects: Sequence[Segment], matrices: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """:func:`visible_bounds` of outlines; run lengths are drawn, and are all that is known of the whole."""
    rings = [ring for segment in objects for ring in segment.polygons]
    owners = [row for row, segment in enumerate(objects) for _ in segment.polygons]
    seen, whole = visible_bounds(rings, owners, matrices, size)
    for row, segment in enumerate(objects):
        if segment.rle is not None:
            seen[row] = whole[row] = _runs_bounds(segment, matrices[row], size)
    return seen, whole


def _runs_bounds(segment: Segment, matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Bounds of run lengths on a canvas; where nothing turns, those of the part that is seen, moved."""
    if not _straight(matrix) or segment.rle is None:
        return pixel_bounds(segment.bitmap(size, matrix))
    height, width = segment.rle["size"]
    limit = np.array([width, height], np.float64)
    scale, offset = np.diag(matrix)[:2], matrix[:2, 2]
    corners = np.sort((np.array([[0, 0], [size[1], size[0]]]) - offset) / scale, 0)
    (x0, y0), (x1, y1) = np.clip([np.floor(corners[0]), np.ceil(corners[1])], 0, limit).astype(int).tolist()
    part = pixel_bounds(segment.bitmap((height, width))[y0:y1, x0:x1])
    if not part.any():
        return part
    ends = np.sort((part.reshape(2, 2) + [x0, y0]) * scale + offset, 0)
    return np.clip(ends, 0, [size[1], size[0]]).ravel()


def on_pixels(segment: Segment, matrix: NDArray[np.float64], bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bounds of an object, or those of its pixels on sides where they end earlier: at a tip thinner than a pixel."""
    x0, y0 = np.floor(bounds[:2]).astype(int)
    x1, y1 = np.ceil(bounds[2:]).astype(int)
    if segment.rle is not None or x1 <= x0 or y1 <= y0:
        return bounds
    here = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]], np.float64) @ matrix
    drawn = pixel_bounds(segment.bitmap((int(y1 - y0), int(x1 - x0)), here))
    if not drawn.any():
        return drawn
    drawn += [x0, y0, x0, y0]
    return np.where(np.abs(bounds - drawn) > 0.5, drawn, bounds)
