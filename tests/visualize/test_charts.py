"""Charts and gallery panels: sizes, colours, and input that is at its limits."""

from __future__ import annotations

import numpy as np
import pytest

from effdense.visualize.charts import (
    confusion_chart,
    cost_chart,
    curve_chart,
    recall_chart,
    score_chart,
    share_chart,
)
from effdense.visualize.gallery import NOT_FOUND, RIGHT, WRONG, Mark, detection_panel, placeholder

GRID = np.linspace(0, 1, 11)


def has_ink(picture: np.ndarray) -> bool:
    return picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.std() > 3


@pytest.mark.parametrize("classes", [1, 12, 13, 90])
def test_any_number_of_classes(classes: int) -> None:
    names = [f"class {k}" for k in range(classes)]
    assert has_ink(curve_chart([(name, GRID, 1 - GRID) for name in names], xlabel="x", ylabel="y"))
    counts = np.eye(classes + 1, dtype=np.int64)
    picture = confusion_chart(counts, [*names, "nothing"], [*names, "missed"], row_title="truth", column_title="said")
    assert has_ink(picture) and max(picture.shape) < 3000
    # The diagonal is dark, the rest is light.
    assert (picture.sum(2) < 300).sum() > (100 if classes > 1 else 50)


def test_names_are_text_and_no_mathematics() -> None:
    name = "$\\frac{1}{$ <b> " + "x" * 80
    assert has_ink(curve_chart([(name, GRID, GRID)], xlabel="x", ylabel="y", mean=("$all", GRID, GRID)))
    assert has_ink(share_chart([name, "b"], [0.5, float("nan")], xlabel="IoU"))


def test_nothing_to_draw() -> None:
    assert has_ink(cost_chart(dict.fromkeys("ab", 0.0), dict.fromkeys("ab", 0), {"FalsePos": -0.5}))
    assert has_ink(recall_chart(["a"], [0], [float("nan")], [float("nan")], xlabel="size"))
    assert has_ink(score_chart([0, 0.5], [0, 0], [0, 0], [float("nan")] * 2, 0.5))
    assert has_ink(confusion_chart(np.zeros((2, 2)), "ab", "ab", row_title="", column_title=""))


def test_panel_colours() -> None:
    image = np.full((100, 200, 3), 30, np.uint8)
    truth = [Mark((10, 10, 50, 50), "a", "right"), Mark((120, 10, 160, 60), "b", "missed")]
    said = [Mark((10, 10, 52, 50), "a 0.90", "right"), Mark((60, 60, 90, 90), "Bkg: a 0.40", "wrong"), truth[1]]
    panel = detection_panel(image, truth, said, width=200)
    assert panel.shape == (100, 408, 3)
    left, right = panel[:, :200], panel[:, 208:]

    def holds(half: np.ndarray, color: tuple[int, int, int]) -> bool:
        return bool((np.abs(half.astype(int) - color).sum(2) < 12).any())

    assert holds(left, RIGHT) and holds(left, NOT_FOUND) and not holds(left, WRONG)
    assert holds(right, RIGHT) and holds(right, NOT_FOUND) and holds(right, WRONG)


@pytest.mark.parametrize("size", [(1, 1), (2000, 30), (20, 1500)])
def test_panels_of_odd_pictures(size: tuple[int, int]) -> None:
    panel = detection_panel(np.zeros((*size, 3), np.uint8), [Mark((0, 0, 1, 1), "a", "right")], [], width=300)
    assert panel.shape[1] == 608 and panel.shape[0] <= 450


def test_placeholder() -> None:
    assert has_ink(placeholder(["picture missing", "x" * 200], 200, 90))
