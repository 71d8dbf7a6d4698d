"""convert_dataset: the same pictures in four formats are the same records; losses are counted, folders respected."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdense.data.image_io import read_image
from effdense.data.readers.coco import read_coco
from effdense.data.readers.formats import detect, read_split
from effdense.data.readers.mask_objects import read_mask_objects
from effdense.data.records import ClassMap, DetectionRecords, ImageRecord
from effdense.data.segments import Segment
from effdense.data.writing.convert import convert_dataset
from effdense.data.writing.write_pictures import picture_names
from effdense.data.writing.write_yolo import single_ring
from effdense.data.writing.writers import write_dataset
from effdense.errors import ConfigError, DataError

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog & co"}, {"id": 8, "name": "größe"}]


def coco_set(root: Path, *, whole: bool, splits: tuple[str, ...] = ("train", "val"), images: int = 10) -> Path:
    """Pictures of several sizes with boxes that do not overlap, in whole pixels or not."""
    rng = np.random.default_rng(3)
    for split in splits:
        entries, boxes = [], []
        (root / split).mkdir(parents=True)
        for i in range(images):
            width, height = rng.integers(90, 160, 2).tolist()
            name = f"{split}_{i:02d}.jpg"
            Image.new("RGB", (width, height), (i, 99, 50)).save(root / split / name)
            entries.append({"id": 100 + i, "file_name": name, "width": width, "height": height})
            for column in range(int(rng.integers(0, 4))):
                x, y = column * 28 + rng.random() * 4, rng.random() * 30
                w, h = 5 + rng.random() * 18, 5 + rng.random() * 40
                box = [float(int(v)) if whole else round(v, 2) for v in (x, y, w, h)]
                entry = {"id": 1000 + len(boxes), "image_id": 100 + i, "category_id": (3, 7, 8)[int(rng.integers(3))]}
                boxes.append({**entry, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        content = {"images": entries, "annotations": boxes, "categories": CATEGORIES}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def same(a: DetectionRecords, b: DetectionRecords, *, ids: bool = True) -> None:
    """Names, sizes, boxes (bit by bit) and labels agree, and category ids."""
    assert [a.names[i] for i in range(len(a))] == [b.names[i] for i in range(len(b))]
    np.testing.assert_array_equal(a.sizes, b.sizes)
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.labels, b.labels)
    assert a.class_map.names == b.class_map.names
    assert not ids or a.class_map == b.class_map


def test_four_formats_are_the_same_records(tmp_path: Path) -> None:
    source = coco_set(tmp_path / "source", whole=True)
    for format in ("coco", "yolo", "voc", "masks"):
        done = convert_dataset(source, tmp_path / format, format)
        assert [part.split for part in done.splits] == ["train", "val"]
        assert detect(tmp_path / format).format == format
        for split in ("train", "val"):
            expected, _ = read_split(source, split)
            found, report = read_split(tmp_path / format, split)
            assert report.errors == []
            same(expected, found)
            np.testing.assert_allclose(expected.areas, found.areas, rtol=1e-5)
            assert [found.path(i).is_file() for i in range(len(found))] == [True] * len(found)


@pytest.mark.parametrize("way", [("yolo", "voc"), ("voc", "yolo"), ("yolo", "coco"), ("voc", "coco")])
def test_round_trips_are_exact_for_boxes_that_are_not_whole(tmp_path: Path, way: tuple[str, str]) -> None:
    source = coco_set(tmp_path / "source", whole=False)
    place: Path = source
    for format in (*way, "coco"):
        losses = [part.losses for part in convert_dataset(place, tmp_path / f"{place.name}-{format}", format).splits]
        assert losses == [(), ()]
        place = tmp_path / f"{place.name}-{format}"
    for split in ("train", "val"):
        same(read_split(source, split)[0], read_split(place, split)[0])


def test_yolo_shares_by_hand_and_data_yaml(tmp_path: Path) -> None:
    boxes = np.array([[10, 20, 30, 60], [0, 0, 64, 80]], np.float32)
    records = by_hand(tmp_path, boxes, size=(80, 64))
    write_dataset(records, tmp_path / "out", "yolo", split="train")
    lines = (tmp_path / "out/labels/train/a.txt").read_text().splitlines()
    assert lines == ["0 0.3125 0.5 0.3125 0.5", "1 0.5 0.5 1.0 1.0"]
    yaml = (tmp_path / "out/data.yaml").read_text()
    assert yaml == "train: images/train\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
    assert (tmp_path / "out/classes.txt").read_text() == "cat\ndog\n"


def by_hand(
    folder: Path,
    boxes: np.ndarray,
    *,
    size: tuple[int, int] = (80, 100),
    crowd: tuple[bool, ...] | None = None,
    segments: tuple[Segment | None, ...] | None = None,
    name: str = "a.jpg",
) -> DetectionRecords:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", size[::-1]).save(folder / name)
    count = len(boxes)
    record = ImageRecord(
        image_id=5, path=folder / name, width=size[1], height=size[0], boxes=boxes.astype(np.float32),
        labels=np.arange(count) % 2, is_crowd=np.array(crowd or [False] * count), annotation_ids=np.arange(count) + 1,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float32), segments=segments,
    )  # fmt: skip
    return DetectionRecords.from_images([record], ClassMap(("cat", "dog"), (1, 2)))


def test_what_a_format_cannot_hold_is_counted(tmp_path: Path) -> None:
    boxes = np.array([[10, 20, 30, 60], [5, 5, 50.5, 40], [12, 22, 20, 40]], np.float32)
    ring = np.array([[10, 20], [30, 20], [30, 60]], np.float32)
    records = by_hand(tmp_path, boxes, crowd=(False, True, False), segments=(Segment((ring,)), None, None))
    losses = {
        f: " ".join(write_dataset(records, tmp_path / f, f, split="train").losses)
        for f in ("coco", "yolo", "voc", "masks")
    }
    assert losses["coco"] == ""
    assert "1 crowd regions left out" in losses["yolo"] and "1 outlines left out" in losses["yolo"]
    assert "1 outlines left out" in losses["voc"] and "1 crowd regions written as difficult" in losses["voc"]
    assert "1 objects without outline" in losses["masks"] and "1 crowd regions written as 255" in losses["masks"]
    voc, _ = read_split(tmp_path / "voc", "train")
    assert voc.is_crowd.tolist() == [False, True, False]
    coco, _ = read_split(tmp_path / "coco", "train", segments=True)
    assert coco.is_crowd.tolist() == [False, True, False] and coco.image_ids.tolist() == [5]
    assert coco.segments is not None and coco.segments[0] is not None
    np.testing.assert_array_equal(coco.segments[0].polygons[0], ring)
    assert len(read_split(tmp_path / "yolo", "train")[0].boxes) == 2


def test_masks_paint_the_larger_first_and_count_what_changes(tmp_path: Path) -> None:
    boxes = np.array([[40, 40, 50, 50], [10, 10, 60, 60], [12, 12, 12.4, 30], [70, 5, 90, 15], [70, 5, 90, 15]])
    written = write_dataset(by_hand(tmp_path, boxes), tmp_path / "out", "masks", split="train")
    losses = " ".join(written.losses)
    assert "5 objects without outline written as filled rectangles" in losses
    assert "1 boxes change" in losses and "1 objects lost" in losses  # 12.4 becomes 13; one of the twins is covered
    records, _ = read_split(tmp_path / "out", "train")
    np.testing.assert_array_equal(
        records.boxes, [[40, 40, 50, 50], [10, 10, 60, 60], [12, 12, 13, 30], [70, 5, 90, 15]]
    )
    numbers = np.asarray(Image.open(tmp_path / "out/instances/train/a.png"))
    assert numbers[45, 45] == 1 and numbers[30, 30] == 2 and numbers.dtype in (np.uint16, np.int32)


def test_outlines_of_masks_come_back_from_yolo_polygons_with_the_same_boxes(tmp_path: Path) -> None:
    yy, xx = np.mgrid[:80, :100]
    disc = ((xx - 40) ** 2 + (yy - 30) ** 2 < 20**2).astype(np.uint8)
    disc[60:70, 60:90] = 2
    for folder, pixels in (("images", np.zeros((80, 100, 3), np.uint8)), ("masks", disc)):
        (tmp_path / "m" / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "m" / folder / "a.png")
    (tmp_path / "m/classes.json").write_text('{"classes": ["background", "cat", "dog"]}')
    done = convert_dataset(tmp_path / "m", tmp_path / "y", "yolo")
    assert "written as train" in done.notes[0]
    expected, _ = read_mask_objects(tmp_path / "m", "all", segments=True)
    found, _ = read_split(tmp_path / "y", "train", segments=True)
    np.testing.assert_array_equal(expected.boxes, found.boxes)
    assert expected.segments is not None and found.segments is not None
    for row in range(2):
        ours, theirs = expected.segments[row], found.segments[row]
        assert ours is not None and theirs is not None
        assert (ours.bitmap((80, 100)) != theirs.bitmap((80, 100))).mean() < 0.01


def test_one_ring_of_several_parts_fills_them_all() -> None:
    squares = [np.array([[x, 5], [x + 10, 5], [x + 10, 15], [x, 15]], np.float32) for x in (5, 40)]
    ring = single_ring(Segment(tuple(squares)), (40, 60))
    expected = Segment(tuple(squares)).bitmap((40, 60))
    np.testing.assert_array_equal(Segment((ring,)).bitmap((40, 60)), expected)


def test_polygons_are_written_when_asked_for_and_their_boxes_follow(tmp_path: Path) -> None:
    ring = np.array([[11, 20], [30, 20], [30, 60]], np.float32)
    records = by_hand(tmp_path, np.array([[10, 20, 30, 60]]), segments=(Segment((ring,)),))
    assert "--polygons" in write_dataset(records, tmp_path / "boxes", "yolo", split="train").losses[0]
    written = write_dataset(records, tmp_path / "rings", "yolo", split="train", polygons=True)
    assert written.losses == ("1 boxes become those of their outlines",)
    assert read_split(tmp_path / "rings", "train")[0].boxes.tolist() == [[11, 20, 30, 60]]


def test_pictures_are_linked_copied_or_left(tmp_path: Path) -> None:
    source = coco_set(tmp_path / "source", whole=True, splits=("train",), images=3)
    for how in ("link", "copy"):
        done = convert_dataset(source, tmp_path / how, "voc", pictures=how)
        picture = tmp_path / how / "JPEGImages/train_00.jpg"
        assert os.path.samefile(picture, source / "train/train_00.jpg") == (how == "link")
        assert picture.read_bytes() == (source / "train/train_00.jpg").read_bytes()
        assert str(done.splits[0].pictures) == ("3 pictures hard-linked" if how == "link" else "3 copied")
    done = convert_dataset(source, tmp_path / "none", "coco", pictures="none")
    assert not (tmp_path / "none/train").exists() and "no pictures written" in done.notes[0]


def test_boxes_on_unturned_pixels_survive_the_turn(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images/a.jpg", exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}],  # as stored, not as seen
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [30, 5, 25, 10], "area": 250}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    done = convert_dataset(tmp_path, tmp_path.parent / f"{tmp_path.name}-y", "yolo")
    assert "1 pictures lose their EXIF rotation" in done.splits[0].losses[0]
    records, report = read_split(done.out, "train")
    assert report.errors == [] and records.boxes.tolist() == [[30, 5, 55, 15]]
    np.testing.assert_array_equal(
        read_image(records.path(0)), read_image(tmp_path / "images/a.jpg", expected_size=(40, 60))
    )


def test_names_that_would_meet_are_kept_apart(tmp_path: Path) -> None:
    root = coco_set(tmp_path / "source", whole=True, images=2)
    for split in ("train", "val"):
        file = root / f"annotations/instances_{split}.json"
        content = json.loads(file.read_text())
        for entry, name in zip(content["images"], ("same.jpg", "sub/same.jpg"), strict=True):
            target = root / split / name
            target.parent.mkdir(exist_ok=True)
            (root / split / entry["file_name"]).rename(target)
            entry["file_name"] = name
        file.write_text(json.dumps(content))
    convert_dataset(root, tmp_path / "voc", "voc")
    names = {s: [r.names[i] for i in range(2)] for s in ("train", "val") for r in [read_split(tmp_path / "voc", s)[0]]}
    assert names == {"train": ["same.jpg", "sub/same.jpg"], "val": ["sub/val_same.jpg", "val_same.jpg"]}
    for split in ("train", "val"):
        same_boxes = sorted(read_split(tmp_path / "voc", split)[0].boxes.tolist())
        assert same_boxes == sorted(read_split(root, split)[0].boxes.tolist())
    doubled = by_hand(tmp_path / "d", np.zeros((0, 4)))
    other = by_hand(tmp_path / "d", np.zeros((0, 4)), name="a.png")
    both = DetectionRecords.from_images([doubled[0], other[0]], doubled.class_map)
    assert picture_names(both) == ["a.jpg", "a-png.png"]


def test_errors_of_the_source_stop_before_anything_is_written(tmp_path: Path) -> None:
    source = coco_set(tmp_path / "source", whole=True, splits=("train",), images=4)
    file = source / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"].append({"id": 1, "image_id": 77, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12})
    file.write_text(json.dumps(content))
    (source / "train/train_01.jpg").unlink()
    with pytest.raises(DataError) as caught:
        convert_dataset(source, tmp_path / "out", "yolo")
    for words in ("unknown-image-id", "missing-image", "train: train_01.jpg", "Nothing was written"):
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists() and [p.name for p in tmp_path.iterdir()] == ["source"]
    done = convert_dataset(source, tmp_path / "out", "yolo", skip_errors=True)
    assert done.splits[0].images == 3 and len(done.report.errors) == 2


def test_folders_are_not_written_over(tmp_path: Path) -> None:
    source = coco_set(tmp_path / "source", whole=True, splits=("train",), images=2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="not empty"):
        convert_dataset(source, out, "yolo")
    convert_dataset(source, out, "yolo", overwrite=True)
    convert_dataset(source, out, "yolo", overwrite=True)
    assert (out / "mine.txt").read_text() == "keep me"
    same(read_split(source, "train")[0], read_split(out, "train")[0])
    for target in (source, tmp_path):
        with pytest.raises(ConfigError, match="is the source or holds it"):
            convert_dataset(source, target, "yolo", overwrite=True)
    with pytest.raises(ConfigError, match="Did you mean 'yolo'"):
        convert_dataset(source, tmp_path / "new", "yol")


def test_chosen_splits_and_classes(tmp_path: Path) -> None:
    source = coco_set(tmp_path / "source", whole=True)
    done = convert_dataset(source, tmp_path / "out", "voc", splits=["valid"], classes=["größe", "cat"])
    assert [part.split for part in done.splits] == ["val"] and detect(done.out).splits == ("val",)
    found = read_split(done.out, "val")[0]
    assert found.class_map == ClassMap(("cat", "größe"), (3, 8))
    same(read_split(source, "val", classes=["cat", "größe"])[0], found)
    with pytest.raises(DataError, match="has no split 'test'"):
        convert_dataset(source, tmp_path / "none", "voc", splits=["test"])


def test_the_config_it_ends_with_names_what_was_written(tmp_path: Path) -> None:
    source = coco_set(tmp_path / "source", whole=True, images=2)
    done = convert_dataset(source, tmp_path / "out", "coco")
    config: dict = {}
    exec(done.config(), config)
    section = config["val_dataloader"]["dataset"]
    assert section["type"] == "CocoDetection" and section["root"] == str(tmp_path / "out")
    records, _ = read_coco(tmp_path / "out" / section["ann_file"], tmp_path / "out" / section["image_dir"])
    assert len(records) == 2


@pytest.mark.skipif(not os.environ.get("EFFDENSE_DATA"), reason="EFFDENSE_DATA is not set")
@pytest.mark.parametrize("name", ["bccd", "coco128"])
def test_real_sets_there_and_back(tmp_path: Path, name: str) -> None:
    root = Path(os.environ["EFFDENSE_DATA"]) / name
    if not root.is_dir():
        pytest.skip(f"no {name} under EFFDENSE_DATA")
    place = root
    for format in ("yolo", "voc", "coco"):
        place = convert_dataset(place, tmp_path / format, format, splits=["val"]).out
    expected = read_split(root, "val")[0]
    order = sorted(range(len(expected)), key=lambda i: expected.names[i])
    same(expected.subset(order), read_split(place, "val")[0])
