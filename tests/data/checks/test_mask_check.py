"""Masks that are not what they seem, each found with file, counts and the likely fix; good ones are let pass."""

import numpy as np
import pytest
from PIL import Image

from effdense.data.checks.mask_check import check_masks, check_overlap
from effdense.data.image_io import write_jpeg, write_png
from effdense.data.readers.mask_folder import read_mask_folder
from effdense.data.readers.mask_values import read_labels
from effdense.data.segmentation import SegmentationDataset
from effdense.errors import ConfigError, DataError

NAMES = ["sky", "road", "car"]
COLORS = [[70, 130, 180], [128, 64, 128], [0, 0, 142]]
BINARY = {"classes": ["background", "object"], "values": [0, 255], "ignore_index": None}


@pytest.fixture
def folder(tmp_path):
    """Pictures a, b, c of 24x32 px with masks of 0, 1, 2 and 255."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in "abc":
        write_jpeg(tmp_path / "images" / f"{name}.jpg", np.full((24, 32, 3), 90, np.uint8))
        write_png(tmp_path / "masks" / f"{name}.png", grid())
    return tmp_path


def grid():
    mask = np.zeros((24, 32), np.uint8)
    mask[:, 8:16], mask[:, 16:24], mask[:, 24:] = 1, 2, 255
    return mask


def binary():
    return np.where(grid() == 1, 255, 0).astype(np.uint8)


def colored(mask=None, colors=COLORS, ignored=(0, 0, 0)):
    table = np.array([*colors, *[ignored] * (256 - len(colors))], np.uint8)
    return table[grid() if mask is None else mask]


def each(folder, save):
    for name in "abc":
        save(folder / "masks" / f"{name}.png")


def write_palette(path, mask, colors):
    image = Image.fromarray(mask, mode="P")
    image.putpalette([part for color in colors for part in color])
    image.save(path)


def read(folder, **options):
    return read_mask_folder(folder / "images", folder / "masks", **{"classes": NAMES, **options})[0]


def check(folder, **options):
    return check_masks(read(folder, **options))


def only(report):
    """The one finding."""
    assert len(report.findings) == 1, report.summary()
    return report.findings[0]


def loaded(records, index=0):
    return SegmentationDataset(records, [], training=False).load_mask(index)


# -- 0 and 255 ---------------------------------------------------------------------------------------------------------


def test_binary_masks_say_both_ways_out(folder):
    each(folder, lambda path: write_png(path, binary()))
    found = only(check(folder, classes=["background", "object"]))
    assert found.code == "binary-mask" and found.count == 3
    black, white = int((binary() == 0).sum()), int((binary() == 255).sum())
    assert len(found.examples) == 3 and found.examples[0].endswith(f".png (0: {black} px, 255: {white} px)")
    assert "Write 1 in place of 255" in found.message and '"values": [0, 255] and "ignore_index": null' in found.message


def test_one_mask_of_0_and_255_among_masks_of_0_and_1(folder):
    each(folder, lambda path: write_png(path, binary() // 255))
    odd = sorted((folder / "masks").iterdir())[0]
    write_png(odd, binary())
    found = only(check(folder, classes=["background", "object"]))
    assert (found.severity, found.code, found.count) == ("warning", "binary-mask", 1)
    assert found.examples[0].startswith(odd.name) and "write 1 for it" in found.message


def test_a_stray_number_beside_many_classes_is_not_many_values(folder):
    names = [str(i) for i in range(20)]
    mask = np.arange(np.prod(binary().shape), dtype=np.uint8).reshape(binary().shape) % 30
    each(folder, lambda path: write_png(path, np.where(mask == 29, 40, mask).astype(np.uint8)))
    found = check(folder, classes=names, ignore_values=[*range(20, 30), 255]).errors
    assert [one.code for one in found] == ["mask-values"] and "So many values" not in found[0].message


def test_binary_masks_as_they_are(folder):
    each(folder, lambda path: write_png(path, binary()))
    records = read(folder, **BINARY)
    assert not check_masks(records).findings
    np.testing.assert_array_equal(loaded(records), binary() // 255)


def test_black_and_white_files(folder):
    each(folder, lambda path: Image.fromarray(binary()).convert("1").save(path))
    for options in (BINARY, {"classes": ["background", "object"]}):  # as 0/255 and as 0/1
        records = read(folder, **options)
        assert not check_masks(records).findings
        np.testing.assert_array_equal(loaded(records), binary() // 255)


def test_binary_masks_with_soft_edges(folder):
    soft = np.asarray(Image.fromarray(np.kron(binary(), np.ones((4, 4), np.uint8))).resize((32, 24)), np.uint8).copy()
    soft[0, :12] = range(20, 32)
    each(folder, lambda path: write_png(path, soft))
    found = only(check(folder, **BINARY))
    assert found.code == "mask-values" and "soft edges" in found.message and "20: " in found.examples[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 127, 255], '"values": [0, 127, 255] and "ignore_index": null'),
        ([10, 20, 30], '"values": [10, 20, 30] in the class file'),
        ([1, 2, 3], "counted from 1"),
    ],
)
def test_as_many_values_as_classes(folder, values, said):
    each(folder, lambda path: write_png(path, np.array(values, np.uint8)[np.minimum(grid(), 2)]))
    found = only(check(folder))
    assert found.code == "mask-values" and said in found.message


def test_an_ignore_value_that_was_not_named(folder):
    found = only(check(folder, ignore_index=None))
    assert found.code == "mask-values" and 'where 255 is one, say "ignore_index": 255' in found.message


# -- kinds of file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (colored(), "has 4 colours, most often [0, 0, 0], [128, 64, 128]"),
        (np.repeat(grid()[..., None], 3, 2), "all grey, so a number per pixel saved three times"),
        (np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8), "photograph"),
        (
            grid().astype(np.uint16),
            "I;16 (16-bit: save it as 8-bit grey, one class number per pixel); its values",
        ),
    ],
    ids=["colours", "grey", "photograph", "16 bit"],
)
def test_files_of_another_kind(folder, pixels, said):
    if pixels.ndim == 3 and said == "photograph":
        (folder / "images" / "b.jpg").unlink()
        write_jpeg(folder / "images" / "b.jpg", np.zeros((40, 40, 3), np.uint8))
        pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "masks" / "b.png")
    found = only(check(folder))
    assert found.code == "mask-kind" and found.examples[0].startswith("b.png is ") and said in found.examples[0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency(folder, mode):
    image = Image.fromarray(colored()).convert(mode)
    image.putalpha(Image.fromarray(binary()))
    image.save(folder / "masks" / "b.png")
    for options in ({}, {"palette": COLORS}):
        found = only(check(folder, **options))
        assert found.code == "mask-kind" and f"b.png is {mode}" in found.examples[0]
    assert "alpha" in found.examples[0]


def test_a_jpeg_under_another_name(folder):
    Image.fromarray(grid()).save(folder / "masks" / "b.png", format="JPEG")
    found = only(check(folder))
    assert found.code == "lossy-mask" and found.examples == ("b.png is a JPEG file",)


def test_grey_of_four_bits(folder, tmp_path):
    """Pillow stretches 0..15 to 0..255; the file's own numbers count."""
    mask = np.minimum(grid(), 2)
    image = Image.fromarray(mask, mode="P")
    image.putpalette([v for i in range(16) for v in (17 * i,) * 3])
    each(folder, lambda path: image.save(path, bits=4))
    assert not check(folder).findings
    # Rewritten as grey: the header's colour type says so, the palette goes.
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(a << 4 | b for a, b in zip(row[::2], row[1::2])) for row in mask.tolist())
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 24, 4, 0, 0, 0, 0))
    each(folder, lambda path: path.write_bytes(png + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")))
    records = read(folder)
    assert not check_masks(records).findings
    np.testing.assert_array_equal(loaded(records), mask)


@pytest.mark.parametrize("part", [0.5, 0.8])
def test_a_file_cut_short_and_one_damaged(folder, part):
    path = folder / "masks" / "b.png"
    noise = np.random.default_rng(0).integers(0, 3, (24, 32), np.uint8)
    write_png(path, noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert only(check(folder)).code == "unreadable-mask"
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    path.write_bytes(bytes(damaged))
    found = only(check(folder))
    assert found.code == "unreadable-mask" and found.examples[0].startswith("b.png (")
    with pytest.raises(DataError, match=r"b\.png: the mask cannot be read"):
        loaded(read(folder), 1)


# -- colours -----------------------------------------------------------------------------------------------------------


def test_masks_of_colours(folder):
    each(folder, lambda path: write_png(path, colored(np.minimum(grid(), 2))))
    records = read(folder, palette=COLORS)
    assert not check_masks(records).findings
    np.testing.assert_array_equal(loaded(records), np.minimum(grid(), 2))
    Image.fromarray(colored(np.minimum(grid(), 2))).convert("RGBA").save(folder / "masks" / "a.png")  # all opaque
    np.testing.assert_array_equal(loaded(read(folder, palette=COLORS)), np.minimum(grid(), 2))


def test_colours_that_are_ignored(folder, tmp_path):
    each(folder, lambda path: write_png(path, colored()))
    found = only(check(folder, palette=COLORS))
    assert found.code == "mask-colors" and found.examples[0] == "a.png ([0, 0, 0]: 192 px)"
    assert '"ignore_colors"' in found.message and "[0, 0, 0]" in found.message
    file = tmp_path / "classes.json"
    file.write_text(f'{{"classes": ["sky", "road", "car"], "palette": {COLORS}, "ignore_colors": [[0, 0, 0]]}}')
    records = read(folder, classes=file)
    assert not check_masks(records).findings
    np.testing.assert_array_equal(loaded(records), grid())


def test_colours_that_were_a_jpeg(folder):
    pixels = np.asarray(Image.fromarray(colored(np.minimum(grid(), 2))).resize((64, 48)).resize((32, 24)))
    noisy = np.clip(pixels.astype(int) + np.random.default_rng(0).integers(-3, 4, pixels.shape), 0, 255)
    each(folder, lambda path: write_png(path, noisy.astype(np.uint8)))
    found = only(check(folder, palette=COLORS))
    assert found.code == "mask-colors" and "saved as JPEG" in found.message and "and" in found.examples[0]


def test_red_and_blue_exchanged(folder):
    each(folder, lambda path: write_png(path, colored(np.minimum(grid(), 2), [c[::-1] for c in COLORS])))
    found = only(check(folder, palette=COLORS))
    assert found.code == "mask-colors" and "red and blue exchanged" in found.message


def test_training_finds_colours_the_check_did_not_look_at(folder):
    each(folder, lambda path: write_png(path, colored()))
    with pytest.raises(DataError, match=r"a\.png: the mask holds colours that are no class \(\[0, 0, 0\]: 192 px\)"):
        loaded(read(folder, palette=COLORS))


# -- palettes ----------------------------------------------------------------------------------------------------------


def test_a_palette_file_that_agrees(folder):
    each(folder, lambda path: write_palette(path, grid(), [*COLORS, *[[0, 0, 0]] * 253]))
    assert not check(folder, palette=COLORS).findings and not check(folder).findings


def test_palette_files_in_another_order(folder, tmp_path):
    order = [2, 0, 1]  # numbers 0, 1, 2 of the file are classes 2, 0, 1
    numbers = np.argsort(order)[np.minimum(grid(), 2)].astype(np.uint8)
    each(folder, lambda path: write_palette(path, numbers, [COLORS[k] for k in order]))
    found = only(check(folder, palette=COLORS))
    assert found.code == "palette-order" and "0 is [0, 0, 142], the colour of 2" in found.examples[0]
    file = tmp_path / "classes.json"
    file.write_text(f'{{"classes": ["sky", "road", "car"], "colors": {COLORS}}}')
    records = read(folder, classes=file)
    assert not check_masks(records).findings
    np.testing.assert_array_equal(loaded(records), np.minimum(grid(), 2))


def test_palette_files_renumbered_one_by_one(folder):
    """As programs do that optimise a palette when saving: found without a class file's colours."""
    write_palette(folder / "masks" / "a.png", np.minimum(grid(), 2), COLORS)
    write_palette(folder / "masks" / "b.png", np.array([1, 0, 2], np.uint8)[np.minimum(grid(), 2)],
                  [COLORS[1], COLORS[0], COLORS[2]])  # fmt: skip
    found = only(check(folder))
    assert (
        found.code == "palette-differs"
        and found.severity == "error"
        and "b.png (0 is [128, 64, 128]" in found.examples[0]
    )
    assert '"colors" in the class file' in found.message


def test_grey_and_palette_files_together(folder):
    write_palette(folder / "masks" / "a.png", grid(), [[i, i, i] for i in range(256)])
    assert not check(folder).findings


# -- sizes -------------------------------------------------------------------------------------------------------------


def exif_picture(path, orientation, size=(32, 24)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def test_a_mask_turned_by_a_quarter(folder):
    write_png(folder / "masks" / "b.png", np.zeros((32, 24), np.uint8))
    found = only(check(folder))
    assert found.examples == ("b.png is 24x32, the picture 32x24 (width x height); it is turned by a quarter",)


def test_rotated_pictures(folder):
    exif_picture(folder / "images" / "a.jpg", 6)  # mask on the pixels as stored
    exif_picture(folder / "images" / "b.jpg", 6, (24, 32))  # mask on the picture as seen
    exif_picture(folder / "images" / "c.jpg", 3)  # either
    report = check(folder)
    assert {f.code: (f.severity, f.examples) for f in report.findings} == {
        "exif-rotated": ("warning", ("a.jpg",)),
        "exif-unclear": ("warning", ("c.jpg",)),
    }
    dataset = SegmentationDataset(read(folder), [], training=True)
    assert all(dataset[i]["image"].shape == (24, 32, 3) for i in range(3))


# -- splits ------------------------------------------------------------------------------------------------------------


def test_nothing_but_ignored_pixels(folder):
    each(folder, lambda path: write_png(path, np.full((24, 32), 255, np.uint8)))
    found = only(check(folder))
    assert (found.severity, found.code, found.count) == ("error", "all-ignored", 3)
    write_png(folder / "masks" / "b.png", grid())
    found = only(check(folder))
    assert (found.severity, found.code, found.count) == ("warning", "all-ignored", 2)


def test_several_ignored_values(folder):
    mask = grid()
    mask[0] = 11
    each(folder, lambda path: write_png(path, mask))
    records = read(folder, ignore_values=[11, 255])
    assert not check_masks(records).findings
    assert (loaded(records)[0] == 255).all()


def test_the_same_pictures_in_both_splits(folder):
    (folder / "train.txt").write_text("a\nb\n")
    (folder / "val.txt").write_text("b\nc\n")
    train, val = (read(folder, split_file=folder / f"{name}.txt") for name in ("train", "val"))
    found = only(check_overlap(train, val))
    assert (found.severity, found.code, found.examples) == ("warning", "also-in-training", ("b.jpg",))
    assert not check_overlap(train, train.subset([])).findings
    # Another folder: of one name and equal to the byte, or of one name only.
    other = folder / "other"
    (other / "images").mkdir(parents=True)
    for name, value in (("a", 90), ("b", 91)):
        write_jpeg(other / "images" / f"{name}.jpg", np.full((24, 32, 3), value, np.uint8))
    copied = read_mask_folder(other / "images", folder / "masks", classes=NAMES)[0]
    assert only(check_overlap(train, copied)).examples == ("a.jpg",)


@pytest.mark.parametrize("options", [{"decode": -1}, {"decode": "some"}, {"decode": True}, {"workers": 0}])
def test_arguments(folder, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        check_masks(read(folder), **options)


def test_without_decoding_only_heads_are_read(folder):
    write_png(folder / "masks" / "b.png", np.full((24, 32), 77, np.uint8))
    assert not check_masks(read(folder), decode=0).findings
    with pytest.raises(DataError, match=r"b\.png: the mask holds values that are no class \(77: 768 px\)"):
        loaded(read(folder), 1)


def test_counts_of_large_and_small_masks_agree():
    from effdense.data.readers.mask_values import value_counts

    pixels = np.random.default_rng(0).integers(0, 256, (4100, 4100), np.uint8)
    np.testing.assert_array_equal(value_counts(pixels), np.bincount(pixels.ravel(), minlength=256))
    np.testing.assert_array_equal(value_counts(pixels[:50]), np.bincount(pixels[:50].ravel(), minlength=256))


def test_a_mask_that_is_not_there(folder):
    with pytest.raises(DataError, match="does not exist"):
        read_labels(folder / "masks" / "x.png", read(folder).coding)
