"""Losses that are not finite: found without waiting for the device, written down, run again, or left out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn

from effdense.cli import main
from effdense.engine import evidence
from effdense.engine.evidence import non_finite_rows, read_evidence
from effdense.engine.finite import KeptBuffers, StepGuard
from effdense.engine.hooks import EMAHook, GuardHook, RuntimeInfoHook
from effdense.engine.models import DetectionModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.run import train
from effdense.errors import ConfigError, RunError, WeightsError
from tests.engine.conftest import WriteConfig, read_log
from tests.engine.test_exact_resume import finished, ranks

NAN = float("nan")


# -- one step ----------------------------------------------------------------------------------------------------------


def wrapper_of(
    *, stop: bool, may_read: bool, optimizer: str = "AdamW", **options: Any
) -> tuple[nn.Linear, EffOptimWrapper]:
    """One weight of 1, so that the loss ``weight * x`` has the gradient x."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    fused: dict[str, Any] = {"fused": True} if optimizer == "AdamW" else {}
    wrapper = EffOptimWrapper(getattr(torch.optim, optimizer)(model.parameters(), lr=0.1, **fused), **options)
    wrapper.initialize_count_status(model, 0, 100)
    wrapper.guard = StepGuard(stop, may_read)
    return model, wrapper


def run_losses(model: nn.Linear, wrapper: EffOptimWrapper, factors: list[float]) -> list[float]:
    """The weight after each iteration."""
    weights = []
    for factor in factors:
        assert wrapper.guard is not None
        wrapper.guard.begin()
        wrapper.update_params(model(torch.tensor([[factor]])).sum())
        weights.append(model.weight.item())
    return weights


@pytest.mark.parametrize("clip", [None, {"max_norm": 10.0}, {"type": "value", "clip_value": 10.0}])
@pytest.mark.parametrize(("may_read", "optimizer"), [(True, "AdamW"), (False, "AdamW"), (True, "SGD"), (False, "SGD")])
def test_a_step_is_left_out(may_read: bool, optimizer: str, clip: Any) -> None:
    """Weights and optimizer end as if the batch had not been; fused optimizers without a look from the host."""
    options = {"clip_grad": clip} if clip else {}
    expected = run_losses(*wrapper_of(stop=False, may_read=may_read, optimizer=optimizer, **options), [1.0, 2.0, 3.0])
    for bad in (NAN, float("inf")):
        model, wrapper = wrapper_of(stop=False, may_read=may_read, optimizer=optimizer, **options)
        weights = run_losses(model, wrapper, [1.0, bad, bad, 2.0, 3.0])
        assert weights == [expected[0], expected[0], expected[0], *expected[1:]]
        for state in wrapper.optimizer.state.values():
            assert all(torch.isfinite(v).all() for v in state.values() if isinstance(v, Tensor))


def test_a_guard_changes_no_bit_of_a_finite_run() -> None:
    factors = np.random.default_rng(0).normal(size=20).tolist()
    model, wrapper = wrapper_of(stop=True, may_read=True, clip_grad={"max_norm": 0.5}, accumulative_counts=3)
    guarded = run_losses(model, wrapper, factors)
    model, wrapper = wrapper_of(stop=True, may_read=True, clip_grad={"max_norm": 0.5}, accumulative_counts=3)
    wrapper.guard = None
    for factor, expected in zip(factors, guarded, strict=True):
        wrapper.update_params(model(torch.tensor([[factor]])).sum())
        assert model.weight.item() == expected


def test_a_whole_window_is_left_out() -> None:
    model, wrapper = wrapper_of(stop=False, may_read=True, optimizer="SGD", accumulative_counts=2)
    assert run_losses(model, wrapper, [NAN, 1.0, 1.0, 1.0]) == pytest.approx([1.0, 1.0, 1.0, 0.9])


def test_stop_freezes_what_the_batch_met() -> None:
    """With the answer still on the device, later steps are held back, too; in float16 by its scaler."""
    model, wrapper = wrapper_of(stop=True, may_read=False)
    weights = run_losses(model, wrapper, [1.0, NAN, 1.0, 2.0])
    assert weights[1:] == [weights[0]] * 3 != [1.0] * 3
    model, wrapper = wrapper_of(stop=True, may_read=False, optimizer="SGD", dtype="float16")
    weights = run_losses(model, wrapper, [1.0, NAN, 1.0, 2.0])
    assert weights[1:] == [weights[0]] * 3 != [1.0] * 3


def test_a_gradient_can_be_worse_than_its_loss() -> None:
    """sqrt(0) is 0, its slope is not."""
    model, wrapper = wrapper_of(stop=True, may_read=True)
    wrapper.update_params(model(torch.zeros(1, 1)).sum().sqrt())
    assert model.weight.item() == 1.0 and wrapper.guard is not None and not bool(wrapper.guard.finite)


@pytest.mark.parametrize("may_read", [True, False])
def test_statistics_are_put_back(may_read: bool) -> None:
    network = nn.BatchNorm1d(2)
    kept = KeptBuffers(network)
    kept.take()
    network(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    good = network.running_mean.clone()
    kept.settle(torch.tensor(True), may_read)
    network(torch.full((2, 2), NAN))
    assert network.running_mean.isnan().all()
    kept.settle(torch.tensor(False), may_read)
    assert torch.equal(network.running_mean, good) and network.running_var.isfinite().all()


def test_statistics_of_any_shape_and_none() -> None:
    network = nn.Module()
    network.register_buffer("map", torch.arange(6.0).view(1, 2, 3).transpose(1, 2))
    network.register_buffer("row", torch.tensor([7.0, 8.0]))
    kept = KeptBuffers(network)
    kept.take()
    before = network.map.clone()
    for buffer in network.buffers():
        buffer.fill_(NAN)
    kept.settle(torch.tensor(False))
    assert torch.equal(network.map, before) and network.row.tolist() == [7.0, 8.0]
    empty = KeptBuffers(nn.Linear(1, 1))
    empty.take()
    empty.settle(torch.tensor(True))


# -- the hook ----------------------------------------------------------------------------------------------------------


def fake_runner(tmp_path: Path, wrapper: Any, name: str) -> Any:
    model = nn.Module()
    model.network = nn.BatchNorm1d(1)
    said: list[str] = []
    return SimpleNamespace(
        model=model, shell=model, optim_wrapper=wrapper, work_dir=str(tmp_path), progress={}, iter=0, epoch=0,
        message_hub=MessageHub.get_instance(name), logger=SimpleNamespace(warning=said.append), said=said,
        train_dataloader=[0] * 100, max_iters=100,
    )  # fmt: skip


def watch(hook: GuardHook, runner: Any, losses: list[float], *, window: int = 1) -> None:
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    for i, loss in enumerate(losses, start=runner.iter):
        runner.iter = i
        runner.optim_wrapper.should_update = lambda done=i + 1: done % window == 0
        batch = {"inputs": torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "paths": [f"{i + 1}.jpg"]}
        hook.before_train_iter(runner, i, batch)
        hook.after_train_iter(runner, i, batch, {"loss": torch.tensor(loss), "loss_cls": torch.tensor(loss)})


def plain_wrapper() -> Any:
    return SimpleNamespace(guard=None, scaler=SimpleNamespace(_scale=None), parts=1, should_update=lambda: True)


def test_skips_are_counted_and_said(tmp_path: Path) -> None:
    runner = fake_runner(tmp_path, plain_wrapper(), "guard_skips")
    watch(GuardHook("skip"), runner, [1.0, NAN, NAN, 1.0, NAN])
    assert runner.progress == {"skipped_steps": {"total": 3, "in_a_row": 1}}
    assert "iteration 3: loss is nan, loss_cls is nan" in runner.said[1] and "2 in a row" in runner.said[1]
    assert runner.message_hub.get_scalar("train/skipped_steps").data[0].tolist() == [1.0, 2.0, 3.0]


def test_a_window_counts_once(tmp_path: Path) -> None:
    runner = fake_runner(tmp_path, plain_wrapper(), "guard_windows")
    watch(GuardHook("skip"), runner, [NAN, NAN, 1.0, 1.0, NAN, 1.0], window=2)
    assert runner.progress["skipped_steps"] == {"total": 2, "in_a_row": 1}


def test_too_many_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count goes on where a resumed run left it."""
    monkeypatch.setattr("effdense.engine.hooks.guard.write_evidence", lambda *rest: tmp_path / "iter_0.pth")
    runner = fake_runner(tmp_path, plain_wrapper(), "guard_many")
    watch(GuardHook("skip", max_skips=3), runner, [1.0, NAN, NAN])
    with pytest.raises(RunError, match=r"loss is nan.* 4 steps in a row \(max_skips=3\)"):
        watch(GuardHook("skip", max_skips=3), runner, [NAN, NAN])


def test_the_first_bad_batch_is_named_at_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effdense.engine.hooks.guard.write_evidence", lambda *rest: tmp_path / "iter_0.pth")
    hook, runner = GuardHook(interval=50), fake_runner(tmp_path, plain_wrapper(), "guard_first")
    before_train = hook.before_train

    def as_on_a_gpu(runner: Any) -> None:
        before_train(runner)
        hook._every = 50

    monkeypatch.setattr(hook, "before_train", as_on_a_gpu)
    watch(hook, runner, [1.0, 2.0, NAN, 1.0, NAN])
    with pytest.raises(RunError, match=r"loss is nan.* iteration 3 \(epoch 1, batch 3\).*pictures: 3\.jpg"):
        hook.before_checkpoint(runner)


def test_batches_that_wait_take_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effdense.engine.hooks.guard.HELD_BYTES", 12 * 3)
    hook, runner = GuardHook(interval=7), fake_runner(tmp_path, plain_wrapper(), "guard_memory")
    hook.before_train(runner)
    hook._every = 100
    monkeypatch.setattr(hook, "before_train", lambda runner: None)
    watch(hook, runner, [1.0] * 8)
    assert [seen.batch is not None for seen in hook._seen] == [False] * 5 + [True] * 3


def test_other_processes_name_the_one_that_met_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effdense.engine.hooks.guard.gather_objects", lambda mine: [mine, (2, False)])
    with pytest.raises(RunError, match=r"process 1 met .* in iteration 2"):
        watch(GuardHook(), fake_runner(tmp_path, plain_wrapper(), "guard_ranks"), [1.0])


@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_float16_that_finds_no_scale_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, non_finite: str
) -> None:
    """Gradients that are never finite would have the scaler leave out every step, and the run train nothing."""
    monkeypatch.setattr("effdense.engine.hooks.guard.write_evidence", lambda *rest: tmp_path / "iter_0.pth")
    wrapper = plain_wrapper()
    wrapper.scaler._scale = torch.tensor(2.0**16)
    hook, runner = GuardHook(non_finite), fake_runner(tmp_path, wrapper, f"guard_scale_{non_finite}")
    watch(hook, runner, [1.0] * 5)
    wrapper.scaler._scale.fill_(2.0**-14)
    with pytest.raises(RunError, match=r"float16 are not finite whatever the scale of the loss is \(6e-05\)"):
        watch(hook, runner, [1.0])


def test_the_scale_is_that_of_the_iteration(tmp_path: Path) -> None:
    """The scaler changes it in place at its end."""
    wrapper = plain_wrapper()
    wrapper.scaler._scale = torch.tensor(8.0)
    hook, runner = GuardHook(), fake_runner(tmp_path, wrapper, "guard_scale_then")
    hook.before_train(runner)
    hook._every = 100
    hook.before_train_iter(runner, 0)
    wrapper.scaler._scale.mul_(0.5)
    hook.after_train_iter(runner, 0, {}, {"loss": torch.tensor(1.0)})
    assert hook._seen[0].scale == 8.0


@pytest.mark.parametrize("options", [{"non_finite": "ignore"}, {"max_skips": 0}, {"interval": 2.5}])
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"GuardHook.{next(iter(options))}"):
        GuardHook(**options)


def test_pictures_with_targets_that_are_not_finite() -> None:
    boxes = torch.zeros(2, 3, 4)
    boxes[1, 2, 0] = NAN
    assert non_finite_rows({"boxes": boxes, "paths": ["a.jpg", "b.jpg"]}) == ["boxes of b.jpg"]
    others = {"weight": torch.tensor([NAN, 1.0]), "share": torch.tensor(NAN), "paths": ["a.jpg", "b.jpg"]}
    assert non_finite_rows(others) == ["weight of a.jpg"]


@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_between_looks_nothing_is_read_from_the_device(tmp_path: Path, non_finite: str) -> None:
    """As on a GPU, with the fused optimizer that the shipped configs have."""
    from torch.utils._python_dispatch import TorchDispatchMode

    reads: list[str] = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                reads.append(str(func))
            return func(*args, **(kwargs or {}))

    shell = DetectionModel("efficientdet_lite0", 2, image_size=64, fpn_cells=1, head_repeats=1, max_level=6)
    optimizer = torch.optim.AdamW(shell.parameters(), lr=1e-3, fused=True)
    wrapper = EffOptimWrapper(optimizer, clip_grad={"max_norm": 10.0})
    wrapper.initialize_count_status(shell, 0, 100)
    runner = fake_runner(tmp_path, wrapper, f"guard_spy_{non_finite}")
    runner.model = runner.shell = shell
    hooks = [GuardHook(non_finite), RuntimeInfoHook(50), EMAHook()]
    for hook in (hooks[0], hooks[2]):
        hook.before_train(runner)
    hooks[0]._every, wrapper.guard.may_read = 50, False  # type: ignore[union-attr]
    hooks[0].before_train_epoch(runner)
    batch = {
        "inputs": torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        "boxes": torch.tensor([[[4.0, 4.0, 40.0, 40.0]], [[0.0, 0.0, 0.0, 0.0]]]),
        "labels": torch.tensor([[1], [-1]]),
        "valid": torch.tensor([[True], [False]]),
    }
    with Spy():
        for i in range(3):
            runner.iter = i
            for hook in hooks:
                hook.before_train_iter(runner, i, batch)
            outputs = shell.train_step(batch, wrapper)
            for hook in hooks:
                hook.after_train_iter(runner, i, batch, outputs)
    assert reads == [] and wrapper.updates == 3


# -- whole runs --------------------------------------------------------------------------------------------------------

# As a bug in a user's own hook would do it: one weight is not finite in iteration BAD and COUNT - 1 more.
POISON = """
import torch as _torch
from mmengine.hooks import Hook as _Hook
from effdense.engine.registry import HOOKS as _HOOKS

class _Poison(_Hook):
    priority = "VERY_HIGH"
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if BAD <= runner.iter + 1 < BAD + COUNT:
            runner.shell.network.backbone.conv_stem.weight.data[0, 0, 0, 0] = float("nan")
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if BAD <= runner.iter + 1 < BAD + COUNT:
            runner.shell.network.backbone.conv_stem.weight.data[0, 0, 0, 0] = 0.1

_HOOKS.register_module(name="Poison", module=_Poison, force=True)
custom_hooks = [dict(type="Poison")]
train_cfg["max_epochs"] = 1
train_dataloader["num_workers"] = 0
default_hooks.update(pictures=None, checkpoint=dict(every_iters=1))
"""


def poisoned(bad: int, count: int) -> str:
    return POISON.replace("BAD", str(bad)).replace("COUNT", str(count))


def test_a_run_ends_with_the_batch_written_down(
    tiny_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config("stops", poisoned(4, 1))
    work_dir = tmp_path / "run"
    with pytest.raises(RunError, match=r"loss is nan.*iteration 4 \(epoch 1, batch 4\).*\.jpg.*debug replay") as caught:
        train(config, work_dir=str(work_dir))
    file = work_dir / "non_finite" / "iter_4.pth"
    assert str(file) in str(caught.value) and "iter_3.pth" in str(caught.value)
    assert (work_dir / "last_checkpoint").read_text() == "iter_3.pth"  # the one before, and it is whole
    saved = torch.load(work_dir / "iter_3.pth", weights_only=True)
    assert all(v.isfinite().all() for v in saved["train_state_dict"].values() if v.is_floating_point())
    content = read_evidence(file)
    assert content["iteration"] == 4 and len(content["batch"]["paths"]) == 4
    assert content["batch"]["inputs"].dtype == torch.uint8 and np.isnan(content["values"]["loss"])
    capsys.readouterr()
    assert main(["debug", "replay", str(file)]) == 1
    shown = capsys.readouterr().out
    assert "it happens again" in shown and "first output that is not finite: backbone.conv_stem" in shown
    assert content["batch"]["paths"][0] in shown and "backbone.conv_stem.weight" in shown
    # The weights of the checkpoint before it are sound: with them the batch does no harm.
    assert main(["debug", "replay", str(file), "--checkpoint", str(work_dir / "iter_3.pth")]) == 0
    assert "does not happen again" in capsys.readouterr().out
    assert main(["debug", "replay", str(file), "--config", str(config)]) == 1


def test_a_run_goes_on_without_the_steps(tiny_config: WriteConfig, tmp_path: Path) -> None:
    """Weights, statistics and average stay finite; the log counts. One more in a row would have been too many."""
    more = poisoned(2, 2) + 'default_hooks.update(guard=dict(non_finite="skip", max_skips=2))\n'
    work_dir = train(tiny_config("skips", more), work_dir=str(tmp_path / "run"))
    saved = torch.load(work_dir / "epoch_1.pth", weights_only=True)
    for name in ("state_dict", "train_state_dict"):
        assert all(v.isfinite().all() for v in saved[name].values() if v.is_floating_point())
    assert saved["progress"]["skipped_steps"] == {"total": 2, "in_a_row": 0}
    assert max(line.get("skipped_steps", 0) for line in read_log(work_dir)) == 2
    with pytest.raises(RunError, match=r"2 steps in a row \(max_skips=1\)"):
        train(tiny_config("too_many", more.replace("max_skips=2", "max_skips=1")), work_dir=str(tmp_path / "other"))


def test_a_replay_draws_the_same_numbers(
    tiny_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses of a healthy batch come out to the last bit, stochastic depth and jitter included. LR 0 keeps weights."""
    more = 'train_cfg["max_epochs"] = 1\nmodel.update(photometric=dict(), multi_scale=dict(low=0.5, high=2.0))\n'
    config = tiny_config("same", more + "optim_wrapper = dict(optimizer=dict(lr=0.0))\n")
    written: list[Any] = []

    def look(self: GuardHook, runner: Any) -> None:
        seen = self._seen.popleft()
        values = {name: float(value) for name, value in seen.outputs.items()}
        written.append(evidence.write_evidence(runner, seen, dict(seen.batch or {}), values))
        if seen.number == 3:
            raise RunError("enough")

    monkeypatch.setattr(GuardHook, "look", look)
    with pytest.raises(RunError, match="enough"):
        train(config, work_dir=str(tmp_path / "run"))
    content = read_evidence(written[-1])
    model = dict(content["model"])
    for _ in range(2):
        again = evidence.replay(content, _built(model), "cpu")
        assert again.losses == content["values"] and not again.reproduced and again.first_module is None
    torch.manual_seed(1)
    content["random"]["torch"] = torch.get_rng_state()
    assert evidence.replay(content, _built(model), "cpu").losses != content["values"]
    assert main(["debug", "replay", str(written[-1])]) == 0
    assert "does not happen again" in capsys.readouterr().out


def _built(model: dict[str, Any]) -> DetectionModel:
    return DetectionModel(**{key: value for key, value in model.items() if key != "type"})


def test_a_file_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="not written by GuardHook"):
        read_evidence(tmp_path / "a.pth")
    torch.save({"format": evidence.FORMAT, "meta": {}, "seed": 0}, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"part\.pth is incomplete: it has no model, .*batch, .*state_dict"):
        read_evidence(tmp_path / "part.pth")
    assert main(["debug", "replay", str(tmp_path / "absent.pth")]) == 2
    assert "no weight file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_two_processes(tiny_config: WriteConfig, tmp_path: Path, non_finite: str) -> None:
    """Only process 1 meets it: that one says so, both end; or both leave the same step out and stay alike."""
    more = poisoned(2, 1).replace("if 2 <=", "if runner.rank == 1 and 2 <=")
    more += f'default_hooks.update(guard=dict(non_finite="{non_finite}", interval=3))\n'
    result = ranks(tiny_config("pair", more), tmp_path / "run")
    said = result.stdout + result.stderr
    if non_finite == "skip":
        finished(result)
        saved = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=True)
        assert saved["progress"]["skipped_steps"]["total"] == 1
        assert all(v.isfinite().all() for v in saved["train_state_dict"].values() if v.is_floating_point())
        return
    assert result.returncode != 0
    assert "iteration 2 (epoch 1, batch 2) of process 1" in said, said[-6000:]
    assert [path.name for path in (tmp_path / "run" / "non_finite").iterdir()] == ["iter_2_rank1.pth"]
