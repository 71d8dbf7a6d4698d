"""From a checkpoint to detections: opening by path, every kind of input, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import effdense
from effdense.data import read_image
from effdense.errors import ConfigError, DataError, ShapeError, WeightsError
from effdense.predict import Predictor
from effdense.results import Detections

MODEL = {
    "name": "efficientdet_d0", "num_classes": 3, "image_size": 128, "min_level": 3, "max_level": 5,
    "fpn_channels": 16, "fpn_cells": 1, "head_repeats": 1,
}  # fmt: skip
CLASSES = ("cat", "dog", "cow")


def checkpoint_content(seed: int = 0, **meta: Any) -> dict[str, Any]:
    arguments = dict(MODEL)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = effdense.create_detector(arguments.pop("name"), arguments.pop("num_classes"), **arguments)
    return {
        "format": "effdense/1",
        "state_dict": network.state_dict(),
        "meta": {
            "model": MODEL,
            "classes": list(CLASSES),
            "category_ids": [17, 18, 21],
            "mean": list(network.config.mean),
            "std": list(network.config.std),
            "image_size": [128, 128],
            **meta,
        },
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.pth"
    torch.save(checkpoint_content(), path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Predictor:
    return effdense.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG (lossless, so that every way of reading it gives the same pixels) of 90 x 150 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "town" / "north" / "street.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.repeat(np.repeat(pixels, 15, 0), 15, 1)).save(path)
    return path


def detect(model: Predictor, source: Any, **options: Any) -> Any:
    return model(source, score_threshold=0.0, **options)


def assert_same(found: Detections, expected: Detections) -> None:
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.labels, expected.labels)


def test_a_result_is_in_pixels_of_the_original(model: Predictor, picture: Path) -> None:
    found = detect(model, picture)
    assert isinstance(found, Detections) and len(found) == 100
    assert found.image_size == (90, 150) and found.path == str(picture) and found.class_names == CLASSES
    assert (found.boxes >= 0).all()
    assert found.boxes[:, [1, 3]].max().item() == pytest.approx(90)
    assert found.boxes[:, [0, 2]].max().item() == pytest.approx(150)
    assert found.image is not None and np.array_equal(found.image, read_image(picture))
    assert found.to_coco(4, model.category_ids)[0]["category_id"] in (17, 18, 21)


def test_the_checkpoint_says_it_all(model: Predictor) -> None:
    assert model.class_names == CLASSES and model.category_ids == (17, 18, 21)
    assert model.model.config.size_hw == (128, 128) and model.model.num_classes == 3
    assert not model.model.training and model.meta["classes"] == list(CLASSES)


def test_every_kind_of_input_gives_the_same(model: Predictor, picture: Path) -> None:
    pixels = read_image(picture)
    expected = detect(model, picture)
    single = {
        "text": str(picture),
        "array": pixels,
        "view": pixels[:, ::-1][:, ::-1],
        "PIL": Image.open(picture),
        "PIL with alpha": Image.open(picture).convert("RGBA"),
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
    }
    for kind, source in single.items():
        found = detect(model, source)
        assert isinstance(found, Detections), kind
        assert_same(found, expected)
        assert found.path == (str(picture) if kind == "text" else None)
    several = {
        "folder": picture.parent,
        "pattern": str(picture.parent / "*.png"),
        "deep pattern": str(picture.parents[2] / "**" / picture.name),
        "list": [picture],
        "tuple": (pixels,),
        "list of a folder": [picture.parent],
    }
    for kind, source in several.items():
        found = detect(model, source)
        assert isinstance(found, list) and len(found) == 1, kind
        assert_same(found[0], expected)


def test_grey_is_repeated(model: Predictor, tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (40, 60), np.uint8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    expected = detect(model, np.repeat(grey[:, :, None], 3, 2))
    for source in (grey, grey[:, :, None], Image.fromarray(grey), tmp_path / "grey.png"):
        assert_same(detect(model, source), expected)


def test_pictures_of_all_sizes_in_batches(checkpoint: Path) -> None:
    model = effdense.load(str(checkpoint), device="cpu")
    model.batch_size = 2
    generator = np.random.default_rng(2)
    sizes = [(90, 150), (150, 90), (1, 300), (128, 128), (700, 500)]
    sources = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    together = detect(model, sources)
    assert [found.image_size for found in together] == sizes
    for found, source in zip(together, sources, strict=True):
        height, width = source.shape[:2]
        assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([width, height, width, height])).all()
        torch.testing.assert_close(found.scores, detect(model, source).scores, rtol=1e-4, atol=1e-6)


def test_the_picture_is_normalised_and_laid_top_left(model: Predictor) -> None:
    """What the network gets, followed by hand: 64 x 128 fits 128 x 128 unscaled, and the lower half is the mean."""
    seen = []
    handle = model.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        detect(model, np.full((64, 128, 3), 255, np.uint8))
    finally:
        handle.remove()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.model.config.mean, model.model.config.std))
    torch.testing.assert_close(seen[0][0, :, :64], ((1 - mean) / std).expand(3, 64, 128))
    assert float(seen[0][0, :, 64:].abs().max()) < 0.01  # the mean, rounded to whole numbers


def test_the_score_threshold(model: Predictor, picture: Path) -> None:
    every = detect(model, picture)
    assert len(model(picture)) == 0  # an untrained network is nowhere 0.3 sure
    middle = float(every.scores[10])
    assert len(model(picture, score_threshold=middle)) == int((every.scores > middle).sum())
    assert len(detect(model, picture, max_detections=5)) == 5


def test_a_list_without_anything_is_a_list(model: Predictor) -> None:
    assert model([]) == []


def test_streaming_reads_as_it_goes(checkpoint: Path, picture: Path) -> None:
    model = effdense.load(checkpoint, device="cpu")
    model.batch_size = 1
    stream = model.stream([picture, "nowhere.png"], score_threshold=0.0)
    assert len(next(stream)) == 100
    with pytest.raises(DataError, match=r"nowhere\.png"):
        next(stream)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere.jpg", DataError, r"nowhere\.jpg"),
        ("nowhere/*.jpg", DataError, r"no images in .*nowhere/\*\.jpg"),
        (np.zeros((8, 8, 3), np.float32), ShapeError, r"uint8 .* got float32 \(8, 8, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), ShapeError, r"got uint8 \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), ShapeError, r"got uint8 \(0, 8, 3\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), ShapeError, r"got uint8 \(2, 8, 8, 3\)"),
        (torch.zeros(3, 8, 8), ShapeError, r"tensor must be uint8 .* got torch.float32 \(3, 8, 8\)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), ShapeError, r"got torch.uint8 \(8, 8, 3\)"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), ShapeError, r"got torch.uint8 \(3, 0, 8\)"),
        (7, ShapeError, "image array must be"),
        (None, ShapeError, "image array must be"),
    ],
)
def test_what_is_no_picture_is_named(model: Predictor, source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model(source)


def test_folders_without_pictures_and_pictures_that_are_none(model: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images in .* files ending in \.jpg"):
        model(tmp_path)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.png"):
        model(tmp_path)


def test_a_run_folder_opens_its_best_else_its_newest_checkpoint(tmp_path: Path, picture: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds neither best\.pth nor epoch_N\.pth"):
        effdense.load(tmp_path)
    for epoch, age in ((2, 50), (10, 10), (9, 100)):
        torch.save(checkpoint_content(epoch, epoch=epoch), tmp_path / f"epoch_{epoch}.pth")
        os.utime(tmp_path / f"epoch_{epoch}.pth", (1e9 - age, 1e9 - age))
    assert effdense.load(tmp_path).meta["epoch"] == 10
    torch.save(checkpoint_content(3, epoch=3), tmp_path / "best.pth")
    best = effdense.load(tmp_path, device="cpu")
    assert best.meta["epoch"] == 3
    assert_same(detect(best, picture), detect(effdense.load(tmp_path / "best.pth", device="cpu"), picture))


def without(key: str, part: str | None = None) -> dict[str, Any]:
    content = checkpoint_content()
    holder = content if part is None else content[part]
    return (
        {**content, part: {k: v for k, v in holder.items() if k != key}}
        if part
        else {k: v for k, v in holder.items() if k != key}
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("format"), "does not describe its model"),
        (without("meta"), "does not describe its model"),
        (without("model", "meta"), "does not describe its model"),
        (checkpoint_content()["state_dict"], r"does not describe its model.*create_detector\(NAME"),
        (without("state_dict"), "incomplete effdense checkpoint: it lacks state_dict"),
        (without("category_ids", "meta"), "it lacks category_ids"),
        (checkpoint_content(model={"name": "efficientdet_d0"}), "it lacks num_classes"),
        (checkpoint_content(model={**MODEL, "num_classes": 4}), "says 4 classes, but its weights"),
        (checkpoint_content(model={**MODEL, "fpn_cells": 2}), "lack .* tensors"),
    ],
)
def test_checkpoints_that_do_not_add_up_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=message):
        effdense.load(tmp_path / "odd.pth")


def test_a_missing_checkpoint_is_named() -> None:
    with pytest.raises(WeightsError, match=r"no weight file at .*nowhere\.pth"):
        effdense.load("nowhere.pth")


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"in_channels": 1}, {}, "feeds RGB, but efficientdet_d0 takes 1 channels"),
        ({}, {"class_names": ("cat",)}, "has 3 classes, got 1 class_names"),
        ({}, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_a_predictor_of_ones_own_is_checked(options: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    network = effdense.create_detector("efficientdet_d0", 3, min_level=3, max_level=4, **options)
    with pytest.raises(ConfigError, match=message):
        Predictor(network, **{"class_names": CLASSES, **arguments})
