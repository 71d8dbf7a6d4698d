"""The classifier's shell: labels in, loss or class probabilities out; pictures are mixed on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from effdense.data.transforms.mixing import BatchMixer
from effdense.engine.models.shell import COMMON_ARGUMENTS, NetworkModel, size_hw, split_options
from effdense.engine.registry import MODELS
from effdense.engine.training_step import COUNT
from effdense.errors import ConfigError
from effdense.models.classification import create_classifier

_NETWORK_ARGUMENTS = frozenset(
    {"in_channels", "padding", "dropout", "drop_path_rate", "bn_momentum", "bn_eps", "act", "mean", "std"}
)


@MODELS.register_module()
class ClassificationModel(NetworkModel):
    """A classifier of ours as an mmengine model.

    Args:
        name: as for ``effdense.create_classifier``.
        num_classes: K; the engine fills it in from the training folder.
        image_size: input px; the engine fills in the config's.
        label_smoothing: share of every target that is spread over all classes.
        mixup, cutmix: concentration of the Beta distribution that the mixing share is drawn from; 0 for none. With
            both, each batch gets one of them.
        mix_prob: share of the batches that are mixed.
        options: weights, encoder_weights, frozen_stages, frozen_batch_norm and channels_last as in ``NetworkModel``;
            and in_channels, padding, dropout, drop_path_rate, bn_momentum, bn_eps, act; and mean, std in place of
            those of the family.
    """

    task = "classification"

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        image_size: int | Sequence[int],
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_prob: float = 1.0,
        **options: Any,
    ) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"model.label_smoothing must lie in [0, 1), got {label_smoothing!r}.")
        common, options = split_options(options)
        mean, std = options.pop("mean", None), options.pop("std", None)
        network = create_classifier(name, num_classes, **options)
        super().__init__(
            network,
            {"name": name, "num_classes": num_classes, **options},
            image_size=size_hw(image_size),
            mean=mean or network.mean,
            std=std or network.std,
            **common,
        )
        self._given = (mean, std)
        self.label_smoothing = label_smoothing
        self.mixer = BatchMixer(num_classes, mixup=mixup, cutmix=cutmix, prob=mix_prob)

    @staticmethod
    def config_arguments() -> set[str]:
        """Keys a config may give (read by the config check)."""
        own = {"image_size", "label_smoothing", "mixup", "cutmix", "mix_prob"}
        return set(COMMON_ARGUMENTS | _NETWORK_ARGUMENTS) | own

    def note_convention(self) -> None:
        """Also the normalisation, unless the config says one: V2's differs between TensorFlow's and torch's weights."""
        super().note_convention()
        mean, std = self._given
        self.mean, self.std = mean or self.network.mean, std or self.network.std
        self.data_preprocessor.set_statistics(self.mean, self.std)

    def regularisers(self) -> dict[str, Callable[[float], None]]:
        """Those of every network, and the mixing of pictures."""
        mixing = {name: functools.partial(setattr, self.mixer, name) for name in ("mixup", "cutmix")}
        return {**super().regularisers(), **mixing}

    def forward(self, inputs: Tensor, labels: Tensor, mode: str = "loss", **batch: Any) -> Any:
        """Loss (``mode='loss'``), probabilities (``'predict'``) or logits (``'tensor'``) of a normalised batch."""
        if mode == "loss":
            images, targets = self.mixer(inputs, labels)
            losses = self.run_core(self.network.loss, images, targets, label_smoothing=self.label_smoothing)
            return {**losses, COUNT: torch.full((), len(images), device=images.device)}
        if mode == "predict":
            return self._predict(inputs, labels, batch)
        return self.evaluation_network(inputs)

    @torch.no_grad()
    def _predict(self, inputs: Tensor, labels: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One dict per image: index, label, path and probabilities (K,), on the CPU."""
        probabilities = self.evaluation_network(inputs).float().softmax(1).cpu()
        return [
            {"index": index, "label": label, "path": path, "probabilities": row}
            for index, label, path, row in zip(
                batch["indices"].tolist(), labels.tolist(), batch["paths"], probabilities, strict=True
            )
        ]
