"""Optimizer wrapper: any precision on any device, accumulation, clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from effdense.engine.distributed import rank_and_world
from effdense.engine.failures import memory_advice
from effdense.engine.finite import StepGuard
from effdense.engine.registry import OPTIM_WRAPPERS
from effdense.errors import ConfigError, RunError

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def automatic_dtype() -> str:
    """What ``--amp`` means on this machine: bfloat16 where it is native (and on CPU), float16 on older GPUs."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return "bfloat16"


@OPTIM_WRAPPERS.register_module()
class EffOptimWrapper(OptimWrapper):
    """OptimWrapper in float32, bfloat16 or float16 on CPU or GPU.

    Args:
        optimizer: the wrapped optimizer.
        dtype: None (float32), ``bfloat16``, ``float16`` or ``auto``; only float16 scales the loss.
        accumulative_counts: iterations per optimizer step; the last step of an epoch takes what is left of it.
        clip_grad: arguments of ``clip_grad_norm_`` (or ``clip_grad_value_`` with ``type='value'``).

    The gradient norm stays on the device (``last_grad_norm``); a hook reads it with the losses once per logging
    interval, so a step never waits for the device.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        dtype: str | None = None,
        accumulative_counts: int = 1,
        clip_grad: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, None if clip_grad is None else dict(clip_grad))
        if dtype == "auto":
            dtype = automatic_dtype()
        if dtype is not None and dtype not in _DTYPES:
            raise ConfigError(f"optim_wrapper.dtype must be None, 'auto', 'bfloat16' or 'float16', got {dtype!r}.")
        self.dtype = None if dtype is None else _DTYPES[dtype]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.dtype is torch.float16)
        self.last_grad_norm: Tensor | None = None
        self.updates = 0
        # Iterations of an epoch, set by the runner. No window of accumulation reaches over its end: pictures change
        # size there, weights are validated, and a checkpoint holds no gradients.
        self.epoch_length: int | None = None
        self.guard: StepGuard | None = None  # set by GuardHook
        self.parts = 1  # pieces that a batch is trained in, one after the other; 2 once it did not fit as a whole
        self._in_backward = False

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Where a run starts and ends, in iterations; mmengine calls it once weights are loaded."""
        self._inner_count, self._max_counts = init_counts, max_counts

    def _iterations(self) -> int | None:
        """Length of what is cut into windows: an epoch, else the whole run, None where neither is known."""
        return self.epoch_length or (self._max_counts if self._max_counts > 0 else None)

    def _ends_window(self, done: int) -> bool:
        length = self._iterations()
        position = done if length is None else done % length
        return position % self._accumulative_counts == 0

    def should_update(self) -> bool:
        """Whether the iteration just counted is the last of its window."""
        return self._ends_window(self._inner_count)

    def should_sync(self) -> bool:
        """Whether the iteration to come is the last of its window."""
        return self._ends_window(self._inner_count + 1)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss divided by the iterations of its window."""
        length, window = self._iterations(), self._accumulative_counts
        if length is None:
            return loss / window
        left = length - (self._inner_count % length) // window * window
        return loss / min(window, left)

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the forward pass; no gradient synchronisation inside an accumulation window."""
        with (
            super().optim_context(model),
            torch.autocast(self.device, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None),
        ):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self._backward(loss, **kwargs)
        self._inner_count += 1

    def accumulate(self, loss: Tensor) -> None:
        """Gradients of a part of a batch, which ``update_params`` with the last part completes."""
        self._backward(self.scale_loss(loss))

    def _backward(self, loss: Tensor, **kwargs: Any) -> None:
        loss = loss if self.guard is None else self.guard.checked(loss)
        self._in_backward = True
        self.scaler.scale(loss).backward(**kwargs)
        self._in_backward = False

    def halve(self, error: BaseException, batch_size: int) -> None:
        """Train batches in two halves from now on: this one did not fit into memory.

        Raises: RunError where that has been done already, or cannot be.
        """
        window, lost = self._accumulative_counts, ""
        if self.parts > 1 or batch_size < 2 or rank_and_world()[1] > 1:
            what = "half a batch" if self.parts > 1 else f"a batch of {batch_size}"
            several = rank_and_world()[1] > 1
            alone = " Of several processes none can halve its batch alone." if several else ""
            raise RunError(f"{what} does not fit into memory.{alone} {memory_advice(batch_size, window)}") from error
        if self._in_backward:  # what it has added so far cannot be told from the rest
            self._in_backward = False
            self.zero_grad()
            lost = "" if window == 1 else " Gradients of this step's batches before it are lost."
        self.parts = 2
        MMLogger.get_current_instance().warning(
            f"out of memory: from here on batches of {batch_size} are trained in two halves whose gradients are added "
            f"up; BatchNorm sees halves.{lost} Next time: train_dataloader.batch_size={batch_size // 2} "
            f"optim_wrapper.accumulative_counts={window * 2}."
        )

    def step(self, **kwargs: Any) -> None:
        norm = None
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            params = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = self.clip_func(params, **self.clip_grad_kwargs)
            norm = self.last_grad_norm = norm if isinstance(norm, Tensor) else None
        if self.guard is None or self.scaler.is_enabled():  # which leaves such steps out by itself
            self.scaler.step(self.optimizer, **kwargs)
        else:
            self.guard.step(self.optimizer, norm)
        self.scaler.update()
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        state = {**super().state_dict(), "loss_scaler": self.scaler.state_dict(), "updates": self.updates}
        return state if self.parts == 1 else {**state, "parts": self.parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        scaler = state.pop("loss_scaler", None)
        self.updates = int(state.pop("updates", 0))
        self.parts = int(state.pop("parts", 1))
        super().load_state_dict(state)
        if scaler:
            self.scaler.load_state_dict(scaler)
