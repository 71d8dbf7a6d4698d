"""A run that was killed and resumed is the run that was not: weights, average, LR, random streams, scores, to the bit.

Runs are processes of their own here, since they are killed; a hook in the config says where.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from effdense.engine import checkpoint as files
from effdense.engine.distributed import restarted_since
from effdense.engine.loop import SkippingSampler
from effdense.engine.run import train
from effdense.errors import RunError, WeightsError
from tests.engine.conftest import ROOT, WriteConfig, child_environment, read_log
from tests.engine.test_distributed import free_port
from tests.engine.test_run import assert_same_state

# Ends the process by itself: KILL_AT is an iteration (after its step), KILL_WRITE the number of the checkpoint that is
# being written. Part of the config, as a user's hook would be.
DEADLY = """
import os as _os, signal as _signal
from mmengine.hooks import Hook as _Hook
from effdense.engine.registry import HOOKS as _HOOKS

class _Deadly(_Hook):
    priority = "LOWEST"
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for name, number in (("KILL_AT", _signal.SIGKILL), ("TERM_AT", _signal.SIGTERM)):
            if _os.environ.get(name) == str(runner.iter + 1):
                _os.kill(_os.getpid(), number)

_HOOKS.register_module(name="Deadly", module=_Deadly, force=True)
custom_hooks = [dict(type="Deadly")]
"""


def run(config: Path, work_dir: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(config), "--work-dir", str(work_dir), *options]
    variables = child_environment(**{"OMP_NUM_THREADS": "1", **environment})
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)


def finished(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]


@pytest.fixture(scope="module")
def straight(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run without a break, per config."""
    made: dict[str, Path] = {}

    def get(config: Path) -> Path:
        text = config.read_text()
        if text not in made:
            made[text] = tmp_path_factory.mktemp("straight") / "run"
            finished(run(config, made[text], EFFDENSE_DATA=str(data_root)))
        return made[text]

    return get


DETECTION = (
    DEADLY
    + """
train_cfg["max_epochs"] = 2
default_hooks.update(checkpoint=dict(every_iters=2), pictures=None,
                     precise_bn=dict(type="PreciseBNHook", num_batches=4))
train_dataloader["persistent_workers"] = True
"""
)
SEGMENTATION = (
    DEADLY
    + """
_masks = dict(type="MaskFolder", root="shapes", class_file="semantic/classes.json")
model = dict(type="SegmentationModel", name="efficientunet_lite0", photometric=dict(), drop_path_rate=0.2)
train_dataloader["dataset"] = dict(_masks, images="train", masks="semantic/train", transforms=[
    dict(type="ScaleJitterCrop", scale=(0.5, 2.0)), dict(type="HorizontalFlip")])
val_dataloader["dataset"] = dict(_masks, images="val", masks="semantic/val", transforms=[dict(type="ResizePad")])
val_evaluator = dict(type="SegmentationMetric")
train_cfg["max_epochs"] = 2
optim_wrapper = dict(accumulative_counts=2)
default_hooks.update(checkpoint=dict(every_iters=3), pictures=None)
"""
)


@pytest.mark.parametrize(
    ("more", "kill"),
    [
        pytest.param(DETECTION, "9", id="detection-9"),
        *(pytest.param(DETECTION, kill, id=f"detection-{kill}", marks=pytest.mark.slow) for kill in ("4", "11")),
        *(pytest.param(SEGMENTATION, k, id=f"segmentation-{k}", marks=pytest.mark.slow) for k in ("5", "9", "11")),
    ],
)
def test_killed_inside_an_epoch(
    tiny_config: WriteConfig, data_root: Path, straight: Any, tmp_path: Path, more: str, kill: str
) -> None:
    """Six iterations an epoch: killed in the first, in the second, and after its last but one."""
    config = tiny_config("killed", more)
    expected = straight(config)
    work_dir = tmp_path / "run"
    assert run(config, work_dir, KILL_AT=kill).returncode == -signal.SIGKILL
    resumed = run(config, work_dir, "--resume")
    finished(resumed)
    assert "resumed" in resumed.stdout + resumed.stderr
    assert_same_state(work_dir / "epoch_2.pth", expected / "epoch_2.pth")
    assert_same_state(work_dir / "best.pth", expected / "best.pth")
    assert json.loads((work_dir / "validations.json").read_text()) == json.loads(
        (expected / "validations.json").read_text()
    )
    assert not list(work_dir.glob("iter_*.pth")) and not list(work_dir.glob(".*tmp*"))


def test_asked_to_end(tiny_config: WriteConfig, straight: Any, tmp_path: Path) -> None:
    """SIGTERM: saved after the step it came in, exit code 143, and nothing is lost."""
    config = tiny_config("term", DETECTION)
    work_dir = tmp_path / "run"
    ended = run(config, work_dir, TERM_AT="9")
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr[-2000:]
    assert "saved" in ended.stdout + ended.stderr and (work_dir / "iter_9.pth").is_file()
    finished(run(config, work_dir, "--resume"))
    assert_same_state(work_dir / "epoch_2.pth", straight(config) / "epoch_2.pth")


@pytest.mark.slow
def test_asked_to_end_before_a_validation(tiny_config: WriteConfig, straight: Any, tmp_path: Path) -> None:
    """Which may take longer than whoever asked will wait: it comes first after the resume."""
    config = tiny_config("term", DETECTION)
    work_dir = tmp_path / "run"
    ended = run(config, work_dir, TERM_AT="6")
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr[-2000:]
    assert (work_dir / "epoch_1.pth").is_file() and not (work_dir / "best.pth").exists()
    resumed = run(config, work_dir, "--resume")
    finished(resumed)
    assert "was not validated" in resumed.stdout + resumed.stderr
    for name in ("epoch_2.pth", "best.pth"):
        assert_same_state(work_dir / name, straight(config) / name)


@pytest.mark.slow
def test_a_run_begun_anew_in_the_folder_of_another(tiny_config: WriteConfig, straight: Any, tmp_path: Path) -> None:
    """Said; and the other's validations do not pass for those of this one, which is killed before its first."""
    config = tiny_config("anew", DETECTION)
    deadly = config.read_text().replace(
        "class _Deadly(_Hook):",
        "class _Deadly(_Hook):\n    def before_val_epoch(self, runner):\n"
        "        if _os.environ.get('KILL_VAL') == str(runner.epoch): _os.kill(_os.getpid(), _signal.SIGKILL)",
    )
    config.write_text(deadly)
    work_dir = tmp_path / "run"
    finished(run(config, work_dir, "--cfg-options", "randomness.seed=3"))
    anew = run(config, work_dir, KILL_VAL="1")
    assert anew.returncode == -signal.SIGKILL and "checkpoints of an earlier run" in anew.stdout + anew.stderr
    resumed = run(config, work_dir, "--resume")
    finished(resumed)
    assert "was not validated" in resumed.stdout + resumed.stderr
    for name in ("epoch_2.pth", "best.pth"):
        assert_same_state(work_dir / name, straight(config) / name)


@pytest.mark.slow
def test_a_schedule_that_follows_validation(tiny_config: WriteConfig, tmp_path: Path) -> None:
    """It steps after its epoch was saved; extended, it stays where the scores have brought it."""
    config = tiny_config(
        "plateau",
        """
default_hooks.update(pictures=None)
optim_wrapper = dict(_delete_=True, optimizer=dict(type="SGD", lr=0.001))
param_scheduler = [dict(type="ReduceOnPlateauLR", monitor="coco/AP", rule="greater", factor=0.5, patience=0,
                        threshold=10.0)]
""",
    )
    train(config, work_dir=str(tmp_path / "straight"))
    for name, epochs in (("resumed", 3), ("longer", 4)):
        options = {"train_cfg.max_epochs": epochs}
        shutil.copytree(tmp_path / "straight", tmp_path / name)
        (tmp_path / name / "last_checkpoint").write_text("epoch_2.pth")
        train(config, work_dir=str(tmp_path / name), resume=True, options=options)
        again, once = (files.load(tmp_path / run_name / "epoch_3.pth") for run_name in (name, "straight"))
        assert [group["lr"] for group in again["optimizer"]["param_groups"]] == [0.0005]
        assert all(torch.equal(again["train_state_dict"][k], v) for k, v in once["train_state_dict"].items())
    validations = [json.loads((tmp_path / n / "validations.json").read_text()) for n in ("straight", "resumed")]
    assert validations[0] == validations[1]


@pytest.mark.slow
def test_killed_between_saving_and_validating(tiny_config: WriteConfig, straight: Any, tmp_path: Path) -> None:
    config = tiny_config("unvalidated", DETECTION)
    deadly = config.read_text().replace(
        "class _Deadly(_Hook):",
        "class _Deadly(_Hook):\n    def before_val_epoch(self, runner):\n"
        "        if _os.environ.get('KILL_VAL') == str(runner.epoch): _os.kill(_os.getpid(), _signal.SIGKILL)",
    )
    config.write_text(deadly)
    work_dir = tmp_path / "run"
    assert run(config, work_dir, KILL_VAL="1").returncode == -signal.SIGKILL
    assert not (work_dir / "best.pth").exists()
    resumed = run(config, work_dir, "--resume")
    finished(resumed)
    assert "was not validated" in resumed.stdout + resumed.stderr
    expected = straight(config)
    assert_same_state(work_dir / "epoch_2.pth", expected / "epoch_2.pth")
    assert_same_state(work_dir / "best.pth", expected / "best.pth")


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tiny_config: WriteConfig, straight: Any, tmp_path: Path) -> None:
    config = tiny_config("half", DETECTION)
    config.write_text(
        config.read_text()
        + """
import effdense.engine.checkpoint as _files
_replace, _count = _os.replace, [0]
def _deadly_replace(source, target):
    if str(target).endswith(".pth"):
        _count[0] += 1
        if _os.environ.get("KILL_WRITE") == str(_count[0]):
            with open(source, "r+b") as _file:
                _file.truncate(_os.path.getsize(source) // 2)
            _os.kill(_os.getpid(), _signal.SIGKILL)
    return _replace(source, target)
_files.os.replace = _deadly_replace
"""
    )
    work_dir = tmp_path / "run"
    assert run(config, work_dir, KILL_WRITE="3").returncode == -signal.SIGKILL
    assert list(work_dir.glob(".*tmp*"))
    finished(run(config, work_dir, "--resume"))
    assert not list(work_dir.glob(".*tmp*"))
    assert_same_state(work_dir / "epoch_2.pth", straight(config) / "epoch_2.pth")


@pytest.mark.slow
def test_more_epochs_extend_the_schedule(tiny_config: WriteConfig, tmp_path: Path) -> None:
    """Two epochs of a cosine to zero, then four: the LR is that of the third epoch of four, not zero."""
    schedule = (
        DETECTION
        + """
optim_wrapper = dict(_delete_=True, optimizer=dict(type="SGD", lr=0.01))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type="CosineAnnealingLR", T_max=EPOCHS, by_epoch=True, begin=0, end=EPOCHS, convert_to_iter_based=True)]
"""
    )
    short, long = (
        tiny_config(f"epochs{n}", schedule.replace("EPOCHS", str(n)).replace('epochs"] = 2', f'epochs"] = {n}'))
        for n in (2, 4)
    )
    finished(run(short, tmp_path / "run"))
    resumed = run(long, tmp_path / "run", "--resume")
    finished(resumed)
    assert "T_max 12 -> 24" in resumed.stdout + resumed.stderr
    finished(run(long, tmp_path / "straight"))
    ours = [line["lr"] for line in read_log(tmp_path / "run") if "lr" in line]
    straight = [line["lr"] for line in read_log(tmp_path / "straight") if "lr" in line]
    assert len(straight) == 24 and ours == pytest.approx(straight[12:], rel=1e-12) and max(ours) > 1e-3


# -- several processes -------------------------------------------------------------------------------------------------


def ranks(
    config: Path, work_dir: Path, *options: str, processes: int = 2, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Processes under torchrun."""
    script = ["bash", str(ROOT / "tools" / "dist_train.sh"), str(config), str(processes)]
    command = [*script, "--work-dir", str(work_dir), *options]
    fixed = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PORT": str(free_port())}
    env = child_environment(**{**fixed, **variables})
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.slow
def test_two_processes_killed_inside_an_epoch(tiny_config: WriteConfig, tmp_path: Path) -> None:
    """Three iterations an epoch and process; BatchNorm statistics are each process's own until the epoch ends."""
    config = tiny_config("pair", DETECTION.replace("every_iters=2", "every_iters=1"))
    finished(ranks(config, tmp_path / "straight"))
    assert ranks(config, tmp_path / "run", KILL_AT="5").returncode != 0
    assert (tmp_path / "run" / "iter_5.pth").is_file() or (tmp_path / "run" / "iter_4.pth").is_file()
    finished(ranks(config, tmp_path / "run", "--resume"))
    assert_same_state(tmp_path / "run" / "epoch_2.pth", tmp_path / "straight" / "epoch_2.pth")


@pytest.mark.slow
def test_a_lost_rank_is_started_again(tiny_config: WriteConfig, tmp_path: Path) -> None:
    """torchrun restarts both from the newest checkpoint, and the run ends where it would have ended."""
    once = DETECTION.replace(
        "def after_train_iter",
        "_flag = _os.environ.get('FLAG', '')\n"
        "    def before_train_iter(self, runner, batch_idx, data_batch=None):\n"
        "        if self._flag and runner.iter == 4 and runner.rank == 1 and not _os.path.exists(self._flag):\n"
        "            open(self._flag, 'w').close()\n"
        "            _os.kill(_os.getpid(), _signal.SIGKILL)\n"
        "    def after_train_iter",
    ).replace("every_iters=2", "every_iters=1")
    config = tiny_config("lost", once)
    finished(ranks(config, tmp_path / "straight"))
    result = ranks(config, tmp_path / "run", FLAG=str(tmp_path / "flag"), MAX_RESTARTS="2")
    finished(result)
    assert (tmp_path / "flag").exists() and "resumed" in result.stdout + result.stderr
    assert_same_state(tmp_path / "run" / "epoch_2.pth", tmp_path / "straight" / "epoch_2.pth")


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_damaged_tensor_is_noticed(tmp_path: Path) -> None:
    """torch reads changed bytes without a word; the checksum of each tensor says no."""
    path = tmp_path / "epoch_1.pth"
    values = torch.arange(1000.0)
    files.save_atomically({"format": files.FORMAT, "meta": {}, "values": values}, path)
    assert files.damaged_part(path) is None
    content = bytearray(path.read_bytes())
    place = content.find(values.numpy().tobytes()[400:440])
    content[place] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    with pytest.raises(WeightsError, match=r"damaged .*checksum of .* is wrong"):
        files.load(path)
    assert files.find_last(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all" * 100])
def test_what_is_no_archive_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert files.damaged_part(tmp_path / "a.pth") is not None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk without room")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays, the message says how much room there is and what to do."""
    path = tmp_path / "epoch_1.pth"
    files.save_atomically({"a": torch.zeros(10)}, path)
    before = path.read_bytes()
    real = open

    def full(name: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        return real("/dev/full" if "tmp" in str(name) and "w" in mode else name, mode, *rest, **options)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(RunError, match=r"could not be written .*MiB free.* --resume"):
        files.save_atomically({"a": torch.zeros(10_000_000)}, path)
    assert path.read_bytes() == before


def test_the_sampler_leaves_out_once() -> None:
    class Order:
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Any:
            return iter(range(5))

    sampler = SkippingSampler(Order())
    sampler.skip = 3
    assert len(sampler) == 5 and list(sampler) == [3, 4] and list(sampler) == [0, 1, 2, 3, 4]


def test_what_makes_no_sense_as_an_archive_is_damaged(tmp_path: Path) -> None:
    """Any one byte of a small checkpoint changed: still read, or refused with a WeightsError; never another error."""
    path = tmp_path / "epoch_1.pth"
    files.save_atomically({"format": files.FORMAT, "meta": {}, "values": torch.arange(8.0)}, path)
    whole = path.read_bytes()
    # Byte 38 of an entry of the directory may say that it is a folder: torch would read nothing for the tensor.
    entries = [match.start() + 38 for match in re.finditer(b"PK\x01\x02", whole)]
    for place in [*range(0, len(whole), 7), *entries]:
        content = bytearray(whole)
        content[place] ^= 0xFF
        path.write_bytes(content)
        with contextlib.suppress(WeightsError):
            assert files.load(path)["values"].tolist() == list(range(8))
    path.write_bytes(whole)
    assert files.find_last(tmp_path) == path
    assert files.find_last(tmp_path, since=path.stat().st_mtime + 1) is None


def test_a_restart_takes_files_of_this_launch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert restarted_since() is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    began = restarted_since()
    assert began is not None and 0 <= began <= time.time()


def test_a_folder_of_damaged_checkpoints_is_not_written_over(tiny_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "epoch_2.pth").write_bytes(b"PK damaged")
    with pytest.raises(WeightsError, match=r"none of the checkpoints .* can be read"):
        train(tiny_config("damaged"), work_dir=str(tmp_path / "run"), resume=True)
    assert (tmp_path / "run" / "epoch_2.pth").read_bytes() == b"PK damaged"
