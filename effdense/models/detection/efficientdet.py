"""EfficientDet: encoder -> BiFPN -> shared heads, and the two things one does with its raw outputs: a loss, detections.

The network (``forward``) returns raw per-level outputs. Anchors, assignment, loss and post-processing are functions of
their own modules; ``loss`` and ``predict`` below only string them together. Images come in normalised (see
``config.mean`` and ``config.std``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from effdense.errors import ConfigError, ShapeError, did_you_mean
from effdense.models.detection.anchors import make_anchors, pyramid_sizes
from effdense.models.detection.assignment import assign_anchors
from effdense.models.detection.families import EfficientDetConfig, adapted_options, detector_config
from effdense.models.detection.head import PredictionHead
from effdense.models.detection.losses import detection_loss
from effdense.models.detection.postprocess import PaddedDetections, non_maximum_suppression, select_candidates
from effdense.models.detection.targets import pad_targets
from effdense.models.encoders import create_encoder
from effdense.models.layers import batch_norm
from effdense.models.necks.bifpn import BiFPN
from effdense.results import Detections

_PRIOR_PROBABILITY = 0.01  # class bias -log((1-p)/p): RetinaNet section 4.1


class DetectorOutput(NamedTuple):
    """Raw outputs, fine to coarse: ``class_logits`` L x (B, A*K, h, w), ``box_deltas`` L x (B, A*4, h, w)."""

    class_logits: tuple[Tensor, ...]
    box_deltas: tuple[Tensor, ...]


class EfficientDet(nn.Module):
    """EfficientDet with any encoder of ours (EfficientDet, Tan et al. 2020, arXiv 1911.09070).

    Args:
        config: architecture, anchors, loss and post-processing (``families.py``).
        num_classes: K; labels are 0..K-1, there is no background class.

    Submodules are named as in effdet (``backbone``, ``fpn``, ``class_net``, ``box_net``): converted weights load
    unrenamed.
    """

    def __init__(self, config: EfficientDetConfig, num_classes: int) -> None:
        super().__init__()
        if type(num_classes) is not int or num_classes < 1:
            raise ConfigError(f"{config.name}: num_classes must be a whole number of at least 1, got {num_classes!r}.")
        self.config = config
        self.num_classes = num_classes

        def bn(channels: int) -> nn.Module:
            return batch_norm(channels, eps=config.bn_eps, momentum=config.bn_momentum)

        levels = range(config.min_level, min(config.max_level, 5) + 1)  # an encoder ends at stride 32
        self.backbone = create_encoder(
            config.encoder,
            in_channels=config.in_channels,
            out_strides=tuple(2**level for level in levels),
            padding=config.encoder_convention,
            drop_path_rate=config.drop_path_rate,
            bn_momentum=config.encoder_bn_momentum,
            bn_eps=config.encoder_bn_eps,
        )
        self.fpn = BiFPN(
            self.backbone.channels,
            config.fpn_channels,
            config.num_levels,
            config.fpn_cells,
            fusion=config.fusion,
            act=config.activation,
            padding=config.padding,
            redundant_bias=config.redundant_bias,
            upsample=config.upsample,
            downsample=config.downsample,
            bn=bn,
        )

        def head(outputs: int) -> PredictionHead:
            return PredictionHead(
                config.fpn_channels,
                config.num_anchors * outputs,
                config.head_repeats,
                config.num_levels,
                act=config.activation,
                redundant_bias=config.redundant_bias,
                bn=bn,
            )

        self.class_net = head(num_classes)
        self.box_net = head(4)
        self._initialise()
        self._anchor_cache: dict[tuple[Any, ...], Tensor] = {}

    def _initialise(self) -> None:
        """automl's initialisers: Glorot uniform in the pyramid, fan-in normal in the heads, class prior .01."""
        for module in self.fpn.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.groups > 1:  # both fans of a depthwise kernel are k*k
                    bound = math.sqrt(3.0 / math.prod(module.kernel_size))
                    nn.init.uniform_(module.weight, -bound, bound)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for head in (self.class_net, self.box_net):
            for module in head.modules():
                if isinstance(module, nn.Conv2d):
                    fan_in = module.weight[0].numel()
                    nn.init.normal_(module.weight, std=1.0 / math.sqrt(fan_in))
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        bias = self.class_net.predict.conv_pw.bias
        assert bias is not None
        nn.init.constant_(bias, -math.log((1 - _PRIOR_PROBABILITY) / _PRIOR_PROBABILITY))

    def set_padding(self, padding: str) -> None:
        """Switch the pyramid's max pools in place: ``same``, ``symmetric`` or ``same_zero``."""
        self.fpn.set_padding(padding)

    @property
    def weight_options(self) -> dict[str, Any]:
        """Fields of ``config`` that weights have changed since construction; loading adapts paddings and epsilon.

        A detector of ``model.config.override(**model.weight_options)`` with the same weights computes the same.
        """
        return adapted_options(
            self.config,
            padding=self.fpn.padding,
            encoder_padding=self.backbone.padding,
            encoder_bn_eps=self.backbone.bn_eps,
        )

    def forward(self, images: Tensor) -> DetectorOutput:
        """Raw outputs for normalised images (B, C, H, W) of any size."""
        pyramid = self.fpn(self.backbone(images))
        return DetectorOutput(self.class_net(pyramid), self.box_net(pyramid))

    def anchors(self, image_size: tuple[int, int], output: DetectorOutput | None = None) -> Tensor:
        """Anchors for an input of (H, W), cached outside compilation.

        Args:
            output: raw outputs, whose own feature shapes and device are used; by default those that such an input has.

        Returns: (N, 4) float32 xyxy px.
        """
        sizes: tuple[tuple[int, int], ...]
        if output is None:
            sizes = tuple(pyramid_sizes(image_size, self.config.min_level, self.config.max_level))
            device = next(self.parameters()).device
        else:
            sizes = tuple((level.shape[-2], level.shape[-1]) for level in output.class_logits)
            device = output.class_logits[0].device
        # Kept only in plain eager runs: inference tensors cannot train, fake ones must not outlive their trace.
        cacheable = not torch.compiler.is_compiling() and not torch.is_inference_mode_enabled()
        key = (image_size, sizes, device)
        if cacheable and key in self._anchor_cache:
            return self._anchor_cache[key]
        anchors = make_anchors(
            image_size,
            sizes,
            anchor_scale=self.config.anchor_scale,
            num_scales=self.config.num_scales,
            aspect_ratios=self.config.aspect_ratios,
            device=device,
        )
        if cacheable and type(anchors) is Tensor:
            if len(self._anchor_cache) >= 8:  # multi-scale input: keep a few sizes, not all
                self._anchor_cache.clear()
            self._anchor_cache[key] = anchors
        return anchors

    def padded_loss(
        self,
        images: Tensor,
        boxes: Tensor,
        labels: Tensor,
        valid: Tensor,
        anchors: Tensor | None = None,
        *,
        normalizer: Tensor | None = None,
        with_positives: bool = False,
    ) -> dict[str, Tensor]:
        """Loss of a batch with padded targets: the tensor-only form of ``loss`` that compiles.

        Args:
            images: (B, C, H, W) normalised. boxes: (B, G, 4) xyxy px of the input. labels: (B, G) int64.
            valid: (B, G) bool. normalizer: see ``detection_loss``.
            anchors: (N, 4), what ``anchors((H, W))`` gives. Give them to what is compiled: it would make them on the
                CPU in every step, and wait until they are on the device.
            with_positives: also give ``"positives"``, the number of positive anchors, for who divides by those of
                several batches.
        """
        output = self(images)
        size = (images.shape[-2], images.shape[-1])
        with torch.autocast(images.device.type, enabled=False):
            if anchors is None:
                anchors = self.anchors(size, output)
            with torch.no_grad():
                matches = assign_anchors(
                    anchors, boxes, labels, valid,
                    positive_iou=self.config.positive_iou, negative_iou=self.config.negative_iou,
                )  # fmt: skip
            losses = detection_loss(
                output.class_logits,
                output.box_deltas,
                anchors,
                matches,
                boxes,
                labels,
                num_anchors=self.config.num_anchors,
                focal_alpha=self.config.focal_alpha,
                focal_gamma=self.config.focal_gamma,
                label_smoothing=self.config.label_smoothing,
                huber_delta=self.config.huber_delta,
                box_loss_weight=self.config.box_loss_weight,
                normalizer=normalizer,
            )
            if with_positives:
                losses["positives"] = (matches >= 0).sum()
            return losses

    def loss(self, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Training loss.

        Args:
            images: (B, C, H, W) normalised.
            targets: B mappings with ``boxes`` (G, 4) xyxy px of the input and ``labels`` (G,) int64 in 0..K-1,
                -1 = ignore.

        Returns: ``{"loss_cls", "loss_box"}``; their sum is the objective (``loss_box`` carries its weight of 50).
        Raises: ShapeError for a wrong number of targets, wrong shapes, labels outside -1..K-1, and boxes that are not
            finite or not xyxy (x2 < x1 or y2 < y1).
        """
        if len(targets) != images.shape[0]:
            raise ShapeError(f"expected one target per image: {images.shape[0]} images, {len(targets)} targets.")
        return self.padded_loss(images, *pad_targets(targets, self.num_classes, device=images.device))

    def padded_predict(self, images: Tensor, image_sizes: Tensor | None = None, **options: Any) -> PaddedDetections:
        """Detections as fixed-size tensors: the form that exports. ``options`` as in ``predict``."""
        settings = {
            "method": self.config.nms,
            "iou_threshold": self.config.nms_iou,
            "sigma": self.config.nms_sigma,
            "score_threshold": self.config.score_threshold,
            "max_detections": self.config.max_detections,
        }
        max_candidates = options.pop("max_candidates", self.config.max_candidates)
        for key in options:
            if key not in settings:
                known = ("max_candidates", *settings)
                raise ConfigError(
                    f"prediction has no option {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}."
                )
        output = self(images)
        size = (images.shape[-2], images.shape[-1])
        with torch.autocast(images.device.type, enabled=False):
            candidates = select_candidates(
                output.class_logits,
                output.box_deltas,
                self.anchors(size, output),
                num_anchors=self.config.num_anchors,
                image_sizes=size if image_sizes is None else image_sizes,
                max_candidates=max_candidates,
            )
            return non_maximum_suppression(candidates, **{**settings, **options})

    @torch.no_grad()
    def predict(self, images: Tensor, image_sizes: Tensor | None = None, **options: Any) -> list[Detections]:
        """Detections of a batch, in evaluation mode whatever mode the module is in.

        Args:
            images: (B, C, H, W) normalised.
            image_sizes: (B, 2) (h, w) px: the part of each input that the picture fills (top left); boxes are clipped
                to it.
            options: override the config: ``score_threshold``, ``max_detections``, ``max_candidates``, ``method``
                ('hard' | 'soft'), ``iou_threshold``, ``sigma``.

        Returns: B ``Detections``, best first: ``boxes`` (M, 4) xyxy px of the tensor given, ``scores`` (M,),
            ``labels`` (M,).
        Raises: ConfigError for an unknown option, ShapeError for image sizes that are not (B, 2).
        """
        if image_sizes is not None:
            image_sizes = torch.as_tensor(image_sizes, device=images.device)
            if image_sizes.shape != (images.shape[0], 2):
                raise ShapeError(
                    f"image_sizes must be ({images.shape[0]}, 2), one (h, w) per image, got {tuple(image_sizes.shape)}."
                )
        in_training = [module for module in self.modules() if module.training]  # frozen parts are not among them
        self.eval()
        try:
            padded = self.padded_predict(images, image_sizes, **options)
        finally:
            for module in in_training:
                module.training = True
        counts = padded.valid.sum(1).tolist()
        return [
            Detections(boxes=boxes[:count], scores=scores[:count], labels=labels[:count])
            for boxes, scores, labels, count in zip(padded.boxes, padded.scores, padded.labels, counts, strict=True)
        ]


def create_detector(name: str, num_classes: int = 80, weights: Any = None, **options: Any) -> EfficientDet:
    """Build a detector by name.

    Args:
        name: ``efficientdet_d0..d7, d7x, lite0..lite4, lite3x, v2s, v2m, v2l, v2xl, v2b0..v2b3``, ``efficientdetv2_dt``
            and ``_ds`` (effdet's own), or a compound-scaled name (``scaling.py``).
        num_classes: K.
        weights: None, or a source that ``effdense.load_weights`` takes (path or state dict).
        options: any field of ``EfficientDetConfig``, for example ``image_size=(384, 640)``,
            ``encoder="efficientnetv2_s"``, ``fusion="softmax"``, ``min_level=2``, ``in_channels=1``, ``nms="soft"``.

    Raises: ConfigError for an unknown name or option (with the nearest ones), WeightsError for weights that do not fit.

    >>> det = create_detector("efficientdet_d0", num_classes=3)
    """
    model = EfficientDet(detector_config(name).override(**options), num_classes)
    if weights is not None:
        from effdense.models.weights import load_weights

        load_weights(model, weights)
    return model
