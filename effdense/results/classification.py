"""What a classifier says about one image: a probability for every class."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdense.errors import ShapeError


@dataclass(eq=False, repr=False)
class Classification:
    """What a classifier says about one image.

    Attributes:
        probabilities: (K,) float32, one per class.
        class_names: name of label i at index i, or None.
        path: where the image came from, or None.
        image: uint8 (H, W, 3) RGB kept for drawing, or None; no part of ``==`` and ``repr``.

    Raises:
        ShapeError: probabilities are not (K,), or K names are not given for them.
    """

    probabilities: Tensor
    class_names: tuple[str, ...] | None = None
    path: str | None = None
    image: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.probabilities = torch.as_tensor(self.probabilities).detach().to(torch.float32)
        if self.probabilities.ndim != 1 or not len(self.probabilities):
            raise ShapeError(
                f"Classification: probabilities {tuple(self.probabilities.shape)}; expected (K,), one per class."
            )
        if self.class_names is not None:
            self.class_names = tuple(self.class_names)
            if len(self.class_names) != len(self.probabilities):
                raise ShapeError(
                    f"Classification: {len(self.probabilities)} probabilities but {len(self.class_names)} class_names."
                )

    def __len__(self) -> int:
        return int(self.probabilities.shape[0])

    def __eq__(self, other: object) -> bool:
        """Same numbers, names and path; the device and the kept picture do not matter."""
        if not isinstance(other, Classification):
            return NotImplemented
        return (self.class_names, self.path) == (other.class_names, other.path) and torch.equal(
            self.probabilities.cpu(), other.probabilities.cpu()
        )

    __hash__ = None  # type: ignore[assignment]  # equal by value, and the tensor can change

    def __repr__(self) -> str:
        """The best class and up to two after it: ``cat 0.91 (dog 0.05, fox 0.02)``."""
        first, *others = [f"{name} {score:.2f}" for _, name, score in self.top(3)]
        return f"{first} ({', '.join(others)})" if others else first

    @property
    def label(self) -> int:
        """The most probable class, 0..K-1."""
        return int(self.probabilities.argmax())

    @property
    def name(self) -> str:
        """Its name."""
        return self.name_of(self.label)

    @property
    def score(self) -> float:
        """Its probability."""
        return float(self.probabilities[self.label])

    def name_of(self, label: int) -> str:
        """The class name of a label; its number as text where no names are known."""
        return str(label) if self.class_names is None else self.class_names[label]

    def top(self, k: int = 5) -> list[tuple[int, str, float]]:
        """The ``k`` most probable classes as (label, name, score), best first; all of them where there are fewer.

        Raises:
            ShapeError: k is below 1.
        """
        if k < 1:
            raise ShapeError(f"Classification.top: k must be at least 1, got {k}.")
        best = self.probabilities.argsort(descending=True, stable=True)[:k].tolist()
        return [(label, self.name_of(label), float(self.probabilities[label])) for label in best]

    def to(self, device: str | torch.device) -> Classification:
        """The same result with its tensor on a device."""
        return replace(self, probabilities=self.probabilities.to(device))

    def plot(self, image: np.ndarray | None = None, *, k: int = 5) -> np.ndarray:
        """The picture with its ``k`` best classes below it.

        Args:
            image: uint8 (H, W, 3) RGB; by default the one kept with the result.

        Returns:
            uint8 (H', W', 3) RGB, a new array; pictures narrower than 224 px are enlarged.

        Raises:
            ShapeError: there is no picture.
        """
        from effdense.visualize.ranking import draw_ranking

        image = self.image if image is None else image
        if image is None:
            raise ShapeError(
                "Classification.plot: this result keeps no picture (it came from a tensor); give one: plot(image), "
                "save(path, image)."
            )
        labels, names, scores = zip(*self.top(k), strict=True)
        return draw_ranking(image, names, scores, labels)

    def save(self, path: str | Path, image: np.ndarray | None = None) -> Path:
        """Write the picture of :meth:`plot` as .png or .jpg and return its path."""
        from effdense.visualize import save_picture

        return save_picture(self.plot(image), path)

    def to_dict(self, *, k: int = 5) -> dict[str, Any]:
        """Plain numbers, lists and text: path, label, name, score, and top: the ``k`` best of label, name, score."""
        top = [{"label": label, "name": name, "score": score} for label, name, score in self.top(k)]
        return {"path": self.path, **top[0], "top": top}

    def to_json(self, *, k: int = 5, indent: int | None = None) -> str:
        """:meth:`to_dict` as JSON text; ValueError where a probability is NaN."""
        return json.dumps(self.to_dict(k=k), indent=indent, allow_nan=False, ensure_ascii=False)
