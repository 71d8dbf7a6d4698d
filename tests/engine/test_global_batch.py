"""Several processes, or several batches of a window, make the step that one process makes with all images at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdense.engine import checkpoint as files
from effdense.engine.models import DetectionModel, SegmentationModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.run import train
from effdense.engine.sync_batch_norm import CPUSyncBatchNorm2d, convert_sync_batch_norm
from tests.engine.conftest import WriteConfig, validations
from tests.engine.test_distributed import pair, shell

# -- one process: a window of batches ----------------------------------------------------------------------------------


def detector() -> tuple[Any, dict[str, Any]]:
    model = DetectionModel("efficientdet_lite0", 2, image_size=64, fpn_cells=1, head_repeats=1, max_level=6)
    boxes = torch.zeros(4, 2, 4)
    boxes[0] = torch.tensor([[4.0, 4.0, 40.0, 40.0], [20.0, 8.0, 60.0, 30.0]])
    boxes[3, 0] = torch.tensor([10.0, 10.0, 18.0, 22.0])
    return model, {"boxes": boxes, "labels": torch.where(boxes[..., 2] > 0, 1, -1), "valid": boxes[..., 2] > 0}


def segmentor() -> tuple[Any, dict[str, Any]]:
    # Not Lite: the last digit of one value can put it on the other side of a ReLU6.
    model = SegmentationModel("efficientunet_b0", 3, image_size=64, class_weights=(1.0, 2.0, 0.5))
    masks = torch.randint(0, 3, (4, 64, 64), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    masks[:2, 5:] = 255
    return model, {"masks": masks}


@pytest.mark.parametrize("make", [detector, segmentor])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_window_is_divided_by_all_it_holds(make: Any, parts: int) -> None:
    """The first batch holds most positives (few counted pixels), so the mean of the two batches' means is another."""
    torch.manual_seed(0)
    model, targets = make()
    model.train()
    for module in model.modules():  # what is left is linear in the images
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)) or hasattr(module, "rate"):
            module.eval()
    inputs = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = {"inputs": inputs, **targets}
    before = copy.deepcopy(model.state_dict())

    def moved(window: int, clip: float | None) -> dict[str, Tensor]:
        model.load_state_dict(before)
        clip_grad = None if clip is None else {"max_norm": clip}
        wrapper = EffOptimWrapper(
            torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=window, clip_grad=clip_grad
        )
        wrapper.parts = parts if window > 1 else 1
        size = 4 // window
        for start in range(0, 4, size):
            model.train_step({name: value[start : start + size] for name, value in batch.items()}, wrapper)
        assert wrapper.updates == 1
        return {name: before[name] - p.detach() for name, p in model.named_parameters()}

    for clip in (None, 0.1):
        whole, windowed = moved(1, clip), moved(2, clip)
        size = max(float(value.abs().max()) for value in whole.values())
        assert size > 0
        for name, value in whole.items():
            torch.testing.assert_close(windowed[name], value, rtol=1e-3, atol=1e-5 * size)


def test_a_window_of_nothing_but_ignored_pixels_moves_nothing() -> None:
    model, targets = segmentor()
    targets["masks"][:] = 255
    wrapper = EffOptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=2)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        model.train_step({"inputs": torch.zeros(4, 3, 64, 64, dtype=torch.uint8), **targets}, wrapper)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("counts", [(1e-5, 8.0), (0.0, 8.0), (8.0, 1e-5), (0.5, 0.25)])
def test_a_batch_of_next_to_nothing_blows_up_no_other(counts: tuple[float, float]) -> None:
    """Float16 has a range: while the window is not known, no loss is scaled up beyond its own count."""
    weight = nn.Parameter(torch.zeros(2))
    wrapper = EffOptimWrapper(torch.optim.SGD([weight], lr=1.0), accumulative_counts=2)
    wrapper.initialize_count_status(nn.Module(), 0, 2)
    for index, count in enumerate(counts):  # a sum of ``count`` pixels, each with the gradient 1
        loss = wrapper.shared_loss(weight[index] * float(count > 0), torch.tensor(count))
        (slope,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert float(slope.max()) <= max(1.0, count)
        wrapper.update_params(loss)
    torch.testing.assert_close(-weight.detach(), torch.tensor(counts) / sum(counts))


@pytest.mark.parametrize("ignore_index", [255, 300, -1])
def test_pixels_that_count_are_those_of_the_loss(ignore_index: int) -> None:
    model = SegmentationModel("efficientunet_lite0", 60, image_size=32, ignore_index=ignore_index)
    masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
    masks[:, :8] = 44  # 300 in a byte
    if ignore_index == 255:
        masks[:, 8:16] = 255
    assert float(model._pixels(masks)) == (0.75 if ignore_index == 255 else 1.0)


# -- SyncBN ------------------------------------------------------------------------------------------------------------

SYNCED = """
import sys, torch
from torch import nn
from effdense.engine.distributed import EffDDP, init_distributed, rank_and_world
from effdense.engine.sync_batch_norm import CPUSyncBatchNorm2d, convert_sync_batch_norm
init_distributed("pytorch", timeout=60)
rank, world = rank_and_world()
torch.manual_seed(0)
x = torch.randn(7, 5, 6, 4) * torch.tensor([1.0, 3.0, 0.1, 1.0, 20.0]).view(1, -1, 1, 1) + 50.0
g = torch.randn(7, 5, 6, 4)
for momentum in (0.1, None):
    whole = nn.BatchNorm2d(5, momentum=momentum)
    with torch.no_grad():
        whole.weight.uniform_(0.5, 2.0), whole.bias.uniform_(-1.0, 1.0)
    model = nn.Sequential(nn.BatchNorm2d(5, momentum=momentum))
    model[0].load_state_dict(whole.state_dict())
    assert convert_sync_batch_norm(model) == 1 and type(model[0]) is CPUSyncBatchNorm2d
    mine = slice(0, 2) if rank == 0 else slice(2, 7)  # shares need not be equal
    for step in range(3):
        full = (x + step).requires_grad_()
        out = whole(full)
        whole.zero_grad(), model.zero_grad()
        out.backward(g)
        part = (x[mine] + step).contiguous(memory_format=torch.channels_last).requires_grad_()
        got = model(part)
        got.backward(g[mine])
        torch.testing.assert_close(got, out[mine], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(part.grad, full.grad[mine], rtol=1e-4, atol=1e-5)
        for one, other in ((model[0].weight, whole.weight), (model[0].bias, whole.bias)):
            total = one.grad.clone()
            torch.distributed.all_reduce(total)
            torch.testing.assert_close(total, other.grad, rtol=1e-4, atol=1e-4)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(model[0].state_dict()[name], value, rtol=1e-5, atol=1e-6)
    model.eval(), whole.eval()
    torch.testing.assert_close(model(x[mine]), whole(x)[mine], rtol=1e-4, atol=1e-4)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = x[mine].bfloat16().requires_grad_()
        out = model(half)
        assert out.dtype is torch.bfloat16
        out.float().sum().backward()
        assert half.grad.dtype is torch.bfloat16
print("equal")
"""


def test_two_shares_of_a_batch_are_normalised_as_one(tmp_path: Path) -> None:
    for code, out, err in pair(SYNCED, data=tmp_path):
        assert code == 0 and "equal" in out, err


def test_converting_keeps_tensors_names_and_frozen_layers() -> None:
    model, _ = detector()
    network = model.network
    frozen = network.backbone.bn1
    names, tensors = list(network.state_dict()), {id(p) for p in network.parameters()}
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert convert_sync_batch_norm(network, keep=[frozen]) == norms - 1
    assert network.backbone.bn1 is frozen and type(frozen) is nn.BatchNorm2d
    assert list(network.state_dict()) == names and {id(p) for p in network.parameters()} == tensors
    assert sum(type(m) is CPUSyncBatchNorm2d for m in network.modules()) == norms - 1
    assert convert_sync_batch_norm(network, keep=[frozen]) == 0  # once is enough
    copy.deepcopy(network)(torch.zeros(2, 3, 64, 64))


# -- processes ---------------------------------------------------------------------------------------------------------

STEPS = """
import sys, torch
from effdense.engine.distributed import EffDDP, init_distributed, rank_and_world
from effdense.engine.models import DetectionModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.sync_batch_norm import convert_sync_batch_norm
init_distributed("pytorch" if len(sys.argv) > 2 else "none", timeout=120)
rank, world = rank_and_world()
torch.manual_seed(0)
shell = DetectionModel(
    "efficientdet_d0", 5, image_size=128, fpn_cells=1, head_repeats=1, max_level=6, drop_path_rate=0.0
).double()
prepare = shell.data_preprocessor.forward
shell.data_preprocessor.forward = lambda batch, training=False: {
    key: value.double() if key == "inputs" else value for key, value in prepare(batch, training).items()
}
torch.manual_seed(1)
boxes = torch.rand(8, 3, 2).mul(60).repeat(1, 1, 2)
boxes[..., 2:] += 20 + torch.rand(8, 3, 2) * 40
valid = torch.arange(3) < torch.tensor([3, 1, 2, 1, 3, 1, 0, 1])[:, None]  # rank 0 has most of them
batch = {
    "inputs": torch.randint(0, 255, (8, 3, 128, 128), dtype=torch.uint8),
    "boxes": boxes * valid[..., None],
    "labels": torch.where(valid, torch.randint(0, 5, (8, 3)), -1),
    "valid": valid,
}
if world > 1:
    assert convert_sync_batch_norm(shell) > 50
model = EffDDP(shell) if world > 1 else shell
model.train()
wrapper = EffOptimWrapper(torch.optim.SGD(shell.parameters(), lr=0.01, momentum=0.9), clip_grad={"max_norm": 10.0})
for _ in range(20):
    model.train_step({key: value[rank::world] for key, value in batch.items()}, wrapper)
if rank == 0:
    torch.save(shell.network.state_dict(), sys.argv[1])
"""


@pytest.mark.slow
def test_twenty_steps_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """In float64, where 20 steps do not blow up the last digit: what is left is arithmetic, not luck."""
    weights = []
    for name, ranks in (("one", 1), ("two", 2)):
        file = str(tmp_path / name)
        arguments = [file] if ranks == 1 else [file, "distributed"]
        for code, _, err in pair(STEPS, *arguments, data=tmp_path, ranks=ranks, timeout=600):
            assert code == 0, err
        weights.append(torch.load(file, weights_only=True))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


# Frozen statistics: over flat pictures BatchNorm of few values blows up last digits so much that the order of images in
# a batch alone changes gradients by a percent, in one process as well.
WHOLE = """
model.update(name="efficientdet_d0", drop_path_rate=0.0, frozen_batch_norm=True)
train_dataloader.update(batch_size={batch})
train_cfg.update(max_epochs=7, val_interval=7)
optim_wrapper = dict(_delete_=True, optimizer=dict(type="SGD", lr=1e-3, momentum=0.9, weight_decay=4e-5))
default_hooks.update(pictures=None)
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(tiny_config: WriteConfig, data: Path, tmp_path: Path) -> None:
    """21 steps of 8 images in float32: one process with 8, two with 4 each; weights, average and scores."""
    one = train(tiny_config("one", WHOLE.format(batch=8)), work_dir=str(tmp_path / "one"))
    two = tmp_path / "two"
    config = str(tiny_config("two", WHOLE.format(batch=4)))
    result = shell("dist_train.sh", config, "2", "--work-dir", str(two), data=data, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    a, b = (files.load(folder / "epoch_7.pth") for folder in (one, two))
    assert a["meta"]["iter"] == b["meta"]["iter"] == 21
    for part in ("state_dict", "train_state_dict"):
        for name, value in a[part].items():
            torch.testing.assert_close(b[part][name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert validations(two)[-1] == pytest.approx(validations(one)[-1], abs=1e-5)
