"""Mosaic, mixup, copy-paste and random affine on pictures made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from effdense.data.records import ClassMap, DetectionRecords
from effdense.data.segments import ObjectMasks, Segment
from effdense.data.transforms.affine import RandomAffine, affine_matrix
from effdense.data.transforms.copy_paste import CopyPaste
from effdense.data.transforms.mixup import MixUp
from effdense.data.transforms.mosaic import Mosaic
from effdense.data.transforms.outline_clip import box_ring
from effdense.data.transforms.outlines import pixel_bounds
from effdense.data.transforms.pending import Pending, settled
from effdense.errors import ConfigError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample(
    color: int, size: tuple[int, int] = (40, 60), box: tuple[int, ...] | None = (10, 10, 30, 30), **more: Any
) -> Any:
    """A picture of one colour with one object in another, outlined."""
    image = np.full((*size, 3), color, np.uint8)
    boxes = np.zeros((0, 4), np.float32) if box is None else np.array([box], np.float32)
    segments = [Segment((box_ring(b).astype(np.float32),)) for b in boxes]
    for x0, y0, x1, y1 in boxes.astype(int):
        image[y0:y1, x0:x1] = color + 10
    return {
        "image": image, "boxes": boxes, "labels": np.full(len(boxes), color), "matrix": np.eye(3), "index": color,
        "path": f"{color}.png", "image_id": color, "original_size": size,
        "object_masks": ObjectMasks.at(segments, np.eye(3)), **more,
    }  # fmt: skip


ALL: list[Any] = [
    Mosaic(64, prob=1.0),
    MixUp(prob=1.0),
    CopyPaste(prob=1.0, share=1.0),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_one_generator_one_result(transform: Any) -> None:
    count = len(transform.others(9, rng()))
    for pending in (False, True):
        samples = [sample(20 * (i + 1)) for i in range(count + 1)]
        if pending:
            samples = [{**s, "image": Pending.of(s["image"])} for s in samples]
        first, again = (transform(dict(samples[0]), rng(3), samples[1:]) for _ in range(2))
        for key in ("image", "boxes", "labels", "matrix"):
            np.testing.assert_array_equal(first[key], again[key])
        assert first["image"].dtype == np.uint8 and first["boxes"].dtype == np.float32
        assert len(first["object_masks"]) == len(first["boxes"]) == len(first["labels"])
        assert {k: first[k] for k in ("path", "index", "image_id")} == {"path": "20.png", "index": 20, "image_id": 20}


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_without_others_nothing_happens(transform: Any) -> None:
    """``others`` has decided; the sample is not even decoded."""
    one = sample(50)
    assert transform(one, rng(), []) is one
    never = type(transform)(**{**transform.__dict__, "prob": 0.0})
    assert never.others(9, rng()) == [] and transform.others(9, rng()) == transform.others(9, rng())
    assert all(0 <= i < 3 for seed in range(20) for i in transform.others(3, rng(seed)))
    with pytest.raises(ConfigError, match="got 2"):
        transform(one, rng(), [one, one])


def test_four_quarters() -> None:
    """Pictures twice as large as needed fill the canvas: four colours, four corners, one object each at most."""
    parts = [sample(40 * i + 20, (100, 100), (0, 0, 100, 100)) for i in range(4)]
    for seed in range(10):
        mixed = Mosaic(50, prob=1.0, scale=(1.0, 1.0))(parts[0], rng(seed), parts[1:])
        image = mixed["image"][..., 0]
        assert image.shape == (50, 50) and sorted(np.unique(image)) == [30, 70, 110, 150]
        assert [image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]] == [30, 70, 110, 150]
        assert mixed["labels"].tolist() == [20, 60, 100, 140]
        for box, label, drawn in zip(mixed["boxes"], mixed["labels"], mixed["object_masks"].render((50, 50))):
            assert box.tolist() == pixel_bounds(image == label + 10).tolist() == pixel_bounds(drawn).tolist()


def test_small_pictures_meet_at_the_centre() -> None:
    parts = [sample(40 * i + 20, (10, 10), None) for i in range(4)]
    image = Mosaic(100, prob=1.0, scale=(0.2, 0.2), center=(0.5, 0.5), fill=(1, 2, 3))(parts[0], rng(), parts[1:])[
        "image"
    ]
    assert [int(image[y, x, 0]) for y, x in ((49, 49), (49, 50), (50, 49), (50, 50))] == [20, 60, 100, 140]
    assert image[0, 0].tolist() == [1, 2, 3] and (image[..., 0] != 1).sum() == 40 * 40


def test_masks_are_joined_and_255_beyond() -> None:
    parts = [sample(40 * i + 20, (30, 30), None, mask=np.full((30, 30), i, np.uint8)) for i in range(4)]
    for part in parts:
        for key in ("boxes", "labels", "object_masks"):
            del part[key]
    mixed = Mosaic(64, prob=1.0, scale=(0.3, 0.6))(parts[0], rng(1), parts[1:])
    picture = mixed["image"][..., 0]
    assert "boxes" not in mixed and set(np.unique(mixed["mask"])) == {0, 1, 2, 3, 255}
    for i in range(4):
        assert ((mixed["mask"] == i) == (picture == 40 * i + 20)).all()


def test_the_first_picture_keeps_its_matrix() -> None:
    parts = [sample(40 * i + 20, (80, 80), (10, 20, 50, 60)) for i in range(4)]
    mixed = Mosaic(80, prob=1.0, scale=(0.25, 0.25))(parts[0], rng(2), parts[1:])
    corner = mixed["matrix"] @ np.array([50, 60, 1.0])
    assert mixed["labels"][0] == 20 and mixed["boxes"][0, 2:] == pytest.approx(corner[:2], abs=1e-4)


def test_mixup_is_a_weighted_mean_with_both_boxes() -> None:
    own, other = sample(100, (32, 32), None), sample(200, (32, 32), (0, 0, 32, 32))
    mixed = MixUp(prob=1.0, alpha=1e5, scale=(1.0, 1.0))(own, rng(), [other])
    assert abs(int(mixed["image"][0, 0, 0]) - 155) <= 1 and mixed["labels"].tolist() == [200]
    assert mixed["boxes"].tolist() == [[0, 0, 32, 32]]
    half = MixUp(prob=1.0, alpha=1e5, scale=(0.5, 0.5), fill=(0, 0, 0))(own, rng(), [other])
    assert half["boxes"].tolist() == [[0, 0, 16, 16]] and abs(int(half["image"][20, 20, 0]) - 50) <= 1
    with pytest.raises(ConfigError, match="cannot be blended"):
        MixUp()({**own, "mask": np.zeros((32, 32), np.uint8)}, rng(), [])


def test_pasting_takes_from_what_lies_below() -> None:
    """The left half of an object of 20 px is covered: its box is the right half; one that is covered wholly goes."""
    own = sample(50, (40, 40), (10, 10, 30, 30))
    paste = CopyPaste(prob=1.0, scale=(1.0, 1.0), flip=0.0, feather=False)
    mixed = paste(own, rng(), [sample(150, (40, 40), (0, 5, 20, 35))])
    assert mixed["boxes"].tolist() == [[20, 10, 30, 30], [0, 5, 20, 35]] and mixed["labels"].tolist() == [50, 150]
    assert (mixed["image"][5:35, :20] == 160).all() and (mixed["image"][10:30, 20:30] == 60).all()
    assert [int(m.sum()) for m in mixed["object_masks"].render((40, 40))] == [200, 600]
    gone = paste(own, rng(), [sample(150, (40, 40), (5, 5, 35, 35))])
    assert gone["labels"].tolist() == [150]
    strict = CopyPaste(prob=1.0, scale=(1.0, 1.0), flip=0.0, min_visible=0.6)
    assert strict(own, rng(), [sample(150, (40, 40), (0, 5, 20, 35))])["labels"].tolist() == [150]


def test_a_rectangle_without_outline_keeps_its_box() -> None:
    own, other = sample(50, (40, 40), (10, 10, 30, 30)), sample(150, (40, 40), (0, 5, 20, 35))
    for one in (own, other):
        del one["object_masks"]
    mixed = CopyPaste(prob=1.0, scale=(1.0, 1.0), flip=0.0, boxes=True)(own, rng(), [other])
    assert mixed["boxes"].tolist() == [[10, 10, 30, 30], [0, 5, 20, 35]]
    with pytest.raises(ConfigError, match=r"150\.png has none.*segments=True.*boxes=True"):
        CopyPaste(prob=1.0)(own, rng(), [other])


def test_a_soft_border_is_two_pixels_wide() -> None:
    own, other = sample(0, (40, 40), None), sample(89, (40, 40), (10, 10, 30, 30))
    soft = CopyPaste(prob=1.0, scale=(1.0, 1.0), flip=0.0)(own, rng(), [other])["image"][20, :, 0]
    assert soft[8] == 0 and 0 < soft[9] < soft[10] < 99 and soft[11] == 99


def test_pasted_pixels_bring_their_class() -> None:
    own = sample(50, (40, 40), None, mask=np.full((40, 40), 1, np.uint8))
    other = sample(150, (40, 40), (0, 5, 20, 35), mask=np.full((40, 40), 2, np.uint8))
    mixed = CopyPaste(prob=1.0, scale=(1.0, 1.0), flip=0.0)(own, rng(), [other])
    assert (mixed["mask"] == 2).sum() == 600 and (mixed["mask"][5:35, :20] == 2).all()


def test_outlines_are_asked_for_before_training() -> None:
    empty = DetectionRecords.from_images([], ClassMap(("a",), (1,)))
    with pytest.raises(ConfigError, match="the data set has none"):
        CopyPaste().check_records(empty)
    CopyPaste(boxes=True).check_records(empty)
    with pytest.raises(ConfigError, match="use Mosaic"):
        CopyPaste().check_records(object())


def test_the_matrix_fits_centres_and_turns() -> None:
    fit = affine_matrix((40, 80), (100, 100))
    assert fit == pytest.approx(np.array([[1.25, 0, 0], [0, 1.25, 25], [0, 0, 1]]))
    turned = affine_matrix(
        (100, 100), (100, 100), degrees=90
    )  # clockwise: the upper left corner goes to the upper right
    assert (turned @ [0, 0, 1])[:2] == pytest.approx([100, 0])
    moved = affine_matrix((10, 10), (100, 200), translate=(0.1, -0.2), scale=0.5)
    assert (moved @ [5, 5, 1])[:2] == pytest.approx([120, 30]) and moved[0, 0] == pytest.approx(5.0)
    tilted = affine_matrix((100, 100), (100, 100), perspective=(0.25, 0.0)) @ [100, 50, 1]
    assert (tilted / tilted[2])[:2] == pytest.approx([50 + 50 / 1.25, 50])
    sheared = affine_matrix((100, 100), (100, 100), shear=(45.0, 0.0)) @ [50, 60, 1]
    assert sheared[:2] == pytest.approx([60, 60])


def test_affine_is_one_warp_and_one_matrix() -> None:
    one = sample(50, (60, 80), (10, 10, 40, 40), mask=np.full((60, 80), 3, np.uint8))
    lazy = {**one, "image": Pending.of(one["image"]), "mask": Pending.of(one["mask"])}
    warp = RandomAffine((64, 48), degrees=25, perspective=0.2)
    done, pending = warp(one, rng(5)), warp(lazy, rng(5))
    assert isinstance(pending["image"], Pending) and isinstance(done["image"], np.ndarray)
    np.testing.assert_array_equal(settled(pending)["image"], done["image"])
    np.testing.assert_array_equal(done["matrix"], warp.draw((60, 80), rng(5)))
    assert done["image"].shape == (64, 48, 3) and set(np.unique(done["mask"])) == {3, 255}
    still = RandomAffine(64, prob=0.0)(one, rng(5))
    assert still["matrix"] == pytest.approx(affine_matrix((60, 80), (64, 64)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mosaic(0), "size must be"),
        (lambda: Mosaic(1), "four quarters"),
        (lambda: Mosaic(64, prob=1.5), r"Mosaic\.prob must be a number 0\.\.1, got 1\.5"),
        (lambda: Mosaic(64, scale=(2.0, 1.0)), r"Mosaic\.scale must be \(low, high\)"),
        (lambda: Mosaic(64, scale=1.0), r"Mosaic\.scale must be \(low, high\)"),  # type: ignore[arg-type]
        (lambda: Mosaic(64, center=(0.5, 1.5)), r"<= 1, got"),
        (lambda: Mosaic(64, fill=(0, 0, 256)), "three whole numbers"),
        (lambda: MixUp(alpha=0), "above 0"),
        (lambda: CopyPaste(max_objects=0), "max_objects"),
        (lambda: RandomAffine(64, degrees=(-10, 10)), r"degrees must be a number 0\.\.180"),  # type: ignore[arg-type]
        (lambda: RandomAffine(64, perspective=0.5), "perspective"),
    ],
)
def test_options_that_mean_nothing(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_affine_says_what_a_classifier_takes() -> None:
    with pytest.raises(ConfigError, match="RandomResizedCrop"):
        RandomAffine(32)({"image": np.zeros((8, 8, 3), np.uint8), "label": 1}, rng())
