"""The traps of mmengine 0.10.7 (docs/engine.md), T1 to T15: each fails on bare mmengine and holds here.

``bare_`` tests assert what mmengine's own classes do, so that a release which mends it is noticed (whole runs of it are
in ``test_bare_runs.py``); the others that the engine does not. Where a trap is tested elsewhere this table names the
test; `test_the_table` looks it up.
"""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.dist import collect_results
from mmengine.dist.utils import _init_dist_pytorch
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as MMCheckpointHook
from mmengine.hooks import EMAHook as MMEMAHook
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR
from mmengine.runner import Runner
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from mmengine.runner.checkpoint import load_state_dict
from mmengine.runner.checkpoint import save_checkpoint as mm_save
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from effdense.engine import checkpoint as files
from effdense.engine.config import load_config, parse_option
from effdense.engine.distributed import infer_launcher
from effdense.engine.hooks import CheckpointHook, RuntimeInfoHook
from effdense.engine.models import ClassificationModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.registry import PARAM_SCHEDULERS
from effdense.engine.runner import EffRunner
from effdense.errors import ConfigError, WeightsError
from effdense.models.weights import load_weights
from tests.engine.conftest import ROOT

SHAPES = ROOT / "configs" / "effdet_b0_shapes.py"
# The releases that `make test-engines` goes through. What a later one mends shows when it is added here; the engine's
# halves are never skipped.
bare = pytest.mark.skipif(
    mmengine.__version__ not in ("0.10.7", "0.11.0rc3", "0.10.12"),
    reason=f"what mmengine {mmengine.__version__} does by itself is not known",
)


def mended_in(*versions: str) -> pytest.MarkDecorator:
    """For a bare half that says what these releases no longer do (0.10.12 is onedl-mmengine's)."""
    return pytest.mark.skipif(mmengine.__version__ in versions, reason=f"mended in mmengine {mmengine.__version__}")


no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


ELSEWHERE = {
    "T1 checkpoints": ["test_checkpoint.py::test_a_runs_checkpoints_hold_no_code", "test_untrusted_checkpoints.py::*"],
    "T2 activation checkpointing": [
        "../models/test_activation_checkpointing.py::test_two_steps_to_the_bit",
        "../models/test_activation_checkpointing.py::test_memory_falls",
        "test_compiled_training.py::test_two_processes_with_activations_computed_again",
    ],
    "T3 resume": [
        "test_exact_resume.py::test_killed_inside_an_epoch",
        "test_exact_resume.py::test_killed_between_saving_and_validating",
        "test_exact_resume.py::test_more_epochs_extend_the_schedule",
        "test_checkpoint.py::test_another_run_cannot_be_resumed",
        "test_run.py::test_nothing_to_resume_is_said",
        "test_run.py::test_a_moved_run_with_a_damaged_newest_file_goes_on_from_the_one_before",
    ],
    "T4 augmentation per epoch": ["test_run.py::test_augmentation_is_new_in_every_epoch_and_the_same_for_any_workers"],
    "T5 augmentation per rank": ["test_run.py::test_ranks_share_the_samples_and_their_augmentation_is_their_own"],
    "T6 writing": [
        "test_checkpoint.py::test_a_process_killed_while_writing_leaves_the_old_file_whole",
        "test_exact_resume.py::test_killed_while_a_checkpoint_is_written",
        "test_exact_resume.py::test_asked_to_end",
        "test_hooks.py::test_nothing_goes_before_the_new_file_is_there",
    ],
    "T7 statistics and average": [
        "test_hooks.py::test_one_update_per_optimizer_step",
        "test_distributed.py::test_two_processes_train_one_network",
        "test_run.py::test_a_file_reproduces_the_score_of_its_epoch",
    ],
    "T8 partial loads": [
        "test_run.py::test_evaluation_needs_the_weights_of_this_model",
        "test_run.py::test_evaluation_needs_all_of_the_weights",
    ],
    "T9 metrics": [
        "test_coco_metric.py::test_each_image_counts_exactly_once",
        "test_coco_metric_ranks.py::test_processes_score_as_one",
        "test_distributed.py::test_collectives_and_errors_reach_both_processes",
    ],
    "T10 precision": ["test_optim.py::test_mixed_precision_trains_on_any_device"],
    "T11 steps and LR": [
        "test_run.py::test_the_learning_rate_follows_the_batch_of_an_optimizer_step",
        "test_optim.py::test_accumulation_ends_with_the_epoch",
    ],
    "T12 launching": [
        "test_distributed.py::test_the_launcher_is_inferred_under_torchrun",
        "test_distributed.py::test_two_processes_train_one_network",
    ],
    "T13 packaging": [],
    "T14 configs": [
        "test_engine_config.py::test_a_config_without_a_base_may_import",
        "test_config_values.py::test_what_is_no_literal_stays_text",
        "test_config_values.py::test_a_value_that_cannot_be_written_is_refused",
        "test_misspelt_configs.py::test_every_key",
    ],
    "T15 debugging": [],
}


def test_the_table() -> None:
    """Every named test is there, and no trap is left out."""
    assert [name.split()[0] for name in ELSEWHERE] == [f"T{n}" for n in range(1, 16)]
    for tests in ELSEWHERE.values():
        for one in tests:
            file, name = one.split("::")
            text = (Path(__file__).parent / file).read_text()
            assert re.search(r"def test_\w+" if name == "*" else rf"def {name}\(", text), one


# -- T1: what is saved cannot be read ----------------------------------------------------------------------------------


@bare
def test_bare_t1_a_checkpoint_cannot_be_read_back(tmp_path: Path) -> None:
    mm_save({"message_hub": {"loss": HistoryBuffer([0.5], [1])}}, str(tmp_path / "epoch_1.pth"))
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    assert "mmengine.logging.history_buffer.HistoryBuffer" in unsafe(tmp_path / "epoch_1.pth")


def test_t1_a_checkpoint_needs_nothing_allowed(trained: Any) -> None:
    assert unsafe(trained.work_dir / "epoch_3.pth") == []
    assert files.load(trained.work_dir / "epoch_3.pth")["history"]


def unsafe(path: Path) -> list[str]:
    return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))


# -- T2: activation checkpointing freezes what it wraps ----------------------------------------------------------------


@bare
@pytest.mark.filterwarnings("ignore:.*use_reentrant")
def test_bare_t2_reentrant_checkpointing_drops_gradients() -> None:
    """Pictures need no gradient, so what is wrapped gets none."""
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    turn_on_activation_checkpointing(model, ["backbone"])
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        model["head"](model["backbone"](torch.ones(1, 2))).sum().backward()
    assert model["backbone"].weight.grad is None and model["head"].weight.grad is not None


@bare
def test_bare_t2_statistics_count_twice_without_reentrance() -> None:
    """The way out that torch offers runs BatchNorm's forward pass twice."""
    norm = nn.BatchNorm1d(2)
    checkpoint(norm, torch.randn(4, 2), use_reentrant=False).sum().backward()
    assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 2


def test_t2_the_encoder_trains_and_a_batch_counts_once() -> None:
    """mmengine's own key is refused; with that of the model every trained weight has its gradient."""
    with pytest.raises(ConfigError, match="unknown key 'activation_checkpointing'"):
        load_config(SHAPES, {"activation_checkpointing": ["backbone"]})
    shell = ClassificationModel("efficientnet_lite0", 2, image_size=32, activation_checkpointing="encoder")
    batch = {"inputs": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), "labels": torch.tensor([0, 1])}
    shell(**shell.data_preprocessor(batch, True), mode="loss")["loss"].backward()
    assert all(p.grad is not None for p in shell.network.parameters())
    assert shell.network.conv_stem.weight.grad.abs().max() > 0
    assert {int(v) for k, v in shell.network.state_dict().items() if k.endswith("batches_tracked")} == {1}


# -- T3: resume --------------------------------------------------------------------------------------------------------


@bare
def test_bare_t3_a_frozen_schedule() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    short = CosineAnnealingLR(optimizer, T_max=2)
    longer = CosineAnnealingLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), T_max=10)
    longer.load_state_dict(short.state_dict())
    assert longer.T_max == 2  # the config's 10 is forgotten


def test_t3_random_state_and_the_configs_schedule(trained: Any) -> None:
    content = files.load(trained.work_dir / "epoch_2.pth")
    assert len(content["rng"]) == 1 and {"torch", "numpy", "python"} <= set(content["rng"][0])
    build = PARAM_SCHEDULERS.get("WarmupCosineLR")
    short, longer = (build(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), end=end) for end in (2, 10))
    longer.load_state_dict(short.state_dict())
    assert longer.total == 10


# -- T4, T5: the same random numbers every epoch, and on every rank ----------------------------------------------------


@bare
def test_bare_t4_t5_workers_are_seeded_by_constants() -> None:
    """No epoch goes into a worker's seed, and ranks differ only in the place of a sum that seeds share."""
    from mmengine.dataset.utils import worker_init_fn

    draws = []
    state = np.random.get_state()
    torch_state = torch.get_rng_state()
    try:
        for num_workers, worker, rank, seed in ((2, 1, 0, 3), (2, 1, 0, 3), (2, 0, 0, 4)):
            worker_init_fn(worker, num_workers, rank, seed, disable_subprocess_warning=True)
            draws.append(np.random.random())
    finally:
        np.random.set_state(state)
        torch.set_rng_state(torch_state)
    assert draws[0] == draws[1]  # epoch 0 and epoch 1
    assert draws[0] == draws[2]  # another worker of another seed


@bare
def test_bare_t5_dropout_is_the_same_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.runner import utils

    draws = []
    for rank in (0, 1):
        monkeypatch.setattr(utils, "get_rank", lambda rank=rank: rank)
        utils.set_random_seed(seed=3)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]


# -- T6: writing -------------------------------------------------------------------------------------------------------


class FullDisk:
    """As much of a runner as mmengine's checkpoint hook needs; its disk is full."""

    message_hub = SimpleNamespace(update_info=lambda *args: None)

    def save_checkpoint(self, *args: Any, **options: Any) -> None:
        raise OSError("no space left on device")


@bare
def test_bare_t6_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    hook = MMCheckpointHook(interval=1, max_keep_ckpts=1)
    hook.out_dir, hook.filename_tmpl = str(tmp_path), "epoch_{}.pth"
    hook.file_backend, hook.keep_ckpt_ids = LocalBackend(), deque([1], 1)
    (tmp_path / "epoch_1.pth").write_bytes(b"the only one")
    with pytest.raises(OSError, match="no space"):
        hook._save_checkpoint_with_step(FullDisk(), 2, {})
    assert list(tmp_path.iterdir()) == []


def test_t6_a_failed_write_leaves_the_file_before(tmp_path: Path) -> None:
    hook = CheckpointHook(max_keep=1)
    (tmp_path / "epoch_1.pth").write_bytes(b"the only one")

    def full(*args: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    runner = SimpleNamespace(
        work_dir=str(tmp_path), call_hook=lambda name: None, write_checkpoint=full, train_dataloader=[0] * 5
    )
    with pytest.raises(OSError, match="no space"):
        hook._save(runner, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_1.pth"]


# -- T7: the average is stepped by iteration ---------------------------------------------------------------------------


@bare
def test_bare_t7_the_average_counts_iterations_and_leaves_statistics() -> None:
    """Four batches accumulated into one step are four updates; BatchNorm's statistics are copied, not averaged over
    ranks.
    """
    hook, updates = MMEMAHook(), []
    hook.ema_model, hook.src_model = SimpleNamespace(update_parameters=updates.append), None  # type: ignore[assignment]
    accumulating = SimpleNamespace(iter=0, optim_wrapper=SimpleNamespace(should_update=lambda: False))
    for iteration in range(4):
        hook.after_train_iter(accumulating, iteration)
    assert len(updates) == 4
    network: Any = nn.BatchNorm1d(1)
    average = ExponentialMovingAverage(network, momentum=0.5)
    network.running_mean.fill_(1.0)
    average.update_parameters(network)
    network.running_mean.fill_(2.0)
    average.update_parameters(network)
    assert average.module.running_mean.item() == 2.0


# -- T8: weights that do not match -------------------------------------------------------------------------------------


@bare
def test_bare_t8_no_key_matches_and_nothing_is_raised() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    load_state_dict(layer, {"nothing": torch.zeros(1)}, strict=False)
    assert torch.equal(layer.weight, before)


def test_t8_no_key_matches() -> None:
    from effdense.models.encoders import create_encoder

    with pytest.raises(WeightsError):
        load_weights(create_encoder("efficientnet_lite0"), {"state_dict": {"nothing": torch.zeros(1)}})


# -- T9: metrics -------------------------------------------------------------------------------------------------------


@bare
def test_bare_t9_results_beyond_the_count_are_cut() -> None:
    """Three results per sample of 13: 13 of 39 are kept, on one process, without a word."""
    assert len(collect_results(list(range(39)), 13) or []) == 13


# -- T10, T11 ----------------------------------------------------------------------------------------------------------


@bare
@no_gpu
def test_bare_t10_mixed_precision_needs_a_gpu() -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        AmpOptimWrapper(optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), dtype="bfloat16")


@pytest.mark.parametrize(("runner", "rate"), [pytest.param(Runner, 1.0, marks=bare), (EffRunner, 4.0)])
def test_t11_scaling_and_accumulation(runner: Any, rate: float) -> None:
    """Batch 8, four of them a step, for an LR that is meant for 8: four times as much, and mmengine leaves it."""
    wrapper = EffOptimWrapper(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), accumulative_counts=4)
    loader: Any = DataLoader([0] * 8, batch_size=8)  # type: ignore[arg-type]
    scene = SimpleNamespace(
        world_size=1,
        _train_dataloader=loader,
        train_dataloader=loader,
        param_schedulers=None,
        logger=SimpleNamespace(info=lambda text: None),
    )
    runner.scale_lr(scene, wrapper, {"enable": True, "base_batch_size": 8})
    assert wrapper.param_groups[0]["lr"] == rate


# -- T12: launching ----------------------------------------------------------------------------------------------------


@bare
@no_gpu
def test_bare_t12_gloo_asks_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises((RuntimeError, AssertionError), match=r"(?i)nvidia|cuda"):
        _init_dist_pytorch("gloo")  # what is behind init_dist, which also changes how this process starts others
    assert not torch.distributed.is_initialized()


def test_t12_torchrun_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """mmengine would train as many copies as there are processes into one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert infer_launcher("none") == "pytorch"


# -- T13: packaging ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_distutils(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under Python 3.12 without setuptools."""
    monkeypatch.setitem(sys.modules, "distutils", None)


@bare
@pytest.mark.usefixtures("no_distutils")
def test_bare_t13_the_environment_report_needs_distutils() -> None:
    """And every run of mmengine's begins with it."""
    with pytest.raises(ImportError, match="distutils"):
        Runner._log_env(SimpleNamespace(), {})  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_distutils")
def test_t13_ours_does_not(tmp_path: Path) -> None:
    scene: Any = SimpleNamespace(world_size=1, seed=3, log_dir=str(tmp_path), cfg=SimpleNamespace(filename="a.py"))
    scene.logger, scene._config_text = SimpleNamespace(info=lambda *text, **options: None), lambda: "model = None"
    EffRunner._log_env(scene, {})
    said = json.loads((tmp_path / "environment.json").read_text())
    assert said["seed"] == 3 and said["mmengine_distribution"].endswith(said["mmengine"])


# -- T14: configs ------------------------------------------------------------------------------------------------------


@bare
def test_bare_t14_misspelt_keys_merge_and_values_change(tmp_path: Path) -> None:
    cfg = Config({"log_processor": {"window_size": 50}})
    cfg.merge_from_dict({"log_procesor.window_size": 5})
    assert cfg.log_processor.window_size == 50  # and not a word
    assert DictAction._parse_iterable("001") == 1
    with pytest.raises(RecursionError):
        DictAction._parse_iterable("[dict(type='A'),dict(type='B',x=1)]")


def test_t14_neither_happens() -> None:
    with pytest.raises(ConfigError, match="'log_processor'"):
        load_config(SHAPES, {"log_procesor.window_size": 5})
    assert parse_option("a=001") == ("a", "001")
    assert parse_option("a=[{'type': 'A'}, {'type': 'B'}]")[1] == [{"type": "A"}, {"type": "B"}]


# -- T15: debugging ----------------------------------------------------------------------------------------------------


class Clumsy(Hook):
    """Stumbles over a TypeError of its own."""

    def before_run(self, runner: Any) -> None:
        len(3)  # type: ignore[arg-type]


def where_it_happened(call: Any) -> list[str]:
    """Names of the functions in the traceback of a call that fails, through all that was chained."""
    with pytest.raises(TypeError) as caught:
        call()
    return [entry.name for entry in caught.traceback]


@bare
def test_bare_t15_the_line_of_a_hooks_error_is_lost() -> None:
    runner = SimpleNamespace(_hooks=[Clumsy()])
    assert "before_run" not in where_it_happened(lambda: Runner.call_hook(runner, "before_run"))  # type: ignore[arg-type]


def test_t15_it_is_kept() -> None:
    runner = SimpleNamespace(_hooks=[Clumsy()], epoch=0, iter=0)
    assert where_it_happened(lambda: EffRunner.call_hook(runner, "before_run"))[-1] == "before_run"  # type: ignore[arg-type]


# -- section 4: history ------------------------------------------------------------------------------------------------


@bare
def test_bare_history_keeps_a_million_values() -> None:
    assert HistoryBuffer().max_length == 1_000_000


def test_history_is_bounded() -> None:
    buffer = HistoryBuffer()
    hub = SimpleNamespace(log_scalars={"train/loss": buffer}, update_scalar=lambda name, value: buffer.update(value))
    hook = RuntimeInfoHook()
    hook._held = {"loss": [torch.tensor(1.0)] * 2100}
    hook.flush(SimpleNamespace(message_hub=hub))
    buffer.update(2.0)
    assert len(buffer.data[0]) == 2000 and buffer.data[0][-1] == 2.0
