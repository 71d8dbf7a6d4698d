"""The whole check: each fault planted alone gives its one finding, all at once give exactly theirs, clean sets none."""

import pytest

from effdense.data.checks.check import keeping_examples
from effdense.data.checks.dataset_check import CheckOptions, check_dataset
from effdense.data.checks.source_check import read_source
from effdense.errors import ConfigError
from tests.data import planted_sets as sets

NOISE = {"few-instances", "category-id-gaps"}  # notes about how small these sets are


def check(root, names=None, **options):
    with keeping_examples(1000):
        source, splits = read_source(root, names)
        return check_dataset(str(source.root), source.format, splits, CheckOptions(**options), complete=names is None)


def found(report):
    return [(f.severity, f.code, f.count, f.examples) for _, f in report.findings if f.code not in NOISE]


def assert_exactly(report, expected):
    """The findings are these and no others, each count right and each place named."""
    seen = found(report)
    assert sorted((s, c, n) for s, c, n, _ in seen) == sorted((s, c, n) for s, c, n, _ in expected), seen
    for severity, code, count, place in expected:
        assert any((s, c, n) == (severity, code, count) and any(place in e for e in ex) for s, c, n, ex in seen), (
            place, seen,
        )  # fmt: skip


@pytest.fixture(scope="session")
def clean_coco(tmp_path_factory):
    return sets.write_coco(tmp_path_factory.mktemp("clean") / "coco")


@pytest.fixture
def coco(clean_coco, tmp_path):
    import shutil

    return shutil.copytree(clean_coco, tmp_path / "coco")


def test_clean_set(coco):
    report = check(coco)
    assert_exactly(report, set())
    train, val = report.splits
    assert train.images == {"listed": 30, "found": 30, "missing": 0, "unreadable": 0, "empty": 0}
    assert train.statistics.counts.tolist() == [60, 60, 60]
    assert val.statistics.pictures.tolist() == [6, 6, 6]
    assert sum(train.statistics.sizes) == 180


@pytest.mark.parametrize("fault", [*sets.coco_faults(), *sets.COCO_ALONE])
def test_fault_alone(coco, fault):
    plant, expected = {**sets.coco_faults(), **sets.COCO_ALONE}[fault]
    plant(coco)
    assert_exactly(check(coco), expected)


def test_one_of_each_fault(coco):
    expected = {}
    for plant, findings in sets.coco_faults().values():
        plant(coco)
        for severity, code, count, place in findings:
            total, places = expected.get((severity, code), (0, []))
            expected[severity, code] = (total + count, [*places, place])
    seen = {(s, c): (n, ex) for s, c, n, ex in found(check(coco))}
    assert {key: n for key, (n, _) in seen.items()} == {key: n for key, (n, _) in expected.items()}
    for key, (_, places) in expected.items():
        for place in places:
            assert any(place in example for example in seen[key][1]), (key, place, seen[key])


def test_options():
    with pytest.raises(ConfigError, match="0 to 16"):
        CheckOptions(distance=17)


def test_numbers_of_a_split_with_lost_pictures(coco):
    (coco / "train" / "00.jpg").unlink()
    sets.cut(coco / "train" / "01.jpg", 0.5)
    (train, _) = check(coco).splits
    assert train.images == {"listed": 30, "found": 29, "missing": 1, "unreadable": 1, "empty": 0}


def test_without_decoding_a_copy_is_still_found(coco):
    sets.copy_train_to_val(coco)
    assert [c for _, c, _, _ in found(check(coco, decode=0))] == ["same-content-in-splits"]
    assert found(check(coco, hash=False)) == []


def test_image_size_decides_what_is_tiny(coco):
    assert found(check(coco, image_size=(12, 16))) == []
    # A quarter of 64 x 48 at most: the sides below 2 px are those below 8 px, of which there are none; at 11 x 16 the
    # pictures shrink by 11 / 48, so 9 px become 2.06 px; at 10 x 16 by 10 / 48, and 9 px become 1.875 px.
    assert found(check(coco, image_size=(11, 16))) == []
    tiny = [f for _, f in check(coco, image_size=(10, 16)).findings if f.code == "tiny-bbox"]
    assert [f.count for f in tiny] == [2 * 30, 2 * 6]
    assert tiny[0].examples[:2] == (
        "annotation 1001 in 00.jpg (1.9 x 2.9 px)",
        "annotation 1005 in 00.jpg (2.1 x 1.9 px)",
    )
