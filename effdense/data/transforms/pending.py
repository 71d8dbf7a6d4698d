"""Pictures that are not decoded yet: transforms say where the pixels go, then one decode and one warp make them.

A :class:`Pending` knows its source (a file, or an array) and the one matrix from source pixels to its present canvas.
Transforms that move pixels only change that; :meth:`Pending.pixels` does the work, and only what is seen is resized.

* A window (crop and resize, then flips) is cut out first and resized to the canvas, so a picture jittered to twice the
  size costs no more than the canvas.
* ``interpolation="fast"`` shrinks by halves first, which a JPEG decoder does while it decodes (libjpeg's DCT scaling;
  other pictures by the mean of k x k pixels), and linearly from there: no aliasing and fewer pixels to make.
* Anything else (rotation, perspective, chains) is one warp by the whole matrix.

Coordinates are pixel edges; OpenCV's are pixel centres, which is accounted for here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]
Size = tuple[int, int]
Fill = tuple[int, ...]
Borders = NDArray[np.float64]
AnySample = TypeVar("AnySample", bound=Mapping[str, Any])

FLAGS = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    # The plain nearest flag rounds towards the upper left corner, half a pixel away from where the image goes.
    "nearest": cv2.INTER_NEAREST_EXACT,
}
MAX_HALVINGS = 3  # libjpeg decodes at 1/2, 1/4 and 1/8
_TO_CENTRES = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], np.float64)
_FROM_CENTRES = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]], np.float64)
_ON_BORDER = 1e-6  # px: rounding
_SCRATCH = threading.local()


class Source(Protocol):
    """Where pixels come from."""

    @property
    def size(self) -> Size:
        """(height, width) px."""
        ...

    def read(self, reduce: int) -> Pixels:
        """The picture, each side divided by ``reduce`` (1, 2, 4 or 8) and rounded up."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pixels that are there already: (H, W, 3) or (H, W)."""

    array: Pixels

    @property
    def size(self) -> Size:
        """(height, width) px."""
        return self.array.shape[0], self.array.shape[1]

    def read(self, reduce: int) -> Pixels:
        """The array, or the means of its ``reduce`` x ``reduce`` pixels."""
        return shrunk(self.array, reduce)


def shrunk(image: Pixels, reduce: int) -> Pixels:
    """Means of ``reduce`` x ``reduce`` pixels, sides rounded up (the last row and column repeated)."""
    if reduce == 1:
        return image
    height, width = image.shape[:2]
    below, right = -height % reduce, -width % reduce
    if below or right:
        image = cast(Pixels, cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE))
    size = (image.shape[1] // reduce, image.shape[0] // reduce)
    return cast(Pixels, cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def reduction(scale: float) -> int:
    """By how much a picture may be shrunk before it is resized by ``scale``: 1, 2, 4 or 8."""
    k = 1
    while k < 2**MAX_HALVINGS and scale * 2 * k <= 1:
        k *= 2
    return k


@dataclass(frozen=True)
class Window:
    """x0, y0, x1, y1 whole px of the source, and the (height, width) they are resized to, top left on the canvas."""

    box: tuple[int, int, int, int]
    resized: Size

    @property
    def scales(self) -> tuple[float, float]:
        """Vertical, horizontal."""
        return self.resized[0] / (self.box[3] - self.box[1]), self.resized[1] / (self.box[2] - self.box[0])

    @property
    def matrix(self) -> Matrix:
        """(3, 3) px of the source to px of the canvas."""
        (sy, sx), (x0, y0, _, _) = self.scales, self.box
        return np.array([[sx, 0, -x0 * sx], [0, sy, -y0 * sy], [0, 0, 1]], np.float64)


@dataclass(frozen=True, eq=False)
class Pending:
    """A picture or a mask on its way.

    Attributes:
        source: file or array. channels: shape behind height and width, (3,) or ().
        size: (height, width) px of the canvas. matrix: (3, 3) px of the source to px of the canvas.
        fill: what the canvas holds beyond the picture. interpolation: "fast", "auto", "linear", "area", "cubic",
            "nearest".
        window: set while nothing but one window and mirrors (``flips``: left and right, top and bottom) happened.
        clips: where earlier canvases ended, as rows (K, 3): what is seen has row . (x, y, 1) >= 0, px of the canvas.
    """

    source: Source
    size: Size
    matrix: Matrix
    channels: tuple[int, ...] = (3,)
    fill: Fill = (0, 0, 0)
    interpolation: str = "linear"
    window: Window | None = None
    flips: tuple[bool, bool] = (False, False)
    clips: tuple[NDArray[np.float64], ...] = ()

    @classmethod
    def of(cls, source: Source | Pixels) -> Pending:
        """A file's or an array's picture as it is."""
        if isinstance(source, np.ndarray):
            return cls(ArraySource(source), source.shape[:2], np.eye(3), source.shape[2:])
        return cls(source, source.size, np.eye(3))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array: (H, W, 3), or (H, W) of a mask."""
        return (*self.size, *self.channels)

    @property
    def untouched(self) -> bool:
        """Whether it is still the source's own frame."""
        same_frame = self.window is None and self.size == self.source.size and not self.clips
        return same_frame and bool((self.matrix == np.eye(3)).all())

    def windowed(self, window: Window, size: Size, *, fill: Fill, interpolation: str) -> Pending:
        """Cut out a window of the present canvas and resize it, top left on a canvas of ``size``."""
        changes: dict[str, Any] = {"size": size, "fill": fill, "interpolation": interpolation}
        if self.untouched:
            return replace(self, **changes, matrix=window.matrix, window=window)
        moved = self.warped(window.matrix, size, fill=fill, interpolation=interpolation)
        height, width = min(window.resized[0], size[0]), min(window.resized[1], size[1])
        return replace(moved, clips=(*moved.clips, _borders(height, width)))

    def flipped(self, axis: int) -> Pending:
        """Mirrored left and right (axis 1) or top and bottom (0)."""
        matrix = mirror(self.size, axis)
        flips = (self.flips[0] ^ (axis == 1), self.flips[1] ^ (axis == 0))
        return replace(self, matrix=matrix @ self.matrix, flips=flips, clips=_moved(self.clips, matrix))

    def warped(self, matrix: Matrix, size: Size, *, fill: Fill, interpolation: str) -> Pending:
        """Moved by (3, 3) ``matrix``, px of the present canvas to px of one of ``size``."""
        clips = self.clips if self.untouched else (*self.clips, self._seen())
        return replace(
            self, matrix=matrix @ self.matrix, size=size, fill=fill, interpolation=interpolation,
            window=None, flips=(False, False), clips=_moved(clips, matrix),
        )  # fmt: skip

    def _seen(self) -> Borders:
        """Borders of the part of the canvas that may show the picture."""
        if self.window is None:
            return _borders(*self.size)
        seen: tuple[Borders, ...] = (
            _borders(min(self.size[0], self.window.resized[0]), min(self.size[1], self.window.resized[1])),
        )
        for axis, mirrored in ((1, self.flips[0]), (0, self.flips[1])):
            if mirrored:
                seen = _moved(seen, mirror(self.size, axis))
        return seen[0]

    def pixels(self, out: Pixels | None = None) -> Pixels:
        """Decode and warp.

        Args:
            out: array of ``shape`` to write into; its rows must be contiguous.
        """
        if self.window is not None:
            return self._window_pixels(self.window, np.empty(self.shape, np.uint8) if out is None else out)
        if self.size == self.source.size and not self.clips and (self.matrix == np.eye(3)).all():
            image = self.source.read(1)
        else:
            image = self._warped_pixels()
        if out is None:
            return image
        np.copyto(out, image)
        return out

    def _window_pixels(self, window: Window, out: Pixels) -> Pixels:
        (height, width), (sy, sx), (x0, y0, x1, y1) = window.resized, window.scales, window.box
        k = 1
        if self.interpolation == "fast":
            k = reduction(max(sy, sx))
            rows, columns = self.source.size
            while x0 % k or y0 % k or (x1 % k and x1 != columns) or (y1 % k and y1 != rows):
                k //= 2
        if isinstance(self.source, ArraySource):
            part = shrunk(self.source.array[y0:y1, x0:x1], k)
        else:
            part = self.source.read(k)[y0 // k : -(-y1 // k), x0 // k : -(-x1 // k)]
        visible = (min(height, self.size[0]), min(width, self.size[1]))
        left = self.size[1] - visible[1] if self.flips[0] else 0
        top = self.size[0] - visible[0] if self.flips[1] else 0
        target = out[top : top + visible[0], left : left + visible[1]]
        mirrored, written = any(self.flips), False
        if part.shape[:2] != (height, width):
            direct = not mirrored and visible == (height, width)
            place = target if direct else _scratch((height, width, *self.channels))
            part = cast(Pixels, cv2.resize(part, (width, height), dst=place, interpolation=self._flag(min(sy, sx) * k)))
            written = direct
        part = part[: visible[0], : visible[1]]
        if mirrored:
            code = -1 if all(self.flips) else (1 if self.flips[0] else 0)
            cv2.flip(part, code, dst=target)
        elif not written:
            np.copyto(target, part)
        self._fill_beyond(out, top, left, visible)
        return out

    def _flag(self, scale: float) -> int:
        """OpenCV's interpolation for what is left to resize."""
        name = self.interpolation
        if name == "auto":
            name = "area" if scale < 1 else "linear"
        elif name == "fast":
            name = "area" if scale <= 0.5 else "linear"
        return FLAGS[name]

    def _fill_beyond(self, out: Pixels, top: int, left: int, visible: Size) -> None:
        """Fill the canvas around the visible part, which lies at one corner."""
        height, width = self.size
        if visible == self.size:
            return
        canvas = _filled(self.size, self.channels, self.fill)
        rows = slice(top, top + visible[0])
        beyond = slice(0, top) if top else slice(visible[0], height)
        out[beyond] = canvas[beyond]
        beside = slice(0, left) if left else slice(visible[1], width)
        out[rows, beside] = canvas[rows, beside]

    def _warped_pixels(self) -> Pixels:
        matrix, k = self.matrix, 1
        scale = _scale_at_centre(matrix, self.source.size)
        flat, nearest = bool((matrix[2] == (0, 0, 1)).all()), self.interpolation == "nearest"
        flag = cv2.INTER_NEAREST
        if not nearest:
            flag = cv2.INTER_CUBIC if self.interpolation == "cubic" else cv2.INTER_LINEAR
            if self.interpolation != "linear":
                k = reduction(scale)
        clips = self.clips
        border = cv2.BORDER_CONSTANT
        if not nearest and (not flat or scale > 1):
            # A constant border is blended with half a pixel of the source: a broad seam where that is enlarged.
            border = cv2.BORDER_REPLICATE
            clips = (*clips, *_moved((_borders(*self.source.size),), matrix))
        elif not flat:
            clips = (*clips, *_moved((_borders(1, 1)[4:],), matrix))  # OpenCV shows what lies behind the eye, too
        image = self.source.read(k)
        centred = _FROM_CENTRES @ matrix @ np.diag([float(k), float(k), 1.0]) @ _TO_CENTRES
        options: dict[str, Any] = {"flags": flag, "borderMode": border, "borderValue": self.fill}
        target = (self.size[1], self.size[0])
        if flat:
            warped = cast(Pixels, cv2.warpAffine(image, centred[:2], target, **options))
        else:
            warped = cast(Pixels, cv2.warpPerspective(image, centred, target, **options))
        _clear_outside(warped, clips, self.fill)
        return warped


def mirror(size: Size, axis: int) -> Matrix:
    """(3, 3) of a mirrored canvas of (height, width) px: left and right (axis 1) or top and bottom (0)."""
    if axis == 1:
        return np.array([[-1, 0, size[1]], [0, 1, 0], [0, 0, 1]], np.float64)
    return np.array([[1, 0, 0], [0, -1, size[0]], [0, 0, 1]], np.float64)


def settled(sample: AnySample) -> AnySample:
    """The sample with real pixels: whatever is pending is decoded and warped now."""
    waiting = {key: value.pixels() for key in ("image", "mask") if isinstance(value := sample.get(key), Pending)}
    return cast(AnySample, {**sample, **waiting}) if waiting else sample


def stacked(pictures: list[Any]) -> Pixels:
    """(B, H, W, 3) or (B, H, W) of arrays or pending pictures of one shape; the pending are made in their place."""
    out = np.empty((len(pictures), *pictures[0].shape), np.uint8)
    for place, picture in zip(out, pictures):
        if isinstance(picture, Pending):
            picture.pixels(place)
        else:
            np.copyto(place, picture)
    return out


def _borders(height: float, width: float) -> Borders:
    """Those of a canvas of (height, width) px; the last keeps what is in front of the eye of a perspective."""
    return np.array([[1, 0, 0], [-1, 0, width], [0, 1, 0], [0, -1, height], [0, 0, 1]], np.float64)


def _moved(clips: tuple[Borders, ...], matrix: Matrix) -> tuple[Borders, ...]:
    """Borders in the frame that ``matrix`` leads to."""
    return tuple(clip @ np.linalg.inv(matrix) for clip in clips)


def _scale_at_centre(matrix: Matrix, size: Size) -> float:
    """The larger of the two scales of a matrix, at the centre of a picture."""
    x, y = size[1] / 2, size[0] / 2
    w = matrix[2] @ (x, y, 1)
    u, v = matrix[0] @ (x, y, 1) / w, matrix[1] @ (x, y, 1) / w
    jacobian = (matrix[:2, :2] - np.outer((u, v), matrix[2, :2])) / w
    return float(np.linalg.norm(jacobian, 2))


def _clear_outside(image: Pixels, clips: tuple[Borders, ...], fill: Fill) -> None:
    """Fill, in place, the pixels whose centres lie outside of one of the borders."""
    if not clips:
        return
    height, width = image.shape[:2]
    lines = np.concatenate(clips)
    centres = np.array([[0.5, 0.5, 1], [width - 0.5, 0.5, 1], [0.5, height - 0.5, 1], [width - 0.5, height - 0.5, 1]])
    crossing = lines[(lines @ centres.T < -_ON_BORDER).any(1)]
    if not len(crossing):
        return
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    outside = np.zeros((height, width), bool)
    for a, b, c in crossing.tolist():
        outside |= (a * x < (-_ON_BORDER - c) - b * y[:, None]) if a else (b * y[:, None] < -_ON_BORDER - c)
    image[outside] = fill if image.ndim == 3 else fill[0]


def _scratch(shape: tuple[int, ...]) -> Pixels:
    """An array for a moment, from memory that is kept: fresh pages would cost as much as the resize."""
    count = int(np.prod(shape))
    arena = getattr(_SCRATCH, "arena", None)
    if arena is None or arena.size < count:
        arena = _SCRATCH.arena = np.empty(count, np.uint8)
    return cast(Pixels, arena[:count].reshape(shape))


@lru_cache(maxsize=8)
def _filled(size: Size, channels: tuple[int, ...], fill: Fill) -> Pixels:
    """A canvas of the fill, to copy from: painting a triple is ten times slower than copying."""
    canvas = np.empty((*size, *channels), np.uint8)
    canvas[:] = fill if channels else fill[0]
    return canvas
