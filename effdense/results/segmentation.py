"""The class of every pixel of one image."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdense.errors import ShapeError

Color = tuple[int, int, int]


@dataclass(eq=False, repr=False)
class SegmentationMap:
    """The class of every pixel of one image.

    Attributes:
        mask: (H, W) uint8 in 0..K-1, pixels of the original image.
        class_names: name of class i at index i, or None.
        path: where the image came from, or None.
        image: uint8 (H, W, 3) RGB kept for drawing, or None; no part of ``==`` and ``repr``.
        palette: RGB of class i at index i for drawing, or None; no part of ``==`` and ``repr`` either.

    Raises:
        ShapeError: the mask is not (H, W) uint8.
    """

    mask: Tensor
    class_names: tuple[str, ...] | None = None
    path: str | None = None
    image: np.ndarray | None = field(default=None, repr=False, compare=False)
    palette: tuple[Color, ...] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.mask = torch.as_tensor(self.mask).detach()
        if self.mask.ndim != 2 or self.mask.dtype != torch.uint8:
            raise ShapeError(
                f"SegmentationMap: mask {self.mask.dtype} {tuple(self.mask.shape)}; expected uint8 (H, W) of classes."
            )
        if self.class_names is not None:
            self.class_names = tuple(self.class_names)
        if self.palette is not None:
            self.palette = tuple((int(red), int(green), int(blue)) for red, green, blue in self.palette)

    def __eq__(self, other: object) -> bool:
        """Same classes, names and path; the device and the kept picture do not matter."""
        if not isinstance(other, SegmentationMap):
            return NotImplemented
        return (self.class_names, self.path) == (other.class_names, other.path) and torch.equal(
            self.mask.cpu(), other.mask.cpu()
        )

    __hash__ = None  # type: ignore[assignment]  # equal by value, and the tensor can change

    def __repr__(self) -> str:
        """Shares of the picture, largest first: ``360x480: 41 % road, 30 % building, 29 % sky``."""
        shares = ", ".join(f"{100 * share:.0f} % {name}" for name, share in list(self.shares().items())[:5])
        return f"{self.mask.shape[0]}x{self.mask.shape[1]}: {shares}"

    def name_of(self, label: int) -> str:
        """The class name of a label; its number as text where no names are known."""
        names = self.class_names
        return names[label] if names is not None and label < len(names) else str(label)

    def shares(self) -> dict[str, float]:
        """Share of the picture's pixels by class name, largest first; absent classes are left out."""
        counts = torch.bincount(self.mask.flatten().cpu().long())
        order = counts.argsort(descending=True, stable=True).tolist()
        return {self.name_of(i): float(counts[i]) / self.mask.numel() for i in order if counts[i]}

    def to(self, device: str | torch.device) -> SegmentationMap:
        """The same result with its tensor on a device."""
        return replace(self, mask=self.mask.to(device))

    def plot(self, image: np.ndarray | None = None, *, alpha: float = 0.5, legend: bool = False) -> np.ndarray:
        """The picture with its classes laid over it; background stays as it is, see ``draw_mask``.

        Args:
            image: uint8 (H, W, 3) RGB; by default the one kept with the result.
            alpha: weight of the colours, 0..1.
            legend: add the classes that are there, largest first, below the picture.

        Returns: uint8 (H, W, 3) RGB, a new array; with a legend higher, and at least 320 px wide.
        Raises: ShapeError when there is no picture, or one of another size.
        """
        from effdense.visualize.masks import draw_mask

        image = self.image if image is None else image
        if image is None:
            raise ShapeError("SegmentationMap.plot: this result keeps no picture; give one: plot(image).")
        drawn = draw_mask(image, self.mask.cpu().numpy(), self.class_names, alpha, palette=self.palette)
        return self._with_legend(drawn) if legend else drawn

    def _with_legend(self, drawn: np.ndarray) -> np.ndarray:
        from effdense.visualize.legend import with_legend
        from effdense.visualize.palette import background_labels, color_of

        counts = torch.bincount(self.mask.flatten().cpu().long())
        hidden = background_labels(self.class_names, self.palette)
        entries = []
        for label in counts.argsort(descending=True, stable=True).tolist():
            if counts[label] and label not in hidden:
                share = 100 * float(counts[label]) / self.mask.numel()
                said = f"{share:.0f} %" if share >= 0.5 else "<1 %"
                entries.append((f"{self.name_of(label)} {said}", color_of(label, self.palette)))
        return with_legend(drawn, entries)

    def save(
        self, path: str | Path, image: np.ndarray | None = None, *, alpha: float = 0.5, legend: bool = False
    ) -> Path:
        """Write the picture of :meth:`plot` as .png or .jpg and return its path."""
        from effdense.visualize import save_picture

        return save_picture(self.plot(image, alpha=alpha, legend=legend), path)

    def save_mask(self, path: str | Path) -> Path:
        """Write the class numbers as an 8-bit PNG whose palette is the classes' colours; see ``visualize.save_mask``.

        Returns: the path written.
        Raises: ConfigError unless the path ends in .png.
        """
        from effdense.visualize.masks import save_mask

        return save_mask(self.mask, path, self.class_names, palette=self.palette)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text: path, height, width, and the share of each class that is there."""
        height, width = self.mask.shape
        return {"path": self.path, "height": int(height), "width": int(width), "shares": self.shares()}

    def to_json(self, *, indent: int | None = None) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)
