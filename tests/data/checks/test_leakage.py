"""Doubles between and within splits: hashes by hand, candidates against brute force, one finding for each pair."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from effdense.data.checks.leakage import PictureList, difference_hash, find_doubles, near_pairs
from effdense.data.checks.picture_scan import THUMB, scan_file, scan_pictures
from effdense.errors import ConfigError
from tests.data import planted_sets as sets


def test_hash_by_hand():
    falling = np.tile(np.linspace(255, 0, 16).astype(np.uint8), (16, 1))
    assert difference_hash(falling) == (1 << 64) - 1  # every cell is brighter than its right neighbour
    assert difference_hash(falling[:, ::-1]) == 0
    assert difference_hash(np.full((16, 16), 7, np.uint8)) is None


@pytest.mark.parametrize("distance", [0, 3, 6, 16])
def test_pairs_are_those_of_brute_force(distance):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1 << 63, 40, dtype=np.uint64)
    flips = [
        np.uint64(sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 12), replace=False))) for _ in range(160)
    ]
    hashes = np.concatenate([base, base[rng.integers(0, 40, 160)] ^ np.array(flips, np.uint64)])
    expected = [
        (i, j)
        for i in range(200)
        for j in range(i + 1, 200)
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance
    ]
    assert len(expected) > 3
    assert [tuple(pair) for pair in near_pairs(hashes, distance).tolist()] == expected
    assert near_pairs(hashes[:0], distance).shape == (0, 2)


def saved(path, pixels, **options):
    sets.save(path, pixels, **options)
    return path


def doubles(folder, *splits, **options):
    lists = [
        PictureList(name, paths, [path.name for path in paths], scan_pictures(paths, workers=1))
        for name, paths in splits
    ]
    return {f.code: f.examples for f in find_doubles(lists, **options).findings}


CHANGES = {
    "quality 30": (lambda im: im, {"quality": 30}),
    "half size": (lambda im: cv2.resize(im, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), {"quality": 90}),
    "darker": (lambda im: (im * 0.8).astype(np.uint8), {"quality": 90}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_near_and_others_are_not(tmp_path, change):
    alter, options = CHANGES[change]
    train = [saved(tmp_path / f"{i}.jpg", sets.picture(i, (240, 320))) for i in range(20)]
    val = [saved(tmp_path / "val" / "x.jpg", alter(sets.picture(3, (240, 320))), **options)]
    assert doubles(tmp_path, ("train", train), ("val", val)) == {
        "near-duplicate-in-splits": ("train: 3.jpg and val: x.jpg",)
    }
    assert doubles(tmp_path, ("train", train), ("val", val), distance=None) == {}


def test_the_strongest_finding_alone(tmp_path):
    a = saved(tmp_path / "a.jpg", sets.picture(1))
    b = tmp_path / "b.jpg"
    b.write_bytes(a.read_bytes())
    other = saved(tmp_path / "c.jpg", sets.picture(2))
    assert doubles(tmp_path, ("all", [a, b, other])) == {"same-content": ("a.jpg and b.jpg",)}
    assert doubles(tmp_path, ("train", [a, other]), ("val", [b])) == {
        "same-content-in-splits": ("train: a.jpg and val: b.jpg",)
    }
    assert doubles(tmp_path, ("train", [a, other]), ("val", [a])) == {
        "same-file-in-splits": ("train: a.jpg and val: a.jpg",)
    }


def test_flat_pictures_do_not_match_each_other(tmp_path):
    paths = [saved(tmp_path / f"{v}.png", np.full((48, 64, 3), v, np.uint8)) for v in (0, 1, 200)]
    assert doubles(tmp_path, ("all", paths)) == {}


def test_one_look_tells_kind_hash_and_thumb(tmp_path):
    path = saved(tmp_path / "a.png", sets.picture(0))
    facts = scan_file(path)
    assert facts.fault is None and facts.kinds == () and facts.size == path.stat().st_size
    assert facts.thumb.shape == (THUMB, THUMB) and len(facts.digest) == 16
    grey = cv2.cvtColor(sets.picture(0), cv2.COLOR_RGB2GRAY)
    expected = cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    assert np.abs(facts.thumb.astype(int) - expected).max() <= 1
    bare = scan_file(path, decode=False)
    assert bare.digest is None and bare.thumb is None and bare.header == facts.header


def test_modes_and_damage(tmp_path):
    sixteen = tmp_path / "a.png"
    sets.png_16_bit(sixteen, 0)
    assert [code for code, _ in scan_file(sixteen).kinds] == ["16-bit-picture"]
    opaque = saved(tmp_path / "b.png", np.dstack([sets.picture(0), np.full(sets.SIZE, 255, np.uint8)]))
    assert [code for code, _ in scan_file(opaque).kinds] == ["alpha-channel"]
    head = tmp_path / "c.jpg"
    stream = io.BytesIO()
    Image.fromarray(sets.picture(0)).save(stream, "JPEG")
    head.write_bytes(stream.getvalue()[:60])
    for decode in (True, False):
        assert scan_file(head, decode=decode).fault.code == "truncated-image"
    data = bytearray(saved(tmp_path / "d.png", sets.picture(0)).read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "d.png").write_bytes(data)
    assert scan_file(tmp_path / "d.png").fault.code == "unreadable-image"
    assert scan_file(tmp_path).fault.code == "unreadable-image"
    with pytest.raises(ConfigError, match="at least 1"):
        scan_pictures([], workers=0)
