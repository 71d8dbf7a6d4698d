"""Pictures of a run: what each task's look like, whose colours they take and which classes the legend names."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import torch

from effdense.engine.drawing import Style, draw_batch, draw_output
from effdense.visualize import class_color, error_legend

PALETTE = [(0, 0, 0), (10, 200, 30), (200, 10, 30)]
NAMES = ("background", "road", "car")


class OnePicture:
    """A segmentation set of one grey picture whose left half is road."""

    def load(self, index: int) -> dict[str, np.ndarray]:
        return {"image": np.full((8, 12, 3), 100, np.uint8)}

    def load_mask(self, index: int) -> np.ndarray:
        mask = np.zeros((8, 12), np.uint8)
        mask[:, :6] = 1
        mask[:, 11] = 255
        return mask


def test_truth_prediction_and_errors_of_a_segmentor() -> None:
    """Predicted: car where road is in the first column, else as the truth; 8 of 88 counted pixels are wrong."""
    prediction = torch.from_numpy(OnePicture().load_mask(0) % 255)
    prediction[:, 0] = 2
    style = Style("segmentation", NAMES, PALETTE)
    drawn = draw_output(style, OnePicture(), {"index": 0, "mask": prediction}, 0.3)
    assert [caption for _, caption in drawn.pictures] == ["truth", "prediction", "errors: 9.1 % wrong"]
    truth, predicted, errors = (picture for picture, _ in drawn.pictures)
    assert truth[4, 3].tolist() == [55, 150, 65] and (truth[:, 6:] == 100).all()  # half picture, half palette
    assert predicted[4, 0].tolist() == [150, 55, 65]
    assert errors[4, 0, 0] > 200 and errors[4, 3].tolist() == [55, 55, 55]
    assert drawn.counts == Counter({0: 48 - 8 + 48, 1: 48 + 40, 2: 8})
    entries = style.legend(drawn.counts, errors=True)
    assert entries == [("road", PALETTE[1]), ("car", PALETTE[2]), *error_legend([0])]


def test_a_picture_without_truth_says_so() -> None:
    dataset = SimpleNamespace(load=OnePicture().load, load_mask=lambda _: np.full((8, 12), 255, np.uint8))
    output = {"index": 0, "mask": torch.zeros(8, 12, dtype=torch.uint8)}
    drawn = draw_output(Style("segmentation", NAMES), dataset, output, 0.3)
    assert drawn.pictures[2][1] == "errors: nothing is counted"


def test_the_training_batch_takes_the_palette() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.uint8)
    masks[0] = 1
    batch = {"inputs": torch.full((3, 3, 4, 4), 100, dtype=torch.uint8), "masks": masks}
    drawn = list(draw_batch(Style("segmentation", NAMES, PALETTE), batch, limit=2))
    assert len(drawn) == 2 and drawn[0].counts == Counter({1: 16})
    assert drawn[0].pictures[0][0][2, 2].tolist() == [55, 150, 65]
    np.testing.assert_array_equal(drawn[1].pictures[0][0], np.full((4, 4, 3), 100))


def test_the_legend_of_many_classes_names_those_with_boxes() -> None:
    names = [f"class {label}" for label in range(80)]
    batch = {
        "inputs": torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        "boxes": torch.tensor([[[1.0, 1, 20, 20], [2, 2, 9, 9], [3, 3, 30, 30], [0, 0, 0, 0]]]),
        "labels": torch.tensor([[70, 5, 70, -1]]),
        "valid": torch.tensor([[True, True, True, False]]),
    }
    style = Style("detection", names)
    (drawn,) = draw_batch(style, batch, limit=4)
    assert style.legend(drawn.counts) == [("class 70", class_color(70)), ("class 5", class_color(5))]
    assert style.legend(drawn.counts, errors=True) == style.legend(drawn.counts)  # error maps are a segmentor's


def test_a_classifier_needs_no_legend() -> None:
    assert Style("classification", NAMES).legend({0: 3}, errors=True) is None
