"""Box arithmetic as pure functions: IoU, clipping, and the anchor coder. All boxes are float32 ``xyxy`` pixels."""

from __future__ import annotations

import torch
from torch import Tensor

_CODER_EPS = 1e-7  # keeps log finite for degenerate boxes; effdet object_detection/box_coder.py


def box_area(boxes: Tensor) -> Tensor:
    """Area (...,) of xyxy boxes (..., 4); boxes turned inside out count as empty."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box of ``a`` (..., M, 4) with every box of ``b`` (..., N, 4) -> (..., M, N); 0 with an empty box."""
    top_left = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    bottom_right = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    sides = (bottom_right - top_left).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - intersection
    return torch.where(intersection > 0, intersection / union, torch.zeros_like(intersection))


def clip_boxes(boxes: Tensor, height: Tensor | float, width: Tensor | float) -> Tensor:
    """Clip xyxy boxes (..., 4) into [0, width] x [0, height]; bounds may be tensors that broadcast with (...,)."""
    x = boxes[..., 0::2].clamp(min=0)
    y = boxes[..., 1::2].clamp(min=0)
    if isinstance(width, Tensor):
        x = torch.minimum(x, width[..., None].to(x))
    else:
        x = x.clamp(max=width)
    if isinstance(height, Tensor):
        y = torch.minimum(y, height[..., None].to(y))
    else:
        y = y.clamp(max=height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Regression targets (..., 4) of ``boxes`` against ``anchors``, both xyxy (..., 4).

    The code is Google's (ty, tx, th, tw) = ((cy-cy_a)/h_a, (cx-cx_a)/w_a, log(h/h_a), log(w/w_a)), without variance
    scaling: the box head's channels are in that order, so converted weights need no permutation. Source: automl
    object_detection/faster_rcnn_box_coder.py.
    """
    width_a = anchors[..., 2] - anchors[..., 0] + _CODER_EPS
    height_a = anchors[..., 3] - anchors[..., 1] + _CODER_EPS
    width = (boxes[..., 2] - boxes[..., 0]).clamp(min=0) + _CODER_EPS
    height = (boxes[..., 3] - boxes[..., 1]).clamp(min=0) + _CODER_EPS
    ty = ((boxes[..., 1] + boxes[..., 3]) - (anchors[..., 1] + anchors[..., 3])) / 2 / height_a
    tx = ((boxes[..., 0] + boxes[..., 2]) - (anchors[..., 0] + anchors[..., 2])) / 2 / width_a
    return torch.stack((ty, tx, torch.log(height / height_a), torch.log(width / width_a)), dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Inverse of ``encode_boxes``: deltas (..., 4) as (ty, tx, th, tw) and anchors (..., 4) xyxy -> boxes xyxy px."""
    ty, tx, th, tw = deltas.unbind(-1)
    width_a = anchors[..., 2] - anchors[..., 0]
    height_a = anchors[..., 3] - anchors[..., 1]
    center_x = tx * width_a + (anchors[..., 0] + anchors[..., 2]) / 2
    center_y = ty * height_a + (anchors[..., 1] + anchors[..., 3]) / 2
    half_width = torch.exp(tw) * width_a / 2
    half_height = torch.exp(th) * height_a / 2
    return torch.stack(
        (center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height), dim=-1
    )
