"""A loss or gradient that is not finite: the run ends with the batch written down, or the step is left out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from effdense.engine.distributed import gather_objects, rank_and_world
from effdense.engine.evidence import Iteration, non_finite_rows, random_streams, write_evidence
from effdense.engine.failures import batch_indices
from effdense.engine.finite import KeptBuffers, StepGuard
from effdense.engine.hooks.ema import unwrap
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError, RunError

# The scaler of float16 halves its scale in every step whose gradients are not finite; below this the scale is not to
# blame (fairseq's --min-loss-scale).
LEAST_SCALE = 1e-4
HELD_BYTES = 256 * 2**20  # batches that wait to be judged; one that has left them is read from its files again


@HOOKS.register_module()
class GuardHook(Hook):
    """Watch that losses and gradients stay finite.

    Args:
        non_finite: "stop" writes ``non_finite/iter_N.pth`` (``effdense debug replay`` runs it again) and ends the run;
            "skip" leaves the optimizer step out and counts it.
        max_skips: of "skip": after more steps in a row than this the run ends as with "stop".
        interval: iterations between looks on a GPU, where each look waits for the device. On a CPU looking is free: one
            process looks in every iteration.

    Nothing is saved or validated before a look. Weights and BatchNorm statistics stay as they were before the batch: on
    a CPU, with fused optimizers, and in float16, whose scaler leaves out steps anyway and may find single gradients
    that are not finite, which is its way of choosing a scale; one below ``LEAST_SCALE`` ends the run. Of other
    optimizers on a GPU, "skip" waits for the device once a step, and "stop" finds the weights after the steps that
    followed.
    """

    priority = "VERY_HIGH"

    def __init__(self, non_finite: str = "stop", max_skips: int = 10, interval: int = 50) -> None:
        if non_finite not in ("stop", "skip"):
            raise ConfigError(f"GuardHook.non_finite must be 'stop' or 'skip', got {non_finite!r}.")
        for name, number in (("max_skips", max_skips), ("interval", interval)):
            if type(number) is not int or number < 1:
                raise ConfigError(f"GuardHook.{name} must be a whole number of at least 1, got {number!r}.")
        self.non_finite = non_finite
        self.max_skips = max_skips
        self.interval = interval
        self._seen: deque[Iteration] = deque()
        self._window_bad = False

    def before_train(self, runner: Any) -> None:
        network = unwrap(runner.model).network
        on_cpu = next(network.parameters()).device.type == "cpu"
        self.guard = runner.optim_wrapper.guard = StepGuard(self.non_finite == "stop", may_read=on_cpu)
        # Several processes agree on who reports, so they look at the same time, and not often.
        self._every = 1 if on_cpu and rank_and_world()[1] == 1 else self.interval
        self._buffers = KeptBuffers(network)

    def before_train_epoch(self, runner: Any) -> None:
        self._buffers.take()  # averaged over processes or measured anew since

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.guard.begin()
        self._streams = random_streams()
        scale = getattr(runner.optim_wrapper.scaler, "_scale", None)
        self._scale = None if scale is None else scale.clone()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        wrapper = runner.optim_wrapper
        if self.guard.finite is not None:
            self._buffers.settle(self.guard.finite, self.guard.may_read)
        self._seen.append(
            Iteration(
                runner.iter + 1, runner.epoch, batch_idx, self._streams, data_batch, wrapper.parts,
                self._scale,
                {name: torch.as_tensor(value).detach() for name, value in (outputs or {}).items()},
                self.guard.norm, wrapper.should_update(),
            )
        )  # fmt: skip
        self._drop_batches()
        if (runner.iter + 1) % self._every == 0:
            self.look(runner)

    def before_checkpoint(self, runner: Any) -> None:
        """Nothing is saved that was not looked at."""
        self.look(runner)

    def after_train_epoch(self, runner: Any) -> None:
        self.look(runner)

    def _drop_batches(self) -> None:
        room = HELD_BYTES
        for number, seen in enumerate(reversed(self._seen)):
            if seen.batch is None:
                return  # and so are those before it
            room -= sum(value.nbytes for value in seen.batch.values() if isinstance(value, Tensor))
            if room < 0 and number:
                seen.batch = None

    def look(self, runner: Any) -> None:
        """Read what has gathered on the device, in one go.

        Raises: RunError.
        """
        waiting, self._seen = self._seen, deque()
        named = []
        for seen in waiting:
            more = {"grad_norm": seen.norm, "loss_scale": seen.scale}
            named.append({**seen.outputs, **{name: value for name, value in more.items() if value is not None}})
        tensors = [value.float().reshape(()) for values in named for value in values.values()]
        numbers = iter(torch.stack(tensors).tolist() if tensors else ())
        bad = None
        for seen, values in zip(waiting, named, strict=True):
            read = {name: next(numbers) for name in values}
            is_bad = not all(math.isfinite(read.get(name, 0.0)) for name in ("loss", "grad_norm"))
            if read.get("loss_scale", 1.0) < LEAST_SCALE:
                if self.non_finite == "skip":
                    raise RunError(self._report(runner, seen, read, ""))
                is_bad = True
            if self.non_finite == "stop":
                if is_bad and bad is None:
                    bad = (seen, read)
            else:
                self._count(runner, seen, read, is_bad)
        if self.non_finite == "stop":
            self._stop(runner, bad)

    def _count(self, runner: Any, seen: Iteration, values: dict[str, float], is_bad: bool) -> None:
        self._window_bad = self._window_bad or is_bad
        if not seen.ends_step:
            return
        bad, self._window_bad = self._window_bad, False
        counts = runner.progress.get("skipped_steps")
        if not bad:
            if counts is not None:
                counts["in_a_row"] = 0
            return
        if counts is None:
            counts = runner.progress["skipped_steps"] = {"total": 0, "in_a_row": 0}
        counts["total"] += 1
        counts["in_a_row"] += 1
        runner.message_hub.update_scalar("train/skipped_steps", counts["total"])
        if counts["in_a_row"] > self.max_skips:
            more = f" {counts['in_a_row']} steps in a row (max_skips={self.max_skips})."
            raise RunError(self._report(runner, seen, values, more))
        runner.logger.warning(
            f"iteration {seen.number}: {_names(values)}; its step was left out ({counts['in_a_row']} in a row, at most "
            f"{self.max_skips}; {counts['total']} in all)."
        )

    def _stop(self, runner: Any, bad: tuple[Iteration, dict[str, float]] | None) -> None:
        """End the run if any process has met something; who met it first says what, the others say who."""
        mine = None
        if bad is not None:  # gradients are shared, so of one iteration whoever has the loss comes first
            mine = (bad[0].number, math.isfinite(bad[1].get("loss", 0.0)))
        of_all = gather_objects(mine)
        met = [one for one in of_all if one is not None]
        if not met:
            return
        report = self._report(runner, *bad, "") if bad is not None and mine == min(met) else None
        gather_objects(None)  # a launcher ends all processes with the first, which must not be one with nothing to say
        if report is not None:
            raise RunError(report)
        who, number = of_all.index(min(met)), min(met)[0]
        raise RunError(f"process {who} met a loss or gradient that is not finite in iteration {number}; it says which.")

    def _report(self, runner: Any, seen: Iteration, values: dict[str, float], more: str) -> str:
        """Write the evidence; what the run ends with."""
        batch = seen.batch if seen.batch is not None else _read_again(runner, seen)
        path = write_evidence(runner, seen, batch, values)
        rank, world = rank_and_world()
        rows = non_finite_rows(batch)
        pictures = [str(one) for one in batch.get("paths", ())]
        inside = f" Not finite in the batch itself: {_few(rows)}." if rows else ""
        return (
            f"{_names(values)} in iteration {seen.number} (epoch {seen.epoch + 1}, batch {seen.batch_idx + 1})"
            f"{f' of process {rank}' if world > 1 else ''}.{more}{inside} Its pictures: {_few(pictures)}. "
            f"All of it was written down: `effdense debug replay {path}` says where it begins. "
            "Often the learning rate is too high or the gradients are not clipped (optim_wrapper.clip_grad); single "
            "batches are left out with default_hooks.guard.non_finite=skip."
        )


def _names(values: Mapping[str, float]) -> str:
    said = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if values.get("loss_scale", 1.0) < LEAST_SCALE:
        said.append(
            f"gradients in float16 are not finite whatever the scale of the loss is ({values['loss_scale']:.1g})"
        )
    return ", ".join(said)


def _few(words: list[str], limit: int = 8) -> str:
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more


def _read_again(runner: Any, seen: Iteration) -> dict[str, Any]:
    """The batch of an iteration of this epoch, from its files: a function of (seed, epoch, index)."""
    loader = runner.train_dataloader
    return dict(loader.collate_fn(loader.dataset.__getitems__(batch_indices(loader, seen.batch_idx))))
