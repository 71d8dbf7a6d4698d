"""Progress for the logger, without waiting for the device in every iteration."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import RuntimeInfoHook as _RuntimeInfoHook
from torch import Tensor

from effdense.engine.registry import HOOKS

HISTORY = 2000  # logged values that are kept; windows of smoothing are shorter


@HOOKS.register_module()
class RuntimeInfoHook(_RuntimeInfoHook):
    """mmengine's hook, except that losses and the gradient norm stay on the device until the logger wants them.

    Args:
        interval: iterations between reads; use the logger's.

    mmengine reads every logged value back in every iteration, which makes the host wait for the GPU each time.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._held: dict[str, list[Tensor]] = {}
        self._last_norm: Tensor | None = None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        for name, value in (outputs or {}).items():
            self._held.setdefault(name, []).append(torch.as_tensor(value).detach())
        norm = getattr(runner.optim_wrapper, "last_grad_norm", None)
        if norm is not None and norm is not self._last_norm:  # no new one inside an accumulation window
            self._last_norm = norm
            self._held.setdefault("grad_norm", []).append(norm.detach())
        if (
            self.every_n_inner_iters(batch_idx, self.interval)
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
            or self.is_last_train_iter(runner)
        ):
            self.flush(runner)

    def before_checkpoint(self, runner: Any) -> None:
        """What is held goes into the history that the checkpoint keeps."""
        self.flush(runner)

    def flush(self, runner: Any) -> None:
        """Hand what is held to mmengine's message hub; one device read."""
        names = [name for name, values in self._held.items() for _ in values]
        if not names:
            return
        values = torch.stack([v.float().reshape(()) for held in self._held.values() for v in held]).tolist()
        for name, value in zip(names, values, strict=True):
            runner.message_hub.update_scalar(f"train/{name}", value)
        self._held = {}
        for history in runner.message_hub.log_scalars.values():
            # mmengine copies a whole history for each new value: 16 ms an iteration after a million of them.
            history.max_length = min(history.max_length, HISTORY)
