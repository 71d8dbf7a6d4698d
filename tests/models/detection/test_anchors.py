"""Anchors: places, sizes and order by hand; the order is that of the heads' flattened outputs."""

from __future__ import annotations

import pytest
import torch

from effdense.models.detection.anchors import make_anchors, pyramid_sizes
from effdense.models.detection.losses import flatten_level


def test_four_cells_tile_the_picture() -> None:
    anchors = make_anchors((16, 16), [(2, 2)], anchor_scale=1.0, num_scales=1, aspect_ratios=((1.0, 1.0),))
    assert anchors.dtype == torch.float32
    assert anchors.tolist() == [[0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]]  # row by row


def test_sizes_of_level_3_and_their_order() -> None:
    anchors = make_anchors((8, 8), [(1, 1)])  # one cell of stride 8: base side 4 * 8 = 32
    sides = anchors[:, 2:] - anchors[:, :2]
    base = [[32.0, 32.0], [44.8, 22.4], [22.4, 44.8]]  # square, wide, tall
    expected = [[2 ** (octave / 3) * side for side in pair] for octave in range(3) for pair in base]
    torch.testing.assert_close(sides, torch.tensor(expected))
    torch.testing.assert_close(anchors[:, :2] + anchors[:, 2:], torch.full((9, 2), 8.0))  # centred on (4, 4)


def test_height_and_width_have_strides_of_their_own() -> None:
    anchors = make_anchors((10, 24), [(1, 2)], anchor_scale=1.0, num_scales=1, aspect_ratios=((1.0, 1.0),))
    assert anchors.tolist() == [[0, 0, 12, 10], [12, 0, 24, 10]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]),
        ((225, 319), [(29, 40), (15, 20), (8, 10), (4, 5), (2, 3)]),
        ((1, 1), [(1, 1)] * 5),
    ],
)
def test_every_level_halves_and_rounds_up(size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert pyramid_sizes(size, 3, 7) == expected


def test_efficientdet_d0_has_49104_anchors() -> None:
    assert make_anchors((512, 512), pyramid_sizes((512, 512), 3, 7)).shape == (9 * (4096 + 1024 + 256 + 64 + 16), 4)


def test_centres_are_symmetric_at_a_size_no_stride_divides() -> None:
    anchors = make_anchors((225, 319), pyramid_sizes((225, 319), 3, 7)).double()
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    torch.testing.assert_close(centers.mean(0), torch.tensor([319 / 2, 225 / 2]).double(), rtol=1e-6, atol=0)


def test_order_is_that_of_flattened_outputs() -> None:
    """A head that writes each anchor's own centre and side into its channels must flatten to the anchors."""
    height, width, scales = 2, 3, ((1.0, 1.0), (2.0, 0.5))
    anchors = make_anchors((16, 24), [(height, width)], anchor_scale=1.0, num_scales=1, aspect_ratios=scales)
    output = torch.zeros(1, 2 * 4, height, width)
    for row in range(height):
        for column in range(width):
            for a, (wide, tall) in enumerate(scales):
                x, y = 8 * (column + 0.5), 8 * (row + 0.5)
                box = [x - 4 * wide, y - 4 * tall, x + 4 * wide, y + 4 * tall]
                output[0, 4 * a : 4 * a + 4, row, column] = torch.tensor(box)
    assert torch.equal(flatten_level(output, 2)[0], anchors)
