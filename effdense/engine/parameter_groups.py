"""Which options each parameter is trained with: learning rates by depth, no decay where none belongs; few groups."""

from __future__ import annotations

import inspect
from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from effdense.engine.fused import start_momentum, with_fused
from effdense.engine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS, resolve
from effdense.errors import ConfigError
from effdense.models.freezing import encoder_of, layer_index


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class QuietOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor without its log line and its group per parameter, with learning rates by depth.

    Beside mmengine's keys, ``paramwise_cfg`` takes:
        layer_decay: a factor d in (0, 1]; the LR of encoder layer i of n (stem 0, stage k is k + 1) is multiplied by
            d ** (n - i), everything behind the encoder keeps its own.
        encoder_lr_mult: one factor for the whole encoder, on top ("discriminative" learning rates).

    ``flat_decay_mult=0`` keeps weight decay off everything with one dimension: norms, biases and the weights of BiFPN's
    fusion, as automl decays variables named kernel or weight only (efficientdet/tf2/train_lib.py ``_reg_l2_loss``).

    The optimizer steps with ``fused=True`` where torch can and the config does not say ``fused`` or ``foreach``.
    Parameters of equal options share a group: torch's fused and foreach steps work through one group at a time, so 312
    groups of one tensor each (D0) would cost 312 times the launches.
    """

    optimizer_cfg: dict[str, Any]

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        own = dict(paramwise_cfg or {})
        self.layer_decay = _number("layer_decay", own)
        self.encoder_lr_mult = _number("encoder_lr_mult", own)
        if not 0.0 < self.layer_decay <= 1.0:
            raise ConfigError(f"paramwise_cfg.layer_decay must lie in (0, 1], got {self.layer_decay}.")
        if self.encoder_lr_mult <= 0.0:
            raise ConfigError(
                f"paramwise_cfg.encoder_lr_mult must be above 0, got {self.encoder_lr_mult}; to train without the "
                "encoder set model.frozen_stages='all'."
            )
        super().__init__(optim_wrapper_cfg, own)
        # mmengine reads parameter options only when there are some; by-depth rates need its groups either way.
        self._by_depth = self.layer_decay != 1.0 or self.encoder_lr_mult != 1.0
        if self._by_depth and not own:
            self.paramwise_cfg: dict[str, Any] = {"norm_decay_mult": 1.0}

    def __call__(self, model: nn.Module) -> OptimWrapper:
        optimizer = resolve(OPTIMIZERS, self.optimizer_cfg["type"], "optim_wrapper.optimizer")
        closure = inspect.signature(getattr(optimizer, "step", len)).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ConfigError(
                f"optim_wrapper.optimizer: {optimizer.__name__} computes the loss of a batch several times a step "
                "(step takes a closure), which training here does not; choose one such as SGD or AdamW."
            )
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer_cfg = with_fused(self.optimizer_cfg, optimizer, trained)
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel("WARNING")
        try:
            wrapper = super().__call__(model)
        finally:
            logger.setLevel(level)
        start_momentum(wrapper.optimizer)
        clipping = getattr(wrapper, "adaptive_clipping", None)
        if clipping is not None:
            clipping.name(getattr(model, "module", model).named_parameters())
        return wrapper

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", **options: Any) -> None:
        """Groups of ``module``; mmengine calls this for every submodule, with its name as ``prefix``."""
        super().add_params(params, module, prefix=prefix, **options)
        if prefix == "":
            if self._by_depth:
                self._scale_by_depth(params, module)
            merged: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
            for group in params:
                settings = {key: value for key, value in group.items() if key != "params"}
                same = merged.setdefault(tuple(sorted(settings.items())), {"params": [], **settings})
                same["params"].extend(group["params"])
            params[:] = merged.values()

    def _scale_by_depth(self, params: list[dict[str, Any]], module: Any) -> None:
        """Multiply the LR of every one-parameter group by the factor of its layer."""
        network = module.network
        stages = len(encoder_of(network).blocks)
        factors: dict[int, float] = {}
        for name, parameter in network.named_parameters():
            index = layer_index(name, stages)
            factor = self.layer_decay ** (stages + 1 - index)
            factors[id(parameter)] = factor * (self.encoder_lr_mult if index <= stages else 1.0)
        for group in params:
            (parameter,) = group["params"]
            rate: Any = group.get("lr", self.base_lr)
            group["lr"] = rate * factors[id(parameter)]


def _number(name: str, options: dict[str, Any]) -> float:
    """Take a factor out of paramwise_cfg, 1 where it is not given."""
    value = options.pop(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"paramwise_cfg.{name} must be a number, got {value!r}.")
    return float(value)
