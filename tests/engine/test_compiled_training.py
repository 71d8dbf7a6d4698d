"""Training through torch.compile: one graph a shape, no breaks, the numbers of a step that is not compiled."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from effdense.data.transforms.mixing import BatchMixer
from effdense.engine import checkpoint as files
from effdense.engine import compiled as compiled_module
from effdense.engine.compiled import CompiledCore, CompileOptions, pad_boxes, refuse_synced_statistics
from effdense.engine.config import load_config
from effdense.engine.models import ClassificationModel, DetectionModel, SegmentationModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.run import train
from effdense.errors import ConfigError, RunError, ShapeError
from effdense.models.drop_path import set_drop_path_rate
from tests.engine.conftest import ROOT, WriteConfig
from tests.engine.test_distributed import pair

SMALL: dict[str, Any] = {"image_size": 64, "fpn_cells": 1, "head_repeats": 1, "max_level": 6}


class Network(nn.Module):
    """As much of a network as the core needs: layers with state, and a loss of padded targets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.scale = 1.0

    def loss(self, images: Tensor, labels: Tensor, valid: Tensor, *, with_count: bool = False) -> dict[str, Tensor]:
        if labels.shape[0] != images.shape[0]:
            raise ShapeError("labels for other images.")
        scores = self.dropout(self.norm(self.conv(images))).mean((1, 2, 3))
        losses = {"loss": self.scale * ((scores[:, None] - labels) ** 2 * valid).sum()}
        return {**losses, "count": valid.sum()} if with_count else losses


def core(**options: Any) -> CompiledCore:
    return CompiledCore(CompileOptions(**{"backend": "eager", **options}))


def batch(count: int = 2, side: int = 8, boxes: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    valid = torch.rand(count, boxes) > 0.5
    return torch.randn(count, 3, side, side), torch.randn(count, boxes) * valid, valid


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is told to the log."""
    texts: list[str] = []
    monkeypatch.setattr(CompiledCore, "_tell", lambda self, text: texts.append(text))
    return texts


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


# -- shapes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "padded"), [(1, 16), (16, 16), (17, 32), (33, 64), (64, 64), (100, 128)])
def test_boxes_are_padded_to_few_counts(count: int, padded: int) -> None:
    boxes, labels, valid = pad_boxes(
        torch.ones(2, count, 4), torch.zeros(2, count, dtype=torch.int64), torch.ones(2, count, dtype=torch.bool)
    )
    assert boxes.shape == (2, padded, 4) and labels.shape == valid.shape == (2, padded)
    assert valid.sum() == 2 * count and labels.sum() == -2 * (padded - count) and boxes[:, count:].sum() == 0


def test_padding_changes_no_loss() -> None:
    """Of the real detector, uncompiled: 20 boxes as they are, and padded to 32."""
    torch.manual_seed(0)
    network = DetectionModel("efficientdet_lite0", 3, **SMALL).network.eval()
    corner = torch.rand(2, 20, 2) * 40
    boxes = torch.cat((corner, corner + 4 + torch.rand(2, 20, 2) * 20), 2)
    labels = torch.randint(-1, 3, (2, 20))
    valid = torch.rand(2, 20) > 0.3
    images = torch.randn(2, 3, 64, 64)
    plain = network.padded_loss(images, boxes, labels, valid, with_positives=True)
    padded = network.padded_loss(images, *pad_boxes(boxes, labels, valid), with_positives=True)
    assert plain["positives"] > 0 and all(torch.equal(value, padded[name]) for name, value in plain.items())


def test_one_graph_for_all_batches_of_a_shape() -> None:
    """Changing pictures and targets, validation in between, another epoch: nothing is compiled again, and numbers,
    statistics and random draws are those of the plain function.
    """
    network, run = Network(), core()
    plain = copy.deepcopy(network)
    with torch._dynamo.config.patch(error_on_recompile=True):  # type: ignore[attr-defined]
        for _ in range(2):
            for step in range(3):
                tensors = batch()
                torch.manual_seed(step)
                losses = run(network.loss, *tensors, with_count=True)
                losses["loss"].backward()
                torch.manual_seed(step)
                expected = plain.loss(*tensors, with_count=True)
                expected["loss"].backward()
                assert losses.keys() == expected.keys()
                assert all(torch.equal(value, expected[name]) for name, value in losses.items())
            network.eval()
            with torch.no_grad():
                run(network.loss, *batch())
                network.conv(batch()[0])
            network.train()
    assert graphs() == 1 == run.graphs and not counters["graph_break"]
    for one, two in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), plain.buffers(), strict=True))


def test_more_sizes_than_torch_would_take() -> None:
    """Nine sizes of multi-scale training, three times each: one graph a size from its third time on, never more."""
    network, run = Network(), core()
    sides = range(8, 17)
    for _ in range(4):
        for side in sides:
            run(network.loss, *batch(side=side))["loss"].backward()
    assert graphs() == len(sides) == run.graphs


def test_a_short_batch_runs_uncompiled(said: list[str]) -> None:
    """The last batch of a long epoch comes once in a while: not worth a graph. Halves come all the time: they are."""
    network, run = Network(), core()
    for _ in range(2):
        for _ in range(40):
            run(network.loss, *batch())
        run(network.loss, *batch(1))
    assert graphs() == 1
    assert len(said) == 2 and "graph 1, inputs 2x3x8x8, 2x16, 2x16, forward" in said[0]
    assert "inputs 1x3x8x8, 1x16, 1x16 runs uncompiled" in said[1]
    for _ in range(5):
        run(network.loss, *batch(1))
    assert graphs() == 2


def test_deterministic_runs_choose_by_shape_alone() -> None:
    """A resumed run has not seen what came before, and computes alike."""
    torch.use_deterministic_algorithms(True)
    try:
        network, run = Network(), core()
        for count in (2, 1, 3):
            run(network.loss, *batch(count))
    finally:
        torch.use_deterministic_algorithms(False)
    assert graphs() == 3


def test_there_is_an_end(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """Pictures of any size: as many graphs as allowed, the rest uncompiled, said once."""
    monkeypatch.setattr(compiled_module, "MOST_GRAPHS", 2)
    network, run = Network(), core()
    for side in range(8, 13):
        for _ in range(3):
            run(network.loss, *batch(side=side))
    assert graphs() == 2
    assert sum("there are 2 graphs" in text for text in said) == 1


def test_a_schedule_that_changes_a_strength() -> None:
    """Frozen statistics and another strength: a graph each, and the strength that is in force."""
    network, run = Network(), core()
    network.dropout.p = 0.0
    tensors = batch()
    first = run(network.loss, *tensors)["loss"]
    network.scale = 2.0
    torch.testing.assert_close(run(network.loss, *tensors)["loss"], 2 * first)
    network.norm.eval()
    run(network.loss, *tensors), run(network.loss, *tensors)
    assert graphs() == 3


# -- what carries it ---------------------------------------------------------------------------------------------------


def test_copies_carry_no_graphs() -> None:
    network, run = Network(), core()
    run(network.loss, *batch())
    keys = list(network.state_dict())
    assert keys == list(Network().state_dict())
    for other in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert other.graphs == 0 and other.options == run.options
    average = copy.deepcopy(network)
    nn.init.zeros_(average.conv.weight)
    run(network.loss, *batch())["loss"].backward()
    assert average.conv.weight.grad is None and graphs() == 1


class Recorder:
    """Stands in for a function compiled with CUDA graphs: every call writes over the outputs of the one before."""

    def __init__(self) -> None:
        self.memory = torch.zeros(())

    def __call__(self, *tensors: Tensor, **constants: Any) -> dict[str, Tensor]:
        return {"loss": self.memory.fill_(float(tensors[0].sum()))}


def test_outputs_of_cuda_graphs_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append(1))
    monkeypatch.setattr(CompiledCore, "_compile", lambda self, function: Recorder())
    network = Network()
    run = core(backend="inductor", mode="reduce-overhead")
    first = run(network.loss, torch.ones(2))["loss"]
    second = run(network.loss, torch.ones(2) * 3)["loss"]
    run(
        network.loss, torch.ones(5)
    )  # another shape: its graph shares the memory, uncompiled it would need as much again
    assert (first.item(), second.item(), len(steps), run.graphs) == (2.0, 6.0, 3, 2)
    # A gradient that a graph gave away would be lost with the next replay: there is one to add to.
    assert all(p.grad is not None and not p.grad.any() for p in network.parameters())


def test_errors_are_told() -> None:
    network, run = Network(), core()
    images, labels, valid = batch()
    with pytest.raises(ShapeError, match="labels for other images"):
        run(network.loss, images, labels[:1], valid[:1])

    def branches(x: Tensor) -> dict[str, Tensor]:
        return {"loss": x.sum() if bool(x.sum() > 0) else -x.sum()}

    with pytest.raises(RunError, match=r"torch.compile failed: .*model.compile=None"):
        core()(branches, torch.ones(2))


def test_out_of_memory_is_still_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the batch is halved: in the graph, and while it is compiled."""
    from torch._dynamo.exc import BackendCompilerFailed

    error = torch.OutOfMemoryError("CUDA out of memory.")

    def in_graph(*tensors: Tensor, **constants: Any) -> Any:
        raise error

    def in_compiler(*tensors: Tensor, **constants: Any) -> Any:
        failed = BackendCompilerFailed.__new__(BackendCompilerFailed)  # what it is made of differs between releases
        failed.inner_exception = error
        raise failed

    for function in (in_graph, in_compiler):
        monkeypatch.setattr(CompiledCore, "_compile", lambda self, f, function=function: function)
        with pytest.raises(torch.OutOfMemoryError):
            core()(Network().loss, *batch())


# -- the config --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.compile": {"mdoe": "default"}}, r"model\.compile\.mdoe.*Did you mean 'mode'"),
        ({"model.compile": {"mode": "reduce_overhead"}}, r"Did you mean 'reduce-overhead'"),
        ({"model.compile": {"backend": "inductr"}}, r"Did you mean 'inductor'"),
        ({"model.compile": {"backend": "eager", "mode": "max-autotune"}}, r"is for the inductor"),
        ({"model.compile": {"dynamic": True}}, r"dynamic must be False"),
        ({"model.compile": "yes"}, r"model\.compile"),
        ({"model.activation_checkpointing": "encodr"}, r"activation_checkpointing.*Did you mean 'encoder'"),
        (
            {"model.activation_checkpointing": True, "model.compile": {"backend": "eager"}},
            r"backend='eager' does not go with",
        ),
    ],
)
def test_what_a_config_cannot_say(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(ROOT / "configs" / "effdet_b0_shapes.py", options)


def test_what_a_config_can_say() -> None:
    config = ROOT / "configs" / "effdet_b0_shapes.py"
    for value in (True, None, {"mode": "max-autotune-no-cudagraphs"}, {"backend": "aot_eager", "dynamic": False}):
        load_config(config, {"model.compile": value, "model.activation_checkpointing": "encoder"})
    assert CompileOptions.of(None) is CompileOptions.of(False) is None
    assert CompileOptions(mode="reduce-overhead").describe() == "compiled (reduce-overhead)"


def test_the_head_of_the_log_says_so() -> None:
    shell = ClassificationModel("efficientnet_lite0", 2, image_size=32, activation_checkpointing=True, compile=True)
    assert shell.describe_training() == ", activations computed again, compiled"
    assert ClassificationModel("efficientnet_lite0", 2, image_size=32).describe_training() == ""


def test_synced_statistics_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = ClassificationModel("efficientnet_lite0", 2, image_size=32, compile=True)
    refuse_synced_statistics(shell, True)  # one process has nothing to wait for
    monkeypatch.setattr(compiled_module, "rank_and_world", lambda: (0, 2))
    refuse_synced_statistics(shell, False)
    with pytest.raises(ConfigError, match="sync_bn=False"):
        refuse_synced_statistics(shell, True)


# -- real networks -----------------------------------------------------------------------------------------------------


def make(kind: str, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    """A shell in training, and targets of two pictures."""
    torch.manual_seed(0)
    if kind.startswith("efficientdet"):
        valid = torch.tensor([[True, True], [False, False]])
        boxes = torch.tensor([[4.0, 8.0, 40.0, 40.0], [20.0, 10.0, 60.0, 30.0]]).repeat(2, 1, 1) * valid[..., None]
        shell: Any = DetectionModel(kind, 3, **SMALL, **options)
        return shell, {"boxes": boxes, "labels": torch.where(valid, 1, -1), "valid": valid}
    if kind.startswith("efficientnet"):
        return ClassificationModel(kind, 3, image_size=64, **options), {"labels": torch.tensor([0, 2])}
    shell = SegmentationModel(kind, 3, image_size=64, **options)
    return shell, {"masks": torch.randint(0, 4, (2, 64, 64)).where(torch.rand(2, 64, 64) < 0.9, 255) % 253 % 3}


def steps(shell: Any, targets: dict[str, Tensor], count: int = 2, dtype: str | None = None) -> list[float]:
    """Training steps with changing pictures, stochastic depth on.

    In float64 unless mixed: BatchNorm of a few values blows rounding up, which would hide what is to be seen.
    """
    if dtype is None:
        shell.double()
    set_drop_path_rate(shell.network, 0.3)
    wrapper = EffOptimWrapper(torch.optim.SGD(shell.parameters(), lr=0.01), dtype=dtype)
    seen = []
    for step in range(count):
        inputs = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(step)).to(torch.uint8)
        torch.manual_seed(step)
        seen.append(shell.train_step({"inputs": inputs, **targets}, wrapper)["loss"].item())
    return seen


def assert_alike(shell: Any, plain: Any, rtol: float = 1e-5) -> None:
    """Moved weights as one vector (single ones may be sums that cancel), and statistics."""
    for name in ("parameters", "buffers"):
        one, two = (
            torch.cat([t.detach().flatten().double() for t in getattr(s.network, name)()]) for s in (shell, plain)
        )
        assert (one - two).norm() <= rtol * two.norm()


class Devices(TorchDispatchMode):
    """Names of the operators that have a tensor on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.on_cpu = 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += 1
        if any(isinstance(t, Tensor) and t.device.type == "cpu" for t in tree_leaves((args, kwargs, out))):
            self.on_cpu.add(str(func))
        return out


@pytest.mark.parametrize("kind", ["detection", "segmentation", "classification"])
def test_nothing_in_a_graph_is_on_the_host(kind: str) -> None:
    """On a GPU (here without one: tensors have a device and no values): CUDA graphs cannot hold it, and each step would
    wait for it. Anchors are made on the CPU, once a size, and given to the graph.
    """
    options: dict[str, Any] = {"image_size": 64, "compile": {"backend": "eager"}}
    shell: Any
    if kind == "detection":
        shell = DetectionModel("efficientdet_lite0", 3, **{**SMALL, **options})
    elif kind == "segmentation":
        shell = SegmentationModel("efficientunet_lite0", 3, class_weights=(1.0, 2.0, 0.5), **options)
    else:
        shell = ClassificationModel("efficientnet_lite0", 3, **options)
    with FakeTensorMode(), Devices() as devices:
        for module in shell.modules():
            for name, value in [(n, v) for n, v in module._parameters.items() if v is not None]:
                module._parameters[name] = nn.Parameter(torch.empty(value.shape, device="cuda"))
            for name, value in [(n, v) for n, v in module._buffers.items() if v is not None]:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")
        targets: dict[str, Tensor] = {
            "detection": {
                "boxes": torch.empty(2, 7, 4, device="cuda"),
                "labels": torch.empty(2, 7, dtype=torch.int64, device="cuda"),
                "valid": torch.empty(2, 7, dtype=torch.bool, device="cuda"),
            },
            "segmentation": {"masks": torch.empty(2, 64, 64, dtype=torch.uint8, device="cuda")},
            "classification": {"labels": torch.empty(2, dtype=torch.int64, device="cuda")},
        }[kind]

        def run_core(function: Any, *tensors: Tensor, **constants: Any) -> Any:
            devices.on_cpu.clear()
            losses = function(*tensors, **constants)
            assert not devices.on_cpu
            return losses

        shell.run_core = run_core
        losses = shell(inputs=torch.empty(2, 3, 64, 64, device="cuda"), mode="loss", **targets)
    assert devices.count > 500 and all(value.is_cuda for value in losses.values())


@pytest.mark.slow
def test_a_classifier_trains_in_one_graph() -> None:
    """The shell around the core, mixing outside of it: hard labels, then soft ones, which are a shape of their own."""
    options: dict[str, Any] = {"dropout": 0.0}
    shell, targets = make("efficientnet_lite0", compile={"backend": "eager"}, **options)
    plain, _ = make("efficientnet_lite0", **options)
    assert steps(shell, targets) == pytest.approx(steps(plain, targets), rel=1e-6)
    assert graphs() == 1 and not counters["graph_break"]
    assert_alike(shell, plain)
    shell.start_ema()
    assert list(shell.state_dict()) == list(plain.state_dict())
    shell.mixer = BatchMixer(3, mixup=0.2, cutmix=0.0, prob=1.0)
    steps(shell, targets, 3)
    assert graphs() == 2


KINDS = [
    "efficientdet_d0", "efficientdet_lite0", "efficientdet_v2s",
    "efficientunet_b0", "bifpnseg_lite0", "efficientnet_b0",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_task_trains_in_one_graph(kind: str, checkpointing: bool) -> None:
    """Through autograd of the compiler, with the same random draws: losses, weights, statistics, counters; also when
    activations are computed again.
    """
    backend = {"backend": "aot_eager"}
    shell, targets = make(kind, compile=backend, activation_checkpointing=checkpointing)
    plain, _ = make(kind)
    assert steps(shell, targets) == pytest.approx(steps(plain, targets), rel=1e-6)
    assert graphs() == 1 and not counters["graph_break"]
    assert_alike(shell, plain)
    shell.eval()
    shell.evaluation_network(torch.randn(1, 3, 64, 64).double())
    shell.train()
    steps(shell, targets)
    assert graphs() == 1
    assert {int(v) for k, v in shell.network.state_dict().items() if k.endswith("batches_tracked")} == {4}


@pytest.mark.slow
def test_bfloat16_and_frozen_statistics() -> None:
    options: dict[str, Any] = {"frozen_batch_norm": "encoder", "frozen_stages": 2}
    shell, targets = make("efficientdet_lite0", compile={"backend": "aot_eager"}, **options)
    plain, _ = make("efficientdet_lite0", **options)
    ours, theirs = steps(shell, targets, dtype="bfloat16"), steps(plain, targets, dtype="bfloat16")
    assert ours == pytest.approx(theirs, rel=2e-2)
    assert graphs() == 1 and not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_inductors_numbers(checkpointing: bool) -> None:
    """Losses and gradients of generated code, with torch's own random draws."""
    from torch._inductor import config

    shell, targets = make("efficientdet_lite0", compile=True, activation_checkpointing=checkpointing)
    plain, _ = make("efficientdet_lite0")
    with config.patch(fallback_random=True):  # type: ignore[attr-defined]
        ours = steps(shell, targets, 1)
    assert ours == pytest.approx(steps(plain, targets, 1), rel=1e-4)
    assert_alike(shell, plain)


@pytest.mark.slow
def test_a_run_resumes_with_the_same_bits(tiny_config: WriteConfig, tmp_path: Path) -> None:
    """Checkpoints of a compiled run are those of any other, and it goes on as if it had not stopped."""
    text = 'model["compile"] = dict(backend="aot_eager")\ntrain_dataloader["num_workers"] = 0\n'
    text += 'randomness = dict(seed=0, deterministic=True)\ntrain_cfg["max_epochs"] = {}\n'
    two = tiny_config("compiled_two", text.format(2))
    straight = train(two, work_dir=str(tmp_path / "straight"))
    train(tiny_config("compiled_one", text.format(1)), work_dir=str(tmp_path / "resumed"))
    train(two, work_dir=str(tmp_path / "resumed"), resume=True)
    one, other = (files.load(folder / "epoch_2.pth")["state_dict"] for folder in (straight, tmp_path / "resumed"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert not any("_orig_mod" in key for key in one)


RANKS = """
import copy, torch
from effdense.engine.distributed import EffDDP, init_distributed, rank_and_world
from effdense.engine.models import ClassificationModel
from effdense.engine.optim import EffOptimWrapper
from effdense.engine.sync_batch_norm import CPUSyncBatchNorm2d, convert_sync_batch_norm

assert init_distributed("pytorch", timeout=120)
rank = rank_and_world()[0]


def trained(sync, **options):
    torch.manual_seed(0)
    shell = ClassificationModel("efficientnet_lite0", 3, image_size=64, drop_path_rate=0.3, **options)
    if sync:
        assert convert_sync_batch_norm(shell) > 40
    else:
        shell.double()  # rounding, which BatchNorm of few values blows up, is out of the way
    model = EffDDP(shell, find_unused_parameters=False)
    wrapper = EffOptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-5), accumulative_counts=2)
    inputs = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(rank)).to(torch.uint8)
    torch.manual_seed(rank)
    for _ in range(4):
        model.train_step({"inputs": inputs, "labels": torch.tensor([0, 1, 2])}, wrapper)
    assert wrapper.updates == 2
    state = shell.network.state_dict()
    flat = torch.cat([p.detach().flatten() for p in shell.network.parameters()])
    both = [torch.empty_like(flat) for _ in range(2)]
    torch.distributed.all_gather(both, flat)
    assert torch.equal(*both)
    return state


def compare(one, two, exactly):
    for key, value in one.items():
        if exactly:
            assert torch.equal(value, two[key]), key
        else:
            torch.testing.assert_close(value, two[key], rtol=1e-5, atol=1e-5, msg=lambda text: key + text)
"""


@pytest.mark.slow
def test_two_processes_with_activations_computed_again(tmp_path: Path) -> None:
    """Under DDP, gradients accumulated, with BatchNorm of each process and of both: to the bit."""
    code = RANKS + (
        "for sync in (False, True):\n"
        "    compare(trained(sync), trained(sync, activation_checkpointing='encoder'), True)\n"
    )
    for status, _, errors in pair(code, data=tmp_path):
        assert status == 0, errors


@pytest.mark.slow
def test_two_processes_compiled(tmp_path: Path) -> None:
    code = RANKS + (
        "plain = trained(False)\n"
        "compare(plain, trained(False, compile=dict(backend='aot_eager')), False)\n"
        "compiled = dict(backend='aot_eager')\n"
        "compare(plain, trained(False, compile=compiled, activation_checkpointing=True), False)\n"
    )
    for status, _, errors in pair(code, data=tmp_path, timeout=500):
        assert status == 0, errors
