"""A segmentor under the rest of torch: built without memory, transformed by torch.func, traced, and single images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad

from effdense.errors import ShapeError
from effdense.models.segmentation import Segmentor, create_segmentor
from effdense.models.segmentation.losses import segmentation_loss

WEIGHTS = (1.0, 2.0, 0.5)


def build() -> Segmentor:
    torch.manual_seed(0)
    return create_segmentor("efficientunet_b0", 3, class_weights=WEIGHTS).eval()


@pytest.mark.parametrize("assign", [False, True])
def test_built_on_the_meta_device(assign: bool) -> None:
    """Buffers that no state dict holds must not be left without values: logits would be wrong without a word."""
    model = build()
    with torch.device("meta"):
        other = create_segmentor("efficientunet_b0", 3, class_weights=WEIGHTS).eval()
    if not assign:
        other.to_empty(device="cpu")
    other.load_state_dict(model.state_dict(), assign=assign)
    images = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        assert torch.equal(other(images), model(images))
    assert other.class_weights is not None and other.class_weights.tolist() == list(WEIGHTS)


def test_class_weights_that_were_changed_are_kept() -> None:
    model = build()
    assert model.class_weights is not None
    model.class_weights.fill_(3.0)
    model.to(torch.float64).load_state_dict(model.state_dict())
    assert model.class_weights is not None and model.class_weights.tolist() == [3.0] * 3


def test_functional_gradients_are_those_of_autograd() -> None:
    model, images = build(), torch.randn(2, 3, 48, 65)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(model, parameters, (images,)).square().mean()

    found = grad(loss)({name: value.detach() for name, value in model.named_parameters()})
    model(images).square().mean().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(found[name], value.grad, rtol=1e-3, atol=1e-4 * float(value.grad.abs().max()))


def test_functional_gradient_of_the_lovasz_loss() -> None:
    logits, masks = torch.randn(1, 3, 6, 7), torch.randint(0, 3, (1, 6, 7))

    def loss(values: Tensor) -> Tensor:
        return segmentation_loss(values, masks, ce_weight=0.0, lovasz_weight=1.0)["loss_seg"]

    given = logits.clone().requires_grad_()
    loss(given).backward()
    torch.testing.assert_close(grad(loss)(logits), given.grad)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_trace_with_autograd_on() -> None:
    """torch.jit.trace runs the model a second time without autograd and refuses graphs that differ."""
    model, images = build(), torch.randn(1, 3, 33, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(model, images)(images), model(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "side"), [("efficientunet_lite0", 32), ("bifpnseg_lite0", 128)])
def test_a_single_small_image_cannot_be_trained_on(name: str, side: int) -> None:
    model = create_segmentor(name, 3)
    with pytest.raises(ShapeError, match=f"single value per channel at stride {side}"):
        model(torch.zeros(1, 3, side, side))
    assert model(torch.zeros(1, 3, side, side + 1)).shape == (1, 3, side, side + 1)
    assert model(torch.zeros(2, 3, side, side)).shape == (2, 3, side, side)
    assert model.eval()(torch.zeros(1, 3, side, side)).shape == (1, 3, side, side)
