"""The segmentor's shell: masks in, losses or class maps at original size out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from effdense.engine.models.shell import COMMON_ARGUMENTS, NetworkModel, split_options
from effdense.engine.registry import MODELS
from effdense.models.segmentation import SegmentorConfig, create_segmentor
from effdense.models.segmentation.postprocess import class_map_at


@MODELS.register_module()
class SegmentationModel(NetworkModel):
    """A segmentor of ours as an mmengine model.

    Args:
        name: as for ``effdense.create_segmentor``.
        num_classes: K; the engine fills it in from the dataset's classes.
        options: weights, encoder_weights, frozen_stages, frozen_batch_norm and channels_last as in ``NetworkModel``;
            and fields of ``SegmentorConfig``.
    """

    task = "segmentation"

    def __init__(self, name: str, num_classes: int, **options: Any) -> None:
        common, options = split_options(options)
        network = create_segmentor(name, num_classes, **options)
        super().__init__(
            network,
            {"name": name, "num_classes": num_classes, **options},
            image_size=network.config.size_hw,
            mean=network.config.mean,
            std=network.config.std,
            **common,
        )

    @staticmethod
    def config_arguments() -> set[str]:
        """Keys a config may give (read by the config check)."""
        return set(COMMON_ARGUMENTS) | {field.name for field in fields(SegmentorConfig)}

    def forward(self, inputs: Tensor, masks: Tensor, mode: str = "loss", **batch: Any) -> Any:
        """Losses (``mode='loss'``), class maps (``'predict'``) or logits (``'tensor'``) of a normalised batch."""
        if mode == "loss":
            return self.network.loss(inputs, masks)
        if mode == "predict":
            return self._predict(inputs, batch)
        return self.evaluation_network(inputs)

    @torch.no_grad()
    def _predict(self, inputs: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One dict per image: index, path and mask (H, W) uint8 at the original size, on the CPU."""
        logits = self.evaluation_network(inputs).float()
        results = []
        for i, (index, path) in enumerate(zip(batch["indices"].tolist(), batch["paths"], strict=True)):
            height, width = batch["original_sizes"][i].tolist()
            mask = class_map_at(logits[i : i + 1], batch["matrices"][i], (height, width))
            results.append({"index": index, "path": path, "mask": mask.cpu()})
        return results
