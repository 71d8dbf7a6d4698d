"""How each task's batches and predictions look: pictures for the sheets of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from effdense.data import read_image
from effdense.visualize import draw_boxes
from effdense.visualize.masks import draw_mask


def draw_batch(
    task: str, batch: Mapping[str, Any], names: Sequence[str], limit: int
) -> Iterator[tuple[np.ndarray, str]]:
    """(picture, caption) of a collated training batch, as the model is fed it."""
    for i in range(min(limit, len(batch["inputs"]))):
        canvas = np.ascontiguousarray(batch["inputs"][i].permute(1, 2, 0).numpy())
        if task == "detection":
            valid = batch["valid"][i]
            yield draw_boxes(canvas, batch["boxes"][i][valid], batch["labels"][i][valid], class_names=names), ""
        elif task == "classification":
            yield canvas, names[int(batch["labels"][i])]
        else:
            yield draw_mask(canvas, batch["masks"][i].numpy(), class_names=names), ""


def draw_pair(
    task: str, dataset: Any, output: Mapping[str, Any], names: Sequence[str], score_threshold: float
) -> tuple[np.ndarray, np.ndarray, str, str]:
    """(truth, prediction, caption of each) of one validation output, on the original picture.

    Raises: DataError for a picture that cannot be read.
    """
    index = output["index"]
    if task == "detection":
        record = dataset.records[index]
        image = read_image(record.path, expected_size=(record.height, record.width))
        keep = output["scores"] >= score_threshold
        truth = draw_boxes(image, record.boxes, record.labels, class_names=names)
        predicted = draw_boxes(
            image, output["boxes"][keep], output["labels"][keep], output["scores"][keep], class_names=names
        )
        return truth, predicted, "truth", f"prediction (score >= {score_threshold})"
    image = dataset.load(index)["image"]
    if task == "classification":
        best = int(output["probabilities"].argmax())
        said = f"prediction: {names[best]} {float(output['probabilities'][best]):.2f}"
        return image, image, f"truth: {names[output['label']]}", said
    truth = draw_mask(image, dataset.load_mask(index), class_names=names)
    predicted = draw_mask(image, output["mask"].numpy(), class_names=names)
    return truth, predicted, "truth", "prediction"
