"""check_images: each planted fault of a picture file gives its one finding, a clean folder gives none."""

import numpy as np
import pytest
from PIL import Image

from effdense.data.checks.check import check_images
from effdense.data.image_io import write_jpeg, write_png
from effdense.data.records import ClassMap, DetectionRecords, ImageRecord
from effdense.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    noise = np.random.default_rng(0)
    for i in range(4):
        write_jpeg(tmp_path / f"{i}.jpg", noise.integers(0, 256, (60, 80, 3), np.uint8))
    write_png(tmp_path / "4.png", noise.integers(0, 256, (60, 80, 3), np.uint8))
    return tmp_path


def records_of(folder, width=80, height=60):
    empty = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64), "is_crowd": np.zeros(0, bool)}
    empty |= {"annotation_ids": np.zeros(0, np.int64), "areas": np.zeros(0, np.float32)}
    images = [
        ImageRecord(image_id=i, path=folder / name, width=width, height=height, **empty)
        for i, name in enumerate(["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.png"])
    ]
    return DetectionRecords.from_images(images, ClassMap(("thing",), (1,)))


@pytest.mark.parametrize("decode", [0, 3, "all"])
def test_clean_folder(folder, decode):
    report = check_images(records_of(folder), decode=decode, workers=2)
    assert report.findings == []
    assert report.summary().endswith("0 errors, 0 warnings")


def cut(name, share):
    def change(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return change


FAULTS = {
    "missing": (lambda f: (f / "1.jpg").unlink(), "missing-image", "1.jpg"),
    "empty": (lambda f: (f / "1.jpg").write_bytes(b""), "empty-file", "1.jpg"),
    "web page": (lambda f: (f / "1.jpg").write_bytes(b"<html>"), "not-an-image", "1.jpg"),
    "cut JPEG": (cut("1.jpg", 0.6), "truncated-image", "1.jpg"),
    "cut PNG": (cut("4.png", 0.6), "truncated-image", "4.png"),
    "other size": (
        lambda f: write_jpeg(f / "1.jpg", np.zeros((80, 60, 3), np.uint8)),
        "size-mismatch",
        "is 60x80, annotated 80x60",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault(folder, fault):
    change, code, place = FAULTS[fault]
    change(folder)
    report = check_images(records_of(folder))
    assert [(f.code, f.severity, f.count) for f in report.findings] == [(code, "error", 1)]
    assert place in report.findings[0].examples[0]
    with pytest.raises(DataError, match=code):
        report.raise_for_errors()


def test_damage_in_the_middle_needs_a_decode(folder):
    data = bytearray((folder / "4.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (folder / "4.png").write_bytes(bytes(data))
    assert check_images(records_of(folder)).findings == []
    assert [f.code for f in check_images(records_of(folder), decode="all").findings] == ["unreadable-image"]


def test_exif_rotation_is_handled_and_named(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(folder / "1.jpg", exif=exif.tobytes())
    report = check_images(records_of(folder), decode="all")
    assert [(f.code, f.severity, f.examples) for f in report.findings] == [
        ("exif-rotated", "warning", (str(folder / "1.jpg"),))
    ]
    # Annotated as seen, it needs no word.
    seen = check_images(records_of(folder, width=60, height=80).subset([1]))
    assert seen.findings == []


def test_all_missing_are_counted_and_the_first_named(folder):
    for i in range(4):
        (folder / f"{i}.jpg").unlink()
    (finding,) = check_images(records_of(folder)).errors
    assert finding.count == 4
    assert finding.examples[0].endswith("0.jpg")


@pytest.mark.parametrize("options", [{"decode": -1}, {"decode": "some"}, {"workers": 0}])
def test_options(folder, options):
    with pytest.raises(ConfigError):
        check_images(records_of(folder), **options)
