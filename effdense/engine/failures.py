"""What ends a training from outside of it, in a sentence: lost or hung workers, unreadable pictures, memory.

An error leaves here as a RunError or with its own class, with the newest checkpoint in its text.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from effdense.engine import checkpoint as files
from effdense.engine.determinism import without_deterministic_form
from effdense.engine.ranks import let_others_speak, lost_rank
from effdense.errors import EffdenseError, RunError

_LOST = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal: \w[^.]*|exited unexpectedly.*)"
)
_LATE = re.compile(r"DataLoader timed out after ([\d.]+) seconds")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # full, over quota, gone or failing
_OWN = re.compile(r"^effdense\.errors\.\w+: ", re.MULTILINE)


def memory_advice(batch_size: int, accumulation: int) -> str:
    """What to do where a batch does not fit."""
    half = max(1, batch_size // 2)
    return (
        f"Lower the batch (train_dataloader.batch_size={half} with optim_wrapper.accumulative_counts="
        f"{accumulation * 2} sees as many pictures a step), lower image_size, or train with --amp."
    )


@contextmanager
def explained(runner: Any) -> Iterator[None]:
    """Around a training."""
    try:
        yield
    except EffdenseError as error:
        text = str(error)
        if text.startswith("Caught ") and _OWN.search(text):  # from a worker, with its traceback in the text
            text = _OWN.split(text)[-1].strip()
        elif "--resume" in text:
            raise
        raise type(error)(f"{text} {_last_checkpoint(runner)}") from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted: {_place(runner)}. {_last_checkpoint(runner)}") from error
    except torch.OutOfMemoryError as error:
        advice = memory_advice(runner.train_dataloader.batch_size, runner.optim_wrapper._accumulative_counts)
        said = str(error).splitlines()[0] if str(error) else "out of memory"
        raise RunError(f"{_place(runner)}: {said} {advice} {_last_checkpoint(runner)}") from error
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise RunError(
            f"{_place(runner)}: {error.strerror}{where}; {_free(runner)}. What was saved before is whole. "
            f"{_last_checkpoint(runner)}"
        ) from error
    except RuntimeError as error:
        let_down = lost_rank(error)
        if let_down is not None:
            explained_error = RunError(f"{_place(runner)}: {let_down} {_last_checkpoint(runner)}")
            explained_error.said_by_another_rank = let_down.said_by_another_rank
            raise explained_error from error
        no_form = without_deterministic_form(error)
        if no_form is not None:
            raise RunError(f"{_place(runner)}: {no_form} {_last_checkpoint(runner)}") from error
        lost, late = _LOST.search(str(error)), _LATE.search(str(error))
        if lost is not None and runner._stop.received is not None:
            ended = RunError(
                f"{_place(runner)}: signal {runner._stop.received} asked this run to end, and ended a loader's worker "
                f"process before a checkpoint could be written. {_last_checkpoint(runner)}"
            )
            ended.said_by_another_rank = let_others_speak()
            raise ended from error
        if lost is not None:
            raise RunError(
                f"{_place(runner)}: a loader's worker process ({lost[1].strip()}) {lost[2].rstrip('.')}. Killed: the "
                "machine may be out of memory (fewer num_workers, a smaller prefetch_factor). Bus error: out of shared "
                f"memory (/dev/shm; docker run --shm-size). {_last_checkpoint(runner)}"
            ) from error
        if late is not None:
            raise RunError(
                f"{_place(runner)}: no batch came within {late[1]} s{_awaited(runner, error.__traceback__)}. A disk or "
                "network that hangs; where batches do take that long, raise the loader's timeout (0 waits for ever). "
                f"{_last_checkpoint(runner)}"
            ) from error
        raise


def _free(runner: Any) -> str:
    usage = os.statvfs(runner.work_dir)
    return f"{usage.f_bavail * usage.f_frsize / 2**20:.0f} MiB free in {runner.work_dir}"


def _place(runner: Any) -> str:
    return f"epoch {runner.epoch + 1}, after {runner.iter} iterations"


def _last_checkpoint(runner: Any) -> str:
    newest = files.pointed_at(Path(runner.work_dir))
    if newest is None:
        return "No checkpoint was written before it."
    return f"The newest checkpoint is {newest}: go on with --resume."


def _awaited(runner: Any, traceback: TracebackType | None) -> str:
    """The worker that did not answer and the pictures it was to read; empty where that cannot be found out."""
    while traceback is not None:
        batches: Any = traceback.tb_frame.f_locals.get("self")
        tasks = getattr(batches, "_task_info", None)
        if tasks:
            try:
                worker = tasks[batches._rcvd_idx][0]
                said = f" from worker {worker} (process {batches._workers[worker].pid})"
                training = batches._dataset is runner.train_dataloader.dataset
                return said + (_pictures_of_next(runner) if training else "")
            except (AttributeError, LookupError, TypeError):
                return ""
        traceback = traceback.tb_next
    return ""


def _pictures_of_next(runner: Any) -> str:
    loader = runner.train_dataloader
    indices = batch_indices(loader, runner.train_loop.batches_done)
    paths = [str(loader.dataset.pending(int(index))["path"]) for index in indices]
    return f", which reads {', '.join(paths[:8])}{' ...' if len(paths) > 8 else ''}"


def batch_indices(loader: Any, batch_idx: int) -> list[Any]:
    """What the sampler gives for one batch of its present epoch."""
    sampler, size = loader.sampler, loader.batch_size
    return list(islice(iter(getattr(sampler, "sampler", sampler)), batch_idx * size, (batch_idx + 1) * size))
