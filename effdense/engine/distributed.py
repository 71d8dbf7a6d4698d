"""Process groups and the DDP wrapper: any launcher, with or without a GPU."""

from __future__ import annotations

import atexit
import inspect
import os
import subprocess
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn

from effdense.engine.ranks import open_board
from effdense.engine.registry import MODEL_WRAPPERS
from effdense.engine.training_step import training_step
from effdense.errors import ConfigError, EffdenseError

LAUNCHERS = ("none", "pytorch", "slurm")


def infer_launcher(launcher: str) -> str:
    """``launcher``, or ``pytorch`` when torchrun's environment is there: else N processes would train N copies."""
    if launcher not in LAUNCHERS:
        raise ConfigError(f"--launcher must be one of {LAUNCHERS}, got {launcher!r}.")
    if launcher == "none" and int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        return "pytorch"
    return launcher


def init_distributed(launcher: str, *, backend: str | None = None, timeout: float = 1800.0) -> bool:
    """Join the process group; mmengine then finds it ready and skips its own, which needs a GPU even for gloo.

    Args:
        launcher: ``none`` | ``pytorch`` (torchrun) | ``slurm``.
        backend: default NCCL with GPUs, gloo without.
        timeout: seconds a collective may wait for a lost rank.

    Returns: whether this run is distributed.
    """
    if launcher == "none":
        return False
    if dist.is_initialized():
        return True
    if launcher == "slurm":
        _slurm_environment()
    missing = [
        name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise ConfigError(
            f"--launcher {launcher} needs {', '.join(missing)} in the environment; start with "
            "`bash tools/dist_train.sh CONFIG GPUS`, which calls torchrun, or `tools/slurm_train.sh`."
        )
    cuda = torch.cuda.is_available()
    if cuda:
        local_rank = int(os.environ["LOCAL_RANK"])
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(f"local rank {local_rank} has no GPU: this node shows {torch.cuda.device_count()}.")
        torch.cuda.set_device(local_rank)
    backend = backend or ("nccl" if cuda else "gloo")
    if backend == "nccl" and not cuda:
        backend = "gloo"  # shipped configs name nccl; without a GPU only gloo can run
    prefix = f"effdense_attempt_{_attempt()}"
    store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
    store = dist.PrefixStore(prefix, store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout))
    open_board(prefix, backend, timeout)
    if backend == "gloo":
        atexit.register(_leave_group)
    return True


def _attempt() -> str:
    """A name that the processes of one attempt share: torchrun may keep its store over restarts, and those of a new
    attempt would meet at the addresses that the last one has left there, and wait for ever.

    Raises: ConfigError for several nodes with such a store: each node counts its own restarts, so they would not meet.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return "0"  # every attempt has a store of its own
    several = int(os.environ.get("GROUP_WORLD_SIZE") or 1) > 1
    if several and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0:
        raise ConfigError(
            "torchrun with several nodes and --max-restarts keeps one store over all attempts, so that processes of a "
            "second attempt do not find each other. Start with tools/dist_train.sh (NNODES, MAX_RESTARTS), or set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 with --rdzv-backend=c10d on every node."
        )
    return os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0"


def _leave_group() -> None:
    """End gloo's threads before the interpreter does: one still running then aborts the process now and again."""
    if dist.is_initialized():
        # Up to torch 2.7 the group ends under the interpreter's lock and waits for a thread that may need the lock to
        # drop what it sent last: it gets the lock first (pytorch#154976).
        time.sleep(0.1)
        dist.destroy_process_group()


def _slurm_environment() -> None:
    """Translate Slurm's variables into torchrun's."""
    if "SLURM_PROCID" not in os.environ:
        raise ConfigError(
            "--launcher slurm needs a Slurm job (SLURM_PROCID is not set); start through tools/slurm_train.sh."
        )
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_NODELIST"]
    if "MASTER_ADDR" not in os.environ:
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
    # Jobs that share a node must not meet; below the ports that systems give out by themselves.
    os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ.get("SLURM_JOB_ID") or 9500) % 10000))
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]


def restarted_since() -> float | None:
    """When torchrun began, in seconds since the epoch, if it may have started these processes anew after losing one;
    else None. All ranks call it and get the same.

    0 where the system does not say when. Of several nodes it is the first torchrun's beginning; each counts the
    restarts that it saw itself, and one that came back counts none, so there may have been one whatever they say.
    """
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return None
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
    of_all = gather_objects((restarts, _launcher_began()))
    began = min(start for _, start in of_all)
    several = int(os.environ.get("GROUP_WORLD_SIZE") or 1) > 1
    return began if any(count for count, _ in of_all) or (several and began > 0) else None


def _launcher_began() -> float:
    """When the parent process began, in seconds since the epoch; 0 where the system does not say."""
    try:  # proc(5): btime of /proc/stat in seconds, starttime (field 22) of the parent in clock ticks after it
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        ticks = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
        return float(boot.split()[1]) + int(ticks) / os.sysconf("SC_CLK_TCK") - 1.0
    except (OSError, StopIteration, ValueError, IndexError):
        return 0.0


def rank_and_world() -> tuple[int, int]:
    """(rank, world size); (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_objects(value: Any) -> list[Any]:
    """``value`` of every rank, in rank order, on every rank."""
    _, world = rank_and_world()
    if world == 1:
        return [value]
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, value)
    return gathered


def on_main_then_all(function: Any) -> Any:
    """Run ``function()`` on rank 0 and give every rank its result; an exception there is raised on every rank.

    Without this the other ranks of a failed rank 0 would wait in a collective until its timeout.
    """
    rank, world = rank_and_world()
    if world == 1:
        return function()
    outcome: list[Any] = [None, None]
    if rank == 0:
        try:
            outcome[0] = function()
        except Exception as error:
            outcome[1] = error
    packed = [outcome[0], None if outcome[1] is None else f"{type(outcome[1]).__name__}: {outcome[1]}"]
    dist.broadcast_object_list(packed, src=0)
    if rank == 0 and outcome[1] is not None:
        raise outcome[1]
    if packed[1] is not None:
        raise EffdenseError(f"rank 0 failed: {packed[1]}")  # its own message says the rest
    return packed[0]


def average_buffers(modules: Sequence[nn.Module]) -> None:
    """Average floating-point buffers (BatchNorm statistics) over ranks, in one flat all-reduce.

    DDP keeps them per rank, so each rank would evaluate another network than the one that is saved.
    """
    _, world = rank_and_world()
    if world == 1:
        return
    buffers = [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    flat = torch.cat([buffer.detach().float().reshape(-1) for buffer in buffers])
    dist.all_reduce(flat)
    flat /= world
    offset = 0
    for buffer in buffers:
        count = buffer.numel()
        buffer.copy_(flat[offset : offset + count].view_as(buffer))
        offset += count


@MODEL_WRAPPERS.register_module()
class EffDDP(MMDistributedDataParallel):
    """DistributedDataParallel that also runs on CPU and takes the buffer option under either of torch's names for
    it.
    """

    def __init__(self, module: nn.Module, device_ids: list[int] | None = None, **options: Any) -> None:
        on_cpu = next(module.parameters()).device.type == "cpu"
        parameters = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
        key = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
        options.pop("broadcast_buffers", None)
        options.setdefault(key, False)
        options.setdefault("gradient_as_bucket_view", True)
        # Of depthwise weights, whose two ways of counting through one channel are the same memory.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        super().__init__(module, device_ids=None if on_cpu else device_ids, **options)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One iteration of this process's share of the batch."""
        return training_step(self, self.module, data, optim_wrapper)
