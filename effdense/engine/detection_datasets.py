"""Detection data sets by name, for configs: ``dataset=dict(type="CocoDetection", root=..., transforms=[...])``.

Each is its reader in ``effdense.data`` with the root put under ``EFFDENSE_DATA``; ``transforms`` are built by
``datasets.py``, and ``class_map`` is the training split's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effdense.data import ClassMap, DataReport, DetectionRecords, paths, read_coco
from effdense.data.shapes import shapes_root, write_shapes
from effdense.engine.distributed import on_main_then_all
from effdense.engine.registry import DATASETS


@DATASETS.register_module()
def CocoDetection(
    *,
    root: str,
    ann_file: str,
    image_dir: str,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """A COCO-format split.

    Args:
        root: dataset folder, relative to ``EFFDENSE_DATA`` (default ``data/``) or absolute.
        ann_file, image_dir: annotation JSON and image folder, relative to ``root``.
        transforms: list of transform configs; a missing ``size`` is the config's ``image_size``.
        classes: names of the classes to use, default all.
        keep_empty: keep images without objects.
    """
    folder = paths.require_dir(paths.resolve(root), "the dataset root", advice=paths.COCO_LAYOUT)
    return read_coco(
        folder / ann_file,
        folder / image_dir,
        classes=classes,
        class_map=class_map,
        keep_empty=keep_empty,
        training=training,
    )


@DATASETS.register_module()
def ShapesDetection(
    *,
    split: str,
    root: str = "shapes",
    splits: Mapping[str, int] | None = None,
    image_size: int | Sequence[int] = 256,
    seed: int = 0,
    max_objects: int = 6,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """The built-in generated dataset; written on first use, reused after.

    Args:
        split: which of ``splits``. splits: images per split. image_size: px, or (smallest, largest) side.
        The rest as in ``effdense.data.shapes.write_shapes`` and ``CocoDetection``.
    """
    folder = shapes_folder(root, splits, image_size, seed, max_objects)
    return read_coco(
        folder / "annotations" / f"instances_{split}.json",
        folder / split,
        classes=classes,
        class_map=class_map,
        keep_empty=keep_empty,
        training=training,
    )


def shapes_folder(
    root: str, splits: Mapping[str, int] | None, image_size: int | Sequence[int], seed: int, max_objects: int
) -> Path:
    """Folder of the generated set, written by the first process if need be."""
    counts, size = dict(splits or {"train": 400, "val": 101}), size_range(image_size)

    def generate() -> str:
        return str(write_shapes(shapes_root(root), splits=counts, image_size=size, seed=seed, max_objects=max_objects))

    return Path(on_main_then_all(generate))


def size_range(image_size: int | Sequence[int]) -> int | tuple[int, int]:
    return image_size if isinstance(image_size, int) else (int(image_size[0]), int(image_size[1]))
