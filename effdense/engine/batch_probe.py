"""``train_dataloader.batch_size="auto"``: the largest batch that trains within a share of the memory, tried out.

A model like the run's is built beside it, with its moving average and optimizer, and takes a few steps on made-up
batches. Random streams are put back, so the run is the one that a config with the number found would give.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import Tensor

from effdense.data.transforms.rectangles import ResizeFit
from effdense.engine import checkpoint as files
from effdense.engine.batch_choice import Plan, Probe, find_batch, plan_batch
from effdense.engine.datasets import Split
from effdense.engine.distributed import gather_objects, on_main_then_all, rank_and_world
from effdense.engine.memory_meter import DEFAULT_SHARE, CudaMeter, ProcessMeter, megabytes
from effdense.engine.models.shell import size_hw
from effdense.engine.registry import MODELS, SCOPE, resolve
from effdense.engine.training_step import losses_of
from effdense.errors import EffdenseError

# Starting weights need no reading; compiling would take longer than all probes together.
_NOT_PROBED = ("weights", "encoder_weights", "compile")


def settle_batch(cfg: Any, split: Split, going_on: bool | str) -> list[str]:
    """Put a number in place of ``train_dataloader.batch_size="auto"`` (or a share), and accumulation that goes with it.

    Args:
        cfg: the run's, with ``model.num_classes``; changed in place, as is ``split.loader``. split: of training.
        going_on: what the run is to resume: False, True for the newest checkpoint of its folder, a path. It keeps the
            batch of its checkpoint.

    Returns: what to tell, a line each; none where the config gives a number.
    Raises: RunError where not even one image fits; ConfigError on systems that cannot tell.
    """
    asked = cfg.train_dataloader.get("batch_size")
    if isinstance(asked, int) or asked is None:
        return []
    before = _of_checkpoint(cfg, going_on)
    if before is not None:
        path, batch, accumulation = before
        _write(cfg, split, batch, accumulation)
        return [f"batch size: {batch}, as {path} was trained with"]
    said: int | None = cfg.optim_wrapper.get("accumulative_counts")
    nominal: int | None = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    processes = rank_and_world()[1]
    highest = max(1, len(split.records) // processes)

    def plan(most: int) -> Plan:
        return plan_batch(most, highest=highest, processes=processes, nominal=nominal, accumulation=said)

    meter, measure = _measuring(cfg, split, DEFAULT_SHARE if asked == "auto" else float(asked))
    limit = min(gather_objects(meter.limit))
    with _untouched(cfg):
        batch, most, probes = find_batch(
            lambda size: _agreed(size, measure, limit), limit, plan(highest).batch, lambda size: plan(size).batch
        )
    # With this many fitting, the plan gives this batch again.
    chosen = plan(most) if plan(most).batch == batch else plan(batch)
    _write(cfg, split, batch, chosen.accumulation if said is None else said)
    return _told(meter.where, limit, probes, most, chosen, processes, nominal, said, cfg.get("auto_scale_lr") or {})


def _of_checkpoint(cfg: Any, going_on: bool | str) -> tuple[str, int, int] | None:
    """(file, batch, accumulation) of what a run resumes; None where there is nothing."""
    if not going_on:
        return None

    def read() -> tuple[str, int, int] | None:
        path = Path(going_on) if isinstance(going_on, str) else files.find_last(Path(cfg.work_dir))
        if path is None:
            return None
        meta = files.load(path)["meta"]
        return str(path), int(meta["batch_size"]), int(meta["accumulative_counts"])

    return on_main_then_all(read)


def _write(cfg: Any, split: Split, batch: int, accumulation: int) -> None:
    cfg.train_dataloader["batch_size"] = split.loader["batch_size"] = batch
    if accumulation != 1:
        cfg.optim_wrapper.setdefault("accumulative_counts", accumulation)


@contextmanager
def _untouched(cfg: Any) -> Iterator[None]:
    """Leave random streams and cuDNN's settings as they were."""
    streams, benchmark = files.rng_state(), torch.backends.cudnn.benchmark
    if not torch.are_deterministic_algorithms_enabled():
        torch.backends.cudnn.benchmark = bool((cfg.get("env_cfg") or {}).get("cudnn_benchmark"))
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        files.set_rng_state(streams)


def _measuring(cfg: Any, split: Split, share: float) -> tuple[Any, Callable[[int], tuple[int, float]]]:
    """A meter, and a function that trains one batch of a size: (peak bytes, seconds); peak 0: out of memory."""
    cuda = torch.cuda.is_available()
    meter: Any = CudaMeter(share) if cuda else ProcessMeter(share)
    made: list[_Trainer] = []

    def measure(size: int) -> tuple[int, float]:
        meter.start()
        try:
            if not made:
                made.append(_Trainer(cfg, split, torch.device("cuda", torch.cuda.current_device()) if cuda else None))
            seconds = made[0].step(size)
            return meter.peak(), seconds
        except torch.OutOfMemoryError:
            made.clear()
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # of a CPU
                raise
            made.clear()
        except ValueError as error:
            if size > 1 or "more than 1 value per channel" not in str(error):  # BatchNorm at a 1x1 level
                raise
        meter.start()  # the error held what the step had made
        return 0, 0.0

    return meter, measure


def _agreed(size: int, measure: Callable[[int], tuple[int, float]], limit: int) -> Probe:
    """A probe of all processes: it fits where it fits in each of them."""
    try:
        mine: tuple[int, float] | str = measure(size)
    except Exception as error:
        gather_objects(f"{type(error).__name__}: {error}")  # the others are waiting
        raise
    of_all = gather_objects(mine)
    for rank, one in enumerate(of_all):
        if isinstance(one, str):
            raise EffdenseError(f"process {rank} failed in a step of {size} images: {one}")
    done = all(peak > 0 for peak, _ in of_all)
    peak = max(peak for peak, _ in of_all) if done else 0
    return Probe(size, peak, max(seconds for _, seconds in of_all), fits=done and peak <= limit)


class _Trainer:
    """A model like the run's that takes steps with batches of any size."""

    def __init__(self, cfg: Any, split: Split, device: torch.device | None) -> None:
        options = {key: value for key, value in cfg.model.items() if key not in _NOT_PROBED}
        options.setdefault("image_size", cfg.image_size)
        self.shell = resolve(MODELS, options.pop("type"), "model")(**options).to(device or "cpu")
        if (cfg.get("default_hooks") or {}).get("ema"):
            self.shell.start_ema()
        wrapper = {key: value for key, value in cfg.optim_wrapper.items() if key != "accumulative_counts"}
        wrapper = {"type": "EffOptimWrapper", "constructor": "QuietOptimWrapperConstructor", **wrapper}
        with DefaultScope.overwrite_default_scope(SCOPE):
            self.wrapper = build_optim_wrapper(self.shell, wrapper)
        preprocessor = self.shell.data_preprocessor
        self.sample = _largest_sample(cfg, split, preprocessor.multi_scale)
        preprocessor.multi_scale = None
        # The optimizer makes its state in its first step.
        self._zero_gradients()
        self.wrapper.optimizer.step()

    def _zero_gradients(self) -> None:
        """Gradients are there during the pass, as they are when batches are accumulated."""
        for parameter in self.shell.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    def step(self, size: int) -> float:
        """Seconds of a training step; on a GPU of a second one, without what is set up once."""
        self.shell.train()
        batch = _repeated(self.sample, size)
        cuda = next(self.shell.parameters()).is_cuda
        for _ in range(2 if cuda else 1):
            self._zero_gradients()
            start = time.perf_counter()
            with self.wrapper.optim_context(self.shell):
                loss, _, _ = losses_of(self.shell, self.shell, self.shell.data_preprocessor(batch, True))
            self.wrapper.update_params(loss)
            if cuda:
                torch.cuda.synchronize()
        return time.perf_counter() - start


def _largest_sample(cfg: Any, split: Split, multi_scale: Any) -> dict[str, Any]:
    """A collated sample of the training set, as large as one may get, with as many boxes as any image has."""
    sample = dict(split.collate([split.dataset[0]]))
    height, width = sample["inputs"].shape[-2:]
    sizes = [(int(height), int(width))]
    sizes += [size_hw(t.size) for t in split.dataset.transforms if isinstance(t, ResizeFit)]
    progressive = (cfg.get("default_hooks") or {}).get("progressive") or {}
    sizes += [size_hw(size) for size in progressive.get("image_size") or ()]
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    if multi_scale is not None:
        largest = (multi_scale.sizes(largest) or [largest])[-1]
    sample["inputs"] = torch.randint(0, 256, (1, sample["inputs"].shape[1], *largest), dtype=torch.uint8)
    if "masks" in sample:
        sample["masks"] = torch.zeros((1, *largest), dtype=sample["masks"].dtype)
    if "boxes" in sample:
        most = max(1, int(np.diff(split.records.offsets).max()))
        corner = torch.rand(most, 2) * torch.tensor([largest[1], largest[0]]) * 0.75
        sides = torch.tensor([largest[1], largest[0]]) * 0.25
        sample["boxes"] = torch.cat((corner, corner + sides), dim=1)[None]
        sample["labels"] = torch.zeros((1, most), dtype=sample["labels"].dtype)
        sample["valid"] = torch.ones((1, most), dtype=torch.bool)
    return sample


def _repeated(sample: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A batch of ``size`` times the sample."""
    return {
        key: value.expand(size, *value.shape[1:]).contiguous()
        if isinstance(value, Tensor)
        else value * size
        if isinstance(value, list)
        else value
        for key, value in sample.items()
    }


def _told(
    where: str,
    limit: int,
    probes: Mapping[int, Probe],
    most: int,
    chosen: Plan,
    processes: int,
    nominal: int | None,
    said: int | None,
    scaling: Mapping[str, Any],
) -> list[str]:
    """The table of what was tried and what comes of it."""
    lines = [f"batch size: at most {megabytes(limit)} MB ({where})", "   batch        MB  ms/image"]
    for size, probe in sorted(probes.items()):
        peak = f"{megabytes(probe.peak)}" if probe.peak else "none"
        took = f"{1000 * probe.seconds / size:9.1f}" if probe.peak else "        -"
        lines.append(f"{size:8d}{peak:>10} {took}{'' if probe.fits else '  does not fit'}")
    step = chosen.batch * processes * chosen.accumulation
    text = f"batch size: {chosen.batch}, fits up to {'about ' if most not in probes else ''}{most}"
    if nominal is not None:
        text += f"; x {processes} process(es) x {chosen.accumulation} accumulated = {step} an optimizer step"
        own = "" if said is None else "; optim_wrapper.accumulative_counts is the config's own"
        lr = "" if chosen.exact else f", the LR is {'scaled' if scaling.get('enable') else 'not scaled'}"
        text += f" ({'the' if chosen.exact else 'not the'} {nominal} that the LR is for{lr}{own})"
    lines.append(text)
    return lines
