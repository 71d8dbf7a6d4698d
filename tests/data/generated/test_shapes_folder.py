"""The generated classification set: balanced, readable without a finding, safe to make twice."""

from __future__ import annotations

import numpy as np
import pytest

from effdense.data.checks.image_file_check import check_image_files
from effdense.data.generated.shapes import write_shapes
from effdense.data.generated.shapes_folder import _window_start, write_shapes_folder
from effdense.data.image_io import read_image
from effdense.data.readers.image_folder import read_image_folder
from effdense.errors import ConfigError, DataError

SMALL = {"splits": {"train": 25, "val": 7}, "image_size": (48, 64)}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes_folder(tmp_path_factory.mktemp("data") / "shapes_folder", **SMALL)


def test_window_by_hand():
    """Of 10 places, 4..6 are covered: a window of 5 that holds them starts at 2, 3 or 4."""
    covered = np.zeros(10, bool)
    covered[4:7] = True
    starts = {_window_start(covered, 5, np.random.default_rng(seed)) for seed in range(50)}
    assert starts == {2, 3, 4}
    assert _window_start(np.ones(10, bool), 4, np.random.default_rng(0)) == 3  # too much: its middle
    covered[:] = False
    covered[0] = True
    assert _window_start(covered, 5, np.random.default_rng(0)) == 0


def test_the_set_is_a_clean_balanced_image_folder(shapes):
    names = ("ellipse", "rectangle", "ring", "star", "triangle")
    train, report = read_image_folder(shapes / "train")
    assert train.class_map.names == names and train.class_counts().tolist() == [5] * 5
    val, val_report = read_image_folder(shapes / "val", class_map=train.class_map)
    assert len(val) == 7 and val.class_counts().max() == 2
    assert report.findings == val_report.findings == []
    assert check_image_files(train, count="all", decode="all").findings == []
    sides = np.array([read_image(train.path(i)).shape[:2] for i in range(len(train))])
    assert sides.min() >= 48 and sides.max() <= 64


def test_a_split_too_small_for_all_classes_keeps_their_folders(tmp_path):
    root = write_shapes_folder(tmp_path / "s", splits={"val": 2}, image_size=48)
    records, report = read_image_folder(root / "val")
    assert len(records.class_map) == 5 and len(records) == 2
    assert [f.code for f in report.findings] == ["class-without-images"]


def test_a_picture_does_not_depend_on_how_many_follow(shapes, tmp_path):
    shorter = write_shapes_folder(tmp_path / "s", splits={"train": 3}, image_size=(48, 64))
    files = sorted(path.relative_to(shorter) for path in shorter.rglob("*.jpg"))
    assert len(files) == 3
    assert all((shorter / file).read_bytes() == (shapes / file).read_bytes() for file in files)
    reseeded = write_shapes_folder(tmp_path / "r", splits={"train": 3}, image_size=(48, 64), seed=1)
    assert all((shorter / file).read_bytes() != (reseeded / file).read_bytes() for file in files)


def test_made_once_and_replaced_on_request_only(tmp_path):
    root = write_shapes_folder(tmp_path / "s", splits={"train": 5}, image_size=48)
    file = next(root.rglob("*.jpg"))
    before = file.stat().st_mtime_ns
    write_shapes_folder(root, splits={"train": 5}, image_size=48)
    assert file.stat().st_mtime_ns == before
    with pytest.raises(DataError, match="overwrite=True"):
        write_shapes_folder(root, splits={"train": 6}, image_size=48)
    write_shapes_folder(root, splits={"train": 6}, image_size=48, overwrite=True)
    assert len(list(root.rglob("*.jpg"))) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["s"]  # nothing left of the making


def test_other_data_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(DataError, match="left alone"):
        write_shapes_folder(tmp_path, splits={"train": 1}, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_the_two_generated_sets_do_not_mix(tmp_path):
    detection = write_shapes(tmp_path / "shapes", splits={"train": 2}, image_size=64)
    with pytest.raises(DataError, match="'layout': 'folder'"):
        write_shapes_folder(detection, splits={"train": 2}, image_size=64)
    assert (detection / "annotations").is_dir()


@pytest.mark.parametrize("options", [{"image_size": 8}, {"seed": -1}, {"splits": {}}, {"splits": {"train": 0}}])
def test_wrong_arguments(tmp_path, options):
    with pytest.raises(ConfigError):
        write_shapes_folder(tmp_path / "s", **options)
