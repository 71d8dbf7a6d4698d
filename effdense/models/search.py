"""The largest model of a family under a budget, found by measuring: ``effdense fit``.

In: a family, limits on multiply-adds, parameters, milliseconds. Out: every model that was measured and the largest that
keeps all limits. "Largest" is by multiply-adds. Parameters and multiply-adds are those of the published form (encoders
with their ImageNet head); the latency is that of the network as it is built here, without pre- and post-processing.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from effdense.errors import ConfigError
from effdense.models.costs import ModelCost, build_model, model_cost
from effdense.models.detection.scaling import MIN_PHI
from effdense.models.encoders.scaling import PHI_RANGE
from effdense.models.names import list_models

# family: pattern of its published members
FAMILIES = {
    "efficientnet": r"efficientnet_(b\d|l2)",
    "efficientnet_lite": r"efficientnet_lite\d",
    "efficientnetv2": r"efficientnetv2_\w+",
    "efficientdet": r"efficientdet_d\w+",
    "efficientdet_lite": r"efficientdet_lite\w+",
}
# family: smallest and largest phi of its compound-scaled members
_PHI = {
    "efficientnet": PHI_RANGE,
    "efficientnet_lite": PHI_RANGE,
    "efficientnetv2": PHI_RANGE,
    "efficientdet": (MIN_PHI, 7.0),
    "efficientdet_lite": (MIN_PHI, 4.0),
}
_PHI_STEP = 0.05  # finer steps seldom change a channel or a block
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


@dataclass(frozen=True)
class Budget:
    """Upper limits, each None for unlimited: multiply-adds of one image, parameters, milliseconds of one batch."""

    macs: float | None = None
    params: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        limits = (self.macs, self.params, self.latency_ms)
        if all(limit is None for limit in limits):
            raise ConfigError("a budget needs a limit: --max-gmacs 5, --max-params 10M or --max-latency-ms 30.")
        if any(limit is not None and not limit > 0 for limit in limits):
            given = ", ".join(f"{name} {value:g}" for name, value in vars(self).items() if value is not None)
            raise ConfigError(f"the limits of a budget must be positive numbers, got {given}.")


@dataclass(frozen=True)
class Timing:
    """How latencies are measured: on `device` (default the GPU if there is one), `batch` images at once."""

    device: str | None = None
    batch: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch", self.batch), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")
        try:
            torch.empty(1, device=self.where)
        except (RuntimeError, AssertionError) as error:  # an unknown name, or no such device in this machine or torch
            raise ConfigError(
                f"cannot time on device {self.device!r} ({str(error).splitlines()[0][:120].rstrip('.')}); "
                "give cpu, cuda or cuda:1."
            ) from error

    @property
    def where(self) -> torch.device:
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def __str__(self) -> str:
        if self.where.type == "cuda":
            place = torch.cuda.get_device_name(self.where)
        else:
            place = f"{self.where} (threads: {self.threads or torch.get_num_threads()})"
        return f"{place}, batch {self.batch}, float32"


@dataclass(frozen=True)
class Measured:
    """One model with its figures; `latency_ms` is None where it was not timed."""

    name: str
    cost: ModelCost
    latency_ms: float | None
    fits: bool


@dataclass(frozen=True)
class Fit:
    """All that was measured, in that order, and the largest that keeps the budget."""

    best: Measured
    measured: tuple[Measured, ...]


def parse_amount(text: str, unit: float = 1.0) -> float:
    """A number with or without k, M, G or B behind it.

    >>> parse_amount("10M"), parse_amount("1.5G"), parse_amount("5", unit=1e9), parse_amount("400M", unit=1e9)
    (10000000.0, 1500000000.0, 5000000000.0, 400000000.0)

    Raises: ConfigError for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kKmMgGbB]?)", text.strip())
    if match is None:
        raise ConfigError(f"expected a number such as 10M, 1.5G or 250k, got {text!r}.")
    suffix = match[2].lower()
    return float(match[1]) * (_UNITS[suffix] if suffix else unit)


def fit(
    family: str,
    budget: Budget,
    *,
    image_size: int | None = None,
    any_phi: bool = False,
    timing: Timing | None = None,
    report: Callable[[Measured], None] = lambda measured: None,
) -> Fit:
    """Find the largest member of a family under a budget.

    Args:
        family: one of `FAMILIES`.
        image_size: px of a square input, the same for all; default each model's own evaluation size.
        any_phi: search compound-scaled members (``efficientnet_phi1.85``) for the last bit of the budget, instead of
            the published ones.
        timing: where and how to time; used only where the budget has a latency.
        report: called with each measurement as it is made.

    Published members are tried from the smallest on; with a latency in the budget, the search ends once a model takes
    more than twice of it.

    Raises: ConfigError for an unknown family, and where not even the smallest member fits (with its figures).
    """
    family, timing = known_family(family), timing or Timing()
    measured: list[Measured] = []

    def measure(name: str) -> Measured:
        done = next((one for one in measured if one.name == name), None)
        if done is None:
            done = _measure(name, budget, image_size, timing)
            measured.append(done)
            report(done)
        return done

    if any_phi:
        _bisect(family, measure)
    else:
        for cost in _members(family, image_size):
            one = measure(cost.name)
            if budget.latency_ms is not None and (one.latency_ms or 0.0) > 2 * budget.latency_ms:
                break
    fitting = [one for one in measured if one.fits]
    if not fitting:
        smallest = min(measured, key=lambda one: one.cost.total_macs)
        raise ConfigError(f"no {family} keeps the budget: {_figures(smallest)} is the smallest. Raise the limits.")
    return Fit(max(fitting, key=lambda one: (one.cost.total_macs, one.cost.total_params)), tuple(measured))


def known_family(family: str) -> str:
    """`family` itself. Raises: ConfigError where there is none of this name."""
    if family not in FAMILIES:
        raise ConfigError(f"no family is called {family!r}; choose one of {', '.join(FAMILIES)}.")
    return family


def _members(family: str, image_size: int | None) -> Iterator[ModelCost]:
    """Published members from the smallest on."""
    names = [name for name in list_models() if re.fullmatch(FAMILIES[family], name)]
    return iter(sorted((model_cost(name, image_size) for name in names), key=lambda cost: cost.total_macs))


def _bisect(family: str, measure: Callable[[str], Measured]) -> None:
    """Walk from phi 0 in whole steps to where the budget is crossed, then halve that interval."""
    low, high = _PHI[family]

    def fits(phi: float) -> bool:
        return measure(f"{family}_phi{round(phi, 2) + 0.0:g}").fits

    phi = 0.0
    if fits(phi):
        while phi < high and fits(min(phi + 1, high)):
            phi = min(phi + 1, high)
        below, above = phi, min(phi + 1, high)
    else:
        while phi > low and not fits(max(phi - 1, low)):
            phi = max(phi - 1, low)
        below, above = max(phi - 1, low), phi
    while above - below > _PHI_STEP * 1.5:
        middle = round((below + above) / 2 / _PHI_STEP) * _PHI_STEP
        below, above = (middle, above) if fits(middle) else (below, middle)


def _measure(name: str, budget: Budget, image_size: int | None, timing: Timing) -> Measured:
    """Count, and time what keeps the other limits."""
    cost = model_cost(name, image_size)
    fits = (budget.macs is None or cost.total_macs <= budget.macs) and (
        budget.params is None or cost.total_params <= budget.params
    )
    latency = None
    if fits and budget.latency_ms is not None:
        latency = time_model(build_model(name, device=timing.where), cost.image_size, timing)
        fits = latency <= budget.latency_ms
    return Measured(name, cost, latency, fits)


def time_model(network: nn.Module, size: tuple[int, int], timing: Timing) -> float:
    """Median milliseconds of one pass over a batch of RGB images; infinite where the device's memory runs out.

    Three passes warm up; then at least 5 are timed and at most 50, for about a second. The network ends up on the
    device, in channels-last layout, as for prediction.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(timing.threads or threads)
    try:
        network = network.to(timing.where, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        images = torch.randn(timing.batch, 3, *size, device=timing.where).to(memory_format=torch.channels_last)
        return statistics.median(_times(network, images))
    except torch.OutOfMemoryError:
        return float("inf")
    finally:
        torch.set_num_threads(threads)


def _times(network: nn.Module, images: torch.Tensor) -> list[float]:
    def once() -> float:
        start = time.perf_counter()
        network(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return (time.perf_counter() - start) * 1e3

    with torch.inference_mode():
        for _ in range(3):
            once()
        times: list[float] = []
        while len(times) < 5 or (len(times) < 50 and sum(times) < 1e3):
            times.append(once())
    return times


def _figures(one: Measured) -> str:
    latency = "" if one.latency_ms is None else f", {one.latency_ms:.1f} ms"
    return (
        f"{one.name} with {one.cost.total_macs / 1e9:.3g} GMACs, {one.cost.total_params / 1e6:.3g}M parameters{latency}"
    )
