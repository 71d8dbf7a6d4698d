"""Exponential moving average of the weights, and BatchNorm statistics that agree over ranks."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from torch import nn

from effdense.engine.distributed import average_buffers
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError


def unwrap(model: Any) -> Any:
    """The model inside a DDP wrapper, or the model."""
    return model.module if hasattr(model, "module") else model


def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """``average = decay * average + (1 - decay) * network`` for parameters and float buffers; integer buffers are copied."""
    with torch.no_grad():
        old, new = [], []
        for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                old.append(mean)
                new.append(value)
            else:
                mean.copy_(value)
        torch._foreach_lerp_(old, new, 1.0 - decay)


@HOOKS.register_module()
class EMAHook(Hook):
    """Keep a moving average of the network; it is what validation runs and what a checkpoint's ``state_dict`` holds.

    Args:
        decay: final decay d; EfficientDet uses .9998.
        ramp: use min(d, (1 + n) / (10 + n)) after n optimizer steps, so that the average leaves the random start early.

    One update per optimizer step (not per iteration), BatchNorm statistics included.
    Source: EfficientDet section 5.1; automl utils.py (tf.train.ExponentialMovingAverage with num_updates).
    """

    priority = "NORMAL"

    def __init__(self, decay: float = 0.9998, ramp: bool = True) -> None:
        if not 0.0 < decay < 1.0:
            raise ConfigError(f"EMAHook.decay must lie between 0 and 1, got {decay}.")
        self.decay = decay
        self.ramp = ramp
        self._seen = 0

    def before_train(self, runner: Any) -> None:
        unwrap(runner.model).start_ema()
        self._seen = runner.optim_wrapper.updates

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        updates = runner.optim_wrapper.updates
        if updates == self._seen:
            return
        self._seen = updates
        decay = min(self.decay, (1.0 + updates) / (10.0 + updates)) if self.ramp else self.decay
        model = unwrap(runner.model)
        update_average(model.start_ema(), model.network, decay)


@HOOKS.register_module()
class SyncBuffersHook(Hook):
    """Average BatchNorm statistics over ranks at the end of an epoch, before anything is validated or saved."""

    priority = "ABOVE_NORMAL"

    def after_train_epoch(self, runner: Any) -> None:
        model = unwrap(runner.model)
        networks = [model.network]
        if model.evaluation_network is not model.network:
            networks.append(model.evaluation_network)
        average_buffers(networks)
