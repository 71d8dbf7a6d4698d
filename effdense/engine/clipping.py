"""Adaptive gradient clipping: each unit's gradient as long as its weights allow, on the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effdense.errors import ConfigError, did_you_mean

# What predicts is left alone, as the paper leaves its last linear layer: the parts of our networks that do.
PREDICTION_LAYERS = ("class_net.predict", "box_net.predict", "segmentation_head", "classifier")


class AdaptiveClipping:
    """Scale down the gradient of every unit that is longer than ``clip_factor`` times the unit's weights.

    Args:
        clip_factor: largest ||gradient|| / ||weights|| of a unit, the paper's lambda. .01 for large batches (4096),
            up to .16 for small ones.
        eps: least length that weights count as, so that units which begin at zero can move.
        norm_type: order p of both lengths.
        exclude: parts of names of parameters that are not clipped; None for ``PREDICTION_LAYERS``, () for none.

    A unit is what one output of a convolution or linear layer is made from: the weights along all axes but the first.
    Vectors (biases, gains of norms, fusion weights) are one unit each.

    Raises: ConfigError for values out of range.
    Source: Brock et al. (arXiv 2102.06171) section 4.1 and its code, deepmind-research/nfnets/agc_optax.py; numbers as
        timm.utils.agc. Unit lengths of matrices take two kernels a tensor, the rest goes over all of them at once.
    """

    def __init__(
        self,
        clip_factor: float = 0.01,
        eps: float = 1e-3,
        norm_type: float = 2.0,
        exclude: Sequence[str] | None = None,
    ) -> None:
        for name, value in (("clip_factor", clip_factor), ("eps", eps), ("norm_type", norm_type)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"clip_grad.{name} of type 'agc' must be a number above 0, got {value!r}.")
        if isinstance(exclude, str) or not all(isinstance(part, str) and part for part in exclude or ()):
            raise ConfigError(
                f"clip_grad.exclude must be a list of parts of names, such as ['classifier'], got {exclude!r}."
            )
        self.clip_factor, self.eps, self.norm_type = float(clip_factor), float(eps), float(norm_type)
        self._given = exclude is not None
        self.exclude = PREDICTION_LAYERS if exclude is None else tuple(exclude)
        self._left_alone: frozenset[int] | None = None if self.exclude else frozenset()

    def name(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Find the excluded parameters by their names.

        Raises: ConfigError for a part that the config gives and no name has.
        """
        named = list(named_parameters)
        for part in self.exclude if self._given else ():
            if not any(part in name for name, _ in named):
                words = {word for name, _ in named for word in name.split(".") if not word.isdigit()}
                raise ConfigError(f"clip_grad.exclude: no parameter's name has {part!r}.{did_you_mean(part, words)}")
        self._left_alone = frozenset(id(p) for name, p in named if any(part in name for part in self.exclude))

    @torch.no_grad()
    def __call__(self, parameters: Sequence[Tensor]) -> Tensor:
        """Clip gradients in place; the norm of all of them before, on the device."""
        if self._left_alone is None:
            raise ConfigError(
                "clip_grad of type 'agc' has to know the names of what it leaves alone; build the optimizer with "
                "constructor='QuietOptimWrapperConstructor', or give exclude=[]."
            )
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        total = nn.utils.get_total_norm(gradients, self.norm_type)
        clipped = [p for p in parameters if p.grad is not None and id(p) not in self._left_alone]
        # Kernels over lists take tensors of one kind.
        for place in dict.fromkeys((p.device, p.dtype) for p in clipped):
            self._clip([p for p in clipped if (p.device, p.dtype) == place])
        return total

    def _clip(self, parameters: list[Tensor]) -> None:
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        allowed = self._unit_norms([p.detach() for p in parameters])
        torch._foreach_clamp_min_(allowed, self.eps)
        torch._foreach_mul_(allowed, self.clip_factor)
        found = self._unit_norms(gradients)
        sizes = [norm.numel() for norm in found]
        flat_allowed, flat_found = (torch.cat([norm.reshape(-1) for norm in norms]) for norms in (allowed, found))
        factors = torch.where(flat_found < flat_allowed, 1.0, flat_allowed / flat_found.clamp(min=1e-6))
        shaped = [part.view_as(norm) for part, norm in zip(factors.split(sizes), found, strict=True)]
        torch._foreach_mul_(gradients, shaped)

    def _unit_norms(self, tensors: list[Tensor]) -> list[Tensor]:
        """Lengths of the units of each tensor, of a shape that broadcasts over it."""
        norms: list[Tensor | None] = [
            torch.linalg.vector_norm(t, self.norm_type, dim=tuple(range(1, t.ndim)), keepdim=True)
            if t.ndim > 1
            else None
            for t in tensors
        ]
        flat = [t for t in tensors if t.ndim <= 1]
        vectors = iter(torch._foreach_norm(flat, self.norm_type) if flat else ())
        return [next(vectors) if norm is None else norm for norm in norms]


def adaptive_clipping(section: Mapping[str, Any]) -> AdaptiveClipping:
    """From ``optim_wrapper.clip_grad`` with ``type="agc"``.

    Raises: ConfigError for options of the other kinds of clipping.
    """
    options = {key: value for key, value in section.items() if key != "type"}
    known = ("clip_factor", "eps", "norm_type", "exclude")
    for key in options:
        if key not in known:
            raise ConfigError(
                f"optim_wrapper.clip_grad of type 'agc' has no {key!r}.{did_you_mean(key, known)} It takes "
                f"{', '.join(known)}."
            )
    return AdaptiveClipping(**options)
