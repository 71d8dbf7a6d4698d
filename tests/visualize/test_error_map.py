"""Error maps and legends: colours and shares by hand, which classes a legend shows."""

import math

import numpy as np
import pytest
import torch

from effdense.errors import ConfigError, ShapeError
from effdense.visualize import class_color, class_legend, draw_errors, error_legend, side_by_side, wrong_share
from effdense.visualize.error_map import MISSED, WRONG
from effdense.visualize.legend import entries_of, with_legend


def is_colour(pixel, color):
    """The colour shines through the dimmed picture: its strongest channel leads by far."""
    return int(np.argmax(pixel)) == int(np.argmax(color)) and int(pixel.max()) - int(np.sort(pixel)[1]) > 60


def test_error_map_by_hand():
    """Right, wrong class, missed object, false object, ignored - one column each."""
    image = np.full((16, 5, 3), 200, np.uint8)
    truth = np.tile(np.array([1, 1, 1, 0, 255], np.uint8), (16, 1))
    prediction = np.tile(np.array([1, 2, 0, 1, 1], np.uint8), (16, 1))
    drawn = draw_errors(image, truth, torch.from_numpy(prediction), background=[0])
    assert (drawn[:, 0] == 110).all()  # grey, dimmed to .55
    assert all(is_colour(pixel, WRONG) for pixel in drawn[:, [1, 3]].reshape(-1, 3))
    assert all(is_colour(pixel, MISSED) for pixel in drawn[:, 2])
    assert set(drawn[:, 4].flatten().tolist()) == {110, round(0.15 * 110 + 0.85 * 150)}  # stripes, no colour
    assert (image == 200).all()
    assert all(is_colour(pixel, WRONG) for pixel in draw_errors(image, truth, prediction)[:, 2])  # no background known


def test_share_of_wrong_pixels():
    truth, prediction = np.array([[0, 1], [2, 255]]), np.array([[0, 1], [1, 1]])
    assert wrong_share(truth, torch.from_numpy(prediction)) == pytest.approx(1 / 3)
    assert wrong_share(prediction, prediction) == 0
    assert math.isnan(wrong_share(np.full((2, 2), 255), prediction))


def test_sizes_must_agree():
    image, mask = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    with pytest.raises(ShapeError, match=r"draw_errors, truth.*\(6, 4\)"):
        draw_errors(image, mask.T, mask)
    with pytest.raises(ShapeError, match=r"draw_errors, prediction.*\(2, 6\)"):
        draw_errors(image, mask, mask[:2])
    with pytest.raises(ShapeError, match="wrong_share"):
        wrong_share(mask, mask[:2])


def test_a_short_legend_shows_all_classes_but_the_background():
    names = ["background", "cat", "dog"]
    assert class_legend(names, {}, unpainted=[0]) == [("cat", class_color(1)), ("dog", class_color(2))]
    assert class_legend(names, {}, palette=[(1, 2, 3)])[0] == ("background", (1, 2, 3))


def test_a_long_legend_shows_what_occurs_most_frequent_first():
    names = [f"class {label}" for label in range(60)]
    shown = class_legend(names, {7: 5, 3: 90, 50: 20, 0: 1000, 8: 0}, unpainted=[0])
    assert shown == [(names[label], class_color(label)) for label in (3, 50, 7)]
    many = class_legend(names, dict.fromkeys(range(60), 1))
    assert len(many) == 41 and many[-1][0] == "and 20 more"


def test_the_legend_of_errors_names_what_is_drawn():
    assert [name for name, _ in error_legend()] == ["wrong", "not counted"]
    assert dict(error_legend([0]))["object missed"] == MISSED


def test_legends_in_any_form():
    assert entries_of(["a", "b"]) == [("a", class_color(0)), ("b", class_color(1))]
    assert entries_of({4: "e"}) == [("e", class_color(4))]
    assert entries_of([("x", (1, 2, 3))]) == [("x", (1, 2, 3))]


def test_a_legend_stands_below_and_covers_nothing():
    picture = np.full((40, 50, 3), 7, np.uint8)
    page = with_legend(picture, [("a class of a long name", (1, 2, 3))])
    assert page.shape[0] > 40 and page.shape[1] == 320
    np.testing.assert_array_equal(page[:40, :50], picture)
    assert ((page == (1, 2, 3)).all(2)).sum() > 40
    np.testing.assert_array_equal(with_legend(picture, []), picture)


def test_three_pictures_side_by_side():
    pictures = [np.full((20, 40, 3), value, np.uint8) for value in (10, 100, 200)]
    page = side_by_side(*pictures, legend={2: "cat"})
    assert page.shape[1] == 320  # 136 px of pictures, widened for the legend
    assert [int(page[30, x, 0]) for x in (20, 68, 116)] == [10, 100, 200]
    assert side_by_side(*pictures).shape[1] == 3 * 40 + 2 * 8
    with pytest.raises(ConfigError, match="2 pictures and 1 titles"):
        side_by_side(*pictures[:2], titles=["truth"])
    with pytest.raises(ConfigError, match="0 pictures"):
        side_by_side()
