"""Data sets made of others, for configs: several as one, and classes under other names.

``dict(type="ConcatDetection", datasets=[dict(type="CocoDetection", ...), dict(..., repeat=2, take=0.1)])`` and
``dict(type="MappedDetection", dataset=dict(...), mapping={"car": "vehicle", "person": None})``; they can be nested.
Names decide which classes are the same; category ids become 1..K, and validation follows the training split by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from effdense.data import ClassMap, DataReport, DetectionRecords
from effdense.data.checks.mask_check import check_masks
from effdense.data.combining import combine as sets
from effdense.data.combining.balance import ClassBalanced, RepeatFactor, Weighted, presence_of
from effdense.data.combining.class_mapping import aligned, mapped, selected
from effdense.data.combining.joined_masks import JoinedMasks
from effdense.engine.distributed import on_main_then_all
from effdense.engine.registry import DATASETS, SAMPLERS, resolve
from effdense.errors import ConfigError, DataError, EffdenseError

TASKS = ("Detection", "Segmentation", "Classification")
COMBINED = frozenset(f"{kind}{task}" for kind in ("Concat", "Mapped") for task in TASKS)
# Keys of a data set in a list of them, beside its own.
PART_KEYS = frozenset({"repeat", "take"})

for _sampler in (RepeatFactor, ClassBalanced, Weighted):
    SAMPLERS.register_module(module=_sampler)


@DATASETS.register_module(name=[f"Concat{task}" for task in TASKS])
def Concat(
    *,
    datasets: Sequence[Mapping[str, Any]],
    seed: int = 0,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[Any, DataReport]:
    """Several data sets of one task as one; their classes are the union of all, in order of first appearance.

    Args:
        datasets: configs of the parts, without transforms. ``repeat=n`` has a part n times in every epoch, ``take=0.1``
            a random tenth of its images, the same in every run.
        seed: of ``take``.
        classes: which classes to use, in this order; objects of others are dropped.
    """
    if isinstance(datasets, Mapping) or not isinstance(datasets, Sequence) or not datasets:
        raise ConfigError(f"datasets must be a list of data sets, [dict(type=...), ...], got {datasets!r}.")
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"seed of a combined data set must be a whole number of at least 0, got {seed!r}.")
    parts, times, report = [], [], DataReport()
    for number, config in enumerate(datasets):
        options = dict(config) if isinstance(config, Mapping) else {"type": config}
        repeat, share = options.pop("repeat", 1), options.pop("take", 1)
        if type(repeat) is not int or repeat < 1:
            raise ConfigError(f"datasets.{number}.repeat must be a whole number of at least 1, got {repeat!r}.")
        part, found = _read(options, f"datasets.{number}")
        parts.append(sets.take_share(part, share, seed=seed + number))
        times.append(repeat)
        report = report.merge(found)
    target = sets.union_of(parts, classes)
    if class_map is not None:
        aligned(target, class_map, "the combined data set")
        target = class_map
    _report_parts(parts, times, report)
    same = [sets.relabel(part, selected(part.class_map, target)) for part in parts]
    records = sets.concatenate([part for part, repeat in zip(same, times, strict=True) for _ in range(repeat)])
    return records, _report_whole(records, report, training)


@DATASETS.register_module(name=[f"Mapped{task}" for task in TASKS])
def Mapped(
    *,
    dataset: Mapping[str, Any],
    mapping: Mapping[str, str | None],
    unmapped: str = "error",
    keep_empty: bool = True,
    transforms: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[Any, DataReport]:
    """A data set with classes under other names.

    Args:
        dataset: its config, without transforms.
        mapping: old name -> new name, None to drop a class.
        unmapped: classes that the mapping does not name: "error", "keep" or "drop".
        keep_empty: of a detection set: keep images that have no object (left).
        classes: which of the new classes to use, in this order.
    """
    records, report = _read(dataset, "dataset")
    table = mapped(records.class_map, mapping, classes=classes, unmapped=unmapped)
    if class_map is not None:
        aligned(table.class_map, class_map, "the mapped data set")
    dropped = [name for name, label in zip(records.class_map.names, table.to, strict=True) if label < 0]
    report.add("note", "dropped-class", "classes are dropped by the mapping; their pictures stay.", dropped)
    records = sets.relabel(records, table)
    if class_map is not None:
        records = sets.relabel(records, selected(records.class_map, class_map))
    if isinstance(records, DetectionRecords) and not keep_empty:
        owners = np.repeat(np.arange(len(records)), np.diff(records.offsets))
        records = records.subset(np.unique(owners[~records.is_crowd]))
    return records, _report_whole(records, report, training)


def _read(config: Any, where: str) -> tuple[Any, DataReport]:
    """Records and report of a nested config."""
    options = dict(config) if isinstance(config, Mapping) else {}
    kind = options.pop("type", None)
    if kind is None:
        raise ConfigError(f"{where} must be a data set, dict(type=...), got {config!r}.")
    if options.pop("transforms", None):
        raise ConfigError(f"{where}.transforms: transforms belong to the outer data set; move them there.")
    reader = resolve(DATASETS, kind, where)
    try:
        records, report = reader(**options, class_map=None, training=False)
    except TypeError as error:
        raise ConfigError(f"{where} ({kind}) cannot be used as written: {error}.") from error
    except EffdenseError as error:
        kind_of_error = ConfigError if isinstance(error, ConfigError) else DataError
        raise kind_of_error(f"{where} ({kind}): {error}") from error
    # What a part lacks another may have, or the mapping drops: it is said of the whole.
    findings = [finding for finding in report.findings if finding.code != "class-without-objects"]
    return records, DataReport(report.source, findings)


def _report_parts(parts: Sequence[Any], times: Sequence[int], report: DataReport) -> None:
    said = [f"{_source(part)}: {len(part)} images" + (f" x {n}" if n > 1 else "") for part, n in zip(parts, times)]
    report.add("note", "combined", "data sets are used as one.", said)
    seen: dict[str, int] = {}
    twice = []
    for number, part in enumerate(parts):
        for index in range(len(part)):
            path = str(part.path(index))
            if seen.setdefault(path, number) != number:
                twice.append(path)
    report.add("warning", "repeated-picture", "pictures are in several of the combined data sets.", twice)


def _report_whole(records: Any, report: DataReport, training: bool) -> DataReport:
    if len(records) == 0:
        report.add("error", "empty-split", "the split has no usable image.", ["images"])
    elif training and isinstance(records, DetectionRecords) and records.class_counts().sum() == 0:
        report.add(
            "error",
            "no-objects",
            "the training split has no usable object at all, so nothing can be learnt.",
            ["split"],
        )
    elif isinstance(records, DetectionRecords):
        absent = [name for name, n in zip(records.class_map.names, records.class_counts(), strict=True) if n == 0]
        message = (
            "classes have no object in this split; their AP is undefined. Add objects, or leave them out (classes)."
        )
        report.add("warning", "class-without-objects", message, absent)
    return report


def _source(records: Any) -> str:
    for name in ("annotation_file", "origins", "source", "image_dir"):
        if getattr(records, name, None) is not None:
            return str(getattr(records, name))
    return "data set"


def check_joined_masks(records: JoinedMasks, *, decode: Any = "all") -> DataReport:
    """``check_masks`` of every part, of the pictures that are used."""
    report = DataReport()
    for number, part in enumerate(records.parts):
        rows = np.unique(records.row_of[records.part_of == number])
        report = report.merge(check_masks(part.subset(rows), decode=decode))
    return report


def is_combined(config: Any) -> bool:
    """Whether the config of a data set is of a type of this file."""
    return isinstance(config, Mapping) and str(config.get("type")).removeprefix("effdense.") in COMBINED


def following(dataset: dict[str, Any], train: Any) -> dict[str, Any]:
    """The config of a split that is evaluated, so that its classes are matched to the training split's by name.

    A plain data set beside a combined training set would be refused for its category ids.
    """
    if not is_combined(train) or is_combined(dataset):
        return dataset
    outer = {key: dataset[key] for key in ("transforms",) if key in dataset}
    inner = {key: value for key, value in dataset.items() if key not in outer}
    return {"type": "ConcatDetection", "datasets": [inner], **outer}


def nested(config: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any, frozenset[str]]]:
    """Every data set inside the config of one, with its dotted path and the keys it may have beside its own."""
    if isinstance(config.get("dataset"), Mapping):
        yield f"{where}.dataset", config["dataset"], frozenset()
        yield from nested(config["dataset"], f"{where}.dataset")
    parts = config.get("datasets")
    for number, part in enumerate(parts if isinstance(parts, (list, tuple)) else ()):
        yield f"{where}.datasets.{number}", part, PART_KEYS
        if isinstance(part, Mapping):
            yield from nested(part, f"{where}.datasets.{number}")


def sampling_counts(config: Mapping[str, Any], records: Any, where: str) -> np.ndarray:
    """(N,) how often an epoch shall have each image, from a sampler's config.

    Raises: ConfigError for an unknown type or option.
    """
    options = dict(config) if isinstance(config, Mapping) else {}
    if "type" not in options:
        raise ConfigError(
            f'{where} must be dict(type="RepeatFactor" | "ClassBalanced" | "Weighted", ...), got {config!r}.'
        )
    sampler = resolve(SAMPLERS, options.pop("type"), where)
    try:
        rule = sampler(**options)
    except TypeError as error:
        raise ConfigError(f"{where} cannot be used as written: {error}.") from error
    presence = on_main_then_all(lambda: presence_of(records))
    return np.asarray(rule(presence))
