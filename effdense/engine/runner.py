"""mmengine's Runner with checkpoints that can be read back, resume that restores what it says, and errors that keep
their line.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.runner import Runner
from torch import nn

import effdense
from effdense.engine import checkpoint as files
from effdense.engine.distributed import EffDDP, gather_objects, rank_and_world
from effdense.engine.hooks.ema import EMAHook
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
    """

    def __init__(self, *args: Any, metadata: dict[str, Any], is_training_run: bool, **kwargs: Any) -> None:
        self.metadata = metadata
        self.progress: dict[str, Any] = {}
        self.is_training_run = is_training_run
        self._has_loaded = False
        super().__init__(*args, **kwargs)

    # -- building ------------------------------------------------------------------------------------------------------

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """To the device; DDP and, on GPU, SyncBN when distributed."""
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        model = model.to(device)
        if not self.distributed:
            return model
        if self.cfg.get("sync_bn"):
            if device.type == "cuda":
                model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            else:
                self.logger.warning(
                    "sync_bn: torch has no SyncBatchNorm on CPU; each process normalises its own batch."
                )
        return EffDDP(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=self.cfg.get("find_unused_parameters", False),
        )

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
        """Environment and resolved config go to files; the console gets one line."""
        if rank_and_world()[0] == 0:
            environment = {
                "effdense": effdense.__version__,
                "torch": str(torch.__version__),
                "mmengine": mmengine.__version__,
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
                "threads": torch.get_num_threads(),
                "world_size": self.world_size,
                "seed": self.seed,
            }
            Path(self.log_dir, "environment.json").write_text(json.dumps(environment, indent=1))
            self.logger.info("  ".join(f"{key} {value}" for key, value in environment.items()))

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    @property
    def shell(self) -> Any:
        """The mmengine shell inside a DDP wrapper, or the model."""
        return self.model.module if hasattr(self.model, "module") else self.model

    def write_checkpoint(
        self, path: Path, *, epoch: int, training_state: bool, metrics: dict[str, float] | None = None
    ) -> None:
        """Write a checkpoint; every rank must call it, rank 0 writes.

        Args:
            epoch: epochs completed.
            training_state: also save what resuming needs.
        """
        rngs = gather_objects(files.rng_state()) if training_state else None
        if rank_and_world()[0] != 0:
            return
        shell = self.shell
        averaged = shell.evaluation_network is not shell.network
        content: dict[str, Any] = {
            "format": files.FORMAT,
            "state_dict": shell.evaluation_network.state_dict(),
            "meta": {
                **self.metadata,
                "epoch": epoch,
                "iter": self.iter,
                "metrics": metrics or {},
                "seed": self.seed,
                "world_size": self.world_size,
                "iters_per_epoch": len(self.train_dataloader),
                "effdense_version": effdense.__version__,
                "torch_version": str(torch.__version__),
                "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
                "config_text": self._config_text(),
            },
            "progress": self.progress,
        }
        if training_state:
            if averaged:
                content["train_state_dict"] = shell.network.state_dict()
            content["optimizer"] = self.optim_wrapper.state_dict()
            content["param_schedulers"] = [scheduler.state_dict() for scheduler in self.param_schedulers or []]
            content["rng"] = rngs
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
            path = files.find_last(Path(self.work_dir)) if self._resume is True else Path(str(self._resume))
            if path is None:
                self.logger.warning(f"--resume: no checkpoint in {self.work_dir}; this run starts from the beginning.")
            else:
                self.resume(str(path))
                return
        if self._load_from is not None:
            self.load_checkpoint(self._load_from)

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

        Raises: WeightsError when the checkpoint holds weights only, is of another model, or of another number of
            processes or batches an epoch (the position would mean something else).
        """
        content = files.load(filename)
        meta = content["meta"]
        if "optimizer" not in content:
            raise WeightsError(
                f"{filename} holds weights only (best.pth does); resume from an epoch_N.pth of the same folder, or "
                f"start a new run from it with --cfg-options load_from={filename}."
            )
        expected = (self.world_size, len(self.train_dataloader))
        found = (meta["world_size"], meta["iters_per_epoch"])
        if found != expected:
            raise WeightsError(
                f"{filename} was written by {found[0]} process(es) with {found[1]} iterations an epoch, this run has "
                f"{expected[0]} and {expected[1]}; resume with the same processes and batch size, or start a new "
                f"run from its weights with --cfg-options load_from={filename}."
            )
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
        self.optim_wrapper.load_state_dict(content["optimizer"])
        schedulers = self.param_schedulers or []
        if len(schedulers) != len(content["param_schedulers"]):
            raise WeightsError(
                f"{filename} has {len(content['param_schedulers'])} schedules, the config {len(schedulers)}; resume "
                f"with the config the run was started with."
            )
        for scheduler, state in zip(schedulers, content["param_schedulers"], strict=True):
            scheduler.load_state_dict(state)
        self.train_loop._epoch = int(meta["epoch"])
        self.train_loop._iter = int(meta["epoch"]) * len(self.train_dataloader)
        self.progress = self._progress_after(Path(filename), content)
        files.set_rng_state(content["rng"][rank_and_world()[0]])
        self._has_loaded = True
        best = self.progress.get("best_score")
        said = "" if best is None else f", best {best:.4f} at epoch {self.progress['best_epoch']}"
        self.logger.info(f"resumed {filename}: {meta['epoch']} epochs done{said}")

    @staticmethod
    def _progress_after(path: Path, content: dict[str, Any]) -> dict[str, Any]:
        """Best score up to and including a checkpoint's epoch.

        An epoch is saved before it is validated, so its own score is only known to ``best.pth``, if it was the best.
        """
        try:
            best = files.load(path.with_name("best.pth"))
        except WeightsError:
            return dict(content["progress"])
        of_this_epoch = best["meta"]["epoch"] == content["meta"]["epoch"]
        return dict((best if of_this_epoch and "progress" in best else content)["progress"])

    def dump_config(self) -> None:
        """The resolved config beside the checkpoints of a training run; an evaluation does not write over it."""
        if self.is_training_run and rank_and_world()[0] == 0:
            name = os.path.basename(self.cfg.filename) if self.cfg.filename else "config.py"
            Path(self.work_dir, name).write_text(self._config_text())
