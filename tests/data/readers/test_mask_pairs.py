"""Pictures and masks by name: sub-folders, endings, one folder for both, and what split lists look like in the wild."""

from pathlib import Path

import pytest

from effdense.data.checks.check import DataReport
from effdense.data.readers.mask_pairs import MaskPairing, pair_files
from effdense.errors import DataError


@pytest.fixture
def tree(tmp_path):
    def tree(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        return tmp_path

    return tree


def pair(root, *, listing=None, images="images", masks="masks", **options):
    report = DataReport()
    file = None
    if listing is not None:
        file = root / "list.txt"
        file.write_text(listing)
    return pair_files(root / images, root / masks, file, report, MaskPairing(**options)), report


def codes(report):
    return [finding.code for finding in report.findings]


def test_sub_folders_are_part_of_the_name(tree):
    root = tree("images/a/1.jpg", "images/b/1.jpg", "images/2.jpg", "masks/a/1.png", "masks/b/1.png", "masks/2.png")
    pairs, report = pair(root)
    assert pairs == [("2.jpg", "2.png"), ("a/1.jpg", "a/1.png"), ("b/1.jpg", "b/1.png")] and not report.findings


@pytest.mark.parametrize(
    "line",
    ["b/1", "b/1.jpg", "images/b/1.jpg", "/data/set/images/b/1.jpg masks/b/1.png", "b\\1.jpg", "b/1 1", "  b/1\t"],
)
def test_lines_of_a_split_list(tree, line):
    root = tree("images/a/1.jpg", "images/b/1.jpg", "masks/a/1.png", "masks/b/1.png")
    pairs, report = pair(root, listing=f"\n{line}\n\n")
    assert pairs == [("b/1.jpg", "b/1.png")] and not report.findings


def test_names_with_blanks_and_a_byte_order_mark(tree):
    root = tree("images/my cat.jpg", "masks/my cat.png")
    assert pair(root, listing="\ufeffmy cat\n")[0] == [("my cat.jpg", "my cat.png")]


def test_no_line_leads_out_of_the_folder(tree):
    root = tree("images/a.jpg", "masks/a.png", "secret/a.jpg")
    pairs, report = pair(root, listing="../secret/a.jpg\na\nimages/../a\n")
    assert pairs == [("a.jpg", "a.png")] and codes(report) == ["unsafe-path"] and report.errors[0].count == 2


def test_a_table_in_place_of_a_list(tree):
    _, report = pair(tree("images/a.jpg", "masks/a.png"), listing="name,mask\na.jpg,a.png\n")
    assert codes(report) == ["missing-image"] and "without commas" in report.errors[0].message


def test_endings_of_the_names(tree):
    root = tree("images/x_rgb.png", "images/x_depth.png", "masks/x_L.png", "masks/x_color.png")
    assert pair(root, image_suffix="_rgb", mask_suffix="_L")[0] == [("x_rgb.png", "x_L.png")]
    assert pair(root, image_suffix="_rgb", mask_suffix="_L", listing="x_rgb.png")[0] == [("x_rgb.png", "x_L.png")]
    _, report = pair(tree("images/y.jpg", "masks/y_mask.png"), listing="y")
    assert "rename the masks or give mask_suffix='_mask'" in report.errors[0].message


@pytest.mark.parametrize(
    ("picture", "mask", "said"),
    [
        ("a1.jpg", "A1.png", "for 'a1' there is 'A1.png': rename the masks."),
        ("0001_sat.jpg", "0001_mask.png", "rename the masks or give image_suffix='_sat', mask_suffix='_mask'."),
        ("img_07.jpg", "label_07.png", "for 'img_07' there is 'label_07.png': rename the masks."),
        ("city/a.jpg", "a.png", "for 'city/a' there is 'a.png'"),
        ("a.jpg", "b.png", "Add the masks, give a split file that names only pictures with one, or skip_missing=True."),
    ],
)
def test_the_nearest_name_is_said(tree, picture, mask, said):
    _, report = pair(tree(f"images/{picture}", f"masks/{mask}"))
    assert codes(report)[-1] == "missing-mask" and said in report.errors[0].message


def test_options_are_named_only_where_there_are_some(tree):
    _, report = pair(tree("images/a.jpg", "masks/b.png"), chosen=False)
    assert "skip_missing" not in report.errors[0].message


def test_one_folder_for_both(tree):
    root = tree("all/a.jpg", "all/a.png", "all/.b.jpg")
    assert pair(root, images="all", masks="all")[0] == [("a.jpg", "a.png")]
    root = tree("same/a.png", "same/a_mask.png")
    assert pair(root, images="same", masks="same", mask_suffix="_mask")[0] == [("a.png", "a_mask.png")]


def test_masks_in_a_folder_within_the_pictures(tree):
    root = tree("set/a.png", "set/masks/a.png", "set/.thumbnails/a.png")
    pairs, report = pair(root, images="set", masks="set/masks")
    assert pairs == [("a.png", "a.png")] and not report.findings


def test_masks_saved_as_jpeg(tree):
    _, report = pair(tree("images/a.jpg", "masks/a.jpg"))
    assert codes(report) == ["missing-mask"] and "'a.jpg', but .jpg changes the values" in report.errors[0].message


def test_masks_of_a_format_that_is_not_read(tree):
    _, report = pair(tree("images/a.jpg", "masks/a.npy", "masks/b.gif"))
    assert "no files ending in .bmp, .png, .tif, .tiff, but in .gif, .npy: save" in report.errors[0].message


def test_only_some_are_labelled(tree):
    root = tree("images/a.jpg", "images/b.jpg", "masks/b.png")
    pairs, report = pair(root, skip_missing=True)
    assert pairs == [("b.jpg", "b.png")] and codes(report) == ["missing-mask"] and not report.errors
    (root / "masks" / "b.png").unlink()
    assert pair(root, skip_missing=True)[1].errors  # none at all is a wrong folder


def test_nothing_there(tree):
    root = tree("images/a.txt", "masks/a.png")
    with pytest.raises(DataError, match=r"split is empty; no file in .*images ends in"):
        pair(root)
    with pytest.raises(DataError, match="one picture name a line"):
        pair(tree("images/a.jpg"), listing="\n \n")
    assert isinstance(root, Path)
