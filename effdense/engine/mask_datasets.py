"""Segmentation data sets by name, for configs: ``dataset=dict(type="Cityscapes", split="train", transforms=[...])``.

Each is its reader in ``effdense.data`` with the root put under ``EFFDENSE_DATA``; ``transforms`` are built by
``datasets.py``, and ``class_map`` is the training split's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effdense.data import ClassMap, DataReport, paths
from effdense.data.readers.ade20k import read_ade20k
from effdense.data.readers.camvid import read_camvid
from effdense.data.readers.cityscapes import read_cityscapes
from effdense.data.readers.coco_semantic import read_coco_panoptic, read_coco_stuff
from effdense.data.readers.mask_folder import SegmentationRecords, read_mask_folder
from effdense.data.readers.voc_segmentation import read_voc
from effdense.engine.registry import DATASETS
from effdense.errors import ConfigError

Result = tuple[SegmentationRecords, DataReport]
Transforms = Sequence[Mapping[str, Any]]


@DATASETS.register_module()
def MaskFolder(
    *,
    root: str,
    images: str,
    masks: str,
    class_file: str | None = "classes.json",
    values: Sequence[int] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    split_file: str | None = None,
    ignore_index: Any = "auto",
    ignore_values: Sequence[int] | None = None,
    image_suffix: str = "",
    mask_suffix: str = "",
    skip_missing: bool = False,
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> Result:
    """A segmentation split: pictures and masks of equal names in two folders.

    Args:
        root: dataset folder, relative to ``EFFDENSE_DATA`` (default ``data/``) or absolute.
        images, masks: the two folders, relative to ``root``. split_file: list of names, relative to ``root``.
        class_file: JSON with the class names in the order of the mask values, relative to ``root``.
        classes: where there is a class file, names of the classes to keep; else all names in label order, with
            ``values`` and ``palette`` what the file would say.
        ignore_index, ignore_values: mask values that are no class; default what the class file says, else 255.
        image_suffix, mask_suffix: what the file names have behind the common name, such as "_mask".
        skip_missing: leave pictures without a mask out.
    """
    advice = "Expected are <root>/<images>/*.jpg and <root>/<masks>/*.png; set EFFDENSE_DATA to what holds the root."
    folder = paths.require_dir(paths.resolve(root), "the dataset root", advice=advice)
    if ignore_index is not None and ignore_index != "auto" and type(ignore_index) is not int:
        raise ConfigError(f"ignore_index must be a whole number, None or 'auto', got {ignore_index!r}.")
    if class_file is None and classes is None:
        raise ConfigError("MaskFolder: give classes=[...] or class_file=, which names the classes of the mask values.")
    file = None if class_file is None else folder / class_file
    in_place = classes is not None and (values is not None or palette is not None or file is None or not file.is_file())
    return read_mask_folder(
        folder / images,
        folder / masks,
        classes=classes if classes is not None and in_place else str(file),
        only=None if in_place else classes,
        values=values,
        palette=palette,
        split_file=None if split_file is None else folder / split_file,
        ignore_index=ignore_index,
        ignore_values=ignore_values,
        image_suffix=image_suffix,
        mask_suffix=mask_suffix,
        skip_missing=skip_missing,
        class_map=class_map,
        training=training,
    )


@DATASETS.register_module()
def VOCSegmentation(
    *,
    split: str,
    root: str = "VOCdevkit/VOC2012",
    augmented: bool = False,
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> Result:
    """PASCAL VOC 2012, see ``read_voc``: 21 classes; ``augmented`` reads "train" as the 10 582 pictures of trainaug."""
    return read_voc(root, split, augmented=augmented, classes=classes, class_map=class_map, training=training)


@DATASETS.register_module()
def Cityscapes(
    *,
    split: str,
    root: str = "cityscapes",
    annotations: str = "gtFine",
    masks: str = "auto",
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> Result:
    """Cityscapes, see ``read_cityscapes``: 19 classes from label ids or train ids."""
    return read_cityscapes(
        root, split, annotations=annotations, masks=masks, classes=classes, class_map=class_map, training=training
    )


@DATASETS.register_module()
def ADE20K(
    *,
    split: str,
    root: str = "ADEChallengeData2016",
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> Result:
    """ADE20K's scene parsing benchmark, see ``read_ade20k``: 150 classes."""
    return read_ade20k(root, split, classes=classes, class_map=class_map, training=training)


@DATASETS.register_module()
def CamVid(
    *,
    split: str,
    root: str = "camvid",
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> Result:
    """CamVid, see ``read_camvid``: 11 classes, either layout."""
    return read_camvid(root, split, classes=classes, class_map=class_map, training=training)


@DATASETS.register_module()
def COCOPanoptic(
    *,
    split: str,
    root: str = "coco",
    ann_file: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> Result:
    """COCO's panoptic masks as classes, see ``read_coco_panoptic``: 133 classes."""
    return read_coco_panoptic(
        root,
        split,
        ann_file=ann_file,
        images=images,
        masks=masks,
        classes=classes,
        class_map=class_map,
        training=training,
    )


@DATASETS.register_module()
def COCOStuff(
    *,
    split: str,
    root: str = "coco",
    images: str | None = None,
    masks: str | None = None,
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> Result:
    """COCO-Stuff's pixel maps, see ``read_coco_stuff``: 171 classes."""
    return read_coco_stuff(
        root, split, images=images, masks=masks, classes=classes, class_map=class_map, training=training
    )
