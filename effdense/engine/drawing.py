"""How each task's batches and predictions look: pictures for the sheets of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from effdense.data import read_image
from effdense.visualize import draw_boxes
from effdense.visualize.masks import draw_mask
from effdense.visualize.ranking import draw_ranking


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


def draw_output(
    task: str, dataset: Any, output: Mapping[str, Any], names: Sequence[str], score_threshold: float
) -> list[tuple[np.ndarray, str]]:
    """(picture, caption) of one validation output, on the original picture: truth beside prediction, or, of a
    classifier, the picture once with its best classes below and the truth above.

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
        return [(truth, "truth"), (predicted, f"prediction (score >= {score_threshold})")]
    image = dataset.load(index)["image"]
    if task == "classification":
        best = output["probabilities"].topk(min(3, len(names)))
        labels = best.indices.tolist()
        ranking = draw_ranking(image, [names[label] for label in labels], best.values.tolist(), labels)
        right = "right" if labels[0] == output["label"] else "WRONG"
        return [(ranking, f"truth: {names[output['label']]} - {right}")]
    truth = draw_mask(image, dataset.load_mask(index), class_names=names)
    predicted = draw_mask(image, output["mask"].numpy(), class_names=names)
    return [(truth, "truth"), (predicted, "prediction")]
