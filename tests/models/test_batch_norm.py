"""Statistics measured anew, except those that are to stay."""

from __future__ import annotations

import torch
from torch import nn

from effdense.models.batch_norm import recalibrate_batch_norm


def test_layers_to_keep_are_not_measured() -> None:
    """Batches with mean 1 and 6: the cumulative average is 3.5 in the one layer, the other stands still."""
    network = nn.Sequential(nn.BatchNorm1d(1), nn.Identity(), nn.BatchNorm1d(1))
    for norm in (network[0], network[2]):
        norm.running_mean.fill_(7.0)  # type: ignore[operator, union-attr]
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]])]
    assert recalibrate_batch_norm(network, batches, keep=["2"]) == 2
    assert network[0].running_mean.item() == 3.5  # type: ignore[operator, union-attr]
    assert network[2].running_mean.item() == 7.0 and network[2].training  # type: ignore[operator, union-attr]
