"""Readers of the public segmentation sets on generated trees: every label comes back, and what is missing is said."""

import json

import numpy as np
import pytest
from PIL import Image

from effdense.data.checks.mask_check import check_masks
from effdense.data.image_io import write_png
from effdense.data.paths import data_root
from effdense.data.readers.ade20k import read_ade20k
from effdense.data.readers.camvid import read_camvid
from effdense.data.readers.cityscapes import read_cityscapes
from effdense.data.readers.coco_semantic import read_coco_panoptic, read_coco_stuff
from effdense.data.readers.mask_folder import read_mask_folder
from effdense.data.readers.semantic_classes import COCO_PANOPTIC, COCO_STUFF
from effdense.data.readers.voc_segmentation import read_voc
from effdense.data.segmentation import SegmentationDataset
from effdense.errors import ConfigError, DataError
from tests.data import scene_trees as trees


def masks(read):
    """All masks of what a reader gave, which must be without errors."""
    records, report = read
    assert not report.errors and not check_masks(records).errors
    dataset = SegmentationDataset(records, [], training=False)
    return [dataset.load_mask(i) for i in range(len(records))]


def assert_masks(read, expected):
    for found, mask in zip(masks(read), expected, strict=True):
        np.testing.assert_array_equal(found, mask)


# -- PASCAL VOC --------------------------------------------------------------------------------------------------------


def test_voc(tmp_path):
    folder = trees.voc(tmp_path)
    assert_masks(read_voc(folder, "train"), [trees.labels(i, 21) for i in range(3)])
    records, _ = read_voc(tmp_path, "val")  # a folder above will do
    assert [path.stem for path in records.image_paths] == ["2007_000003", "2007_000004"]
    assert len(read_voc(folder.parent, "trainval")[0]) == 5 and records.class_map.names[15] == "person"


def test_voc_augmented(tmp_path):
    folder = trees.voc(tmp_path, extra=2)
    read = read_voc(folder, "train", augmented=True)
    assert_masks(read, [trees.labels(i, 21) for i in (0, 1, 2, 5, 6)])
    assert read[0].mask_dir.name == "SegmentationClassAug" and len(read_voc(folder, "val", augmented=True)[0]) == 2


def test_voc_masks_as_colours(tmp_path):
    """Some copies hold the palette's colours as RGB."""
    folder = trees.voc(tmp_path, train=1, val=1)
    palette = np.array([trees.voc_color(k) for k in range(256)], np.uint8)
    write_png(folder / "SegmentationClass" / "2007_000000.png", palette[trees.labels(0, 21)])
    assert_masks(read_voc(folder, "train"), [trees.labels(0, 21)])


def test_voc_classes_chosen(tmp_path):
    folder = trees.voc(tmp_path)
    whole = trees.labels(0, 21)
    found = masks(read_voc(folder, "train", classes=["cat", "person"]))[0]
    np.testing.assert_array_equal(found, np.where(whole == 8, 0, np.where(whole == 15, 1, 255)))


def test_voc_says_what_is_missing(tmp_path):
    folder = trees.voc(tmp_path)
    with pytest.raises(DataError, match=r"no list .*trainaug\.txt; the lists there are: train, trainval, val. .*SBD"):
        read_voc(folder, "train", augmented=True)
    (folder / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("2007_000000\n")
    with pytest.raises(DataError, match=r"SegmentationClassAug.*10582 names.*augmented=False"):
        read_voc(folder, "train", augmented=True)
    with pytest.raises(DataError, match=r"ROOT/JPEGImages"):
        read_voc(tmp_path / "nowhere", "train")


# -- Cityscapes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes(tmp_path, train_ids):
    read = read_cityscapes(trees.cityscapes(tmp_path, train_ids=train_ids), "train")
    assert_masks(read, [trees.labels(0, 19), trees.labels(1, 19)])
    ending = "labelTrainIds" if train_ids else "labelIds"
    assert read[0].mask_names[0] == f"aachen/aachen_000000_000019_gtFine_{ending}.png"
    assert read[0].class_map.category_ids[0] == 7  # label ids in either form, so that splits may differ


def test_cityscapes_of_both_forms(tmp_path):
    folder = trees.cityscapes(tmp_path, train_ids=True)
    next(folder.glob("gtFine/train/*/*labelTrainIds.png")).unlink()
    train, _ = read_cityscapes(folder, "train")  # not every picture has train ids
    assert train.mask_names[0].endswith("labelIds.png")
    val, _ = read_cityscapes(folder, "val", class_map=train.class_map)
    assert val.mask_names[0].endswith("labelTrainIds.png")
    assert_masks(read_cityscapes(folder, "val", masks="labelIds"), [trees.labels(2, 19)])
    _, report = read_cityscapes(folder, "train", masks="labelTrainIds")
    assert report.errors[0].code == "missing-mask" and report.errors[0].count == 1


def test_cityscapes_classes_chosen(tmp_path):
    whole = trees.labels(0, 19)
    for train_ids in (False, True):
        folder = trees.cityscapes(tmp_path / str(train_ids), train_ids=train_ids)
        found = masks(read_cityscapes(folder, "train", classes=["bicycle", "road"]))[0]
        np.testing.assert_array_equal(found, np.where(whole == 0, 0, np.where(whole == 18, 1, 255)))


def test_cityscapes_says_what_is_missing(tmp_path):
    folder = trees.cityscapes(tmp_path)
    with pytest.raises(DataError, match=r"the test pictures.*leftImg8bit_trainvaltest.zip"):
        read_cityscapes(folder, "test")
    with pytest.raises(DataError, match=r"gtCoarse.*NAME_gtFine_labelIds"):
        read_cityscapes(folder, "train", annotations="gtCoarse")
    with pytest.raises(ConfigError, match="masks must be one of"):
        read_cityscapes(folder, "train", masks="color")


def test_the_masks_of_a_test_split_hold_nothing(tmp_path):
    folder = trees.cityscapes(tmp_path)
    for path in folder.glob("gtFine/val/*/*labelIds.png"):
        write_png(path, np.full(trees.SIZE, 3, np.uint8))
    report = check_masks(read_cityscapes(folder, "val")[0])
    assert [finding.code for finding in report.errors] == ["all-ignored"] and "test split" in str(report.errors[0])


# -- ADE20K, CamVid ----------------------------------------------------------------------------------------------------


def test_ade20k(tmp_path):
    read = read_ade20k(trees.ade20k(tmp_path), "train")
    assert_masks(read, [trees.labels(0, 150), trees.labels(1, 150)])
    assert len(read_ade20k(tmp_path / "ADEChallengeData2016", "val")[0]) == 1
    with pytest.raises(DataError, match=r"the test pictures.*ADEChallengeData2016.zip"):
        read_ade20k(tmp_path / "ADEChallengeData2016", "test")


def test_ade20k_masks_that_were_converted(tmp_path):
    """0 written as 255 and every class one lower, as other programs want them: each label would be one off."""
    read = read_ade20k(trees.ade20k(tmp_path), "train")
    for path in read[0].mask_paths:
        write_png(path, np.asarray(Image.open(path)) - np.uint8(1))
    found = check_masks(read[0]).errors
    assert [one.code for one in found] == ["mask-values"] and "every label would be one off" in found[0].message


def test_camvid_in_both_layouts(tmp_path):
    folder = trees.camvid(tmp_path)
    assert_masks(read_camvid(folder, "train"), [trees.labels(0, 11), trees.labels(1, 11)])
    other = tmp_path / "other"
    (folder / "train").rename(trees.place(other / "images"))
    (folder / "trainannot").rename(other / "masks")
    trees.place(other / "splits" / "train.txt").write_text("/SegNet/CamVid/train/0001TP_000001.png x/y.png\n")
    assert_masks(read_camvid(other, "train"), [trees.labels(1, 11)])
    with pytest.raises(DataError, match=r"trainannot"):
        read_camvid(folder, "train")
    with pytest.raises(DataError, match=r"splits.val\.txt"):
        read_camvid(other, "val")


def test_real_camvid():
    if not (data_root() / "camvid").is_dir():
        pytest.skip(f"no camvid under {data_root()}: set EFFDENSE_DATA to a folder that has it")
    named, _ = read_camvid("camvid", "val")
    plain, _ = read_mask_folder(
        "camvid/images", "camvid/masks", classes="camvid/classes.json", split_file="camvid/splits/val.txt"
    )
    assert named.class_map == plain.class_map and len(named) == len(plain) == 101
    assert named.image_paths == plain.image_paths and not check_masks(named).findings
    ours, theirs = (SegmentationDataset(records, [], training=False).load_mask(7) for records in (named, plain))
    np.testing.assert_array_equal(ours, theirs)


# -- COCO --------------------------------------------------------------------------------------------------------------


def expected_panoptic(number):
    mask = trees.labels(number, 5)
    table = np.array([*((number + 7 * k) % 133 for k in range(5)), *[0] * 250, 255], np.uint8)
    return table[mask]


def test_coco_panoptic(tmp_path):
    read = read_coco_panoptic(trees.coco(tmp_path), "train")
    assert_masks(read, [expected_panoptic(9), expected_panoptic(25)])
    records = read[0]
    assert records.class_map == COCO_PANOPTIC.choose(None) and records.class_map.palette == COCO_PANOPTIC.palette
    again = records.subset([1])
    dataset = SegmentationDataset(again, [], training=False)
    np.testing.assert_array_equal(dataset.load_mask(0), expected_panoptic(25))


def test_coco_panoptic_classes_chosen(tmp_path):
    names = [COCO_PANOPTIC.names[9], COCO_PANOPTIC.names[16]]
    found = masks(read_coco_panoptic(trees.coco(tmp_path), "train", classes=names[::-1]))[0]
    whole = expected_panoptic(9)
    np.testing.assert_array_equal(found, np.where(whole == 9, 0, np.where(whole == 16, 1, 255)))


def spoil(folder, change):
    file = folder / "annotations" / "panoptic_train2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=12), "unknown-category-id"),
        (lambda c: c["annotations"][0].update(image_id=4), "unknown-image-id"),
        (lambda c: c["annotations"][0].update(file_name="../../x.png"), "unsafe-path"),
        (lambda c: c["annotations"][0].update(file_name="x.png"), "missing-mask"),
        (lambda c: c["images"][0].update(file_name="x.jpg"), "missing-image"),
        (lambda c: c["annotations"][0].pop("file_name"), "bad-annotation"),
    ],
)
def test_coco_panoptic_faults(tmp_path, change, code):
    folder = trees.coco(tmp_path)
    spoil(folder, change)
    records, report = read_coco_panoptic(folder, "train")
    assert [finding.code for finding in report.errors] == [code] and len(records) == 1


def test_coco_panoptic_segments_that_the_json_lacks(tmp_path):
    folder = trees.coco(tmp_path)
    spoil(folder, lambda c: c["annotations"][1]["segments_info"].pop())
    records, report = read_coco_panoptic(folder, "train")
    assert not report.errors
    (error,) = check_masks(records).errors
    assert error.code == "unknown-segment" and "000000000025.png (" in error.examples[0] and "px" in error.examples[0]


def test_coco_panoptic_files_of_another_kind(tmp_path):
    folder = trees.coco(tmp_path)
    spoil(folder, lambda c: [a.pop("segments_info") for a in c["annotations"]])
    with pytest.raises(DataError, match=r"segments_info.*not instances_"):
        read_coco_panoptic(folder, "train")
    spoil(folder, lambda c: c.pop("categories"))
    with pytest.raises(DataError, match=r"expected lists 'images'"):
        read_coco_panoptic(folder, "train")
    with pytest.raises(DataError, match=r"panoptic_test\.json.*panoptic_annotations_trainval2017\.zip"):
        read_coco_panoptic(folder, "test")
    write_png(folder / "annotations" / "panoptic_val2017" / "000000000139.png", np.zeros(trees.SIZE, np.uint8))
    report = check_masks(read_coco_panoptic(folder, "val")[0])
    assert [finding.code for finding in report.errors] == ["mask-kind"]


def test_coco_stuff(tmp_path):
    folder = trees.coco(tmp_path)
    records, _ = read = read_coco_stuff(folder, "val")
    found = masks(read)[0]
    whole = trees.labels(139, 5)
    for value, name in enumerate(["person", "toothbrush", "banner", "wood", "backpack"]):
        if value == 4:
            continue  # 24 is category 25, giraffe
        assert (found[whole == value] == COCO_STUFF.names.index(name)).all()
    assert records.class_map.category_ids[-1] == 182 and (found[whole == 255] == 255).all()
    with pytest.raises(DataError, match=r"stuffthingmaps_trainval2017\.zip"):
        read_coco_stuff(folder, "test")


def test_real_panoptic_pixel_maps():
    """Category ids as values, 0 = unlabelled, some pictures unlabelled; the class file is {value: name}."""
    if not (data_root() / "coco128" / "semantic").is_dir():
        pytest.skip(f"no coco128/semantic under {data_root()}: set EFFDENSE_DATA to a folder that has it")
    parts = "coco128/images", "coco128/semantic/val"
    with pytest.raises(DataError, match=r"missing-mask.*156x.*skip_missing=True"):
        read_mask_folder(*parts, classes="coco128/semantic/classes.json", ignore_index=0)[1].raise_for_errors()
    records, report = read_mask_folder(
        *parts, classes="coco128/semantic/classes.json", ignore_index=0, skip_missing=True
    )
    assert len(records) == 100 and [finding.code for finding in report.findings] == ["missing-mask"]
    assert records.class_map == COCO_PANOPTIC.choose(None)
    assert not check_masks(records).errors
