"""The built-in data set: shapes with boxes, masks and label maps, generated on the spot and the same everywhere.

Layout under the root, which any COCO reader takes:
``annotations/instances_{split}.json``, ``{split}/*.jpg``, ``semantic/{split}/*.png`` (0 ground, 1..K class),
``semantic/classes.json`` and ``shapes.json``, the stamp with the parameters it was made from.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from effdense.data.generated.shape_pictures import SHAPE_CATEGORIES, SHAPE_NAMES, ShapePicture, draw_picture
from effdense.data.image_io import write_jpeg, write_png
from effdense.data.paths import data_root
from effdense.errors import ConfigError, DataError

FORMAT_VERSION = 1  # raise it when the same parameters would draw other pictures
STAMP = "shapes.json"
CACHE_VARIABLE = "EFFDENSE_CACHE"
DEFAULT_SPLITS: Mapping[str, int] = {"train": 400, "val": 101}
JPEG_QUALITY = 92

_log = logging.getLogger(__name__)


def shapes_root(name: str = "shapes") -> Path:
    """Where the generated set belongs: under the data root, or under the user's cache when that cannot be written.

    A set that is already under the data root is used even if the folder is read-only.
    """
    preferred = data_root() / name
    if (preferred / STAMP).is_file() or _can_write(preferred.parent):
        return preferred
    cache = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "effdense").expanduser().absolute()
    _log.info("%s cannot be written, the generated data set goes to %s.", preferred.parent.absolute(), cache / name)
    return cache / name


def _can_write(folder: Path) -> bool:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def write_shapes(
    root: str | Path,
    *,
    splits: Mapping[str, int] = DEFAULT_SPLITS,
    image_size: int | tuple[int, int] = (192, 320),
    seed: int = 0,
    max_objects: int = 6,
    overwrite: bool = False,
) -> Path:
    """Generate the set under ``root``, or return at once when it is there with the same parameters.

    It is built beside ``root`` and moved there whole, so a cut-short run leaves nothing half done and two processes
    that start together end with one set. Picture i of a split depends on (seed, split name, i) only.

    Args:
        root: folder to make; its parents are made too.
        splits: pictures per split.
        image_size: (lowest, highest) px of each side, drawn per picture, or one number for squares.
        seed: non-negative.
        max_objects: shapes per picture at most; about one picture in 25 has none.
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
    if seed < 0 or max_objects < 1 or not splits or any(count < 1 for count in splits.values()):
        raise ConfigError(
            f"Expected seed >= 0, max_objects >= 1 and at least one picture per split, "
            f"got seed {seed}, max_objects {max_objects}, splits {dict(splits)}."
        )
    stamp = {
        "format": FORMAT_VERSION,
        "splits": dict(splits),
        "image_size": [low, high],
        "seed": seed,
        "max_objects": max_objects,
    }
    if _is_current(root, stamp, overwrite):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    building = root.with_name(f".{root.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        for split, count in splits.items():
            _write_split(building, split, count, (low, high), seed, max_objects)
        _write_json(
            building / "semantic" / "classes.json", {"classes": ["background", *SHAPE_NAMES], "ignore_index": 255}
        )
        _write_json(building / STAMP, stamp)
        _move_into_place(building, root, stamp, overwrite)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return root


def _is_current(root: Path, stamp: dict[str, Any], overwrite: bool) -> bool:
    """True when the set is there, False when it is to be made; DataError when something else is in the way."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / STAMP).read_text())
    except (OSError, ValueError):
        raise DataError(
            f"{root.absolute()} exists and is not a generated shapes set (no readable {STAMP} in it). "
            "Choose another folder; this one is left alone."
        ) from None
    if found == stamp:
        return True
    if not overwrite:
        raise DataError(
            f"{root.absolute()} holds a shapes set made with {found}, asked for is {stamp}. "
            "Choose another folder or pass overwrite=True."
        )
    return False


def _move_into_place(building: Path, root: Path, stamp: dict[str, Any], overwrite: bool) -> None:
    try:
        os.rename(building, root)  # takes the place of nothing or of an empty folder, else fails
    except OSError:
        # Another process was faster, or an old set is to be replaced.
        if _is_current(root, stamp, overwrite):
            return
        old = root.with_name(f".{root.name}.{uuid.uuid4().hex[:8]}.old")
        os.rename(root, old)
        try:
            os.rename(building, root)
        finally:
            shutil.rmtree(old, ignore_errors=True)


def _write_split(root: Path, split: str, count: int, sides: tuple[int, int], seed: int, max_objects: int) -> None:
    for folder in (root / split, root / "semantic" / split, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        generator = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
        height, width = (int(side) for side in generator.integers(sides[0], sides[1] + 1, 2))
        picture = draw_picture((height, width), max_objects, generator)
        name = f"{index + 1:06d}"
        write_jpeg(root / split / f"{name}.jpg", picture.image, quality=JPEG_QUALITY)
        classes = (picture.labels + 1).astype(np.uint8)
        semantic = (picture.masks * classes[:, None, None]).sum(0, dtype=np.uint8)  # visible masks never overlap
        write_png(root / "semantic" / split / f"{name}.png", semantic)
        images.append({"id": index + 1, "file_name": f"{name}.jpg", "width": width, "height": height})
        annotations.extend(_annotations(picture, index + 1, len(annotations) + 1))
    content = {
        "info": {"description": "effdense generated shapes", "version": str(FORMAT_VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n, "supercategory": "shape"} for i, n in SHAPE_CATEGORIES.items()],
    }
    _write_json(root / "annotations" / f"instances_{split}.json", content)


def _annotations(picture: ShapePicture, image_id: int, first_id: int) -> list[dict[str, Any]]:
    category_ids = tuple(SHAPE_CATEGORIES)
    entries = []
    for position, (label, mask) in enumerate(zip(picture.labels.tolist(), picture.masks, strict=True)):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = int(columns[0]), int(rows[0])
        encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        entries.append(
            {
                "id": first_id + position,
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
                "area": int(mask.sum()),
                "iscrowd": 0,
                # Run lengths, since a ring has a hole and polygons have none.
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
            }
        )
    return entries


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=None if "annotations" in content else 2))
