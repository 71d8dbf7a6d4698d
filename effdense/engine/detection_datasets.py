"""Detection data sets by name, for configs: ``dataset=dict(type="CocoDetection", root=..., transforms=[...])``.

Each is its reader in ``effdense.data`` with the root put under ``EFFDENSE_DATA``; ``transforms`` are built by
``datasets.py``, and ``class_map`` is the training split's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effdense.data import ClassMap, DataReport, DetectionRecords, paths, read_coco
from effdense.data.generated.shapes import shapes_root, write_shapes
from effdense.data.readers.formats import detect, read_split
from effdense.engine.distributed import on_main_then_all
from effdense.engine.registry import DATASETS
from effdense.errors import ConfigError


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
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """A COCO-format split.

    Args:
        root: dataset folder, relative to ``EFFDENSE_DATA`` (default ``data/``) or absolute.
        ann_file, image_dir: annotation JSON and image folder, relative to ``root``.
        transforms: list of transform configs; a missing ``size`` is the config's ``image_size``.
        classes: names of the classes to use, default all.
        keep_empty: keep images without objects.
        segments: read the outlines, too.
    """
    folder = paths.require_dir(paths.resolve(root), "the dataset root", advice=paths.COCO_LAYOUT)
    return read_coco(
        folder / ann_file,
        folder / image_dir,
        classes=classes,
        class_map=class_map,
        keep_empty=keep_empty,
        segments=segments,
        training=training,
    )


@DATASETS.register_module()
def YoloDetection(
    *,
    split: str,
    root: str | None = None,
    data: str | None = None,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """A split of a YOLO set, see ``read_yolo``.

    Args:
        split: "train", "val" or "test"; "all" for a folder that is not divided.
        root: dataset folder, relative to ``EFFDENSE_DATA`` (default ``data/``) or absolute.
        data: its yaml, in place of ``root``; a list file or ``obj.data`` as well.
        The rest as in ``CocoDetection``.
    """
    if (root is None) == (data is None):
        raise ConfigError("YoloDetection: give either root= (the folder) or data= (its data.yaml).")
    return _read(
        str(root or data), "yolo", split,
        classes=classes, class_map=class_map, keep_empty=keep_empty, segments=segments, training=training,
    )  # fmt: skip


@DATASETS.register_module()
def VocDetection(
    *,
    root: str,
    split: str,
    difficult: str = "keep",
    one_based: bool | None = None,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """A split of a Pascal VOC set of XML files, see ``read_voc_detection``.

    Args:
        split: "train", "val", "test", "trainval"; "all" for a folder that is not divided.
        difficult: objects marked difficult: "keep", "ignore" or "drop".
        one_based: pixels count from 1; None: in the files of the VOC challenges only.
        The rest as in ``CocoDetection``.
    """
    return _read(
        root, "voc", split,
        classes=classes, class_map=class_map, keep_empty=keep_empty, segments=segments, training=training,
        difficult=difficult, one_based=one_based,
    )  # fmt: skip


@DATASETS.register_module()
def MaskObjects(
    *,
    root: str,
    split: str,
    background: str | Sequence[str] | None = "auto",
    image_suffix: str = "",
    mask_suffix: str = "",
    skip_missing: bool = False,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """A split of a set of masks, its objects as boxes, see ``read_mask_objects``.

    Args:
        split: "train", "val", "test"; "all" for folders that are not divided.
        background: names of the classes that are no objects; "auto": by their name, else the one of value 0.
        image_suffix, mask_suffix, skip_missing: as in ``MaskFolder``. The rest as in ``CocoDetection``.
    """
    pairing = {"image_suffix": image_suffix, "mask_suffix": mask_suffix, "skip_missing": skip_missing}
    return _read(
        root, "masks", split,
        classes=classes, class_map=class_map, keep_empty=keep_empty, segments=segments, training=training,
        background=background, **{key: value for key, value in pairing.items() if value},
    )  # fmt: skip


@DATASETS.register_module()
def DetectionData(
    *,
    root: str,
    split: str,
    format: str | None = None,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    keep_empty: bool = True,
    segments: bool = False,
    training: bool = False,
) -> tuple[DetectionRecords, DataReport]:
    """A split of a set in any of the four formats, which is found out.

    Args:
        root: folder or file, relative to ``EFFDENSE_DATA`` (default ``data/``) or absolute.
        format: "coco", "yolo", "voc" or "masks", where the folder holds several.
        The rest as in ``CocoDetection``.
    """
    return _read(
        root, format, split,
        classes=classes, class_map=class_map, keep_empty=keep_empty, segments=segments, training=training,
    )  # fmt: skip


def _read(root: str, format: str | None, split: str, **options: Any) -> tuple[DetectionRecords, DataReport]:
    """A split of what lies at a root under ``EFFDENSE_DATA``."""
    return read_split(detect(paths.resolve(root), format=format), split, **options)


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
        The rest as in ``effdense.data.generated.shapes.write_shapes`` and ``CocoDetection``.
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
