"""Config sections to checked datasets and loaders.

The training split decides the class map; validation must agree with it, and the model gets its number of classes from
it, so that ids, names and channels cannot drift apart. Everything is checked here, before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from effdense.data import (
    ClassMap,
    DataReport,
    DetectionDataset,
    DetectionRecords,
    EvalSampler,
    TrainSampler,
    check_images,
    collate_detection,
    paths,
)
from effdense.data.checks.image_file_check import check_image_files
from effdense.data.checks.mask_check import check_masks, check_overlap
from effdense.data.checks.quick_compare import compare_quickly
from effdense.data.classification import ClassificationDataset, collate_classification
from effdense.data.combining.joined_masks import JoinedMasks
from effdense.data.dataset import init_worker
from effdense.data.generated.shapes import shapes_root
from effdense.data.generated.shapes_folder import write_shapes_folder
from effdense.data.readers.image_folder import ClassificationRecords, read_image_folder
from effdense.data.readers.mask_folder import SegmentationRecords, read_mask_folder
from effdense.data.segmentation import SegmentationDataset, collate_segmentation
from effdense.data.transforms import augment, geometry
from effdense.data.transforms.affine import RandomAffine
from effdense.data.transforms.copy_paste import CopyPaste
from effdense.data.transforms.mixup import MixUp
from effdense.data.transforms.mosaic import Mosaic
from effdense.data.transforms.rectangles import AspectEvalSampler, AspectGroupedSampler, ResizeFit, aspect_ratios
from effdense.engine import mask_datasets as mask_datasets  # registers its data sets
from effdense.engine.combined_datasets import check_joined_masks, following, sampling_counts
from effdense.engine.detection_datasets import shapes_folder, size_range
from effdense.engine.distributed import on_main_then_all, rank_and_world
from effdense.engine.loading import is_elsewhere, plan_of, set_worker_defaults
from effdense.engine.loop import SkippingSampler
from effdense.engine.registry import DATASETS, MODELS, TRANSFORMS, resolve
from effdense.engine.shard_datasets import build_shard_shuffle, is_shard_shuffle
from effdense.errors import ConfigError, DataError

for _transform in (
    geometry.ResizePad,
    geometry.ScaleJitterCrop,
    geometry.HorizontalFlip,
    geometry.VerticalFlip,
    augment.RandomResizedCrop,
    augment.CenterCrop,
    augment.RandAugment,
    augment.ColorJitter,
    augment.RandomErasing,
    RandomAffine,
    Mosaic,
    MixUp,
    CopyPaste,
    ResizeFit,
):
    TRANSFORMS.register_module(module=_transform)
# Transforms whose size is the config's image_size unless they say another.
_SIZED = (
    geometry.ResizePad,
    geometry.ScaleJitterCrop,
    augment.RandomResizedCrop,
    augment.CenterCrop,
    RandomAffine,
    Mosaic,
    ResizeFit,
)

Records = DetectionRecords | ClassificationRecords | SegmentationRecords | JoinedMasks
_DATASETS: dict[type, tuple[Any, Any]] = {
    DetectionRecords: (DetectionDataset, collate_detection),
    ClassificationRecords: (ClassificationDataset, collate_classification),
    SegmentationRecords: (SegmentationDataset, collate_segmentation),
    JoinedMasks: (SegmentationDataset, collate_segmentation),
}

# What looks at the files themselves, and how many it decodes unless the config says so: of masks all, since wrong
# values are the fault that trains on in silence.
# Of pictures with boxes so many files are opened, spread over the split, 0.1 ms each where they are in memory.
QUICK_FILES = 20_000
_CHECKS: dict[type, tuple[Any, int | str]] = {
    DetectionRecords: (check_images, 0),
    ClassificationRecords: (check_image_files, 0),
    SegmentationRecords: (check_masks, "all"),
    JoinedMasks: (check_joined_masks, "all"),
}


@DATASETS.register_module()
def ImageFolder(
    *,
    root: str,
    split: str | None = None,
    names_file: str | None = None,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[ClassificationRecords, DataReport]:
    """A classification split: one folder of pictures per class, as ImageNet has them.

    Args:
        root: dataset folder, relative to ``EFFDENSE_DATA`` (default ``data/``) or absolute.
        split: sub-folder with the class folders, for example "train"; None when they lie in ``root`` itself.
        names_file: text file with lines "folder name", relative to ``root``: readable names, as for ImageNet's synsets.
        classes: names of the classes to use, default all.
    """
    advice = "Expected are <root>/<split>/<class>/*.jpg; set EFFDENSE_DATA to the folder that holds the root."
    folder = paths.require_dir(paths.resolve(root), "the dataset root", advice=advice)
    names = None if names_file is None else folder / names_file
    folder = folder if split is None else paths.require_dir(folder / split, f"the {split} split", advice=advice)
    return read_image_folder(folder, class_map=class_map, classes=classes, names_file=names)


@DATASETS.register_module()
def ShapesFolder(
    *,
    split: str,
    root: str = "shapes_folder",
    splits: Mapping[str, int] | None = None,
    image_size: int | Sequence[int] = 96,
    seed: int = 0,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[ClassificationRecords, DataReport]:
    """The built-in generated classification set, one shape per picture; written on first use, reused after.

    Args:
        split: which of ``splits``. splits: images per split. image_size: px, or (smallest, largest) side.
    """
    size = size_range(image_size)

    def generate() -> str:
        counts = dict(splits or {"train": 800, "val": 200})
        return str(write_shapes_folder(shapes_root(root), splits=counts, image_size=size, seed=seed))

    return read_image_folder(Path(on_main_then_all(generate)) / split, class_map=class_map, classes=classes)


@DATASETS.register_module()
def ShapesSegmentation(
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
    training: bool = False,
) -> tuple[SegmentationRecords, DataReport]:
    """The label maps of the built-in generated dataset; arguments as in ``ShapesDetection``."""
    folder = shapes_folder(root, splits, image_size, seed, max_objects)
    return read_mask_folder(
        folder / split,
        folder / "semantic" / split,
        classes=folder / "semantic" / "classes.json",
        only=classes,
        class_map=class_map,
        training=training,
    )


@dataclass
class Split:
    """One split ready for use: its dataset, what was found in it, and the loader's config."""

    name: str
    dataset: Any
    records: Any
    report: DataReport
    loader: dict[str, Any]
    reading: str = ""  # how pictures are read, where they are not read from files
    sampling: str = ""  # what its sampler draws, where not every image once

    @property
    def source(self) -> Path | str | None:
        """Annotation file or folder that the records came from, of combined sets all of them."""
        origins = getattr(self.records, "origins", None)
        if origins is not None:
            return str(origins)
        return getattr(self.records, "annotation_file", None) or getattr(self.records, "source", None)

    def describe(self) -> str:
        """One line for the head of a log."""
        boxes = f", {len(self.records.labels)} boxes" if isinstance(self.records, DetectionRecords) else ""
        more = "".join(f"; {text}" for text in (self.reading, self.sampling) if text)
        return f"{self.name}: {len(self.records)} images{boxes}, {self.source}{more}"

    @property
    def collate(self) -> Any:
        """The function that makes a batch of its samples."""
        return _DATASETS[type(self.records)][1]


def build_transforms(configs: Sequence[Mapping[str, Any]], image_size: int | Sequence[int], where: str) -> list[Any]:
    """Transforms from their configs; ``size`` defaults to the config's ``image_size``."""
    size = image_size if isinstance(image_size, int) else (int(image_size[0]), int(image_size[1]))
    built = []
    for i, config in enumerate(configs):
        options = dict(config)
        name = options.pop("type")
        target = resolve(TRANSFORMS, name, f"{where}.{i}")
        if target in _SIZED:
            options.setdefault("size", size)
        for key in ("size", "scale", "fill", "ratio", "center"):
            if isinstance(options.get(key), list):
                options[key] = tuple(options[key])
        try:
            built.append(target(**options))
        except ConfigError as error:
            raise ConfigError(f"{where}.{i} ({name}; size is image_size unless given): {error}") from None
    return built


def build_split(cfg: Mapping[str, Any], name: str, *, seed: int, class_map: ClassMap | None = None) -> Split:
    """Read and check the records of ``cfg['<name>_dataloader']``.

    Raises: DataError listing every error found, ConfigError for a section that is missing.
    """
    section = cfg.get(f"{name}_dataloader")
    if not section:
        raise ConfigError(f"the config has no {name}_dataloader section.")
    loader = dict(section)
    dataset = dict(loader.pop("dataset"))
    if name != "train":
        dataset = following(dataset, (cfg.get("train_dataloader") or {}).get("dataset"))
    where = f"{name}_dataloader.dataset"
    reader = resolve(DATASETS, dataset.pop("type"), where)
    transforms = build_transforms(dataset.get("transforms", ()), cfg["image_size"], f"{where}.transforms")
    dataset.setdefault("classes", cfg.get("classes"))
    training = name == "train"
    records, report = reader(**dataset, class_map=class_map, training=training)
    _raise_errors(name, report)
    _check_task(cfg, records, name)
    check = dict(cfg.get("data_check") or {})
    if check.get("enable", True) and not is_elsewhere(records):
        checker, usual = _CHECKS[type(records)]
        looked = {"decode": usual if check.get("decode") is None else check["decode"]}
        if isinstance(records, DetectionRecords):
            looked["count"] = QUICK_FILES
        if isinstance(records, (DetectionRecords, ClassificationRecords)) and check.get("files") is not None:
            looked["count"] = check["files"]
        report = report.merge(on_main_then_all(lambda: checker(records, **looked)))
        _raise_errors(name, report)
    for transform in transforms:
        if hasattr(transform, "check_records"):
            transform.check_records(records)
    plan = plan_of(records, loader.pop("cache", None), name)
    store = None if plan is None else plan.store
    samples = _DATASETS[type(records)][0](records, transforms, seed=seed, training=training, store=store)
    samples.metainfo = {"classes": records.class_map.names}  # read by mmengine's loops
    report = report if plan is None else report.merge(plan.report)
    split = Split(name, samples, records, report, loader, "" if plan is None else plan.text)
    if check.get("enable", True) and not is_elsewhere(records):
        _try_out(split)
    return split


def _check_task(cfg: Mapping[str, Any], records: Any, name: str) -> None:
    """Raise ConfigError for a data set of another task than the model's."""
    model = cfg.get("model") or {}
    if "type" not in model:
        return
    task = getattr(resolve(MODELS, model["type"], "model"), "task", None)
    found = _DATASETS[type(records)][0].__name__.removesuffix("Dataset").lower()
    if task is not None and found != task:
        raise ConfigError(
            f"{name}_dataloader.dataset is for {found}, a {task} model needs one of its own task; choose another "
            f"dataset, or another model than {model['type']}."
        )


def _try_out(split: Split) -> None:
    """A sample or two through the transforms into a batch, so that what cannot work is said before a run begins.

    Two, of different sizes where the records know them, show transforms that do not make pictures one size.
    """
    chosen = [0]
    sizes = getattr(split.records, "sizes", None)
    if split.loader.get("batch_size", 1) != 1 and sizes is not None:
        chosen += np.flatnonzero((sizes != sizes[0]).any(1))[:1].tolist()
    split.collate([split.dataset[index] for index in chosen])


def compare_splits(train: Split, val: Split) -> None:
    """Add to ``val.report`` what is wrong between the two: pictures that both hold, classes that only one has.

    Warnings only: no finding about leakage stops a run.
    """
    masks = (SegmentationRecords, JoinedMasks)
    if isinstance(train.records, masks) and isinstance(val.records, masks):
        val.report = val.report.merge(check_overlap(cast(Any, train.records), cast(Any, val.records)))
    elif not is_elsewhere(train.records) and not is_elsewhere(val.records):
        val.report = val.report.merge(on_main_then_all(lambda: compare_quickly(train.records, val.records)))


def _raise_errors(name: str, report: DataReport) -> None:
    if report.errors:
        try:
            report.raise_for_errors()
        except DataError as error:
            raise DataError(f"{name} split: {error}") from None


def build_loader(split: Split, *, seed: int, training: bool) -> DataLoader[Any]:
    """The DataLoader of a split for this rank.

    Training: every rank gets its share of one seeded permutation per epoch and full batches only. Evaluation: whole
    batches are dealt to the ranks, so nothing is padded or counted twice and each batch is the one a single process
    would see.
    """
    rank, world = rank_and_world()
    options = dict(split.loader)
    batch_size = options.pop("batch_size", 1)
    shuffle, sampling = options.pop("shuffle", True), options.pop("sampler", None)
    aspects = aspect_ratios(split.records) if options.pop("group_by_aspect", False) else None
    set_worker_defaults(options, split.dataset)
    sampler: Any
    if training:
        counts = None
        if sampling is not None:
            if not shuffle:
                raise ConfigError("train_dataloader: a sampler shuffles; remove shuffle=False or the sampler.")
            if not is_shard_shuffle(sampling):
                counts = sampling_counts(sampling, split.records, "train_dataloader.sampler")
        if sampling is not None and counts is None:
            sampler = build_shard_shuffle(sampling, split.dataset, seed=seed, rank=rank, world_size=world)
        else:
            sampler = TrainSampler(
                split.dataset, seed=seed, shuffle=shuffle, rank=rank, world_size=world, counts=counts
            )
        if counts is not None:
            drawn = f"{sampler.size} samples an epoch, an image {counts.min():.3g} to {counts.max():.3g} times"
            split.sampling = f"{sampling['type']}: {drawn}"
        if len(sampler) < batch_size and options.get("drop_last", True):
            raise ConfigError(
                f"train_dataloader.batch_size {batch_size} exceeds the {len(sampler)} training images per process; "
                "lower it (or set train_dataloader.drop_last=False)."
            )
        options.setdefault("drop_last", True)
        if aspects is not None:
            sampler = AspectGroupedSampler(sampler, aspects, batch_size, seed=seed)
        sampler = SkippingSampler(sampler)
    else:
        sampler = EvalSampler(len(split.dataset), batch_size, rank=rank, world_size=world)
        if aspects is not None:
            sampler = AspectEvalSampler(aspects, batch_size, rank=rank, world_size=world)
        options["drop_last"] = False
    try:
        return DataLoader(
            split.dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=split.collate,
            worker_init_fn=init_worker,
            # A generator of its own: iterating a loader must not consume the global random stream.
            generator=torch.Generator().manual_seed(seed),
            **options,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{split.name}_dataloader cannot be used as written: {error}") from error


def check_class_count(num_classes: int | None, class_map: ClassMap, where: Any, *, task: str = "") -> int:
    """The model's number of classes: from the data, or the config's own if it agrees.

    A segmentor of one class (one logit: object or not) is trained on two: background and object.

    Raises: ConfigError naming both numbers and the annotation file, or for masks of a single class.
    """
    found = len(class_map)
    if task == "segmentation" and num_classes == 1 and found == 2:
        return 1
    if task == "segmentation" and found == 1:
        raise ConfigError(
            f"the training masks {where} have one class, {class_map.names[0]}, and nothing to tell it from. Name what "
            'is around it, too: "classes": ["background", "object"], with "values": [0, 255] and "ignore_index": null '
            "where the masks are 0 and 255; model.num_classes=1 then gives one logit."
        )
    if num_classes is not None and num_classes != found:
        raise ConfigError(
            f"model.num_classes is {num_classes}, but the training annotations {where} define {found} classes "
            f"({', '.join(class_map.names[:5])}{', ...' if found > 5 else ''}). Remove model.num_classes to take "
            f"the data's, or select classes with classes=[...]."
        )
    return found
