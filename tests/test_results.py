"""Typed results: lengths, names, JSON, COCO results and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdense.errors import ShapeError
from effdense.results import Classification, Detections, SegmentationMap


def three(**changes: object) -> Detections:
    fields: dict[str, object] = {
        "boxes": torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 5.0, 5.0], [1.5, 2.25, 8.0, 9.0]]),
        "scores": torch.tensor([0.91, 0.83, 0.55]),
        "labels": torch.tensor([1, 0, 1]),
        "class_names": ("dog", "person"),
        "image_size": (80, 100),
        "path": "street.jpg",
    }
    return Detections(**{**fields, **changes})  # type: ignore[arg-type]


def test_repr_counts_classes_and_score_ranges() -> None:
    assert repr(three()) == "3 detections: 2 person 0.91-0.55, 1 dog 0.83"
    assert repr(three(class_names=None)) == "3 detections: 2 1 0.91-0.55, 1 0 0.83"
    assert repr(three().filter(0.9)) == "1 detection: 1 person 0.91"
    assert repr(three().filter(2.0)) == "0 detections"


def test_filter_keeps_order_and_everything_else() -> None:
    kept = three().filter(0.83)  # 0.83 in float32 is at least 0.83 in float32
    assert len(kept) == 2
    assert kept.labels.tolist() == [1, 0]
    assert (kept.class_names, kept.image_size, kept.path) == (("dog", "person"), (80, 100), "street.jpg")
    assert len(three()) == 3


def test_empty_detections_keep_their_shapes() -> None:
    empty = Detections(torch.zeros(0), torch.zeros(0), torch.zeros(0))
    assert empty.boxes.shape == (0, 4)
    assert empty.boxes.dtype == torch.float32
    assert empty.labels.dtype == torch.int64
    assert empty.to_coco(7, [1]) == []
    assert empty.to_dict()["detections"] == []
    assert len(empty) == 0 and empty == empty.filter(0.5)


def test_equality_is_by_value_and_leaves_the_picture_out() -> None:
    picture = np.zeros((80, 100, 3), np.uint8)
    assert three() == three(image=picture)
    assert three() != three(scores=torch.tensor([0.91, 0.83, 0.5]))
    assert three() != three(path="other.jpg")
    assert "array" not in repr(three(image=picture))
    with pytest.raises(TypeError, match="unhashable"):
        hash(three())


def test_half_precision_is_widened() -> None:
    result = three(boxes=torch.ones(3, 4, dtype=torch.bfloat16), labels=torch.ones(3, dtype=torch.int32))
    assert (result.boxes.dtype, result.labels.dtype) == (torch.float32, torch.int64)
    assert result.numpy()["boxes"].dtype == np.float32


def test_to_coco_holds_the_exact_float32_values() -> None:
    """0.1 is no float32: the result must carry what the tensor holds, and x + w must give back x2."""
    boxes = torch.tensor([[0.1, 0.2, 1000.3, 77.7]])
    result = Detections(boxes, torch.tensor([0.3]), torch.tensor([1]))
    (row,) = result.to_coco(42, category_ids=[3, 91])
    corners = boxes.double()[0].tolist()
    assert row["image_id"] == 42 and row["category_id"] == 91
    assert row["bbox"] == [corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]]
    assert row["bbox"][0] + row["bbox"][2] == corners[2]
    assert row["score"] == float(np.float32(0.3)) != 0.3
    assert result.to_coco(42)[0]["category_id"] == 1
    json.dumps(row)


def test_to_coco_refuses_a_label_without_category() -> None:
    with pytest.raises(ShapeError, match=r"label 1 has no category id; category_ids has 1"):
        three().to_coco(1, category_ids=[7])


def test_to_json_is_plain() -> None:
    content = json.loads(three().to_json())
    assert content["path"] == "street.jpg" and content["image_size"] == [80, 100]
    first = content["detections"][0]
    assert (first["name"], first["label"], first["box"]) == ("person", 1, [10.0, 20.0, 30.0, 60.0])
    assert first["score"] == pytest.approx(0.91, abs=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": torch.zeros(2)}, r"scores \(2,\)"),
        ({"boxes": torch.zeros(3, 5)}, r"boxes \(3, 5\)"),
        ({"labels": torch.zeros(3, 1)}, r"labels \(3, 1\)"),
        ({"labels": torch.tensor([0, 1, 2])}, r"label 2 has no name; there are 2 class_names"),
        ({"labels": torch.tensor([0, -1, 1])}, r"label -1 has no name"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        three(**changes)


def test_plot_and_save_draw_on_a_copy(tmp_path) -> None:
    picture = np.full((80, 100, 3), 90, np.uint8)
    result = three(image=picture)
    drawn = result.plot()
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8
    assert (drawn != 90).any() and (picture == 90).all()
    path = result.save(tmp_path / "new" / "out.png")
    np.testing.assert_array_equal(cv2.imread(str(path))[:, :, ::-1], drawn)


def test_plot_without_a_picture_says_what_to_do() -> None:
    with pytest.raises(ShapeError, match=r"keeps no picture.*plot\(image\)"):
        three().plot()
    with pytest.raises(ShapeError, match=r"the picture is 40x50 .* belong to one of 80x100"):
        three().plot(np.zeros((40, 50, 3), np.uint8))


def animals(**changes: object) -> Classification:
    fields: dict[str, object] = {
        "probabilities": torch.tensor([0.25, 0.5, 0.125, 0.125]),
        "class_names": ("cat", "dog", "elk", "fox"),
        "path": "zoo.jpg",
    }
    return Classification(**{**fields, **changes})  # type: ignore[arg-type]


def test_classification_by_hand() -> None:
    result = animals()
    assert (result.label, result.name, result.score, len(result)) == (1, "dog", 0.5, 4)
    assert result.top(3) == [(1, "dog", 0.5), (0, "cat", 0.25), (2, "elk", 0.125)]  # the first of equals comes first
    assert len(result.top(99)) == 4
    assert repr(result) == "dog 0.50 (cat 0.25, elk 0.12)"
    assert repr(animals(class_names=None)) == "1 0.50 (0 0.25, 2 0.12)"
    assert repr(Classification(torch.ones(1))) == "0 1.00"


def test_classification_as_json() -> None:
    content = json.loads(animals().to_json(k=2))
    assert content == {
        "path": "zoo.jpg",
        "label": 1,
        "name": "dog",
        "score": 0.5,
        "top": [{"label": 1, "name": "dog", "score": 0.5}, {"label": 0, "name": "cat", "score": 0.25}],
    }


def test_classifications_are_equal_by_value() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    assert animals() == animals(image=picture) == animals(probabilities=torch.tensor([0.25, 0.5, 0.125, 0.125]).half())
    assert animals() != animals(path=None)
    assert animals() != animals(probabilities=torch.tensor([0.5, 0.25, 0.125, 0.125]))
    with pytest.raises(TypeError, match="unhashable"):
        hash(animals())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probabilities": torch.zeros(2, 2)}, r"probabilities \(2, 2\)"),
        ({"probabilities": torch.zeros(0), "class_names": None}, r"expected \(K,\)"),
        ({"class_names": ("cat",)}, "4 probabilities but 1 class_names"),
    ],
)
def test_classifications_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        animals(**changes)


def test_classification_writes_below_the_picture(tmp_path) -> None:
    picture = np.full((60, 250, 3), 90, np.uint8)
    drawn = animals(image=picture).plot()
    assert drawn.shape[1] == 250 and drawn.shape[0] > 60 and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[:60], picture)
    # The bar of the best class is twice as long as that of the second.
    row = (drawn.shape[0] - 60) // 4
    lengths = [int((drawn[60 + i * row + 2] != drawn[-1, -1]).any(1).sum()) for i in range(2)]
    assert lengths == [125, 62]
    path = animals().save(tmp_path / "new" / "out.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(path))[:, :, ::-1], drawn)
    small = animals(image=np.zeros((10, 30, 3), np.uint8)).plot()
    assert small.shape[1] == 240  # enlarged by a whole factor, so that names can be read
    with pytest.raises(ShapeError, match=r"keeps no picture.*plot\(image\)"):
        animals().plot()


# -- segmentation ------------------------------------------------------------------------------------------------------


def test_a_class_map_by_hand(tmp_path: Path) -> None:
    """Four pixels: three of road, one of sky."""
    mask = torch.tensor([[1, 1], [1, 0]], dtype=torch.uint8)
    result = SegmentationMap(mask, class_names=("sky", "road"), path="a.jpg", image=np.full((2, 2, 3), 90, np.uint8))
    assert result.shares() == {"road": 0.75, "sky": 0.25} and repr(result) == "2x2: 75 % road, 25 % sky"
    assert json.loads(result.to_json()) == {"path": "a.jpg", "height": 2, "width": 2, "shares": result.shares()}
    drawn = result.plot()
    assert drawn.shape == (2, 2, 3) and not np.array_equal(drawn[0, 0], drawn[1, 1])
    assert cv2.imread(str(result.save(tmp_path / "a.png"))).shape == (2, 2, 3)
    assert result == SegmentationMap(mask.clone(), ("sky", "road"), "a.jpg") and result != SegmentationMap(mask)
    assert SegmentationMap(mask).shares() == {"1": 0.75, "0": 0.25}


def test_a_class_map_in_the_colours_of_its_data_set(tmp_path: Path) -> None:
    mask = torch.tensor([[0, 1], [0, 1]], dtype=torch.uint8).repeat(20, 20)
    picture = np.full((40, 40, 3), 90, np.uint8)
    result = SegmentationMap(mask, ("background", "road"), image=picture, palette=((0, 0, 0), (10, 200, 30)))
    assert result == SegmentationMap(mask, ("background", "road")) and "palette" not in repr(result)
    drawn = result.plot(alpha=1.0)
    assert (drawn[:, 1::2] == (10, 200, 30)).all() and (drawn[:, ::2] == 90).all()  # the background is the photograph
    with_names = result.plot(legend=True)
    np.testing.assert_array_equal(with_names[:40, :40], result.plot())
    assert (with_names[48:] == (10, 200, 30)).all(2).sum() > 40
    saved = result.save(tmp_path / "a.png", legend=True)
    np.testing.assert_array_equal(cv2.imread(str(saved))[:, :, ::-1], with_names)
    file = result.save_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(cv2.imread(str(file))[:, :, ::-1], np.array([(0, 0, 0), (10, 200, 30)])[mask])
    assert result.to("cpu").palette == result.palette


@pytest.mark.parametrize("mask", [torch.zeros(2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8)])
def test_a_class_map_is_uint8_of_two_dimensions(mask: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match=r"expected uint8 \(H, W\)"):
        SegmentationMap(mask)


def test_a_class_map_without_a_picture_cannot_be_drawn() -> None:
    with pytest.raises(ShapeError, match="keeps no picture"):
        SegmentationMap(torch.zeros(2, 2, dtype=torch.uint8)).plot()
