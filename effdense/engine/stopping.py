"""Signals that ask a run to end: remembered when they come, agreed on by all ranks, obeyed between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from effdense.engine.distributed import rank_and_world

# SIGTERM: schedulers and torchrun before they kill. SIGUSR1: Slurm with --signal=USR1@120, for a requeue in time.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)


class StopRequests:
    """Catches signals while it is installed.

    Args:
        interval: steps between two agreements of several ranks; one process looks at every step.
    """

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self.received: int | None = None
        self._former: dict[int, Any] = {}
        self._group: Any = None

    def install(self) -> None:
        """Take the signals over; in the main thread only, elsewhere Python cannot."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._former[number] = signal.signal(number, self._remember)
        if rank_and_world()[1] > 1:
            # Of its own and on the CPU: asking must not wait for a GPU.
            self._group = dist.new_group(backend="gloo")

    def remove(self) -> None:
        """Give the signals back."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def agreed(self, step: int) -> int | None:
        """The signal that ends the run after ``step``, the same on every rank; None to go on."""
        if self._group is None:
            return self.received
        if step % self.interval:
            return None
        flag = torch.tensor([self.received or 0])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return int(flag.item()) or None
