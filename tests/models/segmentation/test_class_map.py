"""Class maps at original size: by hand, against torch's own resize and argmax, in bands that change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from effdense.errors import ShapeError
from effdense.models.segmentation import postprocess
from effdense.models.segmentation.postprocess import class_map_at

MEMORY = [torch.contiguous_format, torch.channels_last]


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def scaling(given: tuple[int, int], original: tuple[int, int]) -> np.ndarray:
    return np.diag([given[1] / original[1], given[0] / original[0], 1.0])


def test_padding_is_cut_off() -> None:
    """A 20 x 40 picture, halved into the top left of 16 x 24: 10 x 20 px count."""
    given = torch.zeros(1, 2, 16, 24)
    given[:, 1, 10:], given[:, 1, :, 20:] = 9.0, 9.0
    assert class_map_at(given, np.diag([0.5, 0.5, 1.0]), (20, 40)).sum() == 0


def test_at_the_same_size_it_is_the_argmax() -> None:
    given = logits(7, 30, 40)
    found = class_map_at(given, np.eye(3), (30, 40))
    assert found.dtype == torch.uint8 and torch.equal(found, given[0].argmax(0).to(torch.uint8))


def test_the_first_of_equals() -> None:
    assert class_map_at(torch.zeros(1, 3, 2, 2), np.eye(3), (2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 19, 256])
def test_torchs_resize_and_argmax(classes: int, memory: torch.memory_format) -> None:
    given, original = logits(classes, 24, 36, seed=classes).contiguous(memory_format=memory), (51, 64)
    resized = F.interpolate(given, size=original, mode="bilinear", align_corners=False)[0]
    found = class_map_at(given, scaling((24, 36), original), original)
    if classes == 1:
        assert torch.equal(found, (resized[0] > 0).to(torch.uint8))
        return
    best = resized.topk(2, 0).values
    clear = best[0] - best[1] > 1e-5  # the order of a sum decides the last digit
    assert clear.float().mean() > 0.99 and torch.equal(found[clear], resized.argmax(0).to(torch.uint8)[clear])


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(
    ("given", "original"),
    [((24, 36), (51, 64)), ((64, 48), (31, 17)), ((16, 16), (16, 16)), ((16, 16), (16, 50)), ((16, 16), (50, 16)),
     ((1, 1), (9, 7)), ((33, 5), (1, 1)), ((40, 60), (300, 451))],
)  # fmt: skip
def test_bands_change_nothing(given: tuple[int, int], original: tuple[int, int], memory: torch.memory_format) -> None:
    maps = logits(6, *given).contiguous(memory_format=memory)
    matrix = scaling(given, original)
    whole = class_map_at(maps, matrix, original, band_rows=original[0])
    for rows in (1, 2, 7, 1000):
        assert torch.equal(class_map_at(maps, matrix, original, band_rows=rows), whole)
    assert torch.equal(class_map_at(maps, matrix, original), whole)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("classes", [2, 5, 40])
def test_bands_resize_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch, classes: int, memory: torch.memory_format
) -> None:
    """Not only the classes: the logits of a band are those of the whole."""
    kept: list[torch.Tensor] = []

    def keep(band: torch.Tensor) -> torch.Tensor:
        kept.append(band.clone())
        return band[0].to(torch.uint8)

    monkeypatch.setattr(postprocess, "_argmax", keep)
    given, original = logits(classes, 40, 57).contiguous(memory_format=memory), (123, 171)
    for rows in (123, 10, 1):
        kept.clear()
        class_map_at(given.abs(), scaling((40, 57), original), original, band_rows=rows)
        together = torch.cat(kept, 1)
        first = together if rows == 123 else first  # noqa: F821
        assert torch.equal(together, first)


def test_the_bands_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    argmax = postprocess._argmax
    monkeypatch.setattr(postprocess, "_argmax", lambda band: sizes.append(band.numel()) or argmax(band))
    class_map_at(logits(150, 10, 15), scaling((10, 15), (400, 600)), (400, 600))
    assert max(sizes) <= postprocess._BAND_VALUES["cpu"] and sum(sizes) == 150 * 400 * 600


def test_half_precision_is_compared_in_float32() -> None:
    given = logits(5, 20, 30)
    low, matrix, size = given.bfloat16(), scaling((20, 30), (45, 61)), (45, 61)
    assert torch.equal(class_map_at(low, matrix, size), class_map_at(low.float(), matrix, size))


def test_binary_is_a_logit_above_zero() -> None:
    given = torch.tensor([[[[-1.0, 0.0, 1e-6]]]])
    assert class_map_at(given, np.eye(3), (1, 3)).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("classes", [1, 3, 9])
def test_logits_with_a_graph(classes: int) -> None:
    """As a network gives them outside no_grad."""
    given = logits(classes, 8, 8).requires_grad_()
    assert torch.equal(class_map_at(given * 1, np.eye(3), (8, 8)), class_map_at(given.detach(), np.eye(3), (8, 8)))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 8, 8), (1, 257, 2, 2)])
def test_logits_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="at most 256 classes"):
        class_map_at(torch.zeros(shape), np.eye(3), (8, 8))
