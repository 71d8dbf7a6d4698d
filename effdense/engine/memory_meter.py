"""How much memory a piece of work takes at its peak, and how much it may: of a GPU, or of this process on Linux."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from pathlib import Path

import torch

from effdense.engine.distributed import rank_and_world
from effdense.errors import ConfigError

_MB = 2**20


class CudaMeter:
    """Memory that torch has reserved on the current GPU.

    Attributes: limit: bytes that may be reserved: ``share`` of the GPU's memory less what others (and CUDA itself)
        hold. where: for people.
    """

    def __init__(self, share: float) -> None:
        self._release()
        free, total = torch.cuda.mem_get_info()
        self.limit = int(share * total) - (total - free - torch.cuda.memory_reserved())
        self.where = f"{share:.0%} of {total / 2**30:.1f} GB on {torch.cuda.get_device_name()}"

    def _release(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()

    def start(self) -> None:
        """From here on peaks count."""
        self._release()
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Most bytes reserved since."""
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_reserved())


class ProcessMeter:
    """Resident memory of this process beyond what it had at first.

    Attributes: limit: bytes that it may grow by: ``share`` of what is available to it, of several processes on one
        machine an equal part. where: for people.
    Raises: ConfigError on systems that do not tell.
    """

    def __init__(self, share: float) -> None:
        available = available_memory()
        if available is None or not _reset_peak():
            raise ConfigError(
                f"train_dataloader.batch_size={'auto' if share == DEFAULT_SHARE else share}: without a GPU the memory "
                "of a step can be measured on Linux only (/proc); give a number."
            )
        processes = local_processes()
        self.limit = int(share * available / processes)
        each = "" if processes == 1 else f" for each of {processes} processes"
        self.where = f"{share:.0%} of the {available / 2**30:.1f} GB that are free{each}"
        _trim()
        self._before = _status("VmRSS")

    def start(self) -> None:
        """From here on peaks count."""
        _trim()
        _reset_peak()

    def peak(self) -> int:
        """Most bytes resident since, beyond the first."""
        return max(0, _status("VmHWM") - self._before)


DEFAULT_SHARE = 0.85  # the rest is for validation, NCCL's buffers, fragmentation, loaders


def local_processes() -> int:
    """Processes of this run on this machine, as the launcher says; all of them where it does not."""
    given = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE", "")
    world = rank_and_world()[1]
    return min(int(given), world) if given.isdigit() and int(given) > 0 else world


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still get without swapping: of the machine, and of its control groups.

    Returns: None where the system does not say (not Linux).
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return None
    if not found:
        return None
    return min([*found, *_group_rooms(root)])


def _group_rooms(root: Path) -> list[int]:
    """What is left under the memory limits of the control groups, those above them included."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    base, rooms = root / "sys/fs/cgroup", []
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":  # version 2
            top, names = base, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = base / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path may be the host's, and the container's own group is the top.
        folder = top / path.lstrip("/")
        for place in dict.fromkeys((folder, *[p for p in folder.parents if p.is_relative_to(top)], top)):
            room = _room(place, *names)
            if room is not None:
                rooms.append(room)
    return rooms


def _room(folder: Path, limit: str, used: str, cache: str) -> int | None:
    try:
        bound = int((folder / limit).read_text())
        taken = int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines() if " " in line)
    except (OSError, ValueError):  # no such file; the word "max"
        return None
    return max(0, bound - taken + int(stat.get(cache, 0)))  # pages of files are given back


def _trim() -> None:
    """Give freed memory back to the system, so that it is not taken for needed."""
    gc.collect()
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> bool:
    """Begin a new peak (proc(5): 5 into clear_refs); whether the system took it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def megabytes(size: int) -> str:
    """Whole megabytes, for people."""
    return f"{size / _MB:.0f}"
