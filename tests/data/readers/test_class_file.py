"""Class files: every form of them, binary masks, several ignored values, colours; slips found with the key's name."""

import json

import pytest

from effdense.data.readers.class_file import read_classes
from effdense.data.readers.mask_values import MaskCoding
from effdense.data.records import ClassMap
from effdense.errors import DataError

NAMES = ["sky", "road", "car"]


@pytest.fixture
def write(tmp_path):
    def write(content):
        file = tmp_path / "classes.json"
        file.write_text(json.dumps(content))
        return file

    return write


def test_names_alone(write):
    expected = ClassMap(("sky", "road", "car"), (0, 1, 2)), MaskCoding((0, 1, 2), (255,))
    assert read_classes(NAMES) == read_classes(write({"classes": NAMES})) == read_classes(write(NAMES)) == expected


def test_binary_masks_of_0_and_255(write):
    content = {"classes": ["background", "object"], "values": [0, 255], "ignore_index": None}
    class_map, coding = read_classes(write(content))
    assert coding == MaskCoding((0, 255), ()) and coding.ignore_index is None and class_map.category_ids == (0, 255)
    assert read_classes(["background", "object"], values=[0, 255], ignore_index=None) == (class_map, coding)


def test_several_ignored_values(write):
    file = write({"classes": NAMES, "values": [1, 5, 9], "ignore_values": [0, 255, 2]})
    assert read_classes(file)[1] == MaskCoding((1, 5, 9), (0, 255, 2))
    assert read_classes(file, ignore_values=[255, 2, 0])[1].ignore_values == (255, 2, 0)
    assert read_classes(NAMES, ignore_values=[7, 11])[1].ignore_index == 7


def test_values_and_names(write):
    file = write({"0": "nothing", "4": "road", "1": "sky"})
    assert read_classes(file, ignore_index=0) == (ClassMap(("sky", "road"), (1, 4)), MaskCoding((1, 4), (0,)))
    assert read_classes(file)[0].names == ("nothing", "sky", "road")


def test_colours(write):
    colors = [[0, 0, 0], [1, 2, 3], [255, 0, 9]]
    class_map, coding = read_classes(write({"classes": NAMES, "palette": colors, "ignore_colors": [[9, 9, 9]]}))
    assert class_map.palette == coding.colors == ((0, 0, 0), (1, 2, 3), (255, 0, 9))
    assert coding.ignore_colors == ((9, 9, 9),) and not coding.by_color
    assert read_classes(write({"classes": NAMES, "colors": colors}))[1].by_color
    assert read_classes(NAMES, palette=colors)[0].palette == class_map.palette


def test_a_palette_with_a_colour_twice_is_drawn_with_and_not_read_by(write):
    colors = [[0, 0, 0], [1, 2, 3], [0, 0, 0]]
    class_map, coding = read_classes(write({"classes": NAMES, "palette": colors}))
    assert class_map.palette is not None and coding.colors is None
    with pytest.raises(DataError, match=r"two things each: \[\(0, 0, 0\)\]"):
        read_classes(write({"classes": NAMES, "colors": colors}))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"clases": NAMES}, {}, r"'clases' is no key of a class file. Did you mean 'classes'"),
        ({"classes": NAMES, "pallete": []}, {}, "Did you mean 'palette'"),
        ({"classes": NAMES, "value": [1]}, {}, "Did you mean 'values'"),
        ({"names": NAMES}, {}, r"expected .*a list of names, got None"),
        ({"classes": NAMES, "values": [0, 1]}, {}, r"classes\.json.*3 names and 2 ids"),
        ({"classes": NAMES, "values": [0, 1, 256]}, {}, "values must be whole numbers 0..255"),
        ({"classes": NAMES, "values": [0, 1.5, 2]}, {}, "values must be whole numbers 0..255"),
        ({"classes": NAMES, "values": "012"}, {}, "values must be whole numbers 0..255"),
        ({"classes": NAMES, "values": [2, 1, 0]}, {}, "ascending"),
        ({"classes": NAMES, "values": [0, 1, 255]}, {}, r'ignore_index 255 is also .*"ignore_index": null'),
        ({"classes": NAMES, "ignore_index": "none"}, {}, r"ignore_index must be whole numbers.*got \['none'\]"),
        ({"classes": NAMES, "ignore_index": 3}, {"ignore_index": 4}, r"\[3\], but \[4\] was asked for"),
        ({"classes": NAMES, "ignore_index": None}, {"ignore_values": [9]}, r"\[\], but \[9\] was asked for"),
        ({"classes": NAMES, "palette": [[0, 0, 0]]}, {}, r"classes\.json: A palette needs one .* of the 3 classes"),
        ({"classes": NAMES, "palette": [[0, 0, 0], [0, 0, 1], "red"]}, {}, r"palette\[2\]"),
        ({"classes": NAMES, "ignore_colors": [[0, 0]]}, {}, r"ignore_colors\[0\] must be \[R, G, B\]"),
        ({"classes": NAMES, "ignore_colors": 0}, {}, "must be a list of"),
        ({"classes": NAMES, "values": [1, 2, 3]}, {"values": [0, 1, 2]}, "leave one of the two out"),
        ({"classes": [f"class {i}" for i in range(256)]}, {}, "at most 255"),
    ],
    ids=str,
)
def test_slips(write, content, options, message):
    with pytest.raises(DataError, match=message):
        read_classes(write(content), **options)


def test_palette_and_colors_together(write):
    colors = [[i, i, i] for i in range(3)]
    with pytest.raises(DataError, match="both there"):
        read_classes(write({"classes": NAMES, "palette": colors, "colors": colors}))


def test_not_json(tmp_path):
    (tmp_path / "c.json").write_text("classes: [sky]")
    with pytest.raises(DataError, match="not valid JSON"):
        read_classes(tmp_path / "c.json")
