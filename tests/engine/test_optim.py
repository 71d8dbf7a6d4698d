"""The optimizer wrapper against plain torch, the schedules against automl's formula and torch's PolynomialLR."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from effdense.engine.config import load_config
from effdense.engine.models import DetectionModel, SegmentationModel
from effdense.engine.optim import EffOptimWrapper, automatic_dtype
from effdense.engine.parameter_groups import QuietOptimWrapperConstructor
from effdense.engine.schedules import WarmupCosineLR, WarmupPolyLR
from effdense.errors import ConfigError
from tests.engine.conftest import ROOT


class Toy(nn.Module):
    """A line and no BatchNorm, so that a batch of 8 is the mean of two batches of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def problem() -> tuple[Toy, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = Toy()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model, torch.randn(8, 5, generator=generator), torch.randn(8, 2, generator=generator)


def train(model: nn.Module, wrapper: EffOptimWrapper, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """As mmengine's train_step does it."""
    losses = []
    for x, y in batches:
        with wrapper.optim_context(model):
            loss = (model(x) - y).square().mean()
        wrapper.update_params(loss)
        losses.append(loss.item())
    return losses


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


# -- wrapper -----------------------------------------------------------------------------------------------------------


def test_float32_is_plain_torch_to_the_bit(problem: Any) -> None:
    model, x, y = problem
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        (plain(x) - y).square().mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
    wrapper = EffOptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01), clip_grad={"max_norm": 0.5}
    )
    train(model, wrapper, [(x, y)] * 5)
    assert same(model, plain) and wrapper.updates == 5


def test_accumulation_is_the_bigger_batch(problem: Any) -> None:
    model, x, y = problem
    big = copy.deepcopy(model)
    train(big, EffOptimWrapper(torch.optim.SGD(big.parameters(), lr=0.1)), [(x, y)] * 3)
    wrapper = EffOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 6)
    train(model, wrapper, [(x[:4], y[:4]), (x[4:], y[4:])] * 3)
    assert wrapper.updates == 3
    for p, q in zip(model.parameters(), big.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-7)


def test_accumulation_ends_with_the_epoch(problem: Any) -> None:
    """Three iterations an epoch, two by two: steps after 2, 3, 5 and 6, the odd one at its full weight. A window over
    the end would lose what it had gathered when a run is resumed there.
    """
    model, x, y = problem
    wrapper = EffOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    wrapper.epoch_length = 3
    wrapper.initialize_count_status(model, 0, 6)
    steps, weights = [], []
    for iteration in range(1, 7):
        expected = wrapper.should_sync()
        weights.append(float(wrapper.scale_loss(torch.tensor(1.0))))
        train(model, wrapper, [(x, y)])
        assert wrapper.should_update() == expected
        if expected:
            steps.append(iteration)
    assert steps == [2, 3, 5, 6] and wrapper.updates == 4
    assert weights == [0.5, 0.5, 1.0, 0.5, 0.5, 1.0]


def test_a_window_longer_than_the_epoch_is_the_epoch(problem: Any) -> None:
    model, x, y = problem
    wrapper = EffOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=9)
    wrapper.epoch_length = 3
    wrapper.initialize_count_status(model, 3, 6)
    assert float(wrapper.scale_loss(torch.tensor(3.0))) == 1.0
    train(model, wrapper, [(x, y)] * 3)
    assert wrapper.updates == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto"])
def test_mixed_precision_trains_on_any_device(problem: Any, dtype: str) -> None:
    model, x, y = problem
    wrapper = EffOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.2), dtype=dtype, clip_grad={"max_norm": 10.0})
    with wrapper.optim_context(model):
        assert model(x).dtype is (torch.float16 if dtype == "float16" else torch.bfloat16)
    losses = train(model, wrapper, [(x, y)] * 60)
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.dtype is torch.float32 and p.isfinite().all() for p in model.parameters())
    assert wrapper.scaler.is_enabled() == (dtype == "float16")


def test_float16_gradients_are_unscaled_before_they_are_clipped(problem: Any) -> None:
    model, x, y = problem
    reference = copy.deepcopy(model)
    (reference(x) - y).square().mean().backward()
    norm = nn.utils.get_total_norm([p.grad for p in reference.parameters() if p.grad is not None])
    wrapper = EffOptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1), dtype="float16", clip_grad={"max_norm": 10.0}
    )
    train(model, wrapper, [(x, y)])
    assert wrapper.scaler.get_scale() > 1000  # without unscaling, the norm would be larger by this factor
    assert wrapper.last_grad_norm is not None and wrapper.last_grad_norm.item() == pytest.approx(norm.item(), rel=1e-2)


def test_clipping_by_hand(problem: Any) -> None:
    """A gradient (3, 4) has norm 5; clipped to 1 it is (.6, .8), and one SGD step of .5 subtracts half of that."""
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    wrapper = EffOptimWrapper(torch.optim.SGD([weight], lr=0.5), clip_grad={"type": "norm", "max_norm": 1.0})
    wrapper.update_params((weight * torch.tensor([3.0, 4.0])).sum())
    torch.testing.assert_close(weight.detach(), torch.tensor([0.7, 0.6]))
    assert wrapper.last_grad_norm is not None and wrapper.last_grad_norm.item() == pytest.approx(5.0)

    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    arguments = {"type": "value", "clip_value": 0.5}
    wrapper = EffOptimWrapper(torch.optim.SGD([weight], lr=1.0), clip_grad=arguments)
    wrapper.update_params((weight * torch.tensor([3.0, 0.25])).sum())
    assert weight.tolist() == [0.5, 0.75] and wrapper.last_grad_norm is None
    assert arguments == {"type": "value", "clip_value": 0.5}  # the config is not eaten


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="'half'"):
        EffOptimWrapper(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), dtype="half")
    assert automatic_dtype() in ("bfloat16", "float16")


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_state_goes_on_where_it_stopped(problem: Any, dtype: str | None) -> None:
    model, x, y = problem

    def wrap(network: nn.Module) -> EffOptimWrapper:
        return EffOptimWrapper(torch.optim.AdamW(network.parameters(), lr=0.01), dtype=dtype)

    wrapper = wrap(model)
    train(model, wrapper, [(x, y)] * 3)
    resumed = copy.deepcopy(model)
    other = wrap(resumed)
    other.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    assert other.updates == 3 and other.scaler.get_scale() == wrapper.scaler.get_scale()
    train(model, wrapper, [(x, y)] * 3)
    train(resumed, other, [(x, y)] * 3)
    assert same(model, resumed)


# -- which tensors decay -----------------------------------------------------------------------------------------------


def test_norms_biases_and_fusion_weights_do_not_decay(caplog: pytest.LogCaptureFixture) -> None:
    shell: BaseModel = DetectionModel(
        "efficientdet_d0", 3, image_size=64, fpn_cells=1, head_repeats=1, channels_last=False
    )
    constructor = QuietOptimWrapperConstructor(
        {"type": "EffOptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05}},
        paramwise_cfg={"flat_decay_mult": 0.0},
    )
    with caplog.at_level(logging.INFO), DefaultScope.overwrite_default_scope("effdense"):
        wrapper = constructor(shell)
    assert caplog.records == []
    groups = wrapper.optimizer.param_groups
    assert len(groups) == 2  # as few as there are settings, for fused and foreach steps
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = dict(shell.network.named_parameters())
    assert len(decay) == len(named)
    for name, parameter in named.items():
        flat = parameter.ndim == 1
        assert decay[id(parameter)] == (0.0 if flat else 0.05), name
        if "bn" in name or name.endswith((".bias", "edge_weights")):
            assert flat, name
    assert sum("edge_weights" in name for name in named) == 8  # D0, one cell of eight nodes


# -- schedule ----------------------------------------------------------------------------------------------------------


def schedule(total: int, *, lr: float = 0.08, **options: Any) -> WarmupCosineLR:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)
    return WarmupCosineLR(optimizer, end=total, by_epoch=False, **options)


def lr_of(scheduler: WarmupCosineLR) -> float:
    return scheduler.optimizer.param_groups[0]["lr"]


def automl_lr(step: int, total: int, warmup: int, base: float = 0.08, first: float = 0.008) -> float:
    """automl efficientdet/tf2/train_lib.py CosineLrSchedule: the cosine starts at step 0, under the warm-up."""
    if step < warmup:
        return first + step / warmup * (base - first)
    return 0.5 * base * (1 + math.cos(math.pi * step / total))


def test_values_by_hand() -> None:
    """100 steps, 10 of warm-up, base .08 from .008."""
    scheduler = schedule(100, warmup=10, warmup_factor=0.1)
    seen = []
    for _ in range(100):
        seen.append(lr_of(scheduler))
        scheduler.optimizer.step()
        scheduler.step()
    assert seen[0] == pytest.approx(0.008) and seen[5] == pytest.approx(0.044)
    assert seen[10] == pytest.approx(0.04 * (1 + math.cos(0.1 * math.pi))) == pytest.approx(0.0780423)
    assert seen[50] == pytest.approx(0.04) and seen[75] == pytest.approx(0.0117157, abs=1e-7)
    assert seen == pytest.approx([automl_lr(step, 100, 10) for step in range(100)])
    assert lr_of(scheduler) == pytest.approx(0.0)  # and past the end it stays there
    scheduler.step()
    assert lr_of(scheduler) == pytest.approx(0.0)


def test_it_ends_at_the_final_factor() -> None:
    scheduler = schedule(4, warmup=0, final_factor=0.25)
    seen = [lr_of(scheduler)]
    for _ in range(4):
        scheduler.optimizer.step()
        scheduler.step()
        seen.append(lr_of(scheduler))
    assert seen[0] == pytest.approx(0.08) and seen[2] == pytest.approx(0.05) and seen[4] == pytest.approx(0.02)


def test_epochs_become_iterations() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    by_iteration = WarmupCosineLR.build_iter_from_epoch(
        optimizer, end=30, warmup=0.5, warmup_factor=0.05, epoch_length=40
    )
    assert (by_iteration.total, by_iteration.warmup, by_iteration.by_epoch) == (1200, 20, False)
    assert lr_of(by_iteration) == pytest.approx(0.005)


def test_every_group_keeps_its_own_base() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.01)]
    scheduler = WarmupCosineLR(torch.optim.SGD(groups), end=10, warmup=0, by_epoch=False)
    for _ in range(5):
        scheduler.optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in scheduler.optimizer.param_groups] == pytest.approx([0.05, 0.005])


@pytest.mark.parametrize("total", [20, 40])
def test_resume_restores_the_position_and_a_longer_run_extends_the_cosine(total: int) -> None:
    """mmengine's own schedulers restore the old length too and stay at the last LR for ever."""
    first = schedule(20, warmup=4)
    for _ in range(12):
        first.optimizer.step()
        first.step()
    resumed = schedule(total, warmup=4)
    resumed.load_state_dict(first.state_dict())
    for step in range(12, total):
        assert lr_of(resumed) == pytest.approx(automl_lr(step, total, 4)), step
        resumed.optimizer.step()
        resumed.step()


def poly(total: int, *, lr: float = 0.01, **options: Any) -> WarmupPolyLR:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)
    return WarmupPolyLR(optimizer, end=total, by_epoch=False, **options)


def run_through(scheduler: Any, steps: int) -> list[float]:
    """The LR of each of the next steps."""
    seen = []
    for _ in range(steps):
        seen.append(lr_of(scheduler))
        scheduler.optimizer.step()
        scheduler.step()
    return seen


def test_polynomial_values_by_hand() -> None:
    """100 steps, 10 of warm-up from a tenth of .01, power .9 to a hundredth."""
    scheduler = poly(100, warmup=10, warmup_factor=0.1, final_factor=0.01)
    seen = run_through(scheduler, 100)
    assert seen[0] == pytest.approx(0.001) and seen[5] == pytest.approx(0.0055)
    assert seen[10] == pytest.approx(1e-4 + 9.9e-3 * 0.9**0.9)
    assert seen[50] == pytest.approx(1e-4 + 9.9e-3 * 0.5358867, abs=1e-8)
    assert run_through(scheduler, 3) == pytest.approx([1e-4] * 3)  # and past the end it stays there
    assert run_through(poly(4, warmup=0, power=1.0), 5) == pytest.approx([0.01, 0.0075, 0.005, 0.0025, 0.0])


@pytest.mark.parametrize("power", [0.5, 0.9, 2.0])
def test_polynomial_is_torchs(power: float) -> None:
    theirs = torch.optim.lr_scheduler.PolynomialLR(
        torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.01), total_iters=50, power=power
    )
    assert run_through(poly(50, warmup=0, power=power), 60) == pytest.approx(
        [_torch_step(theirs) for _ in range(60)], abs=1e-9
    )


def _torch_step(scheduler: Any) -> float:
    rate = scheduler.get_last_lr()[0]
    scheduler.optimizer.step()
    scheduler.step()
    return rate


@pytest.mark.parametrize("total", [20, 40])
def test_a_polynomial_resumes_where_it_was(total: int) -> None:
    straight = run_through(poly(total, warmup=4), total)
    first = poly(20, warmup=4)
    run_through(first, 12)
    resumed = poly(total, warmup=4)
    resumed.load_state_dict(first.state_dict())
    assert run_through(resumed, total - 12) == pytest.approx(straight[12:])


def test_polynomial_epochs_become_iterations() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    by_iteration = WarmupPolyLR.build_iter_from_epoch(optimizer, end=30, warmup=0.5, power=2.0, epoch_length=40)
    assert isinstance(by_iteration, WarmupPolyLR) and by_iteration.power == 2.0
    assert (by_iteration.total, by_iteration.warmup, by_iteration.by_epoch) == (1200, 20, False)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (schedule, {"total": 0}, "WarmupCosineLR .* end=0"),
        (schedule, {"total": 10, "warmup": -1}, "warmup=-1"),
        (schedule, {"total": 10, "final_factor": 1.5}, "WarmupCosineLR: .* shares .* 1.5"),
        (poly, {"total": 0}, "WarmupPolyLR .* end=0"),
        (poly, {"total": 10, "power": 0}, "power > 0 .* got 0"),
        (poly, {"total": 10, "warmup_factor": -0.1}, "WarmupPolyLR: .* -0.1"),
    ],
)
def test_a_schedule_that_goes_nowhere(build: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**options)


@pytest.mark.parametrize("name", ["sgd_poly", "adamw_poly"])
def test_the_shipped_polynomial_schedules(name: str, tmp_path: Any) -> None:
    """They pass the check under a model, name a schedule that can be built, and misspelt options are found."""
    base = ROOT / "configs" / "_base_"
    text = f"_base_ = [{str(base / 'default_runtime.py')!r}, {str(base / 'schedules' / name)!r} + '.py']\n"
    text += "image_size = 64\nmodel = dict(type='SegmentationModel', name='efficientunet_b0')\n"
    (tmp_path / "good.py").write_text(text)
    cfg = load_config(tmp_path / "good.py")
    (options,) = cfg.param_scheduler
    assert options.pop("type") == "WarmupPolyLR" and options.pop("convert_to_iter_based")
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    built = WarmupPolyLR.build_iter_from_epoch(optimizer, end=cfg.train_cfg.max_epochs, epoch_length=10, **options)
    seen = run_through(built, 10 * cfg.train_cfg.max_epochs)
    assert max(seen) == pytest.approx(1.0, abs=0.02) and seen[-1] < 0.02 and seen[0] <= 0.1
    (tmp_path / "bad.py").write_text(text + "param_scheduler = [dict(type='WarmupPolyLR', pover=0.9)]\n")
    with pytest.raises(ConfigError, match="Did you mean 'power'"):
        load_config(tmp_path / "bad.py")


# -- learning rates by depth -------------------------------------------------------------------------------------------


def lr_by_name(shell: BaseModel, paramwise: dict[str, float]) -> dict[str, float]:
    constructor = QuietOptimWrapperConstructor(
        {"type": "EffOptimWrapper", "optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.05}},
        paramwise_cfg=paramwise,
    )
    with DefaultScope.overwrite_default_scope("effdense"):
        wrapper = constructor(shell)
    rates = {id(p): group["lr"] for group in wrapper.optimizer.param_groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in shell.network.named_parameters() if id(p) in rates}


def small_detector(**options: Any) -> DetectionModel:
    return DetectionModel("efficientdet_d0", 2, image_size=64, fpn_cells=1, head_repeats=1, **options)


def test_layer_decay_by_hand() -> None:
    """Seven stages: the last keeps d, the stem d^8, pyramid and heads 1; twice as slow in the encoder on top."""
    rates = lr_by_name(small_detector(), {"layer_decay": 0.5, "encoder_lr_mult": 0.1, "flat_decay_mult": 0.0})
    assert rates["backbone.conv_stem.weight"] == pytest.approx(0.1 * 0.5**8)
    assert rates["backbone.blocks.0.0.conv_dw.weight"] == pytest.approx(0.1 * 0.5**7)
    assert rates["backbone.blocks.6.0.bn3.bias"] == pytest.approx(0.1 * 0.5)
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {1.0}


def test_the_encoder_alone_slower() -> None:
    rates = lr_by_name(small_detector(), {"encoder_lr_mult": 0.25})
    assert {rate for name, rate in rates.items() if name.startswith("backbone.")} == {0.25}
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {1.0}


def test_a_decoder_ten_times_as_fast_as_its_encoder() -> None:
    """SegFormer's and DeepLab's way, for a segmentor; layer_decay on top knows its stages too."""
    shell = SegmentationModel("efficientunet_lite0", 3, image_size=64, decoder_channels=(16, 8, 8, 8, 8))
    rates = lr_by_name(shell, {"encoder_lr_mult": 0.1, "flat_decay_mult": 0.0})
    encoder = {name for name in rates if name.startswith("encoder.")}
    assert {rates[name] for name in encoder} == {0.1} and len(encoder) > 100
    assert {rate for name, rate in rates.items() if name not in encoder} == {1.0}
    assert {name.split(".")[0] for name in rates} == {"encoder", "decoder", "segmentation_head"}
    decayed = lr_by_name(shell, {"encoder_lr_mult": 0.1, "layer_decay": 0.5})
    assert decayed["encoder.conv_stem.weight"] == pytest.approx(0.1 * 0.5**8)
    assert decayed["segmentation_head.0.weight"] == 1.0


def test_frozen_stages_are_not_optimised() -> None:
    shell = small_detector(frozen_stages=2)
    rates = lr_by_name(shell, {"layer_decay": 0.9, "flat_decay_mult": 0.0})
    assert "backbone.conv_stem.weight" not in rates and "backbone.blocks.1.0.conv_pw.weight" not in rates
    assert rates["backbone.blocks.2.0.conv_pw.weight"] == pytest.approx(0.9**5)


@pytest.mark.parametrize("bad", [{"layer_decay": 0.0}, {"layer_decay": 1.5}, {"encoder_lr_mult": 0.0}])
def test_rates_that_train_nothing_or_explode(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        lr_by_name(small_detector(), bad)
