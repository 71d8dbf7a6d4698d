"""Bounds of what can be seen of an outline, and outlines cut to a window."""

from __future__ import annotations

import numpy as np
import pytest

from effdense.data.segments import ObjectMasks, Segment
from effdense.data.transforms.outline_clip import box_ring, clip_outlines, clip_ring, encoded
from effdense.data.transforms.outlines import move_objects, visible_bounds

U_SHAPE = np.array([[0, 0], [2, 0], [2, 8], [6, 8], [6, 0], [8, 0], [8, 10], [0, 10]], float)


def seen(ring: np.ndarray, size: tuple[int, int], matrix: np.ndarray | None = None) -> list[float]:
    return visible_bounds([ring], [0], (np.eye(3) if matrix is None else matrix)[None], size)[0][0].tolist()


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def test_a_turned_square_is_cut_where_the_canvas_ends() -> None:
    """A diamond of half diagonal 4 around (3, 3): its left tip is beyond the border, its top, too."""
    diamond = np.array([[3, -1], [7, 3], [3, 7], [-1, 3]], float)
    bounds, whole = visible_bounds([diamond], [0], np.eye(3)[None], (10, 5))
    assert bounds.tolist() == [[0, 0, 5, 7]] and whole.tolist() == [[-1, -1, 7, 7]]


def test_what_passes_outside_of_a_corner_widens_nothing() -> None:
    """The clipped box of a bent outline would reach into a corner in which nothing is."""
    bent = np.array([[-2, 2], [1, 2], [1, 3], [-3, 3], [-3, -3], [9, -3], [9, -2], [-2, -2]], float)
    assert seen(bent, (8, 8)) == [0, 2, 1, 3]


def test_an_object_that_covers_everything_or_nothing() -> None:
    assert seen(box_ring(np.array([-9, -9, 99, 99])), (6, 5)) == [0, 0, 5, 6]
    assert seen(box_ring(np.array([20, 0, 30, 5])), (6, 5)) == [0, 0, 0, 0]


def test_behind_the_eye_nothing_is_seen() -> None:
    """w = 1 - x / 10: what lies beyond x = 10 is behind; the seen part goes to the far border."""
    tilt = np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1]], float)
    bounds, whole = visible_bounds([box_ring(np.array([5, 1, 20, 2]))], [0], tilt[None], (40, 40))
    assert bounds[0] == pytest.approx([10, 2, 40, 10]) and np.isinf(whole).all()


def test_a_u_cut_through_is_two_pieces() -> None:
    pieces = clip_ring(U_SHAPE, (0, 0, 8, 5))
    assert sorted(ring[:, 0].min() for ring in pieces) == [0, 6] and [area(ring) for ring in pieces] == [10, 10]
    assert [area(ring) for ring in clip_ring(U_SHAPE, (0, 0, 8, 9))] == [2 * 8 + 2 * 8 + 8 * 1]
    assert clip_ring(U_SHAPE, (3, 0, 5, 7)) == [] and clip_ring(U_SHAPE, (-1, -1, 99, 99))[0] is U_SHAPE


@pytest.mark.parametrize("as_runs", [False, True])
def test_nothing_is_drawn_beyond_the_rectangle(as_runs: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 9)), rng.uniform(50, 300, 9)
        ring = (190 + np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)).astype(np.float32)
        segment = Segment((ring,))
        masks = ObjectMasks.at([encoded(segment.bitmap((400, 400))) if as_runs else segment, None], np.eye(3))
        whole, clipped = masks.render((400, 400))[0], clip_outlines(masks, (80, 50, 300, 330), (400, 400))
        drawn = clipped.render((400, 400))[0]
        inside = np.zeros_like(whole)
        inside[50:330, 80:300] = whole[50:330, 80:300]
        # Points that are rounded anew move a border by a pixel, none beyond the rectangle.
        assert drawn.sum() == drawn[50:330, 80:300].sum() > 0
        assert (drawn != inside).mean() < (1e-9 if as_runs else 0.005)
        assert clipped.segments[1] is None


def test_an_annotated_box_stays_where_nothing_turns_or_cuts_it() -> None:
    """The outline may be drawn more loosely than the box; where it is all that is known, it counts."""
    box, ring = np.array([[2, 2, 8, 8]], np.float32), box_ring(np.array([3, 3, 7, 7])).astype(np.float32)
    masks = ObjectMasks.at([Segment((ring,))], np.eye(3))
    labels = np.array([4])
    double = np.diag([2.0, 2.0, 1.0])
    moved, _, _ = move_objects(box, labels, masks, double, (10, 10), (20, 20), min_visible=0.0)
    assert moved.tolist() == [[4, 4, 16, 16]]
    cut, kept, left = move_objects(box, labels, masks, double, (10, 10), (10, 20), min_visible=0.0)
    assert cut.tolist() == [[6, 6, 14, 10]] and kept.tolist() == [4] and left is not None and len(left) == 1
    none, kept, left = move_objects(box, labels, masks, double, (10, 10), (7, 20), min_visible=0.2)
    assert len(none) == len(kept) == 0 and left is not None and len(left) == 0
    turn = np.array([[0, -1, 10], [1, 0, 0], [0, 0, 1]], float)
    assert move_objects(box, labels, masks, turn, (10, 10), (10, 10), min_visible=0.0)[0].tolist() == [[3, 3, 7, 7]]
