"""One decode and one warp: a chain of transforms on a picture that is not decoded yet gives the pixels it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from effdense.data import DetectionDataset, HorizontalFlip, ResizePad, ScaleJitterCrop, VerticalFlip, collate_detection
from effdense.data.image_io import PictureFile
from effdense.data.records import ClassMap, DetectionRecords, ImageRecord
from effdense.data.segments import ObjectMasks, Segment
from effdense.data.transforms.geometry import apply_matrix, apply_window, settled
from effdense.data.transforms.pending import Pending, Window, mirror, reduction, shrunk, stacked
from effdense.errors import DataError

FILL = (9, 8, 7)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture without sharp edges, so that two good resamplings of it are close."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def sample_of(image: Any, boxes: Any = (), mask: Any = None) -> dict[str, Any]:
    size = image.shape[:2]
    sample = {
        "image": image,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.arange(len(boxes)),
        "matrix": np.eye(3),
        "original_size": size,
    }
    return sample if mask is None else {**sample, "mask": mask}


def test_a_window_by_hand():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    pending = Pending.of(image).windowed(Window((1, 0, 3, 2), (2, 2)), (3, 4), fill=FILL, interpolation="linear")
    assert pending.shape == (3, 4, 3)
    expected = np.full((3, 4, 3), FILL, np.uint8)
    expected[:2, :2] = image[0:2, 1:3]
    np.testing.assert_array_equal(pending.pixels(), expected)
    np.testing.assert_array_equal(pending.flipped(1).pixels(), expected[:, ::-1])
    np.testing.assert_array_equal(pending.flipped(0).pixels(), expected[::-1])
    np.testing.assert_array_equal(pending.flipped(0).flipped(1).pixels(), expected[::-1, ::-1])
    np.testing.assert_array_equal(pending.flipped(1).flipped(1).pixels(), expected)


@pytest.mark.parametrize(("scale", "k"), [(2.0, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.125, 8), (0.01, 8)])
def test_how_far_a_picture_may_be_shrunk_first(scale: float, k: int) -> None:
    assert reduction(scale) == k


def test_shrinking_takes_means_and_rounds_up():
    image = np.array([[0, 4, 10], [8, 4, 20]], np.uint8)
    np.testing.assert_array_equal(shrunk(image, 2), [[4, 15]])
    assert shrunk(np.zeros((5, 9, 3), np.uint8), 4).shape == (2, 3, 3)


@pytest.mark.parametrize("interpolation", ["auto", "fast", "linear", "area", "cubic"])
def test_a_pending_chain_equals_the_chain_on_arrays(interpolation: Any) -> None:
    image, mask = smooth(200, 300), np.random.default_rng(1).integers(0, 5, (200, 300)).astype(np.uint8)
    chain = [ScaleJitterCrop((96, 128), fill=FILL, interpolation=interpolation), HorizontalFlip(0.5), VerticalFlip(0.5)]
    for seed in range(40):
        made = []
        for start in (sample_of(image, [(10, 20, 90, 150)], mask), sample_of(Pending.of(image), [(10, 20, 90, 150)])):
            if isinstance(start["image"], Pending):
                start["mask"] = Pending.of(mask)
            generator = np.random.default_rng(seed)
            for transform in chain:
                start = transform(start, generator)
            made.append(start)
        assert isinstance(made[1]["image"], Pending)
        eager, lazy = made[0], settled(made[1])
        for key in ("image", "mask", "boxes", "matrix"):
            np.testing.assert_array_equal(eager[key], lazy[key], err_msg=f"{key}, seed {seed}")


def test_every_pixel_of_the_given_place_is_written():
    image = smooth(120, 90)
    for seed in range(30):
        sample = sample_of(Pending.of(image))
        generator = np.random.default_rng(seed)
        for transform in (ScaleJitterCrop(64, fill=FILL), HorizontalFlip(0.5), VerticalFlip(0.5)):
            sample = transform(sample, generator)
        places = [np.full((64, 64, 3), value, np.uint8) for value in (0, 255)]
        for place in places:
            assert sample["image"].pixels(place) is place
        np.testing.assert_array_equal(*places)


def test_the_matrix_says_where_the_pixels_went():
    """A bright spot's centre of mass, found again where the matrix says, at all scales."""
    for seed in range(60):
        generator = np.random.default_rng(seed)
        x, y = generator.integers(60, 340), generator.integers(60, 240)
        image = np.zeros((301, 403, 3), np.uint8)
        image[y - 10 : y + 10, x - 10 : x + 10] = 255
        image = cv2.GaussianBlur(image, (31, 31), 4)  # a sharp edge would alias
        sample = ScaleJitterCrop(160, fill=(0, 0, 0))(sample_of(image, [(x - 20, y - 20, x + 20, y + 20)]), generator)
        sample = HorizontalFlip(0.5)(sample, generator)
        if len(sample["boxes"]) == 0:
            continue
        x1, y1, x2, y2 = sample["boxes"][0]
        cut = min(x1, y1, 160 - x2, 160 - y2) < 0.5
        if cut or x2 - x1 < 6:
            continue
        weight = sample["image"][:, :, 0].astype(float)
        rows, columns = np.mgrid[0:160, 0:160] + 0.5
        centre = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        expected = (sample["matrix"] @ (x, y, 1))[:2]
        np.testing.assert_allclose(centre, expected, atol=0.05)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_scaled_decode_shows_the_same_picture(tmp_path: Path, suffix: str) -> None:
    image = smooth(427, 640)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(image).save(path, quality=98)
    decoded = np.asarray(Image.open(path).convert("RGB"))
    for seed, scale in enumerate((0.09, 0.2, 0.3, 0.45, 0.7, 1.3)):
        transform = ScaleJitterCrop(256, scale=(scale, scale), fill=FILL)
        source = PictureFile(path, (427, 640), "its annotation says otherwise")
        lazy = settled(transform(sample_of(Pending.of(source)), np.random.default_rng(seed)))
        eager = transform(sample_of(decoded), np.random.default_rng(seed))
        np.testing.assert_array_equal(lazy["matrix"], eager["matrix"])
        assert np.abs(lazy["image"].astype(int) - eager["image"]).mean() < 1.0


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "P", "1"])
@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
def test_other_kinds_of_pictures_come_out_reduced_too(tmp_path: Path, mode: str, reduce: int) -> None:
    image = smooth(61, 83)
    path = tmp_path / ("a.jpg" if mode in ("L", "CMYK") else "a.png")
    if mode == "I;16":
        Image.fromarray(image[:, :, 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(image).convert(mode).save(path)
    pixels = PictureFile(path, (61, 83), "").read(reduce)
    assert pixels.shape == (-(-61 // reduce), -(-83 // reduce), 3) and pixels.dtype == np.uint8
    whole = shrunk(PictureFile(path, (61, 83), "").read(1), reduce)
    assert np.abs(pixels.astype(int) - whole).mean() < 4


def test_a_turned_picture_is_reduced_after_turning(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth(40, 64)).save(tmp_path / "a.jpg", exif=exif)
    assert PictureFile(tmp_path / "a.jpg", (64, 40), "").read(2).shape == (32, 20, 3)
    assert PictureFile(tmp_path / "a.jpg", (40, 64), "").read(2).shape == (20, 32, 3)


@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_a_picture_of_another_size_is_named(tmp_path: Path, scale: float) -> None:
    Image.fromarray(smooth(40, 64)).save(tmp_path / "a.jpg")
    source = PictureFile(tmp_path / "a.jpg", (44, 64), "its annotation says 64x44.")
    sample = ScaleJitterCrop(32, scale=(scale, scale))(sample_of(Pending.of(source)), np.random.default_rng(0))
    with pytest.raises(DataError, match=r"a\.jpg: the picture is 64x40 but its annotation says 64x44"):
        settled(sample)


def turn(degrees: float, size: tuple[int, int]) -> np.ndarray:
    """Rotation about the centre of a canvas."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    y, x = size[0] / 2, size[1] / 2
    return np.array([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y], [0, 0, 1]])


def test_a_chain_of_warps_is_one_warp():
    """Two quarter turns in one resampling give the exact half turn."""
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    sample = sample_of(Pending.of(image), [(5, 10, 20, 30)])
    for _ in range(2):
        sample = apply_matrix(sample, turn(90, (50, 50)), (50, 50), fill=FILL, interpolation="linear")
    result = settled(sample)
    np.testing.assert_array_equal(result["image"], image[::-1, ::-1])
    np.testing.assert_allclose(result["boxes"], [[30, 20, 45, 40]], atol=1e-4)


def test_what_an_earlier_canvas_had_cut_off_does_not_come_back():
    """Crop the middle, then shrink: around the crop there is fill, not the picture, as without pending pictures."""
    image = np.full((80, 80, 3), 200, np.uint8)
    half = np.diag([0.5, 0.5, 1.0])
    for start in (image, Pending.of(image)):
        sample = apply_window(sample_of(start), (20, 20, 60, 60), (40, 40), (40, 40), fill=FILL, interpolation="linear")
        sample = HorizontalFlip(1.0)(sample, np.random.default_rng(0))
        sample = settled(apply_matrix(sample, half, (40, 40), fill=FILL, interpolation="linear"))
        seen = (sample["image"] == 200).all(2)
        assert seen[:19, :19].all() and not seen[21:].any() and not seen[:, 21:].any()


def test_outlines_and_boxes_move_with_the_picture():
    square = np.array([[10, 10], [30, 10], [30, 30], [10, 30]], np.float32)
    diamond = np.array([[50, 40], [60, 50], [50, 60], [40, 50]], np.float32)
    sample = sample_of(Pending.of(np.zeros((80, 80, 3), np.uint8)), [(10, 10, 30, 30), (40, 40, 60, 60)])
    sample["object_masks"] = ObjectMasks.at((Segment((square,)), Segment((diamond,))), np.eye(3))
    moved = apply_matrix(sample, turn(45, (80, 80)), (80, 80), fill=FILL)
    # A diamond turned by 45 degrees is upright: its box is its own, not the one around the turned box.
    side = 10 * np.sqrt(2)
    np.testing.assert_allclose(moved["boxes"][1, 2:] - moved["boxes"][1, :2], side, atol=1e-4)
    flipped = HorizontalFlip(1.0)(moved, np.random.default_rng(0))
    masks = flipped["object_masks"].render((80, 80))
    for mask, box in zip(masks, flipped["boxes"]):
        rows, columns = np.nonzero(mask)
        bounds = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(bounds, box, atol=1.0)
    cropped = apply_window(flipped, (0, 0, 5, 5), (5, 5), (5, 5), fill=FILL, interpolation="linear")
    assert len(cropped["boxes"]) == len(cropped["labels"]) == len(cropped["object_masks"]) == 0


def test_a_batch_from_the_loader_equals_one_of_single_samples(tmp_path: Path) -> None:
    records = []
    for i, size in enumerate([(90, 120), (64, 200), (150, 75)]):
        Image.fromarray(smooth(*size, seed=i)).save(tmp_path / f"{i}.jpg")
        boxes = np.array([[4, 5, 40, 50]], np.float32)
        records.append(
            ImageRecord(
                i,
                tmp_path / f"{i}.jpg",
                size[1],
                size[0],
                boxes,
                np.zeros(1, np.int64),
                np.zeros(1, bool),
                np.array([i]),
                np.array([1620.0], np.float32),
                segments=(Segment((boxes.reshape(2, 2)[[0, 1, 1]],)),),
            )
        )
    packed = DetectionRecords.from_images(records, ClassMap(("a",), (1,)))
    for transforms in ([ScaleJitterCrop(64), HorizontalFlip()], [ResizePad(64)], [ResizePad(64), lambda s, g: dict(s)]):
        dataset = DetectionDataset(packed, transforms, training=True)
        single = collate_detection([dataset[i] for i in range(3)])
        batch = collate_detection(dataset.__getitems__([0, 1, 2]))
        for key in ("inputs", "boxes", "labels", "matrices"):
            assert (single[key] == batch[key]).all(), key


def test_transforms_that_need_pixels_and_others_get_them(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    empty = np.zeros((0, 4), np.float32)
    none = np.zeros(0, np.int64)
    records = [
        ImageRecord(i, tmp_path / f"{i}.png", 30, 20, empty, none, none.astype(bool), none, none.astype(np.float32))
        for i in range(3)
    ]

    class Blend:
        def others(self, count: int, generator: np.random.Generator) -> list[int]:
            assert count == 3
            return [2]

        def __call__(self, sample: Any, generator: np.random.Generator, others: list[Any]) -> Any:
            assert isinstance(sample["image"], np.ndarray) and isinstance(others[0]["image"], np.ndarray)
            return {**sample, "image": sample["image"] // 2 + others[0]["image"] // 2}

    packed = DetectionRecords.from_images(records, ClassMap(("a",), (1,)))
    dataset = DetectionDataset(packed, [ResizePad((20, 30)), Blend(), HorizontalFlip(1.0)], training=True)
    assert (dataset[1]["image"] == 60).all()


def test_mirror_and_stack():
    np.testing.assert_array_equal(mirror((4, 6), 1) @ (0, 0, 1), [6, 0, 1])
    np.testing.assert_array_equal(mirror((4, 6), 0) @ (0, 0, 1), [0, 4, 1])
    image = np.ones((2, 3, 3), np.uint8)
    assert stacked([image, Pending.of(image)]).shape == (2, 2, 3, 3)


def test_an_enlarged_border_is_not_blended_with_the_fill():
    """Two rows made 20 times as high, after a flip: the fill would reach half a source pixel, ten rows, into it."""
    white = Pending.of(np.full((2, 40, 3), 255, np.uint8)).flipped(1)
    grown = white.windowed(Window((0, 0, 40, 2), (40, 800)), (48, 800), fill=(0, 0, 0), interpolation="auto").pixels()
    assert (grown[:40] == 255).all() and (grown[40:] == 0).all()


def test_nothing_behind_the_eye_of_a_perspective_is_shown():
    image = np.full((60, 60, 3), 200, np.uint8)
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0.02, 0, -0.5]])  # the horizon is at x = 25 of the source
    for pending, fill in ((Pending.of(image), (1, 2, 3)), (Pending.of(image[..., 0].copy()), (255,))):
        name = "nearest" if fill == (255,) else "fast"
        pixels = pending.flipped(0).warped(matrix, (160, 160), fill=fill, interpolation=name).pixels()
        y, x = np.mgrid[:160, :160] + 0.5
        home = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(matrix).T
        shown = home[..., 2] > 0
        shown &= (home[..., :2] >= 0).all(-1) & (home[..., :2] <= 60 * home[..., 2:]).all(-1)
        assert (pixels[~shown] == fill).all() and (pixels[shown] == 200).all() and shown.any() and (~shown).any()


def test_going_back_to_the_first_frame_does_not_bring_back_what_was_cut_off():
    away = Pending.of(np.full((8, 8), 5, np.uint8))
    for shift in (4, -4):
        move = np.array([[1, 0, shift], [0, 1, 0], [0, 0, 1]], np.float64)
        away = away.warped(move, (8, 8), fill=(255,), interpolation="nearest")
    back = away.windowed(Window((0, 0, 8, 8), (8, 8)), (8, 8), fill=(255,), interpolation="nearest").pixels()
    assert (back[:, :4] == 5).all() and (back[:, 4:] == 255).all()


def test_a_window_is_shrunk_as_far_as_its_edges_allow():
    """A scale of 1/4 with edges at multiples of 2 only: halved once, not read at full size."""
    asked: list[int] = []

    class Source:
        size = (64, 64)

        def read(self, reduce: int) -> np.ndarray:
            asked.append(reduce)
            return np.zeros((64 // reduce, 64 // reduce, 3), np.uint8)

    window = Window((2, 2, 50, 50), (12, 12))
    Pending.of(Source()).windowed(window, (12, 12), fill=FILL, interpolation="fast").pixels()
    assert asked == [2]
