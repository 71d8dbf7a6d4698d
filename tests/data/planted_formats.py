"""Faults for the sets of ``planted_sets`` written as YOLO, VOC and masks; what each must be answered with."""

import cv2
import numpy as np

from tests.data import planted_sets as sets


def train(root, format, index):
    """Picture file of the training split."""
    folder = {"yolo": "images/train", "voc": "JPEGImages", "masks": "images/train"}[format]
    return root / folder / f"{index:02d}.jpg"


def label(root, index):
    return root / "labels" / "train" / f"{index:02d}.txt"


def yolo_line(index, text, number=0):
    def plant(root):
        lines = label(root, index).read_text().splitlines()
        lines[number : number + 1] = [text]
        label(root, index).write_text("\n".join(lines) + "\n")

    return plant


def yolo_more(index, make):
    def plant(root):
        lines = label(root, index).read_text().splitlines()
        label(root, index).write_text("\n".join([*lines, make(lines)]) + "\n")

    return plant


YOLO = {
    "class 7": (yolo_line(8, "7 0.5 0.5 0.1 0.1"), {("error", "class-out-of-range", 1, "08.txt:1")}),
    "negative": (yolo_line(9, "-1 0.5 0.5 0.1 0.1"), {("error", "negative-class", 1, "09.txt:1")}),
    "pixels": (yolo_line(10, "0 30 20 10 10"), {("error", "not-normalised", 1, "10.txt:1")}),
    "NaN": (yolo_line(11, "0 0.5 nan 0.1 0.1"), {("error", "non-finite-bbox", 1, "11.txt:1")}),
    "no width": (yolo_line(12, "0 0.5 0.5 0 0.1"), {("warning", "degenerate-bbox", 1, "12.txt:1")}),
    "beyond": (yolo_line(13, "0 0.95 0.5 0.2 0.1"), {("warning", "bbox-clipped", 1, "13.txt:1")}),
    "doubled": (yolo_more(14, lambda lines: lines[0]), {("warning", "duplicate-bbox", 1, "14.txt:7")}),
    "no label file": (lambda root: label(root, 15).unlink(), {("warning", "missing-label", 1, "15.jpg")}),
    "no picture": (
        lambda root: (root / "labels" / "train" / "lost.txt").write_text("0 0.5 0.5 0.1 0.1\n"),
        {("warning", "orphan-label", 1, "lost.txt")},
    ),
}


def xml_of(root, index):
    return root / "Annotations" / f"{index:02d}.xml"


def xml(index, old, new, count=1):
    def plant(root):
        text = xml_of(root, index).read_text()
        assert old in text
        xml_of(root, index).write_text(text.replace(old, new, count))

    return plant


def repeat_object(root):
    text = xml_of(root, 14).read_text()
    start, end = text.index("  <object>"), text.index("</object>") + len("</object>")
    xml_of(root, 14).write_text(text[:end] + "\n" + text[start:end] + text[end:])


VOC = {
    "no width": (xml(8, "<xmax>14</xmax>", "<xmax>2</xmax>"), {("warning", "degenerate-bbox", 1, "08.xml")}),
    "outside": (
        xml(9, "<xmin>2</xmin>\n      <ymin>3</ymin>\n      <xmax>14</xmax>",
            "<xmin>70</xmin>\n      <ymin>3</ymin>\n      <xmax>80</xmax>"),
        {("warning", "bbox-outside", 1, "09.xml")},
    ),
    "beyond": (xml(10, "<xmax>58</xmax>", "<xmax>67</xmax>"), {("warning", "bbox-clipped", 1, "10.xml")}),
    "NaN": (xml(11, "<xmin>2</xmin>", "<xmin>nan</xmin>"), {("error", "non-finite-bbox", 1, "11.xml")}),
    "no number": (xml(12, "<xmin>2</xmin>", ""), {("error", "bad-bbox", 1, "12.xml")}),
    "no name": (xml(13, "<name>cat</name>", ""), {("error", "missing-name", 1, "13.xml")}),
    "doubled": (repeat_object, {("warning", "duplicate-bbox", 1, "14.xml")}),
    "other size": (xml(15, "<width>64</width>", "<width>80</width>"), {("error", "size-mismatch", 1, "15.jpg")}),
    "broken XML": (
        lambda root: sets.cut(xml_of(root, 16), 0.5),
        {("error", "unreadable-annotation", 1, "16.xml")},
    ),
}  # fmt: skip


def mask_of(root, index):
    return root / "masks" / "train" / f"{index:02d}.png"


def mask(index, change):
    def plant(root):
        pixels = cv2.imread(str(mask_of(root, index)), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(mask_of(root, index)), change(pixels))

    return plant


def with_value(value):
    def change(pixels):
        pixels[:4, :5] = value
        return pixels

    return change


MASKS = {
    "value 9": (mask(8, with_value(9)), {("error", "mask-values", 1, "08.png (9: 20 px)")}),
    "other size": (
        mask(9, lambda m: cv2.resize(m, (32, 24), interpolation=cv2.INTER_NEAREST)),
        {("error", "size-mismatch", 1, "09.png is 32x24, the picture 64x48")},
    ),
    "colours": (
        mask(10, lambda m: np.dstack([m, m * 2, m * 3])),
        {("error", "mask-kind", 1, "10.png")},
    ),
    "cut mask": (lambda root: sets.cut(mask_of(root, 11), 0.6), {("error", "unreadable-mask", 1, "11.png")}),
    "no mask": (lambda root: mask_of(root, 12).unlink(), {("error", "missing-mask", 1, "12.jpg")}),
    "all ignored": (mask(13, lambda m: np.full_like(m, 255)), {("warning", "all-ignored", 1, "13.png")}),
    "16 bit": (mask(14, lambda m: m.astype(np.uint16)), {("error", "mask-kind", 1, "14.png")}),
}

FAULTS = {"yolo": YOLO, "voc": VOC, "masks": MASKS}
# Picture faults that every format shares; a file that is gone means something else to each, see the tests.
SHARED = ("empty", "web page", "cut JPEG", "grey", "CMYK", "too large", "PNG called JPEG")


def faults(format):
    """Name -> (plant(root), expected findings)."""
    shared = {}
    for name in SHARED:
        index, change, expected = sets.PICTURES[name]

        def plant(root, index=index, change=change):
            change(train(root, format, index), sets.seed_of("train", index))

        shared[name] = (plant, {(s, c, n, place.split(" (")[0].split(",")[0]) for s, c, n, place in expected})
    return {**shared, **FAULTS[format]}
