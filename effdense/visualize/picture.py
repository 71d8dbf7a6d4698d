"""Pictures as arrays and as files: the check every drawing function makes, text, and an atomic save."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import cv2
import numpy as np

from effdense.errors import ConfigError, ShapeError
from effdense.visualize.palette import Color

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_ENCODING = {".png": [cv2.IMWRITE_PNG_COMPRESSION, 4], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92]}


def require_image(image: np.ndarray, where: str) -> np.ndarray:
    """Return the image as it is.

    Raises:
        ShapeError: not uint8 (H, W, 3) with at least one pixel.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(f"{where}: the image is {got}; expected a uint8 array (H, W, 3) in RGB.")
    if image.size == 0:
        raise ShapeError(f"{where}: the image has no pixels, its shape is {image.shape}.")
    return image


def text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Width, height above the baseline and depth below it, in px; height and depth are the same for every text."""
    (_, height), depth = cv2.getTextSize("Ág", _FONT, scale, 1)
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    return width, height, depth


def shorten(text: str, scale: float, width: int) -> str:
    """The text, cut with ".." until it is at most ``width`` px wide (at least one letter stays)."""
    shown, kept = text, len(text)
    while kept > 1 and text_size(shown, scale)[0] > width:
        kept -= 1
        shown = text[:kept].rstrip() + ".."
    return shown


def put_text(image: np.ndarray, text: str, left: int, baseline: int, scale: float, color: Color) -> None:
    """Write on the image in place."""
    cv2.putText(image, text, (left, baseline), _FONT, scale, color, 1, cv2.LINE_AA)


def save_picture(image: np.ndarray, path: str | Path) -> Path:
    """Write a picture as .png or .jpg/.jpeg (by suffix, quality 92), so that a reader never sees half a file.

    Missing folders are made.

    Returns:
        the path written.

    Raises:
        ConfigError: another suffix.
        ShapeError: not uint8 (H, W, 3).
    """
    path = Path(path)
    suffix = path.suffix.lower().replace(".jpeg", ".jpg")
    if suffix not in _ENCODING:
        raise ConfigError(f"save_picture: {str(path)!r} ends in {path.suffix!r}; expected .png, .jpg or .jpeg.")
    require_image(image, "save_picture")
    done, encoded = cv2.imencode(suffix, np.ascontiguousarray(image[:, :, ::-1]), _ENCODING[suffix])
    if not done:
        raise ShapeError(f"save_picture: OpenCV cannot encode an image of shape {image.shape} as {suffix}.")
    return write_whole(path, encoded.tobytes())


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that a reader never sees half of it; missing folders are made. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
