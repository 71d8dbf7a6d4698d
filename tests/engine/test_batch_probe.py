"""``batch_size="auto"``: the arithmetic by hand, and runs that end with what they were given."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config

from effdense.engine import batch_probe, memory_meter
from effdense.engine import checkpoint as files
from effdense.engine.batch_choice import Plan, Probe, estimate_most, find_batch, plan_batch
from effdense.engine.config import load_config
from effdense.engine.run import train
from effdense.errors import ConfigError, RunError
from tests.engine.conftest import ROOT, WriteConfig, write_tiny_config
from tests.engine.test_distributed import pair
from tests.engine.test_run import assert_same_state

SHAPES = ROOT / "configs" / "effdet_b0_shapes.py"


# -- arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "more", "expected"),
    [
        (100, {"nominal": 64}, Plan(64, 1, True)),
        (40, {"nominal": 64}, Plan(32, 2, True)),
        (40, {"nominal": 64, "processes": 4}, Plan(16, 1, True)),
        (12, {"nominal": 64, "processes": 2}, Plan(8, 4, True)),
        (4, {"nominal": 8}, Plan(4, 2, True)),
        (30, {"nominal": 59}, Plan(30, 2, False)),  # a prime: as even as it gets
        (7, {"nominal": 64, "processes": 3}, Plan(7, 3, False)),  # 21 a process
        (40, {"nominal": 64, "accumulation": 2}, Plan(32, 2, True)),
        (10, {"nominal": 64, "accumulation": 2}, Plan(10, 2, False)),
        (100, {"nominal": 64, "highest": 24}, Plan(16, 4, True)),
        (45, {}, Plan(40, 1, True)),
        (7, {}, Plan(4, 1, True)),
        (1000, {"highest": 24}, Plan(24, 1, True)),
        (45, {"accumulation": 3}, Plan(40, 3, True)),
        (0, {}, Plan(1, 1, True)),
    ],
)
def test_what_fits_becomes_a_batch(most: int, more: dict[str, int], expected: Plan) -> None:
    options: dict[str, Any] = {"highest": 10_000, "processes": 1, "nominal": None, "accumulation": None, **more}
    assert plan_batch(most, **options) == expected


def test_a_plan_of_what_it_gives_is_the_same_plan() -> None:
    """The batch that was measured is the one that the run gets."""
    for nominal in range(1, 80):
        for most in range(1, 90):
            options: dict[str, Any] = {"highest": 70, "processes": 1, "nominal": nominal, "accumulation": None}
            plan = plan_batch(most, **options)
            assert plan.batch <= most and plan_batch(plan.batch, **options).batch <= plan.batch
            assert abs(plan.batch * plan.accumulation - nominal) < plan.accumulation


def machine(limit: int, *, base: int = 300, each: int = 50, dies_at: int = 10**9) -> tuple[Any, list[int]]:
    """A step that takes ``base`` + ``each`` a picture, and what was asked of it."""
    asked: list[int] = []

    def measure(batch: int) -> Probe:
        asked.append(batch)
        if batch >= dies_at:
            return Probe(batch, 0, 0.0, False)
        peak = base + each * batch
        return Probe(batch, peak, 0.1, peak <= limit)

    return measure, asked


def test_three_probes_find_it() -> None:
    """300 + 50 a picture, 1100 allowed: 16 fit."""
    measure, asked = machine(1100)
    batch, most, probes = find_batch(measure, 1100, 1000, lambda n: n)
    assert (batch, most, asked) == (16, 16, [2, 4, 16]) and probes[16].fits


def test_a_line_that_bends_is_followed() -> None:
    """Four pictures say little about four hundred: steps of at most 8 times, then a new line."""
    measure, asked = machine(300 + 50 * 400)
    batch, most, _ = find_batch(measure, 300 + 50 * 400, 10_000, lambda n: n)
    assert (batch, most) == (400, 400) and asked == [2, 4, 32, 256, 400]


def test_out_of_memory_halves() -> None:
    measure, asked = machine(10**9, dies_at=5)
    assert find_batch(measure, 10**9, 8, lambda n: n)[:2] == (4, 4) and asked == [2, 4, 8]
    measure, asked = machine(10**9, dies_at=3)
    assert find_batch(measure, 10**9, 8, lambda n: n)[0] == 2
    measure, asked = machine(10**9, dies_at=2)
    assert find_batch(measure, 10**9, 8, lambda n: n)[0] == 1 and asked == [2, 1]


def test_too_much_with_a_known_peak_is_drawn_a_new_line_to() -> None:
    """The first line is too flat: 4 pictures take what 2 do."""

    def measure(batch: int) -> Probe:
        peak = 400 + max(0, batch - 4) * 100
        return Probe(batch, peak, 0.1, peak <= 1000)

    assert find_batch(measure, 1000, 100, lambda n: n)[0] == 10


def test_one_that_never_fits() -> None:
    measure, _ = machine(10)
    with pytest.raises(RunError, match="not even one image"):
        find_batch(measure, 10, 8, lambda n: n)
    assert estimate_most({2: Probe(2, 5, 0.1, True)}, 100) == 16


# -- memory of this machine --------------------------------------------------------------------------------------------


def test_peaks_of_this_process_are_measured() -> None:
    meter = memory_meter.ProcessMeter(0.5)
    assert 0 < meter.limit < 2**50
    meter.start()
    before = meter.peak()
    kept = torch.ones(50 * 2**18)  # 50 MB
    del kept
    assert 40 * 2**20 < meter.peak() - before < 80 * 2**20
    meter.start()
    assert meter.peak() - before < 30 * 2**20


def test_limits_of_control_groups_count(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert memory_meter.available_memory(tmp_path) == 8000 * 1024
    (tmp_path / "proc/self/cgroup").write_text("0::/jobs/mine\n")
    group = tmp_path / "sys/fs/cgroup/jobs"
    (group / "mine").mkdir(parents=True)
    for folder, most in ((group, "1000000"), (group / "mine", "max")):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text("600000\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 100000\n")
    assert memory_meter.available_memory(tmp_path) == 500_000
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,memory:/a\n0::/\n")
    first = tmp_path / "sys/fs/cgroup/memory"
    first.mkdir()
    for name, text in (("memory.limit_in_bytes", "700"), ("memory.usage_in_bytes", "400"), ("memory.stat", "")):
        (first / name).write_text(text)
    assert memory_meter.available_memory(tmp_path) == 300
    assert memory_meter.available_memory(tmp_path / "none") is None


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_meter, "available_memory", lambda: None)
    with pytest.raises(ConfigError, match=r"batch_size=auto: without a GPU .* Linux only .* give a number"):
        memory_meter.ProcessMeter(memory_meter.DEFAULT_SHARE)


def test_processes_share_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_meter, "rank_and_world", lambda: (0, 8))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    assert memory_meter.local_processes() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory_meter.local_processes() == 2


# -- configs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["auto", 0.8])
def test_words_and_shares_pass(value: Any) -> None:
    assert load_config(SHAPES, {"train_dataloader.batch_size": value}).train_dataloader.batch_size == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train_dataloader.batch_size", "all"),
        ("train_dataloader.batch_size", 1.0),
        ("train_dataloader.batch_size", 0),
        ("train_dataloader.batch_size", 8.0),
        ("train_dataloader.batch_size", True),
        ("val_dataloader.batch_size", "auto"),
        ("val_dataloader.batch_size", 0.8),
    ],
)
def test_other_values_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_config(SHAPES, {key: value})


# -- runs --------------------------------------------------------------------------------------------------------------

# A detector that runs out of memory with more than MOST pictures, as one does on a GPU.
HUNGRY = """
import torch as _torch
from effdense.engine.models import DetectionModel as _Model
from effdense.engine.registry import MODELS as _MODELS

class _Hungry(_Model):
    def forward(self, inputs, *args, mode="loss", **batch):
        if mode == "loss" and len(inputs) > {most}:
            raise _torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(inputs, *args, mode=mode, **batch)

_MODELS.register_module(name="Hungry", module=_Hungry, force=True)
model["type"] = "Hungry"
"""
SHORT = """
train_dataloader["num_workers"] = 0
train_cfg["max_epochs"] = 1
default_hooks.update(pictures=None)
"""
NOMINAL_8 = SHORT + "auto_scale_lr = dict(base_batch_size=8)\n"
AUTO = 'train_dataloader["batch_size"] = "auto"\n'


@pytest.fixture(scope="module")
def hungry(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and folder of a run whose nominal batch of 8 does not fit; ``resume`` has nothing to go on with."""
    folder = tmp_path_factory.mktemp("hungry")
    config = write_tiny_config(folder, "hungry", HUNGRY.format(most=4) + NOMINAL_8 + AUTO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFDENSE_DATA", str(data_root))
        return config, train(config, work_dir=str(folder / "run"), resume=True)


def test_out_of_memory_above_four_ends_at_four(hungry: tuple[Path, Path]) -> None:
    """As many steps as with the nominal batch of 8, the LR as it is; all of it is in the config of the run's folder."""
    config, run = hungry
    found = files.load(run / "epoch_1.pth")
    assert (found["meta"]["batch_size"], found["meta"]["accumulative_counts"]) == (4, 2)
    assert found["optimizer"]["updates"] == 24 // 8 and found["meta"]["iters_per_epoch"] == 6
    assert "parts" not in found["optimizer"]
    (log,) = run.glob("*/*.log")
    text = log.read_text()
    assert "batch        MB  ms/image" in text and "none" in text and "does not fit" in text
    assert "batch size: 4, fits up to 4; x 1 process(es) x 2 accumulated = 8 an optimizer step (the 8" in text
    written = load_config(run / config.name)
    assert written.train_dataloader.batch_size == 4 and written.optim_wrapper.accumulative_counts == 2
    for group in found["optimizer"]["param_groups"]:
        assert group["initial_lr"] == 1e-3


def test_the_run_is_that_of_the_number(tiny_config: WriteConfig, tmp_path: Path) -> None:
    """To the last bit: probing touches no random stream and no weight."""
    found = train(tiny_config("auto", NOMINAL_8 + AUTO), work_dir=str(tmp_path / "auto"))
    given = train(
        tiny_config("given", NOMINAL_8 + 'train_dataloader["batch_size"] = 8\n'), work_dir=str(tmp_path / "given")
    )
    assert files.load(found / "epoch_1.pth")["meta"]["batch_size"] == 8
    assert_same_state(found / "epoch_1.pth", given / "epoch_1.pth")


def test_a_resumed_run_keeps_its_batch(
    hungry: tuple[Path, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured again, though more would fit now."""
    config, run = hungry
    monkeypatch.setattr("effdense.engine.batch_probe.find_batch", lambda *args: pytest.fail("measured again"))
    roomy = tmp_path / "roomy.py"
    roomy.write_text(config.read_text().replace("> 4", "> 100"))
    options = {"train_cfg.max_epochs": 2}
    resumed = train(roomy, work_dir=str(tmp_path / "run"), resume=str(run / "epoch_1.pth"), options=options)
    meta = files.load(resumed / "epoch_2.pth")["meta"]
    assert (meta["batch_size"], meta["accumulative_counts"]) == (4, 2)


def settled(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a run of 24 pictures is told on a machine that takes 60 MB a picture and has 600."""
    meter = SimpleNamespace(limit=600 * 2**20, where="600 MB")
    monkeypatch.setattr(batch_probe, "_measuring", lambda *args: (meter, lambda size: (60 * 2**20 * size, 0.1 * size)))
    return batch_probe.settle_batch(cfg, SimpleNamespace(records=range(24), loader={}), False)


@pytest.mark.parametrize(
    ("options", "batch", "accumulation", "said"),
    [
        ({}, 8, None, "batch size: 8, fits up to about 10"),
        ({"auto_scale_lr": {"base_batch_size": 16}}, 8, 2, "= 16 an optimizer step (the 16 that the LR is for)"),
        ({"auto_scale_lr": {"base_batch_size": 16, "enable": True}, "steps": 3}, 5, 3, "the LR is scaled; .* own"),
        ({"auto_scale_lr": {"base_batch_size": 19}}, 10, 2, "= 20 .*not the 19 that the LR is for, the LR is not"),
        ({"steps": 4}, 8, 4, "batch size: 8"),
    ],
)
def test_what_is_written_and_said(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], batch: int, accumulation: int | None, said: str
) -> None:
    """Batch, accumulation of the config or for the batch that its LR is for, and the words."""
    steps = options.pop("steps", None)
    cfg = Config(
        {
            "train_dataloader": {"batch_size": 0.5},
            "optim_wrapper": {} if steps is None else {"accumulative_counts": steps},
            **options,
        }
    )
    lines = settled(cfg, monkeypatch)
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.optim_wrapper.get("accumulative_counts") == accumulation
    assert re.search(said.replace("(", r"\(").replace(")", r"\)"), lines[-1]), lines
    assert lines[2].split() == ["2", "120", "100.0"]


def test_a_number_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config({"train_dataloader": {"batch_size": 3}, "optim_wrapper": {}})
    assert settled(cfg, monkeypatch) == [] and cfg.train_dataloader.batch_size == 3


def test_sizes_that_grow_are_probed_at_their_largest(
    tiny_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progressive learning to 96 px and multi-scale up to 4/3 of that: 128."""
    seen: list[tuple[int, ...]] = []
    repeated = batch_probe._repeated

    def look(sample: Any, size: int) -> Any:
        batch = repeated(sample, size)
        seen.append(tuple(batch["inputs"].shape))
        assert batch["boxes"].shape[0] == size and len(batch["paths"]) == size
        raise RuntimeError("seen enough")

    monkeypatch.setattr(batch_probe, "_repeated", look)
    more = (
        NOMINAL_8
        + AUTO
        + 'default_hooks["progressive"] = dict(type="ProgressiveLearningHook", stages=1, image_size=(64, 96))\n'
        + 'model["multi_scale"] = dict(low=0.5, high=1.34, step=32)\n'
    )
    with pytest.raises(RuntimeError, match="seen enough"):
        train(tiny_config("large", more), work_dir=str(tmp_path / "run"))
    assert seen == [(2, 3, 128, 128)] and not (tmp_path / "run").exists()


AGREE = """
from effdense.engine.batch_choice import find_batch
from effdense.engine.batch_probe import _agreed
from effdense.engine.distributed import init_distributed, rank_and_world
from effdense.errors import EffdenseError

init_distributed("pytorch", timeout=60)
rank, _ = rank_and_world()
fits = (9, 5)[rank]                      # rank 1 runs out of memory earlier

def measure(size):
    return (100 * size, 0.1 * size * (1 + rank)) if size <= fits else (0, 0.0)

batch, most, probes = find_batch(lambda size: _agreed(size, measure, 10**9), 10**9, 8, lambda size: size)
assert (batch, most) == (4, 4) and sorted(probes) == [2, 4, 8], (batch, most, probes)
assert probes[2].seconds == 0.4 and not probes[8].fits

def fails(size):
    if rank == 1:
        raise KeyError("lost")
    return 1, 0.1

try:
    _agreed(2, fails, 10)
    raise SystemExit("no error on rank %d" % rank)
except KeyError:
    assert rank == 1
except EffdenseError as error:
    assert rank == 0 and "process 1 failed in a step of 2 images: KeyError" in str(error)
print("done", rank)
"""


def test_processes_agree(tmp_path: Path) -> None:
    """It fits where it fits in all; an error in one leaves none waiting."""
    for rank, (code, out, err) in enumerate(pair(AGREE, data=tmp_path)):
        assert (code, out.strip()) == (0, f"done {rank}"), err


TWO = """
import sys, torch
from effdense.engine.distributed import rank_and_world
from effdense.engine import batch_probe
from effdense.engine.run import train

make = batch_probe._measuring
def measuring(*args):
    meter, measure = make(*args)
    def hungry(size):
        return (0, 0.0) if rank_and_world()[0] == 1 and size > 2 else measure(size)
    return meter, hungry
batch_probe._measuring = measuring
train(sys.argv[1], work_dir=sys.argv[2])
"""


@pytest.mark.slow
def test_processes_agree_on_the_smallest(tiny_config: WriteConfig, data: Path, tmp_path: Path) -> None:
    """Four pictures fit into one process, two into the other: 2 x 2 x 2 make the nominal 8."""
    config = tiny_config("two", NOMINAL_8 + AUTO)
    for code, out, err in pair(TWO, str(config), str(tmp_path / "run"), data=data):
        assert code == 0, out + err
    meta = files.load(tmp_path / "run" / "epoch_1.pth")["meta"]
    assert (meta["world_size"], meta["batch_size"], meta["accumulative_counts"]) == (2, 2, 2)
