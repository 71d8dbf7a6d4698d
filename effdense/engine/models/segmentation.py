"""The segmentor's shell: masks in, losses or class maps at original size out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from effdense.engine.models.shell import COMMON_ARGUMENTS, NetworkModel, split_options
from effdense.engine.registry import MODELS
from effdense.engine.training_step import COUNT
from effdense.models.segmentation import SegmentorConfig, create_segmentor
from effdense.models.segmentation.inference import InferenceOptions, predict_logits
from effdense.models.segmentation.postprocess import class_map_at


@MODELS.register_module()
class SegmentationModel(NetworkModel):
    """A segmentor of ours as an mmengine model.

    Args:
        name: as for ``effdense.create_segmentor``.
        num_classes: K; the engine fills it in from the dataset's classes.
        inference: fields of ``InferenceOptions``: how validation and whoever opens the checkpoint look at a picture.
        options: weights, encoder_weights, frozen_stages, frozen_batch_norm, channels_last and photometric as in
            ``NetworkModel``; and fields of ``SegmentorConfig``.
    """

    task = "segmentation"

    def __init__(
        self, name: str, num_classes: int, *, inference: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        look = InferenceOptions.of(inference)
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
        self.inference = look

    @staticmethod
    def config_arguments() -> set[str]:
        """Keys a config may give (read by the config check)."""
        return set(COMMON_ARGUMENTS) | {"inference"} | {field.name for field in fields(SegmentorConfig)}

    def forward(self, inputs: Tensor, masks: Tensor, mode: str = "loss", **batch: Any) -> Any:
        """Losses (``mode='loss'``), class maps (``'predict'``) or logits (``'tensor'``) of a normalised batch."""
        if mode == "loss":
            return {**self.run_core(self.network.loss, inputs, masks), COUNT: self._pixels(masks)}
        if mode == "predict":
            return self._predict(inputs, batch)
        return self.evaluation_network(inputs)

    def _pixels(self, masks: Tensor) -> Tensor:
        """Pixels that count, with their class weights: what cross-entropy and focal loss are a mean over. In images, so
        that numbers stay near 1.
        """
        weights = self.network.class_weights
        masks = masks.long()  # to a byte, an ignore_index that is none would be some class
        counted = masks != self.network.config.ignore_index
        if weights is None:
            return counted.sum() / masks[0].numel()
        return (weights[masks * counted] * counted).sum() / masks[0].numel()

    @torch.inference_mode()
    def _predict(self, inputs: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One dict per image: index, path and mask (H, W) uint8 at the original size, on the device of the inputs."""
        masks: dict[int, Tensor] = {}
        for (height, width), members in self._alike(inputs, batch):
            views = inputs if len(members) == len(inputs) else torch.cat([inputs[i : i + 1] for i in members])
            views = views[:, :, :height, :width].contiguous(memory_format=self.data_preprocessor.memory_format)
            logits = predict_logits(self.evaluation_network, views, self.inference)
            for i, one in zip(members, logits.split(1), strict=True):
                masks[i] = class_map_at(one, batch["matrices"][i], tuple(batch["original_sizes"][i].tolist()))
        return [
            {"index": index, "path": path, "mask": masks[i]}
            for i, (index, path) in enumerate(zip(batch["indices"].tolist(), batch["paths"], strict=True))
        ]

    def _alike(self, inputs: Tensor, batch: Mapping[str, Any]) -> list[tuple[tuple[int, int], list[int]]]:
        """(input size without the batch's padding, positions) of images that may go through the network together.

        Windows fill their passes from one image, so that logits of one image at a time are in memory.
        """
        whole = tuple(inputs.shape[-2:])
        sizes = [tuple(size) for size in batch["input_sizes"].tolist()] if "input_sizes" in batch else []
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, size in enumerate(sizes or [whole] * len(inputs)):
            groups.setdefault((*size, i) if self.inference.mode == "slide" else size, []).append(i)
        return [((key[0], key[1]), members) for key, members in groups.items()]
