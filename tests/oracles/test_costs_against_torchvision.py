"""Parameters and multiply-adds beside those that torchvision states of the same networks, all digits."""

from __future__ import annotations

import pytest

from effdense.models.costs import model_cost

models = pytest.importorskip("torchvision.models")
SIZES = ("B0", "B1", "B2", "B3", "B4", "B5", "V2_S", *(pytest.param(s, marks=pytest.mark.slow) for s in ("B6", "B7")))
LARGE = tuple(pytest.param(size, marks=pytest.mark.slow) for size in ("V2_M", "V2_L"))


@pytest.mark.parametrize("size", [*SIZES, *LARGE])
def test_counts_equal_torchvisions(size: str) -> None:
    weights = getattr(models, f"EfficientNet_{size}_Weights").IMAGENET1K_V1
    name = f"efficientnet_{size.lower()}" if size[0] == "B" else f"efficientnetv2_{size[-1].lower()}"
    cost = model_cost(name, weights.transforms.keywords["crop_size"])
    assert cost.total_params == weights.meta["num_params"]
    assert round(cost.total_macs / 1e9, 3) == weights.meta["_ops"]
