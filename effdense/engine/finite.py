"""Steps that a non-finite loss must not reach: weights and BatchNorm statistics stay as they were, nothing waits.

Used by ``EffOptimWrapper`` (weights) and ``GuardHook`` (statistics, reading, reporting).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class StepGuard:
    """Finds out on the device whether loss and gradients are finite, and holds back steps where they are not.

    Args:
        stop: once something was not finite, hold back every later step too, so that all stays as it was then.
        may_read: whether looking at a number is free (CPU). Elsewhere fused optimizers are told on the device; others
            are not held back where ``stop``, and wait for the device once a step where not.

    The gradient of a loss that is not finite is made NaN for all weights, so that every process of a run decides the
    same from the gradients they share.
    """

    def __init__(self, stop: bool, may_read: bool) -> None:
        self.stop = stop
        self.may_read = may_read
        self.finite: Tensor | None = None  # of the iteration; with ``stop``: of all so far
        self.norm: Tensor | None = None  # of the gradients of the last step, None where the scaler of fp16 judges

    def begin(self) -> None:
        """A new iteration."""
        self.norm = None
        if not self.stop:
            self.finite = None

    def _also(self, finite: Tensor) -> Tensor:
        self.finite = finite if self.finite is None else self.finite & finite
        return self.finite

    def checked(self, loss: Tensor) -> Tensor:
        """The loss; NaN where it is not finite, or where steps are held back."""
        finite = self._also(torch.isfinite(loss.detach()))
        return loss * torch.where(finite, 1.0, float("nan"))

    def step(self, optimizer: Optimizer, norm: Tensor | None) -> None:
        """An optimizer step, unless gradients are not finite.

        Args: norm: of all gradients, None to measure it.
        """
        if norm is None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        self.norm = norm.detach()
        finite = torch.isfinite(self.norm)
        if self.stop:
            finite = self._also(finite)
        if getattr(optimizer, "_step_supports_amp_scaling", False) and not self.may_read:
            fused: dict[str, Tensor | None] = {"grad_scale": None, "found_inf": (~finite).float()}
            for name, value in fused.items():
                setattr(optimizer, name, value)
            try:
                optimizer.step()
            finally:
                for name in fused:
                    delattr(optimizer, name)
        elif (self.stop and not self.may_read) or bool(finite):
            optimizer.step()


class KeptBuffers:
    """Statistics of a network that can be put back to what they were before an iteration."""

    def __init__(self, network: nn.Module) -> None:
        self.buffers = [buffer for buffer in network.buffers() if buffer.dtype == torch.float32]
        sizes = [buffer.numel() for buffer in self.buffers]
        self._are_flat = all(buffer.dim() == 1 for buffer in self.buffers)  # those of BatchNorm are
        place = self.buffers[0] if self.buffers else torch.empty(0)
        self.kept, self.now = (torch.empty(sum(sizes), device=place.device) for _ in range(2))
        # Made once: walking hundreds of tensors in Python in every iteration takes a millisecond.
        self.kept_views = [
            part.view_as(buffer) for part, buffer in zip(self.kept.split(sizes), self.buffers, strict=True)
        ]

    def _read(self, into: Tensor) -> None:
        # One call, where a fused copy falls back to one call a tensor on the CPU.
        torch.cat(self.buffers if self._are_flat else [buffer.flatten() for buffer in self.buffers], out=into)

    @torch.no_grad()
    def take(self) -> None:
        """What they are now is what they are put back to."""
        if self.buffers:
            self._read(self.kept)

    @torch.no_grad()
    def settle(self, finite: Tensor, may_read: bool = False) -> None:
        """Keep what an iteration has made of them where ``finite`` (a bool on the device), else put them back.

        Args: may_read: whether looking at ``finite`` is free (CPU), so that nothing need be put back that is good.
        """
        if not self.buffers:
            return
        if may_read and bool(finite):
            self._read(self.kept)
            return
        self._read(self.now)
        torch.where(finite, self.now, self.kept, out=self.kept)
        torch._foreach_copy_(self.buffers, self.kept_views)
