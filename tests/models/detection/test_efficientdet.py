"""The detector as a whole: outputs, loss and detections, and that it compiles, exports and trains in half precision."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import effdense
from effdense.errors import ConfigError, ShapeError
from effdense.models.detection import EfficientDet

# P2-P4 of B0 with one BiFPN cell: every mechanism of D0 at a fraction of its cost.
TINY = {"min_level": 2, "max_level": 4, "fpn_channels": 16, "fpn_cells": 1, "head_repeats": 1}


def build(num_classes: int = 3, seed: int = 0, **options: Any) -> EfficientDet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return effdense.create_detector("efficientdet_d0", num_classes, **{**TINY, **options})


def pictures(batch: int, size: tuple[int, int] = (64, 96), seed: int = 0, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


def target(*rows: tuple[list[float], int]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor([box for box, _ in rows], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([label for _, label in rows], dtype=torch.int64),
    }


TARGETS = [
    target(([4.0, 6, 30, 28], 0), ([50.0, 10, 90, 60], 2), ([8.0, 40, 20, 60], 1)),
    target(),
    target(([10.0, 10, 26, 26], 1)),
]


@pytest.fixture(scope="module")
def d0() -> EfficientDet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return effdense.create_detector("efficientdet_d0", 3).eval()


@pytest.fixture
def no_graphs() -> Iterator[None]:
    """torch.compile's caches are global: leave none behind, find none."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (65, 97), (1, 1)])
def test_outputs_of_any_size(d0: EfficientDet, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        output = d0(pictures(2, size))
    for level, (logits, deltas) in enumerate(zip(output.class_logits, output.box_deltas, strict=True), start=3):
        cells = (math.ceil(size[0] / 2**level), math.ceil(size[1] / 2**level))
        assert logits.shape == (2, 9 * 3, *cells) and deltas.shape == (2, 9 * 4, *cells)


@pytest.mark.parametrize("num_classes", [1, 2, 91])
def test_any_number_of_classes(num_classes: int) -> None:
    detector = build(num_classes)
    output = detector(pictures(2))
    assert all(level.shape[1] == 9 * num_classes for level in output.class_logits)
    losses = detector.loss(pictures(2), [target(([4.0, 6, 30, 28], num_classes - 1)), target()])
    assert all(torch.isfinite(value) and value > 0 for value in losses.values())
    for found in detector.predict(pictures(2)):
        assert len(found) == 100 and set(found.labels.tolist()) <= set(range(num_classes))


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels: int) -> None:
    detector = build(in_channels=channels)
    assert len(detector.predict(pictures(2, channels=channels))) == 2
    with pytest.raises(ShapeError, match=rf"\(B, {channels}, H, W\), got shape \(2, 3"):
        detector.predict(pictures(2))


@pytest.mark.parametrize(("low", "high"), [(2, 3), (3, 5), (5, 6), (2, 8)])
def test_any_levels(low: int, high: int) -> None:
    detector = build(min_level=low, max_level=high).eval()
    output = detector(pictures(1, (65, 97)))
    expected = [(-(-65 // 2**level), -(-97 // 2**level)) for level in range(low, high + 1)]
    assert [tuple(level.shape[-2:]) for level in output.class_logits] == expected
    assert detector.anchors((65, 97), output).shape == (9 * sum(h * w for h, w in expected), 4)


@pytest.mark.parametrize(
    "options",
    [
        {"fusion": "softmax"},
        {"upsample": "bilinear"},
        {"downsample": "bilinear"},
        {"padding": "symmetric"},
        {"padding": "same_zero"},
        {"encoder_padding": "symmetric"},
        {"encoder_bn_eps": 0.1},
    ],
)
def test_necks_and_paddings_share_weights_but_not_outputs(options: dict[str, str]) -> None:
    changed, plain = build(**options).eval(), build().eval()
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if name.endswith("edge_weights"):
                parameter[0] = 3.0  # equal weights are equal under every normalisation
    effdense.load_weights(plain, changed.state_dict())
    with torch.inference_mode():
        first, second = (detector(pictures(1)).box_deltas for detector in (changed, plain))
    differences = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(first, second, strict=True)]
    assert 1e-4 < max(differences) < math.inf


def test_switched_paddings_are_those_of_a_detector_built_with_them() -> None:
    adapted = build().eval()
    assert adapted.weight_options == {}
    adapted.set_padding("same_zero")
    adapted.backbone.set_convention(padding="symmetric", bn_eps=1e-5)
    assert adapted.weight_options == {"padding": "same_zero", "encoder_padding": "symmetric"}
    built = build(**adapted.weight_options).eval()
    built.load_state_dict(adapted.state_dict())
    with torch.inference_mode():
        first, second = adapted(pictures(1)), built(pictures(1))
    assert all(torch.equal(a, b) for a, b in zip(first.box_deltas, second.box_deltas, strict=True))
    assert copy.deepcopy(adapted).weight_options == adapted.weight_options
    with pytest.raises(ConfigError, match=r"padding must be one of .* got 'valid'"):
        adapted.set_padding("valid")


def test_every_class_starts_at_one_percent(d0: EfficientDet) -> None:
    bias = d0.class_net.predict.conv_pw.bias
    assert bias is not None
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))
    assert d0.box_net.predict.conv_pw.bias is not None and not d0.box_net.predict.conv_pw.bias.any()


def test_the_same_seed_builds_and_runs_the_same_network() -> None:
    first, second = build(seed=7), build(seed=7)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    losses = [sum(detector.loss(pictures(3), TARGETS).values()) for detector in (first, second)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == losses[1].item()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad)


def test_a_batch_detects_what_its_images_do() -> None:
    detector = build()
    images = pictures(3)
    for i, together in enumerate(detector.predict(images)):
        (alone,) = detector.predict(images[i : i + 1])
        torch.testing.assert_close(together.scores, alone.scores, rtol=1e-5, atol=1e-6)
        assert len(together) == len(alone) == 100


def test_few_candidates_are_no_error() -> None:
    # 32 x 32 with one class: far fewer than the 5000 candidates that Google's code assumes.
    detector = build(1, min_level=4, max_level=5)
    (found,) = detector.predict(pictures(1, (32, 32)), iou_threshold=1.0)
    assert len(found) == 9 * (2 * 2 + 1)


def test_detections_lie_in_the_part_that_the_picture_fills() -> None:
    detector = build()
    found = detector.predict(pictures(2), torch.tensor([[64, 96], [40, 50]]))
    assert found[0].boxes[:, 2].max() == 96 and found[0].boxes[:, 3].max() == 64
    assert found[1].boxes[:, 2].max() == 50 and found[1].boxes[:, 3].max() == 40
    assert all(bool((one.boxes >= 0).all()) and bool((one.scores.diff() <= 0).all()) for one in found)
    lists: Any = [(64, 96), (40, 50)]
    assert torch.equal(detector.predict(pictures(2), lists)[1].boxes, found[1].boxes)


def test_options_of_one_prediction() -> None:
    detector = build()
    (plain,) = detector.predict(pictures(1))
    (few,) = detector.predict(pictures(1), max_detections=7)
    assert torch.equal(few.boxes, plain.boxes[:7])
    threshold = float(plain.scores[3])
    (strong,) = detector.predict(pictures(1), score_threshold=threshold)
    assert len(strong) == 3 and bool((strong.scores > threshold).all())
    (best,) = detector.predict(pictures(1), max_candidates=1)
    assert len(best) == 1 and torch.equal(best.boxes, plain.boxes[:1])
    (soft,) = detector.predict(pictures(1), method="soft")
    assert torch.equal(soft.boxes[0], plain.boxes[0])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((), {"score_treshold": 0.3}, ConfigError, "no option 'score_treshold'.* Did you mean 'score_threshold'"),
        ((), {"method": "fast"}, ConfigError, "got 'fast'"),
        ((torch.tensor([[64, 96]]),), {}, ShapeError, r"image_sizes must be \(2, 2\).* got \(1, 2\)"),
        (((64, 96),), {}, ShapeError, r"got \(2,\)"),
    ],
)
def test_wrong_prediction_arguments_are_named(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build().predict(pictures(2), *arguments, **options)


def test_predict_evaluates_and_leaves_every_mode_as_it_was() -> None:
    detector = build(drop_path_rate=0.5).train()
    detector.backbone.eval()  # frozen, as fine-tuning does
    modes = [module.training for module in detector.modules()]
    statistics = copy.deepcopy(detector.state_dict())
    first, second = detector.predict(pictures(2)), detector.predict(pictures(2))
    assert torch.equal(first[0].boxes, second[0].boxes) and not first[0].boxes.requires_grad
    assert [module.training for module in detector.modules()] == modes
    assert all(torch.equal(value, statistics[key]) for key, value in detector.state_dict().items())
    with pytest.raises(ShapeError):
        detector.predict(pictures(2, channels=1))
    assert [module.training for module in detector.modules()] == modes


def test_the_order_of_ground_truths_and_padding_do_not_matter() -> None:
    detector = build().eval()
    plain = detector.loss(pictures(3), TARGETS)
    order = torch.tensor([2, 0, 1])
    shuffled = [{name: value[order] for name, value in TARGETS[0].items()}, *TARGETS[1:]]
    padded = (torch.zeros(3, 20, 4), torch.zeros(3, 20, dtype=torch.int64), torch.zeros(3, 20, dtype=torch.bool))
    padded[0][:] = torch.tensor([10.0, 10, 60, 60])
    for i, one in enumerate(TARGETS):
        count = len(one["labels"])
        padded[0][i, :count], padded[1][i, :count], padded[2][i, :count] = one["boxes"], one["labels"], True
    for losses in (detector.loss(pictures(3), shuffled), detector.padded_loss(pictures(3), *padded)):
        for name, value in losses.items():
            assert value.item() == pytest.approx(plain[name].item(), rel=1e-6)


def test_images_without_objects_have_no_box_loss_and_finite_gradients() -> None:
    detector = build()
    losses = detector.loss(pictures(2), [target(), target()])
    assert losses["loss_box"].item() == 0.0 and losses["loss_cls"].item() > 0.0
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())


def test_an_ignored_object_counts_neither_as_object_nor_as_background() -> None:
    detector = build().eval()
    box = [50.0, 10, 90, 60]
    background = detector.loss(pictures(1), [target()])
    ignored = detector.loss(pictures(1), [target((box, -1))])
    assert ignored["loss_box"].item() == 0.0
    assert 0.0 < ignored["loss_cls"].item() < background["loss_cls"].item()


def test_targets_that_cannot_be_used_are_named() -> None:
    detector = build()
    with pytest.raises(ShapeError, match="one target per image: 3 images, 1 targets"):
        detector.loss(pictures(3), TARGETS[:1])
    with pytest.raises(ShapeError, match=r"target 0: labels must lie in 0\.\.2"):
        detector.loss(pictures(1), [target(([0.0, 0, 9, 9], 3))])


def test_a_few_steps_on_one_batch_reduce_the_loss() -> None:
    detector = build()
    optimizer = torch.optim.Adam(detector.parameters(), 2e-3)
    history = []
    for _ in range(12):
        loss = sum(detector.loss(pictures(3), TARGETS).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.6 * history[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_a_training_step_in_half_precision_is_finite(dtype: torch.dtype) -> None:
    detector = build()
    with torch.autocast("cpu", dtype):
        assert detector(pictures(3)).class_logits[0].dtype == dtype
        losses = detector.loss(pictures(3), TARGETS)
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())
    full = build().loss(pictures(3), TARGETS)
    for name, value in losses.items():
        assert value.item() == pytest.approx(full[name].item(), rel=0.05)


def test_prediction_in_half_precision_gives_float32_boxes() -> None:
    detector = build()
    with torch.autocast("cpu", torch.bfloat16):
        (amp,) = detector.predict(pictures(1))
    (half,) = build().to(torch.bfloat16).predict(pictures(1).to(torch.bfloat16))
    for found in (amp, half):
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert len(found) == 100 and bool(torch.isfinite(found.boxes).all())


def test_anchors_are_kept_for_a_few_sizes() -> None:
    detector = build().eval()
    output = detector(pictures(1))
    anchors = detector.anchors((64, 96), output)
    assert detector.anchors((64, 96), output) is anchors
    assert detector.anchors((64, 96)) is anchors  # the sizes follow from the picture
    assert detector.anchors((63, 96), output) is not anchors
    for height in range(20):
        detector.anchors((100 + height, 96), output)
    assert len(detector._anchor_cache) <= 8


def test_a_model_that_predicted_in_inference_mode_can_train() -> None:
    detector = build()
    with torch.inference_mode():
        detector.predict(pictures(1))
        detector.anchors((64, 96))
    assert not detector.anchors((64, 96)).is_inference()
    sum(detector.loss(pictures(3), TARGETS).values()).backward()


def test_a_run_on_fake_tensors_leaves_nothing_behind() -> None:
    # Memory estimators and compilers run a model without data; its anchors must not be taken for real ones.
    detector, fresh = build().eval(), build().eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        shapes = detector.padded_predict(torch.zeros(1, 3, 64, 96))
        detector.anchors((64, 96))
    assert shapes.boxes.shape == (1, 100, 4)
    assert torch.equal(detector.predict(pictures(1))[0].boxes, fresh.predict(pictures(1))[0].boxes)


def test_a_copy_is_a_model_of_its_own() -> None:
    detector = build()
    before = detector.predict(pictures(1))[0].boxes
    twin = copy.deepcopy(detector)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert torch.equal(detector.predict(pictures(1))[0].boxes, before)


@pytest.mark.slow
def test_d0_exports_outputs_and_detections(d0: EfficientDet) -> None:
    images = pictures(1, (128, 128))
    with torch.no_grad():
        program = torch.export.export(d0, (images,))
        for mine, theirs in zip(
            torch.utils._pytree.tree_leaves(d0(images)),
            torch.utils._pytree.tree_leaves(program.module()(images)),
            strict=True,
        ):
            torch.testing.assert_close(mine, theirs)
        check_exported_detections(d0, images)


class Detect(torch.nn.Module):
    """What an exported detector does: images in, padded detections out."""

    def __init__(self, detector: EfficientDet) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        return self.detector.padded_predict(images)


def check_exported_detections(detector: EfficientDet, images: Tensor) -> None:
    program = torch.export.export(Detect(detector), (images,))
    exported = program.module()(images)
    for name, value in zip(detector.padded_predict(images)._fields, exported, strict=True):
        torch.testing.assert_close(value, getattr(detector.padded_predict(images), name), msg=name)


@pytest.mark.parametrize("options", [{}, {"upsample": "bilinear", "downsample": "bilinear"}, {"padding": "same_zero"}])
@torch.no_grad()
def test_a_small_detector_exports_with_its_post_processing(options: dict[str, str]) -> None:
    check_exported_detections(build(max_detections=20, **options).eval(), pictures(2))


def check_compiled_loss(detector: EfficientDet, size: tuple[int, int]) -> None:
    eager = copy.deepcopy(detector)
    compiled = torch.compile(detector.padded_loss, backend="eager", fullgraph=True)  # fullgraph: any break is an error
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        corner = torch.rand(2, 5, 2, generator=generator) * 40
        boxes = torch.cat((corner, corner + torch.rand(2, 5, 2, generator=generator) * 50 + 2), 2)
        labels = torch.randint(-1, 3, (2, 5), generator=generator)
        valid = torch.rand(2, 5, generator=generator) < (0.0, 0.5, 1.0)[seed]  # from no object at all to a full image
        images = pictures(2, size, seed)
        for name, value in compiled(images, boxes, labels, valid).items():
            assert value.item() == pytest.approx(eager.padded_loss(images, boxes, labels, valid)[name].item(), rel=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_the_loss_compiles_to_one_graph_that_other_targets_reuse(no_graphs: None) -> None:
    check_compiled_loss(build(), (64, 96))


@pytest.mark.slow
def test_the_loss_of_d0_compiles_to_one_graph(d0: EfficientDet, no_graphs: None) -> None:
    check_compiled_loss(copy.deepcopy(d0).train(), (192, 192))
