"""The same check on YOLO, VOC, masks and class folders: faults alone, all at once, and clean sets."""

import shutil

import pytest

from effdense.data.checks.source_check import read_source
from effdense.data.writing.convert import write_dataset
from tests.data import planted_formats as planted
from tests.data import planted_sets as sets
from tests.data.checks.test_dataset_check import assert_exactly, check, found

FORMATS = ("yolo", "voc", "masks")


@pytest.fixture(scope="session")
def clean_sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("formats")
    _, splits = read_source(sets.write_coco(root / "coco"))
    for format in FORMATS:
        for split in splits:
            write_dataset(split.records, root / format, format, split=split.name, pictures="copy")
    return root


@pytest.fixture
def dataset(clean_sets, tmp_path):
    return lambda format: shutil.copytree(clean_sets / format, tmp_path / format)


@pytest.mark.parametrize("format", FORMATS)
def test_clean_sets(dataset, format):
    report = check(dataset(format))
    assert report.format == format
    assert_exactly(report, set())
    assert [split.images["found"] for split in report.splits] == [30, 6]


@pytest.mark.parametrize(("format", "fault"), [(form, name) for form in FORMATS for name in planted.faults(form)])
def test_fault_alone(dataset, format, fault):
    root = dataset(format)
    plant, expected = planted.faults(format)[fault]
    plant(root)
    assert_exactly(check(root), expected)


@pytest.mark.parametrize("format", FORMATS)
def test_one_of_each(dataset, format):
    root = dataset(format)
    expected = {}
    for plant, findings in planted.faults(format).values():
        plant(root)
        for severity, code, count, place in findings:
            total, places = expected.get((severity, code), (0, []))
            expected[severity, code] = (total + count, [*places, place])
    seen = {(s, c): (n, ex) for s, c, n, ex in found(check(root))}
    assert {key: n for key, (n, _) in seen.items()} == {key: n for key, (n, _) in expected.items()}
    for key, (_, places) in expected.items():
        for place in places:
            assert any(place in example for example in seen[key][1]), (key, place, seen[key])


def test_pixel_shares_of_masks(dataset):
    (train, _) = check(dataset("masks")).splits
    assert train.statistics.unit == "pixels"
    assert train.statistics.counts.tolist()[1] == 30 * (12 * 10 + 14 * 20)  # cats, which nothing covers
    assert int(train.statistics.counts.sum()) == 30 * sets.SIZE[0] * sets.SIZE[1]


def test_class_folders(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for k, name in enumerate(sets.CLASSES):
            for i in range(count):
                sets.save(tmp_path / split / name / f"{i}.jpg", sets.picture(100 * k + i + 50 * (split == "val")))
    assert_exactly(check(tmp_path), set())
    sets.cut(tmp_path / "train" / "cat" / "0.jpg", 0.6)
    (tmp_path / "val" / "cow" / "1.jpg").write_bytes((tmp_path / "train" / "cow" / "1.jpg").read_bytes())
    assert_exactly(
        check(tmp_path),
        {("error", "truncated-image", 1, "cat/0.jpg"), ("error", "same-content-in-splits", 1, "cow/1.jpg")},
    )
