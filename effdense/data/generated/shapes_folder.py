"""The built-in data set for classification: one shape per picture, in folders, generated on the spot.

Layout under the root, which any image-folder reader takes: ``{split}/{class}/*.jpg``, and ``shapes.json``, the stamp
with the parameters it was made from. Grounds and shapes are those of the detection set (`shape_pictures`),
seen from nearer.
"""

from __future__ import annotations

import json
import shutil
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdense.data.generated.shape_pictures import SHAPE_NAMES, draw_picture
from effdense.data.generated.shapes import JPEG_QUALITY, STAMP, _is_current, _move_into_place
from effdense.data.image_io import write_jpeg
from effdense.errors import ConfigError

FORMAT_VERSION = 1  # raise it when the same parameters would draw other pictures
DEFAULT_SPLITS: Mapping[str, int] = {"train": 800, "val": 200}
# Shapes of the detection set are small beside their ground; a classifier's should take a fair part of the picture.
_GROUND_SCALE = 1.5
_PATIENCE = 1000  # one draw in five is of the wanted class


def write_shapes_folder(
    root: str | Path,
    *,
    splits: Mapping[str, int] = DEFAULT_SPLITS,
    image_size: int | tuple[int, int] = (80, 128),
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Generate the set under ``root``, or return at once when it is there with the same parameters.

    It is built beside ``root`` and moved there whole, as `write_shapes` does. Picture i of a split depends on
    (seed, split name, i) only, and its class is i modulo the five shapes, so splits are balanced.

    Args:
        root: folder to make; its parents are made too.
        splits: pictures per split.
        image_size: (lowest, highest) px of each side, drawn per picture, or one number for squares.
        seed: non-negative.
        overwrite: replace a generated set that has other parameters. Any other folder is never replaced.

    Returns:
        ``root`` as a Path.

    Raises:
        DataError: ``root`` holds something else, or a set with other parameters and ``overwrite`` is False.
        ConfigError: an argument is out of range.
    """
    root = Path(root)
    low, high = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not 32 <= low <= high:
        raise ConfigError(f"image_size must be (low, high) with 32 <= low <= high, got {image_size}.")
    if seed < 0 or not splits or any(count < 1 for count in splits.values()):
        raise ConfigError(
            f"Expected seed >= 0 and at least one picture per split, got seed {seed}, splits {dict(splits)}."
        )
    stamp = {
        "format": FORMAT_VERSION,
        "layout": "folder",  # so that the detection set's stamp is never taken for this one's
        "splits": dict(splits),
        "image_size": [low, high],
        "seed": seed,
    }
    if _is_current(root, stamp, overwrite):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    building = root.with_name(f".{root.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        for split, count in splits.items():
            for name in SHAPE_NAMES:  # a class folder each, even in a split too small to fill them
                (building / split / name).mkdir(parents=True)
            for index in range(count):
                name, image = _picture(split, index, (low, high), seed)
                write_jpeg(building / split / name / f"{index + 1:06d}.jpg", image, quality=JPEG_QUALITY)
        (building / STAMP).write_text(json.dumps(stamp, indent=2))
        _move_into_place(building, root, stamp, overwrite)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return root


def _picture(split: str, index: int, sides: tuple[int, int], seed: int) -> tuple[str, NDArray[np.uint8]]:
    """Class name and picture: draws until there is one shape of the wanted class, then cuts a window that holds it."""
    generator = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    height, width = (int(side) for side in generator.integers(sides[0], sides[1] + 1, 2))
    wanted = index % len(SHAPE_NAMES)
    for _ in range(_PATIENCE):
        picture = draw_picture((round(_GROUND_SCALE * height), round(_GROUND_SCALE * width)), 1, generator)
        if picture.labels.tolist() == [wanted]:
            top = _window_start(picture.masks[0].any(1), height, generator)
            left = _window_start(picture.masks[0].any(0), width, generator)
            return SHAPE_NAMES[wanted], np.ascontiguousarray(picture.image[top : top + height, left : left + width])
    raise AssertionError(f"no {SHAPE_NAMES[wanted]} in {_PATIENCE} draws")


def _window_start(covered: NDArray[np.bool_], length: int, generator: np.random.Generator) -> int:
    """Random start of a window on one axis that holds all that is covered; the middle of it where that is too much."""
    places = np.flatnonzero(covered)
    first, last = int(places[0]), int(places[-1])
    low, high = max(0, last + 1 - length), min(first, len(covered) - length)
    if low > high:
        return min(max((first + last + 1 - length) // 2, 0), len(covered) - length)
    return int(generator.integers(low, high + 1))
