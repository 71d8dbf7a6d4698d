"""From a checkpoint to typed results: ``effdense.load("work_dirs/run/best.pth")("street.jpg")``.

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
from effdense.data.transforms.augment import CenterCrop
from effdense.errors import ConfigError, DataError, ShapeError, WeightsError
from effdense.models.classification import EfficientNetClassifier, create_classifier
from effdense.models.detection import EfficientDet, create_detector
from effdense.models.segmentation import Segmentor, create_segmentor
from effdense.models.segmentation.inference import InferenceOptions, predict_logits
from effdense.models.segmentation.postprocess import class_map_at
from effdense.models.weights import load_weights
from effdense.models.weights.load import read_checkpoint
from effdense.results import Classification, Detections, SegmentationMap

_BUILDERS: dict[str, Any] = {
    "detection": create_detector,
    "classification": create_classifier,
    "segmentation": create_segmentor,
}
_TASKS = {EfficientDet: "detection", EfficientNetClassifier: "classification", Segmentor: "segmentation"}
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
    task = meta.get("task", "detection")
    if task not in _BUILDERS:
        raise WeightsError(f"{file} is of task {task!r}; this version opens {', '.join(_BUILDERS)}.")
    arguments = dict(meta["model"])
    absent = [key for key in ("name", "num_classes") if key not in arguments]
    absent += [key for key in ("classes", "category_ids") if key not in meta]
    absent += [] if "state_dict" in content else ["state_dict"]
    if absent:
        raise WeightsError(f"{file} is an incomplete effdense checkpoint: it lacks {', '.join(absent)}.")
    model = _BUILDERS[task](arguments.pop("name"), arguments.pop("num_classes"), **arguments)
    report = load_weights(model, content)
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
    """A detector, segmentor or classifier with its preprocessing and class names.

    Args:
        model: the network, for RGB images.
        class_names: names of labels 0..K-1.
        category_ids: ids in the training annotations, for COCO output.
        meta: what else the checkpoint says; a classifier's ``image_size`` and ``crop_fraction`` are taken from it, and
            a segmentor's ``inference`` (fields of ``InferenceOptions``) and ``letterbox``: the (height, width) px that
            pictures are resized to fit in, None for their original size.
        device: default the GPU if there is one.
        batch_size: images per forward pass over lists and folders.

    Raises: ConfigError when the model does not take RGB, the names are not K, or the batch size is below 1.
    """

    def __init__(
        self,
        model: EfficientDet | Segmentor | EfficientNetClassifier,
        class_names: Sequence[str],
        *,
        category_ids: Sequence[int] | None = None,
        meta: dict[str, Any] | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 8,
    ) -> None:
        self.task = _TASKS[type(model)]
        source: Any = model if self.task == "classification" else model.config
        if source.in_channels != 3:
            raise ConfigError(f"a Predictor feeds RGB, but {model.config.name} takes {source.in_channels} channels.")
        # One logit per pixel decides between two classes.
        expected = 2 if self.task == "segmentation" and model.num_classes == 1 else model.num_classes
        if len(class_names) != expected:
            raise ConfigError(f"{model.config.name} has {expected} classes, got {len(class_names)} class_names.")
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
        mean, std = self.meta.get("mean", source.mean), self.meta.get("std", source.std)
        self._mean = torch.tensor(mean, device=self.device).view(1, -1, 1, 1) * 255.0
        self._std = torch.tensor(std, device=self.device).view(1, -1, 1, 1) * 255.0
        self.inference = InferenceOptions.of(self.meta.get("inference")) if self.task == "segmentation" else None
        self._geometry: Any
        if self.task == "classification":
            size = tuple(self.meta.get("image_size", (model.config.resolution,) * 2))  # type: ignore[union-attr]
            self._geometry = CenterCrop(size, crop_fraction=self.meta.get("crop_fraction", 0.875))
        else:
            size = self.meta.get("letterbox", model.config.size_hw)  # type: ignore[union-attr]
            self._geometry = None if size is None else ResizePad(tuple(size))

    def __call__(self, source: Any, *, score_threshold: float = 0.3, **options: Any) -> Any:
        """Detect objects, segment or classify.

        Args:
            source: path, array (H, W, 3) uint8 RGB or (H, W) grey, PIL image, tensor (3, H, W) uint8 RGB, folder, glob
                pattern (``**`` for folders of any depth), or a list of these.
            score_threshold: leave weaker detections out (detectors only).
            options: of detectors those of ``EfficientDet.predict``; of segmentors fields of ``InferenceOptions``, in
                place of the checkpoint's: ``mode="slide"`` slides a window over the picture at its original size,
                ``scales=(0.75, 1.0, 1.25)`` and ``flip=True`` average over resized and mirrored copies.

        Returns: ``Detections`` or ``SegmentationMap`` in pixels of the original image, or ``Classification``; a list of
            them for a folder, a pattern or a list.
        Raises: DataError for a file that is no picture or a folder without any, ShapeError for an array or tensor that
            is none.
        """
        results = list(self.stream(source, score_threshold=score_threshold, **options))
        return results[0] if _is_single(source) else results

    def stream(self, source: Any, *, score_threshold: float = 0.3, **options: Any) -> Iterator[Any]:
        """Like calling, one result after the other, with at most ``batch_size`` images in memory."""
        if options and self.task == "classification":
            raise ConfigError(f"a {self.task} model takes no prediction options, got {sorted(options)}.")
        if self.inference is not None:
            options = {"inference": self.inference.override(**options)}
        batch: list[tuple[np.ndarray, str | None]] = []
        for item in _items(source):
            batch.append(_as_rgb(item))
            if len(batch) == self.batch_size:
                yield from self._run(batch, score_threshold, options)
                batch = []
        if batch:
            yield from self._run(batch, score_threshold, options)

    def _run(
        self, batch: Sequence[tuple[np.ndarray, str | None]], score_threshold: float, options: dict[str, Any]
    ) -> Iterator[Any]:
        if self.task == "segmentation" and (self._geometry is None or options["inference"].mode == "slide"):
            return self._segment_at_original_size(batch, options["inference"])
        samples = [self._prepare(image) for image, _ in batch]
        inputs = self._normalised(np.stack([image for image, _ in samples]))
        matrices = [matrix for _, matrix in samples]
        if self.task == "detection":
            return self._detect(inputs, batch, matrices, score_threshold, options)
        if self.task == "classification":
            return self._classify(inputs, batch)
        return self._segment(inputs, batch, matrices, options["inference"])

    def _normalised(self, images: np.ndarray) -> Tensor:
        """(B, C, H, W) float32 on the device, from (B, H, W, C) uint8."""
        return (torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device).float() - self._mean) / self._std

    def _detect(
        self,
        inputs: Tensor,
        batch: Sequence[tuple[np.ndarray, str | None]],
        matrices: Sequence[np.ndarray],
        score_threshold: float,
        options: dict[str, Any],
    ) -> Iterator[Detections]:
        sizes = torch.tensor(
            [
                (image.shape[0] * matrix[1, 1], image.shape[1] * matrix[0, 0])
                for (image, _), matrix in zip(batch, matrices, strict=True)
            ],
            dtype=torch.float32,
            device=self.device,
        )
        model: Any = self.model
        found = model.predict(inputs, sizes, score_threshold=score_threshold, **options)
        for detections, (image, path), matrix in zip(found, batch, matrices, strict=True):
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

    @torch.inference_mode()
    def _classify(self, inputs: Tensor, batch: Sequence[tuple[np.ndarray, str | None]]) -> Iterator[Classification]:
        model: Any = self.model
        probabilities = model(inputs).float().softmax(1).cpu()
        for row, (image, path) in zip(probabilities, batch, strict=True):
            yield Classification(probabilities=row, class_names=self.class_names, path=path, image=image)

    @torch.inference_mode()
    def _segment(
        self,
        inputs: Tensor,
        batch: Sequence[tuple[np.ndarray, str | None]],
        matrices: Sequence[np.ndarray],
        inference: InferenceOptions,
    ) -> Iterator[SegmentationMap]:
        logits = predict_logits(self.model, inputs, inference)
        for i, ((image, path), matrix) in enumerate(zip(batch, matrices, strict=True)):
            mask = class_map_at(logits[i : i + 1], matrix, (image.shape[0], image.shape[1]))
            yield SegmentationMap(
                mask=mask.cpu(), class_names=self.class_names, path=path, image=image, palette=self.meta.get("palette")
            )

    def _segment_at_original_size(
        self, batch: Sequence[tuple[np.ndarray, str | None]], inference: InferenceOptions
    ) -> Iterator[SegmentationMap]:
        """One picture after the other: their sizes differ, and windows fill their passes from one."""
        for image, path in batch:
            yield from self._segment(self._normalised(image[None]), [(image, path)], [np.eye(3)], inference)

    def _prepare(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(input image, matrix original px -> input px), exactly as in evaluation."""
        sample: Any = {
            "image": image,
            "index": 0,
            "original_size": image.shape[:2],
            "matrix": np.eye(3),
            "path": "",
        }
        if self.task == "classification":
            sample["label"] = -1
        sample = self._geometry(sample, np.random.default_rng(0))
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
