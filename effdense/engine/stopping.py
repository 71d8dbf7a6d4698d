"""Signals that ask a run to end: remembered when they come, agreed on by all ranks, obeyed between two steps."""

from __future__ import annotations

import signal
import threading
import time
from datetime import timedelta
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
        interval: steps between two agreements of several ranks, at most; they come about once a second. One process
            looks at every step.
        timeout: seconds that an agreement may wait for a lost rank.
    """

    def __init__(self, interval: int = 10, timeout: float = 1800.0) -> None:
        self.interval = interval
        self.timeout = timeout
        self.received: int | None = None
        self._former: dict[int, Any] = {}
        self._group: Any = None
        self._next, self._last = 0, (0, time.monotonic())

    def install(self) -> None:
        """Take the signals over; in the main thread only, elsewhere Python cannot."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._former[number] = signal.signal(number, self._remember)
        if rank_and_world()[1] > 1:
            # Of its own and on the CPU: asking must not wait for a GPU.
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=self.timeout))

    def remove(self) -> None:
        """Give the signals back."""
        for number, handler in self._former.items():
            # None: it was not set from Python, and Python cannot set it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former.clear()

    def leave(self) -> None:
        """End the group of a run that is done: a thread of gloo's that outlives the interpreter may abort it.

        Not where others may be lost: leaving could then wait for them.
        """
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def agreed(self, step: int) -> int | None:
        """The signal that ends the run after ``step``, the same on every rank; None to go on."""
        if self._group is None:
            return self.received
        if step < self._next:
            return None
        now, (before, at) = time.monotonic(), self._last
        flag = torch.tensor([self.received or 0, (now - at) / max(step - before, 1)], dtype=torch.float64)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        received, seconds = flag.tolist()  # a step's, of the slowest: all choose the same next time
        self._last = (step, now)
        self._next = step + max(1, min(self.interval, int(1.0 / max(seconds, 1e-3))))
        return int(received) or None
