"""mmengine shells around plain-torch models: device-side normalisation in, losses or detections in original pixels
out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from effdense.engine.registry import MODELS
from effdense.models.detection import EfficientDet, EfficientDetConfig, create_detector
from effdense.models.weights import load_weights


@MODELS.register_module()
class Normalize(nn.Module):
    """uint8 batches to normalised float tensors, on the device the model is on.

    Args:
        mean, std: per channel, in units of the full range (0..1), RGB.
        channels_last: memory format of what comes out.

    In (a collated batch): ``inputs`` (B, C, H, W) uint8; out: the same mapping with ``inputs`` float32 normalised and
    every tensor on the device. Letterbox padding was filled with the rounded mean, so it comes out near zero.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, channels_last: bool = True) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255.0, persistent=False)

    def forward(self, batch: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        device = self.mean.device
        moved = {
            key: value.to(device, non_blocking=True) if isinstance(value, Tensor) and key != "matrices" else value
            for key, value in batch.items()
        }
        inputs = moved["inputs"].float().contiguous(memory_format=self.memory_format)
        moved["inputs"] = (inputs - self.mean) / self.std
        return moved


@MODELS.register_module()
class DetectionModel(BaseModel):
    """A detector of ours as an mmengine model.

    Args:
        name: as for ``effdense.create_detector``.
        num_classes: K; the engine fills it in from the training annotations.
        weights: detector weights to start from (path).
        encoder_weights: encoder weights to start from (path), for example ImageNet's in timm's layout.
        channels_last: memory format of network and batches; about 1.3x faster on CPU and tensor cores.
        options: fields of ``EfficientDetConfig``.

    The checkpointed weights are those of ``network``; ``evaluation_network`` is its exponential moving average once
    the EMA hook has made one.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        weights: str | None = None,
        encoder_weights: str | None = None,
        channels_last: bool = True,
        **options: Any,
    ) -> None:
        options = {key: _tuples(value) for key, value in options.items()}
        network = create_detector(name, num_classes, **options)
        mean, std = network.config.mean, network.config.std
        super().__init__(data_preprocessor=Normalize(mean, std, channels_last=channels_last))
        self.reports = []
        if encoder_weights is not None:
            self.reports.append(load_weights(network.backbone, encoder_weights))
        if weights is not None:
            self.reports.append(load_weights(network, weights))
        self.network: EfficientDet = network.to(memory_format=torch.channels_last) if channels_last else network
        self.build_arguments = {"name": name, "num_classes": num_classes, **options}
        self._ema: list[EfficientDet] = []  # a list hides it from parameters(), state_dict() and DDP

    @staticmethod
    def config_arguments() -> set[str]:
        """Keys a config may give (read by the config check)."""
        own = {"name", "num_classes", "weights", "encoder_weights", "channels_last"}
        return own | {field.name for field in fields(EfficientDetConfig)} - {"name"}

    @property
    def evaluation_network(self) -> EfficientDet:
        """What validation runs and ``state_dict`` of a checkpoint holds: the moving average, else the network
        itself.
        """
        return self._ema[0] if self._ema else self.network

    def start_ema(self) -> EfficientDet:
        """Create (or return) the moving average as a detached copy of the network, in evaluation mode."""
        if not self._ema:
            average = copy.deepcopy(self.network)
            average.requires_grad_(False).eval()
            self._ema.append(average)
        return self._ema[0]

    def init_weights(self) -> None:
        """Nothing to do: networks initialise themselves, and loaded weights must not be drawn again."""

    def forward(
        self, inputs: Tensor, boxes: Tensor, labels: Tensor, valid: Tensor, mode: str = "loss", **batch: Any
    ) -> Any:
        """Losses (``mode='loss'``), detections (``'predict'``) or raw outputs (``'tensor'``) of a normalised batch."""
        if mode == "loss":
            return self.network.padded_loss(inputs, boxes, labels, valid)
        if mode == "predict":
            return self._predict(inputs, batch)
        return self.evaluation_network(inputs)

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


def _tuples(value: Any) -> Any:
    """Lists from a config as tuples, as the frozen dataclasses have them."""
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
