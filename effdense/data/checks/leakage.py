"""Pictures that occur more than once, within a split or in two: the same file, the same bytes, or nearly the same look.

Looks are compared by a difference hash: a grey copy of 9 x 8 px, one bit per pair of neighbours, 64 bits (N. Krawetz,
"Kind of Like That", 2013). Pairs within a Hamming distance are candidates; they count when their 16 x 16 copies
correlate as well, which keeps pictures of one kind (cells, roads) apart. Flat pictures have no look and are left out.
Symbols: N pictures over all splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from effdense.data.checks.check import DataReport
from effdense.data.checks.picture_scan import PictureFacts
from effdense.data.image_io import open_file
from effdense.errors import DataError

HASH_DISTANCE = 6
MAX_DISTANCE = 16
# Of the grey copies: JPEG quality 30, half size and +-20 % contrast stay above; see tests for pictures that stay below.
MIN_CORRELATION = 0.985
MIN_CONTRAST = 4.0  # standard deviation, grey levels
_BUCKET = 4096  # hashes that share a band are compared in blocks of so many


class PictureList(NamedTuple):
    """The pictures of one split: files, what reports call them, and what a look at each found."""

    split: str
    paths: list[Path]
    places: list[str]
    facts: list[PictureFacts]


def difference_hash(thumb: NDArray[np.uint8]) -> int | None:
    """64 bits of a grey copy (H, W): is each of 8 x 8 cells brighter than its right neighbour; None for a flat one."""
    if thumb.std() < MIN_CONTRAST:
        return None
    small = cv2.resize(thumb, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int.from_bytes(np.packbits(small[:, :-1] > small[:, 1:]).tobytes(), "big")


def _bit_counts(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(1).astype(np.int64)


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """(P, 2) positions i < j of hashes that differ in at most ``distance`` bits.

    The 64 bits are cut into distance + 1 bands: two hashes that differ in ``distance`` bits agree in one band at least,
    so only hashes that share a band are compared.
    """
    bands = distance + 1
    edges = np.linspace(0, 64, bands + 1).round().astype(int)
    found = [np.zeros((0, 2), np.int64)]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist()):
        keys = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]]) if len(order) else np.zeros(0, int)
        for first, last in zip(starts, np.r_[starts[1:], len(order)]):
            if last - first > 1:
                found += _pairs_within(order[first:last], hashes, distance)
    pairs = np.concatenate(found)
    return np.unique(pairs, axis=0)


def _pairs_within(rows: NDArray[np.int64], hashes: NDArray[np.uint64], distance: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), _BUCKET):
        for other in range(start, len(rows), _BUCKET):
            a, b = rows[start : start + _BUCKET], rows[other : other + _BUCKET]
            mixed = (hashes[a][:, None] ^ hashes[b][None]).ravel()
            close = np.flatnonzero(_bit_counts(mixed) <= distance)
            i, j = a[close // len(b)], b[close % len(b)]
            pairs = np.stack([np.minimum(i, j), np.maximum(i, j)], 1)
            yield pairs[i != j]


def _correlations(thumbs: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    parts = [np.zeros(0), *(_products(flat, block) for block in np.array_split(pairs, len(pairs) // 65536 + 1))]
    return np.concatenate(parts)


def _products(flat: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray((flat[pairs[:, 0]] * flat[pairs[:, 1]]).sum(1), np.float64)


def find_doubles(
    lists: Sequence[PictureList], *, content: bool = True, distance: int | None = HASH_DISTANCE
) -> DataReport:
    """Compare all pictures of all splits.

    Args:
        content: compare bytes. Where the facts lack hashes, files of equal size are read.
        distance: bits that near duplicates may differ in; None: do not look for them.

    Returns:
        ``same-file-in-splits`` and ``same-content-in-splits`` (errors), ``near-duplicate-in-splits``,
        ``same-content`` and ``near-duplicate`` (warnings, within a split). Of a pair the strongest alone is reported.
    """
    report = DataReport("all splits")
    owner = np.repeat(np.arange(len(lists)), [len(one.paths) for one in lists])
    paths = [path for one in lists for path in one.paths]
    facts = [found for one in lists for found in one.facts]
    names = [f"{one.split}: {place}" if len(lists) > 1 else place for one in lists for place in one.places]
    group = np.arange(len(paths))  # pictures that are known to be one share the number of the first
    _group_equal(group, [str(path.absolute()) for path in paths])
    across = _across(group, owner)
    report.add(
        "error",
        "same-file-in-splits",
        "pictures are in two splits: what is trained on is scored. Take them out of one.",
        [f"{names[a]} and {names[b]}" for a, b in across],
    )
    same_file = group.copy()
    if content:
        _group_equal(group, _contents(paths, facts))
        fresh = [(a, b) for a, b in _across(group, owner) if same_file[a] != same_file[b]]
        report.add(
            "error",
            "same-content-in-splits",
            "picture files of two splits hold the same bytes: what is trained on is scored. Take them out of one.",
            [f"{names[a]} and {names[b]}" for a, b in fresh],
        )
        within = [(a, b) for a, b in _within(group, owner) if same_file[a] != same_file[b]]
        report.add(
            "warning",
            "same-content",
            "picture files of a split hold the same bytes: the picture counts twice. Keep one and its annotations.",
            [f"{names[a]} and {names[b]}" for a, b in within],
        )
    if distance is not None:
        _report_near(report, facts, names, owner, group, distance)
    return report


def _group_equal(group: NDArray[np.int64], keys: Sequence[object]) -> None:
    """Give pictures of equal key (None has no equal) one group number, that of the first."""
    first: dict[object, int] = {}
    merged: dict[int, int] = {}
    for index, key in enumerate(keys):
        if key is not None:
            earlier = first.setdefault(key, int(group[index]))
            if earlier != group[index]:
                merged[int(group[index])] = earlier
    for index, number in enumerate(group.tolist()):
        group[index] = merged.get(number, number)


def _across(group: NDArray[np.int64], owner: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(first, other) of each group for every further split that holds it."""
    seen: dict[int, tuple[int, set[int]]] = {}
    pairs = []
    for index, (number, split) in enumerate(zip(group.tolist(), owner.tolist())):
        first, splits = seen.setdefault(number, (index, {split}))
        if split not in splits:
            splits.add(split)
            pairs.append((first, index))
    return pairs


def _within(group: NDArray[np.int64], owner: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(first, other) of each group for every further picture of it in one split."""
    seen: dict[tuple[int, int], int] = {}
    pairs = []
    for index, key in enumerate(zip(group.tolist(), owner.tolist())):
        first = seen.setdefault(key, index)
        if first != index:
            pairs.append((first, index))
    return pairs


def _contents(paths: Sequence[Path], facts: Sequence[PictureFacts]) -> list[tuple[int, bytes] | None]:
    """(size, hash) of each usable file; where no hash was taken, only files of a size that occurs twice are read."""
    sizes: dict[int, int] = {}
    for found in facts:
        if found.fault is None:
            sizes[found.size] = sizes.get(found.size, 0) + 1
    keys: list[tuple[int, bytes] | None] = []
    for path, found in zip(paths, facts, strict=True):
        if found.fault is not None or sizes[found.size] < 2:
            keys.append(None)
            continue
        digest = found.digest
        if digest is None:
            try:
                with open_file(path) as stream:
                    digest = hashlib.blake2b(stream.read(), digest_size=16).digest()
            except (OSError, DataError):
                keys.append(None)
                continue
        keys.append((found.size, digest))
    return keys


def _report_near(
    report: DataReport,
    facts: Sequence[PictureFacts],
    names: Sequence[str],
    owner: NDArray[np.int64],
    group: NDArray[np.int64],
    distance: int,
) -> None:
    """Near duplicates: each picture once per split it has a double in, with the best of its doubles."""
    hashes = {
        index: value
        for index, found in enumerate(facts)
        if found.thumb is not None and group[index] == index and (value := difference_hash(found.thumb)) is not None
    }
    rows = np.array(list(hashes), np.int64)
    if len(rows) < 2:
        return
    pairs = rows[near_pairs(np.array(list(hashes.values()), np.uint64), distance)]
    thumbs = {int(row): facts[int(row)].thumb for row in np.unique(pairs)}
    position = {row: at for at, row in enumerate(thumbs)}
    if not position:
        return
    stack = np.stack([thumb for thumb in thumbs.values() if thumb is not None])
    local = np.array([[position[int(a)], position[int(b)]] for a, b in pairs], np.int64)
    score = _correlations(stack, local)
    order = [int(k) for k in np.argsort(-score, kind="stable") if score[k] >= MIN_CORRELATION]
    across: dict[int, str] = {}
    within: dict[int, str] = {}
    for k in order:
        a, b = pairs[k].tolist()
        table = within if owner[a] == owner[b] else across
        table.setdefault(b, f"{names[a]} and {names[b]}")
    tail = "a burst, frames of one film, or one picture saved twice."
    report.add(
        "warning",
        "near-duplicate-in-splits",
        f"pictures look nearly like one of another split: {tail} The score would flatter; put them into one split.",
        [across[key] for key in sorted(across)],
    )
    report.add(
        "warning",
        "near-duplicate",
        f"pictures of a split look nearly alike: {tail} Keep one of each where they tell nothing new.",
        [within[key] for key in sorted(within)],
    )
