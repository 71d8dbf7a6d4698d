"""EfficientDet against effdet 0.4.1: weights, logits, anchors, loss, gradients and detections of the same random
network.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import effdense
from effdense.models.detection import detector_config
from effdense.models.detection.anchors import make_anchors, pyramid_sizes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # effdet uses torch.jit.script
    effdet = pytest.importorskip("effdet")
    from effdet.anchors import Anchors
    from effdet.bench import DetBenchPredict, DetBenchTrain

LEVELS = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x", "lite0", "lite1", "lite2", "lite3", "lite3x", "lite4"]
HEAVY = {"d4", "d5", "d6", "d7", "d7x", "lite4"}
# Published, EfficientDet README and effdet README; in millions.
PARAMS = {
    "d0": 3.880067, "d1": 6.625898, "d2": 8.097039, "d3": 12.032296, "d4": 20.723675, "d5": 33.653315, "d6": 51.871934,
    "d7": 51.871934, "d7x": 77.1, "lite0": 3.243, "lite1": 4.248, "lite2": 5.252, "lite3": 8.351, "lite3x": 9.281,
    "lite4": 15.131,
}  # fmt: skip


def with_heavy(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in names]


def reference(level: str, size: tuple[int, int], num_classes: int = 90, seed: int = 0) -> Any:
    """effdet's network with every tensor, BatchNorm statistics included, drawn at random."""
    config = effdet.get_efficientdet_config(f"tf_efficientdet_{level}")
    config.image_size = size
    config.backbone_args = {**config.backbone_args, "drop_path_rate": 0.0}
    config.num_classes = num_classes
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = effdet.EfficientDet(config, pretrained_backbone=False)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean"):
            value.uniform_(-0.2, 0.2, generator=generator)
        elif name.endswith("edge_weights"):
            value.uniform_(-0.2, 1.5, generator=generator)
        elif name.endswith("bn.weight") or (".bn" in name and name.endswith(".weight")):
            value.uniform_(0.7, 1.3, generator=generator)
        elif name.endswith("bias") and "predict" not in name:
            value.uniform_(-0.1, 0.1, generator=generator)
    return model


def ours(level: str, model: Any, num_classes: int = 90) -> Any:
    detector = effdense.create_detector(f"efficientdet_{level}", num_classes, drop_path_rate=0.0)
    report = effdense.load_weights(detector, model.state_dict())
    assert not report.missing and not report.unexpected and not report.remade and not report.unused
    return detector


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("level", LEVELS)
def test_state_dict_names_and_shapes_are_effdets(level: str) -> None:
    with torch.device("meta"):
        config = effdet.get_efficientdet_config(f"tf_efficientdet_{level}")
        expected = effdet.EfficientDet(config, pretrained_backbone=False).state_dict()
        detector = effdense.create_detector(f"efficientdet_{level}", 90)
    own = detector.state_dict()
    assert set(own) == set(expected)
    assert all(own[key].shape == expected[key].shape for key in own)
    params = sum(p.numel() for p in detector.parameters()) / 1e6
    assert params == pytest.approx(PARAMS[level], rel=1e-3)


@pytest.mark.parametrize("level", with_heavy(LEVELS))
def test_logits_equal(level: str) -> None:
    # effdet leaves out a pooling step where one side is already 1 px: keep both sides of D7x's P8 above that on the
    # way.
    size = (256, 512) if level == "d7x" else (128, 256)
    model = reference(level, size).eval()
    detector = ours(level, model).eval()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        classes, boxes = model(images)
        output = detector(images)
    for mine, theirs in zip((*output.class_logits, *output.box_deltas), (*classes, *boxes), strict=True):
        assert relative(mine, theirs) <= 1e-4


@pytest.mark.parametrize("size", [(320, 320), (300, 420), (225, 319)])
def test_logits_equal_at_sizes_no_power_of_two_divides(size: tuple[int, int]) -> None:
    model = reference("d0", size).eval()
    detector = ours("d0", model).eval()
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        classes, boxes = model(images)
        output = detector(images)
    for mine, theirs in zip((*output.class_logits, *output.box_deltas), (*classes, *boxes), strict=True):
        assert mine.shape == theirs.shape
        assert relative(mine, theirs) <= 1e-4


@pytest.mark.parametrize("level", LEVELS)
def test_anchors_equal(level: str) -> None:
    config = effdet.get_efficientdet_config(f"tf_efficientdet_{level}")
    expected = Anchors.from_config(config).boxes[:, [1, 0, 3, 2]]
    row = detector_config(f"efficientdet_{level}")
    size = row.size_hw
    assert tuple(config.image_size) == size
    anchors = make_anchors(
        size,
        pyramid_sizes(size, row.min_level, row.max_level),
        anchor_scale=row.anchor_scale,
        num_scales=row.num_scales,
        aspect_ratios=row.aspect_ratios,
    )
    assert anchors.shape == expected.shape
    assert float((anchors - expected).abs().max()) <= 1e-3


@pytest.mark.parametrize("size", [(360, 640), (600, 600), (225, 319)])
def test_anchors_equal_at_other_sizes(size: tuple[int, int]) -> None:
    expected = Anchors(3, 7, 3, [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)], 4.0, size).boxes[:, [1, 0, 3, 2]]
    anchors = make_anchors(size, pyramid_sizes(size, 3, 7))
    assert anchors.shape == expected.shape
    assert float((anchors - expected).abs().max()) <= 1e-3


def random_targets(batch: int, size: tuple[int, int], num_classes: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """0 to 12 boxes an image, tiny to almost the whole image."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for i in range(batch):
        count = 0 if i == 1 else int(torch.randint(1, 13, (1,), generator=generator))
        limit = torch.tensor([size[1], size[0]], dtype=torch.float32)
        sides = (torch.rand(count, 2, generator=generator) ** 2 * 0.9 + 0.02) * limit
        corner = torch.rand(count, 2, generator=generator) * (limit - sides)
        labels = torch.randint(0, num_classes, (count,), generator=generator)
        targets.append({"boxes": torch.cat((corner, corner + sides), 1), "labels": labels})
    return targets


def effdet_targets(targets: list[dict[str, torch.Tensor]], size: tuple[int, int]) -> dict[str, torch.Tensor]:
    most = max(len(target["labels"]) for target in targets)
    boxes = torch.full((len(targets), most, 4), -1.0)
    labels = torch.full((len(targets), most), -1.0)
    for i, target in enumerate(targets):
        count = len(target["labels"])
        boxes[i, :count] = target["boxes"][:, [1, 0, 3, 2]]
        labels[i, :count] = target["labels"] + 1.0
    batch = len(targets)
    return {
        "bbox": boxes,
        "cls": labels,
        "img_scale": torch.ones(batch),
        "img_size": torch.tensor([[size[1], size[0]]] * batch, dtype=torch.float32),
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("level", "size"), [("d0", (256, 384)), ("lite0", (192, 192)), ("d0", (225, 319))])
def test_loss_and_gradients_equal(level: str, size: tuple[int, int], seed: int) -> None:
    # The networks run in float64, so that what is compared is the loss and not rounding that a random, deep network
    # amplifies on the way back; both losses compute in float32.
    model = reference(level, size, num_classes=7, seed=seed).double()
    detector = ours(level, model, num_classes=7).double()
    bench = DetBenchTrain(model).eval()
    detector.eval()
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    targets = random_targets(3, size, 7, seed)
    bench.max_detection_points = 100
    expected = bench(images, effdet_targets(targets, size))
    losses = detector.loss(images, targets)
    total = sum(losses.values())
    assert losses["loss_cls"].item() == pytest.approx(expected["class_loss"].item(), rel=1e-5)
    assert losses["loss_box"].item() == pytest.approx(50.0 * expected["box_loss"].item(), rel=1e-5)
    assert total.item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    expected["loss"].backward()
    total.backward()
    gradients = dict(model.named_parameters())
    largest = max(float(parameter.grad.abs().max()) for parameter in gradients.values())
    for name, parameter in detector.named_parameters():
        theirs = gradients[name].grad
        assert parameter.grad is not None and theirs is not None, name
        # Gradients 1e-8 times the largest are rounding of the float32 losses.
        bound = 1e-4 * float(theirs.abs().max()) + 1e-12 * largest
        assert float((parameter.grad - theirs).abs().max()) <= bound, name


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("level", "size"), [("d0", (256, 384)), ("lite0", (256, 256))])
def test_detections_equal_with_hard_nms(level: str, size: tuple[int, int], seed: int) -> None:
    model = reference(level, size, seed=seed).eval()
    detector = ours(level, model)
    images = 3 * torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    bench = DetBenchPredict(model).eval()
    with torch.inference_mode():
        expected = bench(
            images,
            {"img_scale": torch.ones(2), "img_size": torch.tensor([[size[1], size[0]]] * 2, dtype=torch.float32)},
        )
    for mine, theirs in zip(detector.predict(images), expected, strict=True):
        assert len(mine) == 100
        torch.testing.assert_close(mine.scores, theirs[:, 4], rtol=1e-5, atol=1e-6)
        # Equal scores may come in either order: compare as sets of rows.
        rows = torch.cat((mine.boxes, mine.labels[:, None].float() + 1), 1)
        their_rows = torch.cat((theirs[:, :4], theirs[:, 5:6]), 1)
        distance = (rows[:, None] - their_rows[None]).abs().amax(-1)
        assert float(distance.min(1).values.max()) <= 2e-2
        assert float(distance.min(0).values.max()) <= 2e-2
