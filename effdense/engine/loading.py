"""How a loader of this engine reads its pictures: the ``cache`` option, and what its workers are like."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import torch

from effdense.data.storage.picture_cache import CachePlan, plan_store
from effdense.data.storage.ram_cache import RamCache
from effdense.data.storage.sharded import sets_of
from effdense.errors import ConfigError

TIMEOUT = 600.0  # seconds without a batch after which a worker is taken for hung
_NEED_WORKERS = ("persistent_workers", "prefetch_factor", "timeout")


def plan_of(records: Any, option: Any, split: str) -> CachePlan | None:
    """The store of a split, with the memory shared by the training processes of this machine."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or 1)
    return plan_store(records, option, processes=max(1, processes), where=f"{split}_dataloader.cache")


def is_elsewhere(records: Any) -> bool:
    """Whether pictures are in shards of an address: looking at each would fetch all of them."""
    return any(shards.fetch is not None for shards in sets_of(records))


def set_worker_defaults(options: dict[str, Any], dataset: Any) -> None:
    """Fill in what a loader's config does not say, in place.

    Workers persist (a new set per epoch costs seconds, and what they have opened), batches are pinned where there is a
    GPU, a RAM cache gets forked workers, which share it, and a worker that gives nothing for ten minutes ends the run.

    Raises: ConfigError for a RAM cache on a system without fork.
    """
    if options.get("num_workers", 0) == 0:
        for key in _NEED_WORKERS:
            options.pop(key, None)
    else:
        options.setdefault("persistent_workers", True)
        options.setdefault("timeout", TIMEOUT)
        if isinstance(getattr(dataset, "store", None), RamCache):
            if "fork" not in multiprocessing.get_all_start_methods():
                raise ConfigError(
                    "cache='ram' needs workers that are forked, which this system cannot; use num_workers=0, or "
                    "cache='disk'."
                )
            options["multiprocessing_context"] = "fork"
    options.setdefault("pin_memory", torch.cuda.is_available())
