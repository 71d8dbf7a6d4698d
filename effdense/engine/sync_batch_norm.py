"""BatchNorm over the images of all processes, on any device.

torch's SyncBatchNorm runs on GPUs only; on a CPU the layer below computes the same over gloo, so that what several
processes train can be compared with what one does.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from effdense.engine.distributed import rank_and_world


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose batch, in training, is that of all processes; ranks may hold different numbers of images.

    Same parameters, buffers and state dict as BatchNorm2d, whose forward pass it is in evaluation and for one process.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or rank_and_world()[1] == 1:
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, variance, count = _SyncedNorm.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (count / (count - 1.0).clamp(min=1.0)), share)
        return output


def _wide(x: Tensor) -> Tensor:
    """In float32 where it is less; statistics of halves are kept in that."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _SyncedNorm(torch.autograd.Function):
    """(B, C, H, W) normalised per channel over B, H, W of all ranks; also the mean, the (biased) variance and how many
    values they are of.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        variance, mean = torch.var_mean(_wide(x), (0, 2, 3), correction=0)
        local = torch.cat((mean, variance, mean.new_tensor([x.numel() / channels])))
        ranks = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(ranks, local)
        stacked = torch.stack(ranks)
        counts = stacked[:, -1:]
        count = counts.sum()
        # Means first, then spread about the common one: sums of squares would cancel.
        shares = counts / count
        mean = (stacked[:, :channels] * shares).sum(0)
        variance = ((stacked[:, channels:-1] + (stacked[:, :channels] - mean).square()) * shares).sum(0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        grad = _wide(grads[0])
        shape = (1, -1, 1, 1)
        normed = (_wide(x) - mean.view(shape)) * inverse.view(shape)
        sums = torch.cat((grad.sum((0, 2, 3)), (grad * normed).sum((0, 2, 3))))
        to_bias, to_weight = sums.clone().chunk(2)  # of this rank's images: DDP adds those of the others
        dist.all_reduce(sums)
        of_grad, of_product = (sums / count).chunk(2)
        scale = inverse if weight is None else inverse * weight
        to_x = (grad - of_grad.view(shape) - normed * of_product.view(shape)) * scale.view(shape)
        return (
            to_x.to(x.dtype),
            None if weight is None else to_weight.to(weight.dtype),
            to_bias if ctx.has_bias else None,
            None,
        )


def convert_sync_batch_norm(model: nn.Module, keep: Collection[nn.Module] = ()) -> int:
    """Replace the BatchNorm layers of a model, in place, by ones that see the batch of all processes.

    Args: keep: modules that stay as they are, with all that is in them: those whose statistics are frozen.
    Returns: how many were replaced.
    """
    kept = {module for root in keep for module in root.modules()}
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, _BatchNorm) or child in kept or isinstance(child, CPUSyncBatchNorm2d):
                continue
            on_gpu = next(child.parameters(), torch.empty(0)).device.type == "cuda"
            synced: Any = nn.SyncBatchNorm.convert_sync_batchnorm(child) if on_gpu else _on_cpu(child)
            if synced is not child:
                parent.add_module(name, synced)
                replaced += 1
    return replaced


def _on_cpu(norm: _BatchNorm) -> nn.Module:
    """The layer with the same tensors; only 2-d ones, which all of ours are, can be exchanged."""
    if type(norm) is not nn.BatchNorm2d:
        return norm
    synced = CPUSyncBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
    )
    for name in ("weight", "bias"):
        synced._parameters[name] = norm._parameters[name]
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        synced._buffers[name] = norm._buffers[name]
    synced.training = norm.training
    return synced
