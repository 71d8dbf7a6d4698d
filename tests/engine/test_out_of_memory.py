"""A batch that does not fit is trained in halves: the same gradients where the loss is a sum over a count."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdense.engine.models import ClassificationModel, DetectionModel, SegmentationModel
from effdense.engine.models.parts import parts_of
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.run import train
from effdense.errors import RunError
from tests.engine.conftest import WriteConfig


def frozen_norms(shell: Any) -> Any:
    """BatchNorm and dropout that do not see the batch: what is left is linear in its images."""
    shell.train()
    for module in shell.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
            module.eval()
    return shell


def detection() -> tuple[Any, dict[str, Any]]:
    shell = DetectionModel("efficientdet_lite0", 2, image_size=64, fpn_cells=1, head_repeats=1, max_level=6)
    boxes = torch.tensor([[[4.0, 4.0, 40.0, 40.0]], [[0.0, 0.0, 0.0, 0.0]], [[10.0, 10.0, 30.0, 30.0]]])
    return shell, {"boxes": boxes, "labels": torch.tensor([[1], [-1], [0]]), "valid": boxes[..., 2] > 0}


def segmentation() -> tuple[Any, dict[str, Any]]:
    weights = (1.0, 2.0, 0.5)
    shell = SegmentationModel("efficientunet_lite0", 3, image_size=64, class_weights=weights, drop_path_rate=0.0)
    masks = torch.randint(0, 3, (3, 64, 64), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    masks[0, 20:] = 255
    return shell, {"masks": masks}


def classification() -> tuple[Any, dict[str, Any]]:
    shell = ClassificationModel("efficientnet_lite0", 3, image_size=64, drop_path_rate=0.0)
    return shell, {"labels": torch.tensor([0, 2, 1])}


def gradients(shell: Any, batch: dict[str, Any], parts: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    optimizer = torch.optim.SGD(shell.parameters(), lr=1.0)
    wrapper = EffOptimWrapper(optimizer)
    wrapper.parts = parts
    before = {name: p.detach().clone() for name, p in shell.named_parameters()}
    logged = shell.train_step(batch, wrapper)
    moved = {name: before[name] - p.detach() for name, p in shell.named_parameters()}
    with torch.no_grad():
        for name, p in shell.named_parameters():
            p.copy_(before[name])
    assert wrapper.updates == 1
    return moved, logged


@pytest.mark.parametrize("make", [detection, segmentation, classification])
def test_halves_add_up_to_the_batch(make: Any) -> None:
    """Three images: two and one. Positives, counted pixels and images differ between the halves."""
    torch.manual_seed(0)
    shell, targets = make()
    frozen_norms(shell)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 255, (3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    batch = {"inputs": inputs, **targets}
    whole, whole_logged = gradients(shell, batch, 1)
    halves, logged = gradients(shell, batch, 2)
    assert set(logged) == set(whole_logged)
    for name, value in whole_logged.items():
        assert logged[name].item() == pytest.approx(value.item(), rel=1e-5)
    size = max(float(value.abs().max()) for value in whole.values())
    assert size > 0
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=1e-3, atol=1e-5 * size)


def test_pieces_hold_all_and_nothing_twice() -> None:
    batch = {"inputs": torch.zeros(5, 3, 8, 8), "labels": torch.arange(5), "paths": list("abcde"), "truths": []}
    first, second = parts_of(batch, 2)
    assert first["paths"] == ["a", "b", "c"] and second["labels"].tolist() == [3, 4] and second["truths"] == []


def test_pieces_of_what_is_not_per_image() -> None:
    first, second = parts_of({"inputs": torch.zeros(2, 3), "share": torch.tensor(0.5), "sizes": ((1, 2), (3, 4))}, 2)
    assert first["share"] == second["share"] == 0.5 and second["sizes"] == ((3, 4),)


def out_of(memory: list[int], shell: Any) -> None:
    """The network runs out of memory with batches above ``memory[0]`` images."""

    def look(module: nn.Module, args: Any) -> None:
        if len(args[0]) > memory[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    shell.network.register_forward_pre_hook(look)


def test_a_second_time_is_the_end() -> None:
    shell, targets = classification()
    memory = [2]
    out_of(memory, shell)
    wrapper = EffOptimWrapper(torch.optim.SGD(shell.parameters(), lr=0.1))
    batch = {"inputs": torch.zeros(3, 3, 64, 64, dtype=torch.uint8), **targets}
    shell.train_step(batch, wrapper)
    assert wrapper.parts == 2 and wrapper.updates == 1
    shell.train_step(batch, wrapper)
    memory[0] = 1
    with pytest.raises(RunError, match=r"half a batch does not fit .*batch_size=1 .*accumulative_counts=2.*--amp"):
        shell.train_step(batch, wrapper)


def test_one_image_cannot_be_halved() -> None:
    shell, _ = classification()
    out_of([0], shell)
    wrapper = EffOptimWrapper(torch.optim.SGD(shell.parameters(), lr=0.1))
    with pytest.raises(RunError, match="a batch of 1 does not fit"):
        shell.train_step({"inputs": torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "labels": torch.tensor([0])}, wrapper)


def test_gradients_of_a_broken_backward_pass_are_dropped() -> None:
    """What it had added before it failed must not stay: the step equals that of a run in halves from the start."""

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.images = len(x)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            if ctx.images > 2:
                raise torch.OutOfMemoryError("out of memory")
            return grad

    torch.manual_seed(0)
    shell, targets = classification()
    frozen_norms(shell)
    first = next(module for module in shell.network.modules() if isinstance(module, nn.BatchNorm2d))
    first.register_forward_hook(lambda module, args, output: Fails.apply(output))
    batch = {"inputs": torch.full((3, 3, 64, 64), 7, dtype=torch.uint8), **targets}
    expected, _ = gradients(shell, batch, 2)
    found, _ = gradients(shell, batch, 1)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class Countless(ClassificationModel):
    """A shell of somebody's own: it does not say what its loss is a mean over."""

    def forward(self, *args: Any, mode: str = "loss", **batch: Any) -> Any:
        found = super().forward(*args, mode=mode, **batch)
        return {name: value for name, value in found.items() if name != "count"} if mode == "loss" else found


@pytest.mark.parametrize("kind", [Countless, ClassificationModel])
def test_the_second_batch_of_a_window_does_not_fit(kind: Any) -> None:
    """The first went through whole: the step is that of a window that fits."""
    torch.manual_seed(0)
    shell = frozen_norms(kind("efficientnet_lite0", 3, image_size=32, drop_path_rate=0.0))
    before = copy.deepcopy(shell.state_dict())
    inputs = torch.randint(0, 255, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, memory = torch.tensor([0, 2, 1, 1, 0, 0]), [3]
    out_of(memory, shell)

    def moved(fits_second: int) -> Tensor:
        shell.load_state_dict(before)
        wrapper = EffOptimWrapper(torch.optim.SGD(shell.parameters(), lr=1.0), accumulative_counts=2)
        for start, memory[0] in ((0, 3), (3, fits_second)):
            part = slice(start, start + 3)
            logged = shell.train_step({"inputs": inputs[part], "labels": labels[part]}, wrapper)
        assert wrapper.updates == 1
        weights = [(before[name] - p.detach()).flatten() for name, p in shell.named_parameters()]
        return torch.cat([logged["loss"].detach().reshape(1), *weights])

    whole, found = moved(3), moved(2)
    assert float((found - whole).norm()) < 1e-4 * float(whole.norm())
    assert found[0].item() == pytest.approx(whole[0].item(), rel=1e-5)


def test_a_step_that_does_not_fit_is_not_a_batch_that_does_not() -> None:
    """Its gradients are there already: halves would be added to them."""

    class Hungry(torch.optim.SGD):
        def step(self, *args: Any, **options: Any) -> Any:
            raise torch.OutOfMemoryError("out of memory")

    shell, targets = classification()
    wrapper = EffOptimWrapper(Hungry(shell.parameters(), lr=0.1))
    with pytest.raises(RunError, match="optimizer's step does not fit into memory"):
        shell.train_step({"inputs": torch.zeros(3, 3, 64, 64, dtype=torch.uint8), **targets}, wrapper)


HUNGRY = """
import torch as _torch
from mmengine.hooks import Hook as _Hook
from effdense.engine.registry import HOOKS as _HOOKS

class _Hungry(_Hook):
    def before_train(self, runner):
        def look(module, args):
            if module.training and len(args[0]) > 2:
                raise _torch.OutOfMemoryError("out of memory")
        runner.model.network.register_forward_pre_hook(look)

_HOOKS.register_module(name="Hungry", module=_Hungry, force=True)
custom_hooks = [dict(type="Hungry")]
train_dataloader["num_workers"] = 0
default_hooks.update(pictures=None)
"""


def test_a_run_and_its_resume_go_on_in_halves(tiny_config: WriteConfig, tmp_path: Any, capsys: Any) -> None:
    """The note is printed once; the resumed run begins in halves and does not say it again."""
    one, two = (tiny_config(f"hungry{n}", HUNGRY + f'train_cfg["max_epochs"] = {n}\n') for n in (1, 2))
    work_dir = train(one, work_dir=str(tmp_path / "run"))
    said = capsys.readouterr()
    assert (said.out + said.err).count("are trained in two halves") == 1
    assert torch.load(work_dir / "epoch_1.pth", weights_only=True)["optimizer"]["parts"] == 2
    train(two, work_dir=str(tmp_path / "run"), resume=True)
    said = capsys.readouterr()
    assert "trained in two halves" not in said.out + said.err
