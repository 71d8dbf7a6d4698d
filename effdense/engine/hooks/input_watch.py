"""Copies of the first training batches as the network is fed them: after jitter, resizing and mixing on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_TARGETS = ("boxes", "labels", "valid", "masks")


@dataclass
class SeenBatch:
    """One batch.

    Attributes:
        iteration: counted from 0 over the run. size: (height, width) px. images: in the batch of this process.
        content: ``inputs`` (B, C, H, W) uint8 and the targets, of its first images; on the device of the model.
    """

    iteration: int
    size: tuple[int, int]
    images: int
    content: dict[str, Tensor]

    def to_host(self) -> dict[str, Tensor]:
        """The content on the host; waits for the device."""
        return {key: value.cpu() for key, value in self.content.items()}


class InputWatch:
    """Looks over the shoulder of a shell's preprocessor, and of a classifier's mixer, for some iterations.

    Args:
        shell: the model. batches: how many iterations are noted; of each the first pass, and ``images`` of its images.

    Nothing is read back from the device. Errors are kept in ``error`` and end the watch, not the run.
    """

    def __init__(self, shell: Any, *, batches: int, images: int) -> None:
        self._preprocessor, self._mixer = shell.data_preprocessor, getattr(shell, "mixer", None)
        self._batches, self._images = batches, images
        self._iteration: int | None = None
        self.seen: list[SeenBatch] = []
        self.error: Exception | None = None
        self._handle = self._preprocessor.register_forward_hook(self._prepared, with_kwargs=True)
        if self._mixer is not None:
            self._mixer.watcher = self._mixed

    @property
    def is_done(self) -> bool:
        """Whether all batches were seen, or there will be no more."""
        return len(self.seen) >= self._batches or self.error is not None

    def begin(self, iteration: int) -> None:
        """An iteration starts; what follows belongs to it."""
        self._iteration = iteration

    def end(self) -> None:
        """The iteration is over: what passes from here on, in validation for example, is not looked at."""
        self._iteration = None

    def close(self) -> None:
        """Leave preprocessor and mixer as they were."""
        self._handle.remove()
        if self._mixer is not None:
            self._mixer.watcher = None

    def _prepared(self, module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> None:
        if self._iteration is None or (self.seen and self.seen[-1].iteration == self._iteration):
            return
        try:
            inputs = output["inputs"]
            targets = {key: output[key][: self._images].clone() for key in _TARGETS if key in output}
            size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
            content = {"inputs": self._pixels(inputs), **targets}
            self.seen.append(SeenBatch(self._iteration, size, len(inputs), content))
        except Exception as error:  # of a preprocessor that is another than ours
            self._fail(error)

    def _mixed(self, inputs: Tensor, targets: Tensor) -> None:
        if self._iteration is None or not self.seen or self.seen[-1].iteration != self._iteration:
            return
        try:
            content = {"inputs": self._pixels(inputs), "labels": targets[: self._images].clone()}
            self.seen[-1].content = content
        except Exception as error:
            self._fail(error)

    @torch.no_grad()
    def _pixels(self, inputs: Tensor) -> Tensor:
        """Normalised inputs as uint8 again."""
        images = inputs[: self._images].float() * self._preprocessor.std + self._preprocessor.mean
        return images.round_().clamp_(0, 255).to(torch.uint8)

    def _fail(self, error: Exception) -> None:
        self.error, self._iteration = error, None
