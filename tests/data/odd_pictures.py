"""Pictures of the kinds that readers trip over, and a small detection split made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from effdense.data import ClassMap, DetectionRecords, ImageRecord, read_image

HEIGHT, WIDTH = 40, 64


def smooth(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Red rises to the right, green downwards, so that orientation and channel order show."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([255 * columns / (width - 1), 255 * rows / (height - 1), np.full_like(rows, 60.0)], 2).astype(
        np.uint8
    )


def write_odd_pictures(folder: Path) -> dict[str, np.ndarray]:
    """File name -> pixels that ``read_image`` gives for it, told here by hand (JPEGs: by Pillow)."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = smooth()
    grey = picture[..., 0]
    image = Image.fromarray(picture)
    image.save(folder / "plain.png")
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(np.dstack([picture, np.full_like(grey, 7)])).save(folder / "rgba.png")
    Image.fromarray(grey.astype(np.uint16) * 256 + 99).save(folder / "deep.png")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "turned.png", exif=turned.tobytes())
    image.save(folder / "plain.jpg", quality=95)
    thrice = np.repeat(grey[..., None], 3, 2)
    return {
        "plain.png": picture,
        "grey.png": thrice,
        "rgba.png": picture,
        "deep.png": thrice,
        "cmyk.jpg": np.asarray(Image.open(folder / "cmyk.jpg").convert("RGB")),
        "turned.png": np.ascontiguousarray(np.rot90(picture, -1)),  # 6: the camera was turned a quarter to the left
        "plain.jpg": np.asarray(Image.open(folder / "plain.jpg").convert("RGB")),
    }


def odd_records(folder: Path, *, copies: int = 1) -> DetectionRecords:
    """One box per picture: [i, 2, i + 10, 12] with label i % 2, and the pictures' true sizes.

    ``turned.png`` is annotated twice: as it is seen, and by its stored size, which keeps the stored pixels.
    """
    write_odd_pictures(folder)
    images = []
    for _ in range(copies):
        for path in sorted(folder.iterdir()):
            sizes = [read_image(path).shape[:2]]
            sizes += [(HEIGHT, WIDTH)] if path.name == "turned.png" else []
            for height, width in sizes:
                i = len(images)
                box = np.array([[i % 20, 2, i % 20 + 10, 12]], np.float32)
                images.append(
                    ImageRecord(
                        100 + i,
                        path,
                        width,
                        height,
                        box,
                        np.array([i % 2]),
                        np.array([False]),
                        np.array([i + 1]),
                        np.array([100], np.float32),
                    )
                )
    return DetectionRecords.from_images(images, ClassMap(("cat", "dog"), (3, 7)))
