"""Between two logging intervals the whole engine reads nothing back from the device.

Reads are counted on the CPU, where each goes through the same operators, with the guard as it is on a GPU. A profile
on a GPU is what ``tools/benchmarks/bench_training_gpu.py`` makes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from effdense.engine.hooks import EMAHook, GuardHook, RuntimeInfoHook
from effdense.engine.registry import HOOKS
from effdense.engine.run import train
from tests.engine.conftest import ROOT, WriteConfig

INTERVAL = 4
# What asks the device for a number, or for a shape that depends on one.
READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
}


class Reads(TorchDispatchMode):
    """Counts reads; of ``index`` those with a mask, whose result has as many rows as it has ones."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        masked = func is torch.ops.aten.index.Tensor and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if func in READS or masked:
            self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Finished(BaseException):
    """Ends the run."""


@HOOKS.register_module()
class ReadsHook(Hook):
    """Counts from the end of the first logging interval to the last iteration before the end of the second."""

    priority = "LOWEST"
    last: ReadsHook

    def __init__(self) -> None:
        ReadsHook.last = self
        self.reads, self.updates = Reads(), 0

    def before_train_epoch(self, runner: Any) -> None:
        """As on a GPU, where looking is not free."""
        guard = next(hook for hook in runner.hooks if isinstance(hook, GuardHook))
        assert guard.guard is runner.optim_wrapper.guard
        guard.guard.may_read, guard._every = False, INTERVAL

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if batch_idx + 1 == INTERVAL:
            self.updates = runner.optim_wrapper.updates
            self.reads.__enter__()
        elif batch_idx + 1 == 2 * INTERVAL - 1:
            self.reads.__exit__(None, None, None)
            self.updates = runner.optim_wrapper.updates - self.updates
            kinds = {type(hook) for hook in runner.hooks}
            assert {GuardHook, EMAHook, RuntimeInfoHook} <= kinds
            raise Finished


MORE = f"""
train_dataloader["batch_size"] = 2
train_dataloader["num_workers"] = 0
custom_hooks = [dict(type="ReadsHook")]
optim_wrapper = dict(dtype={{dtype!r}})
default_hooks.update(runtime_info=dict(interval={INTERVAL}), logger=dict(interval={INTERVAL}),
                     guard=dict(interval={INTERVAL}, non_finite={{non_finite!r}}), pictures=None)
"""

SEGMENTATION = """
_base_ = [{runtime!r}, {schedule!r}]
image_size = (64, 64)
model = dict(type="SegmentationModel", name="efficientunet_lite0", decoder_channels=(16, 16, 8, 8, 8), dice_weight=1.0,
             photometric=dict(prob=0.8, hue=10))
_files = dict(type="ShapesSegmentation", splits=dict(train=18, val=2), image_size=(64, 96), max_objects=4)
train_dataloader = dict(dataset=dict(**_files, split="train",
    transforms=[dict(type="ScaleJitterCrop", scale=(0.5, 2.0))]))
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(**_files, split="val",
                      transforms=[dict(type="ResizePad")]))
val_evaluator = dict(type="SegmentationMetric")
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict()
"""


def reads_of(config: Path, work_dir: Path) -> ReadsHook:
    with pytest.raises(Finished):
        train(config, work_dir=str(work_dir))
    hook = ReadsHook.last
    assert hook.updates == INTERVAL - 1 and hook.reads.calls > 1000  # it was there and it saw the steps
    return hook


@pytest.mark.parametrize(("dtype", "non_finite"), [(None, "stop"), ("bfloat16", "skip")])
def test_a_detector(tiny_config: WriteConfig, tmp_path: Path, dtype: Any, non_finite: str) -> None:
    config = tiny_config("reads", MORE.format(dtype=dtype, non_finite=non_finite))
    assert not reads_of(config, tmp_path / "run").reads.seen


def test_a_segmentor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path))
    # Looks for classes that cannot be, where looking is free; on a GPU it returns before.
    monkeypatch.setattr("effdense.models.segmentation.losses._check_masks", lambda *_: None)
    base = ROOT / "configs" / "_base_"
    text = SEGMENTATION.format(
        runtime=str(base / "default_runtime.py"), schedule=str(base / "schedules" / "adamw_short.py")
    )
    config = tmp_path / "reads.py"
    config.write_text(text + MORE.format(dtype="bfloat16", non_finite="stop"))
    assert not reads_of(config, tmp_path / "run").reads.seen


def test_reads_are_seen() -> None:
    """Of each kind that a careless hook would make."""
    value = torch.tensor([1.0, 0.0])
    with Reads() as reads:
        value[0].item()
        bool(value[0] > 0)
        value[value > 0]
        value.nonzero()
    assert reads.seen["aten._local_scalar_dense.default"] == 2
    assert reads.seen["aten.index.Tensor"] == 1 and reads.seen["aten.nonzero.default"] == 1
