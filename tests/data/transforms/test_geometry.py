"""Geometry: boxes worked out by hand, then painted masks that go through the same transforms as an oracle."""

import cv2
import numpy as np
import pytest
import torch

from effdense.data.dataset import Sample
from effdense.data.transforms.geometry import (
    HorizontalFlip,
    ResizePad,
    ScaleJitterCrop,
    VerticalFlip,
    invert_boxes,
    largest_class_share,
    resize_window,
    transform_boxes,
)
from effdense.errors import ConfigError, ShapeError


def make_sample(image, boxes, labels=None):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Sample(
        image=image,
        boxes=boxes,
        labels=np.arange(len(boxes)) if labels is None else np.asarray(labels),
        image_id=1,
        index=0,
        original_size=image.shape[:2],
        matrix=np.eye(3),
        path="a.jpg",
    )


def grey(height, width):
    return np.full((height, width, 3), 200, np.uint8)


def test_resize_pad_by_hand():
    # 40 high, 80 wide into 100x100: scale 1.25, so 50 high and 100 wide, 50 rows of fill below.
    out = ResizePad(100)(make_sample(grey(40, 80), [[8, 4, 16, 40]]))
    assert out["image"].shape == (100, 100, 3)
    assert (out["image"][:50] == 200).all()
    assert (out["image"][50:] == (124, 116, 104)).all()
    np.testing.assert_allclose(out["boxes"], [[10, 5, 20, 50]])
    np.testing.assert_allclose(out["matrix"], [[1.25, 0, 0], [0, 1.25, 0], [0, 0, 1]])
    assert out["original_size"] == (40, 80)


def test_resize_pad_has_exact_scale_per_axis():
    # 37 * (64 / 100) = 23.68 becomes 24 rows: the matrix says 24 / 37, not 0.64.
    out = ResizePad((64, 64))(make_sample(grey(37, 100), [[0, 0, 100, 37]]))
    np.testing.assert_allclose(out["matrix"], np.diag([0.64, 24 / 37, 1]))
    np.testing.assert_allclose(out["boxes"], [[0, 0, 64, 24]], atol=1e-5)


def test_flip_by_hand():
    image = grey(4, 10)
    image[:, 0] = 7
    flipped = HorizontalFlip(1.0)(make_sample(image, [[1, 0, 4, 2]]), np.random.default_rng(0))
    np.testing.assert_allclose(flipped["boxes"], [[6, 0, 9, 2]])
    assert (flipped["image"][:, 9] == 7).all() and (flipped["image"][:, :9] == 200).all()
    np.testing.assert_allclose(flipped["matrix"], [[-1, 0, 10], [0, 1, 0], [0, 0, 1]])
    same = HorizontalFlip(0.0)(make_sample(image, [[1, 0, 4, 2]]), np.random.default_rng(0))
    np.testing.assert_array_equal(same["image"], image)


def test_vertical_flip_by_hand():
    image = grey(4, 10)
    image[0] = 7
    flipped = VerticalFlip(1.0)(make_sample(image, [[1, 0, 4, 2]]), np.random.default_rng(0))
    np.testing.assert_allclose(flipped["boxes"], [[1, 2, 4, 4]])
    assert (flipped["image"][3] == 7).all() and (flipped["image"][:3] == 200).all()
    np.testing.assert_allclose(flipped["matrix"], [[1, 0, 0], [0, -1, 4], [0, 0, 1]])
    assert transform_boxes(np.array([[1.0, 0, 4, 2]]), flipped["matrix"]).tolist() == [[1, 2, 4, 4]]
    masked = make_masked(grey(2, 3), np.array([[0, 1, 2], [3, 4, 5]], np.uint8))
    assert VerticalFlip(1.0)(masked, np.random.default_rng(0))["mask"].tolist() == [[3, 4, 5], [0, 1, 2]]
    same = VerticalFlip(0.0)(masked, np.random.default_rng(0))
    np.testing.assert_array_equal(same["mask"], masked["mask"])


def test_window_is_cut_before_resizing_and_the_matrix_knows():
    image = np.zeros((20, 20, 3), np.uint8)
    image[10:12, 6:10] = 255
    # Source columns 4..14 and rows 8..18 doubled: the bright part lands on columns 4..12 and rows 4..8.
    canvas, matrix = resize_window(image, (4, 8, 14, 18), (20, 20), (16, 24), fill=(9, 9, 9), interpolation="linear")
    assert canvas.shape == (16, 24, 3)
    np.testing.assert_allclose(matrix, [[2, 0, -8], [0, 2, -16], [0, 0, 1]])
    rows, columns = np.nonzero(canvas[:, :20, 0] > 127)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (4, 12, 4, 8)
    assert (canvas[:, 20:] == 9).all()


def test_auto_interpolation_averages_when_shrinking():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    shrunk, _ = resize_window(stripes, (0, 0, 8, 8), (4, 4), (4, 4))
    assert (shrunk == 100).all()
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    grown, _ = resize_window(image, (0, 0, 40, 30), (60, 80), (60, 80))
    np.testing.assert_array_equal(grown, cv2.resize(image, (80, 60), interpolation=cv2.INTER_LINEAR))
    linear, _ = resize_window(image, (0, 0, 40, 30), (15, 20), (15, 20), interpolation="linear")
    np.testing.assert_array_equal(linear, cv2.resize(image, (20, 15), interpolation=cv2.INTER_LINEAR))


def test_small_and_hidden_boxes_go_with_their_labels():
    # Shrunk to a tenth: 5 px become half a pixel.
    boxes = [[0, 0, 5, 50], [0, 0, 50, 5], [10, 10, 20, 20], [90, 90, 100, 100]]
    out = ResizePad(10)(make_sample(grey(100, 100), boxes, [3, 4, 5, 6]))
    np.testing.assert_allclose(out["boxes"], [[1, 1, 2, 2], [9, 9, 10, 10]], atol=1e-5)
    assert out["labels"].tolist() == [5, 6]


def test_min_visible_drops_what_is_mostly_cut_off():
    image = grey(10, 100)
    boxes = [[0, 0, 100, 10]]  # a window of 10 columns sees a tenth of it
    generator = np.random.default_rng(0)
    kept = ScaleJitterCrop(10, scale=(10, 10), min_visible=0.05)(make_sample(image, boxes), generator)
    gone = ScaleJitterCrop(10, scale=(10, 10), min_visible=0.2)(make_sample(image, boxes), generator)
    assert len(kept["boxes"]) == 1 and len(gone["boxes"]) == 0
    np.testing.assert_allclose(kept["boxes"], [[0, 0, 10, 10]])


def test_no_boxes_stay_no_boxes():
    out = ScaleJitterCrop(32)(make_sample(grey(20, 30), []), np.random.default_rng(0))
    assert out["boxes"].shape == (0, 4) and out["boxes"].dtype == np.float32 and out["labels"].shape == (0,)


def test_transforms_do_not_touch_their_input():
    sample = make_sample(grey(20, 30), [[1, 2, 9, 9]])
    for transform in (ResizePad(16), ScaleJitterCrop(16), HorizontalFlip(1.0)):
        transform(sample, np.random.default_rng(0))
    assert sample["boxes"].tolist() == [[1, 2, 9, 9]]
    assert (sample["image"] == 200).all() and (sample["matrix"] == np.eye(3)).all()


def random_case(generator):
    height, width = (int(v) for v in generator.integers(20, 300, 2))
    x = np.sort(generator.choice(width + 1, 2, replace=False))
    y = np.sort(generator.choice(height + 1, 2, replace=False))
    image = np.zeros((height, width, 3), np.uint8)
    image[y[0] : y[1], x[0] : x[1]] = 255
    return make_sample(image, [[x[0], y[0], x[1], y[1]]])


@pytest.mark.parametrize("interpolation", ["auto", "linear", "cubic"])
def test_box_follows_the_painted_mask(interpolation):
    """200 random pictures: the box that the matrix gives is within 1 px of the box around the warped paint."""
    compared = 0
    for case in range(600):
        if compared == 200:
            break
        generator = np.random.default_rng([7, case])
        sample = random_case(generator)
        size = (int(generator.integers(16, 200)), int(generator.integers(16, 200)))
        transforms = [
            ScaleJitterCrop(size, scale=(0.3, 3.0), fill=(0, 0, 0), interpolation=interpolation),
            HorizontalFlip(0.5),
            # Never larger than the first result: growing would magnify the first rounding of the paint to whole pixels.
            ResizePad(
                int(generator.integers(min(size) * 2 // 3, min(size) + 1)), fill=(0, 0, 0), interpolation=interpolation
            ),
        ]
        out = sample
        for transform in transforms[: 1 + case % 3]:
            out = transform(out, generator)
        rows, columns = np.nonzero(out["image"][..., 0] > 127)
        if len(out["boxes"]) == 0:
            # Dropped: nothing, or a sliver, is left of the paint in the first picture.
            assert len(rows) == 0 or min(np.ptp(rows), np.ptp(columns)) <= 5
            continue
        box = out["boxes"][0]
        if min(box[2] - box[0], box[3] - box[1]) < 4:
            continue  # too thin for the half-brightness edge to be where the box is
        painted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box, painted, atol=1.0, err_msg=f"case {case}")
        compared += 1
    assert compared == 200


def test_boxes_come_home_through_the_matrix():
    for case in range(200):
        generator = np.random.default_rng([8, case])
        sample = random_case(generator)
        out = ResizePad((97, 131))(sample, generator)
        out = HorizontalFlip(0.5)(out, generator)
        if len(out["boxes"]):
            home = invert_boxes(out["boxes"], out["matrix"], out["original_size"])
            np.testing.assert_allclose(home, sample["boxes"], atol=2e-3)


def test_torch_batch_equals_numpy_one_by_one():
    generator = np.random.default_rng(0)
    boxes = generator.uniform(-20, 120, (3, 5, 4)).astype(np.float32)
    boxes[..., 2:] = boxes[..., :2] + np.abs(boxes[..., 2:])
    matrices = np.stack([[[2, 0, 5], [0, 3, -4], [0, 0, 1]], [[-1, 0, 90], [0, 1, 0], [0, 0, 1]], np.eye(3)])
    sizes = np.array([[40, 60], [80, 90], [50, 50]])
    batch = invert_boxes(torch.from_numpy(boxes), torch.from_numpy(matrices), torch.from_numpy(sizes))
    assert isinstance(batch, torch.Tensor) and batch.dtype == torch.float32
    for i in range(3):
        single = invert_boxes(boxes[i], matrices[i], tuple(sizes[i].tolist()))
        np.testing.assert_allclose(batch[i].numpy(), single, atol=1e-5)
        assert isinstance(single, np.ndarray) and single.dtype == np.float32
        assert (single >= 0).all() and (single <= sizes[i][[1, 0, 1, 0]]).all()


def test_rotated_corners_get_an_upright_box():
    quarter = np.array([[0, -1, 10], [1, 0, 0], [0, 0, 1]], np.float64)  # (x, y) -> (10 - y, x)
    np.testing.assert_allclose(transform_boxes(np.array([[1.0, 2, 3, 6]]), quarter), [[4, 1, 8, 3]])
    with pytest.raises(ShapeError, match=r"\(2, 5\)"):
        transform_boxes(np.zeros((2, 5)), np.eye(3))


def test_jitter_scale_is_uniform_and_keeps_the_aspect():
    jitter = ScaleJitterCrop(128, scale=(0.1, 2.0))
    image = grey(96, 128)
    scales = []
    for i in range(400):
        matrix = jitter(make_sample(image, []), np.random.default_rng(i))["matrix"]
        scales.append(matrix[0, 0])
        assert abs(matrix[1, 1] / matrix[0, 0] - 1) < 0.06  # rounding to whole pixels, at most half of 10
    assert min(scales) < 0.15 and max(scales) > 1.95
    assert abs(np.mean(scales) - 1.05) < 0.08


def test_cost_is_that_of_the_visible_window(monkeypatch):
    seen = []
    resize = cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda image, *a, **k: seen.append(image.shape) or resize(image, *a, **k))
    ScaleJitterCrop(100, scale=(2, 2))(make_sample(grey(400, 400), []), np.random.default_rng(0))
    assert seen == [(200, 200, 3)]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResizePad(0), "size"),
        (lambda: ResizePad((10, 20, 30)), "size"),
        (lambda: ResizePad(12.5), "size"),
        (lambda: ResizePad(8, fill=(1, 2)), "fill"),
        (lambda: ResizePad(8, interpolation="linaer"), "Did you mean 'linear'"),
        (lambda: ScaleJitterCrop(8, scale=(2, 1)), "scale"),
        (lambda: ScaleJitterCrop(8, scale=(0, 1)), "scale"),
        (lambda: ScaleJitterCrop(8, min_visible=2), "min_visible"),
        (lambda: ScaleJitterCrop(8, class_ratio_cap=0), "class_ratio_cap"),
        (lambda: ScaleJitterCrop(8, class_ratio_cap=1.0), "between 0 and 1, such as 0.75"),
        (lambda: ScaleJitterCrop(8, class_ratio_cap=75), "got 75"),
        (lambda: HorizontalFlip(1.5), "prob"),
        (lambda: VerticalFlip(-1), "prob"),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_repr_reads_like_the_call():
    assert repr(ResizePad(8)) == "ResizePad(size=(8, 8), fill=(124, 116, 104), interpolation='auto')"
    assert repr(HorizontalFlip()) == "HorizontalFlip(prob=0.5)"
    assert repr(VerticalFlip(0.25)) == "VerticalFlip(prob=0.25)"
    assert "scale=(0.1, 2.0)" in repr(ScaleJitterCrop(8))
    assert "class_ratio_cap=0.75" in repr(ScaleJitterCrop(8, class_ratio_cap=0.75))


def make_masked(image, mask):
    """A segmentation sample: a mask in place of boxes."""
    return {
        "image": image,
        "mask": mask,
        "index": 0,
        "original_size": image.shape[:2],
        "matrix": np.eye(3),
        "path": "a",
    }


def test_mask_by_hand():
    mask = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
    out = ResizePad((6, 6))(make_masked(grey(2, 3), mask))
    assert out["mask"].tolist() == [
        [0, 0, 1, 1, 2, 2],
        [0, 0, 1, 1, 2, 2],
        [3, 3, 4, 4, 5, 5],
        [3, 3, 4, 4, 5, 5],
        [255] * 6,
        [255] * 6,
    ]
    assert "boxes" not in out and "labels" not in out
    flipped = HorizontalFlip(1.0)(make_masked(grey(2, 3), mask), np.random.default_rng(0))
    assert flipped["mask"].tolist() == [[2, 1, 0], [5, 4, 3]]


def test_mask_takes_the_class_under_the_centre_of_each_pixel():
    # 5 px to 3: centres 0.83, 2.5 and 4.17 lie in pixels 0, 2 and 4.
    out = ResizePad((1, 3))(make_masked(grey(1, 5), np.arange(5, dtype=np.uint8)[None]))
    assert out["mask"].tolist() == [[0, 2, 4]]


def test_mask_follows_the_image_and_a_picture_alone_moves_the_same():
    for case in range(100):
        generator = np.random.default_rng([9, case])
        boxed = random_case(generator)
        painted = (boxed["image"][..., 0] > 127).astype(np.uint8)
        masked = make_masked(boxed["image"], painted)
        plain = {key: value for key, value in masked.items() if key != "mask"}
        outs = []
        for sample in (boxed, masked, plain):
            draws = np.random.default_rng([10, case])
            out = ScaleJitterCrop((70, 90), scale=(0.4, 2.5), fill=(0, 0, 0), interpolation="linear")(sample, draws)
            outs.append(HorizontalFlip()(out, draws))
        for other in outs[1:]:
            np.testing.assert_array_equal(other["image"], outs[0]["image"])
            np.testing.assert_array_equal(other["matrix"], outs[0]["matrix"])
        mask, image = outs[1]["mask"], outs[1]["image"][..., 0]
        # Inside the picture a pixel is of the class that is brighter there; half-covered ones on the edge may differ.
        inside = mask != 255
        wrong = inside & ((mask == 1) != (image > 127))
        edge = cv2.dilate((mask == 1).astype(np.uint8), np.ones((3, 3))) != cv2.erode(
            (mask == 1).astype(np.uint8), np.ones((3, 3))
        )
        assert not (wrong & ~edge).any(), f"case {case}"
        assert set(np.unique(mask)) <= {0, 1, 255}
        assert (image[~inside] == 0).all()


def test_transforms_do_not_touch_the_mask_they_are_given():
    sample = make_masked(grey(20, 30), np.ones((20, 30), np.uint8))
    for transform in (
        ResizePad(16),
        ScaleJitterCrop(16, class_ratio_cap=0.5),
        HorizontalFlip(1.0),
        VerticalFlip(1.0),
    ):
        out = transform(sample, np.random.default_rng(0))
        out["mask"][:] = 7
    assert (sample["mask"] == 1).all()


COLOURS = np.array([[250, 10, 20], [10, 240, 30], [20, 30, 230], [240, 230, 10]], np.uint8)


def coloured(generator):
    """Blobs of four classes, each painted in the colour of its class."""
    height, width = (int(v) for v in generator.integers(60, 160, 2))
    coarse = generator.integers(0, 4, (3, 4)).astype(np.uint8)
    mask = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    return make_masked(COLOURS[mask], mask)


@pytest.mark.parametrize("interpolation", ["auto", "linear"])
def test_colour_and_class_stay_together(interpolation):
    """Scale, crop, both flips and the cap: away from the edges each pixel has the colour of its class, and along an
    edge as many pixels lean to one side as to the other (half a pixel of shift would show).
    """
    leaning = 0
    for case in range(60):
        generator = np.random.default_rng([11, case])
        out = coloured(generator)
        for transform in (
            ScaleJitterCrop((64, 80), scale=(0.5, 2.0), interpolation=interpolation, class_ratio_cap=0.75),
            HorizontalFlip(),
            VerticalFlip(),
        ):
            out = transform(out, generator)
        mask, inside = out["mask"], out["mask"] != 255
        assert mask.shape == (64, 80) and out["image"].shape == (64, 80, 3)
        kernel = np.ones((3, 3))
        flat = inside & (cv2.dilate(mask, kernel) == cv2.erode(mask, kernel))
        assert flat.sum() > 0.4 * inside.sum()
        expected = COLOURS[np.where(inside, mask, 0)].astype(int)
        assert np.abs(out["image"].astype(int) - expected)[flat].max() <= 1, f"case {case}"
        assert (out["image"][~inside] == (124, 116, 104)).all()
        # On the edges too the colour is nearest to that of the pixel's class, but for pixels cut about in half.
        distance = np.abs(out["image"].astype(int)[:, :, None] - COLOURS.astype(int)).sum(-1)
        own = np.take_along_axis(distance, np.where(inside, mask, 0).astype(int)[..., None], 2)[..., 0]
        leaning += int((inside & (own > 1.2 * distance.min(-1) + 60)).sum())
    assert leaning < 60 * 64 * 80 * 0.005


def test_largest_class_share_by_hand():
    assert largest_class_share(np.array([[0, 0, 3], [255, 255, 255]], np.uint8)) == pytest.approx(2 / 3)
    assert largest_class_share(np.array([[4]], np.uint8)) == 1.0
    assert largest_class_share(np.full((3, 3), 255, np.uint8)) == 1.0


def lopsided():
    """Class 0 but for the right fifth."""
    mask = np.zeros((100, 200), np.uint8)
    mask[:, 160:] = 1
    return make_masked(grey(100, 200), mask)


def test_a_cap_finds_the_crop_that_shows_two_classes():
    """Of the 161 windows of 40 columns, 21 show 10 to 30 columns of the small class; ten tries find one for 3 in 4."""
    seeds, once = 300, 21 / 161
    for cap, expected in ((None, once), (0.75, 1 - (1 - once) ** 10)):
        crop = ScaleJitterCrop(40, scale=(5.0, 5.0), class_ratio_cap=cap)
        outs = [crop(lopsided(), np.random.default_rng(seed)) for seed in range(seeds)]
        within = np.mean([largest_class_share(out["mask"]) <= 0.75 for out in outs])
        assert within == pytest.approx(expected, abs=0.06)


def test_a_cap_draws_nothing_more_where_the_first_crop_will_do():
    """The same crop as without a cap, and the same numbers left in the generator."""
    generator = np.random.default_rng(3)
    busy = make_masked(grey(100, 100), generator.integers(0, 5, (100, 100)).astype(np.uint8))
    left = []
    for cap in (None, 0.75):
        draws = np.random.default_rng(0)
        out = ScaleJitterCrop(40, scale=(1.0, 2.0), class_ratio_cap=cap)(busy, draws)
        left.append((out["mask"].tolist(), out["matrix"].tolist(), draws.random()))
    assert left[0] == left[1]


def test_a_cap_that_cannot_be_met_ends():
    """One class only, nothing but ignored, a crop that is the whole picture: ten draws of a window at most."""
    for mask in (np.zeros((100, 100), np.uint8), np.full((100, 100), 255, np.uint8)):
        draws = np.random.default_rng(0)
        ScaleJitterCrop(20, scale=(2.0, 2.0), class_ratio_cap=0.75)(make_masked(grey(100, 100), mask), draws)
        expected = np.random.default_rng(0)
        expected.uniform(2.0, 2.0)
        expected.integers(0, 51, 20)  # two for each window
        assert draws.random() == expected.random()
    out = ScaleJitterCrop(20, scale=(0.5, 0.5), class_ratio_cap=0.1)(lopsided(), np.random.default_rng(0))
    assert out["matrix"][0, 2] == out["matrix"][1, 2] == 0


def test_a_cap_needs_a_mask():
    with pytest.raises(ConfigError, match="class_ratio_cap looks at the classes of a mask"):
        ScaleJitterCrop(8, class_ratio_cap=0.5)(make_sample(grey(20, 20), []), np.random.default_rng(0))
