"""Hooks of the training run; importing this package registers them."""

from effdense.engine.hooks.checkpoint import CheckpointHook
from effdense.engine.hooks.console import ConsoleHook
from effdense.engine.hooks.early_stopping import EarlyStoppingHook
from effdense.engine.hooks.ema import EMAHook, PreciseBNHook, SyncBuffersHook
from effdense.engine.hooks.guard import GuardHook
from effdense.engine.hooks.metrics_file import MetricsFileHook
from effdense.engine.hooks.pictures import PicturesHook
from effdense.engine.hooks.progressive import ProgressiveLearningHook
from effdense.engine.hooks.runtime_info import RuntimeInfoHook
from effdense.engine.hooks.transform_stages import TransformStagesHook

__all__ = [
    "CheckpointHook",
    "ConsoleHook",
    "EMAHook",
    "EarlyStoppingHook",
    "GuardHook",
    "MetricsFileHook",
    "PicturesHook",
    "PreciseBNHook",
    "ProgressiveLearningHook",
    "RuntimeInfoHook",
    "SyncBuffersHook",
    "TransformStagesHook",
]
