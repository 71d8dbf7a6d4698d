"""What a model found in one image, typed: boxes in pixels, with doors to pictures, JSON and COCO results.

Boxes are xyxy in px of the image they were asked for, labels 0..K-1 without a background class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdense.errors import ShapeError


@dataclass(eq=False, repr=False)
class Detections:
    """The detections of one image, usually best score first.

    Attributes:
        boxes: (M, 4) float32 xyxy px of the image.
        scores: (M,) float32.
        labels: (M,) int64 in 0..K-1.
        class_names: name of label i at index i, or None.
        image_size: (height, width) px of the image, or None.
        path: where the image came from, or None.
        image: uint8 (H, W, 3) RGB kept for drawing, or None; no part of ``==`` and ``repr``.

    Tensors of other dtypes are converted on the way in (half-precision boxes are stored as float32).

    Raises:
        ShapeError: the lengths differ, boxes are not (M, 4), or a label has no name in ``class_names``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None
    path: str | None = None
    image: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.boxes = torch.as_tensor(self.boxes).to(torch.float32)
        self.scores = torch.as_tensor(self.scores).to(torch.float32)
        self.labels = torch.as_tensor(self.labels).to(torch.int64)
        if self.boxes.numel() == 0:
            self.boxes = self.boxes.reshape(0, 4)
        if self.class_names is not None:
            self.class_names = tuple(self.class_names)
        shapes = tuple(self.boxes.shape), tuple(self.scores.shape), tuple(self.labels.shape)
        count = shapes[0][0] if shapes[0] else 0
        if shapes != ((count, 4), (count,), (count,)):
            raise ShapeError(
                f"Detections: boxes {shapes[0]}, scores {shapes[1]}, labels {shapes[2]}; expected (M, 4), (M,), (M,)."
            )
        if self.class_names is not None and count:
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= len(self.class_names):
                raise ShapeError(
                    f"Detections: label {low if low < 0 else high} has no name; "
                    f"there are {len(self.class_names)} class_names, for labels 0..{len(self.class_names) - 1}."
                )

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def __eq__(self, other: object) -> bool:
        """Same numbers, names, size and path; the device and the kept picture do not matter."""
        if not isinstance(other, Detections):
            return NotImplemented
        mine, theirs = self.to("cpu"), other.to("cpu")
        return (
            (self.class_names, self.image_size, self.path) == (other.class_names, other.image_size, other.path)
            and torch.equal(mine.boxes, theirs.boxes)
            and torch.equal(mine.scores, theirs.scores)
            and torch.equal(mine.labels, theirs.labels)
        )

    __hash__ = None  # type: ignore[assignment]  # equal by value, and the tensors can change

    def __repr__(self) -> str:
        """Counts and score ranges per class, best class first: ``3 detections: 2 person 0.91-0.55, 1 dog 0.83``."""
        head = f"{len(self)} detection{'' if len(self) == 1 else 's'}"
        groups: dict[int, list[float]] = {}
        for label, score in zip(self.labels.tolist(), self.scores.tolist(), strict=True):
            groups.setdefault(label, []).append(score)
        parts = []
        for label, scores in sorted(groups.items(), key=lambda item: -max(item[1])):
            high, low = f"{max(scores):.2f}", f"{min(scores):.2f}"
            parts.append(f"{len(scores)} {self.name_of(label)} {high if high == low else f'{high}-{low}'}")
        return f"{head}: {', '.join(parts)}" if parts else head

    def name_of(self, label: int) -> str:
        """The class name of a label; its number as text where no names are known."""
        return str(label) if self.class_names is None else self.class_names[label]

    def filter(self, score: float) -> Detections:
        """Only the detections with at least this score, in the same order."""
        keep = self.scores >= score
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep])

    def to(self, device: str | torch.device) -> Detections:
        """The same detections with tensors on a device."""
        return replace(self, boxes=self.boxes.to(device), scores=self.scores.to(device), labels=self.labels.to(device))

    def numpy(self) -> dict[str, np.ndarray]:
        """``boxes`` (M, 4) float32, ``scores`` (M,) float32 and ``labels`` (M,) int64 as arrays."""
        tensors = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}

    def plot(self, image: np.ndarray | None = None) -> np.ndarray:
        """Draw the detections.

        Args:
            image: uint8 (H, W, 3) RGB to draw on; by default the one kept with the result.

        Returns:
            uint8 (H, W, 3) RGB, a new array.

        Raises:
            ShapeError: there is no picture, or its size is not ``image_size``.
        """
        from effdense.visualize import draw_boxes

        image = self.image if image is None else image
        if image is None:
            raise ShapeError(
                "Detections.plot: this result keeps no picture (it came from a tensor); give one in the pixels of the "
                "boxes: plot(image), save(path, image)."
            )
        if self.image_size is not None and tuple(image.shape[:2]) != tuple(self.image_size):
            raise ShapeError(
                f"Detections.plot: the picture is {image.shape[0]}x{image.shape[1]} (height x width) but the boxes "
                f"belong to one of {self.image_size[0]}x{self.image_size[1]}."
            )
        arrays = self.numpy()
        return draw_boxes(image, arrays["boxes"], arrays["labels"], arrays["scores"], self.class_names)

    def save(self, path: str | Path, image: np.ndarray | None = None) -> Path:
        """Write the drawn picture as .png or .jpg and return its path; see :meth:`plot`."""
        from effdense.visualize import save_picture

        return save_picture(self.plot(image), path)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and text: path, image_size [h, w], detections of name, label, score, box (xyxy px)."""
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return {
            "path": self.path,
            "image_size": None if self.image_size is None else [int(side) for side in self.image_size],
            "detections": [
                {"name": self.name_of(label), "label": label, "score": score, "box": box} for label, score, box in rows
            ],
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """:meth:`to_dict` as JSON text.

        Raises:
            ValueError: a number is NaN or infinite, which JSON cannot hold.
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False, ensure_ascii=False)

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO result dicts, boxes as [x, y, w, h] px.

        The float32 corners are widened to float64 before they are subtracted, so x + w gives back x2 exactly where
        float64 can hold it.

        Args:
            image_id: id of the image in the annotation file.
            category_ids: category id of label i at index i; None: labels are the category ids (0..K-1).

        Raises:
            ShapeError: a label has no category id.
        """
        if category_ids is not None and len(self) and int(self.labels.max()) >= len(category_ids):
            raise ShapeError(
                f"Detections.to_coco: label {int(self.labels.max())} has no category id; "
                f"category_ids has {len(category_ids)}, one is needed for each label."
            )
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return [
            {
                "image_id": int(image_id),
                "category_id": label if category_ids is None else int(category_ids[label]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for label, score, (x1, y1, x2, y2) in rows
        ]
