"""The training loop: mmengine's, which can also begin in the middle of an epoch and end at a signal.

A run that was stopped goes on with the batch that would have come next. The order of an epoch depends on (seed, epoch)
alone and each sample's random numbers on (seed, epoch, index), so it is enough to leave out the batches that are done.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import Sampler

from effdense.errors import RunError


class SkippingSampler(Sampler[Any]):
    """A training sampler whose next pass may leave out its first samples; its length stays that of a whole epoch.

    Args:
        sampler: of this rank, any with a length and ``set_epoch``.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        skip, self.skip = self.skip, 0
        return islice(iter(self.sampler), skip, None)


class EpochLoop(EpochBasedTrainLoop):
    """Epochs of training, validation between them.

    Attributes:
        batches_done: of the present epoch; set by a resume, it is where the epoch goes on.
        validate_first: the last epoch ended before it could be validated; that is done before anything else.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches_done = 0
        self.validate_first = False

    def is_due(self, epoch: int) -> bool:
        """Whether validation follows the epoch of this number, counted from 1."""
        return epoch >= self.val_begin and (epoch % self.val_interval == 0 or epoch == self._max_epochs)

    def run(self) -> Any:
        """Train to the last epoch, or to where a hook or a signal says stop."""
        self.runner.call_hook("before_train")
        if self.validate_first:
            self.validate_first = False
            self._validate()
        if self._epoch >= self._max_epochs or self.stop_training:
            why = "early stopping has ended it" if self._epoch < self._max_epochs else "a larger max_epochs goes on"
            self.runner.logger.warning(
                f"nothing is left to train: {self._epoch} of {self._max_epochs} epochs are done; {why}."
            )
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self.runner.stop_if_asked()  # a validation may take longer than whoever asked will wait
            if self.is_due(self._epoch):
                self._validate()
                self.runner.stop_if_asked()
        self.runner.call_hook("after_train")
        return self.runner.model

    def _validate(self) -> None:
        if self.runner.val_loop is not None:
            self.runner.val_loop.run()

    def run_epoch(self) -> None:
        """One epoch, or what is left of it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        first = self.batches_done
        # Hooks that look at an epoch's last batches see those before the restart again, though nothing trains on them.
        shown = min(first, max((getattr(hook, "lookback", 0) for hook in self.runner.hooks), default=0))
        if first:
            self._sampler().skip = (first - shown) * self.dataloader.batch_size
        batches = iter(self.dataloader)
        for index in range(first - shown, first):
            self.runner.call_hook("after_skipped_iter", batch_idx=index, data_batch=next(batches))
        # Here and not earlier: workers are started by now, and nothing else draws numbers before the first step.
        self.runner.restore_random_streams()
        for index, batch in enumerate(batches, start=first):
            self.batches_done = index + 1
            self.run_iter(index, batch)
            if index + 1 < len(self.dataloader):
                self.runner.stop_if_asked()
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.batches_done = 0

    def _sampler(self) -> SkippingSampler:
        sampler = self.dataloader.sampler
        if not isinstance(sampler, SkippingSampler):
            raise RunError(
                f"a run can only go on inside an epoch with loaders of effdense.engine, this one samples with "
                f"{type(sampler).__name__}; resume from an epoch_N.pth instead."
            )
        return sampler
