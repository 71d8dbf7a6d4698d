"""read_image: every common kind of file gives the same uint8 RGB, and a bad one an error that says what is wrong."""

import io
import re
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from effdense.data.image_io import read_image, write_jpeg, write_png
from effdense.errors import DataError


def smooth_picture(height=48, width=64):
    """Red rises to the right, green downwards, so that orientation and channel order show."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 255 * columns / (width - 1), 255 * rows / (height - 1)
    return np.stack([red, green, np.full_like(red, 60)], axis=2).astype(np.uint8)


def test_png_round_trip_is_exact_rgb(tmp_path):
    picture = smooth_picture()
    write_png(tmp_path / "a.png", picture)
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read, picture)
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)


def test_jpeg_round_trip_is_close_rgb(tmp_path):
    picture = smooth_picture()
    write_jpeg(str(tmp_path / "a.jpg"), picture)
    assert np.abs(read_image(str(tmp_path / "a.jpg")).astype(int) - picture).max() <= 8
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]  # no partial file left


def test_grey_alpha_palette_and_sixteen_bit(tmp_path):
    picture = smooth_picture()
    grey = picture[..., 0]
    expected_grey = np.repeat(grey[..., None], 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), expected_grey)
    alpha = np.dstack([picture, np.full_like(grey, 7)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), picture)
    Image.fromarray(grey.astype(np.uint16) * 256 + 99).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), expected_grey)
    palette = Image.fromarray(picture).quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    palette.save(tmp_path / "palette.gif")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.gif"), np.asarray(palette.convert("RGB")))


def test_cmyk_jpeg_looks_as_in_pillow(tmp_path):
    picture = smooth_picture()
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    read = read_image(tmp_path / "c.jpg")
    assert np.abs(read.astype(int) - np.asarray(Image.open(tmp_path / "c.jpg").convert("RGB"))).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_as_pillow_turns_it(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(smooth_picture()).save(tmp_path / f"a.{suffix}", exif=exif.tobytes(), **options)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).max() <= 4  # JPEG decoders differ in rounding only


def test_expected_size_keeps_stored_pixels_when_only_they_fit(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth_picture(48, 64)).save(tmp_path / "a.png", exif=exif.tobytes())
    assert read_image(tmp_path / "a.png").shape == (64, 48, 3)
    assert read_image(tmp_path / "a.png", expected_size=(64, 48)).shape == (64, 48, 3)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", expected_size=(48, 64)), smooth_picture(48, 64))
    assert read_image(tmp_path / "a.png", expected_size=(10, 10)).shape == (64, 48, 3)


def noisy_bytes(suffix):
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    return cv2.imencode(suffix, noise)[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_file_is_refused(tmp_path, suffix, share):
    data = noisy_bytes(suffix)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_image(path)


def test_foreign_data_behind_the_picture_is_no_fault(tmp_path):
    for suffix in (".jpg", ".png"):
        data = noisy_bytes(suffix)
        (tmp_path / "whole").write_bytes(data)
        (tmp_path / "more").write_bytes(data + bytes(20_000))  # phones append films and depth maps
        whole, more = read_image(tmp_path / "whole"), read_image(tmp_path / "more")
        assert np.abs(whole.astype(int) - more).max() <= 4


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"<html>not found</html>", "not a picture"), (b"\xff\xd8\xff\xe0", ".")]
)
def test_what_is_no_picture_says_so(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


def test_too_large_is_refused_before_decoding(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", np.zeros((300, 400), np.uint8))
    monkeypatch.setattr(cv2, "imdecode", lambda *a: pytest.fail("decoded"))
    with pytest.raises(DataError, match="400x300 pixels are more than the limit of 1000"):
        read_image(tmp_path / "a.png", max_pixels=1000)
    # A bomb: 8 kB that would take 12 GB.
    bomb = io.BytesIO()
    Image.new("1", (1, 1)).save(bomb, "png")
    data = bytearray(bomb.getvalue())
    data[16:24] = (64_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bytes(data))
    with pytest.raises(DataError, match="pixels"):
        read_image(tmp_path / "bomb.png")


def test_nothing_on_stderr(tmp_path, capfd):
    (tmp_path / "cut.png").write_bytes(noisy_bytes(".png")[:500])
    with pytest.raises(DataError):
        read_image(tmp_path / "cut.png")
    assert capfd.readouterr().err == ""


def test_writers_refuse_other_arrays(tmp_path):
    with pytest.raises(DataError, match="float64"):
        write_png(tmp_path / "a.png", np.zeros((4, 4)))
    with pytest.raises(DataError, match=r"\(4, 4, 2\)"):
        write_jpeg(tmp_path / "a.jpg", np.zeros((4, 4, 2), np.uint8))
    assert list(tmp_path.iterdir()) == []
