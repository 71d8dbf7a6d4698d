"""Classes of the public sets: how many, known rows of each, and the rules their colours follow."""

import json

import pytest

from effdense.data.paths import data_root
from effdense.data.readers.semantic_classes import ADE20K, CAMVID, CITYSCAPES, COCO_PANOPTIC, COCO_STUFF, VOC, voc_color
from effdense.data.records import ClassMap
from effdense.errors import ConfigError, DataError

COUNTS = {VOC: 21, CITYSCAPES: 19, ADE20K: 150, CAMVID: 11, COCO_PANOPTIC: 133, COCO_STUFF: 171}


@pytest.mark.parametrize(("row", "count"), COUNTS.items(), ids=lambda value: getattr(value, "set_name", value))
def test_counts(row, count):
    assert len(row.names) == len(row.ids) == len(row.palette) == len(set(row.names)) == count
    assert all(name == name.strip() and name for name in row.names)
    class_map = row.choose(None)  # unique, ascending, colours in range
    assert class_map.names == row.names and class_map.palette == row.palette


def rows(known, *ids):
    return {known.names[known.ids.index(i)]: known.palette[known.ids.index(i)] for i in ids}


def test_known_rows():
    assert rows(VOC, 0, 1, 15, 20) == {
        "background": (0, 0, 0), "aeroplane": (128, 0, 0), "person": (192, 128, 128), "tvmonitor": (0, 64, 128)
    }  # fmt: skip
    assert rows(CITYSCAPES, 7, 26, 33) == {
        "road": (128, 64, 128), "car": (0, 0, 142), "bicycle": (119, 11, 32)
    }  # fmt: skip
    assert rows(ADE20K, 1, 13, 150) == {
        "wall": (120, 120, 120), "person": (150, 5, 61), "flag": (92, 0, 255)
    }  # fmt: skip
    assert rows(CAMVID, 0, 10) == {"sky": (128, 128, 128), "bicyclist": (0, 128, 192)}
    assert rows(COCO_PANOPTIC, 1, 90, 92, 149, 200) == {
        "person": (220, 20, 60), "toothbrush": (191, 162, 208), "banner": (255, 255, 128), "road": (128, 64, 128),
        "rug-merged": (250, 141, 255),
    }  # fmt: skip
    assert list(rows(COCO_STUFF, 1, 90, 92, 182)) == ["person", "toothbrush", "banner", "wood"]
    assert COCO_PANOPTIC.names[:80] == COCO_STUFF.names[:80] and COCO_PANOPTIC.ids[79] == 90


def test_voc_colours_by_hand():
    assert voc_color(255) == (224, 224, 192)  # the border between objects
    assert len({voc_color(index) for index in range(256)}) == 256


def test_panoptic_names_are_those_of_real_files():
    file = data_root() / "coco128" / "semantic" / "classes.json"
    if not file.is_file():
        pytest.skip(f"{file} is not there: set EFFDENSE_DATA to a folder that has coco128")
    content = {int(key): name for key, name in json.loads(file.read_text()).items()}
    content.pop(0)
    assert content == dict(zip(COCO_PANOPTIC.ids, COCO_PANOPTIC.names))


def test_choosing_classes():
    chosen = CITYSCAPES.choose(["car", "road"])
    assert chosen == ClassMap(("road", "car"), (7, 26)) and chosen.palette == ((128, 64, 128), (0, 0, 142))
    with pytest.raises(ConfigError, match=r"'bicicle' is not among them. Did you mean 'bicycle'"):
        CITYSCAPES.choose(["bicicle"])
    with pytest.raises(ConfigError, match="must name classes of Cityscapes"):
        CITYSCAPES.choose([])


def test_a_palette_travels_with_a_class_map():
    class_map = ClassMap(("a", "b"), (0, 1), ([1, 2, 3], (4, 5, 6)))
    again = ClassMap.from_dict(json.loads(json.dumps(class_map.to_dict())))
    assert again.palette == class_map.palette == ((1, 2, 3), (4, 5, 6))
    assert class_map == ClassMap(("a", "b"), (0, 1)) and "palette" not in ClassMap(("a",), (0,)).to_dict()


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ([(0, 0, 0)], "each of the 2 classes, got 1"),
        ([(0, 0, 0), (0, 0, 256)], r"palette\[1\] must be \[R, G, B\]"),
        ([(0, 0, 0), (0, 0, 0.5)], r"palette\[1\]"),
        ([(0, 0, 0), (0, 0)], r"palette\[1\]"),
        ([(0, 0, 0), "red"], r"palette\[1\]"),
        ("ab", "got 0 colours"),
    ],
)
def test_palettes_that_are_none(palette, message):
    with pytest.raises(DataError, match=message):
        ClassMap(("a", "b"), (0, 1), palette)
