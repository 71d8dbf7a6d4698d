"""Class maps over pictures: colours by hand, ignored pixels untouched, wrong input named."""

import numpy as np
import pytest
import torch

from effdense.errors import ConfigError, ShapeError
from effdense.visualize.masks import draw_mask
from effdense.visualize.palette import class_color


def test_colours_by_hand():
    image = np.full((4, 6, 3), 100, np.uint8)
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 3:] = 1
    drawn = draw_mask(image, mask, ["a", "b"])
    inner = [np.rint(0.5 * 100 + 0.5 * c) for c in class_color(0)]
    np.testing.assert_allclose(drawn[1, 1], inner, atol=1)
    assert tuple(drawn[1, 3]) == class_color(1)  # the border has the full colour
    np.testing.assert_allclose(drawn[1, 4], [np.rint(50 + 0.5 * c) for c in class_color(1)], atol=1)


def test_ignored_pixels_stay_and_so_does_the_input():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    before = image.copy()
    mask = torch.zeros(20, 30, dtype=torch.uint8)
    mask[5:9] = 255
    drawn = draw_mask(image, mask, ["a"], alpha=1.0)
    np.testing.assert_array_equal(drawn[5:9], image[5:9])
    assert (drawn[10:] == class_color(0)).all()
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(draw_mask(image, torch.full((20, 30), 255), ["a"]), image)


@pytest.mark.parametrize(
    ("mask", "options", "error", "message"),
    [
        (np.zeros((3, 3), np.uint8), {}, ShapeError, r"\(3, 3\)"),
        (np.zeros((4, 4)), {}, ShapeError, "float64"),
        (np.full((4, 4), 2), {}, ShapeError, "holds 2.*0..1"),
        (np.full((4, 4), -1), {}, ShapeError, "holds -1"),
        (np.zeros((4, 4), np.uint8), {"alpha": 1.5}, ConfigError, "alpha"),
    ],
)
def test_wrong_input(mask, options, error, message):
    with pytest.raises(error, match=message):
        draw_mask(np.zeros((4, 4, 3), np.uint8), mask, ["a", "b"], **options)
