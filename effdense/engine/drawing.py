"""How each task's batches and predictions look: pictures for the sheets of a run, and what their legend needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from effdense.data import read_image
from effdense.visualize import class_legend, draw_boxes, draw_errors, draw_mask, error_legend, wrong_share
from effdense.visualize.legend import LegendEntry
from effdense.visualize.palette import Palette, background_labels
from effdense.visualize.ranking import draw_ranking

_IGNORE = 255


@dataclass(frozen=True)
class Style:
    """How the classes of a run look.

    Attributes:
        task: detection, classification or segmentation.
        names: of the classes, in label order.
        palette: RGB of each class, or None.
    """

    task: str
    names: Sequence[str]
    palette: Palette | None = None

    @property
    def background(self) -> frozenset[int]:
        """Classes of a segmentor that pictures leave unpainted."""
        return background_labels(self.names, self.palette) if self.task == "segmentation" else frozenset()

    def legend(self, counts: Mapping[int, int], *, errors: bool = False) -> list[LegendEntry] | None:
        """Colours of the classes, and of an error map; None for a classifier, whose pictures name their classes."""
        if self.task == "classification":
            return None
        entries = class_legend(self.names, counts, palette=self.palette, unpainted=self.background)
        return [*entries, *(error_legend(self.background) if errors and self.task == "segmentation" else [])]


@dataclass(frozen=True)
class Drawn:
    """Pictures of one image with their captions, and how often each class occurs in them (boxes or pixels)."""

    pictures: list[tuple[np.ndarray, str]]
    counts: Counter[int] = field(default_factory=Counter)


def draw_batch(style: Style, batch: Mapping[str, Any], limit: int) -> Iterator[Drawn]:
    """Each image of a training batch on the host, with its truth.

    Args: batch: ``inputs`` (B, C, H, W) uint8 and targets as collated; of a classifier also mixed ``labels`` (B, K).
    """
    for i in range(min(limit, len(batch["inputs"]))):
        canvas = _rgb(batch["inputs"][i])
        if style.task == "detection":
            valid = batch["valid"][i]
            boxes, labels = batch["boxes"][i][valid], batch["labels"][i][valid]
            yield Drawn([(draw_boxes(canvas, boxes, labels, class_names=style.names), "")], Counter(labels.tolist()))
        elif style.task == "classification":
            yield Drawn([(canvas, _label_text(style.names, batch["labels"][i]))])
        else:
            mask = batch["masks"][i].numpy()
            yield Drawn([(draw_mask(canvas, mask, style.names, palette=style.palette), "")], _pixels(mask))


def _rgb(image: torch.Tensor) -> np.ndarray:
    """(C, H, W) as a picture: grey of one or two channels, else the first three."""
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    return np.ascontiguousarray(shown.permute(1, 2, 0).numpy())


def _label_text(names: Sequence[str], label: torch.Tensor) -> str:
    """The class of a picture, or the two largest shares of a mixed one."""
    if label.ndim == 0:
        return names[int(label)] if int(label) >= 0 else "ignored"
    shares = [(float(label[k]), names[k]) for k in label.argsort(descending=True, stable=True)[:2].tolist()]
    held = [(share, name) for share, name in shares if share > 0]
    if len(held) == 1 and held[0][0] > 0.995:
        return held[0][1]
    return " + ".join(f"{share:.2f} {name}" for share, name in held) or "ignored"


def draw_output(style: Style, dataset: Any, output: Mapping[str, Any], score_threshold: float) -> Drawn:
    """One validation output on the original picture: truth beside prediction, of a segmentor also where it is wrong;
    of a classifier, the picture once with its best classes below and the truth above.

    Raises: DataError for a picture that cannot be read.
    """
    index, names = output["index"], style.names
    if style.task == "detection":
        record = dataset.records[index]
        image = read_image(record.path, expected_size=(record.height, record.width))
        keep = output["scores"] >= score_threshold
        truth = draw_boxes(image, record.boxes, record.labels, class_names=names)
        predicted = draw_boxes(
            image, output["boxes"][keep], output["labels"][keep], output["scores"][keep], class_names=names
        )
        counts = Counter([*record.labels.tolist(), *output["labels"][keep].tolist()])
        return Drawn([(truth, "truth"), (predicted, f"prediction (score >= {score_threshold})")], counts)
    image = dataset.load(index)["image"]
    if style.task == "classification":
        best = output["probabilities"].topk(min(3, len(names)))
        labels = best.indices.tolist()
        ranking = draw_ranking(image, [names[label] for label in labels], best.values.tolist(), labels)
        right = "right" if labels[0] == output["label"] else "WRONG"
        return Drawn([(ranking, f"truth: {names[output['label']]} - {right}")])
    return _draw_segmentation(style, image, dataset.load_mask(index), torch.as_tensor(output["mask"]).cpu().numpy())


def _draw_segmentation(style: Style, image: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> Drawn:
    share = wrong_share(truth, predicted)
    said = "errors: nothing is counted" if np.isnan(share) else f"errors: {100 * share:.1f} % wrong"
    pictures = [
        (draw_mask(image, truth, style.names, palette=style.palette), "truth"),
        (draw_mask(image, predicted, style.names, palette=style.palette), "prediction"),
        (draw_errors(image, truth, predicted, background=style.background), said),
    ]
    return Drawn(pictures, _pixels(truth) + _pixels(predicted))


def _pixels(mask: np.ndarray) -> Counter[int]:
    """Pixels of each class."""
    counts = np.bincount(mask.ravel(), minlength=256)
    return Counter({label: int(counts[label]) for label in np.flatnonzero(counts).tolist() if label != _IGNORE})
