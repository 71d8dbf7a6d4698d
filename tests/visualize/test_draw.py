"""Drawing: what is drawn where, on arrays small enough to check by pixel; colours; sheets; atomic saving."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch

from effdense.errors import ConfigError, ShapeError
from effdense.visualize import class_color, contact_sheet, draw_boxes, save_picture, side_by_side
from effdense.visualize.draw import _place


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_outline_lies_on_the_first_and_last_pixel_of_the_box() -> None:
    """Pixel-edge boxes: (10, 20, 40, 50) covers pixels 10..39 and 20..49."""
    image = grey(60, 60)
    drawn = draw_boxes(image, [[10, 20, 40, 50]], [1], text_scale=0, line_width=1)
    color = class_color(1)
    for row, column in [(20, 10), (20, 39), (49, 10), (49, 39), (35, 10), (20, 25)]:
        assert tuple(drawn[row, column]) == color
    assert (drawn[23:47, 13:37] == 128).all(), "the inside stays as it was"
    assert (drawn[52:, 42:] == 128).all(), "the outside as well"
    assert (image == 128).all(), "a copy is drawn on"


def test_tensor_and_array_draw_the_same() -> None:
    boxes = torch.tensor([[3.2, 4.4, 50.0, 40.0]])
    from_tensor = draw_boxes(grey(64, 64), boxes, torch.tensor([2]), torch.tensor([0.5]))
    from_array = draw_boxes(grey(64, 64), boxes.numpy(), np.array([2]), np.array([0.5]))
    np.testing.assert_array_equal(from_tensor, from_array)


def test_no_boxes_leave_the_image_unchanged() -> None:
    np.testing.assert_array_equal(draw_boxes(grey(30, 40), torch.zeros(0, 4), torch.zeros(0)), grey(30, 40))


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (300, 9), (480, 640)])
def test_any_image_size_and_boxes_beyond_it(size: tuple[int, int]) -> None:
    height, width = size
    boxes = [[-50, -50, width + 50, height + 50], [width + 5, height + 5, width + 9, height + 9], [2, 2, 2, 2]]
    drawn = draw_boxes(grey(height, width), boxes, [0, 1, 2], [0.9, 0.8, 0.7], ["a" * 40, "b", "c"])
    assert drawn.shape == (height, width, 3)
    assert (drawn != 128).any()


def test_labels_stay_inside_the_picture_and_off_each_other() -> None:
    taken: list[tuple[int, int, int, int]] = []
    for rect in [(0, 0, 40, 30), (170, 0, 200, 30), (0, 80, 40, 100), (170, 80, 200, 100), (171, 81, 200, 100)]:
        place = _place(rect, "person 0.50", 0.4, 100, 200, taken)
        assert place[0] >= 0 and place[1] >= 0 and place[2] <= 200 and place[3] <= 100
        for other in taken:
            apart = place[0] >= other[2] or place[2] <= other[0] or place[1] >= other[3] or place[3] <= other[1]
            assert apart, f"{place} hides {other}"
        taken.append(place)


def test_the_best_score_is_drawn_on_top() -> None:
    boxes = [[5, 5, 45, 45], [5, 5, 45, 45]]
    drawn = draw_boxes(grey(60, 60), boxes, [0, 1], [0.2, 0.9], text_scale=0)
    assert tuple(drawn[5, 30]) == class_color(1)
    drawn = draw_boxes(grey(60, 60), boxes, [0, 1], [0.9, 0.2], text_scale=0)
    assert tuple(drawn[5, 30]) == class_color(0)


def test_colors_are_stable_and_distinct() -> None:
    assert class_color(0) == (255, 59, 48)
    colors = [class_color(label) for label in range(80)]
    assert len(set(colors)) == 80
    near = min(np.abs(np.subtract(a, b)).max() for a, b in itertools.combinations(colors[:12], 2))
    assert near >= 55, "the first twelve must be told apart at a glance"


@pytest.mark.parametrize(
    ("image", "boxes", "labels", "scores", "message"),
    [
        (np.zeros((4, 4), np.uint8), [], [], None, r"uint8 \(4, 4\); expected a uint8 array \(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.float32), [], [], None, r"float32"),
        (np.zeros((0, 4, 3), np.uint8), [], [], None, r"no pixels"),
        (grey(9, 9), [[1, 2, 3]], [0], None, r"boxes have shape \(1, 3\)"),
        (grey(9, 9), [[1, 2, 3, 4]], [0, 1], None, r"1 boxes but 2 labels"),
        (grey(9, 9), [[1, 2, 3, 4]], [0], [0.5, 0.5], r"1 boxes but 2 scores"),
        (grey(9, 9), [[1, 2, np.nan, 4]], [0], None, r"box 0 is .*nan"),
    ],
)
def test_wrong_input_is_named(image, boxes, labels, scores, message) -> None:
    with pytest.raises(ShapeError, match=message):
        draw_boxes(image, boxes, labels, scores)


def test_side_by_side_keeps_both_pictures_unresized() -> None:
    page = side_by_side(np.full((20, 30, 3), 10, np.uint8), np.full((40, 50, 3), 200, np.uint8))
    assert page.shape[1] == 30 + 8 + 50
    title = page.shape[0] - 40
    assert (page[title : title + 20, :30] == 10).all()
    assert (page[title:, 38:] == 200).all()


def test_contact_sheet_places_row_by_row() -> None:
    images = [np.full((20, 20, 3), value, np.uint8) for value in (10, 60, 110)]
    page = contact_sheet(images, columns=2, cell_width=20)
    assert page.shape == (8 + 20 + 8 + 20 + 8, 8 + 20 + 8 + 20 + 8, 3)
    assert (page[8:28, 8:28] == 10).all()
    assert (page[8:28, 36:56] == 60).all()
    assert (page[36:56, 8:28] == 110).all()
    assert (page[36:56, 36:56] == 250).all(), "an empty cell is paper"


def test_contact_sheet_legend_shows_the_color_of_each_class() -> None:
    names = [f"class {index}" for index in range(12)]
    page = contact_sheet([grey(50, 50)], columns=1, cell_width=200, heading="val", captions=["one"], legend=names)
    colors = {tuple(color) for color in page.reshape(-1, 3).tolist()}
    assert {class_color(label) for label in range(12)} <= colors
    picked = contact_sheet([grey(50, 50)], cell_width=200, legend={5: "cat"})
    colors = {tuple(color) for color in picked.reshape(-1, 3).tolist()}
    assert class_color(5) in colors and class_color(0) not in colors


def test_contact_sheet_refuses_what_it_cannot_lay_out() -> None:
    with pytest.raises(ConfigError, match="0 images"):
        contact_sheet([])
    with pytest.raises(ConfigError, match="1 images but 2 captions"):
        contact_sheet([grey(5, 5)], captions=["a", "b"])


def test_save_picture_is_rgb_and_leaves_no_part_behind(tmp_path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 250  # red
    path = save_picture(image, tmp_path / "a" / "red.png")
    np.testing.assert_array_equal(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), image)
    jpeg = save_picture(image, tmp_path / "a" / "red.JPEG")
    assert jpeg.read_bytes()[:3] == b"\xff\xd8\xff"
    assert sorted(p.name for p in path.parent.iterdir()) == ["red.JPEG", "red.png"]
    with pytest.raises(ConfigError, match=r"ends in '.gif'; expected .png, .jpg or .jpeg"):
        save_picture(image, tmp_path / "red.gif")
    with pytest.raises(ShapeError, match="save_picture"):
        save_picture(image[..., 0], tmp_path / "grey.png")


def test_save_picture_keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch) -> None:
    path = save_picture(grey(4, 4), tmp_path / "keep.png")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_picture(grey(9, 9), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["keep.png"]
