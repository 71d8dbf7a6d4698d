"""Optimizer wrapper (any precision on any device) and the schedules: warm-up, then cosine or polynomial."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from effdense.engine.distributed import rank_and_world
from effdense.engine.failures import memory_advice
from effdense.engine.finite import StepGuard
from effdense.engine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, PARAM_SCHEDULERS
from effdense.errors import ConfigError, RunError
from effdense.models.freezing import encoder_of, layer_index

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


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class QuietOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor without its log line and its group per parameter, with learning rates by depth.

    Beside mmengine's keys, ``paramwise_cfg`` takes:
        layer_decay: a factor d in (0, 1]; the LR of encoder layer i of n (stem 0, stage k is k + 1) is multiplied by
            d ** (n - i), everything behind the encoder keeps its own.
        encoder_lr_mult: one factor for the whole encoder, on top ("discriminative" learning rates).

    Parameters of equal options share a group: torch's fused and foreach steps work through one group at a time, so 312
    groups of one tensor each (D0) would cost 312 times the launches.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        own = dict(paramwise_cfg or {})
        self.layer_decay = _number("layer_decay", own)
        self.encoder_lr_mult = _number("encoder_lr_mult", own)
        if not 0.0 < self.layer_decay <= 1.0:
            raise ConfigError(f"paramwise_cfg.layer_decay must lie in (0, 1], got {self.layer_decay}.")
        if self.encoder_lr_mult <= 0.0:
            raise ConfigError(
                f"paramwise_cfg.encoder_lr_mult must be above 0, got {self.encoder_lr_mult}; to train without the "
                "encoder set model.frozen_stages='all'."
            )
        super().__init__(optim_wrapper_cfg, own)
        # mmengine reads parameter options only when there are some; by-depth rates need its groups either way.
        self._by_depth = self.layer_decay != 1.0 or self.encoder_lr_mult != 1.0
        if self._by_depth and not own:
            self.paramwise_cfg: dict[str, Any] = {"norm_decay_mult": 1.0}

    def __call__(self, model: nn.Module) -> OptimWrapper:
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel("WARNING")
        try:
            return super().__call__(model)
        finally:
            logger.setLevel(level)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", **options: Any) -> None:
        """Groups of ``module``; mmengine calls this for every submodule, with its name as ``prefix``."""
        super().add_params(params, module, prefix=prefix, **options)
        if prefix == "":
            if self._by_depth:
                self._scale_by_depth(params, module)
            merged: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
            for group in params:
                settings = {key: value for key, value in group.items() if key != "params"}
                same = merged.setdefault(tuple(sorted(settings.items())), {"params": [], **settings})
                same["params"].extend(group["params"])
            params[:] = merged.values()

    def _scale_by_depth(self, params: list[dict[str, Any]], module: Any) -> None:
        """Multiply the LR of every one-parameter group by the factor of its layer."""
        network = module.network
        stages = len(encoder_of(network).blocks)
        factors: dict[int, float] = {}
        for name, parameter in network.named_parameters():
            index = layer_index(name, stages)
            factor = self.layer_decay ** (stages + 1 - index)
            factors[id(parameter)] = factor * (self.encoder_lr_mult if index <= stages else 1.0)
        for group in params:
            (parameter,) = group["params"]
            rate: Any = group.get("lr", self.base_lr)
            group["lr"] = rate * factors[id(parameter)]


def _number(name: str, options: dict[str, Any]) -> float:
    """Take a factor out of paramwise_cfg, 1 where it is not given."""
    value = options.pop(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"paramwise_cfg.{name} must be a number, got {value!r}.")
    return float(value)


class _WarmupLR(LRSchedulerMixin, _ParamScheduler):
    """Linear warm-up, then a decay to ``final_factor``; one closed form per iteration.

    Args:
        end: length of the schedule in epochs; mmengine fills in the run's ``max_epochs``.
        warmup: length of the warm-up in epochs (fractions allowed) or, with ``by_epoch=False``, iterations.
        warmup_factor: LR at the first iteration relative to the base LR; automl .008 / .08 = .1.
        final_factor: LR at the end relative to the base LR.

    The decay runs over step / total from step 0, not from the end of the warm-up. Length and warm-up come from the
    config on resume, so raising ``max_epochs`` extends the schedule; only the position is restored.

    Raises: ConfigError for values out of range.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        end: float,
        warmup: float = 1.0,
        warmup_factor: float = 0.1,
        final_factor: float = 0.0,
        by_epoch: bool = True,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        name = type(self).__name__
        if end <= 0 or warmup < 0:
            raise ConfigError(f"{name} needs end > 0 and warmup >= 0, got end={end}, warmup={warmup}.")
        if not 0.0 <= warmup_factor <= 1.0 or not 0.0 <= final_factor <= 1.0:
            raise ConfigError(
                f"{name}: warmup_factor and final_factor are shares of the optimizer's LR in 0..1, "
                f"got {warmup_factor!r} and {final_factor!r}."
            )
        self.total = end
        self.warmup = warmup
        self.warmup_factor = warmup_factor
        self.final_factor = final_factor
        super().__init__(optimizer, by_epoch=by_epoch, last_step=last_step, verbose=verbose)

    @classmethod
    def build_iter_from_epoch(cls, *args: Any, epoch_length: int, **kwargs: Any) -> Any:
        """The same schedule in iterations."""
        kwargs["end"] = max(1, round(kwargs["end"] * epoch_length))
        kwargs["warmup"] = round(kwargs.get("warmup", 1.0) * epoch_length)
        return cls(*args, **{**kwargs, "by_epoch": False})

    def decay(self, progress: float) -> float:
        """From 1 at progress 0 to 0 at progress 1."""
        raise NotImplementedError

    def factor(self, step: int) -> float:
        """LR at ``step`` relative to the base LR."""
        if step < self.warmup:
            return self.warmup_factor + (1.0 - self.warmup_factor) * step / self.warmup
        return self.final_factor + (1.0 - self.final_factor) * self.decay(min(step / self.total, 1.0))

    def _get_value(self) -> list[float]:
        return [base * self.factor(self.last_step) for base in self.base_values]

    def state_dict(self) -> dict[str, Any]:
        return {
            "last_step": self.last_step,
            "global_step": self._global_step,
            "base_values": [float(value) for value in self.base_values],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_step = int(state_dict["last_step"])
        self._global_step = int(state_dict["global_step"])
        for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group[self.param_name] = value
        self._last_value = [group[self.param_name] for group in self.optimizer.param_groups]


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_WarmupLR):
    """Half a cosine, as automl efficientdet/tf2/train_lib.py ``CosineLrSchedule``."""

    def decay(self, progress: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * progress))


@PARAM_SCHEDULERS.register_module()
class WarmupPolyLR(_WarmupLR):
    """(1 - progress) ** ``power``, segmentation's usual schedule (ParseNet, arXiv 1506.04579; .9 is DeepLab's,
    1606.00915).

    Raises: ConfigError for a power that is not above 0.
    """

    def __init__(self, optimizer: Any, *, power: float = 0.9, **options: Any) -> None:
        if not power > 0:
            raise ConfigError(f"WarmupPolyLR needs power > 0 (.9 is usual, 1 is a straight line), got {power!r}.")
        self.power = power
        super().__init__(optimizer, **options)

    def decay(self, progress: float) -> float:
        return (1.0 - progress) ** self.power
