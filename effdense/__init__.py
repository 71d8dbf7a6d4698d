"""effdense: efficient dense prediction. EfficientNet encoders, EfficientDet detectors and EfficientUNet segmentors,
trained and evaluated through mmengine.

The names below are the public face; they are imported on first use, so ``import effdense`` alone stays light, and
nothing but ``effdense.engine`` ever imports mmengine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_FACE = {
    "list_models": "effdense.models.names",
    "create_encoder": "effdense.models.encoders",
    "create_detector": "effdense.models.detection",
    "create_segmentor": "effdense.models.segmentation",
    "create_classifier": "effdense.models.classification",
    "load_weights": "effdense.models.weights",
    "load": "effdense.predict",
    "Predictor": "effdense.predict",
    "Detections": "effdense.results",
    "SegmentationMap": "effdense.results",
    "Classification": "effdense.results",
}

if TYPE_CHECKING:
    from effdense.models.classification import create_classifier
    from effdense.models.detection import create_detector
    from effdense.models.encoders import create_encoder
    from effdense.models.names import list_models
    from effdense.models.segmentation import create_segmentor
    from effdense.models.weights import load_weights
    from effdense.predict import Predictor, load
    from effdense.results import Classification, Detections, SegmentationMap

__all__ = [
    "Classification",
    "Detections",
    "Predictor",
    "SegmentationMap",
    "__version__",
    "create_classifier",
    "create_detector",
    "create_encoder",
    "create_segmentor",
    "list_models",
    "load",
    "load_weights",
]


def __getattr__(name: str) -> Any:
    if name in _FACE:
        value = getattr(importlib.import_module(_FACE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'effdense' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_FACE))
