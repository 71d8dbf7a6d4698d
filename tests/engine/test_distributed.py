"""Several processes, over gloo on the CPU: the same score as one, the same network on each, and no one left waiting."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from effdense.engine import checkpoint as files
from effdense.engine import distributed, stopping
from effdense.engine.distributed import average_buffers, gather_objects, infer_launcher, init_distributed
from effdense.engine.run import test as evaluate
from effdense.engine.stopping import StopRequests
from effdense.errors import ConfigError
from tests.engine.conftest import ROOT, child_environment, validations

TOOLS = ROOT / "tools"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def environment(data: Path, **more: str) -> dict[str, str]:
    """Two threads a process: how a sum is split over threads decides its last digit. On few cores those of one process
    must not keep those of the other from work.
    """
    fixed = {
        "EFFDENSE_DATA": str(data),
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHON": sys.executable,
    }
    return child_environment(**{**fixed, **more})


def shell(script: str, *arguments: str, data: Path, timeout: int = 240) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(TOOLS / script), *arguments]
    env = environment(data, PORT=str(free_port()))
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)


# -- who launches ------------------------------------------------------------------------------------------------------


def test_the_launcher_is_inferred_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else N processes would train N copies into one folder."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert infer_launcher("none") == "none" and infer_launcher("slurm") == "slurm"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert infer_launcher("none") == "pytorch" and infer_launcher("slurm") == "slurm"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert infer_launcher("none") == "none"
    with pytest.raises(ConfigError, match="'mpi'"):
        infer_launcher("mpi")


def test_what_a_launcher_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert init_distributed("none") is False
    with pytest.raises(ConfigError, match=r"RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT .*dist_train\.sh"):
        init_distributed("pytorch")
    with pytest.raises(ConfigError, match=r"SLURM_PROCID .*slurm_train\.sh"):
        init_distributed("slurm")


def test_slurm_variables_become_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "unset")
        monkeypatch.delenv(name)
    slurm = {"PROCID": "5", "NTASKS": "16", "LOCALID": "1", "NODELIST": "node[3-4]"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("MASTER_ADDR", "node3")
    distributed._slurm_environment()
    assert [os.environ[n] for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["5", "16", "1"]
    assert os.environ["MASTER_PORT"] == "29500"


def test_one_process_needs_no_group() -> None:
    norm = torch.nn.BatchNorm1d(2)
    before = norm.running_var.clone()
    average_buffers([norm])
    assert torch.equal(norm.running_var, before)
    assert gather_objects({"a": 1}) == [{"a": 1}]
    assert distributed.on_main_then_all(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        distributed.on_main_then_all(lambda: 1 / 0)


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh", "slurm_train.sh", "slurm_test.sh"])
def test_a_script_without_arguments_says_how_it_is_used(script: str, tmp_path: Path) -> None:
    result = shell(script, data=tmp_path)
    assert result.returncode == 2 and f"tools/{script}" in result.stdout


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh"])
def test_threads_of_a_process_share_the_cores(script: str, tmp_path: Path) -> None:
    """What the script hands on; waiting threads sleep, and what is set stays."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS $OMP_WAIT_POLICY $*"\n')
    python.chmod(0o755)
    files = ["config.py", "weights.pth"][: 1 + (script == "dist_test.sh")]

    def run(processes: str, **more: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")} | {"PYTHON": str(python), **more}
        command = ["bash", str(TOOLS / script), *files, processes, "--cfg-options", "a=b c"]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    many = run("1000")
    assert many.stdout.startswith("2 PASSIVE -m torch.distributed.run "), many.stderr
    assert many.stdout.rstrip().endswith("--launcher pytorch --cfg-options a=b c")
    assert run("2", OMP_NUM_THREADS="7", OMP_WAIT_POLICY="ACTIVE").stdout.startswith("7 ACTIVE ")
    for odd in ("0", "gpu", "08", "a[0]", ""):
        refused = run(odd)
        assert refused.returncode == 2 and f"PROCESSES must be a number, got '{odd}'" in refused.stderr


def test_clocks_that_differ_agree_at_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking is a collective: two processes with clocks of their own, one 50 times the other, enter it together."""
    place, meet = threading.local(), threading.Barrier(2, timeout=20)
    asked: dict[int, list[int]] = {0: [], 1: []}
    given: dict[int, torch.Tensor] = {}

    def all_reduce(flag: torch.Tensor, **options: Any) -> None:
        asked[place.rank].append(place.step)
        given[place.rank] = flag.clone()
        meet.wait()
        flag.copy_(torch.maximum(given[0], given[1]))
        meet.wait()

    monkeypatch.setattr(stopping.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: place.now)
    ended: dict[int, int] = {}

    def process(rank: int) -> None:
        place.rank, place.now, place.step = rank, 1000.0 * rank, 0
        requests = StopRequests()
        requests._group = object()
        for step in range(117, 400):  # resumed
            place.step = step
            place.now += (0.02, 1.0)[rank] * (0.1 if step < 200 else 0.5 if step < 300 else 7)
            if rank == 0 and step == 350:
                requests.received = 15
            if requests.agreed(step) is not None:
                ended[rank] = step
                return

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert asked[0] == asked[1] and ended == {0: 350, 1: 350}
    assert {b - a for a, b in itertools.pairwise(asked[0]) if b < 200} <= {1, 9, 10}


# -- two processes -----------------------------------------------------------------------------------------------------


def pair(code: str, *arguments: str, data: Path, timeout: int = 180, ranks: int = 2) -> list[tuple[int, str, str]]:
    """Run a program as rank 0, rank 1, ... of a group: (exit code, stdout, stderr) of each; both must end in time."""
    port = str(free_port())
    processes = []
    for rank in map(str, range(ranks)):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(ranks)}
        env = environment(data, **place, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env=env,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


COLLECTIVES = """
import sys, torch
from effdense.data import ClassMap
from effdense.engine.distributed import *
from effdense.engine.distributed import average_buffers, gather_objects, on_main_then_all, rank_and_world
from effdense.engine.metrics import CocoMetric
from effdense.errors import DataError, EffdenseError

assert init_distributed("pytorch", backend="nccl" if not torch.cuda.is_available() else "gloo", timeout=60)
rank, world = rank_and_world()
assert world == 2 and torch.distributed.get_backend() == "gloo"
assert gather_objects(rank * 10) == [0, 10]

norm = torch.nn.BatchNorm1d(2)
norm.running_mean.fill_(rank)         # 0 and 1: both get .5
norm.running_var.copy_(torch.tensor([1.0 + 2 * rank, 4.0]))
norm.num_batches_tracked.fill_(7 + rank)
average_buffers([norm])
assert norm.running_mean.tolist() == [0.5, 0.5] and norm.running_var.tolist() == [2.0, 4.0]
assert norm.num_batches_tracked.item() == 7 + rank

assert on_main_then_all(lambda: rank + 5) == 5
try:
    on_main_then_all(lambda: 1 / 0)
    raise SystemExit("no error on rank %d" % rank)
except ZeroDivisionError:
    assert rank == 0
except EffdenseError as error:
    assert rank == 1 and "ZeroDivisionError" in str(error)


def metric():
    built = CocoMetric()
    built.bind(sys.argv[1], ClassMap(("a",), (1,)), [1, 2, 3])
    return built


def entry(index, score=0.5):
    return {"index": index, "image_id": index + 1, "boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]),
            "scores": torch.tensor([score]), "labels": torch.tensor([0])}


good = metric()
good.process(None, [entry(i) for i in ((2, 0), (1,))[rank]])
numbers = good.evaluate(3)
assert all(found == numbers for found in gather_objects(numbers)) and numbers["coco/AP"] > 0.99

lost = metric()                        # rank 1 loses its image: both say so
lost.process(None, [entry(i) for i in ((2, 0), ())[rank]])
try:
    lost.evaluate(3)
    raise SystemExit("a missing result went unnoticed on rank %d" % rank)
except DataError as error:
    assert "1 missing, first [1]" in str(error)

bad = metric()                         # scoring fails, which happens on rank 0 only
bad.process(None, [entry(i, float("nan")) for i in ((2, 0), (1,))[rank]])
try:
    bad.evaluate(3)
    raise SystemExit("no error on rank %d" % rank)
except EffdenseError as error:
    assert type(error) is (DataError if rank == 0 else EffdenseError) and "score" in str(error)
print("done", rank)
"""


def test_collectives_and_errors_reach_both_processes(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": i, "width": 20, "height": 20} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}
            for i in (1, 2, 3)
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    for rank, (code, out, err) in enumerate(pair(COLLECTIVES, str(path), data=tmp_path)):
        assert (code, out.strip()) == (0, f"done {rank}"), err


TRAIN = """
import sys, torch
from effdense.engine.distributed import rank_and_world
from effdense.engine.run import train
from effdense.engine.runner import EffRunner

write = EffRunner.write_checkpoint

def spy(self, path, **options):
    networks = {"network": self.shell.network, "average": self.shell.evaluation_network}
    state = {name: network.state_dict() for name, network in networks.items()}
    torch.save(state, f"{sys.argv[2]}/{path.stem}.rank{rank_and_world()[0]}.pth")
    write(self, path, **options)

EffRunner.write_checkpoint = spy
train(sys.argv[1], work_dir=sys.argv[2], launcher="none", options={"train_cfg.max_epochs": 1})
"""


def test_two_processes_train_one_network(tiny_config: Any, data: Path, tmp_path: Path) -> None:
    """What is saved is on both ranks, and one process that evaluates the file gets the AP that two had logged."""
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    config = tiny_config("two")
    for code, _, err in pair(TRAIN, str(config), str(work_dir), data=data):
        assert code == 0, err
    ranks = [torch.load(work_dir / f"epoch_1.rank{rank}.pth", weights_only=True) for rank in (0, 1)]
    saved = files.load(work_dir / "epoch_1.pth")
    for name, key in (("network", "train_state_dict"), ("average", "state_dict")):
        for tensor, value in ranks[0][name].items():
            assert torch.equal(value, ranks[1][name][tensor]), (name, tensor)
            assert torch.equal(value, saved[key][tensor]), (name, tensor)
    assert saved["meta"]["world_size"] == 2 and saved["meta"]["iters_per_epoch"] == 3
    streams = [rng["torch"] for rng in saved["rng"]]
    assert len(streams) == 2 and not torch.equal(streams[0], streams[1])  # random depth is each rank's own
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scores = evaluate(config, str(work_dir / "epoch_1.pth"), work_dir=str(tmp_path / "w"))
    finally:
        torch.set_num_threads(threads)
    assert scores.to_dict() == validations(work_dir)[0]


def test_two_processes_score_like_one(trained: Any, data: Path, tmp_path: Path) -> None:
    """13 images in batches of 4: rank 0 gets 4 + 4, rank 1 gets 4 + 1; detections and all 12 numbers are equal."""
    best = str(trained.work_dir / "best.pth")

    def arguments(name: str) -> list[str]:
        folder = tmp_path / name
        return ["--work-dir", str(folder), "--out", str(folder / "out.json"), "--show-dir", str(folder / "shown")]

    two = shell("dist_test.sh", str(trained.config), best, "2", *arguments("two"), data=data)
    assert two.returncode == 0, two.stderr
    command = [sys.executable, str(TOOLS / "test.py"), str(trained.config), best, *arguments("one")]
    one = subprocess.run(command, env=environment(data), capture_output=True, text=True, timeout=120, check=False)
    assert one.returncode == 0, one.stderr
    assert (tmp_path / "two" / "out.json").read_bytes() == (tmp_path / "one" / "out.json").read_bytes()
    assert validations(tmp_path / "two") == validations(tmp_path / "one")
    shown = [sorted(path.name for path in (tmp_path / name / "shown").iterdir()) for name in ("one", "two")]
    assert shown[0] == shown[1] and len(shown[0]) == 13


@pytest.mark.slow
def test_a_process_without_a_batch_waits_for_the_others(trained: Any, data: Path, tmp_path: Path) -> None:
    """One batch of 16 for two processes: the second has nothing to do, and the score is unchanged."""
    arguments = ["--work-dir", str(tmp_path / "w"), "--cfg-options", "val_dataloader.batch_size=16"]
    result = shell("dist_test.sh", str(trained.config), str(trained.work_dir / "best.pth"), "2", *arguments, data=data)
    assert result.returncode == 0, result.stderr
    found, expected = validations(tmp_path / "w")[0], max(trained.scores, key=lambda scores: scores["AP"])
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_dist_train_trains_and_resumes(tiny_config: Any, data: Path, tmp_path: Path) -> None:
    """An odd number of images a rank, through the script; a fault in the data ends both processes with its message."""
    config = str(tiny_config("script"))
    options = ["--cfg-options", "val_dataloader.num_workers=1", "default_hooks.pictures=None"]
    first = shell("dist_train.sh", config, "2", "--work-dir", str(tmp_path / "run"), *options, data=data)
    assert first.returncode == 0, first.stderr
    straight = files.load(tmp_path / "run" / "epoch_3.pth")
    for name in ("epoch_3.pth", "best.pth"):
        (tmp_path / "run" / name).unlink()
    again = shell("dist_train.sh", config, "2", "--work-dir", str(tmp_path / "run"), "--resume", *options, data=data)
    assert again.returncode == 0, again.stderr
    resumed = files.load(tmp_path / "run" / "epoch_3.pth")
    for key in ("state_dict", "train_state_dict"):
        assert all(torch.equal(value, resumed[key][name]) for name, value in straight[key].items())
    wrong = shell("dist_train.sh", config, "2", "--cfg-options", "model.num_classes=7", data=data)
    assert wrong.returncode != 0 and "model.num_classes is 7" in wrong.stderr
