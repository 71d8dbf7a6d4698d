"""What a night may bring, each through the front door: the run ends as promised, and resumed it ends like one without.

One config for all of it: a hook in it does the harm that the environment asks for.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from effdense.engine import checkpoint as files
from tests.engine.conftest import ROOT, validations, write_tiny_config
from tests.engine.nodes import agent, environment_of, fake_slurm
from tests.engine.test_distributed import free_port
from tests.engine.test_exact_resume import finished, ranks, run
from tests.engine.test_run import assert_same_state

pytestmark = pytest.mark.slow

HARM = """
import multiprocessing as _multiprocessing, os as _os, signal as _signal, time as _time
from mmengine.hooks import Hook as _Hook
from effdense.engine.registry import HOOKS as _HOOKS
import effdense.engine.checkpoint as _files

train_cfg["max_epochs"] = 2
train_dataloader["persistent_workers"] = True
default_hooks.update(checkpoint=dict(every_iters=1, max_keep=0), pictures=None)

class _Harm(_Hook):
    priority = "VERY_HIGH"  # the guard comes after it

    def _due(self, runner, name):
        "At iteration <name>, on rank HARM_RANK (0), once: where ONCE names a file, it is made."
        if _os.environ.get(name) != str(runner.iter + 1) or runner.rank != int(_os.environ.get("HARM_RANK", "0")):
            return False
        once = _os.environ.get("ONCE")
        if once and _os.path.exists(once):
            return False
        if once:
            open(once, "w").close()
        return True

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self._due(runner, "KILL"):
            _os.kill(_os.getpid(), _signal.SIGKILL)
        if self._due(runner, "STOP"):
            _os.kill(_os.getpid(), _signal.SIGSTOP)
        if self._due(runner, "HANG"):
            _time.sleep(600)
        if self._due(runner, "RAISE"):
            raise ValueError("a bug in a hook")
        if self._due(runner, "NAN"):
            data_batch["inputs"] = data_batch["inputs"].float()
            data_batch["inputs"][1, 0, 5, 5] = float("nan")
        if self._due(runner, "KILL_WORKER"):
            _os.kill(_multiprocessing.active_children()[0].pid, _signal.SIGKILL)
        if self._due(runner, "FILL"):
            with open(_os.environ["BALLAST"], "wb", buffering=0) as file:
                try:
                    while True: file.write(bytes(2 ** 16))
                except OSError:
                    pass

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self._due(runner, "BREAK"):
            with open(_os.environ["VICTIM"], "wb") as file:
                file.write(b"no picture")
        if _os.environ.get("SLOW"):  # so that a signal from outside finds the run in training
            _time.sleep(float(_os.environ["SLOW"]))

_HOOKS.register_module(name="Harm", module=_Harm, force=True)
custom_hooks = [dict(type="Harm")]

_replace, _count = _os.replace, [0]
def _dying(source, target):
    if str(target).endswith(".pth"):
        _count[0] += 1
        if _os.environ.get("KILL_WRITE") == str(_count[0]):
            with open(source, "r+b") as file:
                file.truncate(_os.path.getsize(source) // 2)
            _os.kill(_os.getpid(), _signal.SIGKILL)
    return _replace(source, target)
_files.os.replace = _dying
"""


def said(result: subprocess.CompletedProcess[str]) -> str:
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_config(tmp_path_factory.mktemp("config"), "faults", HARM)


@pytest.fixture(scope="module")
def straight(config: Path, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, six iterations an epoch, nothing goes wrong."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    finished(run(config, folder, EFFDENSE_DATA=str(data_root)))
    return folder


@pytest.fixture(scope="module")
def straight_pair(config: Path, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, three iterations an epoch, nothing goes wrong."""
    folder = tmp_path_factory.mktemp("straight_pair") / "run"
    finished(ranks(config, folder, EFFDENSE_DATA=str(data_root)))
    return folder


@pytest.fixture
def resumes(config: Path, data: Path, straight: Path) -> Callable[[Path], str]:
    """Go on without harm: the end is that of the straight run, to the bit."""

    def go(work_dir: Path, **environment: str) -> str:
        result = run(config, work_dir, "--resume", **environment)
        finished(result)
        assert "resumed" in said(result)
        for name in ("epoch_2.pth", "best.pth"):
            assert_same_state(work_dir / name, straight / name)
        return said(result)

    return go


def test_killed_in_mid_epoch(config: Path, data: Path, tmp_path: Path, resumes: Any) -> None:
    assert run(config, tmp_path / "run", KILL="4").returncode == -signal.SIGKILL
    assert "3 of 6 iterations done" in resumes(tmp_path / "run")


def test_killed_while_writing(config: Path, data: Path, tmp_path: Path, resumes: Any) -> None:
    """Half of iter_3.pth is on the disk, under a name that is no checkpoint's; iter_2.pth is whole."""
    assert run(config, tmp_path / "run", KILL_WRITE="3").returncode == -signal.SIGKILL
    assert [p.name.split(".tmp")[0] for p in (tmp_path / "run").glob(".*tmp*")] == [".iter_3.pth"]
    assert "2 of 6 iterations done" in resumes(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*tmp*"))


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
    if made.returncode != 0:
        pytest.skip("mounting needs rights that this user has not; test_no_room_for_a_file runs without them")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_full_disk(config: Path, data: Path, tmp_path: Path, resumes: Any) -> None:
    with small_disk(tmp_path / "disk", "400m") as disk:
        ballast = disk / "ballast"
        result = run(config, disk / "run", FILL="4", BALLAST=str(ballast))
        assert result.returncode == 2, said(result)[-3000:]
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("RunError: ") and "could not be written" in last and "0 MiB free" in last, last
        assert "--resume" in last and "Traceback" not in result.stderr, result.stderr[-3000:]
        newest = files.find_last(disk / "run")
        assert newest is not None and newest.name == "iter_3.pth"
        ballast.unlink()
        resumes(disk / "run")


def test_no_room_for_a_file(config: Path, data: Path, tmp_path: Path, straight: Path, resumes: Any) -> None:
    """As under a quota: no file may grow beyond half of a checkpoint. Whatever was whole before is whole."""
    shutil.copytree(straight, tmp_path / "run")
    for name in ("epoch_2.pth", "best.pth"):
        (tmp_path / "run" / name).unlink()
    files.write_pointer(tmp_path / "run", tmp_path / "run" / "epoch_1.pth")
    limit = (straight / "epoch_1.pth").stat().st_size // 2
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # children inherit it
    try:
        result = run(config, tmp_path / "run", "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.returncode == 2 and "could not be written" in result.stderr, said(result)[-3000:]
    newest = files.find_last(tmp_path / "run")
    assert newest is not None and newest.name == "epoch_1.pth"
    shutil.copy(straight / "best.pth", tmp_path / "run" / "best.pth")
    finished(run(config, tmp_path / "run", "--resume"))
    assert_same_state(tmp_path / "run" / "epoch_2.pth", straight / "epoch_2.pth")


def test_newest_checkpoint_cut_in_half(config: Path, data: Path, tmp_path: Path, resumes: Any) -> None:
    assert run(config, tmp_path / "run", KILL="9").returncode == -signal.SIGKILL
    newest = tmp_path / "run" / "iter_8.pth"
    os.truncate(newest, newest.stat().st_size // 2)
    text = resumes(tmp_path / "run")
    assert "passed over: " in text and "iter_8.pth" in text and "epoch_1.pth: 1 epochs done" in text, text[-3000:]


def test_dead_worker(config: Path, data: Path, tmp_path: Path, resumes: Any) -> None:
    result = run(config, tmp_path / "run", KILL_WORKER="4")
    assert result.returncode == 2, said(result)[-3000:]
    assert "a loader's worker process" in result.stderr and "is killed by signal" in result.stderr
    assert "--resume" in result.stderr and files.find_last(tmp_path / "run") is not None
    resumes(tmp_path / "run")


def test_corrupt_picture_in_mid_epoch(
    config: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumes: Any
) -> None:
    """Overwritten after the check before training, read in the second epoch at the latest; named, and put right."""
    copy = Path(shutil.copytree(data_root, tmp_path / "data"))
    victim = copy / "shapes" / "train" / "000004.jpg"
    monkeypatch.setenv("EFFDENSE_DATA", str(copy))
    result = run(config, tmp_path / "run", BREAK="1", VICTIM=str(victim))
    assert result.returncode == 2, said(result)[-3000:]
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("DataError: ") and str(victim) in last and "--resume" in last, last
    assert "Traceback" not in result.stderr
    assert files.find_last(tmp_path / "run") is not None
    shutil.copy(data_root / "shapes" / "train" / victim.name, victim)
    resumes(tmp_path / "run")


def test_nan_picture(config: Path, data: Path, tmp_path: Path, resumes: Any) -> None:
    result = run(config, tmp_path / "run", NAN="4")
    assert result.returncode == 2, said(result)[-3000:]
    evidence = tmp_path / "run" / "non_finite" / "iter_4.pth"
    assert "Not finite in the batch itself: inputs of " in result.stderr and ".jpg" in result.stderr
    assert str(evidence) in result.stderr and evidence.is_file()
    main = "import sys; from effdense.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", main, "debug", "replay", str(evidence)]
    replay = subprocess.run(command, env=environment_of(data), capture_output=True, text=True, timeout=300, check=False)
    assert replay.returncode == 1 and "it happens again" in replay.stdout, said(replay)[-3000:]
    assert "3 of 6 iterations done" in resumes(tmp_path / "run")


# -- several processes -------------------------------------------------------------------------------------------------


def test_rank_failure(config: Path, data: Path, tmp_path: Path, straight_pair: Path) -> None:
    """SIGKILL: torchrun starts both again from the newest checkpoint; the number of steps is right."""
    result = ranks(config, tmp_path / "run", KILL="5", HARM_RANK="1", ONCE=str(tmp_path / "flag"), MAX_RESTARTS="2")
    finished(result)
    assert "resumed" in said(result)
    assert files.load(tmp_path / "run" / "epoch_2.pth")["meta"]["iter"] == 6
    assert_same_state(tmp_path / "run" / "epoch_2.pth", straight_pair / "epoch_2.pth")


@pytest.mark.parametrize("harm", ["HANG", "STOP"])
def test_hung_rank(config: Path, data: Path, tmp_path: Path, harm: str) -> None:
    """The other one ends after the timeout and says who did not come, where that stands, and how to go on."""
    options = ["--cfg-options", "env_cfg.dist_cfg.timeout=40"]
    start = time.monotonic()
    result = ranks(config, tmp_path / "run", *options, **{harm: "4"}, HARM_RANK="1")
    assert result.returncode != 0 and time.monotonic() - start < 300
    lines = [line for line in result.stderr.splitlines() if line.startswith("RunError: ")]
    assert len(lines) == 1, result.stderr[-4000:]
    assert "no word for 40 s from rank 1 on " in lines[0], lines[0]
    # A stopped process was last heard of up to two seconds before it, which may be some iterations.
    assert "epoch 2, iteration 4" in lines[0] if harm == "HANG" else "last seen" in lines[0], lines[0]
    assert ("faults.py" in lines[0]) == (harm == "HANG") and ("does not answer" in lines[0]) == (harm == "STOP")
    assert "iter_3.pth" not in lines[0] and "epoch_1.pth: go on with --resume" in lines[0]


def test_an_error_of_one_rank_is_said_once(config: Path, data: Path, tmp_path: Path) -> None:
    result = ranks(config, tmp_path / "run", RAISE="2", HARM_RANK="1")
    assert result.returncode != 0
    lines = result.stderr.splitlines()
    assert sum("]: Traceback (most recent call last)" in line for line in lines) == 1, result.stderr[-6000:]
    assert "[rank1]: ValueError: a bug in a hook" in lines and "rank 1 on " in result.stderr
    pointers = [line for line in lines if line.startswith("RunError: ")]  # none where torchrun was quicker
    assert len(pointers) <= 1 and all("rank 1 has failed (ValueError: a bug" in line for line in pointers)


def test_two_nodes(config: Path, data: Path, tmp_path: Path, straight_pair: Path) -> None:
    """Two torchruns that meet: the run of one node with two processes, to the bit."""
    port = str(free_port())
    nodes = [agent(config, tmp_path / "run", data, port, node) for node in (0, 1)]
    for code, text in (node.wait(400) for node in nodes):
        assert code == 0, text[-4000:]
    assert_same_state(tmp_path / "run" / "epoch_2.pth", straight_pair / "epoch_2.pth")


def test_a_rank_of_two_nodes_is_lost(config: Path, data: Path, tmp_path: Path, straight_pair: Path) -> None:
    """Both torchruns start their processes again, whatever each has counted."""
    port, more = str(free_port()), {"KILL": "5", "HARM_RANK": "1", "ONCE": str(tmp_path / "flag"), "MAX_RESTARTS": "3"}
    nodes = [agent(config, tmp_path / "run", data, port, node, **more) for node in (0, 1)]
    ended = [node.wait(500) for node in nodes]
    assert all(code == 0 for code, _ in ended), "\n".join(text[-3000:] for _, text in ended)
    assert "resumed" in ended[0][1] + ended[1][1]
    assert_same_state(tmp_path / "run" / "epoch_2.pth", straight_pair / "epoch_2.pth")


def test_a_node_is_lost_and_back(config: Path, data: Path, tmp_path: Path, straight_pair: Path) -> None:
    """The second node dies as a whole, torchrun and all; a torchrun that is started anew there joins the first."""
    port, more = str(free_port()), {"MAX_RESTARTS": "3", "SLOW": "1"}
    work_dir = tmp_path / "run"
    first, second = (agent(config, work_dir, data, port, node, **more) for node in (0, 1))
    until = time.monotonic() + 300
    while not (work_dir / "iter_4.pth").exists() and time.monotonic() < until:
        time.sleep(0.05)
    second.kill()
    third = agent(config, work_dir, data, port, 1, **{**more, "SLOW": ""})
    ended = [node.wait(500) for node in (first, third)]
    assert all(code == 0 for code, _ in ended), "\n".join(text[-3000:] for _, text in ended)
    assert "resumed" in ended[0][1] + ended[1][1]
    assert_same_state(work_dir / "epoch_2.pth", straight_pair / "epoch_2.pth")


def test_slurm_asks_to_end_and_queues_again(config: Path, data: Path, tmp_path: Path, straight_pair: Path) -> None:
    """SIGUSR1 ahead of the limit: saved, the job goes back into the queue, and its second turn ends the run."""
    env, work_dir = fake_slurm(tmp_path, data), tmp_path / "run"
    arguments = [str(ROOT / "tools" / "slurm_train.sh"), "part", "job", str(config), str(work_dir)]
    job = {**env, "REQUEUE": "1", "SLURM_JOB_ID": "7", "GPUS": "2", "GPUS_PER_NODE": "0", "TASKS_PER_NODE": "2"}
    with open(tmp_path / "first.txt", "w+") as out:
        options = ["--cfg-options", "default_hooks.checkpoint.every_iters=None"]
        first = subprocess.Popen(["bash", *arguments, *options], env={**job, "SLOW": "2"}, stdout=out, stderr=out)
        until = time.monotonic() + 300
        while "epoch 1/2" not in (text := (tmp_path / "first.txt").read_text()) and time.monotonic() < until:
            time.sleep(0.2)
        assert "epoch 1/2" in text, text[-3000:]
        first.send_signal(signal.SIGUSR1)
        assert first.wait(300) == 0, (tmp_path / "first.txt").read_text()[-3000:]
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "7"]
    again = subprocess.run(["bash", *arguments], env=job, capture_output=True, text=True, timeout=400, check=False)
    finished(again)
    assert "resumed" in said(again)
    assert_same_state(work_dir / "epoch_2.pth", straight_pair / "epoch_2.pth")
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "7"]


def test_four_processes(config: Path, data: Path, tmp_path: Path) -> None:
    """13 pictures to validate, dealt 4, 4, 4 and 1; the numbers are those of one process that scores the file."""
    options = ["--cfg-options", "train_dataloader.batch_size=2", "train_dataloader.num_workers=0"]
    result = ranks(config, tmp_path / "run", *options, processes=4, OMP_NUM_THREADS="2")
    finished(result)
    saved = files.load(tmp_path / "run" / "epoch_2.pth")["meta"]
    assert (saved["world_size"], saved["iter"]) == (4, 6)
    command = [str(ROOT / "tools" / "test.py"), str(config), str(tmp_path / "run" / "epoch_2.pth")]
    one = subprocess.run(
        [sys.executable, *command, "--work-dir", str(tmp_path / "one")],
        env={**environment_of(data), "OMP_NUM_THREADS": "2"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    finished(one)
    assert validations(tmp_path / "one")[0] == validations(tmp_path / "run")[-1]
