"""Segmentation losses: logits (B, K, H, W) and masks (B, H, W) with values 0..K-1 or ignore in, one scalar out.

K = 1 is binary: one logit z against a background whose logit is 0, so that sigmoid(z) is the softmax over (0, z) and
every term reads the two classes, background 0 and object 1, as it reads any others.

Terms are functions of ``Pixels``, which holds what they share. Ignored pixels count for nothing; where every pixel is
ignored a term is 0 and so are its gradients. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effdense.errors import ConfigError, ShapeError
from effdense.models.segmentation.lovasz import lovasz_hinge, lovasz_softmax

_DICE_SMOOTH = 1.0  # px: keeps the ratio of a class with a handful of pixels from jumping


class Pixels(NamedTuple):
    """A batch as pixels with a class each. With channels-last logits all dimensions but that of the classes are one,
    N = B*H*W; else they are two, (B, H*W). Either is a view of the logits: the other way round each pass over them
    takes twice as long.
    """

    log_probabilities: Tensor  # (N, K) or (B, K, H*W), K at least 2
    labels: Tensor  # (N,) or (B, H*W) int64, 0 where ignored
    counted: Tensor  # like labels, bool
    surprise: Tensor  # like labels: -log probability of the label
    object_logits: Tensor | None  # (N,) where one logit was given
    width: int  # W


def pixels_of(logits: Tensor, masks: Tensor, ignore_index: int = 255) -> Pixels:
    """What the terms read.

    Args: logits (B, K, H, W) float; masks (B, H, W) integers.
    """
    masks = masks.long()  # a byte is never equal to a negative ignore_index, nor should it wrap around to be
    width, object_logits = masks.shape[-1], None
    if logits.shape[1] == 1:
        object_logits, masks = logits.flatten(), masks.flatten()
        logits = torch.stack((torch.zeros_like(object_logits), object_logits), dim=1)
    elif logits.is_contiguous(memory_format=torch.channels_last):
        logits, masks = logits.permute(0, 2, 3, 1).flatten(0, 2), masks.flatten()
    else:
        logits, masks = logits.flatten(2), masks.flatten(1)
    counted = masks != ignore_index
    labels = masks.masked_fill(~counted, 0)
    log_probabilities = logits.log_softmax(1)
    surprise = F.nll_loss(log_probabilities, labels, reduction="none")
    return Pixels(log_probabilities, labels, counted, surprise, object_logits, width)


def cross_entropy(pixels: Pixels, class_weights: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the pixels that count, weighted by the class of each: torch's, but 0 where none counts.

    Args:
        class_weights: (K,) or None. label_smoothing: share spread over all classes.
    """
    weights = _pixel_weights(pixels, class_weights)
    return _mean(_smoothed(pixels, class_weights, label_smoothing), weights.sum())


def ohem_cross_entropy(
    pixels: Pixels,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    *,
    threshold: float = 0.7,
    min_kept: float = 0.0625,
) -> Tensor:
    """The same over the hard pixels only: those whose class has a probability below ``threshold``, and at least the
    ``min_kept`` share of the counted ones that have the lowest.

    Source: online hard example mining, arXiv 1604.03540, of pixels as in 1605.06885.
    """
    surprise = pixels.surprise.detach()
    hard = surprise > -math.log(threshold) if threshold > 0 else torch.zeros_like(pixels.counted)
    if min_kept > 0:
        # How many is known on the device only; topk takes as many as there could be.
        flat = surprise.masked_fill(~pixels.counted, -1.0).flatten()
        most = flat.topk(math.ceil(min_kept * flat.numel())).values
        kept = (min_kept * pixels.counted.sum()).ceil().long().clamp(1, len(most))
        hard = hard | (surprise >= most.gather(0, kept.view(1) - 1))
    weights = _pixel_weights(pixels, class_weights) * hard
    return _mean(_smoothed(pixels, class_weights, label_smoothing) * hard, weights.sum())


def focal_loss(pixels: Pixels, class_weights: Tensor | None = None, *, gamma: float = 2.0) -> Tensor:
    """Mean of (1 - p)^gamma times the cross-entropy, p the probability of the pixel's class; weighted as it is.

    Source: arXiv 1708.02002 equation 4, over softmax probabilities.
    """
    weights = _pixel_weights(pixels, class_weights)
    # A probability of exactly 1 has no gradient below gamma 1.
    missing = (-torch.expm1(-pixels.surprise)).clamp(min=torch.finfo(pixels.surprise.dtype).tiny)
    return _mean(missing.pow(gamma) * pixels.surprise * weights, weights.sum())


def dice_loss(pixels: Pixels) -> Tensor:
    """1 - soft Dice, over the whole batch at once, averaged over the classes that its masks hold; of one logit, that
    of the object.

    Source: V-Net, arXiv 1606.04797 section 3, with probabilities instead of their squares.
    """
    probabilities = pixels.log_probabilities.exp()
    counted = pixels.counted.to(probabilities.dtype)
    # Sums per class of each row, then of the rows: one sum over millions of pixels would lose digits, and wait in line.
    rows = pixels.labels.view(-1, pixels.width)
    zeros = probabilities.new_zeros(rows.shape[0], probabilities.shape[1])
    of_truth = torch.exp(-pixels.surprise) * counted
    overlap = zeros.scatter_add(1, rows, of_truth.view(rows.shape)).sum(0)
    true = zeros.scatter_add(1, rows, counted.view(rows.shape)).sum(0)
    if probabilities.ndim == 2:
        predicted = counted @ probabilities
    else:
        predicted = (probabilities @ counted[..., None]).sum((0, 2))
    score = (2 * overlap + _DICE_SMOOTH) / (predicted + true + _DICE_SMOOTH)
    present = true > 0
    if pixels.object_logits is not None:
        score, present = score[1:], present[1:]
    return ((1 - score) * present).sum() / present.sum().clamp(min=1)


def lovasz_loss(pixels: Pixels) -> Tensor:
    """Lovász-softmax over the batch, averaged over the classes that its masks hold; of one logit, the Lovász hinge.

    It sorts the pixels once per class. Source: arXiv 1705.08790.
    """
    if pixels.object_logits is not None:
        return lovasz_hinge(pixels.object_logits, pixels.labels, pixels.counted)
    probabilities = pixels.log_probabilities.exp()
    if probabilities.ndim == 3:
        probabilities = probabilities.transpose(1, 2).flatten(0, 1)
    return lovasz_softmax(probabilities, pixels.labels.flatten(), pixels.counted.flatten())


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    *,
    ce_weight: float = 1.0,
    dice_weight: float = 0.0,
    focal_weight: float = 0.0,
    lovasz_weight: float = 0.0,
    ohem_weight: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    focal_gamma: float = 2.0,
    ohem_threshold: float = 0.7,
    ohem_min_kept: float = 0.0625,
    ignore_index: int = 255,
) -> dict[str, Tensor]:
    """The weighted sum of the terms, in float32 whatever the logits are; a term of weight 0 is not computed.

    Args:
        logits: (B, K, H, W), fastest in channels-last memory.
        masks: (B, H, W) of any integer type: 0..K-1, for one logit 0 and 1, or ``ignore_index``.
        class_weights: (K,), of one logit (2,) for background and object; of cross-entropy, OHEM and focal loss.
        label_smoothing: of cross-entropy and OHEM.

    Returns: ``{"loss_seg": scalar}``; with several terms also the value of each, unweighted and without gradient, as
        ``ce``, ``dice``, ``focal``, ``lovasz`` and ``ohem``: mmengine logs them and sums only names with "loss".
    Raises: ShapeError for masks of another shape or type, for class weights of another count, and (on the CPU, where
        looking is free of a device wait) for values that are neither classes nor ``ignore_index``; ConfigError where
        every weight is 0.
    """
    _check_masks(logits, masks, ignore_index)
    _check_class_weights(logits, class_weights)
    with torch.autocast(logits.device.type, enabled=False):
        pixels = pixels_of(logits.float(), masks, ignore_index)
        terms: dict[str, tuple[float, Tensor]] = {}
        if ce_weight:
            terms["ce"] = ce_weight, cross_entropy(pixels, class_weights, label_smoothing)
        if dice_weight:
            terms["dice"] = dice_weight, dice_loss(pixels)
        if focal_weight:
            terms["focal"] = focal_weight, focal_loss(pixels, class_weights, gamma=focal_gamma)
        if lovasz_weight:
            terms["lovasz"] = lovasz_weight, lovasz_loss(pixels)
        if ohem_weight:
            terms["ohem"] = (
                ohem_weight,
                ohem_cross_entropy(
                    pixels, class_weights, label_smoothing, threshold=ohem_threshold, min_kept=ohem_min_kept
                ),
            )
        if not terms:
            raise ConfigError("segmentation_loss has nothing to minimise: every weight is 0. Set ce_weight=1.0.")
        losses = {"loss_seg": torch.stack([weight * term for weight, term in terms.values()]).sum()}
    if len(terms) > 1:
        losses.update({name: term.detach() for name, (_, term) in terms.items()})
    return losses


def _pixel_weights(pixels: Pixels, class_weights: Tensor | None) -> Tensor:
    """Weight of every pixel, 0 where it is ignored."""
    if class_weights is None:
        return pixels.counted.to(pixels.surprise.dtype)
    return class_weights[pixels.labels] * pixels.counted


def _smoothed(pixels: Pixels, class_weights: Tensor | None, smoothing: float) -> Tensor:
    """Weighted cross-entropy of every pixel; its smoothed part carries the weights of the classes it goes to."""
    losses = pixels.surprise * _pixel_weights(pixels, class_weights)
    if not smoothing:
        return losses
    others = pixels.log_probabilities
    if class_weights is not None:
        others = others * (class_weights if others.ndim == 2 else class_weights[:, None])
    return (1 - smoothing) * losses - smoothing * others.mean(1) * pixels.counted


def _mean(losses: Tensor, mass: Tensor) -> Tensor:
    """Sum over mass, 0 where there is none."""
    return losses.sum() / torch.where(mass > 0, mass, 1.0)


def _check_masks(logits: Tensor, masks: Tensor, ignore_index: int) -> None:
    expected = (logits.shape[0], *logits.shape[-2:])
    if logits.ndim != 4 or tuple(masks.shape) != expected or masks.is_floating_point():
        raise ShapeError(
            f"masks must be integers of shape {expected} (batch, height, width), one class per pixel, for logits "
            f"(batch, classes, height, width), got {masks.dtype} {tuple(masks.shape)} for {tuple(logits.shape)}."
        )
    if masks.device.type != "cpu" or torch.compiler.is_compiling():
        return
    classes = max(2, logits.shape[1])
    masks = masks.long()  # the wide unsigned types cannot be compared
    wrong = ((masks < 0) | (masks >= classes)) & (masks != ignore_index)
    if wrong.any():
        values = masks[wrong].unique().tolist()
        raise ShapeError(
            f"masks hold {values[:8]}, which are neither classes 0..{classes - 1} nor {ignore_index} (ignore). "
            "Run the check of the data set, which names the files."
        )


def _check_class_weights(logits: Tensor, class_weights: Tensor | None) -> None:
    if class_weights is None:
        return
    classes = max(2, logits.shape[1])
    tensor = isinstance(class_weights, Tensor)
    if not tensor or tuple(class_weights.shape) != (classes,):
        what = "two classes (background, object) of one logit" if logits.shape[1] == 1 else f"{classes} classes"
        given = f"shape {tuple(class_weights.shape)}" if tensor else repr(class_weights)
        raise ShapeError(f"class_weights must be a tensor of one value for each of the {what}, got {given}.")
