"""Hooks on hand-made runners: what they average, measure, log, keep and throw away."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import RuntimeInfoHook as StockRuntimeInfoHook
from mmengine.logging import MessageHub
from mmengine.runner import get_priority
from torch import Tensor, nn

from effdense.data import read_image
from effdense.engine import checkpoint as files
from effdense.engine.hooks import (
    CheckpointHook,
    EarlyStoppingHook,
    EMAHook,
    MetricsFileHook,
    PicturesHook,
    PreciseBNHook,
    RuntimeInfoHook,
    SyncBuffersHook,
)
from effdense.engine.hooks.ema import StateTensors, update_average
from effdense.engine.models import DetectionModel
from effdense.engine.optim import EffOptimWrapper
from effdense.errors import ConfigError
from effdense.models.batch_norm import recalibrate_batch_norm

# -- moving average ----------------------------------------------------------------------------------------------------


class Shell(nn.Module):
    """The part of our model shell that hooks use, around any network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._ema: list[nn.Module] = []
        self.data_preprocessor = lambda batch: {"inputs": batch["inputs"].float()}

    evaluation_network = DetectionModel.evaluation_network
    standing_names: frozenset[str] = frozenset()
    start_ema = DetectionModel.start_ema


def constant(value: float) -> nn.BatchNorm1d:
    """One weight, one float buffer and one counter, all of this value."""
    module = nn.BatchNorm1d(1)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)
    return module


def test_one_update_by_hand() -> None:
    """.9 * 1 + .1 * 2 = 1.1 for weights and running statistics; the counter of batches is copied."""
    average, network = constant(1.0), constant(2.0)
    update_average(StateTensors.of(average), StateTensors.of(network), 0.9)
    assert average.weight.item() == pytest.approx(1.1) and average.running_var.item() == pytest.approx(1.1)
    assert average.num_batches_tracked.item() == 2


def averaged(hook: EMAHook, values: list[float], *, steps_every: int = 1) -> float:
    """The average after the network has taken these values, one an iteration, from 0."""
    runner = SimpleNamespace(model=Shell(constant(0.0)), optim_wrapper=SimpleNamespace(updates=0))
    hook.before_train(runner)
    for i, value in enumerate(values):
        with torch.no_grad():
            runner.model.network.weight.fill_(value)
        runner.optim_wrapper.updates = (i + 1) // steps_every
        hook.after_train_iter(runner, i)
    return float(runner.model.evaluation_network.weight)


def test_ramp_by_hand() -> None:
    """After n steps the decay is min(d, (1 + n) / (10 + n)): 2/11, then 3/12 = .25, then 4/13."""
    first = 9 / 11 * 1.0
    assert averaged(EMAHook(0.9998), [1.0]) == pytest.approx(first)
    second = 0.25 * first + 0.75 * 2.0
    assert averaged(EMAHook(0.9998), [1.0, 2.0]) == pytest.approx(second)
    assert averaged(EMAHook(0.9998), [1.0, 2.0, 3.0]) == pytest.approx(4 / 13 * second + 9 / 13 * 3.0)
    assert averaged(EMAHook(0.2), [1.0, 2.0]) == pytest.approx(0.2 * first + 0.8 * 2.0)  # capped from step 2 on
    assert averaged(EMAHook(0.9, ramp=False), [1.0]) == pytest.approx(0.1)


def test_one_update_per_optimizer_step() -> None:
    """Four iterations accumulated two by two are two updates, after iterations 2 and 4."""
    expected = averaged(EMAHook(0.9998), [2.0, 4.0])
    assert averaged(EMAHook(0.9998), [1.0, 2.0, 3.0, 4.0], steps_every=2) == pytest.approx(expected)


def test_the_average_is_hidden_and_not_trained() -> None:
    shell = DetectionModel("efficientdet_lite0", 2, image_size=64, fpn_cells=1, head_repeats=1)
    names, parameters = set(shell.state_dict()), sum(1 for _ in shell.parameters())
    average = shell.start_ema()
    assert shell.start_ema() is average is shell.evaluation_network
    assert set(shell.state_dict()) == names and sum(1 for _ in shell.parameters()) == parameters
    assert not average.training and not any(p.requires_grad for p in average.parameters())
    shell.train()
    assert shell.network.training and not average.training


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_is_a_fraction(decay: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        EMAHook(decay)


# -- BatchNorm statistics ----------------------------------------------------------------------------------------------


def test_statistics_by_hand() -> None:
    """Batches [0, 2] and [4, 8]: means 1 and 6, unbiased variances 2 and 8; their averages are 3.5 and 5."""
    network = nn.Sequential(nn.BatchNorm1d(1, momentum=0.3), nn.Dropout(0.5))
    network[0].running_mean.fill_(100.0)
    used = recalibrate_batch_norm(network, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]])])
    assert used == 2
    assert network[0].running_mean.item() == pytest.approx(3.5)
    assert network[0].running_var.item() == pytest.approx(5.0)
    assert network[0].momentum == 0.3 and network[0].num_batches_tracked.item() == 0
    assert network.training and network[0].training and network[1].training


def test_no_batches_change_nothing_and_dropout_stays_off() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(1))
    network.eval()
    network[1].running_mean.fill_(7.0)
    assert recalibrate_batch_norm(network, []) == 0 and network[1].running_mean.item() == 7.0
    recalibrate_batch_norm(network, [torch.ones(64, 1)])
    assert network[1].running_mean.item() == pytest.approx(1.0)  # not 1/10 or 10 here and there
    assert not any(module.training for module in network.modules())


def epoch_of(hook: PreciseBNHook, runner: Any, batches: list[Tensor]) -> None:
    runner.model.train()
    for i, batch in enumerate(batches):
        hook.before_train_iter(runner, i, {"inputs": batch})
        runner.model.network(batch.float())
        hook.after_train_iter(runner, i, {"inputs": batch})
    hook.after_train_epoch(runner)
    runner.epoch += 1


def bn_runner(*, average: bool, val_interval: int = 1, max_epochs: int = 4) -> Any:
    shell = Shell(nn.Sequential(nn.BatchNorm1d(1)))
    if average:
        shell.start_ema()
    loop = SimpleNamespace(val_begin=1, val_interval=val_interval, max_epochs=max_epochs)
    return SimpleNamespace(model=shell, epoch=0, train_loop=loop)


BATCHES = [torch.full((4, 1), 50.0), torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]])]


@pytest.mark.parametrize("average", [False, True])
def test_precise_bn_measures_the_evaluated_network_on_the_last_batches(average: bool) -> None:
    runner = bn_runner(average=average)
    epoch_of(PreciseBNHook(num_batches=2), runner, BATCHES)
    norm = runner.model.evaluation_network[0]
    assert norm.running_mean.item() == pytest.approx(3.5) and norm.running_var.item() == pytest.approx(5.0)
    if average:  # the trained network keeps its running statistics
        assert runner.model.network[0].running_mean.item() != pytest.approx(3.5)


def test_precise_bn_only_before_a_validation() -> None:
    runner = bn_runner(average=False, val_interval=2, max_epochs=3)
    hook = PreciseBNHook(num_batches=2)
    seen = []
    for _ in range(3):
        runner.model.network[0].running_mean.fill_(1000.0)
        epoch_of(hook, runner, BATCHES)
        seen.append(runner.model.network[0].running_mean.item() == pytest.approx(3.5))
    assert seen == [False, True, True]  # every second epoch, and the last


def test_frozen_statistics_stay() -> None:
    runner = bn_runner(average=False, val_interval=10, max_epochs=9)
    hook = PreciseBNHook(num_batches=2, freeze_from=2)
    norm = runner.model.network[0]
    epoch_of(hook, runner, BATCHES)
    assert norm.training and norm.running_mean.item() == pytest.approx(3.5)  # measured before they freeze
    for _ in range(2):
        epoch_of(hook, runner, [torch.full((4, 1), 99.0)])
        assert not norm.training and norm.running_mean.item() == pytest.approx(3.5)


def test_precise_bn_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="num_batches"):
        PreciseBNHook(num_batches=0)
    with pytest.raises(ConfigError, match="freeze_from"):
        PreciseBNHook(freeze_from=0)


def test_hooks_run_in_the_order_that_saving_relies_on() -> None:
    """Statistics are measured, then averaged over processes, and only then is the epoch saved; the curves that are
    drawn have the row of the validation.
    """
    order = [PreciseBNHook(), SyncBuffersHook(), EMAHook(), MetricsFileHook(), PicturesHook(), CheckpointHook()]
    numbers = [get_priority(hook.priority) for hook in order]
    assert numbers == sorted(numbers)


# -- logging -----------------------------------------------------------------------------------------------------------


class Wrapper:
    def __init__(self) -> None:
        self.last_grad_norm: Tensor | None = None

    def get_lr(self) -> dict[str, list[float]]:
        return {"lr": [0.1]}


def logged(hook: Any, name: str, losses: list[float]) -> dict[str, list[float]]:
    hub = MessageHub.get_instance(name)
    runner = SimpleNamespace(
        message_hub=hub,
        optim_wrapper=Wrapper(),
        train_dataloader=losses,
        iter=0,
        max_iters=len(losses),
    )
    for i, loss in enumerate(losses):
        runner.iter = i
        hook.after_train_iter(runner, i, None, {"loss": torch.tensor(loss), "loss_cls": torch.tensor(loss / 2)})
    return {key: buffer.data[0].tolist() for key, buffer in hub.log_scalars.items()}


def test_it_logs_what_mmengines_own_hook_logs() -> None:
    losses = np.random.default_rng(0).random(23).astype(np.float32).tolist()
    stock = logged(StockRuntimeInfoHook(), "hooks_stock", losses)
    assert set(stock) == {"train/loss", "train/loss_cls"}
    for interval in (1, 5, 100):
        assert logged(RuntimeInfoHook(interval), f"hooks_ours_{interval}", losses) == stock


def test_values_wait_on_the_device_until_the_interval() -> None:
    hub = MessageHub.get_instance("hooks_waiting")
    wrapper = Wrapper()
    runner = SimpleNamespace(message_hub=hub, optim_wrapper=wrapper, train_dataloader=[0] * 100, iter=0, max_iters=100)
    hook = RuntimeInfoHook(interval=3)
    for i in range(5):
        runner.iter = i
        if i % 2 == 1:  # an optimizer step every second iteration has a norm of its own
            wrapper.last_grad_norm = torch.tensor(float(i))
        hook.after_train_iter(runner, i, None, {"loss": torch.tensor(float(i))})
        known = hub.log_scalars["train/loss"].data[0].tolist() if "train/loss" in hub.log_scalars else []
        assert known == [0.0, 1.0, 2.0][: 3 * ((i + 1) // 3)]
    hook.flush(runner)
    assert hub.log_scalars["train/loss"].data[0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert hub.log_scalars["train/grad_norm"].data[0].tolist() == [1.0, 3.0]


def test_a_training_step_never_reads_from_the_device() -> None:
    """Tensor.item and friends all go through aten::_local_scalar_dense; a step and the hooks call it never."""
    from torch.utils._python_dispatch import TorchDispatchMode

    reads: list[str] = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                reads.append(str(func))
            return func(*args, **(kwargs or {}))

    shell = DetectionModel("efficientdet_lite0", 2, image_size=64, fpn_cells=1, head_repeats=1, max_level=6)
    wrapper = EffOptimWrapper(torch.optim.SGD(shell.parameters(), lr=1e-3), clip_grad={"max_norm": 10.0})
    runner = SimpleNamespace(
        model=shell,
        optim_wrapper=wrapper,
        message_hub=MessageHub.get_instance("hooks_spy"),
        train_dataloader=[0] * 100,
        iter=5,
        epoch=0,
        max_iters=100,
    )
    hooks = [RuntimeInfoHook(50), EMAHook(), PreciseBNHook()]
    hooks[1].before_train(runner)
    batch = {
        "inputs": torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        "boxes": torch.tensor([[[4.0, 4.0, 40.0, 40.0]], [[0.0, 0.0, 0.0, 0.0]]]),
        "labels": torch.tensor([[1], [-1]]),
        "valid": torch.tensor([[True], [False]]),
    }
    with Spy():
        for i in range(2):
            for hook in hooks:
                hook.before_train_iter(runner, i + 5, batch)
            outputs = shell.train_step(batch, wrapper)
            for hook in hooks:
                hook.after_train_iter(runner, i + 5, batch, outputs)
    assert reads == []


# -- checkpoints -------------------------------------------------------------------------------------------------------


class FakeRunner:
    """Writes real, tiny checkpoint files and remembers what was asked for."""

    def __init__(self, work_dir: Path, max_epochs: int) -> None:
        self.work_dir = str(work_dir)
        self.epoch = 0
        self.max_epochs = max_epochs
        self.train_loop = SimpleNamespace(max_epochs=max_epochs)
        self.progress: dict[str, Any] = {}
        self.is_training_run = True
        self.logger = SimpleNamespace(info=lambda text: None, warning=lambda text: None)
        self.resumed_from, self.param_schedulers = None, []
        self.train_dataloader = range(10)
        self.optim_wrapper = SimpleNamespace(should_update=lambda: (self.iter + 1) % self.window == 0)
        self.iter, self.window = 0, 1

    def call_hook(self, name: str) -> None:
        assert name == "before_checkpoint"

    def write_checkpoint(self, path: Path, **options: Any) -> None:
        files.save_atomically({"format": files.FORMAT, **files.plain(options)}, path)


def run_epochs(hook: CheckpointHook, folder: Path, scores: list[float | None]) -> FakeRunner:
    """An epoch per score; None where there was no validation."""
    runner = FakeRunner(folder, len(scores))
    hook.before_train(runner)
    for score in scores:
        hook.after_train_epoch(runner)
        runner.epoch += 1
        if score is not None:
            hook.after_val_epoch(runner, {"coco/AP": score})
    return runner


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    run_epochs(CheckpointHook(max_keep=2, save_best=None), tmp_path, [None] * 11)
    assert names(tmp_path) == ["epoch_10.pth", "epoch_11.pth", "last_checkpoint"]
    assert files.find_last(tmp_path) == tmp_path / "epoch_11.pth"


def test_all_or_only_some_are_kept(tmp_path: Path) -> None:
    for folder in ("all", "some"):
        (tmp_path / folder).mkdir()
    run_epochs(CheckpointHook(max_keep=0, save_best=None), tmp_path / "all", [None] * 3)
    assert names(tmp_path / "all") == ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "last_checkpoint"]
    run_epochs(CheckpointHook(interval=3, max_keep=0, save_best=None), tmp_path / "some", [None] * 7)
    assert names(tmp_path / "some") == ["epoch_3.pth", "epoch_6.pth", "epoch_7.pth", "last_checkpoint"]


def test_nothing_goes_before_the_new_file_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = CheckpointHook(max_keep=1, save_best=None)
    runner = run_epochs(hook, tmp_path, [None])
    monkeypatch.setattr(files, "save_atomically", lambda content, path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        hook.after_train_epoch(runner)
    assert names(tmp_path) == ["epoch_1.pth", "last_checkpoint"]
    assert files.find_last(tmp_path) == tmp_path / "epoch_1.pth"


def test_saving_inside_an_epoch_waits_for_the_end_of_a_window(tmp_path: Path) -> None:
    """Every 4 of 10 iterations with windows of 3: after iterations 6 and 9; the epoch's own file takes their place."""
    hook, runner = CheckpointHook(every_iters=4), FakeRunner(tmp_path, 1)
    runner.window = 3
    seen = []
    for batch in range(10):
        runner.iter = batch
        hook.after_train_iter(runner, batch)
        seen.append([name for name in names(tmp_path) if name.startswith("iter")])
    assert seen == [[]] * 5 + [["iter_6.pth"]] * 3 + [["iter_9.pth"]] * 2
    assert files.load(tmp_path / "iter_9.pth")["batches_done"] == 9
    assert files.find_last(tmp_path) == tmp_path / "iter_9.pth"
    hook.after_train_epoch(runner)
    assert names(tmp_path) == ["epoch_1.pth", "last_checkpoint"]
    with pytest.raises(ConfigError, match="every_iters is a number of iterations"):
        CheckpointHook(every_iters=0)


def test_what_validations_gave_is_written_down(tmp_path: Path) -> None:
    """And forgotten from the epoch on that a resumed run validates anew."""
    run_epochs(CheckpointHook(), tmp_path, [0.1, None, 0.3])
    assert files.read_validations(tmp_path) == {
        "1": {"best_score": 0.1, "best_epoch": 1},
        "3": {"best_score": 0.3, "best_epoch": 3},
    }
    files.note_validation(tmp_path, 2, {"best_score": 0.2, "best_epoch": 2})
    assert list(files.read_validations(tmp_path)) == ["1", "2"]
    (tmp_path / files.VALIDATIONS).write_text("{")
    assert files.read_validations(tmp_path) == {} == files.read_validations(tmp_path / "nowhere")


def test_early_stopping_goes_on_after_a_resume(tmp_path: Path) -> None:
    def validate(hook: EarlyStoppingHook, runner: FakeRunner, scores: list[float]) -> list[bool]:
        hook.before_train(runner)
        return [
            (hook.after_val_epoch(runner, {"coco/AP": score}), runner.train_loop.stop_training)[1] for score in scores
        ]

    def fresh(progress: dict[str, Any]) -> FakeRunner:
        runner = FakeRunner(tmp_path, 9)
        runner.train_loop.stop_training, runner.progress = False, progress
        return runner

    first = fresh({})
    assert validate(EarlyStoppingHook("coco/AP", patience=3), first, [0.3, 0.2, 0.1]) == [False] * 3
    second = fresh(files.plain(first.progress))
    assert validate(EarlyStoppingHook("coco/AP", patience=3), second, [0.2]) == [True]
    third = fresh(files.plain(second.progress))
    validate(EarlyStoppingHook("coco/AP", patience=3), third, [])
    assert third.train_loop.stop_training


def test_a_file_of_an_older_longer_run_is_not_taken_for_the_newest(tmp_path: Path) -> None:
    files.save_atomically({"format": files.FORMAT}, tmp_path / "epoch_50.pth")
    run_epochs(CheckpointHook(max_keep=1, save_best=None), tmp_path, [None])
    assert files.find_last(tmp_path) == tmp_path / "epoch_1.pth"


def test_best_follows_the_score(tmp_path: Path) -> None:
    runner = run_epochs(CheckpointHook(), tmp_path, [0.1, 0.3, None, 0.3, 0.2, float("nan")])
    best = files.load(tmp_path / "best.pth")
    assert best["epoch"] == 2 and best["metrics"] == {"coco/AP": 0.3} and best["training_state"] is False
    assert runner.progress == {"best_score": 0.3, "best_epoch": 2}


def test_best_may_mean_smallest(tmp_path: Path) -> None:
    runner = run_epochs(CheckpointHook(greater_is_better=False), tmp_path, [0.3, 0.1, 0.2])
    assert runner.progress == {"best_score": 0.1, "best_epoch": 2}


def test_a_metric_that_is_not_reported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'coco/mAP', but validation reports"):
        run_epochs(CheckpointHook(save_best="coco/mAP"), tmp_path, [0.1])
    with pytest.raises(ConfigError, match="interval >= 1"):
        CheckpointHook(interval=0)


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_a_runs_pictures_show_something(trained: Any) -> None:
    for name in ("train_batch_0.jpg", "val_predictions.jpg"):
        picture = read_image(trained.work_dir / "pictures" / name)
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 20 and len(np.unique(picture[::4, ::4].reshape(-1, 3), axis=0)) > 1000


def test_pictures_need_images() -> None:
    with pytest.raises(ConfigError, match="num_images"):
        PicturesHook(num_images=0)
