"""From a checkpoint to detections in pictures: ``effdense.load("work_dirs/run/best.pth")("street.jpg")``.

A checkpoint knows its model, classes, normalisation and input size, so nothing beside the file is needed, no config is
executed, and mmengine is not imported.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdense.data import ResizePad, invert_boxes, read_image
from effdense.errors import ConfigError, DataError, ShapeError, WeightsError
from effdense.models.detection import EfficientDet, create_detector
from effdense.models.weights import load_weights
from effdense.models.weights.load import read_checkpoint
from effdense.results import Detections

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def load(path: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Predictor:
    """A ready model from a checkpoint of ours, or from a run folder: its ``best.pth``, else the newest ``epoch_N.pth``.

    Raises: WeightsError when there is no readable effdense checkpoint, or one whose parts contradict each other.
    """
    file = _checkpoint_in(Path(path).expanduser())
    content = read_checkpoint(file)
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict) or "model" not in meta or not str(content.get("format", "")).startswith("effdense/"):
        raise WeightsError(
            f"{file} does not describe its model; only checkpoints written by effdense training can be opened by path. "
            "For bare weights: effdense.create_detector(NAME, num_classes=K, weights=PATH)."
        )
    arguments = dict(meta["model"])
    absent = [key for key in ("name", "num_classes") if key not in arguments]
    absent += [key for key in ("classes", "category_ids") if key not in meta]
    absent += [] if "state_dict" in content else ["state_dict"]
    if absent:
        raise WeightsError(f"{file} is an incomplete effdense checkpoint: it lacks {', '.join(absent)}.")
    model = create_detector(arguments.pop("name"), arguments.pop("num_classes"), **arguments)
    report = load_weights(model, content["state_dict"])
    if report.remade:
        raise WeightsError(
            f"{file} says {model.num_classes} classes, but its weights were trained for another number "
            f"({', '.join(report.remade)} differ in shape)."
        )
    return Predictor(model, tuple(meta["classes"]), category_ids=tuple(meta["category_ids"]), meta=meta, device=device)


def _checkpoint_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    best = path / "best.pth"
    if best.is_file():
        return best
    epochs = sorted(path.glob("epoch_*.pth"), key=lambda file: file.stat().st_mtime)
    if not epochs:
        raise WeightsError(
            f"the run folder {path.absolute()} holds neither best.pth nor epoch_N.pth; has the run saved yet?"
        )
    return epochs[-1]


class Predictor:
    """A detector with its preprocessing and class names.

    Args:
        model: the network, for RGB images.
        class_names: names of labels 0..K-1.
        category_ids: ids in the training annotations, for COCO output.
        meta: what else the checkpoint says.
        device: default the GPU if there is one.
        batch_size: images per forward pass over lists and folders.

    Raises: ConfigError when the model does not take RGB, the names are not K, or the batch size is below 1.
    """

    def __init__(
        self,
        model: EfficientDet,
        class_names: Sequence[str],
        *,
        category_ids: Sequence[int] | None = None,
        meta: dict[str, Any] | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 8,
    ) -> None:
        if model.config.in_channels != 3:
            raise ConfigError(
                f"a Predictor feeds RGB, but {model.config.name} takes {model.config.in_channels} channels."
            )
        if len(class_names) != model.num_classes:
            raise ConfigError(
                f"{model.config.name} has {model.num_classes} classes, got {len(class_names)} class_names."
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.model.to(memory_format=torch.channels_last)
        self.class_names = tuple(class_names)
        self.category_ids = None if category_ids is None else tuple(category_ids)
        self.meta = meta or {}
        self.batch_size = batch_size
        self._resize = ResizePad(model.config.size_hw)
        self._mean = torch.tensor(model.config.mean, device=self.device).view(1, -1, 1, 1) * 255.0
        self._std = torch.tensor(model.config.std, device=self.device).view(1, -1, 1, 1) * 255.0

    def __call__(self, source: Any, *, score_threshold: float = 0.3, **options: Any) -> Any:
        """Detect objects.

        Args:
            source: path, array (H, W, 3) uint8 RGB or (H, W) grey, PIL image, tensor (3, H, W) uint8 RGB, folder, glob
                pattern (``**`` for folders of any depth), or a list of these.
            score_threshold: leave weaker detections out.
            options: as for ``EfficientDet.predict``.

        Returns: ``Detections`` in pixels of the original image; a list of them for a folder, a pattern or a list.
        Raises: DataError for a file that is no picture or a folder without any, ShapeError for an array or tensor that
            is none.
        """
        results = list(self.stream(source, score_threshold=score_threshold, **options))
        return results[0] if _is_single(source) else results

    def stream(self, source: Any, *, score_threshold: float = 0.3, **options: Any) -> Iterator[Detections]:
        """Like calling, one result after the other, with at most ``batch_size`` images in memory."""
        batch: list[tuple[np.ndarray, str | None]] = []
        for item in _items(source):
            batch.append(_as_rgb(item))
            if len(batch) == self.batch_size:
                yield from self._detect(batch, score_threshold, options)
                batch = []
        if batch:
            yield from self._detect(batch, score_threshold, options)

    def _detect(
        self, batch: Sequence[tuple[np.ndarray, str | None]], score_threshold: float, options: dict[str, Any]
    ) -> Iterator[Detections]:
        samples = [self._letterbox(image) for image, _ in batch]
        inputs = torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2).to(self.device)
        sizes = torch.tensor(
            [
                (image.shape[0] * matrix[1, 1], image.shape[1] * matrix[0, 0])
                for (image, _), (_, matrix) in zip(batch, samples, strict=True)
            ],
            dtype=torch.float32,
            device=self.device,
        )
        found = self.model.predict(
            (inputs.float() - self._mean) / self._std, sizes, score_threshold=score_threshold, **options
        )
        for detections, (image, path), (_, matrix) in zip(found, batch, samples, strict=True):
            detections = detections.to("cpu")
            height, width = image.shape[:2]
            yield Detections(
                boxes=torch.as_tensor(invert_boxes(detections.boxes, matrix, (height, width))),
                scores=detections.scores,
                labels=detections.labels,
                class_names=self.class_names,
                image_size=(height, width),
                path=path,
                image=image,
            )

    def _letterbox(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(input image, matrix original px -> input px), exactly as in evaluation."""
        sample: Any = {
            "image": image,
            "boxes": np.zeros((0, 4), np.float32),
            "labels": np.zeros(0, np.int64),
            "image_id": 0,
            "index": 0,
            "original_size": image.shape[:2],
            "matrix": np.eye(3),
            "path": "",
        }
        sample = self._resize(sample, np.random.default_rng(0))
        return sample["image"], sample["matrix"]


def _is_single(source: Any) -> bool:
    if isinstance(source, (list, tuple)):
        return False
    if isinstance(source, (str, os.PathLike)):
        return not (Path(source).is_dir() or (any(c in str(source) for c in "*?[") and not Path(source).is_file()))
    return True


def _items(source: Any) -> Iterator[Any]:
    if isinstance(source, (list, tuple)):
        for item in source:
            yield from _items(item)
        return
    if not isinstance(source, (str, os.PathLike)) or _is_single(source):
        yield source
        return
    if Path(source).is_dir():
        files = sorted(path for path in Path(source).iterdir() if path.suffix.lower() in _SUFFIXES)
    else:
        files = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
    if not files:
        raise DataError(f"no images in {Path(source).absolute()}; files ending in {', '.join(_SUFFIXES)} are read.")
    yield from files


def _as_rgb(item: Any) -> tuple[np.ndarray, str | None]:
    """(uint8 (H, W, 3) RGB array, path or None) of any single source."""
    if isinstance(item, (str, os.PathLike)):
        return read_image(Path(item)), str(item)
    if isinstance(item, Tensor):
        if item.ndim != 3 or item.shape[0] != 3 or item.dtype != torch.uint8 or item.numel() == 0:
            raise ShapeError(
                f"an image tensor must be uint8 (3, H, W) RGB, got {item.dtype} {tuple(item.shape)}; "
                "normalised batches go to model.model.predict."
            )
        return np.ascontiguousarray(item.permute(1, 2, 0).cpu().numpy()), None
    if hasattr(item, "convert"):  # PIL, without importing it
        from PIL import ImageOps

        return np.asarray(ImageOps.exif_transpose(item).convert("RGB")), None
    array = np.asarray(item)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3) or array.size == 0:
        raise ShapeError(f"an image array must be uint8 (H, W, 3) RGB or (H, W) grey, got {array.dtype} {array.shape}.")
    if channels == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(array), None
