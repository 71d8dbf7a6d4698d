"""What a config may hold: keys of the sections that no ``type=`` describes, which registry resolves each typed one, and
the values of options that take one of a few words.
"""

from __future__ import annotations

from typing import Any, get_args

from mmengine.registry import Registry

from effdense.data.combining.class_mapping import UNMAPPED
from effdense.data.readers.cityscapes import FORMS
from effdense.data.readers.formats import FORMATS
from effdense.data.readers.voc_detection import Difficult
from effdense.engine import registry as reg
from effdense.engine.combined_datasets import PART_KEYS
from effdense.engine.distributed import LAUNCHERS
from effdense.engine.logging_setup import CONSOLES
from effdense.evaluation.coco_ap import BACKENDS
from effdense.models.detection.postprocess import NMS_METHODS
from effdense.models.necks.bifpn import FUSIONS
from effdense.models.necks.resample import DOWNSAMPLES, PADDINGS, UPSAMPLES
from effdense.models.segmentation.decoder_names import DECODERS
from effdense.models.segmentation.families import ATTENTION, UPSAMPLING

SPLITS = ("train", "val", "test")
DATALOADER_KEYS = frozenset(
    {
        "batch_size",
        "num_workers",
        "persistent_workers",
        "pin_memory",
        "prefetch_factor",
        "drop_last",
        "timeout",
        "shuffle",
        "sampler",
        "group_by_aspect",
        "cache",
        "dataset",
    }
)
_TRAINING_ONLY = frozenset({"shuffle", "drop_last", "sampler"})  # others: every sample once, in order
# Keys of sections that no `type=` describes.
SECTIONS: dict[str, frozenset[str]] = {
    "train_dataloader": DATALOADER_KEYS,
    "val_dataloader": DATALOADER_KEYS - _TRAINING_ONLY,
    "test_dataloader": DATALOADER_KEYS - _TRAINING_ONLY,
    "train_cfg": frozenset({"by_epoch", "max_epochs", "val_begin", "val_interval", "dynamic_intervals"}),
    "val_cfg": frozenset(),
    "test_cfg": frozenset(),
    "auto_scale_lr": frozenset({"base_batch_size", "enable"}),
    "env_cfg": frozenset({"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"}),
    "env_cfg.mp_cfg": frozenset({"mp_start_method", "opencv_num_threads"}),
    "env_cfg.dist_cfg": frozenset({"backend", "timeout"}),
    "randomness": frozenset({"seed", "deterministic"}),
    "logging": frozenset({"tensorboard", "wandb", "mlflow", "console"}),
    "data_check": frozenset({"enable", "decode", "files"}),
    "optim_wrapper.clip_grad": frozenset(
        {
            "type",
            "max_norm",
            "norm_type",
            "clip_value",
            "error_if_nonfinite",
            "foreach",
            "clip_factor",
            "eps",
            "exclude",
        }
    ),
    "optim_wrapper.paramwise_cfg": frozenset(
        {
            "custom_keys",
            "bias_lr_mult",
            "bias_decay_mult",
            "norm_decay_mult",
            "flat_decay_mult",
            "dwconv_decay_mult",
            "dcn_offset_lr_mult",
            "bypass_duplicate",
            "encoder_lr_mult",
            "layer_decay",
        }
    ),
    "default_hooks": frozenset(
        {
            "runtime_info",
            "timer",
            "sampler_seed",
            "logger",
            "metrics_file",
            "guard",
            "param_scheduler",
            "checkpoint",
            "ema",
            "precise_bn",
            "sync_buffers",
            "pictures",
            "early_stopping",
            "progressive",
            "transform_stages",
        }
    ),
}
# Keys of each entry of ``paramwise_cfg.custom_keys`` (mmengine's constructor).
CUSTOM_KEYS = frozenset({"lr_mult", "decay_mult"})
SCALARS = frozenset(
    {
        "image_size",
        "classes",
        "work_dir",
        "default_scope",
        "load_from",
        "resume",
        "launcher",
        "log_level",
        "experiment_name",
        "sync_bn",
        "find_unused_parameters",
        "custom_imports",
    }
)
# Sections whose dicts carry `type=`; the registry that resolves it and, where mmengine has one, the default type.
TYPED: dict[str, tuple[Registry, str | None]] = {
    "model": (reg.MODELS, None),
    "train_dataloader.dataset": (reg.DATASETS, None),
    "val_dataloader.dataset": (reg.DATASETS, None),
    "test_dataloader.dataset": (reg.DATASETS, None),
    "train_dataloader.sampler": (reg.SAMPLERS, None),
    "optim_wrapper": (reg.OPTIM_WRAPPERS, "EffOptimWrapper"),
    "optim_wrapper.optimizer": (reg.OPTIMIZERS, None),
    "param_scheduler": (reg.PARAM_SCHEDULERS, None),
    "val_evaluator": (reg.METRICS, None),
    "test_evaluator": (reg.METRICS, None),
    "custom_hooks": (reg.HOOKS, None),
    "log_processor": (reg.LOG_PROCESSORS, "LogProcessor"),
    "visualizer": (reg.VISUALIZERS, None),
    "visualizer.vis_backends": (reg.VISBACKENDS, None),
}
# Those that may be a list of dicts.
LISTS = frozenset({"param_scheduler", "custom_hooks", "visualizer.vis_backends"})
# Arguments that the engine supplies itself, and those that it fills in where the config does not say them.
SUPPLIED = frozenset({"self", "optimizer", "params", "runner", "args", "kwargs", "cfg"})
FILLED_IN = frozenset({"num_classes", "image_size", "size", "end", "save_dir"})
# Keys that are read beside the constructor's own, by the engine or by mmengine's builders.
EXTRA: dict[str, frozenset[str]] = {
    "optim_wrapper": frozenset({"optimizer", "paramwise_cfg", "constructor", "clip_grad"}),
    "param_scheduler": frozenset({"convert_to_iter_based"}),
    "datasets": PART_KEYS,
    "custom_hooks": frozenset({"priority"}),
    "default_hooks": frozenset({"priority"}),
}
# Options outside typed sections that take one of a few words, by path.
WORDS: dict[str, tuple[Any, ...]] = {
    "default_scope": (reg.SCOPE,),
    "launcher": LAUNCHERS,
    "log_level": ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET"),
    "logging.console": CONSOLES,
    "logging.tensorboard": ("auto", True, False),
    "env_cfg.mp_cfg.mp_start_method": ("fork", "spawn", "forkserver"),
    "env_cfg.dist_cfg.backend": ("nccl", "gloo", "mpi", "ucc", "xccl", "hccl", "cpu:gloo,cuda:nccl"),
    "optim_wrapper.clip_grad.type": ("norm", "value", "agc"),
    "optim_wrapper.constructor": ("QuietOptimWrapperConstructor", "DefaultOptimWrapperConstructor"),
}
# The same inside typed sections, by (type, argument), where the signature does not say so itself (``Literal``).
OPTIONS: dict[tuple[str, str], tuple[Any, ...]] = {
    ("EffOptimWrapper", "dtype"): (None, "auto", "bfloat16", "float16"),
    ("CocoMetric", "backend"): BACKENDS,
    ("Cityscapes", "masks"): FORMS,
    ("DetectionData", "format"): (None, *FORMATS),
    ("VocDetection", "difficult"): get_args(Difficult),
    ("ClassBalanced", "image"): ("rarest", "mean"),
    ("GuardHook", "non_finite"): ("stop", "skip"),
    ("EarlyStoppingHook", "rule"): ("greater", "less"),
    ("DetectionModel", "fusion"): FUSIONS,
    ("DetectionModel", "activation"): ("silu", "relu", "relu6"),
    ("DetectionModel", "padding"): PADDINGS,
    ("DetectionModel", "upsample"): UPSAMPLES,
    ("DetectionModel", "downsample"): DOWNSAMPLES,
    ("DetectionModel", "nms"): NMS_METHODS,
    ("SegmentationModel", "decoder"): tuple(DECODERS),
    ("SegmentationModel", "activation"): ("silu", "relu", "relu6"),
    ("SegmentationModel", "attention"): (None, *ATTENTION),
    ("SegmentationModel", "upsample"): UPSAMPLING,
    **{(f"Mapped{task}", "unmapped"): UNMAPPED for task in ("Detection", "Segmentation", "Classification")},
}


def top_level_keys() -> frozenset[str]:
    """Every top-level key that something reads."""
    return SCALARS | {key.split(".")[0] for key in (*SECTIONS, *TYPED)}
