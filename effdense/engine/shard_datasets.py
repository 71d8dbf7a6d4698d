"""Sharded data sets by name, for configs: ``dataset=dict(type="ShardedDetection", root=..., split="train", ...)``.

Each is ``read_shards`` for one task; ``transforms`` are built by ``datasets.py``, and ``class_map`` is the training
split's. See docs/loading.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from effdense.data import ClassMap, DataReport
from effdense.data.storage.shard_sampler import ShardShuffle
from effdense.data.storage.sharded import read_shards
from effdense.engine.distributed import on_main_then_all
from effdense.engine.registry import DATASETS, SAMPLERS, resolve
from effdense.errors import ConfigError

Transforms = Sequence[Mapping[str, Any]]


@DATASETS.register_module()
def ShardedDetection(
    *,
    root: str,
    split: str,
    keep_empty: bool = True,
    segments: bool = False,
    cache_dir: str | None = None,
    cache_gigabytes: float | None = None,
    retries: int = 4,
    timeout: float = 60.0,
    allow_pipe: bool = False,
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[Any, DataReport]:
    """A detection split in shards, as tools/make_shards.py writes them.

    Args:
        root: folder, under ``EFFDENSE_DATA`` if relative, or address: https://, s3://, gs://, hf:// ...
        split: "train", "val" or what it was called.
        keep_empty: keep images without objects. segments: keep the outlines of objects, for copy-paste.
        cache_dir, cache_gigabytes: where shards of an address are kept, and how much of them; default all.
        retries, timeout: tries after the first, and seconds without a byte.
        allow_pipe: run the shell command of a "pipe:..." root.
        classes: names of the classes to use, default all.
    """
    return _read(
        "detection", root, split, classes, class_map, keep_empty=keep_empty, segments=segments,
        cache_dir=cache_dir, cache_gigabytes=cache_gigabytes, retries=retries, timeout=timeout, allow_pipe=allow_pipe,
    )  # fmt: skip


@DATASETS.register_module()
def ShardedSegmentation(
    *,
    root: str,
    split: str,
    cache_dir: str | None = None,
    cache_gigabytes: float | None = None,
    retries: int = 4,
    timeout: float = 60.0,
    allow_pipe: bool = False,
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[Any, DataReport]:
    """A segmentation split in shards; arguments as in ``ShardedDetection``."""
    return _read(
        "segmentation", root, split, classes, class_map, cache_dir=cache_dir,
        cache_gigabytes=cache_gigabytes, retries=retries, timeout=timeout, allow_pipe=allow_pipe,
    )  # fmt: skip


@DATASETS.register_module()
def ShardedClassification(
    *,
    root: str,
    split: str,
    cache_dir: str | None = None,
    cache_gigabytes: float | None = None,
    retries: int = 4,
    timeout: float = 60.0,
    allow_pipe: bool = False,
    transforms: Transforms = (),
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    training: bool = False,
) -> tuple[Any, DataReport]:
    """A classification split in shards; arguments as in ``ShardedDetection``."""
    return _read(
        "classification", root, split, classes, class_map, cache_dir=cache_dir,
        cache_gigabytes=cache_gigabytes, retries=retries, timeout=timeout, allow_pipe=allow_pipe,
    )  # fmt: skip


def _read(
    task: str, root: str, split: str, classes: Sequence[str] | None, class_map: ClassMap | None, **options: Any
) -> tuple[Any, DataReport]:
    """``read_shards``, the index of an address fetched by one process before the others look."""
    read = partial(read_shards, root, split, task=task, classes=classes, class_map=class_map, **options)
    on_main_then_all(lambda: len(read()[0]))
    return read()


@SAMPLERS.register_module(name="ShardShuffle")
def shard_shuffle(*, buffer_shards: int = 8) -> Any:
    """Shards in random order, the samples of ``buffer_shards`` at a time mixed; see ``ShardShuffle``."""
    return partial(ShardShuffle, buffer_shards=buffer_shards)


def is_shard_shuffle(sampling: Any) -> bool:
    """Whether a sampler's config is that of the shard-aware order."""
    return isinstance(sampling, Mapping) and sampling.get("type") in ("ShardShuffle", "effdense.ShardShuffle")


def build_shard_shuffle(sampling: Mapping[str, Any], dataset: Any, **place: int) -> ShardShuffle:
    """The sampler of a config. Raises: ConfigError for an option that it does not have."""
    options = dict(sampling)
    make = resolve(SAMPLERS, options.pop("type"), "train_dataloader.sampler")
    try:
        return make(**options)(dataset, **place)
    except TypeError as error:
        raise ConfigError(f"train_dataloader.sampler cannot be used as written: {error}.") from error
