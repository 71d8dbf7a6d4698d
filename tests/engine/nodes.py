"""Nodes and a Slurm that are none: torchruns side by side on this machine, and scripts in place of ``srun``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.conftest import ROOT, child_environment
from tests.engine.test_distributed import free_port

# Copies of a command as Slurm's tasks; signals go on to all of them, the highest exit code comes back.
SRUN = """#!{python}
import os, signal, subprocess, sys
arguments = sys.argv[1:]
tasks = int(next(a for a in arguments if a.startswith("--ntasks=")).partition("=")[2])
command = arguments[next(i for i, a in enumerate(arguments) if "/" in a):]
copies = []
for task in range(tasks):
    own = dict(SLURM_PROCID=str(task), SLURM_LOCALID=str(task), SLURM_NTASKS=str(tasks), SLURM_NODELIST="node[1]")
    copies.append(subprocess.Popen(command, env=dict(os.environ, **own), start_new_session=True))
# As Slurm does: to a task and all that it has started, a loader's workers among them.
signal.signal(signal.SIGUSR1, lambda number, frame: [os.killpg(copy.pid, number) for copy in copies])
sys.exit(max(copy.wait() % 256 for copy in copies))
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {folder}/requeued; fi
"""


def environment_of(data: Path, **more: str) -> dict[str, str]:
    """Of a child process that finds this checkout and the data set."""
    base = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "EFFDENSE_DATA": str(data)}
    return child_environment(**{**base, **more})


@dataclass
class Agent:
    """A torchrun of one node."""

    process: subprocess.Popen[str]
    output: Path

    def wait(self, timeout: float) -> tuple[int, str]:
        """(exit code, all it has said); it is killed after ``timeout`` seconds."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"not at its end after {timeout} s:\n{self.output.read_text()[-4000:]}")
        return self.process.returncode, self.output.read_text()

    def kill(self) -> None:
        """The node with all its processes."""
        for pid in descendants(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def descendants(pid: int) -> list[int]:
    """A process and all below it; torchrun gives its workers sessions of their own."""
    below = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [pid, *(one for child in below.stdout.split() for one in descendants(int(child)))]


def agent(config: Path, work_dir: Path, data: Path, port: str, node: int, **more: str) -> Agent:
    """Begin node ``node`` of two with one process each."""
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    output = work_dir.parent / f"node_{node}_{time.monotonic_ns()}.txt"
    env = environment_of(data, NNODES="2", NODE_RANK=str(node), PORT=port, LOCAL_ADDR="127.0.0.1", **more)
    command = ["bash", str(ROOT / "tools" / "dist_train.sh"), str(config), "1", "--work-dir", str(work_dir)]
    with open(output, "w") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file, text=True, start_new_session=True)
    return Agent(process, output)


def fake_slurm(folder: Path, data: Path) -> dict[str, str]:
    """An environment in which ``srun`` and ``scontrol`` are found."""
    programs = folder / "programs"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text.format(python=sys.executable, folder=folder))
        (programs / name).chmod(0o755)
    return environment_of(data, PATH=f"{programs}:{os.environ['PATH']}", MASTER_PORT=str(free_port()))
