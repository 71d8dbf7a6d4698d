"""Records to Pascal VOC: ``Annotations/NAME.xml``, ``JPEGImages``, ``ImageSets/Main/SPLIT.txt``, class lists.

Coordinates are written as edges of pixels, whole ones as whole numbers, all others so that reading gives the same
float32.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effdense.data.image_io import write_bytes_atomically
from effdense.data.records import DetectionRecords
from effdense.data.writing.class_list_files import write_class_files
from effdense.data.writing.write_coco import plain
from effdense.errors import DataError

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def write_voc(records: DetectionRecords, names: Sequence[str], out: Path, split: str) -> list[str]:
    """Write the XML files and the list of a split; what is lost, in words.

    Raises: DataError for a class name that XML cannot hold.
    """
    for name in records.class_map.names:
        if _NOT_XML.search(name) or name != name.strip() or not name:
            raise DataError(f"the class name {name!r} cannot be written as XML; rename the class.")
    for index, name in enumerate(names):
        file = out / "Annotations" / f"{os.path.splitext(name)[0]}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(file, _xml(records, index, name))
    (out / "JPEGImages").mkdir(exist_ok=True)
    listing = out / "ImageSets" / "Main" / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(listing, "".join(f"{os.path.splitext(name)[0]}\n" for name in names).encode())
    write_class_files(out, records.class_map)
    outlines = (
        0 if records.segments is None else sum(records.segments[row] is not None for row in range(len(records.boxes)))
    )
    losses = [f"{outlines} outlines left out: VOC XML has none"] if outlines else []
    box_areas = (records.boxes[:, 2:] - records.boxes[:, :2]).prod(1)
    other = int((~np.isclose(records.areas, box_areas, rtol=1e-4)).sum())
    if other:
        losses.append(f"{other} areas that are not the box's left out: small, medium and large go by the box")
    crowds = int(records.is_crowd.sum())
    if crowds:
        losses.append(f"{crowds} crowd regions written as difficult, with <iscrowd>1</iscrowd> that effdense reads")
    return losses


def _xml(records: DetectionRecords, index: int, name: str) -> bytes:
    root = ET.Element("annotation")
    ET.SubElement(root, "folder").text = "JPEGImages"
    ET.SubElement(root, "filename").text = name
    ET.SubElement(ET.SubElement(root, "source"), "database").text = "effdense convert"
    height, width = records.sizes[index].tolist()
    size = ET.SubElement(root, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        ET.SubElement(size, key).text = str(value)
    ET.SubElement(root, "segmented").text = "0"
    for row in range(int(records.offsets[index]), int(records.offsets[index + 1])):
        item = ET.SubElement(root, "object")
        crowd = bool(records.is_crowd[row])
        ET.SubElement(item, "name").text = records.class_map.names[int(records.labels[row])]
        ET.SubElement(item, "pose").text = "Unspecified"
        ET.SubElement(item, "truncated").text = "0"
        ET.SubElement(item, "difficult").text = str(int(crowd))
        if crowd:
            ET.SubElement(item, "iscrowd").text = "1"
        box = ET.SubElement(item, "bndbox")
        corners = records.boxes[row].astype(np.float64).tolist()
        for key, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ET.SubElement(box, key).text = repr(plain(corner))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=False)) + b"\n"
