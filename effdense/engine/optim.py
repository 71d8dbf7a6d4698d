"""Optimizer wrapper: any precision on any device, accumulation, clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from effdense.engine.clipping import AdaptiveClipping, adaptive_clipping
from effdense.engine.distributed import rank_and_world
from effdense.engine.failures import memory_advice
from effdense.engine.finite import StepGuard
from effdense.engine.fused import keep_implementation, start_momentum
from effdense.engine.registry import OPTIM_WRAPPERS
from effdense.errors import ConfigError, RunError

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def automatic_dtype() -> str:
    """What ``--amp`` means on this machine: bfloat16 where it is native (and on CPU), float16 on older GPUs."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return "bfloat16"


class _Window(NamedTuple):
    """Batches whose gradients make one step, as far as they have been seen."""

    unit: Tensor  # what losses are divided by until the whole is known
    whole: Tensor  # count of all of them
    iterations: int  # in the window

    def with_more(self, count: Tensor) -> _Window:
        return self._replace(whole=self.whole + count)


@OPTIM_WRAPPERS.register_module()
class EffOptimWrapper(OptimWrapper):
    """OptimWrapper in float32, bfloat16 or float16 on CPU or GPU.

    Args:
        optimizer: the wrapped optimizer.
        dtype: None (float32), ``bfloat16``, ``float16`` or ``auto``; only float16 scales the loss.
        accumulative_counts: iterations per optimizer step; the last step of an epoch takes what is left of it.
        clip_grad: arguments of ``clip_grad_norm_`` (or ``clip_grad_value_`` with ``type='value'``, or
            ``AdaptiveClipping`` with ``type='agc'``).

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
        clip_grad = None if clip_grad is None else dict(clip_grad)
        self.adaptive_clipping: AdaptiveClipping | None = None
        if clip_grad is not None and clip_grad.get("type") == "agc":
            self.adaptive_clipping = adaptive_clipping(clip_grad)
            clip_grad = None
        super().__init__(optimizer, accumulative_counts, clip_grad)
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
        self._in_backward = self._in_step = False
        self._window: _Window | None = None

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
        return loss / self._window_length()

    def _window_length(self) -> int:
        """Iterations of the window that the iteration to come belongs to."""
        length, window = self._iterations(), self._accumulative_counts
        if length is None:
            return window
        return min(window, length - (self._inner_count % length) // window * window)

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

    def shared_loss(self, loss: Tensor, count: Tensor, offset: float = 0.0) -> Tensor:
        """The loss as its share in that of all processes and of all batches of the window.

        Args:
            loss: a sum over things of this batch, divided by (``count`` + ``offset``).
            count: how many there were, on the device: positive anchors, pixels, images.

        With it a step is that of one process with the whole batch, however few positives one part of it has: the sum
        over all parts, divided by (all of their counts + ``offset``). How many there will be is not known before the
        last batch of a window, so what is gathered is scaled right before the step. Nothing waits for the device.
        """
        processes = rank_and_world()[1]
        if processes == 1 and self._window_length() * self.parts == 1:
            return loss
        total = count.detach().float().clone()
        own = total + offset
        if processes > 1:
            dist.all_reduce(total)
        if self._window is None:
            first, length = total + offset, self._window_length()
            if length * self.parts == 1:
                unit = whole = torch.where(first > 0, first, 1.0)
            else:  # not less than 1: after a batch of next to nothing, others would be beyond the range of float16
                unit, whole = first.clamp(min=1.0), first
            self._window = _Window(unit, whole, length)
        else:
            self._window = self._window.with_more(total)
        return loss * (own * (processes / self._window.unit))

    def _gather_window(self) -> None:
        """Gradients of the window, in its unit, become those of the mean over all of it."""
        window, self._window = self._window, None
        if window is None or window.unit is window.whole:
            return
        factor = window.unit * window.iterations / torch.where(window.whole > 0, window.whole, 1.0)
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, factor)

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
        if self._in_step:  # which takes the same whatever the batch is, and the batch is behind it
            raise RunError(
                "the optimizer's step does not fit into memory; it makes its state in the first one. "
                f"{memory_advice(batch_size, window)}"
            ) from error
        if self.parts > 1 or batch_size < 2 or rank_and_world()[1] > 1:
            what = "half a batch" if self.parts > 1 else f"a batch of {batch_size}"
            several = rank_and_world()[1] > 1
            alone = " Of several processes none can halve its batch alone." if several else ""
            raise RunError(f"{what} does not fit into memory.{alone} {memory_advice(batch_size, window)}") from error
        if self._in_backward:  # what it has added so far cannot be told from the rest
            self._in_backward = False
            self.zero_grad()
            self._window = None
            lost = "" if window == 1 else " Gradients of this step's batches before it are lost."
        self.parts = 2
        MMLogger.get_current_instance().warning(
            f"out of memory: from here on batches of {batch_size} are trained in two halves whose gradients are added "
            f"up; BatchNorm sees halves.{lost} Next time: train_dataloader.batch_size={batch_size // 2} "
            f"optim_wrapper.accumulative_counts={window * 2}."
        )

    def step(self, **kwargs: Any) -> None:
        self._in_step = True
        self._gather_window()
        norm = None
        clip = self.adaptive_clipping or self.clip_grad_kwargs
        if clip:
            self.scaler.unscale_(self.optimizer)
            params = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = clip(params) if isinstance(clip, AdaptiveClipping) else self.clip_func(params, **clip)
            norm = self.last_grad_norm = norm if isinstance(norm, Tensor) else None
        if self.guard is None or self.scaler.is_enabled():  # which leaves such steps out by itself
            self.scaler.step(self.optimizer, **kwargs)
        else:
            self.guard.step(self.optimizer, norm)
        self.scaler.update()
        self.updates += 1
        self._in_step = False

    def state_dict(self) -> dict[str, Any]:
        state = {**super().state_dict(), "loss_scaler": self.scaler.state_dict(), "updates": self.updates}
        return state if self.parts == 1 else {**state, "parts": self.parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        scaler = state.pop("loss_scaler", None)
        self.updates = int(state.pop("updates", 0))
        self.parts = int(state.pop("parts", 1))
        super().load_state_dict(keep_implementation(state, self.optimizer))
        start_momentum(self.optimizer)  # of a run whose steps were all held back so far
        if scaler:
            self.scaler.load_state_dict(scaler)
