"""Names of COCO's 90 category ids, which the prediction rows of Google's EfficientDet and its ports stand for.

Row k of such a network is category id k + 1. Ten of the ids were never released; a row exists for each of them all the
same. Source: ``categories`` in the instance annotations of COCO 2017.
"""

from __future__ import annotations

_NAMES: tuple[str | None, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", None, "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", None, "backpack", "umbrella", None, None, "handbag", "tie", "suitcase",
    "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", None, "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana",
    "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", None, "dining table", None, None, "toilet", None, "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", None, "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# Placeholders keep the rows of unused ids apart: "id 12" matches no class of a user's.
COCO_90: tuple[str, ...] = tuple(name or f"id {index}" for index, name in enumerate(_NAMES, start=1))
