"""The boxes of a warped mask are the warped boxes, within a pixel: 1,000 random objects through random chains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from effdense.data.segments import ObjectMasks, Segment
from effdense.data.transforms.affine import RandomAffine
from effdense.data.transforms.geometry import HorizontalFlip, ResizePad, ScaleJitterCrop, VerticalFlip
from effdense.data.transforms.mosaic import Mosaic
from effdense.data.transforms.outline_clip import box_ring, encoded
from effdense.data.transforms.outlines import pixel_bounds
from effdense.data.transforms.pending import Pending, settled

CASES = 1000


def random_ring(kind: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A rectangle of whole pixels, or a blob of 6 to 9 corners, none of them sharp."""
    height, width = size
    w, h = rng.integers(width // 5, width // 2), rng.integers(height // 5, height // 2)
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    if kind == "rectangle":
        return box_ring(np.array([x, y, x + w, y + h]))
    count = int(rng.integers(6, 10))
    angles = (np.arange(count) + rng.uniform(-0.2, 0.2, count) + rng.random()) * 2 * np.pi / count
    radii = rng.uniform(0.75, 1.0, count)
    return np.stack([x + w / 2 * (1 + radii * np.cos(angles)), y + h / 2 * (1 + radii * np.sin(angles))], 1)


def make_sample(label: int, kind: str, rng: np.random.Generator, *, with_mask: bool, as_runs: bool) -> dict[str, Any]:
    """One object, as a box, an outline and (rectangles) a mask of its label + 1 on 0."""
    # A mask is pixels: those of a larger picture say more closely where its objects end.
    low, high = (240, 400) if with_mask else (60, 140)
    size = (int(rng.integers(low, high)), int(rng.integers(low, high)))
    ring = random_ring(kind, size, rng).astype(np.float32)
    segment = Segment((ring,))
    bitmap = segment.bitmap(size)
    box = pixel_bounds(bitmap) if as_runs else np.concatenate([ring.min(0), ring.max(0)])
    sample: dict[str, Any] = {
        "image": Pending.of(np.zeros((*size, 3), np.uint8)),
        "boxes": box[None].astype(np.float32),
        "labels": np.array([label]),
        "matrix": np.eye(3),
        "index": label,
        "object_masks": ObjectMasks.at([encoded(bitmap) if as_runs else segment], np.eye(3)),
    }
    if with_mask:
        sample["mask"] = Pending.of((bitmap * (label + 1)).astype(np.uint8))
    return sample


def random_chain(rng: np.random.Generator, *, most: float, with_mask: bool) -> list[Any]:
    """Up to three steps in one warp, or a mosaic and flips; scales up to ``most``.

    A mosaic is made of pixels: what is warped again is off by another half of one, whatever the boxes say.
    """
    size = (int(rng.integers(48, 161)), int(rng.integers(48, 161)))
    flips: list[Any] = [HorizontalFlip(0.5), VerticalFlip(0.5)]
    if rng.random() < 0.3:
        # COCO's way to fill polygons is not the same from both sides: cut tips are not mirrored here.
        return [Mosaic(size, prob=1.0, scale=(0.7, 1.2 * most)), *(flips if with_mask else [])]
    steps: list[Any] = [
        *flips,
        ScaleJitterCrop(size, scale=(0.6, most)),
        RandomAffine(size, degrees=30, scale=(0.7, most), shear=5, perspective=0.1),
        RandomAffine(size, degrees=0, shear=0, scale=(0.6, most)),
        ResizePad(size),
    ]
    return [steps[i] for i in rng.permutation(len(steps))[: rng.integers(1, 4)]]


def differences(case: int, *, with_mask: bool) -> list[float]:
    """Largest difference in px of a box and the bounds of its mask, for every object left at the end of a chain."""
    rng = np.random.default_rng(case)
    runs = not with_mask and case % 5 == 0
    # The tip of a bitmap may fall between the pixels of a smaller one.
    kinds = ["rectangle"] * 4 if with_mask or runs else rng.choice(["rectangle", "blob"], 4).tolist()
    samples = [make_sample(i, kinds[i], rng, with_mask=with_mask, as_runs=runs) for i in range(4)]
    sample = samples[0]
    for step in random_chain(rng, most=1.0 if runs else 1.4, with_mask=with_mask):
        if isinstance(step, Mosaic):
            sample = step(sample, rng, samples[1:])
        else:
            sample = step(sample, rng)
    sample = settled(sample)
    size = sample["image"].shape[:2]
    drawn = sample["object_masks"].render(size)
    assert len(drawn) == len(sample["boxes"]) == len(sample["labels"])
    found = []
    for box, label, bitmap in zip(sample["boxes"], sample["labels"], drawn, strict=True):
        truth = sample["mask"] == label + 1 if with_mask else bitmap
        if max(box[2:] - box[:2]) < 4 or min(box[2:] - box[:2]) < 2:
            continue  # a sliver may pass between pixel centres
        found.append(float(np.abs(pixel_bounds(truth) - box).max()))
    return found


@pytest.mark.parametrize("with_mask", [False, True], ids=["outlines", "label maps"])
def test_a_thousand_random_cases(with_mask: bool) -> None:
    found = [differences(case, with_mask=with_mask) for case in range(CASES)]
    assert sum(len(one) for one in found) >= CASES
    worst = max(range(CASES), key=lambda case: max(found[case], default=0.0))
    assert max(found[worst]) <= 1.0, f"case {worst}: a box is {max(found[worst]):.2f} px off its mask"
