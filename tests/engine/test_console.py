"""What a person sees: a short head, lines or a bar, one row per validation; and what the file keeps."""

from __future__ import annotations

import io
import logging
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from rich.console import Console

from effdense.engine import logging_setup
from effdense.engine.config import load_config
from effdense.engine.console_lines import change, describe_step, short
from effdense.engine.hooks import CheckpointHook, ConsoleHook
from effdense.engine.hooks.console import LiveBar
from effdense.engine.logging_setup import (
    WandbBackend,
    console_handler,
    live_console,
    logging_plan,
    only,
    to_file_only,
    with_console,
)
from effdense.engine.run import train
from effdense.errors import ConfigError, MissingExtra
from tests.engine.conftest import Run, WriteConfig, read_log
from tests.engine.test_run import log_text

# -- whole runs --------------------------------------------------------------------------------------------------------


def test_a_run_without_a_terminal(tiny_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At most 15 lines before the first loss, then a line per interval and a row per validation; no control
    characters; the file has mmengine's lines as well.
    """
    work_dir = train(tiny_config("plain"), work_dir=str(tmp_path / "run"), options={"train_cfg.max_epochs": 2})
    text = capsys.readouterr().out
    lines = text.splitlines()
    losses = [i for i, line in enumerate(lines) if "  loss " in line]
    assert len(losses) == 12 and 8 <= losses[0] <= 15, text
    assert all(ord(c) >= 32 for line in lines for c in line)
    head = "\n".join(lines[: losses[0]])
    for word in ("device: cpu", "float32", "model efficientdet_lite0", "M parameters", "G multiply-adds",
                 "train: 24 images", "val: 13 images", "batch: 4 images x 1 process x 1 accumulated = 4",
                 "schedule: 2 epochs x 6 iterations", "AdamW, LR 0.001", "seed: 0", str(work_dir)):  # fmt: skip
        assert word in head, word
    rows = [line for line in lines if "coco/AP ." in line]
    assert len(rows) == 2 and "epoch 1/2  coco/AP" in rows[0] and "(first)" in rows[0] and "AP50 ." in rows[0]
    assert "best" in rows[1]
    assert "images/s" in lines[losses[0]] and "(cls " in lines[losses[0]] and "eta 0:" in lines[losses[0]]
    assert len(lines) <= losses[0] + 12 + 2 + 1
    assert "Hooks will be" not in text and "Epoch(train)" not in text and "Exp name" not in text
    kept = log_text(work_dir)
    for word in ("Hooks will be", "Epoch(train)", "Epoch(val)", "base_lr", "coco/AR100", "best coco/AP", "mmengine"):
        assert word in kept, word
    assert "epoch 1/2   1/6" not in kept


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_run_on_a_terminal(tiny_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that ends with its epoch, no line per interval, the cursor given back."""
    screen = Terminal()
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "160"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", screen)
    train(tiny_config("bar"), work_dir=str(tmp_path / "run"), options={"train_cfg.max_epochs": 1})
    text = screen.getvalue()
    assert "6/6" in text and "images/s" in text and "epoch 1/1  coco/AP" in text and "epoch 1/1  1/6" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_an_error_leaves_the_terminal_as_it_was(
    tiny_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar is on when the third step fails; afterwards it is not, and lines come through as before."""
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", screen)

    class Broken(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if batch_idx == 2:
                raise OSError("gone")

    monkeypatch.setattr("effdense.engine.run_parts.multi_scale_hooks", lambda model, seed: [Broken()])
    with pytest.raises(OSError, match="gone"):
        train(tiny_config("broken"), work_dir=str(tmp_path / "run"))
    assert screen.getvalue().endswith("\x1b[?25h") and sys.stdout is screen


# -- the bar and the lines ---------------------------------------------------------------------------------------------


def a_logger(name: str, folder: Path) -> Any:
    return with_console(MMLogger.get_instance(name, log_file=str(folder / "log.txt"), log_level="INFO"))


def test_a_line_does_not_tear_the_bar(tmp_path: Path) -> None:
    logger = a_logger("console_tear", tmp_path)
    screen = io.StringIO()
    bar = LiveBar(Console(file=screen, force_terminal=True, width=160), logger)
    bar.start("epoch 1/2", 3, stays=True)
    bar.advance("loss 1.5")
    logger.warning("pictures [red] are 50 %% used")
    bar.advance()
    bar.stop()
    bar.stop()  # twice is once
    text = screen.getvalue()
    before = text[: text.index("WARNING: pictures")]
    assert "\x1b[2K" in before[-40:]  # the bar's line is wiped first
    assert "WARNING: pictures [red] are 50 %% used\n" in text and text.endswith("\x1b[?25h")
    assert not bar.is_on and console_handler(logger).live is None  # type: ignore[union-attr]


def test_a_bar_fits_its_terminal() -> None:
    screen = io.StringIO()
    bar = LiveBar(Console(file=screen, force_terminal=True, width=60, color_system=None), logging.getLogger("none"))
    assert bar.is_narrow
    bar.start("epoch 10/300", 14786, done=1200, stays=True)
    bar.advance("loss 1.5  lr 1.00e-03  250 images/s  eta 1 day, 3:20:11")
    bar.stop()
    last = screen.getvalue().splitlines()[-2].split("\x1b[2K")[-1]
    assert "1201/14786 loss 1.5" in last and "…" in last and len(last) <= 60


def test_where_a_line_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = a_logger("console_where", tmp_path)
    logger.info("both")
    logger.info("file", extra=only("file"))
    logger.info("screen", extra=only("console"))
    logger.warning("a warning for the file", extra=only("file"))
    logger.info("Hooks will be executed in the following order:\nA, B")
    with to_file_only(logger):
        logger.info("muted")
        logger.warning("heard")
    shown = [line[9:] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["both", "screen", "WARNING: heard"]
    kept = (tmp_path / "log.txt").read_text()
    assert [word in kept for word in ("both", " file", "screen", "muted", "heard", "A, B")] == [True] * 2 + [False] + [
        True
    ] * 3


def test_only_rank_0_on_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert live_console("auto") is None and live_console("rich") is not None
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert live_console("auto") is not None and live_console("plain") is None
    monkeypatch.setattr(logging_setup, "rank_and_world", lambda: (1, 2))
    assert live_console("auto") is None and live_console("rich") is None
    monkeypatch.setattr(logging_setup, "rank_and_world", lambda: (0, 2))
    monkeypatch.setenv("TERM", "dumb")
    assert live_console("auto") is None


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_numbers() -> None:
    assert [short(x) for x in (0.4121, 0.0, -0.25, 1.0, 27.31)] == [".412", ".000", "-.250", "1.000", "27.31"]
    assert change(0.412, None) == "first"
    assert change(0.412, (0.399, 1)) == "+.013, best"
    assert change(0.412, (0.416, 2)) == "-.004, best .416 at epoch 2"
    assert change(0.3, (0.4, 1), sign=-1.0) == "-.100, best"
    assert change(float("nan"), (0.4, 1)) == "nan, best .400 at epoch 1"
    values = {"loss": 3.95578, "loss_cls": 1.2, "loss_box": 2.75578, "lr": 1e-3, "time": 0.5, "data_time": 0.2}
    line = describe_step(values, 17.64, 2048.0, 3725.0)
    assert line == (
        "loss 3.956 (cls 1.2, box 2.756)  lr 1.00e-03  17.6 images/s  eta 1:02:05  2.0 GB  waits for data 40 %"
    )
    assert describe_step({"loss": 1.0, "loss_a": 1.0}, 8.0, 10.0, None, brief=True) == "loss 1  8 images/s"


@pytest.mark.parametrize(
    ("save_best", "progress", "expected"),
    [
        ("auto", {}, "coco/AP .300 (first)  AP50 .500  AP75 .200"),
        ("auto", {"best_score": 0.25, "best_epoch": 1}, "coco/AP .300 (+.050, best)  AP50 .500  AP75 .200"),
        ("coco/AP75", {"best_score": 0.25, "best_epoch": 1}, "coco/AP75 .200 (-.050, best .250 at epoch 1)  AP .300"),
        (None, {}, "coco/AP .300 (first)  AP50 .500  AP75 .200"),
    ],
)
def test_the_row_of_a_validation(save_best: str | None, progress: dict[str, Any], expected: str) -> None:
    """The change is against what the checkpoint hook keeps, which a resumed run knows again; an AP of -1 is none."""
    runner = SimpleNamespace(hooks=[CheckpointHook(save_best=save_best)], progress=progress, epoch=2)
    scores = {"coco/AP": 0.3, "coco/APs": -1.0, "coco/AP50": 0.5, "coco/AP75": 0.2}
    hook = ConsoleHook()
    assert hook._row(runner, scores).startswith(expected)
    if save_best is None:
        assert "(-.100, best .300 at epoch 2)" in hook._row(runner, {**scores, "coco/AP": 0.2})


# -- TensorBoard, W&B, MLflow ------------------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the packages that seem to be installed; all others seem not to be."""
    names: set[str] = set()
    monkeypatch.setattr(logging_setup.importlib.util, "find_spec", lambda name: name in names or None)
    return names


def types_of(cfg: dict[str, Any]) -> list[str]:
    return [backend["type"] for backend in logging_plan(cfg, "run").backends]


def test_tensorboard_where_it_is_installed(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert types_of({}) == [] == types_of({"logging": {"tensorboard": "auto"}})
    with pytest.raises(MissingExtra, match="pip install tensorboard"):
        logging_plan({"logging": {"tensorboard": True}}, "run")
    installed.add("tensorboard")
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    assert types_of({}) == ["TensorboardVisBackend"] and types_of({"logging": {"tensorboard": False}}) == []
    named = {"visualizer": {"vis_backends": [{"type": "TensorboardVisBackend"}]}}
    assert types_of(named) == []  # not twice
    assert logging_plan({}, "run", is_training_run=False).backends == ()
    del fake.SummaryWriter  # type: ignore[attr-defined]  # installed, and not to be used
    plan = logging_plan({}, "run")
    assert plan.backends == () and "cannot be imported" in plan.notes[0]
    with pytest.raises(MissingExtra, match="--upgrade tensorboard"):
        logging_plan({"logging": {"tensorboard": True}}, "run")


def test_services_by_one_option(installed: set[str], tmp_path: Path) -> None:
    for name in ("wandb", "mlflow"):
        with pytest.raises(MissingExtra, match=f"logging.{name} needs {name}.*pip install {name}"):
            logging_plan({"logging": {name: True}}, "run")
    installed.update({"wandb", "mlflow"})
    plan = logging_plan({"logging": {"wandb": {"project": "birds"}, "mlflow": True}}, "run")
    wandb, mlflow = plan.backends
    assert wandb == {"type": "WandbBackend", "init_kwargs": {"project": "birds", "name": "run"}}
    assert (mlflow["type"], mlflow["exp_name"], mlflow["run_name"]) == ("MLflowVisBackend", "effdense", "run")
    made = logging_setup.visualizer_config({}, plan, str(tmp_path))["vis_backends"]
    assert [one["type"] for one in made] == ["LocalVisBackend", "WandbBackend", "MLflowVisBackend"]
    assert made[2]["tracking_uri"] == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert made[2]["artifact_location"] == (tmp_path / "mlruns").as_uri()
    other = logging_plan({"logging": {"mlflow": {"tracking_uri": "http://host:5000"}}}, "run")
    assert logging_setup.visualizer_config({}, other, str(tmp_path))["vis_backends"][-1]["tracking_uri"].endswith("000")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"console": "fancy"}, "'auto', 'plain', 'rich', got 'fancy'"),
        ({"tensorboard": "yes"}, "'auto', True or False, got 'yes'"),
        ({"wandb": "mine"}, r"logging.wandb must be None, True or dict\("),
        ({"mlflow": {"exp_nam": "a"}}, "logging.mlflow.exp_nam. Did you mean 'exp_name'"),
    ],
    ids=lambda value: "",
)
def test_values_are_checked(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        logging_plan({"logging": option}, "run", is_training_run=False)


def test_a_misspelt_key_is_refused_and_nothing_is_written(tiny_config: WriteConfig, tmp_path: Path) -> None:
    config = tiny_config("spelt")
    with pytest.raises(ConfigError, match=r"logging.*Did you mean 'wandb'"):
        load_config(config, {"logging.wanbd": True})
    with pytest.raises(ConfigError, match=r"logging\.console"):
        train(config, work_dir=str(tmp_path / "run"), options={"logging.console": "fancy"})
    assert not (tmp_path / "run").exists()


def test_training_and_validation_share_an_axis(trained: Run) -> None:
    """TensorBoard, W&B and MLflow get both by iteration, and the times of validation under names of their own."""
    rows = read_log(trained.work_dir)
    assert [row["step"] for row in rows if "coco/AP" in row] == [6, 12, 18]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 19))
    assert all("val/time" in row and "time" not in row for row in rows if "coco/AP" in row)


def test_wandb_gets_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    backend = object.__new__(WandbBackend)
    backend._wandb = SimpleNamespace(log=lambda values, step: sent.append((step, values)))
    backend._env_initialized = True
    backend.add_scalars({"loss": 1.0}, step=12, file_path="vis_data/1.json")
    assert sent == [(12, {"loss": 1.0})]
