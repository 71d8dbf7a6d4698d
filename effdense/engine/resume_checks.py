"""What a checkpoint must have in common with the run that is to go on with it."""

from __future__ import annotations

from typing import Any

from effdense.errors import WeightsError


def require_same_steps(runner: Any, filename: str, meta: dict[str, Any]) -> None:
    """Raise WeightsError where an iteration of this run is not what it was in the checkpoint's."""
    mine = {
        "world_size": runner.world_size,
        "iters_per_epoch": len(runner.train_dataloader),
        "batch_size": runner.train_dataloader.batch_size,
        "accumulative_counts": runner.optim_wrapper._accumulative_counts,
    }
    words = ("process(es)", "iterations an epoch", "images a batch", "batches a step")
    other = [
        f"{meta[key]} {word} (this run: {value})"
        for (key, value), word in zip(mine.items(), words, strict=True)
        if meta.get(key, value) != value
    ]
    if other:
        raise WeightsError(
            f"{filename} was written by a run with {', '.join(other)}, so its place in the schedule means "
            "something else; resume with the same processes, data, batch size and accumulation, or start a new run "
            f"from its weights with --cfg-options load_from={filename}."
        )


def require_same_classes(runner: Any, filename: str, meta: dict[str, Any]) -> None:
    """Raise WeightsError for other classes than the checkpoint's, or another order of them."""
    if list(meta.get("classes", runner.metadata["classes"])) != list(runner.metadata["classes"]):
        raise WeightsError(
            f"{filename} was trained for the classes {list(meta['classes'])}, in this order, the data have "
            f"{list(runner.metadata['classes'])}; start a new run from its weights with --cfg-options "
            f"load_from={filename}."
        )


def require_same_optimizer(runner: Any, filename: str, content: dict[str, Any]) -> None:
    """Raise WeightsError where this run's optimizer cannot go on with the state of the saved one."""
    meta, mine = content["meta"], type(runner.optim_wrapper.optimizer).__name__
    saved = [len(group["params"]) for group in content["optimizer"]["param_groups"]]
    groups = [len(group["params"]) for group in runner.optim_wrapper.optimizer.param_groups]
    if meta.get("optimizer", mine) != mine or saved != groups:
        raise WeightsError(
            f"{filename} has the state of {meta.get('optimizer', 'an optimizer')} over {len(saved)} groups of "
            f"{sum(saved)} weights, this run's is {mine} over {len(groups)} groups of {sum(groups)}; resume with "
            "the optim_wrapper and the frozen layers the run was started with, or start a new run from its weights "
            f"with --cfg-options load_from={filename}."
        )
