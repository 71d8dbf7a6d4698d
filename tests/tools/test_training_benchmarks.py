"""The benchmarks of training: both loops compute the same, figures by hand, counts that agree with real passes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import effdense

SCRIPTS = Path(__file__).parents[2] / "tools" / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Any:
    """The scripts as modules; they import one another from their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr(sys, "path", list(sys.path))  # they put their folder there, too
        yield SimpleNamespace(
            **{name: load(name) for name in ("training_parts", "bench_engine", "bench_training_gpu", "training_memory")}
        )


def load(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


LITE = {"model": "efficientdet_lite0", "size": 64, "batch": 2, "distinct": 1}


def test_the_engine_and_the_bare_loop_take_the_same_steps(scripts: Any) -> None:
    """One step from equal weights on the same batch ends at equal weights: they are the same work."""
    seen: dict[str, Any] = {}

    def begin(runner: Any) -> None:
        shell = runner.shell
        seen["bare"] = scripts.training_parts.BareLoop(
            shell.network, shell.mean, shell.std, runner.optim_wrapper.optimizer
        )
        seen["start"] = [p.detach().clone() for p in shell.network.parameters()]
        for group in (*runner.optim_wrapper.optimizer.param_groups, *seen["bare"].optimizer.param_groups):
            group["lr"] = 1e-3

    def after(runner: Any) -> None:
        seen["bare"].step(runner.train_loop.dataloader.held[0])
        seen["engine"] = list(runner.shell.network.parameters())
        raise scripts.training_parts.Finished

    torch.manual_seed(0)
    scripts.training_parts.run_engine(begin, after, model_options={"drop_path_rate": 0.0}, **LITE)
    moved = [float((a - b).detach().abs().max()) for a, b in zip(seen["engine"], seen["start"], strict=True)]
    assert max(moved) > 5e-4
    for ours, bare in zip(seen["engine"], seen["bare"].network.parameters(), strict=True):
        assert torch.allclose(ours, bare, atol=1e-6)


def test_hooks_are_timed_and_histories_stay_short(scripts: Any) -> None:
    options = argparse.Namespace(
        model=LITE["model"], size=64, batch=2, rounds=2, chunk=2, dtype="float32", interval=4, hollow=True,
        hook_iterations=6, growth=40,
    )  # fmt: skip
    method = effdense.models.detection.EfficientDet.padded_loss
    both = scripts.bench_engine.Alternation(options)
    try:
        scripts.training_parts.run_engine(both.begin, both.after, interval=4, iterations=40, **LITE)
    finally:
        effdense.models.detection.EfficientDet.padded_loss = method
    found = both.results()
    assert len(both.seconds["engine"]) == len(both.seconds["bare"]) == 2
    assert {"GuardHook.after_train_iter", "EMAHook.after_train_iter"} <= set(found["hooks"])
    assert not any("Benchmark" in name for name in found["hooks"])
    assert sum(p.numel() for p in both.bare.network.parameters()) == len(both.bare.parameters)
    growth = scripts.bench_engine.growth(options)
    assert growth["iterations"] == 40 and growth["values_kept"] <= 41


def test_differences_are_taken_round_by_round(scripts: Any) -> None:
    both = scripts.bench_engine.Alternation(argparse.Namespace())
    both.seconds = {"engine": [1.1, 2.1, 4.4], "bare": [1.0, 2.0, 4.0]}
    found = both.results()
    assert found["difference_ms"]["median"] == pytest.approx(100.0)
    assert found["difference_percent"]["median"] == pytest.approx(10.0)


def test_what_autograd_keeps_is_counted_without_values(scripts: Any) -> None:
    for name in ("efficientdet_lite0", "efficientunet_lite0", "efficientnet_lite0"):
        counted = scripts.training_memory.kept_bytes(name, (192, 192))
        # A classifier's dropout mask over 1280 channels: bool on a GPU, float on a CPU.
        mask = 3 * 1280 if name.startswith("efficientnet") else 0
        assert counted + mask == scripts.training_memory.kept_bytes(name, (192, 192), real=True) > 2**20
        assert counted > scripts.training_memory.kept_bytes(name, (192, 192), dtype=torch.bfloat16) > counted / 2


def test_commands_say_what_and_not_where(scripts: Any) -> None:
    assert (
        scripts.training_parts.command_of(["--size", "64", "--json", "a/b.json", "--note", "x y"])
        == "--size 64 --note 'x y'"
    )


def test_states_by_hand(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.training_memory, "kept_bytes", lambda *_, **__: 2**30)
    row = scripts.training_memory.row("efficientdet_d0")
    params = sum(p.numel() for p in effdense.create_detector("efficientdet_d0", 90).parameters())
    assert row["gradients"] == 4 * params and row["optimizer_AdamW"] == 8 * params == 2 * row["optimizer_SGD"]
    assert row["states_AdamW"] == 12 * params + 2 * row["weights"]
    assert "| `efficientdet_d0` | 512 | 15 | 15 | 15 / 30 | 15 |" in scripts.training_memory.table([row])


@pytest.fixture
def quick() -> argparse.Namespace:
    return argparse.Namespace(
        device="cpu", model="d0", size=64, quick=True, dtype="bfloat16", compile=False, rounds=2, chunk=1, warm_up=1
    )


def test_a_device_is_compared_with_float64(scripts: Any, quick: Any) -> None:
    found = scripts.bench_training_gpu.equal(quick)
    assert found["passed"] and 0 < found["gradient_difference"] < found["tolerances"][1] == 1e-2
    assert 0 < found["loss_difference"] < found["tolerances"][0] == 1e-4


def test_without_a_gpu_it_says_what_it_needs(
    scripts: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scripts.bench_training_gpu.main([]) == 2
    assert "needs one CUDA GPU" in capsys.readouterr().err


def test_a_contender_that_fails_does_not_end_the_others(
    scripts: Any, quick: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu, calls = scripts.bench_training_gpu, []

    def broken() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory\nand more")

    def contender(fails_at: int = 99) -> Any:
        network = torch.nn.Linear(2, 1)

        def loss() -> Any:
            calls.append(fails_at)
            if calls.count(fails_at) == fails_at:
                raise RuntimeError("on the way")
            return network(torch.ones(1, 2)).sum()

        return gpu.Contender(network, loss, quick)

    builders = {"one": contender, "two": broken, "three": lambda: contender(4)}
    monkeypatch.setattr(gpu, "contenders", lambda options, batch: builders)
    out = tmp_path / "out.json"
    arguments = ["--device", "cpu", "--quick", "--batch", "2", "4", "--parts", "speed", "--json", str(out)]
    assert gpu.main(arguments) == 1
    rows = json.loads(out.read_text())["speed"]["2"]
    assert rows["two"]["error"] == "OutOfMemoryError: CUDA out of memory" and "step_ms" not in rows["three"]
    assert rows["three"]["error"] == "RuntimeError: on the way" and rows["one"]["against"] == "one"
    assert rows["one"]["images_per_second"]["max"] == pytest.approx(2e3 / rows["one"]["step_ms"]["min"])
    assert "on the way" in capsys.readouterr().out
    assert gpu.main([*arguments, "--minutes", "0"]) == 1
    assert set(json.loads(out.read_text())["speed"]["4"]) == {"error"}


def test_ours_is_what_the_engine_trains(scripts: Any, quick: Any) -> None:
    """`model.compile` and the engine's optimizer wrapper, not a stand-in."""
    quick.compile = True
    found = scripts.bench_training_gpu.contenders(quick, 2)
    eager, compiled = found["effdense eager"](), found["effdense compiled"]()
    assert eager.network.compiled is None and compiled.network.compiled.options.mode == "default"
    eager.step()
    assert eager.wrapper.updates == 1 and eager.wrapper.last_grad_norm > 0


@pytest.mark.slow
def test_all_parts_on_a_cpu(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    arguments = ["--device", "cpu", "--size", "64", "--batch", "2", "--quick", "--json", str(out)]
    assert scripts.bench_training_gpu.main(arguments) == 0
    report = json.loads(out.read_text())
    assert set(report) == {"machine", "effdet", "command", "equal", "speed", "sync", "auto"}
    assert "effdense eager" in report["speed"]["2"] and report["sync"]["iterations"] == 3
    assert "images/s" in capsys.readouterr().out
