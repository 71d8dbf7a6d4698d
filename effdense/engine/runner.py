"""mmengine's Runner with checkpoints that can be read back, resume that restores what it says, and errors that keep
their line.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from torch import Tensor, nn

import effdense
from effdense.engine import checkpoint as files
from effdense.engine.distributed import EffDDP, gather_objects, on_main_then_all, rank_and_world
from effdense.engine.environment import describe_environment, without_home
from effdense.engine.hooks.checkpoint import CheckpointHook
from effdense.engine.hooks.console import ConsoleHook
from effdense.engine.hooks.ema import EMAHook
from effdense.engine.hooks.pictures import PicturesHook
from effdense.engine.logging_setup import only, with_console
from effdense.engine.loop import EpochLoop
from effdense.engine.ranks import moved
from effdense.engine.resume_checks import require_same_classes, require_same_optimizer, require_same_steps
from effdense.engine.schedule_replay import (
    changed_options,
    changed_schedules,
    follows_validation,
    keep_position,
    replay_schedules,
    resume_validated,
)
from effdense.engine.stopping import StopRequests
from effdense.engine.sync_batch_norm import convert_sync_batch_norm
from effdense.errors import WeightsError
from effdense.models.weights import load_weights
from effdense.models.weights.load import read_checkpoint

# Names under ``default_hooks`` that mmengine fills in itself unless they are None.
_MMENGINE_HOOKS = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")


class EffRunner(Runner):
    """Runner whose model is one of our shells (``network``, ``evaluation_network``, ``start_ema``).

    Attributes:
        metadata: what travels in every checkpoint: model arguments, classes, category ids, mean/std, image size.
        progress: best score so far and its epoch.
        is_training_run: False in ``tools/test.py``, so that nothing is saved from there.
        resumed_from: the checkpoint that this run goes on with.
    """

    def __init__(self, *args: Any, metadata: dict[str, Any], is_training_run: bool, **kwargs: Any) -> None:
        self.metadata = metadata
        self.progress: dict[str, Any] = {}
        self.is_training_run = is_training_run
        self.resumed_from: Path | None = None
        self._has_loaded = False
        self._streams: dict[str, Any] | None = None
        dist_cfg = (kwargs.get("env_cfg") or {}).get("dist_cfg") or {}
        self._stop = StopRequests(timeout=dist_cfg.get("timeout", 1800.0))
        super().__init__(*args, **kwargs)

    # -- building ------------------------------------------------------------------------------------------------------

    def build_logger(self, *args: Any, **options: Any) -> Any:
        """mmengine's, with a console that a person reads and a bar can share; the file keeps everything."""
        return with_console(super().build_logger(*args, **options))

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """To the device; DDP and, where the config says so, SyncBN when distributed."""
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        model = model.to(device)
        if not self.distributed:
            return model
        if self.cfg.get("sync_bn"):
            convert_sync_batch_norm(model, keep=getattr(model, "frozen_modules", ()))
        return EffDDP(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=self.cfg.get("find_unused_parameters", False),
        )

    def build_train_loop(self, loop: Any) -> Any:
        """Our loop for ``train_cfg``; mmengine's are not resumable inside an epoch."""
        if not isinstance(loop, dict):
            return loop
        return EpochLoop(self, self._train_dataloader, **{k: v for k, v in loop.items() if k != "by_epoch"})

    def train(self) -> Any:
        """Train; SIGTERM and SIGUSR1 save at the next step and end the process."""
        self._stop.install()
        try:
            trained = super().train()
            self._stop.leave()
            return trained
        finally:
            self._stop.remove()
            for hook in self._hooks:
                if isinstance(hook, ConsoleHook):
                    hook.close()  # whatever ended the run: no half-drawn bar, and the cursor is back
                elif isinstance(hook, PicturesHook):
                    hook.close(self)  # curves up to the end

    def stop_if_asked(self) -> None:
        """End the process if a signal has asked for it, with a checkpoint of exactly here.

        Raises: SystemExit with 128 + the signal's number.
        """
        if not self.optim_wrapper.should_update():
            return  # gradients of an accumulation window are in no checkpoint
        received = self._stop.agreed(self.iter)
        if received is None:
            return
        for hook in self._hooks:
            if isinstance(hook, CheckpointHook):
                path = hook.save_now(self)
                self.logger.warning(f"signal {received}: saved {path}; go on with --resume.")
                break
        else:
            self.logger.warning(f"signal {received}: the config has no CheckpointHook, so nothing was saved.")
        raise SystemExit(128 + received)

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: Any = None) -> None:
        """Linear LR scaling by the batch an optimizer step sees: processes x batch x accumulation."""
        if not auto_scale_lr or not auto_scale_lr.get("enable", False):
            return
        batch = self.world_size * self.train_dataloader.batch_size * optim_wrapper._accumulative_counts
        factor = batch / auto_scale_lr["base_batch_size"]
        for group in optim_wrapper.param_groups:
            group["lr"] *= factor
        self.logger.info(
            f"LR x {factor:g}: batch {batch} per optimizer step, the config's LR is for "
            f"{auto_scale_lr['base_batch_size']}."
        )

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """mmengine's, without its re-raise of TypeErrors that drops the file and line."""
        # Processes pass the same places in training; of batches of validation some may have one more.
        moved(f"{fn_name} of epoch {self.epoch + 1}, iteration {self.iter + 1}", counts="_val_iter" not in fn_name)
        for hook in self._hooks:
            if hasattr(hook, fn_name):
                getattr(hook, fn_name)(self, **kwargs)

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """mmengine's, except that every hook may be dropped with None, not only the ones it has by default."""
        super().register_default_hooks(
            {name: hook for name, hook in (hooks or {}).items() if hook is not None or name in _MMENGINE_HOOKS}
        )

    def get_hooks_info(self) -> str:
        """One line instead of a page."""
        return ", ".join(type(hook).__name__ for hook in self._hooks)

    def _log_env(self, env_cfg: Any) -> None:
        """Environment and resolved config go to files; the head of the log has what a person looks for."""
        if rank_and_world()[0] == 0:
            environment = {
                **describe_environment(),
                "world_size": self.world_size,
                "seed": self.seed,
                "config": without_home(str(self.cfg.filename or "")),
                "config_text": without_home(self._config_text()),
            }
            Path(self.log_dir, "environment.json").write_text(json.dumps(environment, indent=1))
            shown = {key: value for key, value in environment.items() if key != "config_text"}
            self.logger.info("  ".join(f"{key} {value}" for key, value in shown.items()), extra=only("file"))

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    @property
    def shell(self) -> Any:
        """The mmengine shell inside a DDP wrapper, or the model."""
        return self.model.module if hasattr(self.model, "module") else self.model

    def write_checkpoint(
        self,
        path: Path,
        *,
        epoch: int,
        training_state: bool,
        batches_done: int = 0,
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Write a checkpoint; every rank must call it, rank 0 writes.

        Args:
            epoch: epochs completed. batches_done: of the one after them.
            training_state: also save what resuming needs.
        """
        shell = self.shell
        rngs = gather_objects(files.rng_state()) if training_state else None
        # At the end of an epoch they were averaged over the ranks.
        buffers = gather_objects(_local_buffers(shell)) if training_state and batches_done else None
        on_main_then_all(lambda: self._write(path, epoch, batches_done, metrics, rngs, buffers))

    def _write(
        self,
        path: Path,
        epoch: int,
        batches_done: int,
        metrics: dict[str, float] | None,
        rngs: list[Any] | None,
        buffers: list[Any] | None,
    ) -> None:
        shell = self.shell
        averaged = shell.evaluation_network is not shell.network
        content: dict[str, Any] = {
            "format": files.FORMAT,
            "state_dict": shell.evaluation_network.state_dict(),
            "meta": {
                **self.metadata,
                "epoch": epoch,
                "batches_done": batches_done,
                "iter": epoch * len(self.train_dataloader) + batches_done,
                "metrics": metrics or {},
                "seed": self.seed,
                "world_size": self.world_size,
                "iters_per_epoch": len(self.train_dataloader),
                "batch_size": self.train_dataloader.batch_size,
                "accumulative_counts": self.optim_wrapper._accumulative_counts,
                "optimizer": type(self.optim_wrapper.optimizer).__name__,
                "effdense_version": effdense.__version__,
                "torch_version": str(torch.__version__),
                "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
                "config_text": self._config_text(),
            },
            "progress": self.progress,
        }
        if rngs is not None:
            if averaged:
                content["train_state_dict"] = shell.network.state_dict()
            content["optimizer"] = self.optim_wrapper.state_dict()
            content["param_schedulers"] = [scheduler.state_dict() for scheduler in self.param_schedulers or []]
            content["rng"] = rngs
            content["history"] = _history(self.message_hub)
            if buffers is not None and len(buffers) > 1:
                content["local_buffers"] = buffers
        files.save_atomically(files.plain(content), path)

    def _config_text(self) -> str:
        """The resolved config, for reading only: nothing ever runs it. Rendered once, yapf takes seconds on long
        ones.
        """
        if not hasattr(self, "_config_text_cache"):
            self._config_text_cache = str(self.cfg.pretty_text)
        return self._config_text_cache

    def load_or_resume(self) -> None:
        """``resume`` (True or a path) goes on with a run, ``load_from`` starts from weights."""
        if self._has_loaded:
            return
        self._has_loaded = True
        if self.is_training_run:  # mmengine counts iterations from here on
            self.optim_wrapper.epoch_length = len(self.train_dataloader)
        if self._resume:
            # One looks for all: processes that found different files would wait for each other for ever.
            path = on_main_then_all(self._newest) if self._resume is True else Path(str(self._resume))
            if path is None and on_main_then_all(lambda: bool(files.written_checkpoints(Path(self.work_dir)))):
                raise WeightsError(
                    f"--resume: none of the checkpoints in {self.work_dir} can be read, so starting over would write "
                    "over what may be saved of them. Restore one, or give another --work-dir."
                )
            if path is None:
                self.logger.warning(f"--resume: no checkpoint in {self.work_dir}; this run starts from the beginning.")
            else:
                self.resume(str(path))
                return
        elif self.is_training_run and rank_and_world()[0] == 0:
            earlier = files.written_checkpoints(Path(self.work_dir))
            if earlier:
                self.logger.warning(
                    f"{self.work_dir} holds checkpoints of an earlier run (the latest is {earlier[0].name}). This run "
                    "starts from the beginning and writes over them; --resume goes on with the earlier one, another "
                    "--work-dir keeps it."
                )
        if self._load_from is not None:
            self.load_checkpoint(self._load_from)

    def _newest(self) -> Path | None:
        return files.find_last(Path(self.work_dir), report=self.logger.warning)

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """Weights into the network, all or nothing, with a line that says what was loaded.

        Raises: WeightsError, in evaluation also when any tensor would stay at its initialisation, or when the
            checkpoint was trained for other classes than those it is to be scored on.
        """
        content = read_checkpoint(filename)
        network = self.shell.network
        if not self.is_training_run:
            trained = (content.get("meta") or {}).get("classes") if isinstance(content, dict) else None
            if trained is not None and list(trained) != self.metadata["classes"]:
                raise WeightsError(
                    f"{filename} was trained for the classes {list(trained)}, the annotations have "
                    f"{self.metadata['classes']}; evaluate on the classes of the training set."
                )
        report = load_weights(network, content, class_names=self.metadata["classes"])
        self._note_convention()
        if not self.is_training_run:
            expected = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
            untouched = sorted(set(expected) - set(report.loaded))
            if untouched:
                raise WeightsError(
                    f"{filename} holds {len(expected) - len(untouched)} of the {len(expected)} tensors of "
                    f"{network.config.name} with {network.num_classes} classes; {untouched[0]} and others would "
                    f"stay random. Evaluation needs all of them."
                )
        self.logger.info(f"{filename}: {report}")
        return report

    def _note_convention(self) -> None:
        """What loaded weights have changed, into the shell and into what checkpoints say."""
        self.shell.note_convention()
        self.metadata |= {"mean": list(self.shell.mean), "std": list(self.shell.std)}

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Restore weights, moving average, optimizer, schedules, position, best score and random streams.

        Raises: WeightsError when the checkpoint holds weights only, is of another model, other classes or another
            optimizer, or of another number of processes or batches an epoch (the position would mean something else).
        """
        content = files.load(filename)
        meta = content["meta"]
        if "optimizer" not in content:
            raise WeightsError(
                f"{filename} holds weights only (best.pth does); resume from an epoch_N.pth of the same folder, or "
                f"start a new run from it with --cfg-options load_from={filename}."
            )
        require_same_steps(self, filename, meta)
        require_same_classes(self, filename, meta)
        if "train_state_dict" in content and not any(isinstance(hook, EMAHook) for hook in self._hooks):
            raise WeightsError(
                f"{filename} holds a moving average, but the config has no EMAHook that would go on with it; "
                "resume with the config the run was started with."
            )
        shell = self.shell
        # The meta beside the tensors says their convention; the training weights have it too.
        load_weights(shell.network, {**content, "state_dict": content.get("train_state_dict", content["state_dict"])})
        self._note_convention()
        if "train_state_dict" in content:
            load_weights(shell.start_ema(), content)
        self._resume_optimizer(filename, content)
        rank = rank_and_world()[0]
        if "local_buffers" in content:
            _set_local_buffers(shell, content["local_buffers"][rank])
        loop, epoch, done = self.train_loop, int(meta["epoch"]), int(meta.get("batches_done", 0))
        loop._epoch, loop.batches_done = epoch, done
        loop._iter = epoch * len(self.train_dataloader) + done
        loop._decide_current_val_interval()
        _set_history(self.message_hub, content.get("history", {}))
        self.progress = dict(content["progress"])
        if done == 0 and epoch > 0:
            # An epoch is saved before it is validated, so what that gave is written down beside it.
            validated = on_main_then_all(lambda: files.read_validations(Path(filename).parent)).get(str(epoch))
            if validated is not None:
                self.progress = dict(validated)
                resume_validated(self.param_schedulers or [], self.progress)
            loop.validate_first = validated is None and loop.is_due(epoch)
        self._streams = content["rng"][rank]
        self._has_loaded, self.resumed_from = True, Path(filename)
        best = self.progress.get("best_score")
        said = "" if best is None else f", best {best:.4f} at epoch {self.progress['best_epoch']}"
        inside = f" and {done} of {len(self.train_dataloader)} iterations" if done else ""
        self.logger.info(f"resumed {filename}: {epoch} epochs{inside} done{said}")
        if rank == 0 and meta.get("seed", self.seed) != self.seed:
            half = "; of the epoch at hand some pictures come twice and some not at all" if done else ""
            self.logger.warning(f"the seed was {meta['seed']} and is {self.seed}: another run from here on{half}.")
        if loop.validate_first:
            self.logger.info(f"epoch {epoch} was not validated before the run ended; that comes first.")

    def _resume_optimizer(self, filename: str, content: dict[str, Any]) -> None:
        """Optimizer and schedules; a schedule that the config has changed since is followed as the config says."""
        schedulers, states = self.param_schedulers or [], content["param_schedulers"]
        if len(schedulers) != len(states):
            raise WeightsError(
                f"{filename} has {len(states)} schedules, the config {len(schedulers)}; resume with the config the run "
                f"was started with."
            )
        require_same_optimizer(self, filename, content)
        changed = changed_schedules(schedulers, states)
        scheduled = {scheduler.param_name for scheduler in schedulers}
        beginnings = {f"initial_{name}" for name in scheduled}
        kept = changed_options(
            self.optim_wrapper.param_groups,
            content["optimizer"]["param_groups"],
            scheduled | (beginnings if changed else set()),
        )
        if changed:
            meta = content["meta"]
            replay_schedules(schedulers, int(meta["epoch"]), len(self.train_dataloader), int(meta["batches_done"]))
            by_scores = {s.param_name for s in schedulers if follows_validation(s)}
            names = (scheduled - by_scores) | beginnings
            values = [{n: group[n] for n in names if n in group} for group in self.optim_wrapper.param_groups]
        self.optim_wrapper.load_state_dict(content["optimizer"])
        if kept:
            self.logger.warning(
                f"optimizer: {', '.join(kept)}. A resumed run keeps what was saved; a new one from its weights "
                f"(--cfg-options load_from={filename}) takes the config's."
            )
        if not changed:
            for scheduler, state in zip(schedulers, states, strict=True):
                scheduler.load_state_dict(state)
            return
        for group, value in zip(self.optim_wrapper.param_groups, values, strict=True):
            group.update(value)
        for scheduler, state in zip(schedulers, states, strict=True):
            if follows_validation(scheduler):
                keep_position(scheduler, state)
        self.logger.info(f"the schedule goes on as the config says now: {', '.join(changed)}.")

    def restore_random_streams(self) -> None:
        """Go on with the random numbers of a resumed run; once, right before its first step."""
        if self._streams is not None:
            files.set_rng_state(self._streams)
            self._streams = None

    def dump_config(self) -> None:
        """The resolved config beside the checkpoints of a training run; an evaluation does not write over it."""
        if self.is_training_run and rank_and_world()[0] == 0:
            name = os.path.basename(self.cfg.filename) if self.cfg.filename else "config.py"
            Path(self.work_dir, name).write_text(self._config_text())


def _networks(shell: Any) -> list[nn.Module]:
    """The network, and its moving average where it has one."""
    return list(dict.fromkeys([shell.network, shell.evaluation_network]))


def _local_buffers(shell: Any) -> list[dict[str, Tensor]]:
    """Floating-point buffers (BatchNorm statistics) of this rank, per network."""
    return [
        {name: value.detach().cpu() for name, value in network.named_buffers() if value.is_floating_point()}
        for network in _networks(shell)
    ]


def _set_local_buffers(shell: Any, buffers: list[dict[str, Tensor]]) -> None:
    """Inverse of :func:`_local_buffers`."""
    for network, values in zip(_networks(shell), buffers, strict=True):
        mine = dict(network.named_buffers())
        for name, value in values.items():
            mine[name].copy_(value)


def _history(hub: Any) -> dict[str, Any]:
    """Logged scalars of training, as far as they are kept: a smoothed loss then goes on where it was."""
    return {
        name: {"values": torch.as_tensor(values), "counts": torch.as_tensor(counts)}
        for name, (values, counts) in ((key, buffer.data) for key, buffer in hub.log_scalars.items())
        if name.startswith("train/")
    }


def _set_history(hub: Any, history: dict[str, Any]) -> None:
    """Inverse of :func:`_history`."""
    for name, kept in history.items():
        hub.log_scalars[name] = HistoryBuffer(kept["values"].tolist(), kept["counts"].tolist())
