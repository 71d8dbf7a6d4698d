"""Data sets joined, classes renamed: a case by hand, nothing lost or moved, messages for what users get wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdense.data.combining.combine import concatenate, map_classes, take_share, union_of
from effdense.data.readers.image_folder import ClassificationRecords
from effdense.data.readers.mask_folder import read_mask_folder
from effdense.data.records import ClassMap, DetectionRecords, ImageRecord, PackedStrings
from effdense.data.segmentation import SegmentationDataset
from effdense.data.segments import Segment
from effdense.errors import ConfigError, DataError

TRIANGLE = np.array([[0, 0], [4, 0], [0, 4]], np.float32)


def image(image_id, labels, *, path="a.jpg", first_id=1, segments=None):
    """A record with one box per label: box i starts at x = i."""
    n = len(labels)
    boxes = np.array([[i, 0, i + 5, 5] for i in range(n)], np.float32).reshape(-1, 4)
    return ImageRecord(
        image_id, Path(path), 40, 30, boxes, np.array(labels, np.int64), np.zeros(n, bool),
        np.arange(first_id, first_id + n), np.full(n, 25, np.float32), segments,
    )  # fmt: skip


def records(images, names=("car", "person", "truck"), ids=None, file="a.json"):
    class_map = ClassMap(tuple(names), tuple(ids or range(1, len(names) + 1)))
    return DetectionRecords.from_images(images, class_map, annotation_file=Path(file))


def names_of(part, index):
    return [part.class_map.names[label] for label in part[index].labels]


def test_concatenation_by_hand():
    one = records([image(1, [0, 1], path="x/1.jpg"), image(7, [], path="x/2.jpg", first_id=3)])
    other = records(
        [image(7, [2], path="y/1.jpg", first_id=2), image(8, [0], path="y/2.jpg", first_id=9)], file="b.json"
    )
    both = concatenate([one, other])
    assert len(both) == 4 and len(both.boxes) == 4
    assert both.image_ids.tolist() == [1, 7, 9, 8]  # the second 7 gets the number above the largest of all
    assert both.annotation_ids.tolist() == [1, 2, 10, 9]
    assert both.offsets.tolist() == [0, 2, 2, 3, 4]
    assert [both.source_of(i) for i in range(4)] == ["a.json", "a.json", "b.json", "b.json"]
    assert both.annotation_file is None and both.image_dir == Path()
    assert [both.path(i) for i in range(4)] == [Path.cwd() / p for p in ("x/1.jpg", "x/2.jpg", "y/1.jpg", "y/2.jpg")]
    assert both.subset([2, 0]).source_of(0) == "b.json"


def test_joining_is_associative_and_keeps_every_box():
    rng = np.random.default_rng(0)
    parts = [
        records([image(int(i), rng.integers(0, 3, rng.integers(0, 4)).tolist(), path=f"{p}/{i}.jpg") for i in range(5)])
        for p in range(3)
    ]
    flat = concatenate(parts)
    nested = concatenate([concatenate(parts[:2]), parts[2]])
    for field in ("sizes", "offsets", "boxes", "labels", "areas"):
        assert np.array_equal(getattr(flat, field), getattr(nested, field)), field
    assert len(set(flat.image_ids.tolist())) == 15 and len(set(flat.annotation_ids.tolist())) == len(flat.boxes)
    assert flat.image_ids.tolist() == concatenate(parts).image_ids.tolist()
    for i in range(15):
        mine, before = flat[i], parts[i // 5][i % 5]
        assert np.array_equal(mine.boxes, before.boxes) and np.array_equal(mine.labels, before.labels)


def test_equal_names_in_another_order_are_matched_by_name():
    one = records([image(1, [0, 1, 2])], names=("car", "person", "truck"), ids=(1, 2, 3))
    other = records([image(2, [0, 1, 2])], names=("truck", "car", "person"), ids=(4, 9, 11))
    both = concatenate([one, other])
    assert both.class_map == one.class_map
    assert names_of(both, 1) == ["truck", "car", "person"]


def test_outlines_are_joined_and_absent_ones_stay_absent():
    runs = Segment.from_coco({"size": [30, 40], "counts": [0, 5, 1195]}, (30, 40))
    with_outlines = records([image(1, [0, 1], segments=(Segment((TRIANGLE,)), runs))])
    without = records([image(2, [0])])
    both = concatenate([with_outlines, without, with_outlines])
    assert both[1].segments == (None,)
    for index in (0, 2):
        first, second = both[index].segments
        assert np.array_equal(first.polygons[0], TRIANGLE) and second.to_coco() == runs.to_coco()
    dropped = map_classes(both, {"car": None}, unmapped="keep")
    assert [len(dropped[i].segments) for i in range(3)] == [1, 0, 1]
    assert dropped[0].segments[0].to_coco() == runs.to_coco()


def test_mapping_by_hand():
    before = records([image(1, [0, 1, 2]), image(2, [1])])
    after = map_classes(before, {"car": "vehicle", "truck": "vehicle", "person": None})
    assert after.class_map == ClassMap(("vehicle",), (1,))
    assert after[0].labels.tolist() == [0, 0] and after[0].annotation_ids.tolist() == [1, 3]
    assert after[0].boxes[:, 0].tolist() == [0, 2]  # the boxes of car and truck
    assert len(after) == 2 and len(after[1].boxes) == 0  # the image stays
    assert after.annotation_file is None and after.source_of(1) == "a.json"
    kept = map_classes(before, {"truck": "car"}, unmapped="keep")
    assert kept.class_map.names == ("car", "person") and kept[0].labels.tolist() == [0, 1, 0]
    assert map_classes(before, {"car": "car"}, unmapped="drop").class_map.names == ("car",)
    turned = map_classes(before, {}, unmapped="keep", classes=["truck", "car"])
    assert turned.class_map.names == ("truck", "car") and names_of(turned, 0) == ["car", "truck"]


def test_union_is_in_order_of_first_appearance():
    parts = [records([], names=("b", "a")), records([], names=("c", "b"))]
    assert union_of(parts) == ClassMap(("b", "a", "c"), (1, 2, 3))
    assert union_of(parts, ["c", "a"]).names == ("c", "a")
    with pytest.raises(ConfigError, match=r"'aa' is not among them\. Did you mean"):
        union_of(parts, ["aa"])


@pytest.mark.parametrize(
    ("mapping", "options", "message"),
    [
        ({"caar": "vehicle"}, {}, "which the data does not have. Did you mean 'car'"),
        ({"vehicle": ["car", "truck"]}, {}, "Turn it around: {'car': 'vehicle', 'truck': 'vehicle'"),
        ({"car": 3}, {}, "expected a class name, or None"),
        ({"car": "x"}, {}, "leaves out 2 of the 3 classes: person, truck"),
        ({"car": None}, {"unmapped": "drop"}, "drops every class"),
        ({"car": "x"}, {"unmapped": "ignore"}, "unmapped must be one of"),
        ([("car", "x")], {}, "mapping must be a dict"),
        ({"car": "x"}, {"unmapped": "keep", "classes": ["y"]}, "'y' is not among them"),
        ({"car": "x"}, {"unmapped": "keep", "classes": "x"}, "must be a list of class names"),
    ],
)
def test_mappings_that_cannot_be_meant(mapping, options, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("{", r"\{")):
        map_classes(records([image(1, [0])]), mapping, **options)


def test_what_cannot_be_joined():
    with pytest.raises(DataError, match=r"only it has \['bus'\], only the first has \['truck'\]. Map them"):
        concatenate([records([]), records([], names=("car", "person", "bus"))])
    with pytest.raises(ConfigError, match="at least one"):
        concatenate([])
    pictures = ClassificationRecords(ClassMap(("car",), (0,)), Path(), PackedStrings(["a.jpg"]), np.zeros(1, np.int64))
    with pytest.raises(ConfigError, match="classification, detection together"):
        concatenate([records([]), pictures])
    huge = records([image(2**63 - 1, [0])])
    with pytest.raises(DataError, match="no room above"):
        concatenate([huge, huge])


def test_share_is_the_same_every_time():
    whole = records([image(i, [0], first_id=i) for i in range(40)])
    some = take_share(whole, 0.25, seed=3)
    assert len(some) == 10 and some.image_ids.tolist() == sorted(some.image_ids.tolist())
    assert some.image_ids.tolist() == take_share(whole, 0.25, seed=3).image_ids.tolist()
    assert some.image_ids.tolist() != take_share(whole, 0.25, seed=4).image_ids.tolist()
    assert len(take_share(whole, 0.001, seed=0)) == 1 and take_share(whole, 1, seed=0) is whole
    for wrong in (0, 1.5, True, "half"):
        with pytest.raises(ConfigError, match="share of the images"):
            take_share(whole, wrong, seed=0)


def test_pictures_with_one_class():
    names = ClassMap(("cat", "dog", "fox"), (0, 1, 2))
    part = ClassificationRecords(names, Path("pets"), PackedStrings(["1.jpg", "2.jpg", "3.jpg"]), np.array([0, 1, 2]))
    after = map_classes(part, {"cat": "pet", "dog": "pet", "fox": None})
    assert after.labels.tolist() == [0, 0] and after.class_map.names == ("pet",)  # the fox's picture is left out
    both = concatenate([after, after])
    assert [both.path(i) for i in (0, 3)] == [Path.cwd() / "pets/1.jpg", Path.cwd() / "pets/2.jpg"]


@pytest.fixture
def two_mask_sets(tmp_path):
    """Two folders with the same picture content, whose masks number sky and road differently."""
    sets = []
    for folder, classes, values in (("a", ["sky", "road", "car"], [0, 1, 2]), ("b", ["road", "sky", "car"], [3, 7, 9])):
        for kind in ("images", "masks"):
            (tmp_path / folder / kind).mkdir(parents=True)
        Image.new("RGB", (6, 4)).save(tmp_path / folder / "images" / "1.png")
        mask = np.full((4, 6), values[classes.index("sky")], np.uint8)
        mask[2:] = values[classes.index("road")]
        mask[3, :2] = values[classes.index("car")]
        mask[3, 5] = 255
        Image.fromarray(mask).save(tmp_path / folder / "masks" / "1.png")
        part, _ = read_mask_folder(
            tmp_path / folder / "images", tmp_path / folder / "masks", classes=classes, values=values
        )
        sets.append(part)
    return sets


def test_masks_are_joined_by_name(two_mask_sets):
    both = concatenate(two_mask_sets)
    expected = np.zeros((4, 6), np.uint8)
    expected[2:] = 1
    expected[3, :2], expected[3, 5] = 2, 255
    samples = SegmentationDataset(both, [], training=True)
    for index in range(2):
        assert np.array_equal(samples[index]["mask"], expected)
        assert str(two_mask_sets[index].image_dir) == both.source_of(index)
    after = map_classes(both, {"sky": None, "road": "ground", "car": "ground"})
    mask = SegmentationDataset(after, [], training=True)[1]["mask"]
    assert np.array_equal(mask, np.where(expected == 0, 255, np.where(expected == 255, 255, 0)))
    assert len(after.subset([1])) == 1 and after.subset([1]).path(0) == both.path(1)


def test_a_mask_with_another_value_is_named(two_mask_sets):
    mask = np.full((4, 6), 5, np.uint8)
    Image.fromarray(mask).save(two_mask_sets[1].mask_path(0))
    with pytest.raises(DataError, match=r"b/masks/1.png: the mask holds values that are no class \(5\)"):
        SegmentationDataset(concatenate(two_mask_sets), [], training=True)[1]
