"""Where what a run says goes: the console, the log file, TensorBoard, W&B, MLflow.

In: the config's ``logging`` section. Out: a plan that is checked before anything is written, a console handler that a
live bar and the log lines share, and mmengine's visual back ends. The log file keeps everything; the console shows what
a person reads.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mmengine.visualization import vis_backend
from rich.console import Console
from rich.text import Text

from effdense.engine.distributed import rank_and_world
from effdense.engine.registry import VISBACKENDS
from effdense.errors import ConfigError, MissingExtra, did_you_mean

CONSOLES = ("auto", "plain", "rich")
# Lines that only the log file needs: mmengine's own, and what the row of a validation says already.
_FILE_ONLY = re.compile(r"Hooks will be executed|Exp name: |best \S+ \S+ at epoch \d+: |pictures: .*val_predictions")


@VISBACKENDS.register_module()
class WandbBackend(vis_backend.WandbVisBackend):
    """mmengine's, which sends numbers (by iteration) and the config, and no source files of the working directory."""

    @vis_backend.force_init_env
    def add_config(self, config: Any, **options: Any) -> None:
        assert self._init_kwargs is not None
        changes = bool(self._init_kwargs.get("allow_val_change", False))
        self._wandb.config.update(config.to_dict(), allow_val_change=changes)

    @vis_backend.force_init_env
    def add_scalars(self, scalar_dict: dict[str, Any], step: int = 0, *_: Any, **__: Any) -> None:
        self._wandb.log(scalar_dict, step=step)

    def close(self) -> None:
        if hasattr(self, "_wandb"):
            self._wandb.finish()


@dataclass(frozen=True)
class LoggingPlan:
    """What the ``logging`` section asks for, on this machine.

    Attributes:
        backends: configs of mmengine's visual back ends beside the local one.
        console: ``auto`` | ``plain`` | ``rich``.
        notes: lines for the head of the log.
    """

    backends: tuple[dict[str, Any], ...]
    console: str
    notes: tuple[str, ...] = ()


def logging_plan(cfg: Mapping[str, Any], run_name: str, *, is_training_run: bool = True) -> LoggingPlan:
    """Read the ``logging`` section.

    Args:
        run_name: what W&B and MLflow call the run where the config does not say.
        is_training_run: an evaluation sends nothing anywhere.

    Raises:
        ConfigError: a value that cannot be used. MissingExtra: a service that is asked for and not installed.
    """
    section = dict(cfg.get("logging") or {})
    console, tensorboard = section.get("console", "auto"), section.get("tensorboard", "auto")
    if console not in CONSOLES:
        raise ConfigError(f"logging.console must be one of {', '.join(map(repr, CONSOLES))}, got {console!r}.")
    if tensorboard not in ("auto", True, False, None):
        raise ConfigError(f"logging.tensorboard must be 'auto', True or False, got {tensorboard!r}.")
    wandb = _options(section.get("wandb"), "wandb", "project='mine', name='first try'")
    mlflow = _options(section.get("mlflow"), "mlflow", "exp_name='mine', tracking_uri='http://host:5000'")
    known = [name for name in inspect.signature(vis_backend.MLflowVisBackend).parameters if name != "save_dir"]
    for key in mlflow or ():
        if key not in known:
            raise ConfigError(
                f"unknown key logging.mlflow.{key}.{did_you_mean(key, known)} Known here: {', '.join(known)}."
            )
    if not is_training_run:
        return LoggingPlan((), console)
    backends: list[dict[str, Any]] = []
    notes: list[str] = []
    given = {dict(one).get("type") for one in (cfg.get("visualizer") or {}).get("vis_backends") or ()}
    if "TensorboardVisBackend" not in given and _has_tensorboard(tensorboard, notes):
        backends.append({"type": "TensorboardVisBackend"})
    if wandb is not None:
        _require("wandb", "wandb")
        backends.append({"type": "WandbBackend", "init_kwargs": {"project": "effdense", "name": run_name, **wandb}})
    if mlflow is not None:
        _require("mlflow", "mlflow")
        backends.append({"type": "MLflowVisBackend", "exp_name": "effdense", "run_name": run_name, **mlflow})
    return LoggingPlan(tuple(backends), console, tuple(notes))


def _has_tensorboard(wanted: Any, notes: list[str]) -> bool:
    if not wanted:
        return False
    if wanted is True:
        _require("tensorboard", "tensorboard")
    elif importlib.util.find_spec("tensorboard") is None:
        return False
    if rank_and_world()[0] != 0:  # the others write nothing
        return True
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401  # whether it can be used at all
    except Exception as error:  # whatever an installation that does not fit raises
        if wanted is True:
            raise MissingExtra(
                f"logging.tensorboard=True: the installed tensorboard cannot be imported ({type(error).__name__}: "
                f"{error}); run: pip install --upgrade tensorboard"
            ) from error
        notes.append(f"TensorBoard is installed but cannot be imported ({type(error).__name__}); going on without it.")
        return False
    return True


def _options(value: Any, name: str, example: str) -> dict[str, Any] | None:
    """True -> {}, a dict -> itself, None or False -> None."""
    if value is None or value is False:
        return None
    if value is True:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(f"logging.{name} must be None, True or dict({example}), got {value!r}.")


def _require(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(f"logging.{option} needs {package}, which is not installed; run: pip install {package}")


def visualizer_config(cfg: Mapping[str, Any], plan: LoggingPlan, work_dir: str) -> dict[str, Any]:
    """The config's ``visualizer`` with the plan's back ends; MLflow writes into ``work_dir`` unless told where."""
    section = dict(cfg.get("visualizer") or {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]})
    backends = [dict(one) for one in plan.backends]
    for one in backends:
        if one["type"] == "MLflowVisBackend" and not one.get("tracking_uri"):
            # mmengine's default is a folder of files, which MLflow 3 refuses to write.
            folder = Path(work_dir).absolute()
            one["tracking_uri"] = f"sqlite:///{folder / 'mlflow.db'}"
            one.setdefault("artifact_location", (folder / "mlruns").as_uri())  # else the working directory
    section["vis_backends"] = [*(section.get("vis_backends") or ()), *backends]
    return section


# -- the console -------------------------------------------------------------------------------------------------------


class ConsoleHandler(logging.StreamHandler):
    """Short lines on standard output, in turn with a live bar.

    mmengine's handler keeps the stream it was made with, so its lines would tear a bar; this one prints through the
    bar's console while there is one, and else to what ``sys.stdout`` is at the time.

    Attributes:
        live: the console of the bar that is drawn now, None without. muted: whether lines go to the log file alone.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        logging.Handler.__init__(self, level)
        self.live: Console | None = None
        self.muted = False
        self.setFormatter(ConsoleFormatter(datefmt="%H:%M:%S"))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout

    def filter(self, record: logging.LogRecord) -> Any:
        if getattr(record, "only", "console") != "console":
            return False
        if record.levelno < logging.WARNING and (self.muted or _FILE_ONLY.match(str(record.msg))):
            return False
        return super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        if self.live is None:
            super().emit(record)
            return
        try:
            self.live.print(Text(self.format(record)), soft_wrap=True)
        except Exception:
            self.handleError(record)


class ConsoleFormatter(logging.Formatter):
    """``12:30:59 text``, with the level where it is not INFO; no colours, so that a pipe gets none."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname}: "
        text = f"{self.formatTime(record, self.datefmt)} {level}{record.getMessage()}"
        return text if not record.exc_info else f"{text}\n{self.formatException(record.exc_info)}"


def only(where: str) -> dict[str, Any]:
    """For ``logger.info(text, extra=only("file"))``: a line for the ``file`` or for the ``console`` alone."""
    return {"only": where}


def with_console(logger: Any) -> Any:
    """mmengine's logger with our console handler in place of its own, for this rank's lines."""
    for i, handler in enumerate(logger.handlers):
        if isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: getattr(record, "only", "file") == "file")
        elif type(handler) is logging.StreamHandler:
            ours = ConsoleHandler(handler.level)
            ours.filters = list(handler.filters)
            logger.handlers[i] = ours
    return logger


def console_handler(logger: Any) -> ConsoleHandler | None:
    """Our handler of a logger, None where it has another."""
    return next((one for one in getattr(logger, "handlers", ()) if isinstance(one, ConsoleHandler)), None)


@contextmanager
def to_file_only(logger: Any) -> Iterator[None]:
    """Lines logged inside go to the log file alone."""
    handler = console_handler(logger)
    if handler is None:
        yield
        return
    handler.muted = True
    try:
        yield
    finally:
        handler.muted = False


def live_console(choice: str) -> Console | None:
    """The console for live bars: on rank 0, where standard output is a terminal or ``choice`` is ``rich``."""
    if rank_and_world()[0] != 0 or choice == "plain":
        return None
    # Not what rich makes of it, which takes a pipe for a terminal where FORCE_COLOR is set, as in many CI systems.
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, force_terminal=choice == "rich" or is_terminal)
    return console if console.is_terminal and not console.is_dumb_terminal else None
