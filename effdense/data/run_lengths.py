"""Compressed run lengths of masks: checked before pycocotools sees them, which trusts them and loops for ever on some.

The text of ``counts`` holds numbers of 5 bits a letter (code - 48), the sixth bit saying that more follow and the fifth
of the last one the sign; from the fourth number on each is the difference from the one before the last.
Source: cocodataset/cocoapi, common/maskApi.c (rleFrString, rleIou: -1 for masks of different sizes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from effdense.errors import DataError

_MASKS_AT_A_TIME = 1000
_MOST_AREAS = 255  # pycocotools 2.0 counts the masks of one call of ``area`` in 8 bits


def areas(rle: Sequence[Any]) -> NDArray[np.float64]:
    """(n,) px of each mask."""
    starts = range(0, len(rle), _MOST_AREAS)
    parts = [np.asarray(coco_mask.area(list(rle[i : i + _MOST_AREAS])), np.float64) for i in starts]
    return np.concatenate([np.zeros(0), *parts])


def boxes(rle: Sequence[Any]) -> NDArray[np.float64]:
    """(n, 4) x, y, w, h px of each mask."""
    if not len(rle):
        return np.zeros((0, 4))
    return np.asarray(coco_mask.toBbox(list(rle)), np.float64).reshape(-1, 4)


def overlaps(found: Sequence[Any], truth: Sequence[Any], is_crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(len(found), len(truth)) IoU; with a crowd the share of the detection inside it.

    Raises: DataError for masks of different sizes, which would never match and score 0 without a word.
    """
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    iou = np.asarray(coco_mask.iou(list(found), list(truth), is_crowd.astype(int).tolist()), np.float64)
    apart = np.argwhere(iou < 0)
    if len(apart):
        d, g = apart[0].tolist()
        raise DataError(
            f"detections: a mask of (height, width) {tuple(found[d]['size'])} stands beside ground truth of "
            f"{tuple(truth[g]['size'])} on the same image; give the masks in the size of the original image."
        )
    return iou


def require_masks(rle: Sequence[Any], place: Callable[[int], str]) -> None:
    """Raise DataError for the first that is no compressed run lengths filling its size; ``place(i)`` names it."""
    for i, runs in enumerate(rle):
        counts = runs.get("counts") if isinstance(runs, Mapping) else None
        if not isinstance(counts, (str, bytes)):
            kind = type(runs if not isinstance(runs, Mapping) else counts).__name__
            raise DataError(
                f"{place(i)}: segmentation is a {kind}; expected compressed RLE, a size [height, width] and "
                "counts as text (pycocotools.mask.encode)."
            )
        size = runs.get("size")
        whole = isinstance(size, (list, tuple)) and len(size) == 2
        if not whole or not all(isinstance(side, (int, np.integer)) and 0 < side < 2**31 for side in size):
            raise DataError(f"{place(i)}: the size of the RLE is {size!r}; expected [height, width] in px.")
    for start in range(0, len(rle), _MASKS_AT_A_TIME):
        part = rle[start : start + _MASKS_AT_A_TIME]
        pixels = np.array([int(runs["size"][0]) * int(runs["size"][1]) for runs in part], np.int64)
        totals = _totals([runs["counts"] for runs in part])
        wrong = np.flatnonzero(totals != pixels)
        if wrong.size:
            i = int(wrong[0])
            held = "cannot be read" if totals[i] < 0 else f"hold {totals[i]} px"
            raise DataError(
                f"{place(start + i)}: the run lengths {held}, their size {list(part[i]['size'])} has {pixels[i]}; the "
                "file is damaged or the size is of another image."
            )


def _totals(counts: Sequence[str | bytes]) -> NDArray[np.int64]:
    """(n,) sum of the run lengths of each text, -1 where it is none."""
    texts = [text if isinstance(text, bytes) else text.encode("ascii", "replace") for text in counts]
    lengths = np.array([len(text) for text in texts], np.int64)
    letters = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)
    stop = np.cumsum(lengths)  # of each text among the letters
    bad = _some(letters > 63, stop)
    # Letters to numbers. One that goes on past the end of its text, or over more than 7 letters, is none.
    last = (letters & 32) == 0
    filled = lengths > 0
    bad[filled] |= ~last[stop[filled] - 1]
    last[stop[filled] - 1] = True
    ends = np.flatnonzero(last)
    value = (letters[ends] & 31).astype(np.int64)
    value -= (value & 16) << 1  # the sign
    size = np.diff(ends, prepend=-1)
    for more in range(1, 7):
        longer = np.flatnonzero(size > more)
        value[longer] = (value[longer] << 5) + (letters[ends[longer] - more] & 31)
    numbers = np.searchsorted(ends, stop)  # stop of each text among the numbers
    bad |= _some(size > 7, numbers)
    # Numbers to runs: the first alone, then those at odd and at even places each add up.
    begin = np.concatenate([[0], numbers[:-1]])
    place = np.arange(len(value)) - np.repeat(begin, numbers - begin)
    totals = np.zeros(len(texts), np.int64)
    totals[numbers > begin] = value[begin[numbers > begin]]
    bad |= totals < 0
    for chain in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        chosen = np.flatnonzero(chain)
        sums = np.concatenate([[0], np.cumsum(value[chosen])])
        upto = np.searchsorted(chosen, numbers)
        before = np.concatenate([[0], upto[:-1]])
        runs = sums[1:] - np.repeat(sums[before], upto - before)
        bad |= _some(runs < 0, upto)
        whole = np.concatenate([[0], np.cumsum(runs)])
        totals += whole[upto] - whole[before]
    totals[bad] = -1
    return totals


def _some(flags: NDArray[np.bool_], stop: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether any is set from the stop before to this one."""
    count = np.concatenate([[0], np.cumsum(flags)])[np.concatenate([[0], stop])]
    return np.diff(count) > 0
