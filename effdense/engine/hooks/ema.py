"""Exponential moving average of the weights, and BatchNorm statistics that fit the weights and agree over ranks."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from effdense.engine.distributed import average_buffers
from effdense.engine.registry import HOOKS
from effdense.errors import ConfigError
from effdense.models.batch_norm import recalibrate_batch_norm, set_batch_norm_training


def unwrap(model: Any) -> Any:
    """The model inside a DDP wrapper, or the model."""
    return model.module if hasattr(model, "module") else model


class StateTensors(NamedTuple):
    """Tensors of a network by what an average does with them, in the order of its state dict."""

    floats: list[Tensor]  # weights and running statistics: averaged
    counts: list[Tensor]  # counters: copied

    @classmethod
    def of(cls, network: nn.Module) -> StateTensors:
        """Views of the network's own tensors. Walking 800 of them takes 2 ms: do it once, not in every step."""
        tensors = list(network.state_dict().values())
        return cls([t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()])


@torch.no_grad()
def update_average(average: StateTensors, network: StateTensors, decay: float) -> None:
    """``average = decay * average + (1 - decay) * network``; counters are copied."""
    torch._foreach_lerp_(average.floats, network.floats, 1.0 - decay)
    torch._foreach_copy_(average.counts, network.counts)


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
        model = unwrap(runner.model)
        self._average, self._network = StateTensors.of(model.start_ema()), StateTensors.of(model.network)
        self._seen = runner.optim_wrapper.updates

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        updates = runner.optim_wrapper.updates
        if updates == self._seen:
            return
        self._seen = updates
        decay = min(self.decay, (1.0 + updates) / (10.0 + updates)) if self.ramp else self.decay
        update_average(self._average, self._network, decay)


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


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """BatchNorm statistics that fit the weights: measured anew before each validation, and frozen late in training.

    Args:
        num_batches: how many of an epoch's last training batches to hold (uint8) and run through the network.
        freeze_from: first epoch (counted from 1) that trains with frozen statistics, as evaluation will use them; None
            for never, 1 for fine-tuning with the statistics of the starting weights.

    For short schedules and small batches. There, running statistics lag behind the weights; and a picture unlike the
    rest is tamed by its own share in the batch statistics while training but not in evaluation, where an EfficientNet's
    squeeze-and-excitation then amplifies it from block to block. Training with frozen statistics unlearns that.
    Statistics change before an epoch is saved, so that the checkpoint holds what is validated.
    """

    priority = "HIGH"

    def __init__(self, num_batches: int = 20, freeze_from: int | None = None) -> None:
        if num_batches < 1:
            raise ConfigError(f"PreciseBNHook.num_batches must be at least 1, got {num_batches}.")
        if freeze_from is not None and freeze_from < 1:
            raise ConfigError(f"PreciseBNHook.freeze_from counts epochs from 1, got {freeze_from}.")
        self.freeze_from = freeze_from
        self.lookback = num_batches  # batches of an epoch that a run resumed inside it shows again
        self._images: deque[Tensor] = deque(maxlen=num_batches)
        self._begins = True

    def _frozen_in(self, epoch: int) -> bool:
        return self.freeze_from is not None and epoch >= self.freeze_from

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        begins, self._begins = self._begins, False
        if begins and self._frozen_in(runner.epoch + 1):  # the loop has just called train()
            set_batch_norm_training(unwrap(runner.model).network, False)

    def after_skipped_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """A batch that was trained on before the restart."""
        self.after_train_iter(runner, batch_idx, data_batch)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if data_batch is not None and not self._frozen_in(runner.epoch + 1):
            self._images.append(data_batch["inputs"])

    def after_train_epoch(self, runner: Any) -> None:
        epoch = runner.epoch + 1
        self._begins = True
        if self._frozen_in(epoch):
            return
        loop = runner.train_loop
        model = unwrap(runner.model)
        networks = []
        if epoch >= loop.val_begin and (epoch % loop.val_interval == 0 or epoch == loop.max_epochs):
            networks.append(model.evaluation_network)
        if self._frozen_in(epoch + 1) and model.network not in networks:
            networks.append(model.network)
        for network in networks:
            recalibrate_batch_norm(
                network,
                (model.data_preprocessor({"inputs": images})["inputs"] for images in self._images),
                keep=model.standing_names,
            )
        self._images.clear()
