"""Records: labels follow category ids, storage is flat and small, subsets keep images and boxes together."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from effdense.data.records import ClassMap, DetectionRecords, ImageRecord, PackedStrings
from effdense.data.segments import PackedSegments, Segment
from effdense.errors import DataError


def record(image_id, count, first_annotation=0, crowd=()):
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4) + image_id
    return ImageRecord(
        image_id=image_id,
        path=Path(f"/pictures/ä{image_id}.jpg"),
        width=100 + image_id,
        height=50,
        boxes=boxes,
        labels=np.arange(count) % 2,
        is_crowd=np.isin(np.arange(count), crowd),
        annotation_ids=np.arange(count) + first_annotation,
        areas=np.ones(count, np.float32),
    )


CLASSES = ClassMap(("cat", "dog"), (3, 90))


def test_class_map_by_hand():
    assert (CLASSES.label(3), CLASSES.label(90), len(CLASSES)) == (0, 1, 2)
    assert ClassMap.from_dict(CLASSES.to_dict()) == CLASSES
    with pytest.raises(DataError, match=r"4 is not in the class map; known ids: \[3, 90\]"):
        CLASSES.label(4)


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (("a",), (1, 2), "as many names"),
        ((), (), "at least one class"),
        (("a", "a"), (1, 2), "unique"),
        (("a", "b"), (2, 1), "ascending"),
        (("a", "b"), (1, 1), "ascending"),
    ],
)
def test_class_map_refuses(names, ids, message):
    with pytest.raises(DataError, match=message):
        ClassMap(names, ids)


def test_packed_strings_round_trip():
    strings = ["", "a.jpg", "größe/図.png", "x" * 300]
    packed = PackedStrings(strings)
    assert [packed[i] for i in range(len(packed))] == strings
    assert packed[-1] == strings[-1]
    with pytest.raises(IndexError):
        packed[4]


def test_from_images_gives_each_image_its_own_boxes():
    images = [record(7, 2, 10), record(5, 0), record(9, 3, 20, crowd=(1,))]
    records = DetectionRecords.from_images(images, CLASSES)
    assert len(records) == 3
    assert records.image_ids.tolist() == [7, 5, 9]
    for i, image in enumerate(images):
        got = records[i]
        assert (got.image_id, got.path, got.width, got.height) == (image.image_id, image.path, image.width, 50)
        np.testing.assert_array_equal(got.boxes, image.boxes)
        np.testing.assert_array_equal(got.labels, image.labels)
        np.testing.assert_array_equal(got.is_crowd, image.is_crowd)
        assert (
            got.boxes.dtype == np.float32 and got.labels.dtype == np.int64 and got.boxes.shape == (len(image.boxes), 4)
        )
    assert records.class_counts().tolist() == [3, 1]  # one of the two dogs of image 9 is the crowd
    assert records[-1].image_id == 9
    with pytest.raises(IndexError):
        records[3]


def test_subset_is_the_images_in_the_order_asked_for():
    images = [record(i, i % 3, 10 * i) for i in range(6)]
    part = DetectionRecords.from_images(images, CLASSES).subset([5, 0, 1])
    assert part.image_ids.tolist() == [5, 0, 1]
    for i, original in enumerate((5, 0, 1)):
        np.testing.assert_array_equal(part[i].boxes, images[original].boxes)
        assert part[i].annotation_ids.tolist() == images[original].annotation_ids.tolist()
        assert part[i].path == images[original].path
    assert len(part.subset([])) == 0


def test_a_million_boxes_are_small_and_picklable():
    images, per_image = 100_000, 10
    total = images * per_image
    records = DetectionRecords(
        class_map=CLASSES,
        image_dir=Path("/pictures"),
        names=PackedStrings(f"{i:012d}.jpg" for i in range(images)),
        image_ids=np.arange(images),
        sizes=np.full((images, 2), 480, np.int32),
        offsets=np.arange(images + 1) * per_image,
        boxes=np.zeros((total, 4), np.float32),
        labels=np.zeros(total, np.int32),
        is_crowd=np.zeros(total, bool),
        annotation_ids=np.arange(total),
        areas=np.zeros(total, np.float32),
    )
    assert records.nbytes < 40e6
    packed = pickle.dumps(records, protocol=pickle.HIGHEST_PROTOCOL)
    assert len(packed) < 40e6  # nothing but the arrays: no object per box or per name
    assert pickle.loads(packed).path(99_999) == Path("/pictures/000000099999.jpg")


def test_arrays_that_disagree_are_refused():
    good = DetectionRecords.from_images([record(1, 2)], CLASSES)
    fields = {**good.__dict__, "labels": good.labels[:1]}
    with pytest.raises(DataError, match="disagree"):
        DetectionRecords(**fields)


def test_outlines_are_taken_in_any_order_and_cannot_be_changed_through_a_sample():
    ring = np.array([[0, 0], [4, 0], [4, 3]], np.float32)
    run = Segment(rle={"size": [2, 2], "counts": b"04"})
    packed = PackedSegments.pack([Segment((ring, ring + 5)), None, run, Segment((ring + 1,))])
    for rows in ([3, 0, 2, 1, 3], [-1, 1], [], np.array([True, False, True, False])):
        taken = packed.take(rows)
        chosen = np.arange(4)[rows if len(rows) else slice(0)]
        expected = PackedSegments.pack(packed[int(i)] for i in chosen)
        for name in ("points", "point_of", "ring_of", "runs", "run_of", "run_sizes"):
            assert np.array_equal(getattr(taken, name), getattr(expected, name)), name
    with pytest.raises(IndexError):
        packed.take([4])
    with pytest.raises(ValueError, match="read-only"):
        packed[0].polygons[0][:] = 0


def test_a_subset_by_mask_or_from_the_end():
    records = DetectionRecords.from_images([record(i, i) for i in range(4)], CLASSES)
    for rows, ids in ((np.array([False, True, False, True]), [1, 3]), ([-1], [3]), ([], [])):
        chosen = records.subset(rows)
        assert chosen.image_ids.tolist() == ids and np.diff(chosen.offsets).tolist() == ids
        assert [chosen.path(i) for i in range(len(ids))] == [records.path(i) for i in ids]
    with pytest.raises(IndexError):
        records.subset([4])
