"""Pictures of a batch mixed with each other: (B, C, H, W) and labels (B,) in, pictures and soft targets (B, K) out.

mixup (arXiv 1710.09412) blends two pictures, CutMix (1905.04899) pastes a rectangle of one into the other; the target
becomes the mixture in the same shares. Both are torchvision's (transforms.v2); each picture meets its neighbour in the
batch, so batches must be shuffled. Draws come from torch's default CPU generator, which a checkpoint keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from effdense.errors import ConfigError, ShapeError


class BatchMixer:
    """Mixes whole batches on the device, after normalisation.

    Args:
        num_classes: K.
        mixup, cutmix: concentration a of the Beta(a, a) that the share is drawn from; 0 = off. 0.2 and 1.0 are the
            papers'. Both can be set anew between epochs.
        prob: share of the batches that are mixed.
        switch_prob: where both are on, the share of mixed batches that get CutMix.

    Attributes:
        watcher: called with what every call returns, by whoever wants to draw it; None for nobody.

    Raises:
        ConfigError: a value is out of range (on a call, for those that were set later).
    """

    def __init__(
        self,
        num_classes: int,
        mixup: float = 0.2,
        cutmix: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
    ) -> None:
        self.num_classes = num_classes
        self.mixup = mixup
        self.cutmix = cutmix
        self.prob = prob
        self.switch_prob = switch_prob
        self.watcher: Callable[[Tensor, Tensor], None] | None = None
        self._check()

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            inputs: (B, C, H, W) float; not changed.
            labels: (B,) integer in 0..K-1, -1 = ignore (its target is a row of zeros).

        Returns:
            The pictures, and targets (B, K) float32 - or `labels` as they came where mixing is off altogether.

        Raises:
            ShapeError: shapes or dtypes do not fit, or labels on the CPU lie outside -1..K-1.
        """
        self._check()
        images, targets = self._mixed(inputs, labels)
        if self.watcher is not None:
            self.watcher(images, targets)
        return images, targets

    def _mixed(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if inputs.ndim != 4 or not inputs.is_floating_point() or labels.shape != inputs.shape[:1]:
            raise ShapeError(
                f"BatchMixer expected float inputs (B, C, H, W) and labels (B,), got {inputs.dtype} "
                f"{tuple(inputs.shape)} and {tuple(labels.shape)}. Mix after normalising."
            )
        # On a GPU the values would have to be waited for.
        if labels.device.type == "cpu" and len(labels) and not -1 <= labels.min() <= labels.max() < self.num_classes:
            raise ShapeError(
                f"BatchMixer of {self.num_classes} classes got labels {int(labels.min())}..{int(labels.max())}, "
                f"expected 0..{self.num_classes - 1}, or -1 for ignore."
            )
        if self.prob == 0 or (self.mixup == 0 and self.cutmix == 0):
            return inputs, labels
        # One column more than there are classes takes what belongs to ignored labels, and is cut off.
        columns = self.num_classes + 1
        labels = torch.where(labels == -1, self.num_classes, labels.long())
        if float(torch.rand(())) >= self.prob:
            return inputs, F.one_hot(labels, columns)[:, :-1].float()
        cut = self.cutmix > 0 and (self.mixup == 0 or float(torch.rand(())) < self.switch_prob)
        mix = (
            v2.CutMix(alpha=self.cutmix, num_classes=columns)
            if cut
            else v2.MixUp(alpha=self.mixup, num_classes=columns)
        )
        images, targets = mix(inputs, labels)
        return images, targets[:, :-1]

    def _check(self) -> None:
        if self.num_classes < 1 or not (0 <= self.mixup < float("inf") and 0 <= self.cutmix < float("inf")):
            raise ConfigError(
                f"BatchMixer needs at least one class and mixup and cutmix of at least 0 (0 = off), got {self!r}."
            )
        if not (0 <= self.prob <= 1 and 0 <= self.switch_prob <= 1):
            raise ConfigError(f"BatchMixer needs prob and switch_prob in 0..1, got {self!r}.")

    def __repr__(self) -> str:
        return (
            f"BatchMixer(num_classes={self.num_classes}, mixup={self.mixup}, cutmix={self.cutmix}, prob={self.prob}, "
            f"switch_prob={self.switch_prob})"
        )
