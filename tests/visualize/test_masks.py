"""Class maps over pictures and in files: colours by hand, what stays unpainted, wrong input named."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from effdense.data.checks.mask_check import read_index_image
from effdense.errors import ConfigError, ShapeError
from effdense.visualize.masks import draw_mask, save_mask
from effdense.visualize.palette import background_labels, class_color, color_of, color_table


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


def test_a_palette_takes_the_place_of_the_own_colours():
    image = np.full((2, 4, 3), 100, np.uint8)
    mask = np.array([[0, 0, 1, 2]] * 2)
    drawn = draw_mask(image, mask, ["sky", "road", "car"], alpha=1.0, palette=[(10, 20, 30), (1, 2, 3)])
    assert drawn[0].tolist() == [[10, 20, 30], [10, 20, 30], [1, 2, 3], list(class_color(2))]  # past its end, our own
    assert color_of(1, [(10, 20, 30), (1, 2, 3)]) == (1, 2, 3) and color_of(2, [(0, 0, 1)]) == class_color(2)


def test_background_stays_as_it_was():
    """An object of one pixel on the background keeps its full colour; the ground is the photograph."""
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    mask = np.zeros((5, 5), np.uint8)
    mask[1:4, 1:4] = 1
    for names, palette in ((["background", "star"], None), (["ground", "star"], [(0, 0, 0), class_color(1)])):
        drawn = draw_mask(image, mask, names, palette=palette)
        np.testing.assert_array_equal(drawn[mask == 0], image[mask == 0])
        rim = mask == 1
        rim[2, 2] = False
        assert (drawn[rim] == class_color(1)).all()  # on all four sides
        inner = 0.5 * image[2, 2] + 0.5 * np.array(class_color(1))
        np.testing.assert_allclose(drawn[2, 2], inner, atol=1)
    painted = draw_mask(image, mask, ["background", "star"], alpha=1.0, unpainted=())
    assert (painted[mask == 0] == class_color(0)).all()


@pytest.mark.parametrize(
    ("names", "palette", "labels"),
    [
        (["background", "cat"], None, {0}),
        (["Void", "road", "unlabeled"], None, {0, 2}),
        (["aeroplane", "cat"], [(0, 0, 0), (0, 0, 0)], {0}),  # only class 0 is background for being black
        (["sky", "backgrounds"], [(128, 128, 128), (1, 1, 1)], set()),
        (None, None, set()),
    ],
)
def test_which_classes_are_background(names, palette, labels):
    assert background_labels(names, palette) == labels


@pytest.mark.parametrize(
    "palette", [[(0, 0)], [(0, 0, 256)], [(0, 0, -1)], [(0.5, 0.5, 0.5)], [(0, 0, 0)] * 257, [1, 2, 3]]
)
def test_what_is_no_palette(palette):
    with pytest.raises(ConfigError, match="a palette is"):
        color_table(palette)


def test_a_saved_mask_holds_the_numbers_and_shows_the_colours(tmp_path):
    mask = torch.randint(0, 3, (7, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mask[0, 0] = 255
    path = save_mask(mask, tmp_path / "new" / "a.png", ["background", "cat", "dog"])
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_index_image(str(path)), mask.numpy())  # what training reads
    with Image.open(path) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), mask.numpy())
    shown = cv2.imread(str(path))[:, :, ::-1]
    assert (shown[mask == 1] == class_color(1)).all() and (shown[mask == 0] == 0).all()
    assert shown[0, 0].tolist() == [224, 224, 192]
    own = save_mask(mask, tmp_path / "b.png", palette=[(9, 8, 7)])
    assert (cv2.imread(str(own))[:, :, ::-1][mask == 0] == (9, 8, 7)).all()


@pytest.mark.parametrize(
    ("mask", "name", "error", "message"),
    [
        (np.zeros((2, 2), np.uint8), "a.jpg", ConfigError, "without loss"),
        (np.zeros((2, 2), np.float32), "a.png", ShapeError, "float32"),
        (np.zeros((1, 2, 2), np.uint8), "a.png", ShapeError, r"\(1, 2, 2\)"),
        (np.full((2, 2), 300), "a.png", ShapeError, r"holds 300\.\.300"),
    ],
)
def test_masks_that_cannot_be_saved(tmp_path, mask, name, error, message):
    with pytest.raises(error, match=message):
        save_mask(mask, tmp_path / name)
    assert not any(tmp_path.iterdir())
