"""The largest model under a budget, and the constants of compound scaling: by hand, by brute force, in bad cases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import effdense
from effdense.errors import ConfigError
from effdense.models import search
from effdense.models.costs import model_cost
from effdense.models.scaling_search import (
    PUBLISHED,
    constraint_grid,
    constraint_product,
    measure_candidates,
    neighbours,
)
from effdense.models.search import Budget, Timing, fit, parse_amount, time_model


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("10M", 1, 1e7),
        ("1.5G", 1, 1.5e9),
        ("5", 1e9, 5e9),
        ("400M", 1e9, 4e8),
        (" 2.5 b ", 1, 2.5e9),
        ("250k", 1, 25e4),
    ],
)
def test_amounts(text: str, unit: float, value: float) -> None:
    assert parse_amount(text, unit) == value


@pytest.mark.parametrize("text", ["", "M", "5x", "-3", "1e9", "5 5", "nan"])
def test_amounts_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a number such as 10M"):
        parse_amount(text)


def test_under_5_gmacs() -> None:
    found = fit("efficientnet", Budget(macs=5e9))
    assert found.best.name == "efficientnet_b4"
    with torch.device("meta"):
        assert model_cost(effdense.create_classifier(found.best.name)).macs <= 5e9
    assert next(one.name for one in found.measured if not one.fits) == "efficientnet_b5"
    assert all(one.latency_ms is None for one in found.measured)


def test_the_best_is_that_of_brute_force() -> None:
    budget = Budget(macs=4e9, params=9e6)
    names = effdense.list_models("efficientnet_lite?")
    costs = [model_cost(name, 320) for name in names]
    fitting = [cost for cost in costs if cost.total_macs <= 4e9 and cost.total_params <= 9e6]
    found = fit("efficientnet_lite", budget, image_size=320)
    assert found.best.cost == max(fitting, key=lambda cost: cost.total_macs)
    assert len(found.measured) == len(names) and {one.cost.image_size for one in found.measured} == {(320, 320)}


def test_any_phi_uses_more_of_the_budget() -> None:
    reported = []
    found = fit("efficientnet", Budget(macs=1.5e9), any_phi=True, report=reported.append)
    assert found.best.name.startswith("efficientnet_phi") and found.best.cost.total_macs <= 1.5e9
    assert found.best.cost.total_macs > fit("efficientnet", Budget(macs=1.5e9)).best.cost.total_macs
    assert tuple(reported) == found.measured and len({one.name for one in reported}) == len(reported)
    with torch.device("meta"):
        assert effdense.create_encoder(found.best.name).name == found.best.name


def test_any_phi_goes_below_the_smallest_published_model() -> None:
    found = fit("efficientdet_lite", Budget(macs=0.6e9), any_phi=True)
    assert found.best.name.startswith("efficientdet_lite_phi-") and found.best.cost.macs <= 0.6e9


def test_latency_goes_upwards_and_stops_over_twice_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 20.0, 29.0, 45.0, 61.0, 1000.0])
    monkeypatch.setattr(search, "time_model", lambda *_: next(times))
    monkeypatch.setattr(search, "build_model", lambda *_, **__: None)
    found = fit("efficientnet", Budget(latency_ms=30))
    assert [one.name for one in found.measured] == [f"efficientnet_b{i}" for i in range(5)]
    assert [one.fits for one in found.measured] == [True, True, True, False, False]
    assert found.best.name == "efficientnet_b2" and found.best.latency_ms == 29.0


def test_what_breaks_another_limit_is_not_timed() -> None:
    found = fit("efficientnet_lite", Budget(params=5e6, latency_ms=1e6), image_size=64, timing=Timing("cpu", threads=1))
    assert found.best.name == "efficientnet_lite0" and (found.best.latency_ms or 0) > 0
    assert [one.latency_ms is None for one in found.measured] == [False, True, True, True, True]


def test_time_is_measured_and_threads_are_given_back() -> None:
    calls = []

    class Counting(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            assert torch.is_inference_mode_enabled() and not self.training
            calls.append((tuple(input.shape), torch.get_num_threads()))
            return super().forward(input)

    before = torch.get_num_threads()
    milliseconds = time_model(Counting(3, 4, 3), (16, 24), Timing("cpu", batch=2, threads=1))
    assert 0 < milliseconds < 1e4 and torch.get_num_threads() == before
    assert 8 <= len(calls) <= 53 and set(calls) == {((2, 3, 16, 24), 1)}


def test_a_budget_that_nothing_keeps_names_the_smallest() -> None:
    with pytest.raises(ConfigError, match=r"efficientnet_lite0 with 0\.385 GMACs, 4\.65M parameters is the smallest"):
        fit("efficientnet_lite", Budget(macs=1e6))
    with pytest.raises(ConfigError, match=r"efficientnet_lite_phi-6 with .* is the smallest"):
        fit("efficientnet_lite", Budget(params=1e3), any_phi=True)


def test_budgets_that_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match="a budget needs a limit"):
        Budget()
    for limit in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="positive numbers"):
            Budget(macs=limit)
    with pytest.raises(ConfigError, match="no family is called 'resnet'; choose one of efficientnet, "):
        fit("resnet", Budget(macs=1e9))
    with pytest.raises(ConfigError, match="batch must be at least 1, got 0"):
        Timing(batch=0)


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"cannot time on device '{device}' .*give cpu, cuda or cuda:1"):
        Timing(device)


def test_the_published_constants_solve_the_constraint() -> None:
    assert constraint_product(*PUBLISHED) == pytest.approx(1.2 * 1.21 * 1.3225) == pytest.approx(1.92027)
    grid = constraint_grid()
    assert PUBLISHED in grid and len(grid) == len(set(grid))
    assert all(min(point) >= 1 and abs(constraint_product(*point) - 2) <= 0.1 + 1e-9 for point in grid)
    assert (2.1, 1.0, 1.0) in grid and (2.15, 1.0, 1.0) not in grid  # the far corner is on the grid


def test_candidates_are_the_networks_that_are_built() -> None:
    candidates = measure_candidates([PUBLISHED, (1.25, 1.1, 1.15), (2.0, 1.0, 1.0), (1.0, 1.0, 1.4)])
    by_point = {one.coefficients: one for one in candidates}
    published = by_point[PUBLISHED]
    # The same network as efficientnet_phi1: 0.8599 of 0.3858 GMACs, 9.11M of 5.29M parameters.
    assert (published.macs_ratio, published.params_ratio) == (2.2287, 1.7226)
    assert published.macs_ratio == pytest.approx(
        model_cost("efficientnet_phi1").total_macs / model_cost("efficientnet_b0").total_macs, abs=1e-4
    )
    assert by_point[(1.0, 1.0, 1.4)].params_ratio == 1.0  # resolution costs no parameters
    assert [one.score for one in candidates] == sorted((one.score for one in candidates), reverse=True)
    assert neighbours(PUBLISHED, candidates) == [by_point[(1.25, 1.1, 1.15)]]


def test_grids_without_a_point() -> None:
    with pytest.raises(ConfigError, match=r"no point of a grid with step 0\.4"):
        constraint_grid(0.4, 0.01)
    with pytest.raises(ConfigError, match=r"step must lie in 0\.01\.\.0\.5, got 0"):
        constraint_grid(0)
