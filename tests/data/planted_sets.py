"""Small clean data sets in every format, and faults to plant in them one by one: each says what a check must answer.

A set has the splits train (30 pictures) and val (6), 64 x 48 px each, three classes with two boxes of each class in
every picture. Every fault takes a picture of its own, so that all can be planted at once.
"""

import json
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

SIZE = (48, 64)
CLASSES = ("cat", "dog", "cow")
BOXES = [(2.0, 3.0, 12.0, 10.0), (30.0, 4.0, 9.0, 14.0), (5.0, 20.0, 20.0, 11.0), (44.0, 22.0, 14.0, 20.0),
         (20.0, 34.0, 12.0, 10.0), (50.0, 6.0, 10.0, 9.0)]  # fmt: skip
COUNTS = {"train": 30, "val": 6}


def picture(seed, size=SIZE):
    """A picture that looks like no other: smooth noise, (H, W, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def seed_of(split, index):
    return 1000 * (split != "train") + index


def write_coco(root):
    """ROOT/annotations/instances_{train,val}.json, ROOT/{train,val}/NN.jpg; image ids 100.., annotation ids 1000.."""
    (root / "annotations").mkdir(parents=True)
    for split, count in COUNTS.items():
        images, annotations = [], []
        for i in range(count):
            save(root / split / f"{i:02d}.jpg", picture(seed_of(split, i)), quality=90)
            images.append({"id": 100 + i, "file_name": f"{i:02d}.jpg", "width": SIZE[1], "height": SIZE[0]})
            for k, box in enumerate(BOXES):
                annotations.append(
                    {"id": 1000 + 10 * i + k, "image_id": 100 + i, "category_id": 1 + k % 3, "bbox": list(box),
                     "area": box[2] * box[3], "iscrowd": 0}
                )  # fmt: skip
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        write_json(root, split, {"images": images, "annotations": annotations, "categories": categories})
    return root


def json_of(root, split="train"):
    return root / "annotations" / f"instances_{split}.json"


def write_json(root, split, content):
    json_of(root, split).write_text(json.dumps(content))


def edit(split="train"):
    """Decorator: the fault changes the content of the JSON."""

    def wrap(change):
        def plant(root):
            content = json.loads(json_of(root, split).read_text())
            change(content)
            write_json(root, split, content)

        return plant

    return wrap


def entry(content, index, k=0):
    """Annotation k of picture ``index``."""
    return next(a for a in content["annotations"] if a["id"] == 1000 + 10 * index + k)


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def cut_png_in_place(path, seed):
    """A PNG, cut short, under the name of the JPEG."""
    Image.fromarray(picture(seed)).save(path, format="PNG")
    cut(path, 0.6)


def png_16_bit(path, seed):
    grey = cv2.cvtColor(picture(seed), cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257
    Image.fromarray(grey).save(path, format="PNG")


def save_mode(mode, form):
    def change(path, seed):
        image = Image.fromarray(picture(seed)).convert(mode)
        if mode == "RGBA":
            alpha = np.full(SIZE, 255, np.uint8)
            alpha[:5] = 0
            image.putalpha(Image.fromarray(alpha))
        image.save(path, format=form)

    return change


def animated(path, seed):
    frames = [Image.fromarray(picture(seed + k)) for k in (0, 500)]
    frames[0].save(path, format="PNG", save_all=True, append_images=frames[1:])


def rotated(path, seed):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(seed)).save(path, quality=90, exif=exif.tobytes())


def bomb(path, seed):
    """A PNG that says it is 60000 x 60000."""
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + head, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


# Faults of a picture file: name -> (index, change(path, seed), {(severity, code, count, in the first example)}).
PICTURES = {
    "missing": (0, lambda p, s: p.unlink(), {("error", "missing-image", 1, "00.jpg")}),
    "empty": (1, lambda p, s: p.write_bytes(b""), {("error", "empty-file", 1, "01.jpg")}),
    "web page": (2, lambda p, s: p.write_text("<html>not found</html>"), {("error", "not-an-image", 1, "02.jpg")}),
    "cut JPEG": (3, lambda p, s: cut(p, 0.6), {("error", "truncated-image", 1, "03.jpg")}),
    "grey": (4, lambda p, s: save_mode("L", "JPEG")(p, s), {("note", "grey-picture", 1, "04.jpg")}),
    "CMYK": (5, lambda p, s: save_mode("CMYK", "JPEG")(p, s), {("warning", "cmyk-picture", 1, "05.jpg")}),
    "too large": (6, bomb, {("error", "too-large", 1, "06.jpg")}),
    "PNG called JPEG": (
        7,
        lambda p, s: save_mode("RGB", "PNG")(p, s),
        {("note", "wrong-extension", 1, "07.jpg (image id 107), a PNG file")},
    ),
}  # fmt: skip


def box(index, values, k=0, **more):
    def change(content):
        entry(content, index, k).update(bbox=values, **more)

    return edit()(change)


def add_annotation(index, **values):
    def change(content):
        content["annotations"].append({**entry(content, index), **values})

    return edit()(change)


def rename_png(index, change):
    """Faults of PNG files: the picture becomes NN.png in file and JSON."""

    def plant(root):
        old = root / "train" / f"{index:02d}.jpg"
        change(old.with_suffix(".png"), seed_of("train", index))
        old.unlink()

        def rename(content):
            content["images"][index]["file_name"] = f"{index:02d}.png"

        edit()(rename)(root)

    return plant


def copy_train_to_val(root):
    (root / "val" / "00.jpg").write_bytes((root / "train" / "28.jpg").read_bytes())


def resave_train_in_val(root):
    Image.open(root / "train" / "29.jpg").save(root / "val" / "01.jpg", quality=60)


def add_class(content):
    content["categories"].append({"id": 4, "name": "fox"})
    content["annotations"].append({**entry(content, 0), "id": 9001, "category_id": 4, "bbox": [1, 1, 5, 5], "area": 25})


COCO = {
    "no width": (box(8, [2, 3, 0, 10]), {("warning", "degenerate-bbox", 1, "annotation 1080 in 08.jpg")}),
    "outside": (box(9, [70, 3, 5, 5], area=25), {("warning", "bbox-outside", 1, "annotation 1090 in 09.jpg")}),
    "clipped": (box(10, [58, 3, 9, 10], area=90), {("warning", "bbox-clipped", 1, "annotation 1100 in 10.jpg")}),
    "NaN": (box(11, [2, float("nan"), 4, 10]), {("error", "non-finite-bbox", 1, "annotation 1110")}),
    "three numbers": (box(12, [2, 3, 4]), {("error", "bad-bbox", 1, "annotation 1120")}),
    "corners by area": (box(13, [10, 5, 30, 25], area=400), {("warning", "xyxy-bbox", 1, "annotation 1130 in 13.jpg")}),
    "corners beyond": (box(14, [40, 20, 60, 44]), {("warning", "xyxy-bbox", 1, "annotation 1140 in 14.jpg")}),
    "fractions": (box(15, [0.1, 0.2, 0.3, 0.4]), {("warning", "normalised-bbox", 1, "annotation 1150 in 15.jpg")}),
    "doubled": (add_annotation(16, id=9002), {("warning", "duplicate-bbox", 1, "annotation 9002 in 16.jpg")}),
    "nearly doubled": (
        add_annotation(17, id=9003, bbox=[2.0, 3.0, 12.0, 10.2], area=122.4),
        {("warning", "near-duplicate-bbox", 1, "annotation 9003 in 17.jpg and annotation 1170")},
    ),
    "image unknown": (add_annotation(18, id=9004, image_id=7), {("error", "unknown-image-id", 1, "annotation 9004")}),
    "category unknown": (
        add_annotation(18, id=9005, category_id=77),
        {("error", "unknown-category-id", 1, "annotation 9005")},
    ),
    "annotation id twice": (
        add_annotation(18, id=1181, bbox=[40, 1, 9, 9], area=81),
        {("warning", "duplicate-annotation-id", 1, "annotation 1181")},
    ),
    "no area": (
        edit()(lambda c: entry(c, 19).pop("area")),
        {("warning", "missing-area", 1, "annotation 1190 in 19.jpg")},
    ),
    "crowd": (
        add_annotation(20, id=9006, iscrowd=1, bbox=[30, 20, 9, 9], area=81),
        {("note", "crowd", 1, "annotation 9006")},
    ),
    "empty image": (
        edit()(lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 121])),
        {("note", "empty-image", 1, "21.jpg")},
    ),
    "other size": (
        edit()(lambda c: c["images"][22].update(width=80)),
        {("error", "size-mismatch", 1, "22.jpg (image id 122) is 64x48, annotated 80x48")},
    ),
    "listed twice": (
        edit()(lambda c: c["images"].append({**c["images"][23], "id": 500})),
        {("warning", "duplicate-file-name", 1, "23.jpg (image ids 123, 500)")},
    ),
    "image id twice": (
        edit()(lambda c: c["images"].append({**c["images"][24], "file_name": "24b.jpg"})),
        {("error", "duplicate-image-id", 1, "124 (24b.jpg)")},
    ),
    "EXIF": (
        lambda root: rotated(root / "train" / "25.jpg", seed_of("train", 25)),
        {("warning", "exif-rotated", 1, "25.jpg")},
    ),
    "tiny": (box(26, [2, 3, 12, 1.5], area=18), {("note", "tiny-bbox", 1, "annotation 1260 in 26.jpg")}),
    "whole": (box(26, [0, 0, 64, 48], k=1, area=3072), {("note", "whole-image-bbox", 1, "annotation 1261 in 26.jpg")}),
    "16 bit": (rename_png(27, png_16_bit), {("warning", "16-bit-picture", 1, "27.png")}),
    "copy in val": (copy_train_to_val, {("error", "same-content-in-splits", 1, "28.jpg")}),
    "saved again in val": (resave_train_in_val, {("warning", "near-duplicate-in-splits", 1, "29.jpg")}),
    "not listed": (
        lambda root: save(root / "train" / "stray.jpg", picture(77)),
        {("note", "unlisted-image", 1, "stray.jpg")},
    ),
    "class without objects": (
        lambda root: [
            edit(split)(lambda c: c["categories"].append({"id": 5, "name": "yak"}))(root) for split in COUNTS
        ],
        {("warning", "class-without-objects", 1, "yak")},
    ),
}
# Faults that would hide others, planted alone only.
COCO_ALONE = {
    "class maps differ": (edit("val")(add_class), {("error", "class-map-differs", 1, "val: id 4 is 'fox'")}),
    "renamed in val": (
        edit("val")(lambda c: c["categories"][0].update(name="Cat")),
        {("error", "class-map-differs", 1, "val: id 1 is 'Cat', in train 'cat' (case or spaces only)")},
    ),
    "ids from 0 in val": (
        edit("val")(
            lambda c: (
                [x.update(id=x["id"] - 1) for x in c["categories"]],
                [x.update(category_id=x["category_id"] - 1) for x in c["annotations"]],
            )
        ),
        {("error", "class-map-differs", 1, "ids from 0")},
    ),
    "path leaves": (
        edit()(lambda c: c["images"].append({"id": 900, "file_name": "../x.jpg", "width": 9, "height": 9})),
        {("error", "unsafe-path", 1, "../x.jpg")},
    ),
    "all corners": (
        edit()(lambda c: [a.update(bbox=[a["bbox"][0] + 6, 30, a["bbox"][0] + 9, 46]) for a in c["annotations"]]),
        {("error", "boxes-beyond-image", 180, "annotation 1000")},
    ),
    "transparent": (rename_png(0, save_mode("RGBA", "PNG")), {("warning", "transparent-picture", 1, "00.png")}),
    "palette": (rename_png(0, save_mode("P", "PNG")), {("note", "palette-picture", 1, "00.png")}),
    "animated": (rename_png(0, animated), {("warning", "animated-picture", 1, "00.png")}),
    "cut PNG": (rename_png(0, cut_png_in_place), {("error", "truncated-image", 1, "00.png")}),
    "other case": (
        lambda root: (root / "train" / "00.jpg").rename(root / "train" / "00.JPG"),
        {("error", "missing-image", 1, "00.jpg (image id 100), but there is '00.JPG'")},
    ),
    "val is cut JSON": (
        lambda root: json_of(root, "val").write_text(json_of(root, "val").read_text()[:-30]),
        {("error", "unreadable-split", 1, "val")},
    ),
    "the only object is NaN": (
        edit()(lambda c: (
            c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 100 or a["id"] == 1000]),
            entry(c, 0).update(bbox=[1, 2, float("nan"), 4]),
        )),
        {("error", "non-finite-bbox", 1, "annotation 1000")},
    ),
    "similar names": (
        lambda root: [edit(s)(lambda c: c["categories"][1].update(name="Cat "))(root) for s in COUNTS],
        {("warning", "similar-class-names", 1, "'cat' and 'Cat '")},
    ),
    "double in train": (
        lambda root: (root / "train" / "00.jpg").write_bytes((root / "train" / "01.jpg").read_bytes()),
        {("warning", "same-content", 1, "00.jpg")},
    ),
}  # fmt: skip


def picture_fault(index, change, ending="jpg"):
    def plant(root):
        change(root / "train" / f"{index:02d}.{ending}", seed_of("train", index))

    return plant


def coco_faults():
    """Faults that can be planted together: name -> (plant(root), expected findings)."""
    files = {name: (picture_fault(index, change), expected) for name, (index, change, expected) in PICTURES.items()}
    return {**files, **COCO}
