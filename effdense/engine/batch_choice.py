"""Which batch to train with, from a few measured ones: pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from effdense.errors import RunError

_GROWTH = 8  # a batch is tried at most so many times larger than one that fitted
_ROUNDS = 8


@dataclass(frozen=True)
class Probe:
    """A training step that was tried.

    Attributes: batch: images a process. peak: bytes, 0 where it did not come to an end. seconds: of the step.
        fits: whether it stayed within the limit, in every process.
    """

    batch: int
    peak: int
    seconds: float
    fits: bool


class Plan(NamedTuple):
    """Images a process and batches a step; whether that makes the batch that the LR is for."""

    batch: int
    accumulation: int
    exact: bool


def plan_batch(most: int, *, highest: int, processes: int, nominal: int | None, accumulation: int | None) -> Plan:
    """The batch to train with where ``most`` images fit.

    Args:
        highest: images of the training set that a process has.
        nominal: images an optimizer step that the config's LR is for, None where it does not say.
        accumulation: what the config says, None where it is free.

    With a nominal batch: never more than that, and one that divides it where that is at least half of what fits.
    Without: 1, 2, 4 or a multiple of 8.
    """
    most = max(1, min(most, highest))
    if nominal is None:
        if most < highest:
            most = most // 8 * 8 if most >= 8 else 1 << (most.bit_length() - 1)
        return Plan(most, accumulation or 1, True)
    if accumulation is not None:
        batch = min(most, max(1, nominal // (processes * accumulation)))
        return Plan(batch, accumulation, batch * processes * accumulation == nominal)
    share = max(1, round(nominal / processes))
    most = min(most, share)
    divisor = next(d for d in range(most, 0, -1) if share % d == 0)
    steps = share // divisor if 2 * divisor >= most else -(-share // most)
    batch = -(-share // steps)
    return Plan(batch, steps, batch * processes * steps == nominal)


def estimate_most(probes: Mapping[int, Probe], limit: int) -> int:
    """Largest batch that should fit: the line through the two largest measured ones, below any that did not fit."""
    good = max(batch for batch, probe in probes.items() if probe.fits)
    measured = sorted(batch for batch, probe in probes.items() if probe.peak > 0)
    bad = min((batch for batch, probe in probes.items() if not probe.fits), default=None)
    if len(measured) > 1:
        a, b = (probes[batch] for batch in measured[-2:])
        slope = max((b.peak - a.peak) / (b.batch - a.batch), 1.0)
        most = max(good, b.batch + int((limit - b.peak) // slope))
    else:
        most = good if bad is not None else good * _GROWTH
    if bad is None:
        return most
    # Without a peak there is no line to it: half of what was too much.
    return max(good, min(most, bad - 1 if probes[bad].peak else bad // 2))


def find_batch(
    measure: Callable[[int], Probe], limit: int, highest: int, choose: Callable[[int], int]
) -> tuple[int, int, dict[int, Probe]]:
    """Measure a few batches until the one that ``choose`` makes of what fits has been seen to fit.

    Args:
        measure: tries a batch. limit: bytes. highest: no larger batch is of use.
        choose: from the number that fits to the batch wanted, at most that.

    Returns: the batch wanted, how many fit as far as that is known, and all that was tried, by batch.
    Raises: RunError where not even one image fits.
    """
    probes: dict[int, Probe] = {}
    for batch in dict.fromkeys((min(2, highest), min(4, highest))):
        probes[batch] = measure(batch)
        if not probes[batch].fits:
            break
    if not any(probe.fits for probe in probes.values()):
        if 1 not in probes:
            probes[1] = measure(1)
        if not probes[1].fits:
            raise RunError(
                "train_dataloader.batch_size: not even one image fits into the memory allowed. Lower image_size, train "
                "with --amp, or allow more (train_dataloader.batch_size=0.95)."
            )
    for _ in range(_ROUNDS):
        good = max(batch for batch, probe in probes.items() if probe.fits)
        choice = choose(min(estimate_most(probes, limit), highest, good * _GROWTH))
        if choice <= good * 1.02:  # what fits fits with fewer images, too
            break
        probes[choice] = measure(choice)
    good = max(batch for batch, probe in probes.items() if probe.fits)
    most = estimate_most(probes, limit)
    wanted = choose(min(most, highest))
    return wanted if wanted <= good else choose(good), most, probes
