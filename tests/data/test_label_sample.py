"""Label statistics in bounded time: of all masks where they are few, else of a spread sample that says its size."""

from __future__ import annotations

import numpy as np
import pytest

from effdense.data.checks.label_sample import sampled_statistics
from effdense.data.checks.label_statistics import mask_statistics
from effdense.data.checks.mask_check import look_at_masks
from effdense.data.combining.combine import concatenate
from effdense.data.generated.shapes import write_shapes
from effdense.data.readers.mask_folder import SegmentationRecords, read_mask_folder


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> SegmentationRecords:
    root = tmp_path_factory.mktemp("masks")
    write_shapes(root, splits={"train": 70}, image_size=(32, 40), max_objects=3)
    classes = root / "semantic" / "classes.json"
    return read_mask_folder(root / "train", root / "semantic" / "train", classes=classes)[0]


def test_few_masks_are_all_counted(records: SegmentationRecords) -> None:
    found, looked_at = sampled_statistics(records, masks=100)
    expected = mask_statistics(records, look_at_masks(records))
    assert looked_at == 70 and found.names == expected.names and found.ignored == expected.ignored
    assert found.counts.tolist() == expected.counts.tolist() and found.pictures.tolist() == expected.pictures.tolist()


def test_of_many_a_part(records: SegmentationRecords) -> None:
    """Ten: every eighth or so. Without time: the first pass over all of them, every third."""
    ten, looked_at = sampled_statistics(records, masks=10)
    assert looked_at == 10 and ten.pictures.max() == 10  # the background is in all
    rows = np.linspace(0, 69, 10).round().astype(int)
    assert ten.counts.tolist() == sampled_statistics(records.subset(rows))[0].counts.tolist()
    hurried, looked_at = sampled_statistics(records, seconds=-1.0)
    assert (
        looked_at == 24
        and hurried.counts.tolist() == sampled_statistics(records.subset(range(0, 70, 3)))[0].counts.tolist()
    )


def test_joined_masks(records: SegmentationRecords) -> None:
    """The second part is there twice, as with ``repeat=2``."""
    one, two = records.subset(range(10)), records.subset(range(10, 15))
    joined = concatenate([one, two, two])
    found, looked_at = sampled_statistics(joined)
    parts = [sampled_statistics(part)[0] for part in (one, two)]
    assert looked_at == 20 and found.counts.tolist() == (parts[0].counts + 2 * parts[1].counts).tolist()
    assert found.pictures.tolist() == (parts[0].pictures + 2 * parts[1].pictures).tolist()
