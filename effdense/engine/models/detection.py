"""The detector's shell: padded targets in, losses or detections in original pixels out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from effdense.engine.compiled import pad_boxes
from effdense.engine.models.shell import COMMON_ARGUMENTS, NetworkModel, split_options
from effdense.engine.registry import MODELS
from effdense.engine.training_step import COUNT
from effdense.models.detection import EfficientDetConfig, create_detector


@MODELS.register_module()
class DetectionModel(NetworkModel):
    """A detector of ours as an mmengine model.

    Args:
        name: as for ``effdense.create_detector``.
        num_classes: K; the engine fills it in from the training annotations.
        options: weights, encoder_weights, frozen_stages, frozen_batch_norm and channels_last as in ``NetworkModel``;
            and fields of ``EfficientDetConfig``.
    """

    task = "detection"
    count_offset = 1.0  # losses are divided by the positive anchors + 1

    def __init__(self, name: str, num_classes: int, **options: Any) -> None:
        common, options = split_options(options)
        network = create_detector(name, num_classes, **options)
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
        return set(COMMON_ARGUMENTS) | {field.name for field in fields(EfficientDetConfig)}

    def forward(
        self, inputs: Tensor, boxes: Tensor, labels: Tensor, valid: Tensor, mode: str = "loss", **batch: Any
    ) -> Any:
        """Losses (``mode='loss'``), detections (``'predict'``) or raw outputs (``'tensor'``) of a normalised batch."""
        if mode == "loss":
            targets: tuple[Tensor, ...] = (boxes, labels, valid)
            if self.compiled is not None:
                targets = (*pad_boxes(*targets), self._anchors(inputs))
            losses = self.run_core(self.network.padded_loss, inputs, *targets, with_positives=True)
            losses[COUNT] = losses.pop("positives")
            return losses
        if mode == "predict":
            return self._predict(inputs, batch)
        return self.evaluation_network(inputs)

    def _anchors(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, enabled=False):
            return self.network.anchors((inputs.shape[-2], inputs.shape[-1]))

    @torch.no_grad()
    def _predict(self, inputs: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One dict per image: image_id, index, boxes (M, 4) xyxy px of the original, scores (M,), labels (M,), all on
        CPU.
        """
        network = self.evaluation_network
        matrices = batch["matrices"].to(inputs.device, torch.float32)
        original = batch["original_sizes"].to(inputs.device)  # (B, 2) h, w
        scale = torch.stack((matrices[:, 1, 1], matrices[:, 0, 0]), dim=1)
        offset = torch.stack((matrices[:, 1, 2], matrices[:, 0, 2]), dim=1)
        filled = original * scale + offset  # the part of the input that the picture covers
        padded = network.padded_predict(inputs, filled)
        shift = offset.flip(1).repeat(1, 2)[:, None]
        factor = scale.flip(1).repeat(1, 2)[:, None]
        limit = original.flip(1).repeat(1, 2)[:, None].to(padded.boxes)
        boxes = torch.minimum(((padded.boxes - shift) / factor).clamp(min=0), limit).cpu()
        scores, labels, valid = padded.scores.cpu(), padded.labels.cpu(), padded.valid.cpu()
        return [
            {
                "image_id": image_id,
                "index": index,
                "boxes": boxes[i][valid[i]],
                "scores": scores[i][valid[i]],
                "labels": labels[i][valid[i]],
            }
            for i, (image_id, index) in enumerate(
                zip(batch["image_ids"].tolist(), batch["indices"].tolist(), strict=True)
            )
        ]
